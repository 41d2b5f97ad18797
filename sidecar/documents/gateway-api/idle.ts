// Fields of valid Gateway API documents that have no effect here. They open nothing, so the rest is served; but each is
// reported with its place.

import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { fieldsOf } from '../../edge/capabilities.ts';
import type { GatewaySpec, HttpRule, RouteSpec } from '../../routing/documents.ts';

type Path = (string | number)[];
type Idle = readonly [path: Path, why: string];

/** Everything in `spec`, as read, that has no effect. */
export function idleIn(document: YamlDocument, kind: string, spec: unknown): Problem[] {
  const found =
    kind === 'Gateway'
      ? ofGateway(spec as SaidGateway)
      : kind === 'HTTPRoute'
        ? ofRoute(spec as RouteSpec<HttpRule>)
        : [];
  return found.map(([path, why]) => document.problemAt(['spec', ...path], `${['spec', ...path].join('.')}: ${why}`));
}

interface SaidGateway extends GatewaySpec {
  readonly allowedListeners?: { readonly namespaces?: { readonly from?: string } } | null;
}

function ofGateway({ allowedListeners, defaultScope, infrastructure = {}, listeners }: SaidGateway): Idle[] {
  const nothing = 'has no effect here: a gateway runs where it was started';
  return [
    // Without it none may be attached either.
    ...idleIf(
      (allowedListeners?.namespaces?.from ?? 'None') !== 'None',
      ['allowedListeners'],
      'listeners belong in their Gateway: ListenerSets are not read here',
    ),
    ...idleIf(
      (defaultScope ?? 'None') !== 'None',
      ['defaultScope'],
      "a route is attached by its 'parentRefs' alone: those without any are not served",
    ),
    ...(['labels', 'annotations'] as const).flatMap((key) =>
      idleIf(infrastructure[key] !== undefined, ['infrastructure', key], nothing),
    ),
    ...listeners.flatMap(({ tls }, index) =>
      idleIf(
        tls?.mode === 'Passthrough' && tls.certificateRefs !== undefined,
        ['listeners', index, 'tls', 'certificateRefs'],
        'passthrough never presents our certificate',
      ),
    ),
  ];
}

const filterFields = fieldsOf('filter');

function ofRoute({ rules = [] }: RouteSpec<HttpRule>): Idle[] {
  return rules.flatMap(({ filters = [] }, rule) =>
    filters.flatMap((one, index) => {
      const { filter, warnings } = filterFields.get(one.type)?.field ?? {};
      const found = filter === undefined ? [] : (warnings?.(one[filter.key] as never) ?? []);
      return found.map(({ path, message }): Idle => [['rules', rule, 'filters', index, filter!.key, ...path], message]);
    }),
  );
}

function idleIf(isIdle: boolean, path: Path, why: string): Idle[] {
  return isIdle ? [[path, why]] : [];
}

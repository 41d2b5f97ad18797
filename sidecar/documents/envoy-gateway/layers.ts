// Merges policies that have a `mergeType` with each policy of a Gateway that one of their routes is attached to. Done
// where documents are read, since it needs them as written; which result applies to a rule shows when policies are
// attached.

import { formatProblem, type Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { fieldsOf } from '../../edge/capabilities.ts';
import type { Layered, SecurityPolicy } from '../../edge/policy.ts';
import { partsOf } from '../../edge/policy-parts.ts';
import type { RouteDocument } from '../../routing/documents.ts';
import type { PolicyTarget } from '../../schema/gateway-patterns.ts';
import type { BackendTrafficPolicy } from './backend-traffic-policy.ts';
import { type Merging, mergeDocuments, partsSaidBy, unmerged } from './merge.ts';

/** A policy as read, with its document. */
export interface Written<P> {
  readonly policy: P;
  readonly document: YamlDocument;
}

interface Mergeable<P> extends Layered<P> {
  readonly namespace: string;
  readonly name: string;
  readonly targets: readonly PolicyTarget[];
  readonly file: string;
}

type Read<P> = { readonly value: P } | { readonly problems: readonly Problem[] };

/** Reads one document of a kind; with `from`, a merged one. */
export type ReadOne<P> = (document: YamlDocument, file: string, from?: Merging) => Read<P>;

/** The policies; each one to be merged has all its possible results. Throws nothing. */
export function layer<P extends Mergeable<P>>(
  written: readonly Written<P>[],
  routes: readonly RouteDocument[],
  readOne: ReadOne<P>,
  join: (merged: P, child: P, parent: P, parts: ReadonlySet<string>) => P,
): P[] {
  const parents = written.filter(({ policy }) => policy.targets.some(({ kind }) => kind === 'Gateway'));
  return written.map(({ policy, document }) => {
    const { mergeType } = policy;
    if (mergeType === undefined) return policy;
    const gateways = gatewaysOf(policy, routes);
    const parts = partsSaidBy(document);
    const over = parents.filter(({ policy: { namespace, targets } }) =>
      targets.some(({ kind, name }) => kind === 'Gateway' && gateways.has(`${namespace}/${name}`)),
    );
    const alone = resultOf(readOne(unmerged(document), policy.file));
    const merged = over.map(({ policy: parent, document: below }): [string, P | { readonly problem: string }] => {
      const of = `${parent.namespace}/${parent.name}`;
      const read = resultOf(readOne(mergeDocuments(below, document, mergeType), policy.file, { parent: of, parts }));
      return [of, 'problem' in read ? read : join(read, policy, parent, parts)];
    });
    return { ...policy, merged: Object.fromEntries([['', alone], ...merged]) };
  });
}

function resultOf<P extends object>(read: Read<P>): P | { readonly problem: string } {
  return 'problems' in read ? { problem: read.problems.map(formatProblem).join('; ') } : read.value;
}

/** The Gateways that the routes of a policy are attached to, by `namespace/name`. */
function gatewaysOf({ namespace, targets }: Mergeable<unknown>, routes: readonly RouteDocument[]): ReadonlySet<string> {
  const own = routes.filter((route) =>
    targets.some(({ kind, name }) => route.kind === kind && route.namespace === namespace && route.name === name),
  );
  return new Set(
    own.flatMap(({ spec, namespace: of }) =>
      (spec.parentRefs ?? []).map((ref) => `${ref.namespace ?? of}/${ref.name}`),
    ),
  );
}

/** Parts that only the parent sets stay the parent's: its Secrets and backends are in its namespace. */
export function joinSecurity(
  merged: SecurityPolicy,
  child: SecurityPolicy,
  parent: SecurityPolicy,
  parts: ReadonlySet<string>,
): SecurityPolicy {
  const others = partsOf(merged).filter((part) => !parts.has(part));
  const namespaces = Object.fromEntries(others.map((part) => [part, parent.namespace]));
  // What must be inherited stays so below the child: neither a filter of the route nor a policy displaces it.
  const required = parent.required === true || merged.required === true;
  return { ...merged, targets: child.targets, namespaces, ...(required ? { required } : {}) };
}

/** The parent's part of a merged policy, as each capability sees it. */
export function joinTraffic(
  merged: BackendTrafficPolicy,
  child: BackendTrafficPolicy,
  parent: BackendTrafficPolicy,
): BackendTrafficPolicy {
  const [said, above] = [merged, parent].map((one) => one as unknown as Readonly<Record<string, unknown>>);
  const parts = [...fieldsOf('BackendTrafficPolicy')].flatMap(([name, { capability }]) =>
    said![name] === undefined || above![name] === undefined || capability.inherited === undefined
      ? []
      : [[name, capability.inherited(said![name], above![name], `${parent.namespace}/${parent.name}`)]],
  );
  return { ...merged, targets: child.targets, ...Object.fromEntries(parts) };
}

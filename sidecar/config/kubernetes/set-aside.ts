// Objects of an API server that stop a reading of files: there, the operator who wrote them is told, and the last state
// stays. Here, each tenant writes objects. One that cannot be read closes what it targets, or else its own namespace.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { OwnKinds } from '../../documents/sallyport.ts';
import { normalizeHostPattern } from '../../policy/host.ts';
import type { ParentRef, RefusedDocument } from '../../routing/documents.ts';
import type { PolicyTarget } from '../../schema/gateway-patterns.ts';
import { targetsIn } from '../../schema/gateway-patterns.ts';
import { type BrokenPolicy, readPlaced } from '../gateway-config.ts';
import { placeObjects, placeOf, type ReadObject, treeOf } from './place.ts';

/** What can be read, and what the rest closes. */
export interface Aside {
  readonly objects: readonly ReadObject[];
  /** Policies: their targets answer 500. */
  readonly broken: readonly BrokenPolicy[];
  /** BackendTLSPolicies: their Services get no requests. */
  readonly refused: readonly RefusedDocument[];
  /** Why a Service gets no requests, by `namespace/name`. */
  readonly services: ReadonlyMap<string, string>;
  readonly warnings: readonly Problem[];
}

const gatewayApi = 'gateway.networking.k8s.io';
const targetKinds: ReadonlySet<string> = new Set(['Gateway', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute']);

/** Nothing can reference these if they cannot be read: whatever needs them answers 500. */
const data: ReadonlySet<string> = new Set(['Service', 'Secret', 'ConfigMap', 'Namespace']);

/** Finds the objects that would stop the reading. `trusted` are the namespaces whose DestinationRules govern all. */
export function setAside(objects: readonly ReadObject[], own: OwnKinds, trusted: ReadonlySet<string>): Aside {
  const readable: ReadObject[] = [];
  const broken: BrokenPolicy[] = [];
  const refused: RefusedDocument[] = [];
  const services = new Map<string, string>();
  const warnings: Problem[] = [];
  for (const one of objects) {
    const { problems } = one.object.kind === 'EndpointSlice' ? { problems: [] } : readPlaced(placeObjects([one]), own);
    if (problems.length === 0) {
      readable.push(one);
      continue;
    }
    warnings.push(...problems);
    const { kind } = one.object;
    if (data.has(kind)) continue;
    if (kind === 'DestinationRule') {
      for (const service of governedBy(one, objects, trusted))
        services.set(service, `Service ${service}: ${placeOf(one.object)}, which governs it, cannot be read`);
    } else if (kind === 'BackendTLSPolicy') refused.push(refusedBackendTls(one, objects, problems));
    else {
      const targets = targetsOf(one, objects);
      if (targets.length > 0) broken.push(brokenOf(one, targets, problems));
    }
  }
  return { objects: readable, broken, refused, services, warnings };
}

function brokenOf({ object, value }: ReadObject, targets: readonly PolicyTarget[], problems: readonly Problem[]) {
  const { creationTimestamp } = treeOf(value['metadata']);
  const createdAt = Date.parse(String(creationTimestamp));
  return {
    ...{ kind: object.kind, apiVersion: String(value['apiVersion']), namespace: object.namespace!, name: object.name },
    ...{ targets, problems, file: placeOf(object), line: 1 },
    ...(Number.isNaN(createdAt) ? {} : { createdAt }),
    ...{ ownHeaders: [], secretParams: [], required: true },
  };
}

/** What a policy names, or may name: a policy has its targets in its own namespace (GEP-713). */
function targetsOf(one: ReadObject, objects: readonly ReadObject[]): readonly PolicyTarget[] {
  const { targetRef, targetRefs = [], targetSelectors } = treeOf(one.value['spec']);
  const whole = (): readonly PolicyTarget[] =>
    objects.flatMap(({ object: { kind, namespace, name } }) =>
      targetKinds.has(kind) && namespace === one.object.namespace ? [{ group: gatewayApi, kind, name }] : [],
    );
  const selected = targetSelectors === undefined ? [] : selectedBy(targetSelectors, one, objects);
  if (selected === undefined || !Array.isArray(targetRefs)) return whole();
  const said: unknown[] = [...(targetRef === undefined ? [] : [targetRef]), ...(targetRefs as unknown[])];
  const known = said.filter((ref) => !isForeign(ref));
  if (known.length === 0) return said.length > 0 || targetSelectors !== undefined ? selected : whole();
  const named = targetsIn({ spec: { targetRefs: known } });
  return named === undefined ? whole() : [...named, ...selected];
}

const selector = z.strictObject({
  group: z.string().optional(),
  kind: z.string(),
  matchLabels: z.record(z.string(), z.string()),
});

/** The objects that selectors name by their labels; undefined if a selector cannot be read. */
function selectedBy(
  selectors: unknown,
  { object: { namespace } }: ReadObject,
  objects: readonly ReadObject[],
): readonly PolicyTarget[] | undefined {
  const read = z.array(selector).safeParse(selectors);
  if (!read.success) return undefined;
  return objects.flatMap(({ object, value }) => {
    const labels = treeOf(treeOf(value['metadata'])['labels']);
    const isMeant = read.data.some(
      ({ kind, matchLabels }) =>
        kind === object.kind && Object.entries(matchLabels).every(([key, text]) => labels[key] === text),
    );
    const isHere = targetKinds.has(object.kind) && object.namespace === namespace;
    return isMeant && isHere ? [{ group: gatewayApi, kind: object.kind, name: object.name }] : [];
  });
}

/** A target that is never served here, as a UDPRoute or a ListenerSet. */
function isForeign(ref: unknown): boolean {
  const { kind, name } = treeOf(ref);
  return (
    typeof kind === 'string' && /^[A-Z][A-Za-z]*$/.test(kind) && typeof name === 'string' && !targetKinds.has(kind)
  );
}

function refusedBackendTls(one: ReadObject, objects: readonly ReadObject[], problems: readonly Problem[]) {
  const { namespace, name, kind } = one.object;
  const { targetRefs } = treeOf(one.value['spec']);
  const said = Array.isArray(targetRefs) ? targetRefs.map(treeOf) : [];
  const isClear =
    said.length > 0 && said.every((ref) => typeof ref['kind'] === 'string' && typeof ref['name'] === 'string');
  const names = isClear
    ? said.flatMap((ref) => (ref['kind'] === 'Service' ? [String(ref['name'])] : []))
    : objects.flatMap(({ object }) =>
        object.kind === 'Service' && object.namespace === namespace ? [object.name] : [],
      );
  const parents = names.map((service): ParentRef => ({ group: '', kind: 'Service', name: service }));
  return {
    ...{ kind, apiVersion: String(one.value['apiVersion']), namespace: namespace!, name, generation: 1 },
    ...{ file: placeOf(one.object), line: 1, createdAt: 0, reason: 'Invalid', problems, parents },
  };
}

/** The Services of a DestinationRule; all of its namespace if its host cannot be read. */
function governedBy(
  { object, value }: ReadObject,
  objects: readonly ReadObject[],
  trusted: ReadonlySet<string>,
): readonly string[] {
  const { host } = treeOf(value['spec']);
  const full = typeof host === 'string' ? fullHost(host, object.namespace!) : undefined;
  return objects.flatMap(({ object: { kind, namespace, name } }) => {
    if (kind !== 'Service' || (namespace !== object.namespace && !trusted.has(object.namespace!))) return [];
    const isGoverned = full === undefined ? namespace === object.namespace : covers(full, `${name}.${namespace}${svc}`);
    return isGoverned ? [`${namespace}/${name}`] : [];
  });
}

const svc = '.svc.cluster.local';

function covers(pattern: string, host: string): boolean {
  return pattern.startsWith('*') ? host.endsWith(pattern.slice(1)) : pattern === host;
}

/** A host of a DestinationRule with its namespace: `web`, `web.shop` and `web.shop.svc` are short. */
function fullHost(host: string, namespace: string): string {
  const one = normalizeHostPattern(host);
  if (one.startsWith('*')) return one;
  if (!one.includes('.')) return `${one}.${namespace}${svc}`;
  if (/^[^.]+\.[^.]+$/.test(one)) return `${one}${svc}`;
  return /^[^.]+\.[^.]+\.svc$/.test(one) ? `${one}.cluster.local` : one;
}

/**
 * Objects without the DestinationRules that govern nothing here. As in Istio, those of the gateway's and of the root
 * namespace, which are `trusted`, govern all Services. Those of another namespace, which any tenant can write, govern
 * the Services of that namespace only.
 */
export function withOwnRules(objects: readonly ReadObject[], trusted: ReadonlySet<string>) {
  const strangers: string[] = [];
  const kept = objects.flatMap((one): ReadObject[] => {
    const { kind, namespace } = one.object;
    const spec = treeOf(one.value['spec']);
    if (kind !== 'DestinationRule' || trusted.has(namespace!) || typeof spec['host'] !== 'string') return [one];
    const own = `.${namespace}${svc}`;
    const full = fullHost(spec['host'], namespace!);
    const isOwn = full.endsWith(own);
    const host = isOwn ? full : full.startsWith('*') && own.endsWith(full.slice(1)) ? `*${own}` : undefined;
    if (host !== undefined) return [{ ...one, value: { ...one.value, spec: { ...spec, host } } }];
    strangers.push(placeOf(one.object));
    return [];
  });
  const warnings: Problem[] = strangers.slice(0, 1).map((file) => ({
    ...{ file, line: 1, column: 1 },
    message: `this DestinationRule and ${strangers.length - 1} more have a host that is not of their own namespace: passed over`,
  }));
  return { objects: kept, warnings };
}

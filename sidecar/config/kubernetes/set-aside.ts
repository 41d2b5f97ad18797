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
  const refused: RefusedDocument[] = [];
  const services = new Map<string, string>();
  const warnings: Problem[] = [];
  const here = byNamespace(objects);
  const closing = new Closing(here);
  /** Namespaces all of whose Services are closed. */
  const hasAll = new Set<string | undefined>();
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
    } else if (kind === 'BackendTLSPolicy') {
      const services = servicesOf(one);
      const namespace = one.object.namespace;
      const most = hasAll.has(namespace) ? mostOfOne : Number.POSITIVE_INFINITY;
      if (services === undefined) hasAll.add(namespace);
      refused.push(refusedBackendTls(one, services ?? servicesIn(here, namespace).slice(0, most), problems));
    } else closing.add(one, problems);
  }
  return { objects: readable, broken: closing.all(), refused, services, warnings };
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

type Here = ReadonlyMap<string | undefined, readonly ReadObject[]>;

function byNamespace(objects: readonly ReadObject[]): Here {
  return Map.groupBy(objects, ({ object }) => object.namespace);
}

/** The targets of a policy that are not named: it may mean all of these. */
interface Group {
  readonly targets: Map<string, PolicyTarget>;
  /** What was added: many policies select the same. */
  readonly added: Set<readonly PolicyTarget[]>;
  /** The policy that has all of them. */
  readonly holder: { readonly one: ReadObject; readonly problems: readonly Problem[] };
}

/** Enough for a status. */
const mostOfOne = 1;
/** Labels of this many objects are compared for a namespace; its further policies close all of it. */
const mostCompared = 1_000_000;

/**
 * What unreadable policies close. Many policies without clear targets in a namespace with many routes would be their
 * product: the first of a kind has the targets of them all, and each of the others one, for its status.
 */
class Closing {
  readonly #here: Here;
  readonly #broken: BrokenPolicy[] = [];
  readonly #groups = new Map<string, Group>();
  readonly #possible = new Map<string | undefined, readonly ReadObject[]>();
  readonly #selected = new Map<string, readonly PolicyTarget[]>();
  readonly #compared = new Map<string | undefined, number>();

  constructor(here: Here) {
    this.#here = here;
  }

  add(one: ReadObject, problems: readonly Problem[]): void {
    const { named, others } = this.#targetsOf(one);
    if (named.length + others.length === 0) return;
    if (others.length === 0) {
      this.#broken.push(brokenOf(one, named, problems));
      return;
    }
    const { kind, namespace } = one.object;
    const key = `${kind} ${String(one.value['apiVersion'])} ${namespace}`;
    const known = this.#groups.get(key);
    const group = known ?? { targets: new Map(), added: new Set(), holder: { one, problems } };
    this.#groups.set(key, group);
    for (const targets of known === undefined ? [named, others] : [others]) {
      if (group.added.has(targets)) continue;
      group.added.add(targets);
      for (const target of targets) group.targets.set(JSON.stringify(target), target);
    }
    if (known !== undefined) this.#broken.push(brokenOf(one, [...named, ...others.slice(0, mostOfOne)], problems));
  }

  all(): readonly BrokenPolicy[] {
    const held = [...this.#groups.values()].map(({ targets, holder: { one, problems } }) =>
      brokenOf(one, [...targets.values()], problems),
    );
    return [...held, ...this.#broken];
  }

  /** What a policy names, or may name: a policy has its targets in its own namespace (GEP-713). */
  #targetsOf(one: ReadObject): { readonly named: readonly PolicyTarget[]; readonly others: readonly PolicyTarget[] } {
    const { targetRef, targetRefs = [], targetSelectors } = treeOf(one.value['spec']);
    const { namespace } = one.object;
    const whole = () => ({ named: [], others: this.#select(namespace, undefined) });
    const selectors = targetSelectors === undefined ? [] : selectorsIn(targetSelectors);
    if (selectors === undefined || !Array.isArray(targetRefs)) return whole();
    const said: unknown[] = [...(targetRef === undefined ? [] : [targetRef]), ...(targetRefs as unknown[])];
    const known = said.filter((ref) => !isForeign(ref));
    if (said.length === 0 && targetSelectors === undefined) return whole();
    const named = known.length === 0 ? [] : targetsIn({ spec: { targetRefs: known } });
    return named === undefined ? whole() : { named, others: this.#select(namespace, selectors) };
  }

  /** The objects that selectors name by their labels; all if there are none. */
  #select(namespace: string | undefined, selectors: readonly Selector[] | undefined): readonly PolicyTarget[] {
    if (selectors?.length === 0) return [];
    const key = `${namespace} ${JSON.stringify(selectors)}`;
    const known = this.#selected.get(key);
    if (known !== undefined) return known;
    const possible = this.#possibleIn(namespace);
    const compared = (this.#compared.get(namespace) ?? 0) + possible.length * (selectors?.length ?? 0);
    this.#compared.set(namespace, compared);
    if (selectors !== undefined && compared > mostCompared) return this.#select(namespace, undefined);
    const selected = possible
      .filter((one) => selectors === undefined || selectors.some((each) => isSelected(one, each)))
      .map(({ object: { kind, name } }) => ({ group: gatewayApi, kind, name }));
    this.#selected.set(key, selected);
    return selected;
  }

  #possibleIn(namespace: string | undefined): readonly ReadObject[] {
    const known = this.#possible.get(namespace);
    if (known !== undefined) return known;
    const all = (this.#here.get(namespace) ?? []).filter(({ object }) => targetKinds.has(object.kind));
    this.#possible.set(namespace, all);
    return all;
  }
}

const selector = z.strictObject({
  group: z.string().optional(),
  kind: z.string(),
  matchLabels: z.record(z.string(), z.string()),
});
type Selector = z.output<typeof selector>;

/** Undefined if a selector cannot be read. */
function selectorsIn(value: unknown): readonly Selector[] | undefined {
  const read = z.array(selector).safeParse(value);
  return read.success ? read.data : undefined;
}

function isSelected({ object, value }: ReadObject, { kind, matchLabels }: Selector): boolean {
  const labels = treeOf(treeOf(value['metadata'])['labels']);
  return kind === object.kind && Object.entries(matchLabels).every(([key, text]) => labels[key] === text);
}

/** A target that is never served here, as a UDPRoute or a ListenerSet. */
function isForeign(ref: unknown): boolean {
  const { kind, name } = treeOf(ref);
  return (
    typeof kind === 'string' && /^[A-Z][A-Za-z]*$/.test(kind) && typeof name === 'string' && !targetKinds.has(kind)
  );
}

/** The Services that a BackendTLSPolicy names; undefined if they cannot be read: it may mean all of its namespace. */
function servicesOf({ value }: ReadObject): readonly string[] | undefined {
  const { targetRefs } = treeOf(value['spec']);
  const said = Array.isArray(targetRefs) ? targetRefs.map(treeOf) : [];
  const isClear =
    said.length > 0 && said.every((ref) => typeof ref['kind'] === 'string' && typeof ref['name'] === 'string');
  return isClear ? said.flatMap((ref) => (ref['kind'] === 'Service' ? [String(ref['name'])] : [])) : undefined;
}

function servicesIn(here: Here, namespace: string | undefined): readonly string[] {
  return (here.get(namespace) ?? []).flatMap(({ object }) => (object.kind === 'Service' ? [object.name] : []));
}

function refusedBackendTls(one: ReadObject, services: readonly string[], problems: readonly Problem[]) {
  const { namespace, name, kind } = one.object;
  const parents = services.map((service): ParentRef => ({ group: '', kind: 'Service', name: service }));
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

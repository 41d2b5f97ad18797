// Which routes belong to which listeners, under which host names, and the conditions that the standard requires for
// each. Pure: what is served and what a status says come from the same evaluation.

import { formatProblem } from '../../cert-agent/base/errors.ts';
import { type Condition, type Say, sayFor, type Unresolved } from './conditions.ts';
import {
  byAge,
  type Document,
  type GatewayDocuments,
  type GatewaySpec,
  keyOf,
  type LabelSelector,
  type ParentRef,
  type Refusal,
  type RefusedDocument,
  type RouteDocument,
} from './documents.ts';
import { intersectHosts } from './hosts.ts';
import { conditionsOf, gatewayConditions, type ListenerState, stateListeners } from './listeners.ts';
import { type GatewayWorld, type InForce, type ResolvedBackend, resolveBackend } from './references.ts';
import { backendRefsOf, brokenIn, filtersOf, unsupportedIn } from './unsupported.ts';

/** A route on one listener. */
export interface AttachedRoute {
  readonly route: RouteDocument;
  /** The host names that the route shares with the listener; `*` is any. */
  readonly hosts: readonly string[];
  /** It was served here before this generation. */
  readonly isInForce?: true;
  /**
   * It arrived while the listener served others, and protects nothing yet. Its unreadable parts do not claim requests:
   * those went elsewhere before, and still do.
   */
  readonly isNew?: true;
}

/** A listener with its routes, also when it is not `programmed`; `allConditions` includes `Programmed`. */
export interface ServedListener extends ListenerState {
  readonly attached: readonly AttachedRoute[];
  readonly allConditions: readonly Condition[];
}

/** A Gateway, the oldest first; an invalid one comes last, has no listeners, and `Accepted` is false. */
export interface GatewayStatus {
  readonly gateway: Document<GatewaySpec> | RefusedDocument;
  readonly conditions: readonly Condition[];
  readonly listeners: readonly ServedListener[];
}

/** The conditions of a route at one parent: `status.parents[]` of Gateway API. */
export interface ParentStatus {
  readonly parentRef: ParentRef;
  readonly conditions: readonly Condition[];
}

/**
 * A route at each Gateway that it names. Parents of other kinds (a mesh's Service) are left out: their implementation
 * writes that status.
 */
export interface RouteStatus {
  readonly route: RouteDocument;
  readonly parents: readonly ParentStatus[];
}

/** Everything attached once, for serving and for statuses alike. */
export interface Attachments {
  readonly gateways: readonly GatewayStatus[];
  readonly routes: readonly RouteStatus[];
  /** The resolved backends of a route, by route and place in it. */
  readonly backendsOf: (route: RouteDocument) => readonly ResolvedBackend[];
}

/** Attaches every route to the listeners that accept it. */
export function attach(documents: GatewayDocuments, world: GatewayWorld): Attachments {
  const listeners = stateListeners(documents, world);
  const backends = new Map<RouteDocument, readonly ResolvedBackend[]>();
  const wishes = documents.routes.toSorted(byAge).map((route) => {
    const resolved = backendRefsOf(route).map((ref) => resolveBackend(ref, route, documents, world));
    backends.set(route, resolved);
    const refs = resolvedRefs(resolved, route, sayFor(route, world.now));
    const parents = (route.spec.parentRefs ?? []).filter(isGateway);
    const wishes = parents.map((ref) => wishOf(route, ref, listeners, documents));
    return { route, refs, parents: [...wishes, ...possibleParents(route, listeners, documents)] };
  });
  const attached = new Map(listeners.map((one) => [one, settle(one, wishes, world.inForce)]));
  const routes: RouteStatus[] = wishes.map(({ route, refs, parents }) => ({
    route,
    parents: parents.map((wish) => ({
      parentRef: wish.parentRef,
      conditions: conditionsFor(route, wish, attached, refs, sayFor(route, world.now)),
    })),
  }));
  const served = listeners.map(
    (one): ServedListener => ({ ...one, attached: attached.get(one)!, allConditions: conditionsOf(one, world.now) }),
  );
  const gateways: GatewayStatus[] = documents.gateways.toSorted(byAge).map((gateway) => {
    const own = served.filter((one) => one.gateway === gateway);
    return { gateway, listeners: own, conditions: gatewayConditions(gateway, own, world.now) };
  });
  for (const refused of documents.refused.filter(({ kind }) => kind === 'Gateway')) {
    const say = sayFor(refused, world.now);
    const why = sentenceOf(refused);
    gateways.push({
      gateway: refused,
      listeners: [],
      conditions: [say('Accepted', false, refused.reason, why), say('Programmed', false, 'Invalid', why)],
    });
  }
  return { gateways, routes, backendsOf: (route) => backends.get(route) ?? [] };
}

/** What is wrong with a document, with its place. */
export function sentenceOf({ problems }: Pick<RefusedDocument, 'problems'>): string {
  return problems.map(formatProblem).join('; ');
}

/** The parents that a refused route may have named: those that would accept it. */
function possibleParents(
  route: RouteDocument,
  listeners: readonly ListenerState[],
  documents: GatewayDocuments,
): readonly Wish[] {
  const { isAnyParent = false, parentNames = [] }: Partial<Refusal> = route.refusal ?? {};
  return documents.gateways
    .filter(({ name }) => isAnyParent || parentNames.includes(name))
    .map(({ namespace, name }) => ({ group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace, name }))
    .map((ref) => wishOf(route, ref, listeners, documents))
    .filter(({ refusal }) => refusal === undefined);
}

/** A route of a Service is for mesh implementations, which write their own status. */
function isGateway({ group, kind }: ParentRef): boolean {
  return group === 'gateway.networking.k8s.io' && kind === 'Gateway';
}

/** The listeners of one parent that would accept a route, or why none does. */
interface Wish {
  readonly parentRef: ParentRef;
  readonly refusal?: Unresolved;
  readonly fitting: readonly { readonly listener: ListenerState; readonly hosts: readonly string[] }[];
}

function wishOf(
  route: RouteDocument,
  parentRef: ParentRef,
  listeners: readonly ListenerState[],
  documents: GatewayDocuments,
): Wish {
  const refuse = (reason: string, message: string): Wish => ({ parentRef, refusal: { reason, message }, fitting: [] });
  const key = `${parentRef.namespace ?? route.namespace}/${parentRef.name}`;
  const meant = listeners.filter(
    ({ gateway, spec }) =>
      keyOf(gateway) === key &&
      (parentRef.sectionName === undefined || spec.name === parentRef.sectionName) &&
      (parentRef.port === undefined || spec.port === parentRef.port),
  );
  if (meant.length === 0) return refuse('NoMatchingParent', `Gateway ${key} does not exist or has no such listener`);
  const wrong = unsupportedIn(route);
  const allowed = meant.filter((one) => allows(one, route, documents));
  if (allowed.length === 0)
    return refuse(
      'NotAllowedByListeners',
      `no listener of Gateway ${key} accepts a ${route.kind} of namespace ${route.namespace}`,
    );
  const fitting = allowed.flatMap((listener) => {
    const hosts = hostsFor(listener, route);
    return hosts.length === 0 ? [] : [{ listener, hosts }];
  });
  if (fitting.length === 0)
    return refuse('NoMatchingListenerHostname', `no host name of the route matches a listener of Gateway ${key}`);
  return wrong === undefined ? { parentRef, fitting } : refuse(wrong.reason, wrong.message);
}

/**
 * The routes of a listener; of equal matches the first wins: those in force, in their order; then the older, then by
 * name. A new one is refused if another kind of route has the same host name.
 */
function settle(
  listener: ListenerState,
  wishes: readonly { readonly route: RouteDocument; readonly parents: readonly Wish[] }[],
  { routes }: InForce,
): readonly AttachedRoute[] {
  const had = routes.get(listenerKey(listener));
  const before = new Map(had?.map((key, index) => [key, index]));
  const isNew = (route: RouteDocument): boolean => had !== undefined && !before.has(routeKey(route));
  // Which streams it was for is unknown: the first route for a name keeps it.
  const isFirst = ({ kind, refusal }: RouteDocument): boolean => kind === 'TLSRoute' && refusal?.isAnyHost === true;
  const rankOf = ({ route }: AttachedRoute): number =>
    isFirst(route) ? -1 : (before.get(routeKey(route)) ?? before.size);
  // Two references may lead to the same listener.
  const claims = wishes.flatMap(({ route, parents }): AttachedRoute[] => {
    const hosts = parents.flatMap(({ fitting }) => fitting).find((one) => one.listener === listener)?.hosts;
    return hosts === undefined ? [] : [{ route, hosts }];
  });
  const attached: AttachedRoute[] = [];
  for (const claim of claims.toSorted((a, b) => rankOf(a) - rankOf(b))) {
    if (rivalOf(attached, claim.route, claim.hosts) !== undefined) continue;
    if (!isNew(claim.route)) attached.push(before.has(routeKey(claim.route)) ? { ...claim, isInForce: true } : claim);
    else if (claim.route.refusal === undefined) attached.push({ ...claim, isNew: true });
  }
  const all = [...new Set(['*', ...attached.flatMap(({ hosts }) => hosts)])];
  return attached.map((one) => (one.route.refusal?.isAnyHost === true ? { ...one, hosts: all } : one));
}

function conditionsFor(
  route: RouteDocument,
  { refusal, fitting }: Wish,
  attached: ReadonlyMap<ListenerState, readonly AttachedRoute[]>,
  refs: Condition,
  say: Say,
): readonly Condition[] {
  if (route.refusal !== undefined) {
    const standsIn = fitting.some(({ listener }) => attached.get(listener)?.some((one) => one.route === route));
    const what = standsIn ? 'every request that it may be for gets 500' : 'it was not served before, and is not';
    return [
      say('Accepted', false, route.refusal.reason, `${sentenceOf(route.refusal)} (${what})`),
      say('ResolvedRefs', true, 'ResolvedRefs', 'not checked: the document is not valid'),
    ];
  }
  if (refusal !== undefined) return [say('Accepted', false, refusal.reason, refusal.message), refs];
  const on = fitting.map(({ listener, hosts }) => ({ hosts, list: attached.get(listener)! }));
  if (on.some(({ list }) => list.some((one) => one.route === route)))
    return [...acceptance(route, say), refs, ...partial(route, say)];
  const { route: rival, isInForce } = rivalOf(on[0]!.list, route, on[0]!.hosts)!;
  const why = `${rival.kind} ${keyOf(rival)} has the same host name and is ${isInForce === true ? 'in force' : 'older'}`;
  return [say('Accepted', false, 'HostnameConflict', why), refs];
}

/** What these attachments put in force for the next generation: see InForce. */
export function inForceOf({ gateways }: Attachments): InForce {
  const listeners = gateways.flatMap((one) => one.listeners).filter(({ programmed }) => programmed);
  return {
    routes: new Map(
      listeners.map((one) => [
        listenerKey(one),
        // A new route with an unreadable path stays new until the path is readable.
        one.attached.flatMap(({ route, isNew }) => (isNew && isWidened(route) ? [] : routeKey(route))),
      ]),
    ),
    places: listeners.map(({ gateway, place }) => {
      const at = place.lastIndexOf(':');
      return { gateway: keyOf(gateway), host: place.slice(0, at), port: place.slice(at + 1) };
    }),
  };
}

function isWidened({ spec: { rules = [] } }: RouteDocument): boolean {
  return rules.some(({ matches = [] }) => matches.some(({ widened }) => widened === 'path'));
}

function listenerKey({ gateway, spec }: ListenerState): string {
  return `${keyOf(gateway)}/${spec.name}`;
}

function routeKey(route: RouteDocument): string {
  return `${route.kind} ${keyOf(route)}`;
}

/** A route whose rules are all broken serves nothing: each rule answers 500. */
function acceptance(route: RouteDocument, say: Say): Condition[] {
  const { list, isAll } = brokenIn(route);
  if (!isAll) return [say('Accepted', true, 'Accepted')];
  return [
    say('Accepted', false, list[0]!.reason, list.map(({ index, message }) => `rule ${index}: ${message}`).join('; ')),
  ];
}

/**
 * Gateway API requires a message that begins with 'Dropped Rule'. Ours answers 500, so that no other rule gets its
 * requests.
 */
function partial(route: RouteDocument, say: Say): Condition[] {
  const { list, isAll } = brokenIn(route);
  if (isAll || list.length === 0) return [];
  const sentence = list.map(({ index, message }) => `Dropped Rule ${index}: ${message} (it answers 500)`).join('; ');
  return [say('PartiallyInvalid', true, 'UnsupportedValue', sentence)];
}

function resolvedRefs(backends: readonly ResolvedBackend[], route: RouteDocument, say: Say): Condition {
  const extension = filtersOf(route).find(({ type }) => type === 'ExtensionRef')?.extensionRef;
  const problems: Unresolved[] = backends.flatMap(({ problem }) => problem ?? []);
  if (extension !== undefined)
    problems.push({
      reason: 'InvalidKind',
      message: `there is no filter ${extension.group}/${extension.kind} ${extension.name}: its rule answers 500`,
    });
  const [first] = problems;
  if (first === undefined) return say('ResolvedRefs', true, 'ResolvedRefs');
  return say('ResolvedRefs', false, first.reason, problems.map(({ message }) => message).join('; '));
}

/** GRPCRoute `hostnames`: of an HTTPRoute and a GRPCRoute for one host name of a listener exactly one is served. */
function rivalOf(
  others: readonly AttachedRoute[],
  route: RouteDocument,
  hosts: readonly string[],
): AttachedRoute | undefined {
  if ((route.kind !== 'HTTPRoute' && route.kind !== 'GRPCRoute') || route.refusal?.isAnyHost === true) return undefined;
  return others.find(
    (one) =>
      one.route.kind !== route.kind &&
      one.route.refusal?.isAnyHost !== true &&
      (one.route.kind === 'HTTPRoute' || one.route.kind === 'GRPCRoute') &&
      one.hosts.some((a) => hosts.some((b) => intersectHosts(anyOf(a), anyOf(b)) !== undefined)),
  );
}

function anyOf(host: string): string | undefined {
  return host === '*' ? undefined : host;
}

function allows(
  { gateway, spec, supportedKinds }: ListenerState,
  route: RouteDocument,
  documents: GatewayDocuments,
): boolean {
  if (!supportedKinds.some(({ kind }) => kind === route.kind)) return false;
  const { from = 'Same', selector } = spec.allowedRoutes?.namespaces ?? {};
  if (from === 'All') return true;
  if (from === 'None') return false;
  if (from === 'Same') return route.namespace === gateway.namespace;
  const labels = documents.namespaces.find(({ name }) => name === route.namespace)?.spec.labels ?? {
    'kubernetes.io/metadata.name': route.namespace,
  };
  // Kubernetes: no selector selects nothing, an empty one everything.
  return selector !== undefined && selects(selector, labels);
}

/** Kubernetes' label selectors: all requirements must hold; an empty selector selects everything. */
export function selects(
  { matchLabels = {}, matchExpressions = [] }: LabelSelector,
  labels: Readonly<Record<string, string>>,
): boolean {
  const has = (key: string): boolean => Object.hasOwn(labels, key);
  return (
    Object.entries(matchLabels).every(([key, value]) => has(key) && labels[key] === value) &&
    matchExpressions.every(({ key, operator, values = [] }) => {
      if (operator === 'Exists') return has(key);
      if (operator === 'DoesNotExist') return !has(key);
      if (operator === 'In') return has(key) && values.includes(labels[key]!);
      return !has(key) || !values.includes(labels[key]!);
    })
  );
}

/**
 * A route's own names, as far as the listener shares them. The router compares routes by these names, not by their
 * intersection with the listener, since the listener has been chosen before.
 */
function hostsFor({ spec }: ListenerState, route: RouteDocument): readonly string[] {
  if (route.kind === 'TCPRoute') return ['*'];
  const { hostnames = [] } = route.spec;
  if (hostnames.length === 0) return ['*'];
  return [...new Set(hostnames.filter((one) => intersectHosts(spec.hostname, one) !== undefined))];
}

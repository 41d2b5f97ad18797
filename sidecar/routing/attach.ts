// Which routes belong to which listeners, under which host names, and what the standard has each of them told. Pure: what is
// served and what a status says come out of the same look.

import { formatProblem } from '../../cert-agent/base/errors.ts';
import { type Condition, type Say, sayFor } from './conditions.ts';
import {
  byAge,
  type Document,
  type GatewayDocuments,
  type GatewaySpec,
  keyOf,
  type LabelSelector,
  type ParentRef,
  type RefusedDocument,
  type RouteDocument,
} from './documents.ts';
import { intersectHosts } from './hosts.ts';
import { conditionsOf, gatewayConditions, type ListenerState, stateListeners } from './listeners.ts';
import { type GatewayWorld, type ResolvedBackend, resolveBackend, type Unresolved } from './references.ts';
import { backendRefsOf, brokenIn, filtersOf, unsupportedIn } from './unsupported.ts';

/** A route on one listener. */
export interface AttachedRoute {
  readonly route: RouteDocument;
  /** The host names of the route, those that the listener shares; `*` is any. */
  readonly hosts: readonly string[];
}

export interface ServedListener extends ListenerState {
  readonly attached: readonly AttachedRoute[];
  readonly allConditions: readonly Condition[];
}

export interface GatewayStatus {
  readonly gateway: Document<GatewaySpec> | RefusedDocument;
  readonly conditions: readonly Condition[];
  readonly listeners: readonly ServedListener[];
}

export interface ParentStatus {
  readonly parentRef: ParentRef;
  readonly conditions: readonly Condition[];
}

export interface RouteStatus {
  readonly route: RouteDocument | RefusedDocument;
  readonly parents: readonly ParentStatus[];
}

export interface Attachments {
  readonly gateways: readonly GatewayStatus[];
  readonly routes: readonly RouteStatus[];
  /** Where the backends of a route lead, by route and place in it. */
  readonly backendsOf: (route: RouteDocument) => readonly ResolvedBackend[];
}

/** Attaches every route to the listeners that take it. */
export function attach(documents: GatewayDocuments, world: GatewayWorld): Attachments {
  const listeners = stateListeners(documents, world);
  const attached = new Map<ListenerState, AttachedRoute[]>(listeners.map((one) => [one, []]));
  const backends = new Map<RouteDocument, readonly ResolvedBackend[]>();
  const routes: RouteStatus[] = [];
  for (const route of documents.routes.toSorted(byAge)) {
    const resolved = backendRefsOf(route).map((ref) => resolveBackend(ref, route, documents, world));
    backends.set(route, resolved);
    const parents = (route.spec.parentRefs ?? []).flatMap((ref) =>
      attachToParent(route, ref, listeners, attached, documents, resolved, sayFor(route, world.now)),
    );
    routes.push({ route, parents });
  }
  for (const refused of documents.refused.filter(({ kind }) => kind.endsWith('Route')))
    routes.push({ route: refused, parents: refusedParents(refused, sayFor(refused, world.now)) });
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

function refusedParents(refused: RefusedDocument, say: Say): readonly ParentStatus[] {
  const why = sentenceOf(refused);
  return refused.parents.map((parentRef) => ({
    parentRef,
    conditions: [
      say('Accepted', false, refused.reason, why),
      say('ResolvedRefs', true, 'ResolvedRefs', 'not looked at: the document is not valid'),
    ],
  }));
}

function attachToParent(
  route: RouteDocument,
  ref: ParentRef,
  listeners: readonly ListenerState[],
  attached: ReadonlyMap<ListenerState, AttachedRoute[]>,
  documents: GatewayDocuments,
  backends: readonly ResolvedBackend[],
  say: Say,
): ParentStatus[] {
  // What mesh implementations serve (a route of a Service) has a status of theirs.
  if (ref.group !== 'gateway.networking.k8s.io' || ref.kind !== 'Gateway') return [];
  const refs = resolvedRefs(backends, route, say);
  const parentRef = ref;
  const refuse = (reason: string, message: string): ParentStatus[] => [
    { parentRef, conditions: [say('Accepted', false, reason, message), refs] },
  ];
  const key = `${ref.namespace ?? route.namespace}/${ref.name}`;
  const meant = listeners.filter(
    ({ gateway, spec }) =>
      keyOf(gateway) === key &&
      (ref.sectionName === undefined || spec.name === ref.sectionName) &&
      (ref.port === undefined || spec.port === ref.port),
  );
  if (meant.length === 0) return refuse('NoMatchingParent', `there is no Gateway ${key} with such a listener`);
  const wrong = unsupportedIn(route);
  const allowed = meant.filter((one) => allows(one, route, documents));
  if (allowed.length === 0)
    return refuse('NotAllowedByListeners', `no listener of Gateway ${key} takes a ${route.kind} of ${route.namespace}`);
  const fitting = allowed.flatMap((listener) => {
    const hosts = hostsFor(listener, route);
    return hosts.length === 0 ? [] : [{ listener, hosts }];
  });
  if (fitting.length === 0)
    return refuse('NoMatchingListenerHostname', `no host name of the route is one of Gateway ${key}'s listeners`);
  if (wrong !== undefined) return refuse(wrong.reason, wrong.message);
  const rivals = fitting.map(({ listener, hosts }) => rivalOf(attached.get(listener)!, route, hosts));
  const taken = fitting.filter((_, index) => rivals[index] === undefined);
  if (taken.length === 0)
    return refuse('HostnameConflict', `${rivals[0]!.kind} ${keyOf(rivals[0]!)} has the same host name, and is older`);
  for (const { listener, hosts } of taken) {
    const list = attached.get(listener)!;
    // Two references may lead to the same listener.
    if (!list.some((one) => one.route === route)) list.push({ route, hosts });
  }
  return [{ parentRef, conditions: [...acceptance(route, say), refs, ...partial(route, say)] }];
}

/** Of a route whose rules are all broken nothing is served: each answers 500. */
function acceptance(route: RouteDocument, say: Say): Condition[] {
  const { list, isAll } = brokenIn(route);
  if (!isAll) return [say('Accepted', true, 'Accepted')];
  return [
    say('Accepted', false, list[0]!.reason, list.map(({ index, message }) => `rule ${index}: ${message}`).join('; ')),
  ];
}

/** Gateway API has the message begin with 'Dropped Rule'. Ours answers 500, so that no other rule gets its requests. */
function partial(route: RouteDocument, say: Say): Condition[] {
  const { list, isAll } = brokenIn(route);
  if (isAll || list.length === 0) return [];
  const said = list.map(({ index, message }) => `Dropped Rule ${index}: ${message} (it answers 500)`).join('; ');
  return [say('PartiallyInvalid', true, 'UnsupportedValue', said)];
}

function resolvedRefs(backends: readonly ResolvedBackend[], route: RouteDocument, say: Say): Condition {
  const extension = filtersOf(route).find(({ type }) => type === 'ExtensionRef')?.extensionRef;
  const problems: Unresolved[] = backends.flatMap(({ problem }) => problem ?? []);
  if (extension !== undefined)
    problems.push({
      reason: 'InvalidKind',
      message: `no filter is known as ${extension.group}/${extension.kind} ${extension.name}: its rule answers 500`,
    });
  const [first] = problems;
  if (first === undefined) return say('ResolvedRefs', true, 'ResolvedRefs');
  return say('ResolvedRefs', false, first.reason, problems.map(({ message }) => message).join('; '));
}

/** GRPCRoute `hostnames`: of an HTTPRoute and a GRPCRoute for one host name of a listener exactly one is served, the older. */
function rivalOf(
  others: readonly AttachedRoute[],
  route: RouteDocument,
  hosts: readonly string[],
): RouteDocument | undefined {
  if ((route.kind !== 'HTTPRoute' && route.kind !== 'GRPCRoute') || brokenIn(route).isAll) return undefined;
  return others.find(
    (one) =>
      one.route.kind !== route.kind &&
      !brokenIn(one.route).isAll &&
      (one.route.kind === 'HTTPRoute' || one.route.kind === 'GRPCRoute') &&
      one.hosts.some((a) => hosts.some((b) => intersectHosts(anyOf(a), anyOf(b)) !== undefined)),
  )?.route;
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

/** Kubernetes' label selectors: all of what is asked; nothing asked selects everything. */
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
 * A route's own names, as far as the listener shares them: who comes first is told by the route's name, not by what is left of
 * it on this listener, and whoever comes has named the listener already.
 */
function hostsFor({ spec }: ListenerState, route: RouteDocument): readonly string[] {
  if (route.kind === 'TCPRoute') return ['*'];
  const { hostnames = [] } = route.spec;
  if (hostnames.length === 0) return ['*'];
  return [...new Set(hostnames.filter((one) => intersectHosts(spec.hostname, one) !== undefined))];
}

// Kinds that a gateway does not read. A kind that protects nothing is skipped and reported. A kind that may protect
// closes the targets that it names; if it names none, it is unknown what would be left open.

import { z } from 'zod';
import { didYouMean, nearestTo } from '../../../cert-agent/base/did-you-mean.ts';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { ownGroup } from '../../edge/policy.ts';
import type { RouteKind } from '../../routing/documents.ts';
import type { PolicyTarget as Target } from '../../schema/gateway-patterns.ts';
import type { OwnKinds } from '../sallyport.ts';
import { instead } from './instead.ts';

const gatewayApi = 'gateway.networking.k8s.io';

/** The groups of the kinds that are read: the same kind in another group is a slip, or another product's. */
const groups: ReadonlyMap<string, string> = new Map([
  ...[
    ...['Gateway', 'GatewayClass', 'HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute', 'ReferenceGrant'],
    'BackendTLSPolicy',
  ].map((kind) => [kind, gatewayApi] as const),
  ['SecurityPolicy', 'gateway.envoyproxy.io'],
  ['BackendTrafficPolicy', 'gateway.envoyproxy.io'],
  ['DestinationRule', 'networking.istio.io'],
]);

/** Kinds that are read and protect: in another group, or misspelled, they are not skipped. */
const protecting = new Set(['BackendTLSPolicy', 'SecurityPolicy', 'BackendTrafficPolicy', 'DestinationRule']);

const core: readonly string[] = ['Service', 'Secret', 'ConfigMap', 'Namespace'];

const readKinds: readonly string[] = [...groups.keys(), ...core];

/** Kinds of applications, which do not concern a gateway. */
const ofApplications = new Set([
  'NetworkPolicy',
  ...['Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet', 'Pod', 'Job', 'CronJob', 'ServiceAccount'],
  ...['PersistentVolumeClaim', 'HorizontalPodAutoscaler', 'PodDisruptionBudget', 'EndpointSlice', 'Endpoints'],
  ...['Role', 'RoleBinding', 'ClusterRole', 'ClusterRoleBinding', 'CustomResourceDefinition'],
]);

/** Existing kinds of this field: they are never slips, even if they resemble another kind. */
const existing = new Set([
  ...ofApplications,
  ...readKinds,
  ...instead.keys(),
  ...['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication'],
]);

/** True for an existing kind: it is not a slip. */
export function isExistingKind(kind: string): boolean {
  return existing.has(kind);
}

/** For a document of OpenAPI among those of a gateway. */
export const openApiHint = "put an OpenAPI document under 'spec.openapi' of a RequestValidation";

/** At the end of a word, in any case; or as a word of its own in a kind. */
const refusing = [
  /(?:Polic(?:y|ies)|Filter|Plugin|Auth(?:[a-z]*)|Firewall|Acl)$/i,
  /Firewall|(?:WAF|Waf|ACL|Acl)(?![a-z])|Auth(?![a-z])|Auth(?:n|z|entication|orization)(?![a-z])/,
];

/**
 * By the name alone, kinds that may refuse requests. A HTTPRouteFilter applies where a rule names it: that rule answers
 * 500.
 */
function mayProtect(kind: string, group: string, own: OwnKinds): boolean {
  if (kind === 'HTTPRouteFilter' || ofApplications.has(kind)) return false;
  return (
    group === 'security.istio.io' ||
    refusing.some((one) => one.test(kind)) ||
    isProtecting(kind, own) ||
    isProtecting(slipOf(kind, own) ?? '', own)
  );
}

function isProtecting(kind: string, own: OwnKinds): boolean {
  return protecting.has(kind) || (own.get(kind)?.guards ?? false) !== false;
}

/** The result for a document of a kind that is not read. */
export type OtherKind =
  /** It may protect, and names its targets: they are closed. */
  | { readonly closes: readonly Target[]; readonly problem: Problem }
  /** It may protect, and its targets are unknown: nothing is served by this set of documents. */
  | { readonly stops: true; readonly problem: Problem }
  /** It protects nothing. `isSlip` if another kind was meant, `isNoted` if it concerns traffic, or may. */
  | { readonly isSlip: boolean; readonly isNoted: boolean; readonly problem: Problem };

/** Decides about a document of a kind that a gateway does not read. `own` are our own kinds. Throws nothing. */
export function judgeOtherKind(document: YamlDocument, kind: string, apiVersion: string, own: OwnKinds): OtherKind {
  if (kind === '') {
    const { openapi, swagger } = (document.value ?? {}) as Readonly<Record<string, unknown>>;
    const options = (openapi ?? swagger) === undefined ? {} : { hint: openApiHint };
    return { stops: true, problem: document.problemAt(['kind'], "this document has no 'kind'", options) };
  }
  const group = apiVersion.includes('/') ? apiVersion.slice(0, apiVersion.indexOf('/')) : '';
  const inGroup = groups.get(kind) ?? (own.has(kind) ? ownGroup : undefined);
  const meant = inGroup === undefined ? (core.includes(kind) ? 'apiVersion v1' : undefined) : `group ${inGroup}`;
  const what =
    meant === undefined ? `kind ${kind}` : `a ${kind} belongs to ${meant}, not to apiVersion '${apiVersion}': this one`;
  const path = meant === undefined ? ['kind'] : apiVersion === '' ? [] : ['apiVersion'];
  const hint = hintFor(kind, own);
  const say = (message: string): Problem =>
    document.problemAt(path, `${what} ${message}`, hint === undefined ? {} : { hint });
  const targets = targetsOf(document.value);
  const protects = mayProtect(kind, group, own);
  if (protects || targets !== 'none') {
    if (typeof targets === 'string') return { stops: true, problem: say('is not served by a gateway') };
    const ours = targets.flatMap((one) => meantBy(one));
    if (ours.length > 0)
      return { closes: ours, problem: say('may protect and is not evaluated here, so what it names answers 500') };
    if (protects && !targets.every(isOfOthers))
      return { isSlip: true, isNoted: true, problem: say('may protect, and what it names is nothing that is known') };
  }
  // Others have kinds with the same names; if the group is nearly right, ours was meant.
  const isSlip =
    slipOf(kind, own) !== undefined || (meant !== undefined && !/(?:^|\.)(?:istio|linkerd)\.io$/.test(group));
  const isOthers = core.includes(kind) && group !== '';
  return {
    isSlip: isSlip && !isOthers,
    isNoted: !ofApplications.has(kind),
    problem: say('does not concern a gateway: skipped'),
  };
}

/** The kind meant by an unknown word. */
function slipOf(kind: string, own: OwnKinds): string | undefined {
  if (existing.has(kind)) return undefined;
  return didYouMean(kind, [...readKinds, ...own.keys()])?.match(/'(.*)'/)?.[1];
}

/** What to write instead, or what was meant; never another kind for an existing one. */
export function hintFor(kind: string, own: OwnKinds = new Map()): string | undefined {
  const isMeant = existing.has(kind) || own.has(kind);
  return instead.get(kind) ?? (isMeant ? undefined : didYouMean(kind, [...readKinds, ...own.keys()]));
}

const routeKinds = ['HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute'] as const;
const targetKinds = ['Gateway', ...routeKinds] as const;

/** Gateway API's group, also misspelled or with its version. */
function isNearGroup(group: string): boolean {
  return nearestTo(group.replace(/\/.*$/, ''), [gatewayApi]) !== undefined;
}

/** The kind meant by a word, in any case; undefined for another existing kind. */
function nearKind<K extends string>(kind: string, kinds: readonly K[]): K | undefined {
  return existing.has(kind) ? kinds.find((one) => one === kind) : (nearestTo(kind, kinds) as K | undefined);
}

/** The kind of route meant by a document whose kind or group is a slip. */
export function routeMeantBy(kind: string, apiVersion: string): RouteKind | undefined {
  const group = apiVersion.includes('/') ? apiVersion.slice(0, apiVersion.indexOf('/')) : '';
  return group === '' || isNearGroup(group) ? nearKind(kind, routeKinds) : undefined;
}

/**
 * Which of our objects a target names, or may name: if its kind is a misspelled route or Gateway, everything with its
 * name.
 */
function meantBy(target: Target): readonly Target[] {
  const { group, kind } = target;
  const near = isNearGroup(group) ? nearKind(kind, targetKinds) : undefined;
  if (near !== undefined) return [{ ...target, group: gatewayApi, kind: near }];
  if (!/gateway|route/i.test(`${kind} ${group}`) || isOfOthers(target)) return [];
  const { sectionName, ...whole } = target;
  return targetKinds.map((one) => ({ ...whole, group: gatewayApi, kind: one }));
}

/** A kind of Kubernetes, or of another mesh, that exists. */
function isOfOthers({ group, kind }: Target): boolean {
  const isOurs = (targetKinds as readonly string[]).includes(kind);
  return isOurs ? /(?:^|\.)(?:istio|linkerd)\.io$/.test(group) : existing.has(kind);
}

const saidTarget = z.looseObject({
  group: z.string().optional(),
  /** For a reference that is not one of GEP-713's. */
  apiVersion: z.string().optional(),
  kind: z.string().min(1),
  name: z.string().min(1),
  sectionName: z.string().optional().catch(undefined),
  namespace: z.string().optional(),
});

/**
 * The targets that a document names: by GEP-713 everything with targets is a policy, whatever its kind. `unclear` if
 * not all of them can be read, or are here. A `target` with other fields may be anything: it counts if it mentions
 * routes.
 */
function targetsOf(value: unknown): readonly Target[] | 'none' | 'unclear' {
  const { spec, metadata } = value as { readonly spec?: unknown; readonly metadata?: { readonly namespace?: unknown } };
  if (typeof spec !== 'object' || spec === null) return 'none';
  const { targetRef, targetRefs = [], targetSelectors, ...others } = spec as Readonly<Record<string, unknown>>;
  if (targetSelectors !== undefined || !Array.isArray(targetRefs)) return 'unclear';
  const nearly = Object.keys(others).filter((key) => /^targets?(?:-?_?refs?)?$/i.test(key));
  const said = [
    ...(targetRef === undefined ? [] : [targetRef]),
    ...(targetRefs as unknown[]),
    ...nearly.flatMap((key) => others[key]).filter(isOfRoutes),
  ];
  if (said.length === 0) return 'none';
  const own = typeof metadata?.namespace === 'string' ? metadata.namespace : 'default';
  const told = said.flatMap((one): Target[] => {
    const { success, data } = saidTarget.safeParse(one);
    if (!success) return [];
    const { kind, name, sectionName, namespace = own, apiVersion } = data;
    const group = data.group ?? apiVersion?.replace(/\/?[^/]*$/, '') ?? gatewayApi;
    const target = { ...{ group, kind, name }, ...(sectionName === undefined ? {} : { sectionName }) };
    // Our own objects in another namespace cannot be closed from here.
    return namespace !== own && meantBy(target).length > 0 ? [] : [target];
  });
  return told.length < said.length ? 'unclear' : told;
}

function isOfRoutes(said: unknown): boolean {
  const { kind, group, apiVersion } = (typeof said === 'object' && said !== null ? said : {}) as Record<
    string,
    unknown
  >;
  return /gateway|route/i.test(`${kind} ${group} ${apiVersion}`);
}

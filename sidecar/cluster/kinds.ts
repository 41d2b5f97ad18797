// The kinds that are watched for a gateway, and where the API server has them.

/** A kind of objects. */
export interface WatchedKind {
  readonly kind: string;
  /** As in paths: `httproutes`. */
  readonly plural: string;
  /** Empty for the core group. */
  readonly group: string;
  /** The versions that are read here, the best first: the first one that the API server has is watched. */
  readonly versions: readonly string[];
  /** Has no namespace. */
  readonly isClusterWide?: true;
  /** What the API server leaves out. */
  readonly fieldSelector?: string;
  /** Built in: without it the API server lies. Other kinds come with a CRD, which may not be there. */
  readonly isBuiltIn?: true;
  /** No gateway works without its CRD: that it is not there is an error, and no state. */
  readonly isRequired?: true;
  /** Its objects open something and restrict nothing: without them there is less to serve. */
  readonly isRoute?: true;
  /** A policy that is not evaluated here: what it names is closed. Its status is left to its own controller. */
  readonly isForeign?: true;
  /**
   * Documents refer to its objects, which may change while the documents may not. All other kinds are documents: while
   * one of them is not followed, no document of any kind changes. A new route could lack its policy, and a policy that
   * is gone could have been removed after a route that is still here.
   */
  readonly isData?: true;
}

/**
 * Whether its objects protect: policies, and also Gateways, namespaces and Services, whose fields and labels say who may
 * attach and who the peer is.
 */
export function protects({ isRoute, isData }: WatchedKind): boolean {
  return isRoute !== true && isData !== true;
}

const gatewayApi = 'gateway.networking.k8s.io';
const envoyGateway = 'gateway.envoyproxy.io';

/**
 * What no document of a gateway refers to: releases of Helm, which have up to 1 MB each, tokens, and passwords of
 * registries.
 */
const usedSecrets = [
  'type!=helm.sh/release.v1',
  'type!=kubernetes.io/service-account-token',
  'type!=kubernetes.io/dockerconfigjson',
  'type!=bootstrap.kubernetes.io/token',
].join(',');

/** The kinds of other groups than ours. */
const standardKinds: readonly WatchedKind[] = [
  {
    kind: 'GatewayClass',
    plural: 'gatewayclasses',
    group: gatewayApi,
    versions: ['v1', 'v1beta1'],
    ...{ isClusterWide: true, isRequired: true },
  },
  { ...{ kind: 'Gateway', plural: 'gateways', group: gatewayApi, versions: ['v1', 'v1beta1'] }, isRequired: true },
  {
    ...{ kind: 'HTTPRoute', plural: 'httproutes', group: gatewayApi, versions: ['v1', 'v1beta1'] },
    ...{ isRequired: true, isRoute: true },
  },
  { kind: 'GRPCRoute', plural: 'grpcroutes', group: gatewayApi, versions: ['v1', 'v1alpha2'], isRoute: true },
  {
    kind: 'TLSRoute',
    plural: 'tlsroutes',
    group: gatewayApi,
    versions: ['v1', 'v1alpha3', 'v1alpha2'],
    isRoute: true,
  },
  { kind: 'TCPRoute', plural: 'tcproutes', group: gatewayApi, versions: ['v1', 'v1alpha2'], isRoute: true },
  {
    ...{ kind: 'ReferenceGrant', plural: 'referencegrants', group: gatewayApi, versions: ['v1', 'v1beta1'] },
    isRequired: true,
  },
  named('BackendTLSPolicy', gatewayApi, ['v1', 'v1alpha3']),
  named('SecurityPolicy', envoyGateway, ['v1alpha1']),
  named('BackendTrafficPolicy', envoyGateway, ['v1alpha1']),
  named('ClientTrafficPolicy', envoyGateway, ['v1alpha1']),
  { ...named('EnvoyExtensionPolicy', envoyGateway, ['v1alpha1']), isForeign: true },
  { ...named('EnvoyPatchPolicy', envoyGateway, ['v1alpha1']), isForeign: true },
  { ...named('AuthorizationPolicy', 'security.istio.io', ['v1', 'v1beta1']), isForeign: true },
  { ...named('RequestAuthentication', 'security.istio.io', ['v1', 'v1beta1']), isForeign: true },
  {
    ...{ kind: 'DestinationRule', plural: 'destinationrules', group: 'networking.istio.io' },
    versions: ['v1', 'v1beta1', 'v1alpha3'],
  },
  { kind: 'Namespace', plural: 'namespaces', group: '', versions: ['v1'], isClusterWide: true, isBuiltIn: true },
  { kind: 'Service', plural: 'services', group: '', versions: ['v1'], isBuiltIn: true },
  {
    ...{ kind: 'Secret', plural: 'secrets', group: '', versions: ['v1'], fieldSelector: usedSecrets },
    ...{ isBuiltIn: true, isData: true },
  },
  {
    kind: 'ConfigMap',
    plural: 'configmaps',
    group: '',
    versions: ['v1'],
    ...{ isBuiltIn: true, isData: true },
  },
  {
    ...{ kind: 'EndpointSlice', plural: 'endpointslices', group: 'discovery.k8s.io', versions: ['v1'] },
    ...{ isBuiltIn: true, isData: true },
  },
];

/** All kinds of a gateway. `own` are the names of our own kinds, all of one version. */
export function gatewayKinds(own: readonly string[], ownGroup: string, version: string): readonly WatchedKind[] {
  return [...standardKinds, ...own.map((kind) => named(kind, ownGroup, [version]))];
}

function named(kind: string, group: string, versions: readonly string[]): WatchedKind {
  return { kind, plural: pluralOf(kind), group, versions };
}

/** As a CRD names it: `requestvalidations`, `mcpauthorizations`, `cachepolicies`. */
export function pluralOf(kind: string): string {
  const one = kind.toLowerCase();
  if (/[^aeiou]y$/.test(one)) return `${one.slice(0, -1)}ies`;
  return /(?:s|x|ch|sh)$/.test(one) ? `${one}es` : `${one}s`;
}

/** The path of a kind's collection, in one namespace or in all. */
export function pathOf({ plural, group }: WatchedKind, version: string, namespace: string | undefined): string {
  const space = namespace === undefined ? '' : `/namespaces/${encodeURIComponent(namespace)}`;
  return `${groupPath(group, version)}${space}/${plural}`;
}

export function groupPath(group: string, version: string): string {
  return group === '' ? `/api/${version}` : `/apis/${group}/${version}`;
}

// The kinds of Gateway API, Envoy Gateway, Istio and Kubernetes for traffic that are not read, each with what has its place
// here. They exist: none of them is a slip.

const address = "name its addresses under 'upstreams' in sidecar.yaml or gateway.yaml";
const extension =
  "no code of others runs in a proxy here: 'extensionProviders', or 'extAuth' of a SecurityPolicy, ask an external authorizer";
const ownFile = 'sidecar.yaml or gateway.yaml says how a proxy runs';
const inGateway = 'write its listeners into their Gateway';

/** What to use instead, by kind. */
export const instead: ReadonlyMap<string, string> = new Map([
  // Gateway API.
  ['UDPRoute', 'UDP is not served: a TCPRoute passes TCP, a TLSRoute passes TLS'],
  ['ListenerSet', inGateway],
  ['XListenerSet', inGateway],
  ['XBackendTrafficPolicy', "a BackendTrafficPolicy of Envoy Gateway has 'retry'; a rule has 'sessionPersistence'"],
  ['BackendLBPolicy', "a rule of a route has 'sessionPersistence'"],
  ['Mesh', 'each workload has its sidecar.yaml'],
  ['XMesh', 'each workload has its sidecar.yaml'],
  // Envoy Gateway.
  [
    'ClientTrafficPolicy',
    "gateway.yaml has 'limits', 'gatewayTopology' and 'downstreamTls'; a Gateway has 'tls.frontend'",
  ],
  ['Backend', "name its address under 'upstreams' in gateway.yaml, and the Service under 'backends'"],
  ['HTTPRouteFilter', 'a rule has the filters of Gateway API'],
  ['EnvoyProxy', 'gateway.yaml says how a gateway runs'],
  ['EnvoyGateway', 'gateway.yaml says how a gateway runs'],
  ['EnvoyExtensionPolicy', extension],
  ['EnvoyPatchPolicy', extension],
  // Istio.
  ['VirtualService', 'write it as an HTTPRoute'],
  ['ServiceEntry', address],
  ['WorkloadEntry', address],
  ['WorkloadGroup', "'workload' and 'identity' in sidecar.yaml say what a workload is"],
  ['Sidecar', "'inbound', 'outbound' and 'upstreams' in sidecar.yaml say what a workload serves and reaches"],
  ['EnvoyFilter', extension],
  ['WasmPlugin', extension],
  ['ProxyConfig', ownFile],
  ['Telemetry', "'accessLog' says where requests are logged; all metrics are always served"],
  // Kubernetes.
  ['Ingress', 'write it as a Gateway and an HTTPRoute'],
  ['IngressClass', 'write it as a GatewayClass'],
  ['ServiceImport', address],
  ['ServiceExport', address],
]);

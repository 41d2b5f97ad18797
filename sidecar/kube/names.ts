// The names that injection gives to things in a pod. An injected pod is recognized by the annotation `status`, which
// also says how it was before.

/** The container. Its name is no other mesh's, so that both can be told apart. */
export const containerName = 'sallyport-proxy';

/** Prefix of our volumes. */
export const volumePrefix = 'sallyport-';

/** Annotations on pods. Users write the first ones, injection the others. */
export const annotations = Object.freeze({
  /** Fields of sidecar.yaml, as YAML: they replace the derived ones; `upstreams` are added. */
  settings: 'sallyport.dev/settings',
  /** `8080=grpc,5432=tcp`. */
  protocols: 'sallyport.dev/protocols',
  /** A ConfigMap with policies in the pod's namespace. */
  policies: 'sallyport.dev/policies',
  /** The complete sidecar.yaml, which the sidecar reads through a downward API volume. */
  config: 'sallyport.dev/sidecar.yaml',
  /** The roots to trust at first. */
  bundle: 'sallyport.dev/bundle.pem',
  status: 'sallyport.dev/status',
});

/** On a Service whose target ports were changed: what they were. */
export const targetPortsAnnotation = 'sallyport.dev/target-ports';

/** The label that says whether to inject; it counts before Istio's. */
export const injectLabel = 'sallyport.dev/inject';

/** On injected pods, for the selectors of NetworkPolicies. */
export const injectedLabel = 'sallyport.dev/injected';

/** The ports of a sidecar; the numbers are Istio's. */
export const outboundPort = 15001;
export const adminPort = 15000;
export const defaultHealthPort = 15021;
const firstInboundPort = 15006;
const furtherInboundPort = 15100;
/** `15100` to `15198`: a NetworkPolicy can name them as one range. */
export const mostInboundPorts = 100;

/** The sidecar's port for the `index`-th port of the app. */
export function inboundPort(index: number): number {
  return index === 0 ? firstInboundPort : furtherInboundPort + index - 1;
}

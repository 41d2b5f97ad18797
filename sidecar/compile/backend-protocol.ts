// The protocol of a backend: 'protocol' of gateway.yaml, else the Service's `appProtocol` (GEP-1911, KEP-3726), else
// the kind of the route: gRPC is HTTP/2 (GRPCRoute's text says negotiated or known).

import type { Settings } from '../config/settings.ts';
import type { NamedBackend } from '../edge/capability.ts';
import { type GuardingPolicy, titleOf } from '../edge/policy.ts';
import { backendTlsFor } from '../routing/backend-tls.ts';
import { type GatewayDocuments, keyOf, type RouteDocument } from '../routing/documents.ts';

/** The backend. */
export interface Asking {
  readonly upstream: string;
  /** `namespace/name:port` of the Service. */
  readonly service: string;
  /** Names what sends gRPC to it: `GRPCRoute shop/r`; undefined if nothing certainly does. */
  readonly grpc?: string | undefined;
  /** Names a policy that makes calls in gRPC of what is sent to it. */
  readonly translated?: string | undefined;
}

/** The protocol of a backend, and why. */
export interface Spoken {
  /** Undefined: as TLS negotiates; without TLS HTTP/1.1. */
  readonly version: Version | undefined;
  /** True if it differs from gateway.yaml for all routes: it needs connections of its own. */
  readonly isParticular: boolean;
  /** A sentence for `--check`. */
  readonly sentence: string;
  /** Why the backend cannot be reached as configured. */
  readonly problem: string | undefined;
  /** Contradictions that are served all the same. */
  readonly contradictions: readonly string[];
}

type Version = 'HTTP/2' | 'HTTP/1.1';

interface Word {
  readonly version: Version;
  readonly by: string;
}

/** What an `appProtocol` means, in lower case; others say nothing about HTTP. */
const appProtocols: ReadonlyMap<string, { readonly version?: Version; readonly tls?: boolean }> = new Map([
  ['kubernetes.io/h2c', { version: 'HTTP/2', tls: false }],
  ['kubernetes.io/ws', { version: 'HTTP/1.1', tls: false }],
  ['kubernetes.io/wss', { version: 'HTTP/1.1', tls: true }],
  ['https', { tls: true }],
  ['tls', { tls: true }],
  // Istio's values.
  ['h2c', { version: 'HTTP/2', tls: false }],
  ['http2', { version: 'HTTP/2' }],
  ['grpc', { version: 'HTTP/2' }],
]);

/** The protocol of a backend of requests. Throws nothing. */
export function spokenTo(
  { upstream, service, grpc, translated }: Asking,
  { upstreams, gateway }: Settings,
  documents: GatewayDocuments,
): Spoken {
  const isPeer = Object.hasOwn(upstreams, upstream);
  const ours = isPeer ? undefined : gateway!.outside[upstream]?.protocol;
  const appProtocol = appProtocolOf(service, documents);
  const { version, tls } = appProtocols.get(appProtocol?.toLowerCase() ?? '') ?? {};
  const words: Word[] = [
    ...(ours === undefined ? [] : [{ version: versionOf(ours), by: "by 'protocol' in gateway.yaml" }]),
    ...(version === undefined ? [] : [{ version, by: `by its appProtocol ${appProtocol}` }]),
    ...(grpc === undefined ? [] : [{ version: 'HTTP/2' as const, by: `for ${grpc}` }]),
  ];
  const isTls = !isPeer && backendTlsFor(service, documents) !== undefined;
  const over = isPeer ? 'over mutual TLS' : isTls ? 'over TLS' : 'without TLS';
  // A peer negotiates by ALPN.
  const [first] = isPeer ? [] : words;
  const spoken = first?.version ?? (isPeer || isTls ? 'HTTP/2 or HTTP/1.1' : 'HTTP/1.1');
  const problem =
    tls === true && !isPeer && !isTls
      ? `its appProtocol ${appProtocol} means TLS, but neither 'identity' nor a BackendTLSPolicy says which peer to expect`
      : undefined;
  const name = `Service ${service} (upstream '${upstream}')`;
  return {
    version: first?.version,
    isParticular: first !== undefined && ours === undefined,
    sentence:
      problem === undefined
        ? `${name}: ${spoken} ${over}${first === undefined ? '' : `, ${first.by}`}`
        : `${name}: not at all: ${problem}`,
    problem: problem === undefined ? undefined : `Service ${service}: ${problem}`,
    contradictions: [
      ...(isPeer ? [] : words.slice(1))
        .filter((one) => one.version !== first!.version)
        .map(
          (one) => `Service ${service}: ${first!.version} ${first!.by}, and ${one.version} ${one.by}: the first holds`,
        ),
      ...(translated !== undefined && spoken === 'HTTP/1.1'
        ? [
            `${translated} calls gRPC, which needs HTTP/2, and Service ${service} is spoken to in HTTP/1.1: write ` +
              `'appProtocol: kubernetes.io/h2c' at its port, or 'protocol: http2' at upstream '${upstream}' in gateway.yaml`,
          ]
        : []),
      ...(tls === false && (isTls || isPeer)
        ? [`Service ${service}: its appProtocol ${appProtocol} is one without TLS, and it is spoken to ${over}`]
        : []),
    ],
  };
}

/** Names a route whose calls are gRPC. */
export function grpcOf(route: RouteDocument): string | undefined {
  return route.kind === 'GRPCRoute' ? `GRPCRoute ${keyOf(route)}` : undefined;
}

/** Names a part of a policy whose backend is called in gRPC. */
export function askedInGrpc(policy: GuardingPolicy, { grpc }: NamedBackend, field: string): string | undefined {
  return grpc === true ? `${field} of ${titleOf(policy)}` : undefined;
}

function versionOf(protocol: 'http' | 'http2'): Version {
  return protocol === 'http2' ? 'HTTP/2' : 'HTTP/1.1';
}

function appProtocolOf(service: string, { services }: GatewayDocuments): string | undefined {
  const [, namespace, name, port] = /^([^/]+)\/(.+):(\d*)$/.exec(service) ?? [];
  return services
    .find((one) => one.namespace === namespace && one.name === name)
    ?.spec.ports.find((one) => String(one.port) === port)?.appProtocol;
}

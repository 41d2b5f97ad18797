// The result of reading sidecar.yaml or gateway.yaml: one complete, typed, frozen value for both. Types only; a running
// process holds this, and not the schemas that read it.

import type { Address } from '../../cert-agent/base/address.ts';
import type { ApiServer } from '../../cert-agent/base/api-server.ts';
import type { Limits } from '../exchange/limits.ts';
import type { LearnSettings } from '../observe/learned.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { Workload } from '../policy/policy.ts';
import type { TlsSettings, TlsVersion } from '../protocol/tls.ts';
import type { AppCheck, NamedProbe } from '../upstream/probe.ts';
import type { ProviderSettings } from './extension-providers.ts';

/** The app's protocol: HTTP/1.1, HTTP/2 by prior knowledge (gRPC is that), or bytes. */
export type AppProtocol = 'http' | 'http2' | 'grpc' | 'tcp';

/** The source of our own credential: exactly one of the three. Paths are absolute. */
export interface IdentitySettings {
  readonly files?:
    | { readonly svid: string; readonly key: string; readonly bundle: string; readonly denied?: string | undefined }
    | undefined;
  readonly ca?:
    | {
        readonly url: string;
        readonly bundle: string;
        readonly tokenFile?: string | undefined;
        /** A projected service-account token, in place of a join token. */
        readonly kubernetesTokenFile?: string | undefined;
        readonly outDir: string;
        /** Milliseconds. */
        readonly ttl?: number | undefined;
      }
    | undefined;
  readonly agent?: string | undefined;
}

/** A port that accepts requests for the app. */
export interface InboundSettings {
  readonly port: number;
  /** Undefined binds all addresses, both families where the machine has them. */
  readonly bind: string | undefined;
  readonly app: Address;
  readonly protocol: AppProtocol;
  /** The port that policies see. */
  readonly policyPort: number;
  /** How a probe that asks us checks the app. */
  readonly appHealth?: AppCheck | undefined;
}

/** A port for the app's outgoing requests. */
export interface OutboundSettings {
  readonly port: number;
  readonly bind: string;
  /** For bytes, which name no upstream. */
  readonly upstream?: string | undefined;
  readonly protocol: AppProtocol;
}

/** An upstream in the mesh. */
export interface UpstreamSettings {
  readonly endpoints: readonly Address[];
  /** SPIFFE IDs, one of which the server must prove. */
  readonly identity: readonly string[];
  /** Undefined: by ALPN, and HTTP/1.1 without it. */
  readonly protocol?: 'http' | 'http2' | 'grpc' | undefined;
  readonly hosts: readonly string[];
}

/** All settings of a process. */
export interface Settings {
  readonly file: string;
  readonly trustDomain: string;
  readonly workload: Workload;
  readonly identity: IdentitySettings;
  readonly inbound: readonly InboundSettings[];
  readonly outbound: readonly OutboundSettings[];
  readonly upstreams: Readonly<Record<string, UpstreamSettings>>;
  /** Directory, absolute; undefined means no policies. */
  readonly policies: string | undefined;
  /** Checks of the app by name, `web/readyz`: probes of Kubernetes that were rewritten to ask us. */
  readonly appProbes?: Readonly<Record<string, NamedProbe>>;
  readonly admin: Address | undefined;
  readonly health: Address | undefined;
  readonly accessLog: string;
  readonly defaultAction: 'deny' | 'allow';
  readonly defaultMtls: 'STRICT' | 'PERMISSIVE';
  /** SPIFFE IDs of the gateways whose transaction tokens are accepted. */
  readonly gateways: readonly string[];
  /** Bundles of other trust domains, absolute paths by name. */
  readonly federatedBundles: Readonly<Record<string, string>>;
  readonly rootNamespace: string;
  readonly extensionProviders: readonly ProviderSettings[];
  /** True if responses name the decision, `x-sallyport-decision`. */
  readonly decisionHeader: boolean;
  /** Learn mode: the observed traffic is kept there. */
  readonly learn: LearnSettings | undefined;
  /** Other names of our trust domain, which policies may use. */
  readonly trustDomainAliases: readonly string[];
  readonly pathNormalization: PathNormalization;
  /**
   * The number of trusted proxies in front of this workload's callers; undefined: no client address is taken from a
   * header.
   */
  readonly numTrustedProxies: number | undefined;
  readonly tls: TlsSettings;
  readonly limits: Limits;
  /** The fields of sidecar.yaml that capabilities of the edge read; absent where none is set. */
  readonly capabilities?: Readonly<Record<string, unknown>>;
  /** Present for a gateway, which has no app. */
  readonly gateway?: GatewaySettings;
}

/** The settings that only a gateway has. Paths are absolute; plain data. */
export interface GatewaySettings {
  /** The address of a Gateway's port, `host:port` by `namespace/name:port`. */
  readonly listeners: Readonly<Record<string, string>>;
  /** Upstreams by `namespace/name:port` of the Service. */
  readonly backends: Readonly<Record<string, string>>;
  /** PEM files by the `namespace/name` of the Secret that they replace. */
  readonly certificates: Readonly<Record<string, { readonly certificate: string; readonly key: string }>>;
  /** Upstreams outside the mesh: in plaintext on loopback or if configured, else by a BackendTLSPolicy. */
  readonly outside: Readonly<Record<string, OutsideUpstream>>;
  readonly downstreamTls: { readonly minVersion: TlsVersion };
  /** File with the keys that seal sessions, one a line; the first one seals. */
  readonly sessionKeys: string | undefined;
  readonly redis: RedisSettings | undefined;
  /** Directory with `404.html`, `5xx.html`. */
  readonly errorPages: string | undefined;
  /** File or directory with CRLs for clients' certificates. */
  readonly clientCrls: { readonly path: string; readonly onlyLeaf: boolean } | undefined;
  /** Headers of proxies that clients may set here all the same: names in lower case, or `cf-*`. */
  readonly unsafeClientHeaders: readonly string[];
  /**
   * The senders that must use the PROXY protocol: addresses and blocks, and the listeners (`namespace/name:port`;
   * undefined: all).
   */
  readonly proxyProtocol:
    | { readonly trustedCIDRs: readonly string[]; readonly listeners: readonly string[] | undefined }
    | undefined;
  /** Present if the documents come from an API server and not from a directory. */
  readonly kubernetes?: KubernetesSettings | undefined;
}

/** An API server, and what of it is read. Paths are absolute. */
export interface KubernetesSettings {
  readonly server: ApiServer;
  /** Undefined: all. */
  readonly namespaces: readonly string[] | undefined;
  /** True if Services without an identity and without a BackendTLSPolicy get plaintext. */
  readonly unsafePlaintext: boolean;
  /** The Lease of the gateway that writes statuses; undefined: this one writes none. */
  readonly lease: { readonly namespace: string; readonly name: string } | undefined;
}

/** An upstream outside the mesh. */
export interface OutsideUpstream {
  readonly endpoints: readonly Address[];
  /** Plaintext, readable on the way. */
  readonly unsafePlaintext: boolean;
  /** HTTP/2 by prior knowledge, or HTTP/1.1; undefined: as its Service or its routes say. */
  readonly protocol: 'http' | 'http2' | undefined;
}

/** The Redis that several gateways share. */
export interface RedisSettings {
  readonly url: string;
  readonly passwordFile: string | undefined;
  readonly caFile: string | undefined;
  readonly timeoutMs: number;
}

// What sidecar.yaml and gateway.yaml come to: one complete, typed, frozen value for both. Types only; a running process holds this
// and not the schemas that read it.

import type { Address } from '../../cert-agent/base/address.ts';
import type { Limits } from '../exchange/limits.ts';
import type { LearnSettings } from '../observe/learned.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { Workload } from '../policy/policy.ts';
import type { TlsSettings, TlsVersion } from '../protocol/tls.ts';
import type { AppCheck } from '../upstream/probe.ts';
import type { ProviderSettings } from './extension-providers.ts';

/** What an app speaks: HTTP/1.1, HTTP/2 by prior knowledge (gRPC is that), or bytes. */
export type AppProtocol = 'http' | 'http2' | 'grpc' | 'tcp';

/** Where our own credential comes from: exactly one of the three. Paths are absolute. */
export interface IdentitySettings {
  readonly files?:
    | { readonly svid: string; readonly key: string; readonly bundle: string; readonly denied?: string | undefined }
    | undefined;
  readonly ca?:
    | {
        readonly url: string;
        readonly bundle: string;
        readonly tokenFile?: string | undefined;
        readonly outDir: string;
        /** Milliseconds. */
        readonly ttl?: number | undefined;
      }
    | undefined;
  readonly agent?: string | undefined;
}

export interface InboundSettings {
  readonly port: number;
  /** Undefined binds all addresses, both families where the machine has them. */
  readonly bind: string | undefined;
  readonly app: Address;
  readonly protocol: AppProtocol;
  /** The port that policies see. */
  readonly policyPort: number;
  /** What the app is asked when a probe asks us. */
  readonly appHealth?: AppCheck | undefined;
}

/** A port that the app sends to. */
export interface OutboundSettings {
  readonly port: number;
  readonly bind: string;
  /** For bytes, which do not name their upstream. */
  readonly upstream?: string | undefined;
  readonly protocol: AppProtocol;
}

export interface UpstreamSettings {
  readonly endpoints: readonly Address[];
  /** SPIFFE IDs, of which the server must prove one. */
  readonly identity: readonly string[];
  /** Undefined: as ALPN says, and HTTP/1.1 where it says nothing. */
  readonly protocol?: 'http' | 'http2' | 'grpc' | undefined;
  readonly hosts: readonly string[];
}

export interface Settings {
  readonly file: string;
  readonly trustDomain: string;
  readonly workload: Workload;
  readonly identity: IdentitySettings;
  readonly inbound: readonly InboundSettings[];
  readonly outbound: readonly OutboundSettings[];
  readonly upstreams: Readonly<Record<string, UpstreamSettings>>;
  /** Directory, absolute; undefined is 'no policy at all'. */
  readonly policies: string | undefined;
  readonly admin: Address | undefined;
  readonly health: Address | undefined;
  readonly accessLog: string;
  readonly defaultAction: 'deny' | 'allow';
  readonly defaultMtls: 'STRICT' | 'PERMISSIVE';
  /** SPIFFE IDs of the gateways whose word on users is taken, in transaction tokens. */
  readonly gateways: readonly string[];
  /** Bundles of other trust domains, absolute paths by name. */
  readonly federatedBundles: Readonly<Record<string, string>>;
  readonly rootNamespace: string;
  readonly extensionProviders: readonly ProviderSettings[];
  /** Whether answers name the decision, `x-sallyport-decision`. */
  readonly decisionHeader: boolean;
  /** Learn mode: who called what is kept there. */
  readonly learn: LearnSettings | undefined;
  /** Other names of our trust domain, which policies may use for it. */
  readonly trustDomainAliases: readonly string[];
  readonly pathNormalization: PathNormalization;
  /** How many proxies in front of this workload's callers may be believed; undefined: nobody's word on a client's address. */
  readonly numTrustedProxies: number | undefined;
  readonly tls: TlsSettings;
  readonly limits: Limits;
  /** Present for a gateway, which has no app beside it. */
  readonly gateway?: GatewaySettings;
}

/** What a gateway has that a sidecar has not. Paths are absolute; plain data. */
export interface GatewaySettings {
  /** Where a Gateway's port is served, `host:port` by `namespace/name:port`. */
  readonly listeners: Readonly<Record<string, string>>;
  /** Upstreams by `namespace/name:port` of the Service. */
  readonly backends: Readonly<Record<string, string>>;
  /** PEM files by the `namespace/name` of the Secret that they stand for. */
  readonly certificates: Readonly<Record<string, { readonly certificate: string; readonly key: string }>>;
  /** Upstreams that are no workloads of a mesh: in the clear on loopback or where that was asked for, else by a BackendTLSPolicy. */
  readonly outside: Readonly<Record<string, OutsideUpstream>>;
  readonly downstreamTls: { readonly minVersion: TlsVersion };
  /** File with the keys that sessions are sealed with, one a line, the first seals. */
  readonly sessionKeys: string | undefined;
  readonly redis: RedisSettings | undefined;
  /** Directory with `404.html`, `5xx.html`. */
  readonly errorPages: string | undefined;
  /** Headers that are a proxy's to set and that clients may set here all the same: names in lower case, or `cf-*`. */
  readonly unsafeClientHeaders: readonly string[];
  /** Who must send the PROXY protocol: addresses and blocks, and to which listeners (`namespace/name:port`; undefined: all). */
  readonly proxyProtocol:
    | { readonly trustedCIDRs: readonly string[]; readonly listeners: readonly string[] | undefined }
    | undefined;
}

export interface OutsideUpstream {
  readonly endpoints: readonly Address[];
  /** In the clear, whoever listens on the way. */
  readonly unsafePlaintext: boolean;
  /** What it speaks: HTTP/2 without being asked, or HTTP/1.1; undefined: as its Service, or its routes, have it. */
  readonly protocol: 'http' | 'http2' | undefined;
}

export interface RedisSettings {
  readonly url: string;
  readonly passwordFile: string | undefined;
  readonly caFile: string | undefined;
  readonly timeoutMs: number;
}

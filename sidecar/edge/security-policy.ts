// SecurityPolicy as it was read: plain data that crosses from the process that reads documents. Secrets stand here by their
// names only; whoever compiles the policy asks for them.

import type { JwtRule } from '../policy/request-authentication.ts';

/** What a policy is attached to: a Gateway or a route in its own namespace, or one section of it. */
export interface PolicyTarget {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly sectionName?: string;
}

/** How a policy stands to those that are less specific; see documents/envoy-gateway/merge.ts. */
export interface Layered<P> {
  /** It is laid over the policy of its listener or Gateway, and does not take its place. */
  readonly mergeType?: 'StrategicMerge' | 'JSONMerge';
  /** What it is together with each policy that it may be laid over, by `namespace/name`; '' stands for none. */
  readonly merged?: Readonly<Record<string, P | { readonly problem: string }>>;
  /** Nothing of it may be lost to a policy that is more specific. */
  readonly required?: boolean;
}

/** A Secret of the policy's own namespace. */
export interface SecretRef {
  readonly name: string;
}

/** Where a credential stands in a request; one of the three lists holds something. */
export interface Places {
  /** Lower case. */
  readonly headers: readonly string[];
  readonly params: readonly string[];
  readonly cookies: readonly string[];
}

export interface JwtPolicy {
  /** Requests without a token pass as nobody's. */
  readonly optional: boolean;
  readonly providers: readonly { readonly name: string; readonly rule: JwtRule }[];
}

/** How one header of a request is compared. */
export interface HeaderTest {
  /** Lower case. */
  readonly name: string;
  readonly type: 'Exact' | 'Prefix' | 'Suffix' | 'Contains';
  readonly value: string;
  readonly ignoreCase: boolean;
}

export interface OidcPolicy {
  readonly issuer: string;
  /** Absent: the issuer's discovery document says it. */
  readonly authorizationEndpoint?: string;
  readonly tokenEndpoint?: string;
  readonly endSessionEndpoint?: string;
  readonly jwksUri?: string;
  readonly clientId: string;
  readonly clientSecret: SecretRef;
  /** Absent: the keys of the process, else what the client's secret gives. */
  readonly sessionKeys?: SecretRef;
  /** `openid` is among them. */
  readonly scopes: readonly string[];
  readonly resources: readonly string[];
  readonly redirectUrl: string;
  readonly logoutPath: string;
  readonly forwardAccessToken: boolean;
  /** Lower case. */
  readonly forwardIdTokenHeader?: string;
  /** Claims of the ID token that the app is told. */
  readonly claimToHeaders: readonly { readonly header: string; readonly claim: string }[];
  /** The end of the session cookie's name: `__Host-sallyport-session-<name>`. */
  readonly cookieName?: string;
  readonly cookieDomain?: string;
  readonly sameSite: 'Lax' | 'Strict' | 'None';
  /** How long tokens hold that do not say it themselves; 0: until the ID token ends. */
  readonly defaultTokenMs: number;
  readonly refreshToken: boolean;
  /** How long a session can be refreshed, from its login. */
  readonly refreshMs: number;
  /** How long a login may take. */
  readonly loginMs: number;
  readonly denyRedirect: readonly HeaderTest[];
  /** A request with a token at one of the places of `jwt` needs no session. */
  readonly passThroughAuthHeader: boolean;
}

export interface IntrospectionPolicy {
  readonly endpoint: string;
  readonly clientId: string;
  readonly clientSecret: SecretRef;
  readonly cacheMs: number;
  /** Empty: any. */
  readonly audiences: readonly string[];
  readonly forwardOriginalToken: boolean;
}

export interface ApiKeyPolicy {
  readonly credentials: readonly SecretRef[];
  readonly extractFrom: readonly Places[];
  /** Lower case. */
  readonly forwardClientIdHeader?: string;
  /** Whether the app does not see the key. */
  readonly sanitize: boolean;
}

export interface BasicPolicy {
  readonly users: SecretRef;
  /** Lower case. */
  readonly forwardUsernameHeader?: string;
  readonly sanitize: boolean;
}

/** A backend as a document names it; whoever wires it finds its endpoints. */
export interface BackendTarget {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
  readonly port?: number;
}

export interface ExtAuthPolicy {
  readonly kind: 'grpc' | 'http';
  readonly backendRef: BackendTarget;
  /** What stands before the request's own path; empty with gRPC. */
  readonly path: string;
  /** Lower case. Empty with gRPC: all of them. */
  readonly headersToExtAuth: readonly string[];
  readonly headersToBackend: readonly string[];
  readonly timeoutMs: number;
}

export type EdgeAction = 'Allow' | 'Deny';

export interface ClaimTest {
  /** Dotted. */
  readonly name: string;
  readonly valueType: 'String' | 'StringArray';
  readonly values: readonly string[];
}

/** Everything that is said must hold; an empty list says nothing. */
export interface EdgeRule {
  /** As it was given, or what Envoy Gateway would call it. */
  readonly name: string;
  readonly action: EdgeAction;
  readonly methods: readonly string[];
  /** By Istio's string rule: exact, `/a/*`, `*.png`. */
  readonly paths: readonly string[];
  readonly clientCidrs: readonly string[];
  readonly jwt?: {
    readonly provider: string;
    readonly scopes: readonly string[];
    readonly claims: readonly ClaimTest[];
  };
  readonly headers: readonly { readonly name: string; readonly values: readonly string[] }[];
  readonly clientIds: readonly string[];
  readonly spiffeIds: readonly string[];
}

export interface EdgeAuthorizationPolicy {
  readonly defaultAction: EdgeAction;
  readonly rules: readonly EdgeRule[];
}

/** One SecurityPolicy of gateway.envoyproxy.io, read and checked. */
export interface SecurityPolicy extends Layered<SecurityPolicy> {
  readonly name: string;
  readonly namespace: string;
  readonly targets: readonly PolicyTarget[];
  /** Milliseconds since 1970; absent where the document does not say. Of two for one target the older holds. */
  readonly createdAt?: number;
  readonly jwt?: JwtPolicy;
  readonly oidc?: OidcPolicy;
  readonly introspection?: IntrospectionPolicy;
  readonly apiKeyAuth?: ApiKeyPolicy;
  readonly basicAuth?: BasicPolicy;
  readonly extAuth?: ExtAuthPolicy;
  readonly authorization?: EdgeAuthorizationPolicy;
  /** The namespaces of the parts that a merged policy has from another one: its Secrets and backends are there. */
  readonly namespaces?: Readonly<Record<string, string>>;
  readonly file: string;
  readonly line: number;
}

// The documents of a gateway as plain data: Gateway API's kinds, what they refer to (Services, Secrets, ConfigMaps,
// Namespaces), and the policies that are attached to them. An invalid document is kept as its problems, because others
// are served beside it and because what it was meant to protect must not be open.

import type { Problem } from '../../cert-agent/base/errors.ts';

/** A document's name and place. */
export interface Named {
  readonly kind: string;
  readonly apiVersion: string;
  readonly namespace: string;
  readonly name: string;
  readonly file: string;
  readonly line: number;
  /**
   * Milliseconds since 1970: its `creationTimestamp`, else when its file was last written; undefined without a file.
   */
  readonly createdAt: number | undefined;
  readonly generation: number;
}

export interface Document<Spec> extends Named {
  readonly spec: Spec;
}

/** An invalid document, for the standard's `Accepted` condition. */
export interface RefusedDocument extends Named {
  readonly reason: string;
  readonly problems: readonly Problem[];
  /** Its parents or targets, as far as they are readable. */
  readonly parents: readonly ParentRef[];
}

/** A document of an unknown kind that protects nothing. */
export interface PassedOver extends Named {
  /** Whether the kind looks like a misspelling of another. */
  readonly isSlip: boolean;
  readonly message: string;
}

export interface ObjectRef {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

export interface ParentRef extends ObjectRef {
  readonly sectionName?: string;
  readonly port?: number;
}

export interface ListenerSpec {
  readonly name: string;
  readonly hostname?: string;
  readonly port: number;
  readonly protocol: string;
  readonly tls?: {
    readonly mode: 'Terminate' | 'Passthrough';
    readonly certificateRefs?: readonly ObjectRef[];
    readonly frontendValidation?: ClientValidation;
    readonly options?: Readonly<Record<string, string>>;
  };
  readonly allowedRoutes?: {
    readonly namespaces?: {
      readonly from: 'All' | 'Selector' | 'Same' | 'None';
      readonly selector?: LabelSelector;
    };
    readonly kinds?: readonly { readonly group: string; readonly kind: string }[];
  };
}

/** Which client certificates a listener accepts. */
export interface ClientValidation {
  readonly caCertificateRefs: readonly ObjectRef[];
  readonly mode?: 'AllowValidOnly' | 'AllowInsecureFallback';
}

/** A ClientTrafficPolicy: what it demands of the clients of Gateways in its namespace. */
export interface ClientPolicy {
  readonly namespace: string;
  readonly name: string;
  readonly createdAt: number | undefined;
  readonly file: string;
  readonly line: number;
  readonly targets: readonly { readonly gateway: string; readonly listener: string | undefined }[];
  /** A client may show no certificate; one that it shows must be valid. */
  readonly optional: boolean;
  readonly caCertificateRefs: readonly ObjectRef[] | undefined;
  readonly crl: { readonly refs: readonly ObjectRef[]; readonly onlyLeaf: boolean } | undefined;
}

export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly matchExpressions?: readonly {
    readonly key: string;
    readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
    readonly values?: readonly string[];
  }[];
}

export interface GatewaySpec {
  readonly gatewayClassName: string;
  readonly listeners: readonly ListenerSpec[];
  readonly addresses?: readonly { readonly type: string; readonly value?: string }[];
  readonly infrastructure?: { readonly parametersRef?: { readonly kind: string; readonly name: string } };
  /** The former name of `tls.backend`. */
  readonly backendTLS?: unknown;
  readonly tls?: {
    /** The certificate to present to backends: not supported. */
    readonly backend?: unknown;
    readonly frontend?: {
      readonly default?: { readonly validation?: ClientValidation };
      readonly perPort?: readonly { readonly port: number; readonly tls: { readonly validation?: ClientValidation } }[];
    };
  };
}

export interface HeaderModifier {
  readonly set?: readonly NameValue[];
  readonly add?: readonly NameValue[];
  readonly remove?: readonly string[];
}

export interface NameValue {
  readonly name: string;
  readonly value: string;
}

export interface PathModifier {
  readonly type: 'ReplaceFullPath' | 'ReplacePrefixMatch';
  readonly replaceFullPath?: string;
  readonly replacePrefixMatch?: string;
}

export interface RouteFilter {
  readonly type: string;
  readonly requestHeaderModifier?: HeaderModifier;
  readonly responseHeaderModifier?: HeaderModifier;
  readonly requestRedirect?: {
    readonly scheme?: 'http' | 'https';
    readonly hostname?: string;
    readonly path?: PathModifier;
    readonly port?: number;
    readonly statusCode: number;
  };
  readonly urlRewrite?: { readonly hostname?: string; readonly path?: PathModifier };
  /** The fields of filters that capabilities of the edge serve. */
  readonly [field: string]: unknown;
  readonly extensionRef?: ObjectRef;
}

export interface BackendRef extends ObjectRef {
  readonly port?: number;
  readonly weight?: number;
  readonly filters?: readonly RouteFilter[];
}

export interface ValueMatch {
  readonly type: 'Exact' | 'RegularExpression';
  readonly name: string;
  readonly value: string;
}

export interface HttpMatch {
  readonly path?: { readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression'; readonly value: string };
  readonly headers?: readonly ValueMatch[];
  readonly queryParams?: readonly ValueMatch[];
  readonly method?: string;
  /**
   * For a broken rule: it covers more than was written, because its path, or another part of its match, is unreadable.
   */
  readonly widened?: 'path' | 'rest';
}

export interface SessionPersistence {
  readonly sessionName?: string;
  readonly absoluteTimeout?: string;
  readonly idleTimeout?: string;
  readonly type: 'Cookie' | 'Header';
  readonly cookieConfig?: { readonly lifetimeType: 'Permanent' | 'Session' };
}

export interface RouteRule {
  readonly name?: string;
  readonly filters?: readonly RouteFilter[];
  readonly backendRefs?: readonly BackendRef[];
  readonly timeouts?: { readonly request?: string; readonly backendRequest?: string };
  readonly retry?: { readonly codes?: readonly number[]; readonly attempts?: number; readonly backoff?: string };
  readonly sessionPersistence?: SessionPersistence;
  /** Why it cannot be served: it answers 500 to everything its matches cover, and has only its name besides. */
  readonly broken?: { readonly reason: string; readonly message: string };
}

export interface HttpRule extends RouteRule {
  readonly matches?: readonly HttpMatch[];
}

export interface GrpcMatch {
  readonly method?: {
    readonly type: 'Exact' | 'RegularExpression';
    readonly service?: string;
    readonly method?: string;
  };
  readonly headers?: readonly ValueMatch[];
  /** As of an HttpMatch. */
  readonly widened?: 'path' | 'rest';
}

export interface GrpcRule extends RouteRule {
  readonly matches?: readonly GrpcMatch[];
}

export interface RouteSpec<Rule extends RouteRule = RouteRule> {
  readonly parentRefs?: readonly ParentRef[];
  readonly hostnames?: readonly string[];
  readonly rules?: readonly Rule[];
}

export interface GrantSpec {
  readonly from: readonly { readonly group: string; readonly kind: string; readonly namespace: string }[];
  readonly to: readonly { readonly group: string; readonly kind: string; readonly name?: string }[];
}

export interface BackendTlsSpec {
  readonly targetRefs: readonly (ObjectRef & { readonly sectionName?: string })[];
  readonly validation: {
    readonly caCertificateRefs?: readonly ObjectRef[];
    readonly wellKnownCACertificates?: 'System';
    readonly hostname: string;
    readonly subjectAltNames?: readonly {
      readonly type: 'Hostname' | 'URI';
      readonly hostname?: string;
      readonly uri?: string;
    }[];
  };
  readonly options?: Readonly<Record<string, string>>;
}

/** A Kubernetes Service: its ports and their protocols. */
export interface ServiceSpec {
  readonly ports: readonly { readonly name?: string; readonly port: number; readonly appProtocol?: string }[];
}

/** The decoded data of a Secret or ConfigMap. Never logged, never shown. */
export interface DataSpec {
  readonly type?: string;
  readonly data: Readonly<Record<string, string>>;
}

export interface NamespaceSpec {
  readonly labels: Readonly<Record<string, string>>;
}

/** The route kinds, in the order of their specs. */
export type RouteKind = 'HTTPRoute' | 'GRPCRoute' | 'TLSRoute' | 'TCPRoute';

export type RouteDocument = Document<RouteSpec<HttpRule | GrpcRule>> & {
  readonly kind: RouteKind;
  /** For the stand-in of an invalid document: all its rules are broken. */
  readonly refusal?: Refusal;
};

/** Why a route is refused as a whole, and which parts of it are unreadable. */
export interface Refusal {
  readonly reason: string;
  readonly problems: readonly Problem[];
  /** It may have been for every host of its listeners, and take precedence over all others. */
  readonly isAnyHost: boolean;
  /** It may have been for every Gateway that accepts it. */
  readonly isAnyParent: boolean;
  /** Gateways with these names, in any namespace, may have been meant. */
  readonly parentNames: readonly string[];
}

export interface ClassSpec {
  readonly controllerName: string;
  readonly parametersRef?: { readonly kind: string; readonly name: string };
}

export interface GatewayDocuments {
  readonly gateways: readonly Document<GatewaySpec>[];
  readonly classes: readonly Document<ClassSpec>[];
  readonly routes: readonly RouteDocument[];
  readonly grants: readonly Document<GrantSpec>[];
  readonly backendTls: readonly Document<BackendTlsSpec>[];
  readonly clientPolicies?: readonly ClientPolicy[];
  readonly services: readonly Document<ServiceSpec>[];
  readonly secrets: readonly Document<DataSpec>[];
  readonly configMaps: readonly Document<DataSpec>[];
  readonly namespaces: readonly Document<NamespaceSpec>[];
  readonly refused: readonly RefusedDocument[];
  readonly passedOver: readonly PassedOver[];
  /** Documents that are served, with a suggestion how to write them. */
  readonly warnings: readonly Problem[];
}

/** `namespace/name`. */
export function keyOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`;
}

/**
 * Older first, then by `namespace/name`: how Gateway API breaks ties. A document without age counts as the youngest.
 */
export function byAge(a: Named, b: Named): number {
  const [first, second] = [a.createdAt ?? Number.POSITIVE_INFINITY, b.createdAt ?? Number.POSITIVE_INFINITY];
  if (first !== second) return first - second;
  return keyOf(a) < keyOf(b) ? -1 : keyOf(a) > keyOf(b) ? 1 : 0;
}

// What a directory of a gateway's documents says, as plain data: Gateway API's kinds, what they refer to (Services, Secrets,
// ConfigMaps, Namespaces), and the policies that are attached to them. A document that is not valid is kept as what is
// wrong with it, because others are served beside it and because what it was to protect must not be open.

import type { Problem } from '../../cert-agent/base/errors.ts';

/** Where a document stands and what it is called. */
export interface Named {
  readonly kind: string;
  readonly apiVersion: string;
  readonly namespace: string;
  readonly name: string;
  readonly file: string;
  readonly line: number;
  /** Milliseconds since 1970: its `creationTimestamp`, else when its file was last written; undefined without a file. */
  readonly createdAt: number | undefined;
  readonly generation: number;
}

export interface Document<Spec> extends Named {
  readonly spec: Spec;
}

/** A document that is not valid: what the standard's `Accepted` condition says of it. */
export interface RefusedDocument extends Named {
  readonly reason: string;
  readonly problems: readonly Problem[];
  /** What it names as its parents or targets, where that could be read. */
  readonly parents: readonly ParentRef[];
}

/** A document of a kind that is not read and protects nothing. */
export interface PassedOver extends Named {
  /** Whether another kind was meant, it seems. */
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

/** Which client certificates a listener takes. */
export interface ClientValidation {
  readonly caCertificateRefs: readonly ObjectRef[];
  readonly mode?: 'AllowValidOnly' | 'AllowInsecureFallback';
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
  /** What `tls.backend` was called before. */
  readonly backendTLS?: unknown;
  readonly tls?: {
    /** Which certificate backends are to be shown: not served. */
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
  /** Of a broken rule: it covers more than was written, because what was meant by its path, or by the rest, cannot be told. */
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
  /** Why it cannot be served: it answers 500 to what its matches cover, and has nothing else but its name. */
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

/** A Kubernetes Service: that it exists, with which ports, and what these speak. */
export interface ServiceSpec {
  readonly ports: readonly { readonly name?: string; readonly port: number; readonly appProtocol?: string }[];
}

/** What a Secret or ConfigMap holds, decoded. Never logged, never shown. */
export interface DataSpec {
  readonly type?: string;
  readonly data: Readonly<Record<string, string>>;
}

export interface NamespaceSpec {
  readonly labels: Readonly<Record<string, string>>;
}

/** The route kinds, whose order here is that of their specs. */
export type RouteKind = 'HTTPRoute' | 'GRPCRoute' | 'TLSRoute' | 'TCPRoute';

export type RouteDocument = Document<RouteSpec<HttpRule | GrpcRule>> & {
  readonly kind: RouteKind;
  /** Of one that stands in the place of a document that is not valid: all its rules are broken. */
  readonly refusal?: Refusal;
};

/** Why a route is refused as a whole, and what of it cannot be told. */
export interface Refusal {
  readonly reason: string;
  readonly problems: readonly Problem[];
  /** It may have been for every host of its listeners, before all others. */
  readonly isAnyHost: boolean;
  /** It may have been for every Gateway that takes it. */
  readonly isAnyParent: boolean;
  /** Gateways of these names, in whatever namespace, may have been meant. */
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
  readonly services: readonly Document<ServiceSpec>[];
  readonly secrets: readonly Document<DataSpec>[];
  readonly configMaps: readonly Document<DataSpec>[];
  readonly namespaces: readonly Document<NamespaceSpec>[];
  readonly refused: readonly RefusedDocument[];
  readonly passedOver: readonly PassedOver[];
  /** What is served all the same, with what it should be written as. */
  readonly warnings: readonly Problem[];
}

/** `namespace/name`. */
export function keyOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`;
}

/** Older first, then by `namespace/name`: how Gateway API breaks ties. What has no age is younger than what has one. */
export function byAge(a: Named, b: Named): number {
  const [first, second] = [a.createdAt ?? Number.POSITIVE_INFINITY, b.createdAt ?? Number.POSITIVE_INFINITY];
  if (first !== second) return first - second;
  return keyOf(a) < keyOf(b) ? -1 : keyOf(a) > keyOf(b) ? 1 : 0;
}

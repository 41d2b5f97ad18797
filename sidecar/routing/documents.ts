// The documents of a gateway as plain data: Gateway API's kinds, what they refer to (Services, Secrets, ConfigMaps,
// Namespaces), and the policies that are attached to them. An invalid document is kept as its problems, because others
// are served beside it and because what it was meant to protect must not be open.

import type { z } from 'zod';
import type { Problem } from '../../cert-agent/base/errors.ts';
import type { Frozen } from '../../cert-agent/base/live.ts';
import type { backendObjectRef, objectRef, parentRef } from '../schema/gateway-patterns.ts';
import type {
  backendTlsPolicy,
  clientDemands,
  clientValidation,
  gateway,
  gatewayClass,
  grpcMatch,
  httpMatch,
  labelSelector,
  listener,
  referenceGrant,
  retry,
  timeouts,
} from './schema.ts';

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

/** A document whose spec was checked against the schema. References in it are not resolved yet. */
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

// What a schema gives. What each is, and its fields, is said there.
type Of<S extends z.ZodType> = Frozen<z.output<S>>;

/** A reference with the standard's defaults filled in. Without `namespace`: the referring document's. */
export type ObjectRef = Of<typeof objectRef>;
export type ListenerSpec = Of<typeof listener>;
export type ClientValidation = Of<typeof clientValidation>;
export type LabelSelector = Of<typeof labelSelector>;
export type GatewaySpec = Of<typeof gateway>;
export type ClassSpec = Of<typeof gatewayClass>;
export type GrantSpec = Of<typeof referenceGrant>;
export type BackendTlsSpec = Of<typeof backendTlsPolicy>;
export type ParentRef = Of<typeof parentRef>;
export type HttpMatch = Of<typeof httpMatch> & Widened;
export type GrpcMatch = Of<typeof grpcMatch> & Widened;
export type ValueMatch = NonNullable<HttpMatch['headers']>[number];

/** For a broken rule: it covers more than was written, because its path, or another part of it, is unreadable. */
interface Widened {
  readonly widened?: 'path' | 'rest';
}

/** A ClientTrafficPolicy: what it demands of the clients of Gateways in its namespace. */
export interface ClientPolicy
  extends Omit<Named, 'kind' | 'apiVersion' | 'generation'>,
    Pick<Of<typeof clientDemands>, 'optional' | 'caCertificateRefs' | 'crl'> {
  readonly targets: readonly { readonly gateway: string; readonly listener: string | undefined }[];
}

/** Applied as set, then add, then remove (HTTPHeaderFilter). Names are case-insensitive. */
export interface HeaderModifier {
  readonly set?: readonly NameValue[];
  readonly add?: readonly NameValue[];
  readonly remove?: readonly string[];
}

/** A header field, spelled as in the document. */
export interface NameValue {
  readonly name: string;
  readonly value: string;
}

/**
 * `ReplacePrefixMatch` replaces the matched prefix by whole segments, and needs exactly one PathPrefix match in its
 * rule.
 */
export interface PathModifier {
  readonly type: 'ReplaceFullPath' | 'ReplacePrefixMatch';
  readonly replaceFullPath?: string;
  readonly replacePrefixMatch?: string;
}

/**
 * A filter of a rule or a backend; `type` names the field with its settings. An `extensionRef` is never skipped: its
 * rule answers 500.
 */
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

/**
 * A backend of a rule. Without `weight` it counts 1; with 0 it gets no new requests. Its `filters` apply to its share
 * only.
 */
export interface BackendRef extends Of<typeof backendObjectRef> {
  readonly weight?: number;
  readonly filters?: readonly RouteFilter[];
}

/** What rules of all route kinds share. */
export interface RouteRule {
  readonly name?: string;
  readonly filters?: readonly RouteFilter[];
  readonly backendRefs?: readonly BackendRef[];
  readonly timeouts?: Of<typeof timeouts>;
  readonly retry?: Of<typeof retry>;
  /** What is checked of it here. */
  readonly sessionPersistence?: Readonly<{ sessionName?: string; idleTimeout?: string; type: 'Cookie' | 'Header' }>;
  /** Why it cannot be served: it answers 500 to everything its matches cover, and has only its name besides. */
  readonly broken?: { readonly reason: string; readonly message: string };
}

/** A rule of an HTTPRoute; one match of `matches` is enough. Without any it matches every request. */
export interface HttpRule extends RouteRule {
  readonly matches?: readonly HttpMatch[];
}

/** A rule of a GRPCRoute; one match of `matches` is enough. Without any it matches every call. */
export interface GrpcRule extends RouteRule {
  readonly matches?: readonly GrpcMatch[];
}

/** The spec of a route of any kind. Without `hostnames`: those of the listener. TCPRoute has none. */
export interface RouteSpec<Rule extends RouteRule = RouteRule> {
  readonly parentRefs?: readonly ParentRef[];
  readonly hostnames?: readonly string[];
  readonly rules?: readonly Rule[];
}

/** A Kubernetes Service: its ports and their protocols. */
export interface ServiceSpec {
  readonly ports: readonly { readonly name?: string; readonly port: number; readonly appProtocol?: string }[];
  /** Why it cannot be a backend, although it is there. */
  readonly refused?: string;
}

/** The decoded data of a Secret or ConfigMap. Never logged, never shown. */
export interface DataSpec {
  readonly type?: string;
  readonly data: Readonly<Record<string, string>>;
}

/** A Namespace's labels, for `allowedRoutes.namespaces.selector`. The kind need not be present. */
export interface NamespaceSpec {
  readonly labels: Readonly<Record<string, string>>;
}

/** The route kinds, in the order of their specs. */
export type RouteKind = 'HTTPRoute' | 'GRPCRoute' | 'TLSRoute' | 'TCPRoute';

/** A route as it is attached and compiled. */
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

/** All documents of one generation, sorted by kind and in the order of reading. */
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

// Gateway API documents, by the standard's own validation (v1, and v1beta1 and v1alpha of the same kinds): for `check`,
// and for a gateway, which serves the valid ones. A sidecar refuses them.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { backendTlsPolicy, gateway, gatewayClass, referenceGrant } from '../../routing/schema.ts';
import { metadata } from '../../schema/gateway-patterns.ts';
import { apiProblems } from './api-rules.ts';
import { hintFor } from './kinds.ts';
import { grpcRoute, httpRoute, tcpRoute, tlsRoute } from './routes.ts';

/** The `spec` of each kind. */
export const gatewayKinds = {
  Gateway: gateway,
  GatewayClass: gatewayClass,
  HTTPRoute: httpRoute,
  GRPCRoute: grpcRoute,
  TLSRoute: tlsRoute,
  TCPRoute: tcpRoute,
  ReferenceGrant: referenceGrant,
  BackendTLSPolicy: backendTlsPolicy,
} as const;

/** True for a document of Gateway API. */
export function isGatewayApi({ value }: YamlDocument): boolean {
  if (typeof value !== 'object' || value === null || !('apiVersion' in value)) return false;
  return typeof value.apiVersion === 'string' && value.apiVersion.startsWith('gateway.networking.k8s.io/');
}

/** Everything that a gateway or an API server refuses in such a document. */
export function checkGatewayApi(document: YamlDocument): readonly Problem[] {
  const read = readGatewayApi(document);
  if ('problems' in read) return read.problems;
  const { kind: of, apiVersion, spec } = read.value;
  return apiProblems(document, of, apiVersion, spec);
}

/** A document of Gateway API by its kind's schema, with the schema's defaults; or everything that is wrong with it. */
export function readGatewayApi(document: YamlDocument):
  | {
      readonly value: {
        readonly apiVersion: string;
        readonly kind: string;
        readonly metadata: unknown;
        readonly spec: unknown;
      };
    }
  | { problems: Problem[] } {
  const { kind: of } = document.value as { readonly kind?: unknown };
  const spec = typeof of === 'string' ? (gatewayKinds as Readonly<Record<string, z.ZodType>>)[of] : undefined;
  if (spec === undefined) {
    const hint = typeof of === 'string' ? hintFor(of) : undefined;
    const message = `kind ${String(of)} is not a kind of Gateway API known here`;
    return { problems: [document.problemAt(['kind'], message, hint === undefined ? {} : { hint })] };
  }
  return readDocument(documentOf(spec), document);
}

// Every version in which one of the kinds was served, for each kind: TLSRoute is v1 since v1.5, TCPRoute since v1.6, and
// files from before are to work unchanged. The fields are those of v1.
const versions = ['v1', 'v1beta1', 'v1alpha2', 'v1alpha3'].map((version) => `gateway.networking.k8s.io/${version}`);

/** What a document has beside its `spec`. */
const head = {
  apiVersion: z.enum(versions as [string, ...string[]]).describe('The API version of the document.'),
  kind: z.string().describe('The kind of the document.'),
  metadata,
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
};

/** A document with this `spec`, of any kind. */
export function documentOf<S extends z.ZodType>(spec: S) {
  return z.strictObject({ ...head, spec });
}

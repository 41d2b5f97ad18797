// The table of capabilities: one line each. Their order is the order of their hooks in each phase; if several would
// respond to a request, the first does.

import { anomalies } from './anomalies/capability.ts';
import { apiKey } from './api-key/capability.ts';
import { authorization } from './authorization/capability.ts';
import { basicAuth } from './basic-auth/capability.ts';
import { cache } from './cache/capability.ts';
import type { AnyCapability, Field } from './capability.ts';
import { compression } from './compression/capability.ts';
import { concurrency } from './concurrency/capability.ts';
import { cors } from './cors/capability.ts';
import { csrf } from './csrf/capability.ts';
import { errorPages } from './error-pages/capability.ts';
import { extAuth } from './ext-auth/capability.ts';
import { grpcJson } from './grpc-json/capability.ts';
import { grpcWeb } from './grpc-web/capability.ts';
import { hardening } from './hardening/capability.ts';
import { headers } from './headers/capability.ts';
import { mcp } from './mcp/capability.ts';
import { mirror } from './mirror/capability.ts';
import { oidc } from './oidc/capability.ts';
import { rateLimit } from './rate-limit/capability.ts';
import { requestBuffer } from './request-buffer/capability.ts';
import { rewrite } from './rewrite/capability.ts';
import { screening } from './screening/capability.ts';
import { sessionPersistence } from './session-persistence/capability.ts';
import { token } from './token/capability.ts';
import { validation } from './validation/capability.ts';

/** The table. */
export const capabilities: readonly AnyCapability[] = Object.freeze([
  cors,
  // Before those that change the body of a request: copies are of what the backend gets.
  mirror,
  grpcWeb,
  csrf,
  hardening,
  errorPages,
  apiKey,
  basicAuth,
  oidc,
  token,
  extAuth,
  rateLimit,
  concurrency,
  authorization,
  rewrite,
  headers,
  requestBuffer,
  screening,
  validation,
  mcp,
  grpcJson,
  cache,
  compression,
  sessionPersistence,
  anomalies,
]);

/** Our own kinds of document (`sallyport.dev`) that the capabilities read. */
export function ownKindsOf(table: readonly AnyCapability[] = capabilities): readonly string[] {
  const own = table.flatMap(({ fields }) => fields.filter(({ kind }) => kind.startsWith('sallyport.dev/')));
  return [...new Set(own.map(({ name }) => name))];
}

/** The fields of one kind, by name, each with its capability. */
export function fieldsOf(
  kind: Field['kind'],
  table: readonly AnyCapability[] = capabilities,
): ReadonlyMap<string, { readonly capability: AnyCapability; readonly field: Field }> {
  return new Map(
    table.flatMap((capability) =>
      capability.fields.flatMap((field) => (field.kind === kind ? [[field.name, { capability, field }] as const] : [])),
    ),
  );
}

// The fields of a hardened response.

import type { Exchange } from '../../exchange/exchange.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';

/** OWASP's list for responses to browsers. A header that the backend sets itself is kept. */
const added: Fields = addFields(emptyFields, [
  ['strict-transport-security', 'max-age=31536000; includeSubDomains'],
  ['x-content-type-options', 'nosniff'],
  ['x-frame-options', 'DENY'],
  ['referrer-policy', 'strict-origin-when-cross-origin'],
  ['cross-origin-opener-policy', 'same-origin'],
  ['permissions-policy', 'camera=(), microphone=(), geolocation=()'],
]);

/** They name the software behind the gateway, which helps attackers find a vulnerable version. */
const telling: ReadonlySet<string> = new Set(['server', 'x-powered-by', 'x-aspnet-version', 'x-aspnetmvc-version']);

/** Final responses to browsers only: not to gRPC clients, nor for tunnels. */
function applies({ grpc, method }: Exchange, { status }: Reply): boolean {
  return !grpc && method !== 'CONNECT' && status >= 200;
}

/** A response's fields without those that name software. */
export function withoutTelling(exchange: Exchange, reply: Reply): Fields {
  return applies(exchange, reply) ? filterFields(reply.fields, ({ lower }) => !telling.has(lower)) : reply.fields;
}

/** Adds each header that is missing and not `settled` by a filter. */
export function harden(exchange: Exchange, reply: Reply, settled: ReadonlySet<string>): Fields {
  if (!applies(exchange, reply)) return reply.fields;
  const names = [...reply.fields.names];
  const values = [...reply.fields.values];
  for (const [i, name] of added.names.entries()) {
    if (settled.has(name.lower) || reply.fields.names.some(({ lower }) => lower === name.lower)) continue;
    // RFC 6797 section 7.2: never over an insecure connection.
    if (name.lower === 'strict-transport-security' && !isSecure(exchange)) continue;
    names.push(name);
    values.push(added.values[i]!);
  }
  return { names, values };
}

/** True with the gateway's own TLS, or with that of a trusted proxy. */
function isSecure({ connection, scheme }: Exchange): boolean {
  return connection.tls !== undefined || scheme === 'https';
}

// The head of an answer as it leaves a gateway: a backend's changed as its rule says and without what only we say, and every
// answer, ours as well, with the headers that tell a browser to be careful, where they are switched on.

import type { Exchange } from '../../exchange/exchange.ts';
import { filterFields } from '../../exchange/fields.ts';
import type { Fields, Reply } from '../../exchange/message.ts';
import { changeFields } from '../headers/header-change.ts';

/** A backend's answer, changed as rule and backend say. */
export function replyAtEdge(exchange: Exchange, reply: Reply): Reply {
  const filters = exchange.route?.filters ?? exchange.edge?.filters;
  const { hopFields } = reply;
  const hardens = isHardened(exchange) && reply.status >= 200;
  let { fields } = reply;
  // What `Connection` names goes first, so that no backend can have a field of ours taken for one of his hop.
  if (hopFields !== undefined) fields = filterFields(fields, ({ lower }) => !hopFields.includes(lower));
  for (const change of exchange.phases?.received ?? []) fields = change(exchange, { ...reply, fields });
  if (hardens) fields = filterFields(fields, ({ lower }) => !telling.has(lower));
  if (filters?.responseHeaders !== undefined) fields = changeFields(fields, filters.responseHeaders);
  // A header that the rule sets or removes is settled by it.
  if (hardens) fields = harden(exchange, fields, filters?.responseHeaders?.taken);
  return fields === reply.fields && hopFields === undefined ? reply : { ...reply, fields, hopFields: undefined };
}

/** An answer of our own. */
export function ownReplyAtEdge(exchange: Exchange, reply: Reply): Reply {
  return isHardened(exchange) ? { ...reply, fields: harden(exchange, reply.fields, undefined) } : reply;
}

/** Nothing of it is for a gRPC client, nor for who has asked for a tunnel. */
function isHardened({ rules, grpc, method }: Exchange): boolean {
  return rules.edge?.replies.securityHeaders !== undefined && !grpc && method !== 'CONNECT';
}

/** What an answer tells of the software behind it, to those who look for a version with a hole. */
const telling: ReadonlySet<string> = new Set(['server', 'x-powered-by', 'x-aspnet-version', 'x-aspnetmvc-version']);

/** With each security header that is not there yet. */
function harden(exchange: Exchange, fields: Fields, settled: ReadonlySet<string> | undefined): Fields {
  const added = exchange.rules.edge!.replies.securityHeaders!;
  const names = [...fields.names];
  const values = [...fields.values];
  const has = (lower: string): boolean => fields.names.some((name) => name.lower === lower);
  for (const [i, name] of added.names.entries()) {
    if (has(name.lower) || settled?.has(name.lower) === true) continue;
    // RFC 6797 section 7.2: never over a connection that is not secure.
    if (name.lower === 'strict-transport-security' && !isSecure(exchange)) continue;
    names.push(name);
    values.push(added.values[i]!);
  }
  return { names, values };
}

/** By our own TLS, or by that of a proxy that we trust. */
function isSecure({ connection, scheme }: Exchange): boolean {
  return connection.tls !== undefined || scheme === 'https';
}

// A gateway's own step, for requests from outside. It removes what only we, or proxies that we trust, may say about the
// client, before the route is looked up by it, and checks the request against the listener of its connection.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Connection } from './connection.ts';
import { answerOwn } from './exchange/answer.ts';
import type { ClientCertificate } from './exchange/connection-facts.ts';
import type { Exchange } from './exchange/exchange.ts';
import { headerOf, receivedOf } from './exchange/facts.ts';
import { changeRequest } from './exchange/fields.ts';
import { role } from './exchange/message.ts';
import { newRequestId } from './exchange/request-id.ts';
import { ipOfPlace, parseIp } from './policy/ip.ts';
import { bodyTooLarge } from './protocol/body-limit.ts';

/**
 * Admits a request whose client and rule are known. `OPTIONS *` is answered here (RFC 9110 section 9.3.7).
 * @throws SallyportError `misdirected`, `client_certificate_refused`, `url_too_long` or `body_too_large`.
 */
export function enter(exchange: Exchange, connection: Connection): undefined {
  const { edge, rules, target, framing } = exchange;
  const { urlBytes, bodyBytes } = rules.limits;
  if (target.length > urlBytes)
    throw new SallyportError('url_too_long', `the target has ${target.length} bytes (limit urlBytes: ${urlBytes})`);
  exchange.bodyLimit = bodyBytes;
  if (typeof framing === 'number' && framing > exchange.bodyLimit) throw bodyTooLarge(exchange);
  checkListener(exchange, connection);
  exchange.received = receivedOf(exchange);
  if (edge === undefined) {
    // No rule matches it as a path. For a served host, `OPTIONS *` needs no more than an empty response.
    if (exchange.path === '*' && exchange.listener !== undefined) answerOwn(exchange, 204, []);
  }
}

/**
 * A connection made for one listener is not valid for another's hosts: neither its certificate nor the client's was
 * checked for them (RFC 9110 section 15.5.20; GEP-3567).
 */
function checkListener(exchange: Exchange, connection: Connection): void {
  const { listener, client } = connection;
  if (listener !== undefined && exchange.listener !== undefined && listener !== exchange.listener)
    throw new SallyportError(
      'misdirected',
      `'${exchange.authority}' belongs to listener ${exchange.listener}, the connection to ${listener}`,
    );
  if (client !== undefined && client.validUntil < Date.now())
    throw new SallyportError('client_certificate_refused', `the certificate of ${client.name} has expired`);
}

/** Sets our own statement of the client: routes match, policies evaluate and the app gets the same. Throws nothing. */
export function readClient(exchange: Exchange, connection: Connection): void {
  const { numTrustedProxies = 0, edge } = exchange.rules;
  const { client } = connection;
  const direct = connection.remoteIp;
  const said = headerOf(exchange, 'x-forwarded-for');
  const before = said === undefined ? [] : said.split(',').map((one) => one.trim());
  // At the edge the client is the Nth from the right, N being the number of trusted proxies; without any it is the
  // peer.
  const told = numTrustedProxies === 0 ? undefined : before[before.length - numTrustedProxies];
  // Some proxies add the port. An unreadable address is no client's, and not the proxy's, which may be allowed more.
  exchange.clientIp = told === undefined ? direct : (parseIp(told) ?? ipOfPlace(told));
  const trusted = numTrustedProxies > 0;
  const scheme = trusted ? headerOf(exchange, 'x-forwarded-proto') : undefined;
  const own = connection.tls === undefined ? 'http' : 'https';
  exchange.scheme = scheme === 'http' || scheme === 'https' ? scheme : own;
  // A request ID from outside would be a name in our logs that a stranger chose.
  if (!trusted) {
    exchange.requestId = newRequestId();
    exchange.requestIdGiven = false;
  }
  const forwardedFor = [...(trusted ? before : []), direct?.text ?? 'unknown'].join(', ');
  const { ownHeaders, mayClientSet } = edge!;
  // Fields that proxies set are removed by their families, so that a name missing from every list goes, too.
  changeRequest(
    exchange,
    ownHeaders,
    [
      ['x-forwarded-for', forwardedFor],
      ['x-forwarded-proto', exchange.scheme],
      ['x-forwarded-host', exchange.authority],
    ],
    (name) => (name.ofProxy && !mayClientSet(name)) || (name.role === role.requestId && !trusted),
  );
  exchange.forwardedFor = forwardedFor;
  if (client === undefined) return;
  exchange.clientId = client.name;
  exchange.authMethod = 'certificate';
  connection.clientCert ??= describeClient(client);
}

/** `x-forwarded-client-cert` as Istio's gateway sets it: Hash, Subject (always quoted), URI, DNS. */
function describeClient({ fingerprint, subject, uri, dns }: ClientCertificate): string {
  const quoted = (value: string): string => `"${value.replace(/[^\x20-\x7e]/g, '?').replace(/[\\"]/g, '\\$&')}"`;
  return [
    `Hash=${fingerprint}`,
    `Subject=${quoted(subject)}`,
    ...(uri === undefined ? [] : [`URI=${quoted(uri)}`]),
    ...dns.map((name) => `DNS=${quoted(name)}`),
  ].join(';');
}

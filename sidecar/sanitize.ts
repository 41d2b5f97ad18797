// The step of a gateway that a sidecar has not: a stranger comes in. What only we, or whom we trust, may say of him is
// taken out of what he says, before a route is looked for by it; what he has asked for is held against the listener that he
// came through.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Connection } from './connection.ts';
import { answerOwn } from './exchange/answer.ts';
import type { ClientCertificate } from './exchange/connection-facts.ts';
import type { Exchange } from './exchange/exchange.ts';
import { headerOf } from './exchange/facts.ts';
import { changeRequest } from './exchange/fields.ts';
import { role } from './exchange/message.ts';
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
  exchange.received = { fields: exchange.fields, path: exchange.path, authority: exchange.authority };
  if (edge === undefined) {
    // No rule has it for a path. Of the server as a whole, for a host that is served, there is nothing to say but that it is there.
    if (exchange.path === '*' && exchange.listener !== undefined) answerOwn(exchange, 204, []);
  }
}

/**
 * A connection that was made for one listener is not for another's hosts: its certificate was not checked for them, nor was
 * the client's (RFC 9110 section 15.5.20; GEP-3567).
 */
function checkListener(exchange: Exchange, connection: Connection): void {
  const { listener, client } = connection;
  if (listener !== undefined && exchange.listener !== undefined && listener !== exchange.listener)
    throw new SallyportError(
      'misdirected',
      `'${exchange.authority}' is of listener ${exchange.listener}, the connection was made with ${listener}`,
    );
  if (client !== undefined && client.validUntil < Date.now())
    throw new SallyportError('client_certificate_refused', `the certificate of ${client.name} has expired since`);
}

/** Who the client is, in our word: what matches a route, what policy judges and what goes on says the same. Throws nothing. */
export function readClient(exchange: Exchange, connection: Connection): void {
  const { numTrustedProxies = 0, edge } = exchange.rules;
  const { client } = connection;
  const direct = connection.remoteIp;
  const said = headerOf(exchange, 'x-forwarded-for');
  const before = said === undefined ? [] : said.split(',').map((one) => one.trim());
  // At the edge the client is the Nth from the right, N being the proxies that we trust; without any it is the direct peer.
  const told = numTrustedProxies === 0 ? undefined : before[before.length - numTrustedProxies];
  // Some write its port as well. What cannot be read is nobody's address, and not that of the proxy, which may do more.
  exchange.clientIp = told === undefined ? direct : (parseIp(told) ?? ipOfPlace(told));
  const trusted = numTrustedProxies > 0;
  const scheme = trusted ? headerOf(exchange, 'x-forwarded-proto') : undefined;
  const own = connection.tls === undefined ? 'http' : 'https';
  exchange.scheme = scheme === 'http' || scheme === 'https' ? scheme : own;
  // What outsiders call a request is theirs; in our logs it would be a name that somebody else has chosen.
  if (!trusted) {
    exchange.requestId = crypto.randomUUID();
    exchange.requestIdGiven = false;
  }
  const forwardedFor = [...(trusted ? before : []), direct?.text ?? 'unknown'].join(', ');
  const { ownHeaders, mayClientSet } = edge!;
  // What is a proxy's to say goes by its family, so that a name which no list has ever heard of goes too.
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

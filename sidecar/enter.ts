// The step of a gateway that a sidecar has not: a stranger comes in. What only we, or whom we trust, may say of him is
// taken out of what he says, before a route is looked for by it; what he has asked for is held against the listener that he
// came through.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { ClientCertificate, Connection } from './connection.ts';
import type { Exchange } from './exchange.ts';
import { headerOf } from './facts-of.ts';
import { addFields, changeRequest } from './fields.ts';
import { isPreflight, preflightFields, replyCorsFields } from './filters/cors.ts';
import { ipOfPlace, parseIp } from './policy/ip.ts';
import { bodyTooLarge } from './protocol/body-limit.ts';
import { emptyFields } from './protocol/http1-head.ts';
import { answerOwn } from './respond.ts';

/** Fields that say who a caller is, in any dialect: from outside nobody says that but the rule's own policy. */
const identityFields = [
  ...['x-forwarded-client-cert', 'txn-token', 'x-envoy-original-path', 'x-envoy-internal', 'x-envoy-external-address'],
  ...['x-envoy-decorator-operation', 'x-envoy-peer-metadata', 'x-envoy-peer-metadata-id', 'x-envoy-attempt-count'],
  ...['x-envoy-expected-rq-timeout-ms', 'x-envoy-upstream-rq-timeout-ms', 'x-envoy-upstream-rq-per-try-timeout-ms'],
  ...['x-envoy-max-retries', 'x-envoy-retry-on', 'x-envoy-retry-grpc-on', 'x-envoy-hedge-on-per-try-timeout'],
  ...['x-sallyport-decision', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'x-forwarded-user', 'x-remote-user'],
  ...['x-forwarded-email', 'x-forwarded-preferred-username', 'x-forwarded-groups', 'x-auth-request-user'],
  ...['x-auth-request-preferred-username', 'x-auth-request-groups', 'x-auth-request-access-token'],
  ...['x-forwarded-access-token', 'remote-user', 'remote-groups', 'remote-email', 'remote-name'],
  // RFC 9440 section 2.4: whoever terminates TLS takes out what was not his.
  ...['client-cert', 'client-cert-chain', 'x-client-cert', 'x-forwarded-tls-client-cert'],
  ...['x-auth-request-email', 'x-ssl-client-verify', 'x-ssl-client-dn', 'ssl-client-cert', 'ssl-client-verify'],
];

/** Where a request came from, and what it was before, as proxies say it to each other: by some of them apps choose a path. */
const forwardingFields = [
  ...['forwarded', 'x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host', 'x-forwarded-port'],
  ...['x-forwarded-prefix', 'x-forwarded-server', 'x-forwarded-scheme', 'x-forwarded-ssl', 'x-original-forwarded-for'],
  ...['x-original-url', 'x-rewrite-url', 'x-original-host', 'x-cluster-client-ip'],
];

const fromOutside: ReadonlySet<string> = new Set([...identityFields, ...forwardingFields]);

/**
 * Takes a request in, whose client and rule are known. A preflight is answered here.
 * @throws SallyportError `misdirected`, `client_certificate_refused`, `rule_broken`, `url_too_long` or `body_too_large`.
 */
export function enter(exchange: Exchange, connection: Connection): undefined {
  const { edge, rules, target, framing } = exchange;
  const { urlBytes, bodyBytes } = rules.limits;
  if (target.length > urlBytes)
    throw new SallyportError('url_too_long', `the target has ${target.length} bytes (limit urlBytes: ${urlBytes})`);
  exchange.bodyLimit = Math.min(bodyBytes, edge?.filters.bufferBytes ?? Number.POSITIVE_INFINITY);
  if (typeof framing === 'number' && framing > exchange.bodyLimit) throw bodyTooLarge(exchange);
  checkListener(exchange, connection);
  exchange.received = { fields: exchange.fields, path: exchange.path, authority: exchange.authority };
  if (edge === undefined) return;
  const { cors } = edge.filters;
  if (cors !== undefined && isPreflight(exchange)) {
    answerOwn(exchange, 204, preflightFields(exchange, cors));
    return;
  }
  if (edge.broken !== undefined) throw edge.broken;
  if (cors !== undefined)
    exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, replyCorsFields(exchange, cors));
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
  changeRequest(exchange, trusted ? fromOutside : fromOutsideWithId, [
    ['x-forwarded-for', forwardedFor],
    ['x-forwarded-proto', exchange.scheme],
    ['x-forwarded-host', exchange.authority],
  ]);
  exchange.forwardedFor = forwardedFor;
  const { ownHeaders } = edge!;
  if (ownHeaders.size > 0) changeRequest(exchange, ownHeaders, []);
  if (client === undefined) return;
  exchange.clientId = client.name;
  exchange.authMethod = 'certificate';
  connection.clientCert ??= describeClient(client);
}

const fromOutsideWithId: ReadonlySet<string> = new Set([...fromOutside, 'x-request-id']);

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

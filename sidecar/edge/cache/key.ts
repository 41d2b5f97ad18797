// The key of a response in the cache, and the reasons to bypass the cache. The key contains what the backend routes by:
// scheme, authority and path in the spelling that is evaluated and forwarded, the query, and the rule, since rules
// differ in backends and rewrites.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { foldName } from '../../policy/header-name.ts';
import { normalizePath, type PathNormalization, pathNormalizations } from '../../policy/path.ts';
import { vouchedFor } from '../../tokens/transaction-token.ts';
import { isForOneCaller } from '../caller.ts';
import type { CachePlan } from './schema.ts';
import type { Place } from './store.ts';

/** The gateway adds it when it forwards, depending on the connection. */
const clientCertField = 'x-forwarded-client-cert';

/** Set by the gateway itself, from values in the key. */
const ownFields: ReadonlySet<string> = new Set(['x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host']);

/**
 * Fields that make an app answer another request than the one in the key: another method, path or host. The
 * response would be stored for the plain request of all other clients.
 */
const overriding = new RegExp(
  `^(?:${[
    'x-httpd?-?method(?:-override)?|x-method(?:-override)?|(?:x-)?http-method-override|x-http-path-override',
    '(?:x-)?override-.*|x-.*-override|x-rewrite-.*|x-original-.*|request-uri|x-matched-path',
    'x-url|x-uri|x-path|x-base-url|x-request-uri|x-backend-host|x-host|x-http-host-override|x-server-name',
    'x-middleware-(?:prefetch|subrequest|rewrite)|x-next-.*|x-invoke-.*',
  ].join('|')})$`,
);

/** Fields by which apps identify callers, beside those that a policy names: keys, tokens, sessions and proofs. */
const identifying: readonly string[] = [
  ...['proxy-authorization', 'dpop', 'signature', 'x-authorization', 'x-auth'],
  ...['api-key', 'apikey', 'x-api-key', 'x-apikey', 'x-api-token', 'x-goog-api-key', 'x-functions-key', 'x-app-key'],
  ...['x-auth-token', 'x-auth-key', 'x-access-token', 'access-token', 'x-id-token', 'x-token', 'token', 'auth-token'],
  ...['x-jwt', 'x-jwt-token', 'x-jwt-assertion', 'x-goog-iap-jwt-assertion', 'cf-access-jwt-assertion'],
  ...['x-amzn-oidc-data', 'x-amzn-oidc-accesstoken', 'x-amz-security-token', 'x-ms-client-principal'],
  ...['x-session', 'x-session-id', 'x-session-token', 'session-id', 'x-csrf-token', 'x-xsrf-token'],
  ...['x-user', 'x-user-id', 'x-user-email', 'x-remote-user', 'remote-user', 'x-client-id', 'x-client-secret'],
  ...['x-tenant', 'x-tenant-id', 'x-account-id', 'x-customer-id', 'x-org-id', 'x-scope-orgid'],
  ...[
    'private-token',
    'x-vault-token',
    'x-consul-token',
    'x-github-token',
    'x-shopify-access-token',
    'x-parse-session-token',
  ],
];

/** Why a request neither reads nor fills the cache; undefined if it may. */
export function whyBypassed(exchange: Exchange): string | undefined {
  const { method, framing, webSocket, grpc, authority, path, fields } = exchange;
  if (method !== 'GET' && method !== 'HEAD') return 'method';
  if (isForOneCaller.get(exchange) === true) return 'bypass';
  // A body is not part of the key.
  if (framing !== 0 || webSocket || grpc || authority === '' || path === '*') return 'bypass';
  for (const { folded, ofProxy } of fields.names)
    if ((ofProxy && !ownFields.has(folded)) || overriding.test(folded)) return 'bypass';
  return undefined;
}

/** Scheme, authority, path and query as one text. */
export function urlOf({ scheme, authority, path }: Pick<Exchange, 'scheme' | 'authority' | 'path'>): string {
  return `${scheme}://${authority}${path}`;
}

/** The place of a request's response. It is read before the rule changes the request. */
export function placeOf(exchange: Exchange, { keyHeaders }: Pick<CachePlan, 'keyHeaders'>): Place {
  const rule = exchange.edge?.digest() ?? '';
  if (keyHeaders.length === 0) return { url: urlOf(exchange), partition: rule };
  const values = keyHeaders.map(
    (name) => (name === clientCertField ? exchange.connection.clientCert : headerOf(exchange, name)) ?? null,
  );
  return { url: urlOf(exchange), partition: `${rule} ${JSON.stringify(values)}` };
}

/** True if a request identifies its caller, to the gateway or to the app: then its response may be private. */
export function compileIdentified({
  identityHeaders,
  keyHeaders,
}: Pick<CachePlan, 'identityHeaders' | 'keyHeaders'>): (of: Exchange) => boolean {
  // Callers that differ in a header of the key share nothing anyway.
  const wellKnown = identifying.filter((name) => !keyHeaders.map(foldName).includes(name));
  const names = new Set(['authorization', 'cookie', ...wellKnown, ...identityHeaders.map(foldName)]);
  return function isIdentified(exchange) {
    const { clientId, auth, authMethod, judges, connection, fields } = exchange;
    if (clientId !== undefined || auth !== undefined || authMethod !== undefined) return true;
    if (vouchedFor.get(exchange) !== undefined) return true;
    // An external authorizer may have added what it knows about the caller.
    if (judges !== undefined || connection.client !== undefined) return true;
    return fields.names.some(({ folded }) => names.has(folded));
  };
}

/**
 * The URLs that a response to an unsafe request invalidates (RFC 9111 section 4.4): its own, and those it names on its
 * own host. The rule may have changed path and host meanwhile: the backend may name either host.
 * @param own the URL as it came
 */
export function invalidatedBy(
  exchange: Exchange,
  own: string,
  named: readonly (string | undefined)[],
): readonly string[] {
  const base = URL.parse(own);
  if (base === null) return [own];
  const hosts = new Set([base.host, URL.parse(urlOf(exchange))?.host]);
  const origin = own.slice(0, own.indexOf('/', own.indexOf('://') + 3));
  const others = named.flatMap((text) => {
    const url = text === undefined ? null : URL.parse(text, own);
    if (url === null || !hosts.has(url.host) || url.protocol !== base.protocol) return [];
    // `URL` escapes what clients may send as it is: a quote in a query.
    const written = text!.startsWith('/') && !text!.startsWith('//') ? [`${origin}${text!.replace(/#.*$/s, '')}`] : [];
    const all = [`${origin}${url.pathname}${url.search}`, ...written];
    return all.flatMap((one) => spellingsOf(one, [exchange.rules.pathNormalization]));
  });
  return [own, ...others];
}

/** A URL as it is written, and in the spellings of the key, in which paths are normalized: by default, by any setting. */
export function spellingsOf(url: string, how: readonly PathNormalization[] = pathNormalizations): readonly string[] {
  const at = url.indexOf('/', url.indexOf('://') + 3);
  if (at === -1) return [url];
  const origin = url.slice(0, at);
  try {
    return [...new Set([url, ...how.map((one) => `${origin}${normalizePath(url.slice(at), one)}`)])];
  } catch {
    return [url];
  }
}

// The request's attributes for policy, read from an exchange on demand. One object for all decisions of the process: a
// decision is synchronous, and keeps nothing of it.

import type { RequestAuth, RequestFacts } from '../policy/facts.ts';
import { foldName } from '../policy/header-name.ts';
import { type Ip, parseIp } from '../policy/ip.ts';
import { preflightMethod } from '../policy/preflight.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import type { Received } from './ends.ts';
import type { Exchange } from './exchange.ts';
import { type Fields, role } from './message.ts';

class ExchangeFacts implements RequestFacts {
  protocol: 'http' | 'tcp' = 'http';
  principal = '';
  method = '';
  path = '';
  host = '';
  port = 0;
  sni = '';
  auth: RequestAuth | undefined = undefined;
  #exchange: Exchange | undefined = undefined;
  #connection: ConnectionFacts | undefined = undefined;

  read(exchange: Exchange, connection: ConnectionFacts, port: number): void {
    this.#exchange = exchange;
    this.#connection = connection;
    this.protocol = exchange.rules.protocol;
    this.principal = connection.peer?.id.uri ?? '';
    this.method = exchange.method;
    this.path = pathWithoutQuery(exchange.path);
    this.host = exchange.authority;
    this.port = port;
    this.sni = connection.serverName ?? '';
    this.auth = exchange.auth;
  }

  get sourceIp(): Ip | undefined {
    return this.#connection!.remoteIp;
  }

  get remoteIp(): Ip | undefined {
    const { numTrustedProxies } = this.#exchange!.rules;
    if (numTrustedProxies === undefined) return this.sourceIp;
    return clientOf(this.header('x-forwarded-for'), numTrustedProxies) ?? this.sourceIp;
  }

  get destinationIp(): Ip | undefined {
    return this.#connection!.localIp;
  }

  header(name: string): string | undefined {
    return headerOf(this.#exchange!, name);
  }
}

const facts = new ExchangeFacts();

/** The attributes of this exchange, valid until the next call. `port` is the one that policies see. */
export function factsOf(exchange: Exchange, connection: ConnectionFacts, port: number): RequestFacts {
  facts.read(exchange, connection, port);
  return facts;
}

/**
 * A field of the request, under every name that servers fold into this one (`FieldName.folded`). Several are joined by
 * commas (RFC 9110 section 5.3; cookies by semicolons, RFC 6265 section 5.4). Includes Envoy's names for the parts of
 * the request line.
 */
export function headerOf(exchange: Exchange, name: string, fields: Fields = exchange.fields): string | undefined {
  if (name === ':authority' || name === 'host') return exchange.authority;
  if (name === ':method') return exchange.method;
  if (name === ':path') return exchange.path;
  const { names, values } = fields;
  const folded = foldName(name);
  let found: string | undefined;
  for (let i = 0; i < names.length; i++) {
    const one = names[i]!;
    // Another spelling of a field that proxies interpret is dropped, and never reaches the app.
    if (one.folded !== folded || (one.role === role.hop && one.lower !== name)) continue;
    found = found === undefined ? values[i]! : `${found}${folded === 'cookie' ? '; ' : ','}${values[i]!}`;
  }
  return found;
}

/**
 * True if a header comes in two spellings that servers fold into one (`X-Role` and `X_Role`). Of several lines with one
 * name the app reads what policy has evaluated; of two names it may read the other one.
 * @param name in lower case
 */
export function isSpelledTwice({ names }: Fields, name: string): boolean {
  const folded = foldName(name);
  let first: string | undefined;
  for (const one of names) {
    if (one.folded !== folded || (one.role === role.hop && one.lower !== name)) continue;
    if (first !== undefined && first !== one.lower) return true;
    first = one.lower;
  }
  return false;
}

/**
 * The client that the trusted proxies saw: in `x-forwarded-for`, counted from the right, the address before as many as
 * there are trusted proxies, for a hop that adds none itself. Undefined if there are not that many, or it is no
 * address.
 */
export function clientOf(forwardedFor: string | undefined, trustedProxies: number): Ip | undefined {
  const list = forwardedFor?.split(',') ?? [];
  const wanted = list[list.length - 1 - trustedProxies]?.trim();
  return wanted === undefined ? undefined : parseIp(wanted);
}

/** The method that a preflight is for; undefined if the request is none. */
export function preflightFor(exchange: Exchange): string | undefined {
  // Most requests end here, without a function for each.
  if (exchange.method !== 'OPTIONS') return undefined;
  return preflightMethod(exchange.method, (name) => headerOf(exchange, name));
}

/** What policies evaluate of a request, as it is now. */
export function receivedOf({ method, fields, path, authority }: Exchange): Received {
  return { method, fields, path, authority };
}

/** The path without its query: what policies match. */
export function pathWithoutQuery(path: string): string {
  const query = path.indexOf('?');
  return query === -1 ? path : path.slice(0, query);
}

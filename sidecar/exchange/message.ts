// HTTP messages as the path sees them, whichever protocol carries them: interned field names, fields, and the heads of
// requests and responses.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { foldName } from '../policy/header-name.ts';
import { isProxyField } from './proxy-fields.ts';

/** A field's name, interned: its role is known without comparing strings. */
export interface FieldName {
  readonly lower: string;
  /**
   * The name as folded by servers that make variables of names (CGI, WSGI, Rack, PHP): in lower case, with a dash for
   * everything but letters and digits. `X_Role` and `X-Role` are one name to them, so each step that evaluates a
   * request treats them as one.
   */
  readonly folded: string;
  /** True if only proxies may set it: see exchange/proxy-fields.ts. */
  readonly ofProxy: boolean;
  /** The name as received, with its colon and space, ready to print. */
  readonly prefix: string;
  /** One of `role` in protocol/http1/head.ts. */
  readonly role: number;
  /** True if the value is no secret, and mostly the same with each message of one sender. */
  readonly repeats: boolean;
}

/** A head's fields in the order they came; `names[i]` belongs to `values[i]`. */
export interface Fields {
  readonly names: FieldName[];
  readonly values: string[];
}

/** How a message's body is delimited: no body, so many bytes, chunks, or until the connection closes. */
export type Framing = number | 'chunked' | 'close';

/** A request as forwarded: the received head, and what we add. It is read while it is sent, and not kept. */
export interface Call {
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  readonly fields: Fields;
  /** Names that `Connection` listed, lower case: they are hop-by-hop. */
  readonly hopFields: readonly string[] | undefined;
  /** The new `x-forwarded-client-cert`, inbound only. */
  readonly clientCert: string | undefined;
  /** Set if the request had none. */
  readonly requestId: string | undefined;
  readonly framing: Framing;
  readonly webSocket: boolean;
  readonly expectContinue: boolean;
}

/** A response's head, from the upstream or our own. */
export interface Reply {
  readonly status: number;
  readonly reason: string;
  readonly fields: Fields;
  readonly hopFields: readonly string[] | undefined;
  /** A body with the framing 'close' ends with its connection. */
  readonly framing: Framing;
  /** The Content-Length of a response without a body (HEAD, 304): passed on unchanged. */
  readonly declaredLength: number | undefined;
}

/** A field's role for a proxy. Each field that is not end-to-end has a role of its own. */
export const role = Object.freeze({
  plain: 0,
  /** Hop-by-hop, and dropped (RFC 9110 section 7.6.1). */
  hop: 1,
  connection: 2,
  contentLength: 3,
  transferEncoding: 4,
  host: 5,
  upgrade: 6,
  expect: 7,
  clientCert: 8,
  keepAlive: 9,
  requestId: 10,
  userAgent: 11,
  forwardedFor: 12,
  te: 13,
  /** `:method` and other pseudo-header fields, in HTTP/2 only. */
  pseudo: 14,
  contentType: 15,
  traceParent: 16,
});

const rolesByName: Readonly<Record<string, number>> = {
  connection: role.connection,
  'content-length': role.contentLength,
  'transfer-encoding': role.transferEncoding,
  host: role.host,
  upgrade: role.upgrade,
  expect: role.expect,
  'keep-alive': role.keepAlive,
  'x-forwarded-client-cert': role.clientCert,
  'x-request-id': role.requestId,
  'user-agent': role.userAgent,
  'x-forwarded-for': role.forwardedFor,
  te: role.te,
  traceparent: role.traceParent,
  'content-type': role.contentType,
  'proxy-connection': role.hop,
  'proxy-authenticate': role.hop,
  'proxy-authorization': role.hop,
  'http2-settings': role.hop,
  // CGI makes HTTP_PROXY of it (httpoxy).
  proxy: role.hop,
};

/** Fields of browsers, client libraries and servers. A name that may hold a credential is never one of them. */
const repeating: ReadonlySet<string> = new Set([
  ...['host', 'user-agent', 'accept', 'accept-encoding', 'accept-language', 'connection', 'keep-alive', 'te', 'dnt'],
  ...['content-type', 'content-encoding', 'cache-control', 'pragma', 'origin', 'upgrade-insecure-requests', 'priority'],
  ...['sec-fetch-dest', 'sec-fetch-mode', 'sec-fetch-site', 'sec-fetch-user', 'sec-ch-ua', 'sec-ch-ua-mobile'],
  ...['sec-ch-ua-platform', 'server', 'vary', 'via', 'x-powered-by', 'x-content-type-options', 'x-frame-options'],
  ...['strict-transport-security', 'accept-ranges', 'grpc-accept-encoding', 'grpc-encoding', 'transfer-encoding'],
]);

/** No fields. */
export const emptyFields: Fields = Object.freeze({ names: [], values: [] });

const tokenPattern = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const interned = new Map<string, FieldName>();

/** A client that invents names must not grow our memory: beyond this, names are made anew each time. */
const maxInterned = 4096;

/** Longer than any name in use; a longer one is made anew each time as well. */
const maxInternedLength = 64;

/**
 * The interned name. @throws SallyportError `head_malformed` if it is no token: a fold, or a space before the colon.
 */
export function fieldName(raw: string): FieldName {
  const known = interned.get(raw);
  if (known !== undefined) return known;
  if (!tokenPattern.test(raw)) throw new SallyportError('head_malformed', `'${printable(raw)}' is not a field name`);
  // A copy: a slice would keep the whole head alive for as long as the name is interned.
  const own = Buffer.from(raw, 'latin1').toString('latin1');
  const lower = own.toLowerCase();
  const folded = foldName(lower);
  // CGI and WSGI read X_Forwarded_Client_Cert and Content_Length as the same variables as the real fields: another
  // spelling of a field that proxies interpret is dropped, so that no server behind us mistakes it for the real one.
  const lookalike = folded !== lower && Object.hasOwn(rolesByName, folded);
  const which = lookalike ? role.hop : roleOf(lower);
  const name = makeName(lower, folded, `${own}: `, which);
  if (interned.size < maxInterned && own.length <= maxInternedLength) interned.set(own, name);
  return name;
}

/** Makes a name. All names are made here: two shapes would slow each step that reads them (measured). */
export function makeName(lower: string, folded: string, prefix: string, which: number): FieldName {
  const repeats = repeating.has(lower);
  return Object.freeze({ lower, prefix, role: which, folded, ofProxy: isProxyField(folded), repeats });
}

function roleOf(lower: string): number {
  return Object.hasOwn(rolesByName, lower) ? rolesByName[lower]! : role.plain;
}

/**
 * True if a field may be in trailers. RFC 9110 section 6.5.1: no field that frames, routes, modifies or authenticates a
 * message, or says how to process its content. Nor one that only proxies set: others read it in the head.
 */
export function mayTrail(name: FieldName): boolean {
  if (name.role !== role.plain || name.ofProxy) return false;
  return !notInTrailers.test(name.folded) || digests.has(name.folded);
}

const notInTrailers =
  /^(?:authorization|authentication-info|www-authenticate|cookie2?|set-cookie2?|cache-control|pragma|expires|age|date|vary|warning|location|retry-after|max-forwards|range|from|origin|referer|trailer|via|alt-svc|early-data|dpop|host-.*|if-.*|content-.*|accept(?:-.*)?|access-control-.*|sec-.*|x-http-method.*|x-method-override|x-api-key|x-csrf-token|x-xsrf-token)$/;

/** RFC 9530 section 6.4: these are meant for trailers. */
const digests: ReadonlySet<string> = new Set(['content-digest', 'repr-digest']);

/** True if a field of this role is passed on unchanged: the others are hop-by-hop, or made anew. */
export function isEndToEnd(which: number): boolean {
  return (
    which === role.plain ||
    which === role.userAgent ||
    which === role.contentType ||
    which === role.forwardedFor ||
    which === role.requestId ||
    which === role.traceParent
  );
}

/** True if a configuration may set this field in our messages: it is end-to-end, and cannot break the head. */
export function isSafeField(name: string, value: string): boolean {
  if (!tokenPattern.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) return false;
  return isEndToEnd(fieldName(name).role);
}

/** A target that could not be read, for people: without its query and its user, which may be credentials. */
export function withoutSecrets(target: string): string {
  const end = target.search(/[?#]/);
  return (end === -1 ? target : target.slice(0, end)).replace(/^([^/]*\/\/)?[^/]*@/, '$1');
}

/** At most 40 characters of hostile text, fit for a log line. */
export function printable(text: string): string {
  const shown = text.replace(/[^\x20-\x7e]/g, '.');
  return shown.length > 40 ? `${shown.slice(0, 40)}...` : shown;
}

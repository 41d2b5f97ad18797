// Converts heads between HTTP/2 and the path (RFC 9113 section 8): pseudo-header fields become method, path, authority
// and status, and back. Fields of an HTTP/1.1 hop are refused, not dropped.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import {
  type Call,
  emptyFields,
  type FieldName,
  type Fields,
  type Framing,
  fieldName,
  isEndToEnd,
  mayTrail,
  printable,
  type Reply,
  role,
  withoutSecrets,
} from '../../exchange/message.ts';
import { isGrpc } from '../grpc.ts';
import { isMethod, isStatus, parseContentLength } from '../http1/head.ts';
import { isHandshakeField } from '../websocket.ts';
import { type Block, isTooLarge, pseudo } from './hpack-decode.ts';
import type { HpackEncoder } from './hpack-encode.ts';

const ofRequest: readonly FieldName[] = [
  ...[pseudo.method, pseudo.scheme, pseudo.authority, pseudo.path, pseudo.protocol],
];
const ofReply: readonly FieldName[] = [pseudo.status];
const lengthName = fieldName('content-length');
const requestIdName = fieldName('x-request-id');
const clientCertName = fieldName('x-forwarded-client-cert');
const cookieName = fieldName('cookie');
const teName = fieldName('te');
const expectName = fieldName('expect');

const knownScheme = /^https?$/i;
/** Methods that state the length of their body even if there is none (RFC 9110 section 8.6). */
const carriesContent = /^P(?:OST|UT|ATCH)$/;

/** Section 8.2.2. */
const ofHttp1 = new Set(['connection', 'proxy-connection', 'keep-alive', 'transfer-encoding', 'upgrade']);

/**
 * Fills `exchange` from a request's header block.
 * @throws SallyportError `http2_protocol`, `head_too_large`, `method_invalid`, `host_invalid`, `length_invalid` or
 * `expectation_failed`.
 */
export function readRequest(block: Block, ended: boolean, exchange: Exchange): void {
  checkWellFormed(block);
  const count = countPseudo(block.fields, ofRequest);
  const method = pseudoValue(block.fields, count, pseudo.method);
  const scheme = pseudoValue(block.fields, count, pseudo.scheme);
  const authority = pseudoValue(block.fields, count, pseudo.authority);
  const path = pseudoValue(block.fields, count, pseudo.path);
  const protocol = pseudoValue(block.fields, count, pseudo.protocol);
  if (method === undefined) throw malformed('a request without :method');
  if (!isMethod(method)) throw new SallyportError('method_invalid', 'the method is not an upper-case token');
  exchange.minor = 2;
  exchange.method = method;
  exchange.fields = regularFrom(block.fields, count);
  const connects = method === 'CONNECT' && protocol === undefined;
  if (protocol !== undefined) readExtendedConnect(exchange, protocol, ended);
  if (connects ? scheme !== undefined || path !== undefined : scheme === undefined || path === undefined)
    throw malformed(connects ? 'CONNECT with :scheme or :path' : 'a request without :scheme or :path');
  if (path === '') throw malformed('an empty :path');
  if (scheme !== undefined && !knownScheme.test(scheme))
    throw malformed(`:scheme '${printable(scheme)}' is not supported`);
  exchange.target = path ?? authority ?? '';
  // Section 8.3.1: origin-form, or an asterisk for OPTIONS; the authority has a field of its own.
  if (!connects && !exchange.target.startsWith('/') && !(exchange.target === '*' && method === 'OPTIONS'))
    throw new SallyportError('head_invalid_url', `:path '${printable(withoutSecrets(exchange.target))}' is not a path`);
  readRequestFields(exchange, authority);
  if (exchange.webSocket || connects) exchange.framing = 0;
  if (ended && exchange.framing !== 0 && exchange.framing !== 'chunked')
    throw new SallyportError('length_invalid', 'a request without a body declares one');
  if (ended) exchange.framing = 0;
}

/** RFC 8441 section 4: for the path, policy and the app it is the GET that requests an upgrade, as in HTTP/1.1. */
function readExtendedConnect(exchange: Exchange, protocol: string, ended: boolean): void {
  if (exchange.method !== 'CONNECT') throw malformed(':protocol without CONNECT');
  if (protocol !== 'websocket')
    throw new SallyportError('connect_unsupported', `CONNECT for '${printable(protocol)}' is not supported`);
  if (ended) throw malformed('CONNECT that ends its stream');
  exchange.method = 'GET';
  exchange.webSocket = true;
}

function readRequestFields(exchange: Exchange, authority: string | undefined): void {
  const { names, values } = exchange.fields;
  let host: string | undefined;
  exchange.framing = 'chunked';
  for (let i = 0; i < names.length; i++) {
    const { role: which } = names[i]!;
    if (which === role.plain) continue;
    const value = values[i]!;
    if (which === role.host) {
      if (host !== undefined) throw new SallyportError('host_invalid', 'the request has two Host fields');
      host = value;
    } else if (which === role.contentLength) {
      if (exchange.framing !== 'chunked')
        throw new SallyportError('length_ambiguous', 'the request has two Content-Length fields');
      exchange.framing = parseContentLength(value);
    } else if (which === role.expect) {
      if (value.toLowerCase() !== '100-continue')
        throw new SallyportError('expectation_failed', `the expectation '${printable(value)}' is not supported`);
      exchange.expectContinue = true;
    } else if (which === role.te && value !== 'trailers') throw malformed("TE is not 'trailers'");
    else if (which === role.requestId && exchange.requestId === '') exchange.requestId = value;
    else if (which === role.userAgent) exchange.userAgent = value;
    else if (which === role.traceParent) exchange.traceParent = exchange.traceParent === undefined ? value : '';
    else if (which === role.contentType) exchange.grpc = exchange.method !== 'CONNECT' && isGrpc(value);
    else if (which === role.forwardedFor) exchange.forwardedFor = value;
  }
  // Section 8.3.1: if both are present they must be equal, or two readers would see two requests.
  if (host !== undefined && authority !== undefined && host.toLowerCase() !== authority.toLowerCase())
    throw new SallyportError('host_invalid', 'Host and :authority differ');
  exchange.authority = authority ?? host ?? '';
}

/** Writes the head of a request to an upstream. `fields` are those of `call`, made before: from here on nothing may throw. */
export function writeRequest(encoder: HpackEncoder, call: Call, fields: Fields, scheme: 'http' | 'https'): void {
  encoder.add(pseudo.method, call.webSocket ? 'CONNECT' : call.method);
  if (call.webSocket) encoder.add(pseudo.protocol, 'websocket');
  encoder.add(pseudo.scheme, scheme);
  encoder.add(pseudo.authority, call.authority);
  encoder.add(pseudo.path, call.path);
  writeFields(encoder, fields, call.hopFields);
  if (call.clientCert !== undefined) encoder.add(clientCertName, call.clientCert);
  if (call.requestId !== undefined) encoder.add(requestIdName, call.requestId);
  if (call.expectContinue) encoder.add(expectName, '100-continue');
  // A client that requested trailers in HTTP/2 gets them from HTTP/2: gRPC depends on it.
  if (fields.names.includes(teName)) encoder.add(teName, 'trailers');
  if (typeof call.framing === 'number' && (call.framing > 0 || carriesContent.test(call.method)))
    encoder.add(lengthName, String(call.framing));
}

/** A response whose body's length may be found later. */
export type NewReply = Reply & { framing: Framing };

/**
 * Reads a response from a header block.
 * @throws SallyportError `upstream_protocol`.
 */
export function readReply(block: Block, ended: boolean, method: string): NewReply {
  try {
    checkWellFormed(block);
    const count = countPseudo(block.fields, ofReply);
    const text = pseudoValue(block.fields, count, pseudo.status);
    if (text === undefined || !isStatus(text)) throw malformed('a response without :status');
    const fields = regularFrom(block.fields, count);
    const status = Number(text);
    // Section 8.6: protocols cannot be switched.
    if (status === 101) throw malformed('status 101');
    const at = fields.names.indexOf(lengthName);
    const declaredLength = at === -1 ? undefined : parseContentLength(fields.values[at]!);
    if (fields.names.lastIndexOf(lengthName) !== at) throw malformed('two Content-Length fields');
    const bodiless = method === 'HEAD' || status < 200 || status === 204 || status === 304;
    const framing: Framing = ended || bodiless ? 0 : (declaredLength ?? 'chunked');
    if (ended && !bodiless && (declaredLength ?? 0) > 0)
      throw malformed('a response without the body that it declares');
    return { status, reason: '', fields, hopFields: undefined, framing, declaredLength };
  } catch (error) {
    const why = error instanceof SallyportError ? error.message : String(error);
    throw new SallyportError('upstream_protocol', `cannot read the response: ${why}`);
  }
}

/** Writes the head of a response under `status`, and the length of its body if known. */
export function writeReply(encoder: HpackEncoder, reply: Reply, status: number, length: number | undefined): void {
  encoder.add(pseudo.status, String(status));
  writeFields(encoder, reply.fields, reply.hopFields);
  if (length !== undefined) encoder.add(lengthName, String(length));
}

/** The trailers of a block, without fields that are not allowed there. @throws SallyportError `http2_protocol`. */
export function readTrailers(block: Block): Fields {
  checkWellFormed(block);
  const fields = regularFrom(block.fields, countPseudo(block.fields, []));
  const kept: Fields = { names: [], values: [] };
  for (const [index, name] of fields.names.entries()) {
    if (!mayTrail(name)) continue;
    kept.names.push(name);
    kept.values.push(fields.values[index]!);
  }
  return kept.names.length === 0 ? emptyFields : kept;
}

/** Writes what is end to end. `hopFields` are the names that a Connection header listed, in lower case. */
export function writeFields(
  encoder: HpackEncoder,
  { names, values }: Fields,
  hopFields: readonly string[] | undefined,
): void {
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!;
    if (!isEndToEnd(name.role) || hopFields?.includes(name.lower) === true) continue;
    // RFC 8441 section 5: the HTTP/1.1 handshake is not used here.
    if (!isHandshakeField(name.lower)) encoder.add(name, values[i]!);
  }
}

/** Pseudo-header fields come first, once each, and only those defined for the kind of message (section 8.3). */
function countPseudo({ names }: Fields, known: readonly FieldName[]): number {
  let at = 0;
  for (; at < names.length && names[at]!.role === role.pseudo; at++) {
    const name = names[at]!;
    if (!known.includes(name)) throw malformed(`${name.lower} is not allowed there`);
    for (let earlier = 0; earlier < at; earlier++) if (names[earlier] === name) throw malformed(`two ${name.lower}`);
  }
  return at;
}

/** The value of a pseudo-header field among the first `count`. */
function pseudoValue({ names, values }: Fields, count: number, name: FieldName): string | undefined {
  for (let at = 0; at < count; at++) if (names[at] === name) return values[at];
  return undefined;
}

/** What follows the first `count` fields, which are pseudo-header fields: the same lists without those. */
function regularFrom(fields: Fields, count: number): Fields {
  const { names, values } = fields;
  dropFirst(names, count);
  dropFirst(values, count);
  let cookieAt = -1;
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!;
    if (name.role === role.pseudo) throw malformed('a pseudo-header after a field');
    if (name.role === role.plain) {
      if (name !== cookieName) continue;
      // Section 8.2.3: cookies may be split into several fields; HTTP/1.1 has them in one.
      if (cookieAt === -1) cookieAt = i;
      else {
        values[cookieAt] += `; ${values[i]}`;
        names.splice(i, 1);
        values.splice(i, 1);
        i--;
      }
    } else if (ofHttp1.has(name.lower)) throw malformed(`${name.lower}, which belongs to HTTP/1.1`);
  }
  return fields;
}

/** In place: a copy of each list for each head was a twentieth of a request's garbage (measured). */
function dropFirst(list: unknown[], count: number): void {
  for (let at = count; at < list.length; at++) list[at - count] = list[at];
  list.length -= count;
}

function checkWellFormed({ malformed: why }: Block): void {
  if (why === undefined) return;
  if (isTooLarge(why)) throw new SallyportError('head_too_large', `${why} (limits headBytes, headFields)`);
  throw malformed(why);
}

function malformed(why: string): SallyportError {
  return new SallyportError('http2_protocol', `the head is malformed: ${why}`);
}

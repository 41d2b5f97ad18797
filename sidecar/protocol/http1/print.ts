// Prints HTTP/1.1 messages anew from the parsed ones. Hop-by-hop fields are dropped, the framing is ours, and the
// fields that `Connection` names are removed before our own are added.

import type { Socket } from 'node:net';
import { STATUS_CODES } from '../../../cert-agent/base/http.ts';
import { type Call, type Fields, type Framing, isEndToEnd, type Reply } from '../../exchange/message.ts';

/** The request head for an upstream. */
export function printRequest(call: Call): string {
  let head = `${call.method} ${call.path} HTTP/1.1\r\nHost: ${call.authority}\r\n`;
  head += printFields(call.fields, call.hopFields);
  if (call.clientCert !== undefined) head += `x-forwarded-client-cert: ${call.clientCert}\r\n`;
  if (call.requestId !== undefined) head += `x-request-id: ${call.requestId}\r\n`;
  if (call.expectContinue) head += 'Expect: 100-continue\r\n';
  if (call.webSocket) return `${head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`;
  if (call.framing === 'chunked') return `${head}Transfer-Encoding: chunked\r\n\r\n`;
  // A method that carries content states its length even if there is none (RFC 9110 section 8.6); GET without a body
  // does not.
  if (call.framing !== 0 || call.method === 'POST' || call.method === 'PUT' || call.method === 'PATCH') {
    return `${head}Content-Length: ${call.framing}\r\n\r\n`;
  }
  return `${head}\r\n`;
}

/** How a response is delimited, and whether its connection stays open. */
export interface ReplyFraming {
  readonly framing: Framing | 'none';
  readonly connection: 'close' | 'keep-alive' | 'upgrade' | undefined;
}

/** The head of a response. */
export function printReply(reply: Reply, how: ReplyFraming): string {
  let head = `HTTP/1.1 ${reply.status} ${reasonFor(reply)}\r\n`;
  head += printFields(reply.fields, reply.hopFields);
  if (how.framing === 'chunked') head += 'Transfer-Encoding: chunked\r\n';
  else if (typeof how.framing === 'number') head += `Content-Length: ${how.framing}\r\n`;
  if (how.connection === 'close') return `${head}Connection: close\r\n\r\n`;
  if (how.connection === 'keep-alive') return `${head}Connection: keep-alive\r\n\r\n`;
  if (how.connection === 'upgrade') return `${head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`;
  return `${head}\r\n`;
}

/** The last chunk with the trailers and the empty line that ends the message. */
export function printLastChunk(trailers: Fields): string {
  return trailers.names.length === 0 ? '0\r\n\r\n' : `0\r\n${printFields(trailers, undefined)}\r\n`;
}

function printFields(fields: Fields, hopFields: readonly string[] | undefined): string {
  const { names, values } = fields;
  let text = '';
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!;
    if (!isEndToEnd(name.role)) continue;
    if (hopFields?.includes(name.lower)) continue;
    text += `${name.prefix}${values[i]}\r\n`;
  }
  return text;
}

function reasonFor(reply: Reply): string {
  return reply.reason === '' ? reasonPhrase(reply.status) : reply.reason;
}

/** The reason phrase of a status (RFC 9110 section 15); empty if it has none. */
export function reasonPhrase(status: number): string {
  return STATUS_CODES[status] ?? '';
}

/** Below this, copying head and body into one buffer costs less than a vectored write. */
const copyLimit = 16 * 1024;

/** Writes a head and its body with one system call. False asks to wait for 'drain'. */
export function writeTogether(socket: Socket, head: string, body: Buffer): boolean {
  if (body.length > copyLimit) {
    socket.cork();
    socket.write(head, 'latin1');
    const more = socket.write(body);
    socket.uncork();
    return more;
  }
  const both = Buffer.allocUnsafe(head.length + body.length);
  both.write(head, 0, 'latin1');
  both.set(body, head.length);
  return socket.write(both);
}

/** Writes one piece of a body, as a chunk if the body is chunked. False asks to wait for 'drain'. */
export function writeBody(socket: Socket, chunk: Buffer, chunked: boolean): boolean {
  // A TLS record from an HTTP/2 peer holds the end of one frame and the beginning of the next: one write for both.
  if (socket.writableCorked === 0) corkForTurn(socket);
  if (!chunked) return socket.write(chunk);
  // A chunk of size zero would end the body.
  if (chunk.length === 0) return true;
  socket.cork();
  socket.write(`${chunk.length.toString(16)}\r\n`, 'latin1');
  socket.write(chunk);
  const more = socket.write('\r\n', 'latin1');
  socket.uncork();
  return more;
}

/** Joins everything written until the end of this turn of the event loop into one system call. */
export function corkForTurn(socket: Socket): void {
  socket.cork();
  process.nextTick(() => socket.uncork());
}

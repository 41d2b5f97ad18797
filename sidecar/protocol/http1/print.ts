// HTTP/1.1 messages as they leave: printed anew from what was parsed. Fields of one hop stay behind, the framing is
// ours, and what `Connection` names is gone before our own fields are added.

import type { Socket } from 'node:net';
import { STATUS_CODES } from '../../../cert-agent/base/http.ts';
import { type Call, type Fields, type Framing, isEndToEnd, type Reply } from '../../exchange/message.ts';

/** The request head that goes to an upstream. */
export function printRequest(call: Call): string {
  let head = `${call.method} ${call.path} HTTP/1.1\r\nHost: ${call.authority}\r\n`;
  head += printFields(call.fields, call.hopFields);
  if (call.clientCert !== undefined) head += `x-forwarded-client-cert: ${call.clientCert}\r\n`;
  if (call.requestId !== undefined) head += `x-request-id: ${call.requestId}\r\n`;
  if (call.expectContinue) head += 'Expect: 100-continue\r\n';
  if (call.webSocket) return `${head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`;
  if (call.framing === 'chunked') return `${head}Transfer-Encoding: chunked\r\n\r\n`;
  // A method that carries content says so even when there is none (RFC 9110 section 8.6); GET without a body does not.
  if (call.framing !== 0 || call.method === 'POST' || call.method === 'PUT' || call.method === 'PATCH') {
    return `${head}Content-Length: ${call.framing}\r\n\r\n`;
  }
  return `${head}\r\n`;
}

/** How an answer is delimited and what becomes of its connection. */
export interface ReplyFraming {
  readonly framing: Framing | 'none';
  readonly connection: 'close' | 'keep-alive' | 'upgrade' | undefined;
}

/** The head of an answer. */
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

/** Trailers as they follow the last chunk, with the empty line that ends the message. */
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

/** The status in words (RFC 9110 section 15); empty for one that has none. */
export function reasonPhrase(status: number): string {
  return STATUS_CODES[status] ?? '';
}

/** Below this, copying head and body into one buffer costs less than a vectored write. */
const copyLimit = 16 * 1024;

/** Writes a head and a body that belong together with one system call. False asks to wait for 'drain'. */
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

/** Writes one piece of a body, as a chunk where the body is chunked. False asks to wait for 'drain'. */
export function writeBody(socket: Socket, chunk: Buffer, chunked: boolean): boolean {
  // A TLS record from a peer in HTTP/2 holds the end of one frame and the beginning of the next: one write for both.
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

/** Joins what is written until the end of this turn of the event loop into one system call. */
export function corkForTurn(socket: Socket): void {
  socket.cork();
  process.nextTick(() => socket.uncork());
}

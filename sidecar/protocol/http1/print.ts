// Prints HTTP/1.1 messages anew from the parsed ones. Hop-by-hop fields are dropped, the framing is ours, and the
// fields that `Connection` names are removed before our own are added.

import type { Socket } from 'node:net';
import { ByteWriter } from '../../../cert-agent/base/byte-writer.ts';
import { STATUS_CODES } from '../../../cert-agent/base/http.ts';
import { type Call, type Fields, type Framing, isEndToEnd, type Reply } from '../../exchange/message.ts';
import { encryptsAtOnce, owned } from '../lent-reads.ts';

/** The head in the making: one at a time, since each is written before anything else happens. */
const out = new ByteWriter();

/** The request head for an upstream; valid until the next head is printed. */
export function printRequest(call: Call, fields: Fields = call.fields): ByteWriter {
  out.clear().raw(call.method).raw(' ').raw(call.path).raw(' HTTP/1.1\r\nHost: ').raw(call.authority).raw('\r\n');
  printFields(fields, call.hopFields);
  if (call.clientCert !== undefined) out.raw('x-forwarded-client-cert: ').raw(call.clientCert).raw('\r\n');
  if (call.requestId !== undefined) out.raw('x-request-id: ').raw(call.requestId).raw('\r\n');
  if (call.expectContinue) out.raw('Expect: 100-continue\r\n');
  if (call.webSocket) return out.raw('Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  if (call.framing === 'chunked') return out.raw('Transfer-Encoding: chunked\r\n\r\n');
  // A method that carries content states its length even if there is none (RFC 9110 section 8.6); GET without a body
  // does not.
  const { framing, method } = call;
  if (typeof framing === 'number' && (framing !== 0 || method === 'POST' || method === 'PUT' || method === 'PATCH'))
    printLength(framing);
  return out.raw('\r\n');
}

/** How a response is delimited. */
export type ReplyFraming = Framing | 'none';

/** What a response says of its connection, if it says something. */
export type ConnectionOption = 'close' | 'keep-alive' | 'upgrade' | undefined;

/** The head of a response; valid until the next head is printed. */
export function printReply(reply: Reply, framing: ReplyFraming, connection: ConnectionOption): ByteWriter {
  out.clear().raw('HTTP/1.1 ').count(reply.status).raw(' ').raw(reasonFor(reply)).raw('\r\n');
  printFields(reply.fields, reply.hopFields);
  if (framing === 'chunked') out.raw('Transfer-Encoding: chunked\r\n');
  else if (typeof framing === 'number') printLength(framing);
  if (connection === 'close') return out.raw('Connection: close\r\n\r\n');
  if (connection === 'keep-alive') return out.raw('Connection: keep-alive\r\n\r\n');
  if (connection === 'upgrade') return out.raw('Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  return out.raw('\r\n');
}

/**
 * The last chunk with the trailers and the empty line that ends the message; valid until the next head is printed.
 */
export function printLastChunk(trailers: Fields): ByteWriter {
  out.clear().raw('0\r\n');
  printFields(trailers, undefined);
  return out.raw('\r\n');
}

function printLength(length: number): void {
  out.raw('Content-Length: ').count(length).raw('\r\n');
}

function printFields({ names, values }: Fields, hopFields: readonly string[] | undefined): void {
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!;
    if (!isEndToEnd(name.role)) continue;
    if (hopFields?.includes(name.lower)) continue;
    out.raw(name.prefix).raw(values[i]!).raw('\r\n');
  }
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

/** Writes a printed head. False asks to wait for 'drain'. */
export function writeHead(socket: Socket, head: ByteWriter): boolean {
  return isIdle(socket) ? writeAtOnce(socket, head) : socket.write(takeCopy(head));
}

/** Writes a printed head and its body, which may be lent, with one system call. False asks to wait for 'drain'. */
export function writeTogether(socket: Socket, head: ByteWriter, body: Buffer): boolean {
  if (body.length <= copyLimit) return writeHead(socket, head.add(body));
  socket.cork();
  writeHead(socket, head);
  const more = socket.write(owned(body));
  socket.uncork();
  return more;
}

/** Nothing waits in the socket: what is written now it takes at once, in most cases. */
function isIdle(socket: Socket): boolean {
  return socket.writableLength === 0 && socket.writableCorked === 0;
}

/**
 * Writes the bytes as they are, without a copy. Those that a socket does not take at once, nor encrypts, belong to it
 * from then on, and the next head is printed into others.
 */
function writeAtOnce(socket: Socket, head: ByteWriter): boolean {
  const isEncrypted = encryptsAtOnce(socket);
  const more = socket.write(head.view());
  if (isEncrypted || socket.writableLength === 0) head.wipe();
  else head.giveAway();
  return more;
}

/** The head in bytes of its own: a socket may keep them for a while. */
function takeCopy(head: ByteWriter): Buffer {
  const own = Buffer.allocUnsafe(head.length);
  own.set(head.view());
  head.wipe();
  return own;
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

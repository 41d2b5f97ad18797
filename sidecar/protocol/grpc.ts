// gRPC over HTTP: what makes a request gRPC, how it is refused (HTTP 200 and a status of its own), and how many
// messages a body holds. The messages themselves are not decoded.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import { type Fields, fieldName, type Reply } from '../exchange/message.ts';

const contentType = fieldName('content-type');
const grpcStatus = fieldName('grpc-status');
const grpcMessage = fieldName('grpc-message');
const prefixBytes = 5;

/** The fields of a gRPC request besides its path. */
export const grpcFields: Fields = { names: [contentType, fieldName('te')], values: ['application/grpc', 'trailers'] };

/** One uncompressed message with its prefix. */
export function framed(bytes: Uint8Array): Buffer {
  const prefix = Buffer.alloc(prefixBytes);
  prefix.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([prefix, bytes]);
}

/** The message in a body that holds exactly one; undefined otherwise. */
export function unframed(body: Buffer): Buffer | undefined {
  const isOne = body.length >= prefixBytes && body[0] === 0 && body.readUInt32BE(1) === body.length - prefixBytes;
  return isOne ? body.subarray(prefixBytes) : undefined;
}

/** Whether a Content-Type is gRPC: `application/grpc`, or with a suffix; gRPC-Web is another protocol. */
export function isGrpc(value: string): boolean {
  if (!value.startsWith('application/grpc')) return false;
  const next = value.charCodeAt(16);
  return Number.isNaN(next) || next === 43 || next === 59;
}

/** A refusal for gRPC clients: trailers alone, with the text that an HTTP client would get as a body. */
export function grpcRefusal(error: SallyportError, words: string): Reply {
  return {
    status: 200,
    reason: '',
    fields: {
      names: [contentType, grpcStatus, grpcMessage],
      values: ['application/grpc', String(error.row.grpc), escapeMessage(words)],
    },
    hopFields: undefined,
    framing: 0,
    declaredLength: undefined,
  };
}

/**
 * The `grpc-status` in a response's trailers, or in its head if it has nothing else; undefined if there is none. Over
 * HTTP/1.1 it may be spelled `Grpc-Status`, which is another name object.
 */
export function grpcStatusOf({ names, values }: Fields): number | undefined {
  const at = names.findIndex(({ lower }) => lower === grpcStatus.lower);
  const value = at === -1 ? undefined : values[at];
  // Only two digits are defined; what an app invents must not become a metric's label.
  return value !== undefined && /^\d{1,2}$/.test(value) ? Number(value) : undefined;
}

/** gRPC's own escapes: printable ASCII except the percent sign stays as it is. */
function escapeMessage(text: string): string {
  return Array.from(Buffer.from(text), (byte) =>
    byte >= 0x20 && byte <= 0x7e && byte !== 0x25
      ? String.fromCharCode(byte)
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
  ).join('');
}

/** Counts the messages of one direction: each is preceded by a flag and a length of four bytes. */
export class MessageCounter {
  count = 0;
  /** The flags of all messages so far, joined: 1 is compressed; gRPC has no other. */
  flags = 0;
  /** Bytes left of the current message. */
  #left = 0;
  #prefix = 0;
  #length = 0;

  /** True between two messages: a body may end here. */
  get isBetween(): boolean {
    return this.#left === 0 && this.#prefix === 0;
  }

  /** Takes the next bytes of the body, cut anywhere. Keeps none of them. */
  read(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, chunk.length - at);
        this.#left -= step;
        at += step;
        continue;
      }
      if (this.#prefix === 0) this.flags |= chunk[at]!;
      else this.#length = this.#length * 256 + chunk[at]!;
      at++;
      if (++this.#prefix < prefixBytes) continue;
      this.count++;
      this.#left = this.#length;
      this.#length = 0;
      this.#prefix = 0;
    }
  }
}

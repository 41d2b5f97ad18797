// The parts of WebSocket that a proxy needs (RFC 6455): the handshake's key and its answer if one side speaks HTTP/2
// and has neither (RFC 8441 section 5), and where a frame ends, so that a close frame of ours can stand between two.

import { createHash, randomBytes } from 'node:crypto';
import { fieldName } from '../exchange/message.ts';

/** Fields that only the HTTP/1.1 handshake has. */
export const keyName = fieldName('Sec-WebSocket-Key');
export const acceptName = fieldName('Sec-WebSocket-Accept');
const ofHandshake = new Set(['sec-websocket-key', 'sec-websocket-accept']);

/** Whether a field belongs to the handshake in HTTP/1.1 and must not be sent in HTTP/2. */
export function isHandshakeField(lower: string): boolean {
  return ofHandshake.has(lower);
}

/** A client's key: section 4.1. */
export function newKey(): string {
  return randomBytes(16).toString('base64');
}

/** The answer to a key: section 4.2.2, item 5. */
export function acceptOf(key: string): string {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
}

/** Status codes of section 7.4.1 that we use. */
export const closeStatus = Object.freeze({ goingAway: 1001, policyViolation: 1008 });

/** A close frame; a frame to a server is masked (section 5.1). */
export function closeFrame(status: number, reason: string, masked: boolean): Buffer {
  const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
  payload.writeUInt16BE(status);
  payload.write(reason, 2);
  if (!masked) return Buffer.concat([Buffer.from([0x88, payload.length]), payload]);
  const mask = randomBytes(4);
  for (let i = 0; i < payload.length; i++) payload[i]! ^= mask[i % 4]!;
  return Buffer.concat([Buffer.from([0x88, 0x80 | payload.length]), mask, payload]);
}

/** Follows the frames of one direction and knows whether the last byte completed one. */
export class FrameBoundary {
  #header: number[] = [];
  #left = 0;

  /** Between two frames: control frames may stand here, even inside of a fragmented message (section 5.4). */
  get clear(): boolean {
    return this.#left === 0 && this.#header.length === 0;
  }

  /** Takes the next bytes of one direction, cut anywhere. Does not check them. */
  read(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, chunk.length - at);
        this.#left -= step;
        at += step;
      } else {
        this.#header.push(chunk[at]!);
        at++;
        this.#begin();
      }
    }
  }

  /** Section 5.2: two bytes, a longer length if needed, and a mask. */
  #begin(): void {
    const header = this.#header;
    const second = header[1];
    if (second === undefined) return;
    const short = second & 0x7f;
    const extra = short === 126 ? 2 : short === 127 ? 8 : 0;
    if (header.length < 2 + extra) return;
    let length = extra === 0 ? short : 0;
    for (let i = 0; i < extra; i++) length = length * 256 + header[2 + i]!;
    this.#left = length + (second >= 128 ? 4 : 0);
    this.#header = [];
  }
}

// HTTP/2 frames on the wire (RFC 9113 sections 4 and 6), their numbers, and the error codes of our refusals.

import type { Code } from '../../../cert-agent/base/errors.ts';

/** The client's first bytes (section 3.4). */
export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

/** Section 6. */
export const frameType = Object.freeze({
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
});

/** Bits of the frames' flags; `ack` is the same bit as `endStream`, of other types of frames. */
export const flag = Object.freeze({ endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 });

/** Section 7. */
export const errorCode = Object.freeze({
  none: 0,
  protocol: 1,
  internal: 2,
  flowControl: 3,
  streamClosed: 5,
  frameSize: 6,
  refusedStream: 7,
  cancel: 8,
  compression: 9,
  connect: 10,
  calm: 11,
  inadequateSecurity: 12,
  http11Required: 13,
});

/** Section 6.5.2; the last is RFC 8441's. */
export const setting = Object.freeze({
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
  enableConnect: 8,
});

/** Of every frame (section 4.1). */
export const headerBytes = 9;
/** The minimum that every peer accepts, and the maximum that we accept: a larger frame would hold up its neighbours. */
export const maxFrameBytes = 16_384;
/** Bytes, of a connection and of a stream before SETTINGS (section 6.9.2). */
export const defaultWindow = 65_535;
/** Bytes; a larger window is a flow-control error (section 6.9.1). */
export const maxWindow = 2 ** 31 - 1;

/** The error code with which a connection or stream ends for `code` of our table. */
export function wireCodeOf(code: Code): number {
  switch (code) {
    case 'http2_compression':
      return errorCode.compression;
    case 'http2_flow_control':
      return errorCode.flowControl;
    case 'http2_frame_size':
      return errorCode.frameSize;
    case 'http2_stream_closed':
      return errorCode.streamClosed;
    case 'http2_flood':
      return errorCode.calm;
    case 'internal':
      return errorCode.internal;
    default:
      return errorCode.protocol;
  }
}

/** Enough for the heads of some requests; most connections are quiet. */
const firstBytes = 4096;

/** Gathers frames until they are written: one buffer for a turn of the event loop. */
export class FrameBuffer {
  bytes = Buffer.allocUnsafeSlow(firstBytes);
  length = 0;

  /** Begins a frame with `size` bytes of payload, with room reserved after its header. */
  begin(size: number, type: number, flags: number, stream: number): void {
    this.#reserve(headerBytes + size);
    const { bytes } = this;
    let at = this.length;
    bytes[at++] = size >>> 16;
    bytes[at++] = (size >>> 8) & 0xff;
    bytes[at++] = size & 0xff;
    bytes[at++] = type;
    bytes[at++] = flags;
    bytes[at++] = stream >>> 24;
    bytes[at++] = (stream >>> 16) & 0xff;
    bytes[at++] = (stream >>> 8) & 0xff;
    bytes[at++] = stream & 0xff;
    this.length = at;
  }

  /** Only within the room that `begin` reserved, as the other two. */
  uint16(value: number): void {
    this.length = this.bytes.writeUInt16BE(value, this.length);
  }

  /** Takes the lower 32 bits of `value`. */
  uint32(value: number): void {
    this.length = this.bytes.writeUInt32BE(value >>> 0, this.length);
  }

  /** Copies `from` from `start` to before `end`. */
  copy(from: Buffer, start: number, end: number): void {
    from.copy(this.bytes, this.length, start, end);
    this.length += end - start;
  }

  /** The gathered bytes; ownership passes to the caller. With `lent`, they are valid only until more is gathered. */
  take(lent: boolean): Buffer {
    const gathered = this.bytes.subarray(0, this.length);
    this.length = 0;
    return lent ? gathered : Buffer.from(gathered);
  }

  #reserve(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.bytes.length, this.length + more));
    this.bytes.copy(larger, 0, 0, this.length);
    this.bytes = larger;
  }
}

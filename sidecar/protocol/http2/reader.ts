// Reads HTTP/2 frames from the wire (RFC 9113 sections 4 and 6): bytes become well-formed frames, or the connection is
// over. DATA is reported as it arrives, a header block once it is whole. connection.ts gives the frames their meaning.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { Budget } from '../budget.ts';
import { Gatherer } from '../gather.ts';
import { keepLent } from '../lent-reads.ts';
import { flag, frameType, headerBytes, maxFrameBytes, preface } from './frames.ts';

/** The frames, in the order in which they arrived. */
export interface FrameEvents {
  /** A whole header block, the bytes from `from` to before `to`; `ends` if nothing follows on its stream. */
  block(id: number, bytes: Buffer, from: number, to: number, ends: boolean): void;
  /** A DATA frame begins; `size` bytes count against both windows, of which `padding` are unused. */
  dataBegins(id: number, size: number, padding: number): void;
  /** A piece of the frame's payload without padding, as it arrived. It may be lent, for the time of the call. */
  data(id: number, chunk: Buffer): void;
  /** The frame is complete; `endsStream` if nothing follows on its stream. */
  dataEnds(id: number, endsStream: boolean): void;
  /** RST_STREAM, with an error code of RFC 9113 section 7. */
  reset(id: number, code: number): void;
  /** Not for an acknowledgement of ours. To be acknowledged. */
  settings(list: readonly (readonly [id: number, value: number])[]): void;
  /** Not for an answer to ours. To be answered. */
  ping(payload: Buffer): void;
  /** Streams of ours above `last` were not processed. */
  goaway(last: number): void;
  /** `id` 0 is the connection. */
  windowUpdate(id: number, more: number): void;
}

// The budget for frames that cost us more than their sender: this many at once, then so many a second (nghttp2's
// figures), and one for each stream that ends properly.
const floodBurst = 1000;
const floodPerSecond = 33;

interface OpenBlock {
  readonly id: number;
  readonly ends: boolean;
  readonly parts: Buffer[];
  bytes: number;
}

/** A DATA frame that has not arrived completely. */
interface OpenData {
  readonly id: number;
  readonly ends: boolean;
  left: number;
  padding: number;
}

/** Of one connection. It keeps only what is incomplete of a frame or a header block. */
export class FrameReader {
  /** performance.now() since when a head has been arriving in pieces, or undefined. */
  headSince: number | undefined = undefined;
  /** Set when nothing more is to be read. */
  stopped = false;
  readonly #events: FrameEvents;
  readonly #maxBlock: number;
  /** What is read now is lent. */
  #isLent = false;
  #held: Buffer | undefined = undefined;
  readonly #gathered = new Gatherer();
  #prefaceLeft: number;
  #settled = false;
  #data: OpenData | undefined = undefined;
  #block: OpenBlock | undefined = undefined;
  readonly #budget = new Budget(floodBurst, floodPerSecond);
  /** We have sent DATA since the last PING. */
  #mayMeasure = false;

  /** `maxBlock` bounds a header block in bytes; a server's reader expects the client's preface first. */
  constructor(events: FrameEvents, maxBlock: number, side: 'client' | 'server') {
    this.#events = events;
    this.#maxBlock = maxBlock;
    this.#prefaceLeft = side === 'server' ? preface.length : 0;
  }

  /**
   * Reads what has arrived; of bytes that are lent it copies what it keeps.
   * @throws SallyportError `http2_*`: the connection cannot continue.
   */
  read(chunk: Buffer, isLent = false): void {
    this.#isLent = isLent && this.#held === undefined;
    const buffer = this.#gathered.append(this.#held, chunk);
    this.#held = undefined;
    let at = this.#prefaceLeft > 0 ? this.#readPreface(buffer) : 0;
    while (at < buffer.length && !this.stopped) {
      const next = this.#data === undefined ? this.#readFrame(buffer, at) : this.#readData(this.#data, buffer, at);
      if (next === -1) {
        this.#held = this.#own(buffer.subarray(at));
        return;
      }
      at = next;
    }
  }

  #own(bytes: Buffer): Buffer {
    return this.#isLent ? keepLent(bytes) : bytes;
  }

  /** Counts a useless frame. @throws SallyportError `http2_flood` if there are too many. */
  annoyed(): void {
    if (!this.#budget.spend()) throw flood('too many frames that only cause work');
  }

  /**
   * We have sent DATA, for which the peer may send one PING: gRPC measures the bytes in flight that way, once per round
   * trip, which may be a thousand times a second. It costs us no more than the DATA that the peer requested.
   */
  dataSent(): void {
    this.#mayMeasure = true;
  }

  /** A stream has ended properly. */
  pleased(): void {
    this.#budget.earn();
  }

  #readPreface(buffer: Buffer): number {
    const from = preface.length - this.#prefaceLeft;
    const size = Math.min(this.#prefaceLeft, buffer.length);
    if (!buffer.subarray(0, size).equals(preface.subarray(from, from + size)))
      throw protocolError('the first bytes are not the client preface of HTTP/2');
    this.#prefaceLeft -= size;
    return size;
  }

  /** Reads one frame; for DATA only the beginning. -1 if it is not complete. */
  #readFrame(buffer: Buffer, at: number): number {
    if (buffer.length - at < headerBytes) return -1;
    const size = (buffer[at]! << 16) | (buffer[at + 1]! << 8) | buffer[at + 2]!;
    const type = buffer[at + 3]!;
    const flags = buffer[at + 4]!;
    const id = buffer.readUInt32BE(at + 5) & 0x7fffffff;
    if (size > maxFrameBytes) throw frameSize(`a frame of ${size} bytes; the limit is ${maxFrameBytes}`);
    // Section 3.4: SETTINGS come first.
    if (!this.#settled && type !== frameType.settings) throw protocolError('the first frame is not SETTINGS');
    if (this.#block !== undefined && (type !== frameType.continuation || id !== this.#block.id))
      throw protocolError('a header block is interrupted');
    const start = at + headerBytes;
    if (type === frameType.data) return this.#beginData(buffer, start, size, flags, id);
    if (buffer.length < start + size) return -1;
    const end = start + size;
    // As nearly all heads are; without an object for the payload.
    if (type === frameType.headers && (flags & ~flag.endStream) === flag.endHeaders)
      this.#events.block(id, buffer, start, end, (flags & flag.endStream) !== 0);
    else this.#take(type, flags, id, buffer.subarray(start, end));
    return end;
  }

  #take(type: number, flags: number, id: number, payload: Buffer): void {
    switch (type) {
      case frameType.headers:
        return this.#takeHeaders(flags, id, payload);
      case frameType.continuation:
        return this.#takeContinuation(flags, payload);
      case frameType.settings:
        return this.#takeSettings(flags, id, payload);
      case frameType.rstStream:
        if (payload.length !== 4) throw frameSize('RST_STREAM frame is not 4 bytes long');
        return this.#events.reset(id, payload.readUInt32BE(0));
      case frameType.ping:
        if (id !== 0) throw protocolError('PING on a stream');
        if (payload.length !== 8) throw frameSize('PING frame is not 8 bytes long');
        if ((flags & flag.ack) !== 0) return;
        if (!this.#mayMeasure) this.annoyed();
        this.#mayMeasure = false;
        return this.#events.ping(payload);
      case frameType.goaway:
        if (id !== 0) throw protocolError('GOAWAY on a stream');
        if (payload.length < 8) throw frameSize('GOAWAY frame is shorter than 8 bytes');
        return this.#events.goaway(payload.readUInt32BE(0) & 0x7fffffff);
      case frameType.windowUpdate:
        if (payload.length !== 4) throw frameSize('WINDOW_UPDATE frame is not 4 bytes long');
        return this.#events.windowUpdate(id, payload.readUInt32BE(0) & 0x7fffffff);
      case frameType.priority:
        if (payload.length !== 5) throw frameSize('PRIORITY frame is not 5 bytes long');
        if (id === 0) throw protocolError('PRIORITY on stream 0');
        checkDependency(payload, 0, id);
        return this.annoyed();
      case frameType.pushPromise:
        throw protocolError('PUSH_PROMISE, which we have disabled');
      default:
        // Section 5.5: unknown frames are ignored, but count against the budget.
        this.annoyed();
    }
  }

  #beginData(buffer: Buffer, start: number, size: number, flags: number, id: number): number {
    const padded = (flags & flag.padded) !== 0 ? 1 : 0;
    if (padded > 0 && buffer.length <= start) return -1;
    const padding = padded > 0 ? buffer[start]! : 0;
    if (padded > 0 && padding >= size) throw protocolError('padding longer than its frame');
    const ends = (flags & flag.endStream) !== 0;
    if (size === 0 && !ends) this.annoyed();
    this.#events.dataBegins(id, size, padding + padded);
    const data = { id, ends, left: size - padding - padded, padding };
    if (data.left + padding > 0) this.#data = data;
    else this.#events.dataEnds(id, ends);
    return start + padded;
  }

  #readData(data: OpenData, buffer: Buffer, at: number): number {
    const end = Math.min(buffer.length, at + data.left);
    data.left -= end - at;
    if (end > at) this.#events.data(data.id, buffer.subarray(at, end));
    const skip = data.left > 0 ? 0 : Math.min(buffer.length - end, data.padding);
    data.padding -= skip;
    if (data.left + data.padding === 0) {
      this.#data = undefined;
      this.#events.dataEnds(data.id, data.ends);
    }
    return end + skip;
  }

  #takeHeaders(flags: number, id: number, payload: Buffer): void {
    let from = 0;
    let padding = 0;
    if ((flags & flag.padded) !== 0) padding = payload[from++] ?? payload.length;
    const dependsOn = (flags & flag.priority) !== 0 ? from : -1;
    if (dependsOn >= 0) from += 5;
    if (from + padding > payload.length) throw protocolError('padding longer than its frame');
    if (dependsOn >= 0) checkDependency(payload, dependsOn, id);
    const fragment = from + padding === 0 ? payload : payload.subarray(from, payload.length - padding);
    const ends = (flags & flag.endStream) !== 0;
    if ((flags & flag.endHeaders) !== 0) return this.#events.block(id, fragment, 0, fragment.length, ends);
    this.headSince ??= performance.now();
    this.#block = { id, ends, parts: [Buffer.from(fragment)], bytes: fragment.length };
  }

  #takeContinuation(flags: number, payload: Buffer): void {
    const block = this.#block;
    if (block === undefined) throw protocolError('CONTINUATION without HEADERS');
    block.parts.push(Buffer.from(payload));
    block.bytes += payload.length;
    // A block may be as long as its fields may be, and may come in a few more pieces than it needs.
    if (block.bytes > this.#maxBlock) throw flood('a header block is too large (limit headBytes)');
    if (block.parts.length > 8 + block.bytes / 1024) throw flood('a header block in too many pieces');
    if ((flags & flag.endHeaders) === 0) return;
    this.#block = undefined;
    this.headSince = undefined;
    this.#events.block(block.id, Buffer.concat(block.parts), 0, block.bytes, block.ends);
  }

  #takeSettings(flags: number, id: number, payload: Buffer): void {
    if (id !== 0) throw protocolError('SETTINGS on a stream');
    if ((flags & flag.ack) !== 0) {
      if (payload.length !== 0) throw frameSize('a SETTINGS acknowledgement has a payload');
      return;
    }
    if (payload.length % 6 !== 0) throw frameSize('the length of SETTINGS is not a multiple of 6');
    this.#settled = true;
    this.annoyed();
    const list: [number, number][] = [];
    for (let at = 0; at < payload.length; at += 6) list.push([payload.readUInt16BE(at), payload.readUInt32BE(at + 2)]);
    this.#events.settings(list);
  }
}

/** RFC 7540 section 5.3.1. Priorities are obsolete, but this one was never valid. */
function checkDependency(payload: Buffer, at: number, id: number): void {
  if ((payload.readUInt32BE(at) & 0x7fffffff) === id) throw protocolError('a stream that depends on itself');
}

const protocolError = (why: string): SallyportError => new SallyportError('http2_protocol', why);
const frameSize = (why: string): SallyportError => new SallyportError('http2_frame_size', why);
const flood = (why: string): SallyportError => new SallyportError('http2_flood', why);

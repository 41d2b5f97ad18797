// HTTP/2 on a socket, the part that both ends share (RFC 9113 sections 3 to 6): frames in and out, settings, windows, and
// what floods are stopped by. All that is sent in one turn of the event loop leaves in one write: between two sidecars the
// requests in flight together share a TLS record and a system call, which is most of what a request costs.

import type { Socket } from 'node:net';
import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import { readBytes } from '../../cert-agent/base/heap.ts';
import { HpackDecoder } from './hpack-decode.ts';
import { HpackEncoder } from './hpack-encode.ts';
import {
  defaultWindow,
  errorCode,
  FrameBuffer,
  flag,
  frameType,
  headerBytes,
  maxFrameBytes,
  maxWindow,
  preface,
  setting,
  wireCodeOf,
} from './http2-frames.ts';
import { Http2Stream } from './http2-stream.ts';

export interface Http2Options {
  readonly side: 'client' | 'server';
  readonly headBytes: number;
  readonly headFields: number;
  /** How many streams the peer may have open at once. */
  readonly streams: number;
}

/** What a connection tells whoever speaks on it. */
export interface Http2Owner {
  /** The peer has opened a stream; its head follows at once. Servers only. */
  opened(stream: Http2Stream): void;
  /** A stream has ended, both sides of it. */
  ended(stream: Http2Stream): void;
  /** The peer takes no more streams. */
  goingAway(): void;
  /** The connection is over; every stream has been told. */
  closed(why: string): void;
}

/** What a peer may send on one stream before we have passed it on: its share of our memory. */
const streamWindow = 256 * 1024;
const connectionWindow = 4 * 1024 * 1024;
/** Written at once when so much has gathered: a full TLS record has nothing to wait for. */
const flushBytes = 16 * 1024;
/** More than this in the socket means that the peer does not read. */
const roomyBytes = 256 * 1024;
/** One frame of DATA and its header are one TLS record. */
const dataBytes = maxFrameBytes - headerBytes;

const lingerMs = 2000;
/** What a head has here and not in HTTP/1.1: pseudo-headers, and a request ID of ours. */
const pseudoFields = 8;

/** RFC 9113 section 6.5.2 counts 32 bytes for each field; a head that HTTP/1.1 lets through must not fail on the hop. */
const listBytes = ({ headBytes, headFields }: Http2Options): number => headBytes + 32 * (headFields + pseudoFields);

/** How many streams that we have reset are remembered. */
const keptResets = 200;

// Frames that cost us more than their sender: so many at once, and so many a second after that (nghttp2's figures).
const floodBurst = 1000;
const floodPerSecond = 33;

export class Http2Connection {
  readonly streamWindow = streamWindow;
  /** performance.now() since when a head has been arriving in pieces, or undefined. */
  headSince: number | undefined = undefined;
  maxPeerStreams = 100;

  readonly #socket: Socket;
  readonly #options: Http2Options;
  readonly #owner: Http2Owner;
  readonly #decoder: HpackDecoder;
  readonly #encoder = new HpackEncoder();
  readonly #streams = new Map<number, Http2Stream>();
  readonly #waiting = new Set<Http2Stream>();
  /** Streams that we have reset lately: what still comes for them is not held against the peer. */
  readonly #resetByUs = new Set<number>();
  readonly #out = new FrameBuffer();
  #flushing = false;
  readonly #afterRead: (() => void)[] = [];
  #held: Buffer | undefined = undefined;
  #prefaceLeft: number;
  #settled = false;
  /** A DATA frame of which a part is still to come. */
  #dataStream: Http2Stream | undefined = undefined;
  #dataLeft = 0;
  #dataPadding = 0;
  #dataEnds = false;
  /** A header block of which CONTINUATION frames are still to come. */
  #block: { stream: Http2Stream; parts: Buffer[]; bytes: number; frames: number; ends: boolean } | undefined =
    undefined;
  #sendWindow = defaultWindow;
  #peerWindow = defaultWindow;
  #unacknowledged = 0;
  #receiveWindow = connectionWindow;
  #lastPeerStream = 0;
  #nextStream: number;
  #goneAway = false;
  #endSince: number | undefined = undefined;
  #peerGoneAway = false;
  #closed = false;
  #patience = floodBurst;
  #patienceAt = performance.now();

  constructor(socket: Socket, options: Http2Options, owner: Http2Owner) {
    this.#socket = socket;
    this.#options = options;
    this.#owner = owner;
    this.#decoder = new HpackDecoder(listBytes(options), options.headFields + pseudoFields);
    this.#prefaceLeft = options.side === 'server' ? preface.length : 0;
    this.#nextStream = options.side === 'client' ? 1 : 2;
    socket.on('data', this.#onData);
    socket.on('drain', this.#pump);
    socket.on('end', this.#onEnd);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
    this.#sendPreface();
  }

  get size(): number {
    return this.#streams.size;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Whether a stream can be opened here now. */
  get hasRoom(): boolean {
    return (
      !this.#closed &&
      !this.#goneAway &&
      !this.#peerGoneAway &&
      this.#streams.size < this.maxPeerStreams &&
      this.#nextStream < 2 ** 30
    );
  }

  /** False when what was written stands in the socket: its reader is slow. */
  get roomy(): boolean {
    return this.#socket.writableLength + this.#out.length < roomyBytes;
  }

  has(stream: Http2Stream): boolean {
    return this.#streams.get(stream.id) === stream;
  }

  streams(): Iterable<Http2Stream> {
    return this.#streams.values();
  }

  /** A new stream of ours. */
  open(): Http2Stream {
    const stream = new Http2Stream(this, this.#nextStream, this.#peerWindow, streamWindow);
    this.#nextStream += 2;
    if (!this.#closed) this.#streams.set(stream.id, stream);
    return stream;
  }

  // -- what is sent ------------------------------------------------------------------------------------------------

  /** Sends a header block that `write` puts together; with `ends`, nothing follows on our side. */
  sendHead(stream: Http2Stream, write: (encoder: HpackEncoder) => void, ends: boolean): void {
    if (!this.has(stream)) return;
    this.#encoder.begin();
    write(this.#encoder);
    const block = this.#encoder.end();
    let at = 0;
    do {
      const end = Math.min(block.length, at + maxFrameBytes);
      const first = at === 0;
      const last = end === block.length ? flag.endHeaders : 0;
      this.#out.begin(
        end - at,
        first ? frameType.headers : frameType.continuation,
        last | (first && ends ? flag.endStream : 0),
        stream.id,
      );
      this.#out.copy(block, at, end);
      at = end;
    } while (at < block.length);
    this.#written();
    if (ends) this.#localEnd(stream);
  }

  /** Sends what the windows let through of `chunk` from `at` on; gives how far it came. */
  sendData(stream: Http2Stream, chunk: Buffer, at: number, ends: boolean): number {
    let from = at;
    while (from < chunk.length && this.roomy) {
      const size = Math.min(chunk.length - from, dataBytes, stream.sendWindow, this.#sendWindow);
      if (size <= 0) break;
      const last = ends && from + size === chunk.length;
      this.#out.begin(size, frameType.data, last ? flag.endStream : 0, stream.id);
      this.#out.copy(chunk, from, from + size);
      stream.sendWindow -= size;
      this.#sendWindow -= size;
      from += size;
      this.#written();
      if (last) this.#localEnd(stream);
    }
    return from - at;
  }

  /** Ends our side of a stream without trailers. */
  sendEnd(stream: Http2Stream): void {
    if (!this.has(stream) || stream.localEnded) return;
    this.#out.begin(0, frameType.data, flag.endStream, stream.id);
    this.#written();
    this.#localEnd(stream);
  }

  resetStream(stream: Http2Stream, code: number): void {
    if (!this.has(stream)) return;
    this.#out.begin(4, frameType.rstStream, 0, stream.id);
    this.#out.uint32(code);
    this.#written();
    this.#resetByUs.add(stream.id);
    if (this.#resetByUs.size > keptResets) this.#resetByUs.delete(this.#resetByUs.values().next().value!);
    this.#forget(stream);
  }

  openWindow(stream: Http2Stream | undefined, bytes: number): void {
    this.#out.begin(4, frameType.windowUpdate, 0, stream?.id ?? 0);
    this.#out.uint32(bytes);
    this.#written();
  }

  /** Told as long as something of it waits for a window or for the socket. */
  waits(stream: Http2Stream): void {
    this.#waiting.add(stream);
  }

  /** No new streams; those that are open go on. */
  goAway(code: number = errorCode.none): void {
    if (this.#goneAway || this.#closed) return;
    this.#goneAway = true;
    this.#out.begin(8, frameType.goaway, 0, 0);
    this.#out.uint32(this.#lastPeerStream);
    this.#out.uint32(code);
    this.#written();
  }

  /** Says why, and closes. */
  close(code: number = errorCode.none): void {
    this.goAway(code);
    this.#flush();
    this.#endSince ??= performance.now();
    this.#socket.end();
  }

  /** Called now and then: a peer that does not close when it is asked to is not waited for. */
  tick(now: number): void {
    if (this.#endSince !== undefined && now - this.#endSince > lingerMs) this.#socket.destroy();
  }

  #sendPreface(): void {
    const { side, streams } = this.#options;
    const ours: [number, number][] = [
      [setting.initialWindowSize, streamWindow],
      [setting.maxHeaderListSize, listBytes(this.#options)],
      side === 'client' ? [setting.enablePush, 0] : [setting.maxConcurrentStreams, streams],
    ];
    if (side === 'client') this.#socket.write(preface);
    this.#out.begin(ours.length * 6, frameType.settings, 0, 0);
    for (const [id, value] of ours) {
      this.#out.uint16(id);
      this.#out.uint32(value);
    }
    this.openWindow(undefined, connectionWindow - defaultWindow);
  }

  #written(): void {
    if (this.#out.length >= flushBytes) this.#flush();
    else if (!this.#flushing) {
      this.#flushing = true;
      // One alone has nobody to wait for.
      if (this.#streams.size < 2) process.nextTick(this.#flush);
      else setImmediate(this.#flush);
    }
  }

  /** After the poll of this turn: everything that its events have sent, in one write. */
  #flush = (): void => {
    this.#flushing = false;
    if (this.#out.length === 0 || this.#closed) return;
    // A write that begins at once is encrypted before it returns; one that has to wait would wait as a reference.
    const atOnce = this.#socket.writableLength === 0 && 'encrypted' in this.#socket;
    this.#socket.write(this.#out.take(atOnce));
  };

  #pump = (): void => {
    for (const stream of this.#waiting) {
      if (!this.roomy || this.#sendWindow <= 0) return;
      if (!this.has(stream) || stream.pump()) this.#waiting.delete(stream);
    }
  };

  #localEnd(stream: Http2Stream): void {
    stream.localEnded = true;
    if (stream.remoteEnded) this.#forget(stream);
  }

  #remoteEnd(stream: Http2Stream): void {
    stream.remoteEnded = true;
    if (stream.localEnded) this.#forget(stream);
  }

  #forget(stream: Http2Stream): void {
    this.#streams.delete(stream.id);
    this.#waiting.delete(stream);
    this.#owner.ended(stream);
  }

  // -- what arrives ------------------------------------------------------------------------------------------------

  #onData = (chunk: Buffer): void => {
    readBytes(chunk.length);
    const buffer = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = undefined;
    try {
      this.#consume(buffer);
    } catch (error) {
      this.#fail(asSallyportError(error, 'internal', 'the connection could not be served'));
    }
    for (const run of this.#afterRead.splice(0)) run();
  };

  /** Calls `run` once everything that has arrived together is read: a head may wait so long for its body. */
  afterRead(run: () => void): void {
    this.#afterRead.push(run);
  }

  #consume(buffer: Buffer): void {
    let at = this.#prefaceLeft > 0 ? this.#readPreface(buffer) : 0;
    while (at < buffer.length && !this.#closed) {
      if (this.#dataStream !== undefined || this.#dataLeft > 0 || this.#dataPadding > 0) {
        at = this.#readData(buffer, at);
        continue;
      }
      const next = this.#readFrame(buffer, at);
      if (next === -1) {
        this.#held = buffer.subarray(at);
        return;
      }
      at = next;
    }
  }

  #readPreface(buffer: Buffer): number {
    const from = preface.length - this.#prefaceLeft;
    const size = Math.min(this.#prefaceLeft, buffer.length);
    if (!buffer.subarray(0, size).equals(preface.subarray(from, from + size)))
      throw protocolError('this is not HTTP/2');
    this.#prefaceLeft -= size;
    return size;
  }

  /** Reads one frame; of DATA only the beginning. -1 when it is not all there. */
  #readFrame(buffer: Buffer, at: number): number {
    if (buffer.length - at < headerBytes) return -1;
    const size = buffer.readUIntBE(at, 3);
    const type = buffer[at + 3]!;
    const flags = buffer[at + 4]!;
    const id = buffer.readUInt32BE(at + 5) & 0x7fffffff;
    if (size > maxFrameBytes) throw frameSize(`a frame of ${size} bytes, ${maxFrameBytes} are the limit`);
    // Section 3.4: SETTINGS come first.
    if (!this.#settled && type !== frameType.settings) throw protocolError('the first frame is not SETTINGS');
    if (this.#block !== undefined && (type !== frameType.continuation || id !== this.#block.stream.id))
      throw protocolError('a header block is interrupted');
    const start = at + headerBytes;
    if (type === frameType.data) return this.#beginData(buffer, start, size, flags, id);
    if (buffer.length < start + size) return -1;
    this.#take(type, flags, id, buffer.subarray(start, start + size));
    return start + size;
  }

  #take(type: number, flags: number, id: number, payload: Buffer): void {
    switch (type) {
      case frameType.headers:
        return this.#takeHeaders(flags, id, payload);
      case frameType.continuation:
        return this.#takeContinuation(flags, payload);
      case frameType.rstStream:
        return this.#takeReset(id, payload);
      case frameType.settings:
        return this.#takeSettings(flags, id, payload);
      case frameType.ping:
        return this.#takePing(flags, id, payload);
      case frameType.goaway:
        return this.#takeGoaway(id, payload);
      case frameType.windowUpdate:
        return this.#takeWindowUpdate(id, payload);
      case frameType.priority:
        if (payload.length !== 5) throw frameSize('PRIORITY has five bytes');
        if (id === 0) throw protocolError('PRIORITY on stream 0');
        if ((payload.readUInt32BE(0) & 0x7fffffff) === id) throw protocolError('a stream that depends on itself');
        return this.#annoyed();
      case frameType.pushPromise:
        throw protocolError('PUSH_PROMISE, which we have switched off');
      default:
        // Section 5.5: unknown frames are ignored. They are not free, though.
        this.#annoyed();
    }
  }

  #beginData(buffer: Buffer, start: number, size: number, flags: number, id: number): number {
    const padded = (flags & flag.padded) !== 0;
    if (padded && buffer.length <= start) return -1;
    const padding = padded ? buffer[start]! : 0;
    if (padded && padding >= size) throw protocolError('padding longer than its frame');
    const stream = this.#streams.get(id);
    this.#receiveWindow -= size;
    if (this.#receiveWindow < 0) throw flowControl('more DATA than the window of the connection');
    this.#unacknowledged += size;
    if (this.#unacknowledged >= connectionWindow / 2) {
      this.openWindow(undefined, this.#unacknowledged);
      this.#receiveWindow += this.#unacknowledged;
      this.#unacknowledged = 0;
    }
    if (stream === undefined) this.#late(id);
    else if (stream.remoteEnded) this.#dropStream(stream, errorCode.streamClosed, 'DATA after the end of its stream');
    else if (!stream.headSeen) throw protocolError('DATA before its head');
    if (size === 0 && (flags & flag.endStream) === 0) this.#annoyed();
    if (stream !== undefined && size > stream.receiveWindow)
      throw flowControl('more DATA than the window of its stream');
    this.#dataStream = stream;
    this.#dataLeft = size - padding - (padded ? 1 : 0);
    this.#dataPadding = padding;
    this.#dataEnds = (flags & flag.endStream) !== 0;
    // Padding is not for anybody, and is given back with the rest.
    if (padded && stream !== undefined && this.has(stream)) stream.received(padding + 1);
    const next = start + (padded ? 1 : 0);
    if (this.#dataLeft === 0 && this.#dataPadding === 0) this.#endData();
    return next;
  }

  #readData(buffer: Buffer, at: number): number {
    const end = Math.min(buffer.length, at + this.#dataLeft);
    if (end > at) {
      this.#dataLeft -= end - at;
      const stream = this.#dataStream;
      if (stream !== undefined && this.has(stream)) {
        stream.expected -= end - at;
        if (stream.expected < 0) this.#lengthError(stream);
        else {
          stream.events?.data(buffer.subarray(at, end));
          stream.received(end - at);
        }
      }
    }
    const skip = this.#dataLeft > 0 ? 0 : Math.min(buffer.length - end, this.#dataPadding);
    this.#dataPadding -= skip;
    if (this.#dataLeft === 0 && this.#dataPadding === 0) this.#endData();
    return end + skip;
  }

  #endData(): void {
    const stream = this.#dataStream;
    this.#dataStream = undefined;
    if (stream !== undefined && this.#dataEnds && this.has(stream)) this.#streamEnded(stream);
  }

  #streamEnded(stream: Http2Stream): void {
    // Section 8.1.1: a body that is not as long as it said is malformed.
    if (isShort(stream)) return this.#lengthError(stream);
    const { events } = stream;
    this.#remoteEnd(stream);
    events?.ended();
  }

  #lengthError(stream: Http2Stream): void {
    this.#dropStream(stream, errorCode.protocol, 'its body is not as long as its Content-Length');
  }

  /** Ends a stream for what its peer did on it. */
  #dropStream(stream: Http2Stream, code: number, why: string): void {
    const { events } = stream;
    this.resetStream(stream, code);
    events?.closed(code, why);
  }

  /** DATA or HEADERS for a stream that is over. Where we have reset it they were on their way; else the peer is told. */
  #late(id: number): void {
    this.#checkKnown(id);
    if (this.#resetByUs.has(id)) return;
    this.#annoyed();
    this.#out.begin(4, frameType.rstStream, 0, id);
    this.#out.uint32(errorCode.streamClosed);
    this.#written();
  }

  #takeHeaders(flags: number, id: number, payload: Buffer): void {
    let from = 0;
    let padding = 0;
    if ((flags & flag.padded) !== 0) padding = payload[from++] ?? payload.length;
    const dependsOn = (flags & flag.priority) !== 0 ? from : -1;
    if (dependsOn >= 0) from += 5;
    if (from + padding > payload.length) throw protocolError('padding longer than its frame');
    if (dependsOn >= 0 && (payload.readUInt32BE(dependsOn) & 0x7fffffff) === id)
      throw protocolError('a stream that depends on itself');
    const stream = this.#streams.get(id) ?? this.#accept(id);
    const fragment = payload.subarray(from, payload.length - padding);
    const ends = (flags & flag.endStream) !== 0;
    if ((flags & flag.endHeaders) !== 0) return this.#takeBlock(stream, fragment, ends);
    this.headSince ??= performance.now();
    this.#block = { stream, parts: [Buffer.from(fragment)], bytes: fragment.length, frames: 1, ends };
  }

  #takeContinuation(flags: number, payload: Buffer): void {
    const block = this.#block;
    if (block === undefined) throw protocolError('CONTINUATION without HEADERS');
    block.parts.push(Buffer.from(payload));
    block.bytes += payload.length;
    // A block may be as long as its fields may be; it may not come in more pieces than it needs, and a few.
    if (block.bytes > this.#options.headBytes + maxFrameBytes) throw flood('a header block without end');
    if (++block.frames > 8 + block.bytes / 1024) throw flood('a header block in crumbs');
    if ((flags & flag.endHeaders) === 0) return;
    this.#block = undefined;
    this.headSince = undefined;
    this.#takeBlock(block.stream, Buffer.concat(block.parts), block.ends);
  }

  #takeBlock(stream: Http2Stream, bytes: Buffer, ends: boolean): void {
    // Decoded whoever it is for: the table must stay right.
    const block = this.#decoder.decode(bytes);
    if (!this.has(stream)) return;
    if (stream.remoteEnded)
      return this.#dropStream(stream, errorCode.streamClosed, 'HEADERS after the end of their stream');
    const { events } = stream;
    if (ends && stream.headSeen && isShort(stream)) return this.#lengthError(stream);
    if (ends) this.#remoteEnd(stream);
    if (events !== undefined) events.head(block, ends);
  }

  /** A stream that the peer opens. */
  #accept(id: number): Http2Stream {
    if (this.#options.side === 'client' || id % 2 === 0 || id === 0) throw protocolError(`HEADERS on stream ${id}`);
    const stream = new Http2Stream(this, id, this.#peerWindow, streamWindow);
    if (id <= this.#lastPeerStream) {
      // Section 5.1.1: a stream is never opened again. Its block is read all the same, for the table.
      if (!this.#resetByUs.has(id))
        throw new SallyportError('http2_stream_closed', `HEADERS on stream ${id}, which is closed`);
      return stream;
    }
    this.#lastPeerStream = id;
    if (this.#goneAway) return stream;
    this.#streams.set(id, stream);
    // Section 5.1.2: what is refused so may be tried again elsewhere.
    if (this.#streams.size > this.#options.streams) this.resetStream(stream, errorCode.refusedStream);
    else this.#owner.opened(stream);
    return stream;
  }

  /** Section 5.1: frames for a stream that we have forgotten are late; for one that never was they are wrong. */
  #checkKnown(id: number): void {
    const ours = id % 2 === (this.#options.side === 'client' ? 1 : 0);
    if (id === 0 || id > (ours ? this.#nextStream - 2 : this.#lastPeerStream))
      throw protocolError(`a frame for stream ${id}, which is not open`);
  }

  #takeReset(id: number, payload: Buffer): void {
    if (payload.length !== 4) throw frameSize('RST_STREAM has four bytes');
    const stream = this.#streams.get(id);
    if (stream === undefined) this.#checkKnown(id);
    // Rapid reset: opening and resetting costs the sender nothing and us a request.
    this.#annoyed();
    if (stream === undefined) return;
    const { events } = stream;
    this.#forget(stream);
    const code = payload.readUInt32BE(0);
    events?.closed(code, `the stream was reset (code ${code})`);
  }

  #takeSettings(flags: number, id: number, payload: Buffer): void {
    if (id !== 0) throw protocolError('SETTINGS on a stream');
    if ((flags & flag.ack) !== 0) {
      if (payload.length !== 0) throw frameSize('an acknowledgement of SETTINGS has no bytes');
      return;
    }
    if (payload.length % 6 !== 0) throw frameSize('SETTINGS have six bytes each');
    this.#settled = true;
    this.#annoyed();
    // The acknowledgement stands before anything that a larger window lets out.
    this.#out.begin(0, frameType.settings, flag.ack, 0);
    this.#written();
    for (let at = 0; at < payload.length; at += 6) this.#set(payload.readUInt16BE(at), payload.readUInt32BE(at + 2));
  }

  #set(id: number, value: number): void {
    if (id === setting.headerTableSize) this.#encoder.setLimit(value);
    else if (id === setting.maxConcurrentStreams) this.maxPeerStreams = value;
    else if (id === setting.initialWindowSize) {
      if (value > maxWindow) throw flowControl('a window larger than 2^31-1');
      const change = value - this.#peerWindow;
      this.#peerWindow = value;
      // Section 6.9.2: it applies to streams that are open, and may leave them with less than nothing.
      for (const stream of this.#streams.values()) stream.sendWindow += change;
      if (change > 0) this.#pump();
    } else if (id === setting.maxFrameSize && (value < maxFrameBytes || value >= 2 ** 24))
      throw protocolError('a frame size outside its bounds');
    else if (id === setting.enablePush && value > 1) throw protocolError('ENABLE_PUSH is neither 0 nor 1');
  }

  #takePing(flags: number, id: number, payload: Buffer): void {
    if (id !== 0) throw protocolError('PING on a stream');
    if (payload.length !== 8) throw frameSize('PING has eight bytes');
    if ((flags & flag.ack) !== 0) return;
    this.#annoyed();
    this.#out.begin(8, frameType.ping, flag.ack, 0);
    this.#out.copy(payload, 0, 8);
    this.#written();
  }

  #takeGoaway(id: number, payload: Buffer): void {
    if (id !== 0) throw protocolError('GOAWAY on a stream');
    if (payload.length < 8) throw frameSize('GOAWAY has eight bytes at least');
    this.#peerGoneAway = true;
    const last = payload.readUInt32BE(0) & 0x7fffffff;
    // What the peer has not looked at may be sent again elsewhere.
    for (const stream of [...this.#streams.values()]) {
      if (stream.id <= last || this.#options.side === 'server') continue;
      const { events } = stream;
      this.#forget(stream);
      events?.closed(errorCode.refusedStream, 'the peer is going away');
    }
    this.#owner.goingAway();
  }

  #takeWindowUpdate(id: number, payload: Buffer): void {
    if (payload.length !== 4) throw frameSize('WINDOW_UPDATE has four bytes');
    const more = payload.readUInt32BE(0) & 0x7fffffff;
    if (id === 0) {
      if (more === 0) throw protocolError('WINDOW_UPDATE of nothing');
      this.#sendWindow += more;
      if (this.#sendWindow > maxWindow) throw flowControl('a window larger than 2^31-1');
      this.#pump();
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) return this.#checkKnown(id);
    stream.sendWindow += more;
    if (more === 0) this.#dropStream(stream, errorCode.protocol, 'WINDOW_UPDATE of nothing');
    else if (stream.sendWindow > maxWindow)
      this.#dropStream(stream, errorCode.flowControl, 'a window larger than 2^31-1');
    else if (this.#waiting.has(stream)) this.#pump();
  }

  // -- how it ends -------------------------------------------------------------------------------------------------

  /** A frame that does nothing for anybody. */
  #annoyed(): void {
    if (--this.#patience > 0) return;
    const now = performance.now();
    this.#patience = Math.min(floodBurst, Math.floor(((now - this.#patienceAt) / 1000) * floodPerSecond));
    this.#patienceAt = now;
    if (this.#patience <= 0) throw flood('more frames that ask for work than anybody needs');
  }

  #fail(error: SallyportError): void {
    if (this.#closed) return;
    this.goAway(wireCodeOf(error.code));
    this.#flush();
    this.#end(error.message);
    // What is still on its way is read by nobody: the reset says so.
    this.#endSince ??= performance.now();
    this.#socket.destroySoon();
  }

  #onEnd = (): void => {
    this.#end('it was closed');
    this.#socket.end();
  };

  #onError = (error: Error): void => {
    this.#end(error.message);
  };

  #onClose = (): void => {
    this.#end('it was closed');
  };

  #end(why: string): void {
    if (this.#closed) return;
    this.#closed = true;
    const open = [...this.#streams.values()];
    this.#streams.clear();
    this.#waiting.clear();
    for (const stream of open) stream.events?.closed(errorCode.none, why);
    this.#owner.closed(why);
  }
}

/** A declared length of which something is left. */
const isShort = ({ expected }: Http2Stream): boolean => expected > 0 && expected !== Number.POSITIVE_INFINITY;

const protocolError = (why: string): SallyportError => new SallyportError('http2_protocol', why);
const frameSize = (why: string): SallyportError => new SallyportError('http2_frame_size', why);
const flowControl = (why: string): SallyportError => new SallyportError('http2_flow_control', why);
const flood = (why: string): SallyportError => new SallyportError('http2_flood', why);

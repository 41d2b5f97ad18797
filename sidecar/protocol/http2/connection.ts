// HTTP/2 on a socket, the part that both ends share (RFC 9113 sections 3 to 6): streams, settings and windows, and the
// meaning of the frames that reader.ts reads. Everything sent in one turn of the event loop leaves in one write:
// between two sidecars the requests in flight share a TLS record and a system call, which is most of the cost of a
// request.

import type { Socket } from 'node:net';
import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Fields } from '../../exchange/message.ts';
import { Budget } from '../budget.ts';
import { encryptsAtOnce, LentReads } from '../lent-reads.ts';
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
} from './frames.ts';
import { writeFields } from './head.ts';
import { HpackDecoder } from './hpack-decode.ts';
import { HpackEncoder } from './hpack-encode.ts';
import { type FrameEvents, FrameReader } from './reader.ts';
import { type Ending, Http2Stream } from './stream.ts';
import { StreamTable } from './stream-table.ts';

/** `headBytes` and `headFields` limit each head that arrives, decoded. A client takes no streams: `streams` is 0. */
export interface Http2Options {
  readonly side: 'client' | 'server';
  readonly headBytes: number;
  readonly headFields: number;
  /** How many streams the peer may have open at once. */
  readonly streams: number;
  /**
   * Servers only: how many requests a second a peer of ours may cancel at once, beyond `resetBurst` and a share of
   * those it lets finish. Absent for strangers.
   */
  readonly resetsPerSecond?: number;
}

/** What a connection reports to its owner. */
export interface Http2Owner {
  /** The peer has opened a stream; its head follows at once. Servers only. */
  opened(stream: Http2Stream): void;
  /** A stream has ended, on both sides. */
  ended(stream: Http2Stream): void;
  /** We have reset a stream; `ended` follows. */
  resetSent?(stream: Http2Stream): void;
  /** The peer accepts no more streams. */
  goingAway(): void;
  /** The connection is over, and every stream has been closed. */
  closed(why: string): void;
}

/** What a peer may send on one stream before we have passed it on: its share of our memory. */
const streamWindow = 256 * 1024;
const connectionWindow = 4 * 1024 * 1024;
/** Written at once when this much has gathered: four TLS records in one system call, which speeds up long bodies. */
const flushBytes = 64 * 1024;
/** More than this in the socket means that the peer does not read. */
const roomyBytes = 256 * 1024;
/** One frame of DATA and its header are one TLS record. */
const dataBytes = maxFrameBytes - headerBytes;

const lingerMs = 2000;
/** What a head has in HTTP/2 and not in HTTP/1.1: pseudo-headers, and a request ID of ours. */
const pseudoFields = 8;

/** RFC 9113 section 6.5.2 counts 32 bytes for each field; a head that HTTP/1.1 accepts must not fail on the hop. */
const listBytes = ({ headBytes, headFields }: Http2Options): number => headBytes + 32 * (headFields + pseudoFields);

/** For a stranger (nghttp2's figure). */
const resetsPerSecond = 33;
const resetBurst = 1000;

/** How many streams that we have reset are remembered. */
const keptResets = 1000;

/** Why a stream has ended that a GOAWAY declares unprocessed. */
export const peerGoesAway = 'the peer is going away';

const noWords = Buffer.alloc(0);

/** One end of a connection. It owns the socket; a fault of the peer closes it with GOAWAY. */
export class Http2Connection {
  readonly streamWindow = streamWindow;
  maxPeerStreams = 100;
  /** The peer accepts extended CONNECT (RFC 8441 section 3). */
  peerConnects = false;
  /** The peer's first SETTINGS have arrived. */
  peerSettled = false;

  readonly #socket: Socket;
  readonly #options: Http2Options;
  readonly #owner: Http2Owner;
  readonly #reader: FrameReader;
  readonly #decoder: HpackDecoder;
  readonly #encoder = new HpackEncoder();
  readonly #streams = new StreamTable<Http2Stream>();
  readonly #waiting = new Set<Http2Stream>();
  /** Streams that we have reset lately: late frames for them are not the peer's fault. */
  readonly #resetByUs = new Set<number>();
  /** The budget for requests that the peer starts in vain. */
  readonly #resets: Budget;
  readonly #out = new FrameBuffer();
  #flushing = false;
  /** Streams to be told once everything that arrived together is read. */
  #arrivals: Http2Stream[] = [];
  readonly #onSettled: (() => void)[] = [];
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

  constructor(socket: Socket, options: Http2Options, owner: Http2Owner) {
    this.#socket = socket;
    this.#options = options;
    this.#owner = owner;
    this.#decoder = new HpackDecoder(listBytes(options), options.headFields + pseudoFields);
    this.#reader = new FrameReader(this.#events(), options.headBytes + maxFrameBytes, options.side);
    this.#resets = new Budget(resetBurst, options.resetsPerSecond ?? resetsPerSecond);
    this.#nextStream = options.side === 'client' ? 1 : 2;
    new LentReads(socket, this.#onData);
    socket.on('drain', this.#pump);
    socket.on('end', this.#onEnd);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
    this.#sendPreface();
  }

  /** Streams that are open in either direction. */
  get size(): number {
    return this.#streams.size;
  }

  /** performance.now() since when a head has been arriving in pieces, or undefined. */
  get headSince(): number | undefined {
    return this.#reader.headSince;
  }

  /** True once it is over, which may be a while after `close`. */
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

  /** False while written bytes wait in the socket: its reader is slow. */
  get roomy(): boolean {
    return this.#socket.writableLength + this.#out.length < roomyBytes;
  }

  /** False once the stream is over, or was never opened here. */
  has(stream: Http2Stream): boolean {
    return this.#streams.get(stream.id) === stream;
  }

  /** All that are open now. */
  streams(): Http2Stream[] {
    return this.#streams.all();
  }

  /** Opens a new stream of ours. */
  open(): Http2Stream {
    const stream = new Http2Stream(this, this.#nextStream, this.#peerWindow, streamWindow);
    this.#nextStream += 2;
    if (!this.#closed) this.#streams.add(stream);
    return stream;
  }

  // -- what is sent ------------------------------------------------------------------------------------------------

  /**
   * Where a header block is to be encoded, for `sendHead` at once. Undefined if the stream is over: what is not sent must
   * not change the encoder's table.
   */
  beginHead(stream: Http2Stream): HpackEncoder | undefined {
    if (!this.has(stream)) return undefined;
    this.#encoder.begin();
    return this.#encoder;
  }

  /** Sends the header block that was encoded after `beginHead`; with `ends`, nothing follows on our side. */
  sendHead(stream: Http2Stream, ends: boolean): void {
    const { bytes, length } = this.#encoder;
    let at = 0;
    do {
      const end = Math.min(length, at + maxFrameBytes);
      const first = at === 0;
      const last = end === length ? flag.endHeaders : 0;
      this.#out.begin(
        end - at,
        first ? frameType.headers : frameType.continuation,
        last | (first && ends ? flag.endStream : 0),
        stream.id,
      );
      this.#out.copy(bytes, at, end);
      at = end;
    } while (at < length);
    this.#written();
    if (ends) this.#localEnd(stream);
  }

  /**
   * Sends as much of `chunk` as the windows allow, and our end with the last byte if it `ends`; returns how far it
   * came.
   */
  sendData(stream: Http2Stream, chunk: Buffer, ends: boolean): number {
    let from = 0;
    while (from < chunk.length && this.roomy) {
      const size = Math.min(chunk.length - from, dataBytes, stream.sendWindow, this.#sendWindow);
      if (size <= 0) break;
      const last = ends && from + size === chunk.length;
      this.#out.begin(size, frameType.data, last ? flag.endStream : 0, stream.id);
      this.#reader.dataSent();
      this.#out.copy(chunk, from, from + size);
      stream.sendWindow -= size;
      this.#sendWindow -= size;
      from += size;
      this.#written();
      if (last) this.#localEnd(stream);
    }
    return from;
  }

  /** Ends our side of a stream without trailers. */
  sendEnd(stream: Http2Stream): void {
    if (!this.has(stream) || stream.localEnded) return;
    this.#out.begin(0, frameType.data, flag.endStream, stream.id);
    this.#written();
    this.#localEnd(stream);
  }

  /** Sends RST_STREAM with an error code of RFC 9113 section 7, and forgets the stream. Nothing if it is over. */
  resetStream(stream: Http2Stream, code: number): void {
    if (!this.has(stream)) return;
    this.#out.begin(4, frameType.rstStream, 0, stream.id);
    this.#out.uint32(code);
    this.#written();
    this.#resetByUs.add(stream.id);
    if (this.#resetByUs.size > keptResets) this.#resetByUs.delete(this.#resetByUs.values().next().value!);
    this.#owner.resetSent?.(stream);
    // The request was answered.
    if (code === errorCode.none) this.#earn();
    this.#forget(stream);
  }

  /**
   * The peer has cancelled a request, or made us reset its stream by a fault that no client commits (CVE-2023-44487,
   * CVE-2025-8671): that costs the peer nothing, and us a request. Streams of ours do not count: a peer cannot reset
   * more of them than we open.
   * @throws SallyportError `http2_flood` if there are too many.
   */
  countReset(): void {
    if (this.#options.side === 'client' || this.#resets.spend()) return;
    throw new SallyportError('http2_flood', 'too many cancelled requests');
  }

  /**
   * A peer of ours may cancel a share of its requests. A stranger could buy resets with requests for nothing, and earns
   * none.
   */
  #earn(): void {
    if (this.#options.resetsPerSecond !== undefined) this.#resets.earn();
  }

  /** Gives the peer `bytes` more, for a stream or, without one, for the connection (section 6.9). */
  openWindow(stream: Http2Stream | undefined, bytes: number): void {
    this.#out.begin(4, frameType.windowUpdate, 0, stream?.id ?? 0);
    this.#out.uint32(bytes);
    this.#written();
  }

  /** Called while something of it waits for a window or for the socket. */
  waits(stream: Http2Stream): void {
    this.#waiting.add(stream);
  }

  /** No new streams; open ones continue. */
  goAway(code: number = errorCode.none, reason = ''): void {
    if (this.#goneAway || this.#closed) return;
    this.#goneAway = true;
    this.#sendGoaway(this.#lastPeerStream, code, Buffer.from(reason, 'latin1'));
  }

  /** Announces to the peer that later streams will not be served; those on their way still are. */
  announceEnd(): void {
    if (this.#goneAway || this.#closed) return;
    this.#sendGoaway(2 ** 31 - 1, errorCode.none, noWords);
  }

  #sendGoaway(last: number, code: number, words: Buffer): void {
    this.#out.begin(8 + words.length, frameType.goaway, 0, 0);
    this.#out.uint32(last);
    this.#out.uint32(code);
    this.#out.copy(words, 0, words.length);
    this.#written();
  }

  /** Sends the reason, and closes. */
  close(code: number = errorCode.none, reason = ''): void {
    this.goAway(code, reason);
    this.#flush();
    this.#socket.end();
    if (this.#endSince !== undefined) return;
    this.#endSince = performance.now();
    // The caller of tick() may be gone as well: a pool that was replaced, a process that is leaving.
    setTimeout(() => this.#socket.destroy(), lingerMs).unref();
  }

  /** Called periodically: a peer that does not close when asked is not waited for. */
  tick(now: number): void {
    for (const stream of this.#waiting) stream.compact();
    if (this.#endSince !== undefined && now - this.#endSince > lingerMs) this.#socket.destroy();
  }

  #sendPreface(): void {
    const { side, streams } = this.#options;
    const ours: [number, number][] = [
      [setting.initialWindowSize, streamWindow],
      [setting.maxHeaderListSize, listBytes(this.#options)],
      side === 'client' ? [setting.enablePush, 0] : [setting.maxConcurrentStreams, streams],
    ];
    if (side === 'server') ours.push([setting.enableConnect, 1]);
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
      // A single stream has no others to wait for.
      if (this.#streams.size < 2) process.nextTick(this.#flush);
      else setImmediate(this.#flush);
    }
  }

  /** After the poll of this turn: everything that its events have sent, in one write. */
  #flush = (): void => {
    this.#flushing = false;
    if (this.#out.length === 0 || this.#closed || this.#socket.writableEnded) return;
    this.#socket.write(this.#out.take(encryptsAtOnce(this.#socket)));
  };

  #pump = (): void => {
    // A copy, and out of the list first: a stream that gets room may write, and wait again, at once.
    for (const stream of [...this.#waiting]) {
      if (!this.roomy || this.#sendWindow <= 0) return;
      this.#waiting.delete(stream);
      if (this.has(stream) && !stream.pump()) this.#waiting.add(stream);
    }
  };

  #localEnd(stream: Http2Stream): void {
    stream.localEnded = true;
    if (stream.remoteEnded) this.#finished(stream);
  }

  #remoteEnd(stream: Http2Stream): void {
    stream.remoteEnded = true;
    if (stream.localEnded) this.#finished(stream);
  }

  #finished(stream: Http2Stream): void {
    this.#reader.pleased();
    this.#earn();
    this.#forget(stream);
  }

  #forget(stream: Http2Stream): void {
    this.#streams.delete(stream);
    this.#waiting.delete(stream);
    stream.dropWaiting();
    this.#owner.ended(stream);
  }

  // -- what arrives ------------------------------------------------------------------------------------------------

  #onData = (chunk: Buffer, isLent: boolean): void => {
    try {
      this.#reader.read(chunk, isLent);
    } catch (error) {
      this.#fail(asSallyportError(error, 'internal', 'the connection could not be served'));
    }
    if (this.#arrivals.length > 0) this.#tellArrivals();
  };

  /** Calls the stream's `arrived` once everything that arrived together is read: a head may wait so long for its body. */
  afterRead(stream: Http2Stream): void {
    this.#arrivals.push(stream);
  }

  #tellArrivals(): void {
    const streams = this.#arrivals;
    this.#arrivals = [];
    for (let at = 0; at < streams.length; at++) streams[at]!.events?.arrived();
  }

  #events(): FrameEvents {
    return {
      block: (id, bytes, from, to, ends) => this.#takeBlock(id, bytes, from, to, ends),
      dataBegins: (id, size, padding) => this.#beginData(id, size, padding),
      data: (id, chunk) => this.#takeData(id, chunk),
      dataEnds: (id, endsStream) => this.#endData(id, endsStream),
      reset: (id, code) => this.#takeReset(id, code),
      settings: (list) => this.#takeSettings(list),
      ping: (payload) => this.#takePing(payload),
      goaway: (last) => this.#takeGoaway(last),
      windowUpdate: (id, more) => this.#takeWindowUpdate(id, more),
    };
  }

  #beginData(id: number, size: number, padding: number): void {
    const stream = this.#streams.get(id);
    this.#receiveWindow -= size;
    if (this.#receiveWindow < 0) throw flowControl('DATA exceeds the window of the connection');
    this.#unacknowledged += size;
    if (this.#unacknowledged >= connectionWindow / 2) {
      this.openWindow(undefined, this.#unacknowledged);
      this.#receiveWindow += this.#unacknowledged;
      this.#unacknowledged = 0;
    }
    if (stream === undefined) return this.#late(id);
    if (stream.remoteEnded) return this.#dropStream(stream, errorCode.streamClosed, 'DATA after the end of the stream');
    if (!stream.headSeen) throw protocolError('DATA before the head of the stream');
    if (size > stream.receiveWindow) throw flowControl('DATA exceeds the window of the stream');
    // Padding is not used, and its credit is given back with the rest.
    if (padding > 0) stream.received(padding);
  }

  #takeData(id: number, chunk: Buffer): void {
    const stream = this.#streams.get(id);
    if (stream === undefined || stream.remoteEnded) return;
    if (stream.expected !== undefined) {
      stream.expected -= chunk.length;
      if (stream.expected < 0) return this.#lengthError(stream);
    }
    stream.events?.data(chunk);
    stream.received(chunk.length);
  }

  #endData(id: number, endsStream: boolean): void {
    const stream = endsStream ? this.#streams.get(id) : undefined;
    if (stream === undefined || stream.remoteEnded) return;
    // Section 8.1.1: a body that does not have its declared length is malformed.
    if (isShort(stream)) return this.#lengthError(stream);
    const { events } = stream;
    this.#remoteEnd(stream);
    events?.ended();
  }

  #lengthError(stream: Http2Stream): void {
    this.#dropStream(stream, errorCode.protocol, 'the body does not match its Content-Length');
  }

  /** Ends a stream because of its peer's fault. */
  #dropStream(stream: Http2Stream, code: number, why: string): void {
    const { events } = stream;
    this.resetStream(stream, code);
    events?.closed(code, why, 'fault');
    this.countReset();
  }

  /** DATA or HEADERS for a stream that is over. If we have reset it they were on their way; else it is an error. */
  #late(id: number): void {
    this.#checkKnown(id);
    if (this.#resetByUs.has(id)) return;
    this.#reader.annoyed();
    this.#out.begin(4, frameType.rstStream, 0, id);
    this.#out.uint32(errorCode.streamClosed);
    this.#written();
  }

  #takeBlock(id: number, bytes: Buffer, from: number, to: number, ends: boolean): void {
    const stream = this.#streams.get(id) ?? this.#accept(id);
    // Decoded for every stream: the table must stay right.
    const block = this.#decoder.decode(bytes, from, to);
    if (!this.has(stream)) return;
    if (stream.remoteEnded)
      return this.#dropStream(stream, errorCode.streamClosed, 'HEADERS after the end of the stream');
    const { events } = stream;
    if (ends && stream.headSeen && isShort(stream)) return this.#lengthError(stream);
    if (ends) this.#remoteEnd(stream);
    if (events !== undefined) events.head(block, ends);
  }

  /** Accepts a stream that the peer opens. If it is over, its block must still be decoded, for the table. */
  #accept(id: number): Http2Stream {
    const stream = new Http2Stream(this, id, this.#peerWindow, streamWindow);
    if (this.#options.side === 'client') {
      // A response that crossed our reset on the way.
      this.#checkKnown(id);
      return stream;
    }
    if (id % 2 === 0) throw protocolError(`HEADERS on stream ${id}`);
    if (id <= this.#lastPeerStream) {
      // Section 5.1.1: a stream is never opened again.
      if (!this.#resetByUs.has(id))
        throw new SallyportError('http2_stream_closed', `HEADERS on stream ${id}, which is closed`);
      return stream;
    }
    this.#lastPeerStream = id;
    if (this.#goneAway) return stream;
    this.#streams.add(stream);
    // Section 5.1.2: a stream refused like this may be retried elsewhere.
    if (this.#streams.size <= this.#options.streams) this.#owner.opened(stream);
    else {
      this.resetStream(stream, errorCode.refusedStream);
      this.countReset();
    }
    return stream;
  }

  /** Section 5.1: frames for a forgotten stream are late; for one that never existed they are an error. */
  #checkKnown(id: number): void {
    const ours = id % 2 === (this.#options.side === 'client' ? 1 : 0);
    if (id === 0 || id > (ours ? this.#nextStream - 2 : this.#lastPeerStream))
      throw protocolError(`a frame for stream ${id}, which is not open`);
  }

  #takeReset(id: number, code: number): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return this.#takeLateReset(id);
    const { events } = stream;
    this.#forget(stream);
    events?.closed(code, `the stream was reset (code ${code})`, 'reset');
  }

  /** A reset of a stream that is over. If we have reset it as well, they have crossed; else it is useless. */
  #takeLateReset(id: number): void {
    this.#checkKnown(id);
    if (!this.#resetByUs.delete(id)) this.#reader.annoyed();
  }

  #takeSettings(list: readonly (readonly [id: number, value: number])[]): void {
    // The acknowledgement precedes anything that a larger window lets out.
    this.#out.begin(0, frameType.settings, flag.ack, 0);
    this.#written();
    for (const [id, value] of list) this.#set(id, value);
    this.peerSettled = true;
    for (const run of this.#onSettled.splice(0)) run();
  }

  #set(id: number, value: number): void {
    if (id === setting.headerTableSize) this.#encoder.setLimit(value);
    else if (id === setting.maxConcurrentStreams) this.maxPeerStreams = value;
    else if (id === setting.initialWindowSize) {
      if (value > maxWindow) throw flowControl('a window larger than 2^31-1');
      const change = value - this.#peerWindow;
      this.#peerWindow = value;
      // Section 6.9.2: it applies to open streams, and may make their windows negative.
      for (const stream of this.#streams.all()) stream.sendWindow += change;
      if (change > 0) this.#pump();
    } else if (id === setting.maxFrameSize && (value < maxFrameBytes || value >= 2 ** 24))
      throw protocolError('a frame size outside its bounds');
    else if (id === setting.enablePush && value > 1) throw protocolError('ENABLE_PUSH is neither 0 nor 1');
    else if (id === setting.enableConnect) this.#setConnects(value);
  }

  /** RFC 8441 section 3: 0 or 1, and never withdrawn. */
  #setConnects(value: number): void {
    if (value > 1 || (this.peerConnects && value === 0))
      throw protocolError('ENABLE_CONNECT_PROTOCOL is neither 0 nor 1, or was withdrawn');
    this.peerConnects = value === 1;
  }

  /** Calls `run` once the peer's settings are known: at once if they are, and also if the connection ends before. */
  whenSettled(run: () => void): void {
    if (this.peerSettled || this.#closed) run();
    else this.#onSettled.push(run);
  }

  #takePing(payload: Buffer): void {
    this.#out.begin(8, frameType.ping, flag.ack, 0);
    this.#out.copy(payload, 0, 8);
    this.#written();
  }

  #takeGoaway(last: number): void {
    this.#peerGoneAway = true;
    // The peer has not processed these: they may be sent again elsewhere.
    for (const stream of this.#streams.all()) {
      if (stream.id <= last || this.#options.side === 'server') continue;
      const { events } = stream;
      this.#forget(stream);
      events?.closed(errorCode.refusedStream, peerGoesAway, 'gone');
    }
    this.#owner.goingAway();
  }

  #takeWindowUpdate(id: number, more: number): void {
    if (id === 0) {
      if (more === 0) throw protocolError('WINDOW_UPDATE of 0');
      this.#sendWindow += more;
      if (this.#sendWindow > maxWindow) throw flowControl('a window larger than 2^31-1');
      this.#pump();
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) return this.#checkKnown(id);
    stream.sendWindow += more;
    if (more === 0) this.#dropStream(stream, errorCode.protocol, 'WINDOW_UPDATE of 0');
    else if (stream.sendWindow > maxWindow)
      this.#dropStream(stream, errorCode.flowControl, 'a window larger than 2^31-1');
    else if (this.#waiting.has(stream)) this.#pump();
  }

  // -- how it ends -------------------------------------------------------------------------------------------------

  #fail(error: SallyportError): void {
    if (this.#closed) return;
    this.goAway(wireCodeOf(error.code));
    this.#flush();
    this.#end(error.message, 'fault');
    // Bytes still on their way are not read: the reset shows it.
    this.#endSince ??= performance.now();
    this.#socket.destroySoon();
  }

  #onEnd = (): void => {
    this.#end('the connection was closed');
    this.#socket.end();
  };

  #onError = (error: Error): void => {
    this.#end(error.message);
  };

  #onClose = (): void => {
    this.#end('the connection was closed');
  };

  #end(why: string, ending: Ending = 'gone'): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.stopped = true;
    const open = this.#streams.all();
    this.#streams.clear();
    this.#waiting.clear();
    for (const stream of open) {
      stream.dropWaiting();
      stream.events?.closed(errorCode.none, why, ending);
    }
    for (const run of this.#onSettled.splice(0)) run();
    this.#owner.closed(why);
  }
}

/** Ends our side of a stream once everything that waits is sent: with the trailers, if there are any. */
export function sendTrailers(http2: Http2Connection, stream: Http2Stream, trailers: Fields): void {
  stream.endWith(() => {
    if (trailers.names.length === 0) return http2.sendEnd(stream);
    const encoder = http2.beginHead(stream);
    if (encoder === undefined) return;
    writeFields(encoder, trailers, undefined);
    http2.sendHead(stream, true);
  });
}

/** A declared length of which some bytes are missing. */
const isShort = ({ expected }: Http2Stream): boolean => expected !== undefined && expected > 0;

const protocolError = (why: string): SallyportError => new SallyportError('http2_protocol', why);
const flowControl = (why: string): SallyportError => new SallyportError('http2_flow_control', why);

// Codecs read from a buffer that all connections share. In every interleaving of pieces, what a request, a response or a
// frame consists of is the same as with bytes of its own: a piece that was kept without a copy is zeros by then.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { Connection } from '../../sidecar/connection.ts';
import type { Exchange, Phases, PortRules } from '../../sidecar/exchange/exchange.ts';
import { type Call, emptyFields, type Fields, type Reply } from '../../sidecar/exchange/message.ts';
import type { UpstreamEvents } from '../../sidecar/exchange/upstream.ts';
import { Http1Client } from '../../sidecar/protocol/http1/client.ts';
import { Http1Server } from '../../sidecar/protocol/http1/server.ts';
import { FrameBuffer, flag, frameType, preface } from '../../sidecar/protocol/http2/frames.ts';
import { HpackEncoder } from '../../sidecar/protocol/http2/hpack-encode.ts';
import { type FrameEvents, FrameReader } from '../../sidecar/protocol/http2/reader.ts';
import { Http2Server } from '../../sidecar/protocol/http2/server.ts';
import { Http2Stream } from '../../sidecar/protocol/http2/stream.ts';
import { owned, proveLentReads } from '../../sidecar/protocol/lent-reads.ts';
import { answerReply } from '../../sidecar/respond.ts';
import { limits } from '../fixtures/codec.ts';
import { fuzz } from '../fixtures/fuzz.ts';
import { LateSocket } from '../fixtures/late-socket.ts';
import type { Random } from '../fixtures/random.ts';

const words = ['alpha-7f3a', 'bravo-91cc', 'delta-d02b'];

/** A body of one client, and how its message frames it. */
interface Message {
  readonly word: string;
  readonly body: string;
  readonly pieces: readonly Buffer[];
}

function messageOf(random: Random, word: string, startLine: string, most = 3000): Message {
  const body = `${word}${'b'.repeat(random.below(most))}${word}`;
  const isChunked = random.below(2) === 0;
  const head = `${startLine}\r\nX-Word: ${word}${'.'.repeat(random.below(200))}\r\n`;
  const at = random.below(body.length);
  const chunk = (text: string): string => (text === '' ? '' : `${text.length.toString(16)}\r\n${text}\r\n`);
  const whole = isChunked
    ? `${head}Transfer-Encoding: chunked\r\n\r\n${chunk(body.slice(0, at))}${chunk(body.slice(at))}0\r\n\r\n`
    : `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
  return { word, body, pieces: cut(random, Buffer.from(whole)) };
}

function cut(random: Random, bytes: Buffer): Buffer[] {
  if (random.below(3) === 0) return [bytes];
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + 1 + random.below(bytes.length));
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}

let server: Server;
t.before(async () => {
  assert.equal(await proveLentReads(), true);
  server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
});
t.teardown(() => server.close());

/** Turns of the event loop: what was sent on loopback arrives within a few. */
async function turnsUntil(isReached: () => boolean): Promise<void> {
  while (!isReached()) await new Promise(setImmediate);
}

/** A real socket, which reads are lent from, and a way to make it read. */
async function openLane(): Promise<{ readonly near: Socket; readonly feed: (piece: Buffer) => Promise<void> }> {
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const far = connect((server.address() as { port: number }).port, '127.0.0.1').setNoDelay();
  const [near] = await accepted;
  far.on('error', () => {});
  let fed = 0;
  return {
    near,
    async feed(piece) {
      fed += piece.length;
      far.write(piece);
      // A socket that waits for its first request is not read on.
      await turnsUntil(() => near.bytesRead >= fed || near.isPaused());
    },
  };
}

/** What has been kept of one message; read only at the end. */
interface Kept {
  readonly near: Socket;
  readonly feed: (piece: Buffer) => Promise<void>;
  readonly parts: Buffer[];
  isDone: boolean;
  inFlight?: Exchange;
  /** If what was kept is elsewhere. */
  take?: () => string[];
}

/** The side of a request: its body as the path gets it. */
async function openRequest(): Promise<Kept> {
  const kept: Kept = { ...(await openLane()), parts: [], isDone: false };
  const rules = { limits, direction: 'inbound', protocol: 'http', generation: 1 } as PortRules;
  const serve = (exchange: Exchange): void => {
    kept.inFlight = exchange;
    if (exchange.wholeBody !== undefined) {
      kept.parts.push(exchange.wholeBody);
      kept.isDone = true;
    }
    exchange.carrier = {
      requestData: (chunk) => kept.parts.push(chunk) > 0,
      requestEnd: () => {
        kept.isDone = true;
      },
      ...{ downstreamDrained() {}, downstreamGone() {}, idle() {} },
    };
  };
  new Http1Server(new Connection(kept.near, { key: 'test', rules: new LiveCell(rules) }), {
    ...{ draining: () => false, refusalOf: () => undefined, finish: () => {}, serve },
    refuse: (_, error) => assert.fail(error),
  });
  kept.near.resume();
  return kept;
}

/** The same over HTTP/2: the frames are in the pieces. */
async function openStream(): Promise<Kept> {
  const kept: Kept = { ...(await openLane()), parts: [], isDone: false };
  const rules = { limits, direction: 'inbound', protocol: 'http', generation: 1 } as PortRules;
  const serve = (exchange: Exchange): void => {
    if (exchange.wholeBody !== undefined) {
      kept.parts.push(exchange.wholeBody);
      kept.isDone = true;
    }
    exchange.carrier = {
      requestData: (chunk) => kept.parts.push(chunk) > 0,
      requestEnd: () => {
        kept.isDone = true;
      },
      ...{ downstreamDrained() {}, downstreamGone() {}, idle() {} },
    };
  };
  new Http2Server(new Connection(kept.near, { key: 'test', rules: new LiveCell(rules) }), {
    ...{ draining: () => false, refusalOf: () => undefined, finish: () => {}, serve },
    refuse: (_, error) => assert.fail(error),
  });
  kept.near.resume();
  return kept;
}

/** A request in HTTP/2, with its body in some frames. */
function streamOf(random: Random, word: string): Message {
  const body = `${word}${'b'.repeat(random.below(3000))}${word}`;
  const encoder = new HpackEncoder();
  encoder.begin();
  for (const [lower, value] of [':method POST', ':scheme http', ':path /', ':authority a'].map((one) => one.split(' ')))
    encoder.add({ lower: lower! }, value!);
  const out = new FrameBuffer();
  out.begin(0, frameType.settings, 0, 0);
  out.begin(encoder.length, frameType.headers, flag.endHeaders, 1);
  out.copy(encoder.bytes, 0, encoder.length);
  for (let at = 0; at < body.length; ) {
    const end = Math.min(body.length, at + 1 + random.below(2000));
    out.begin(end - at, frameType.data, end === body.length ? flag.endStream : 0, 1);
    out.copy(Buffer.from(body), at, end);
    at = end;
  }
  return { word, body, pieces: cut(random, Buffer.concat([preface, out.take(false)])) };
}

/** The side of a response. */
async function openResponse(): Promise<Kept> {
  const kept: Kept = { ...(await openLane()), parts: [], isDone: false };
  const client = new Http1Client(
    kept.near,
    { released() {}, gone() {} },
    { secure: false, peer: undefined, address: 'a:1', headBytes: 60_000, headFields: 100, idleMs: 1000 },
  );
  const call = { method: 'GET', path: '/', authority: 'a', fields: { names: [], values: [] }, framing: 0 };
  client.send(call as unknown as Call, undefined, {
    upstreamReply(_: unknown, whole: Buffer | undefined) {
      if (whole === undefined) return;
      kept.parts.push(owned(whole));
      kept.isDone = true;
    },
    upstreamData: (chunk: Buffer) => kept.parts.push(chunk) > 0,
    upstreamEnd: () => {
      kept.isDone = true;
    },
    upstreamFailed: (error: Error) => assert.fail(error),
  } as unknown as UpstreamEvents);
  kept.near.resume();
  return kept;
}

/** The response of one connection as its client and a stream of HTTP/2 without a window get it, both later. */
async function openPassage(): Promise<Kept> {
  const kept: Kept = { ...(await openLane()), parts: [], isDone: false };
  const down = new LateSocket();
  const late = new LateStream();
  const upstream = new Http1Client(
    kept.near,
    { released() {}, gone() {} },
    { secure: false, peer: undefined, address: 'a:1', headBytes: 60_000, headFields: 100, idleMs: 1000 },
  );
  const finish = (): void => {
    kept.isDone = true;
  };
  let watched: Buffer | undefined;
  const phases = {
    ...{ received: [], reply: [], body: undefined },
    watch: [
      (_exchange, _reply, whole) => {
        watched = whole;
        return undefined;
      },
    ],
  } as Partial<Phases> as Phases;
  const pass = (exchange: Exchange): void => {
    exchange.phases = phases;
    upstream.send(exchange as unknown as Call, undefined, {
      upstreamReply(reply: Reply, whole: Buffer | undefined) {
        answerReply(exchange, reply, whole);
        if (whole === undefined) return;
        late.stream.writeWhole(whole);
        finish();
      },
      upstreamData(chunk: Buffer) {
        exchange.downstream.write(chunk);
        late.stream.write(chunk);
        return true;
      },
      upstreamEnd(trailers: Fields) {
        exchange.downstream.end(trailers);
        finish();
      },
      upstreamFailed: (error: Error) => assert.fail(error),
    } as unknown as UpstreamEvents);
  };
  const rules = { limits, direction: 'inbound', protocol: 'http', generation: 1 } as PortRules;
  new Http1Server(new Connection(down as unknown as Socket, { key: 'test', rules: new LiveCell(rules) }), {
    ...{ draining: () => false, refusalOf: () => undefined, finish: () => {}, serve: pass },
    refuse: (_, error) => assert.fail(error),
  });
  down.emit('data', Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
  kept.near.resume();
  kept.take = () => [bodyOf(down.drain()), late.open(), ...(watched === undefined ? [] : [watched.toString('latin1')])];
  return kept;
}

/** A stream that gets its window at the end. */
class LateStream {
  #isOpen = false;
  readonly #sent: Buffer[] = [];
  readonly stream = new Http2Stream(
    {
      ...{ streamWindow: 1, roomy: true, has: () => true, sendEnd() {}, resetStream() {}, openWindow() {}, waits() {} },
      sendData: (_, chunk) => (this.#isOpen ? this.#sent.push(chunk) && chunk.length : 0),
    },
    ...([1, 0, 0] as const),
  );

  open(): string {
    this.#isOpen = true;
    this.stream.pump();
    return Buffer.concat(this.#sent).toString('latin1');
  }
}

/** The body of a response, without its chunks. */
function bodyOf(text: string): string {
  const at = text.indexOf('\r\n\r\n') + 4;
  if (!text.slice(0, at).includes('chunked')) return text.slice(at);
  let body = '';
  for (let from = at; ; ) {
    const end = text.indexOf('\r\n', from);
    const size = Number.parseInt(text.slice(from, end), 16);
    if (size === 0) return body;
    body += text.slice(end + 2, end + 2 + size);
    from = end + 4 + size;
  }
}

const answer = {
  ...{ status: 200, reason: 'OK', fields: emptyFields, hopFields: undefined, framing: 2, declaredLength: 2 },
} as const;

interface Lane {
  readonly kept: Kept;
  readonly left: Buffer[];
}

/** Feeds all messages in an interleaving, and compares what was kept. */
async function interleave(
  messages: readonly Message[],
  random: Random,
  open: () => Promise<Kept>,
  then: (lane: Lane) => Promise<void> = async () => {},
): Promise<void> {
  const all: Lane[] = [];
  // One after the other: each takes the server's next connection.
  for (const { pieces } of messages) all.push({ kept: await open(), left: [...pieces] });
  for (let lanes = all; lanes.length > 0; lanes = all.filter(({ left }) => left.length > 0)) {
    const { kept, left } = random.pick(lanes);
    await kept.feed(left.shift()!);
  }
  for (const lane of all) await then(lane);
  await turnsUntil(() => all.every(({ kept }) => kept.isDone));
  // What joins writes until the end of a turn has done so.
  await new Promise(setImmediate);
  for (const [at, { kept }] of all.entries()) {
    const taken = kept.take?.() ?? [Buffer.concat(kept.parts).toString('latin1')];
    for (const one of taken) assert.equal(one, messages[at]!.body);
    kept.near.destroy();
  }
}

fuzz(
  t,
  'bodies of requests in any interleaving are their own',
  (random) => words.map((word) => messageOf(random, word, `POST /${word} HTTP/1.1\r\nHost: a`)),
  (messages, random) => interleave(messages, random, openRequest),
);

fuzz(
  t,
  'bodies of streams in any interleaving are their own',
  (random) => words.map((word) => streamOf(random, word)),
  (messages, random) => interleave(messages, random, openStream),
);

fuzz(
  t,
  'bodies of responses in any interleaving are their own',
  (random) => words.map((word) => messageOf(random, word, 'HTTP/1.1 200 OK')),
  (messages, random) => interleave(messages, random, openResponse),
);

fuzz(
  t,
  'responses that are passed on reach readers that are slow as they were sent',
  (random) => words.map((word) => messageOf(random, word, 'HTTP/1.1 200 OK', random.pick([3000, 40_000]))),
  (messages, random) => interleave(messages, random, openPassage),
);

fuzz(
  t,
  'a request that waits behind another one is as it was sent',
  (random) =>
    words.map((word) => {
      const [first, second] = [1, 2].map((n) => messageOf(random, word, `POST /${word}/${n} HTTP/1.1\r\nHost: a`));
      // Both in the same pieces, wherever they are cut.
      const whole = Buffer.concat([first!, second!].flatMap(({ pieces }) => pieces));
      return { word, body: first!.body + second!.body, pieces: cut(random, whole) };
    }),
  (messages, random) =>
    interleave(messages, random, openRequest, async ({ kept }) => {
      await turnsUntil(() => kept.isDone);
      kept.isDone = false;
      kept.inFlight!.downstream.respond(answer, Buffer.from('ok'));
    }),
);

/** Everything that frames give, as it was kept; read only at the end. */
class FrameLog implements FrameEvents {
  readonly kept: (Buffer | string)[] = [];

  block(id: number, bytes: Buffer, from: number, to: number, ends: boolean): void {
    // Decoded at once.
    this.kept.push(`block ${id} ${bytes.toString('hex', from, to)} ${ends}`);
  }

  dataBegins(id: number, size: number, padding: number): void {
    this.kept.push(`data ${id} ${size} ${padding}`);
  }

  data(_: number, chunk: Buffer): void {
    // Lent for the time of the call.
    this.kept.push(Buffer.from(chunk));
  }

  dataEnds(id: number, endsStream: boolean): void {
    this.kept.push(`end ${id} ${endsStream}`);
  }

  reset(): void {}

  settings(list: readonly (readonly [number, number])[]): void {
    this.kept.push(`settings ${list.join(' ')}`);
  }

  ping(payload: Buffer): void {
    // Answered at once.
    this.kept.push(`ping ${payload.toString('hex')}`);
  }

  goaway(): void {}

  windowUpdate(): void {}

  get text(): string {
    return this.kept.map((one) => (typeof one === 'string' ? one : one.toString('hex'))).join('\n');
  }
}

function frames(random: Random): Buffer {
  const out = new FrameBuffer();
  out.begin(0, frameType.settings, 0, 0);
  for (let left = 1 + random.below(8); left > 0; left--) {
    const payload = Buffer.from(`${random.pick(words)}${'.'.repeat(random.below(400))}`);
    const type = random.pick([frameType.data, frameType.headers, frameType.continuation, frameType.ping]);
    const parts =
      type === frameType.continuation
        ? ([
            [frameType.headers, 0],
            [frameType.continuation, 4],
          ] as const)
        : ([[type, type === frameType.headers ? 4 : 0]] as const);
    for (const [one, flags] of parts) {
      const size = one === frameType.ping ? 8 : payload.length;
      out.begin(size, one, flags, one === frameType.ping ? 0 : 1);
      out.copy(payload, 0, size);
    }
  }
  return Buffer.concat([preface, out.take(false)]);
}

fuzz(
  t,
  'frames of bytes that are lent are those of bytes of their own',
  (random) => cut(random, frames(random)),
  (pieces) => {
    const [own, lent] = [new FrameLog(), new FrameLog()];
    const [ofOwn, ofLent] = [own, lent].map((log) => new FrameReader(log, 60_000, 'server'));
    for (const piece of pieces) {
      ofOwn!.read(Buffer.from(piece), false);
      const buffer = Buffer.from(piece);
      ofLent!.read(buffer, true);
      buffer.fill(0);
    }
    assert.equal(lent.text, own.text);
  },
);

// HTTP/2 under hostile bytes: they lead only to refusals, and the response frames do not depend on how the bytes are
// cut.

import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { Connection } from '../../sidecar/connection.ts';
import type { Downstream } from '../../sidecar/exchange/ends.ts';
import { Exchange, type PortRules } from '../../sidecar/exchange/exchange.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import { readMeaning } from '../../sidecar/head.ts';
import { MessageCounter } from '../../sidecar/protocol/grpc.ts';
import { readRequest, writeRequest } from '../../sidecar/protocol/http2/head.ts';
import { HpackDecoder } from '../../sidecar/protocol/http2/hpack-decode.ts';
import { HpackEncoder } from '../../sidecar/protocol/http2/hpack-encode.ts';
import { Http2Server } from '../../sidecar/protocol/http2/server.ts';
import { StreamTable } from '../../sidecar/protocol/http2/stream-table.ts';
import { FrameBoundary } from '../../sidecar/protocol/websocket.ts';
import { refuse } from '../../sidecar/respond.ts';
import { FakeSocket, limits } from '../fixtures/codec.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import { block, frame, get, hello } from '../fixtures/http2-raw.ts';
import { http2Vectors, vectorFrames } from '../fixtures/http2-vectors.ts';
import type { Random } from '../fixtures/random.ts';

const noBody = Buffer.alloc(0);

/** The frames that a server sends in response to `pieces`; each complete request gets 204. */
async function serve(pieces: readonly Buffer[]): Promise<{ answered: string[] }> {
  const socket = new FakeSocket();
  const rules = { limits } as PortRules;
  const connection = new Connection(socket as unknown as Socket, { key: 'test', rules: new LiveCell(rules) });
  const answer = ({ downstream }: Exchange): void =>
    downstream.respond(
      { status: 204, reason: '', fields: emptyFields, hopFields: undefined, framing: 0, declaredLength: undefined },
      noBody,
    );
  connection.speaker = new Http2Server(connection, {
    draining: () => false,
    finish() {},
    refusalOf: () => undefined,
    refuse,
    serve(exchange) {
      if (exchange.framing === 0 || exchange.wholeBody !== undefined) return answer(exchange);
      exchange.carrier = {
        requestData: () => true,
        requestEnd: () => answer(exchange),
        downstreamDrained() {},
        downstreamGone() {},
        idle() {},
      };
    },
  });
  for (const piece of pieces) socket.emit('data', piece);
  await new Promise((resolve) => setImmediate(resolve));
  const answered = framesOf(Buffer.concat(socket.written));
  socket.destroy();
  return { answered };
}

/** Frames as `type stream`, without window updates, whose timing varies. */
function framesOf(bytes: Buffer): string[] {
  const frames: string[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const [type, stream] = [bytes[at + 3], bytes.readUInt32BE(at + 5)];
    if (type !== 8) frames.push(`${type} ${stream}`);
  }
  return frames;
}

const seeds: readonly Buffer[] = [
  ...http2Vectors.map(vectorFrames),
  frame(1, 5, 1, get()),
  frame(1, 5, 1, get({ 'x-a': 'b', cookie: 'c' })),
  Buffer.concat([frame(1, 4, 1, get({ ':method': 'POST' })), frame(0, 1, 1, [1, 2, 3])]),
  Buffer.concat([frame(1, 4, 1, get({ ':method': 'POST', 'content-length': '3' })), frame(0, 9, 1, [1, 1, 2, 3, 0])]),
  Buffer.concat([frame(1, 0, 1, get()), frame(9, 4, 1, block([['x-b', 'c']])), frame(1, 5, 3, get())]),
  Buffer.concat([
    frame(1, 4, 1, get({ ':method': 'PUT' })),
    frame(0, 0, 1, [1]),
    frame(1, 5, 1, block([['x-sum', '1']])),
  ]),
  Buffer.concat([frame(6, 0, 0, Array(8).fill(1)), frame(4, 0, 0, [0, 4, 0, 0, 0, 9]), frame(8, 0, 0, [0, 0, 1, 0])]),
  Buffer.concat([frame(1, 4, 1, get()), frame(3, 0, 1, [0, 0, 0, 8]), frame(7, 0, 0, Array(8).fill(0))]),
];

/** Frames in a canonical order, without the responses of reset streams. */
function unlessReset(answered: readonly string[]): string[] {
  const reset = new Set(answered.filter((one) => one.startsWith('3 ')).map((one) => one.slice(2)));
  return answered.filter((one) => !(/^[01] /.test(one) && reset.has(one.slice(2)))).toSorted();
}

function cut(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + random.below(random.pick([1, 8, 64]));
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}

fuzz(
  t,
  'frames in one piece and in many',
  (random) => Buffer.concat([hello, mutate(random, Buffer.concat([random.pick(seeds), random.pick(seeds)]))]),
  async (bytes, random) => {
    const [whole, pieces] = [await serve([bytes]), await serve(cut(random, bytes))];
    const isOver = (one: { answered: string[] }): boolean => one.answered.includes('7 0');
    assert.equal(isOver(pieces), isOver(whole));
    // A head waits for a body that may arrive with it, so others may be served first. A stream that is reset, or whose
    // connection ends, in the same read is not started; in pieces, it may have its response before the reset.
    if (!isOver(whole)) assert.deepEqual(unlessReset(pieces.answered), unlessReset(whole.answered));
  },
);

fuzz(
  t,
  'a header block is read, or its connection is over',
  (random) => mutate(random, Buffer.concat([get({ 'x-a': 'b' }), Buffer.from([0x82, 0x86, 0xbe, 0x41, 0x8c, 0xf1])])),
  (bytes) => {
    const { fields, malformed } = new HpackDecoder(10_000, 100).decode(bytes);
    assert.equal(fields.names.length, fields.values.length);
    if (malformed === undefined) for (const value of fields.values) assert.doesNotMatch(value, /[\0\r\n]/);
  },
  ['http2_compression'],
);

fuzz(
  t,
  'a header block among other frames is what it is alone',
  (random) => ({
    block: mutate(random, Buffer.concat([get({ 'x-a': 'b' }), Buffer.from([0x82, 0x41, 0x03, 0x61, 0x62, 0x63])])),
    around: [0x00, 0x03, 0x82, 0x41, 0x7f, 0xff].map((one) => Buffer.alloc(random.below(4), one)),
  }),
  ({ block, around }) => {
    const read = (bytes: Buffer, from: number): unknown => {
      try {
        return new HpackDecoder(10_000, 100).decode(bytes, from, from + block.length);
      } catch (error) {
        return (error as Error).message;
      }
    };
    for (const other of around)
      assert.deepEqual(read(Buffer.concat([other, block, other]), other.length), read(block, 0));
  },
);

fuzz(
  t,
  'a head that is accepted is read as it was written, and written the same again',
  (random) => mutate(random, block(random.pick(http2Vectors).fields)),
  (bytes) => {
    const once = rewrite(bytes);
    if (once !== undefined) assert.deepEqual(rewrite(once), once);
  },
  ['http2_compression', 'http2_protocol', 'head_too_large', 'method_invalid', 'host_invalid', 'length_invalid'].concat([
    'length_ambiguous',
    'expectation_failed',
    'head_invalid_url',
    'path_invalid',
    'connect_unsupported',
  ]),
);

/** The forwarded header block, from a fresh encoder; undefined for a tunnel, which has no such head. */
function rewrite(bytes: Buffer): Buffer | undefined {
  const read = new HpackDecoder(60_000, 100).decode(bytes);
  const exchange = new Exchange({} as Connection, {} as Downstream, { direction: 'inbound' } as PortRules, emptyFields);
  readRequest(read, false, exchange);
  readMeaning(exchange);
  if (exchange.webSocket) return undefined;
  const encoder = new HpackEncoder();
  encoder.begin();
  writeRequest(encoder, { ...exchange, clientCert: undefined, requestId: undefined }, exchange.fields, 'https');
  return Buffer.from(encoder.bytes.subarray(0, encoder.length));
}

fuzz(
  t,
  'frames of WebSocket and messages of gRPC are counted the same however they are cut',
  (random) =>
    Buffer.from(Array.from({ length: random.below(400) }, () => random.pick([0, 1, 2, 5, 126, 127, 130, 255]))),
  (bytes, random) => {
    const [whole, pieces] = [new FrameBoundary(), new FrameBoundary()];
    const [all, some] = [new MessageCounter(), new MessageCounter()];
    whole.read(bytes);
    all.read(bytes);
    for (const piece of cut(random, bytes)) {
      pieces.read(piece);
      some.read(piece);
    }
    assert.equal(pieces.clear, whole.clear);
    assert.equal(some.count, all.count);
  },
);

fuzz(
  t,
  'streams that come and go are found by their numbers',
  (random) => Array.from({ length: 400 }, () => [random.below(3) > 0, random.below(300)] as const),
  (turns) => {
    const table = new StreamTable<{ readonly id: number }>();
    const known = new Map<number, { readonly id: number }>();
    let next = 1;
    for (const [comes, which] of turns) {
      const ids = [...known.keys()];
      const id = ids[which % ids.length];
      if (comes || id === undefined) {
        const stream = { id: next };
        next += 2 * (1 + (which % 9));
        table.add(stream);
        known.set(stream.id, stream);
      } else {
        table.delete({ id });
        assert.equal(table.get(id), known.get(id), 'another stream with its number is not it');
        table.delete(known.get(id)!);
        table.delete(known.get(id)!);
        known.delete(id);
      }
      assert.equal(table.size, known.size);
      assert.equal(table.get(which), known.get(which));
    }
    for (let id = 0; id < next; id++) assert.equal(table.get(id), known.get(id));
    assert.deepEqual(table.all(), [...known.values()]);
    table.clear();
    assert.deepEqual([table.size, table.all(), table.get(next - 2)], [0, [], undefined]);
  },
);

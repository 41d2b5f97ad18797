// Compression as hooks: which responses are coded, what their heads say, and that a coded body arrives whole, bounded,
// or cut.

import { randomBytes } from 'node:crypto';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { compression } from '../../../sidecar/edge/compression/capability.ts';
import { Compression } from '../../../sidecar/edge/compression/compress.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import {
  type Answered,
  createCarrier,
  createExchange,
  type Headers,
  headersIn,
  hooksOf,
  phasesOf,
  planOf,
  respondWith,
  type Sent,
  serve,
} from '../../fixtures/exchange.ts';
import { until } from '../../fixtures/process.ts';

const both = await planOf(compression, 'compression', [{ type: 'Brotli' }, { type: 'Gzip' }]);
const gzipOnly = await planOf(compression, 'compression', [{ type: 'Gzip' }]);
const hooks = (plan = both, shared = new Compression()) => hooksOf(compression, { compression: plan }, { shared });

const text = JSON.stringify(Array.from({ length: 100 }, (_, id) => ({ id, name: `customer ${id}` })));
const json = { 'content-type': 'application/json' };
const decode = { gzip: gunzipSync, br: brotliDecompressSync };

type Coding = 'gzip' | 'br' | undefined;

const requests: [name: string, headers: Headers, known: Partial<Exchange>, coding: Coding][] = [
  ['a client that accepts both gets the first of the plan', { 'accept-encoding': 'gzip, br' }, {}, 'br'],
  ['a client that accepts gzip only', { 'accept-encoding': 'gzip' }, {}, 'gzip'],
  ['gzip by its old name', { 'accept-encoding': 'x-gzip' }, {}, 'gzip'],
  ['a client that prefers gzip', { 'accept-encoding': 'br;q=0.5, gzip' }, {}, 'gzip'],
  ['a client that prefers no coding', { 'accept-encoding': 'gzip;q=0.5, identity' }, {}, undefined],
  ['a client that excludes all codings', { 'accept-encoding': '*;q=0' }, {}, undefined],
  ['a client without Accept-Encoding', {}, {}, undefined],
  ['HTTP/1.0', { 'accept-encoding': 'gzip' }, { minor: 0 }, undefined],
  ['gRPC', { 'accept-encoding': 'gzip' }, { grpc: true }, undefined],
  ['a WebSocket', { 'accept-encoding': 'gzip' }, { webSocket: true }, undefined],
  ['no-transform of the client', { 'accept-encoding': 'gzip', 'cache-control': 'no-transform' }, {}, undefined],
];

for (const [name, headers, known, coding] of requests)
  t.test(`request: ${name}`, async (t) => {
    const { sent } = await serve(hooks(), { headers, known }, { headers: json, body: text });
    checkCoded(t, sent, coding);
  });

const responses: [name: string, answer: Answered, coding: Coding][] = [
  ['JSON', { headers: json }, 'gzip'],
  ['JSON of a vendor', { headers: { 'content-type': 'application/vnd.a+json; charset=utf-8' } }, 'gzip'],
  ['a page', { headers: { 'content-type': 'Text/HTML' } }, 'gzip'],
  ['an error in text', { status: 404, headers: json }, 'gzip'],
  ['an image', { headers: { 'content-type': 'image/png' } }, undefined],
  ['no type', {}, undefined],
  ['events', { headers: { 'content-type': 'text/event-stream' } }, undefined],
  ['gRPC-Web', { headers: { 'content-type': 'application/grpc-web+json' } }, undefined],
  ['coded already', { headers: { ...json, 'content-encoding': 'zstd' } }, undefined],
  ['a part', { status: 206, headers: json }, undefined],
  ['a part with another status', { headers: { ...json, 'content-range': 'bytes 0-1/2' } }, undefined],
  ['a response with a digest', { headers: { ...json, 'repr-digest': 'sha-256=:x:' } }, undefined],
  ['no-transform of the backend', { headers: { ...json, 'cache-control': 'public, No-Transform' } }, undefined],
  ['not modified', { status: 304, headers: json, body: '' }, undefined],
  ['short', { headers: json, body: text.slice(0, 1023) }, undefined],
  ['just long enough', { headers: json, body: text.slice(0, 1024) }, 'gzip'],
];

for (const [name, answer, coding] of responses)
  t.test(`response: ${name}`, async (t) => {
    const body = answer.body ?? text;
    const { sent } = await serve(hooks(), { headers: { 'accept-encoding': 'gzip' } }, { ...answer, body });
    checkCoded(t, sent, coding, body);
  });

function checkCoded(t: Test, { replies: [reply], pieces }: Sent, coding: Coding, body = text): void {
  const bytes = Buffer.concat(pieces);
  const made = headersIn(reply!.fields)['content-encoding'];
  t.equal(made === 'zstd' ? undefined : made, coding);
  t.equal(reply!.framing, bytes.length);
  t.equal(String(coding === undefined ? bytes : decode[coding](bytes)), body);
}

t.test('the head of an encoded response', async (t) => {
  const headers = { ...json, etag: '"a"', 'accept-ranges': 'bytes', vary: 'Origin' };
  const asked = { headers: { 'accept-encoding': 'gzip' } };
  const { client, sent } = await serve(hooks(), asked, { headers, body: text });
  t.strictSame(client.headers, { ...json, etag: 'W/"a"', vary: 'Origin, Accept-Encoding', 'content-encoding': 'gzip' });
  t.equal(sent.replies[0]!.declaredLength, undefined);
  const plain = await serve(hooks(), {}, { headers, body: text });
  t.strictSame(plain.client.headers, { ...headers, vary: 'Origin, Accept-Encoding' }, 'a cache keeps the two apart');
  const varied = await serve(hooks(), asked, { headers: { ...json, vary: 'accept-encoding' }, body: text });
  t.equal(varied.client.headers['vary'], 'accept-encoding', 'the field appears once');
  const weak = await serve(hooks(), asked, { headers: { ...json, etag: 'W/"a"' }, body: text });
  t.equal(weak.client.headers['etag'], 'W/"a"');
});

t.test('HEAD gets the head of the encoded response', async (t) => {
  const asked = { known: { method: 'HEAD' }, headers: { 'accept-encoding': 'gzip' } };
  const long = await serve(hooks(), asked, { headers: json, body: '', declaredLength: text.length });
  t.match(long.client, { body: '', headers: { 'content-encoding': 'gzip' } });
  const short = await serve(hooks(), asked, { headers: json, body: '', declaredLength: 10 });
  t.strictSame(short.client.headers, json);
});

t.test('a body that encoding would enlarge is sent as it is', async (t) => {
  const random = randomBytes(2000);
  const { exchange, sent } = createExchange({}, { 'accept-encoding': 'gzip' });
  const fields = addFields(emptyFields, [['content-type', 'text/plain']]);
  const reply = { status: 200, reason: '', fields, hopFields: undefined, framing: 2000, declaredLength: undefined };
  new Compression().respond(exchange, reply, random, ['gzip'], t.fail);
  t.strictSame([sent.replies[0]!.framing, sent.pieces[0]], [2000, random]);
  t.strictSame(headersIn(sent.replies[0]!.fields), { 'content-type': 'text/plain', vary: 'Accept-Encoding' });
});

t.test('without a plan there are no hooks, and gateway.yaml can turn compression off', async (t) => {
  t.equal(hooksOf(compression, {}, { shared: new Compression() }), undefined);
  t.strictSame(await planOf(compression, 'compression', true, 'gateway.yaml'), ['br', 'gzip']);
  t.equal(await planOf(compression, 'compression', false, 'gateway.yaml'), undefined);
});

/** A response whose body follows, and its exchange with a carrier before it. */
function begin(shared = new Compression(), plan = gzipOnly) {
  const { exchange, sent } = createExchange({}, { 'accept-encoding': 'br, gzip' });
  const carrier = createCarrier();
  exchange.carrier = carrier;
  exchange.phases = phasesOf(hooks(plan, shared));
  respondWith(exchange, { headers: json, framing: 'chunked' });
  return { exchange, sent, carrier };
}

t.test('a body that arrives in pieces', async (t) => {
  for (const coding of ['gzip', 'br'] as const)
    await t.test(coding, async (t) => {
      const before = heldBytes();
      const { exchange, sent } = begin(undefined, [coding]);
      t.equal(sent.replies[0]!.framing, 'chunked');
      for (let i = 0; i < text.length; i += 500) exchange.downstream.write(Buffer.from(text.slice(i, i + 500)));
      t.equal(heldBytes() - before, text.length, 'what waits is counted');
      exchange.downstream.end(addFields(emptyFields, [['x-sum', '1']]));
      await until(() => sent.trailers !== undefined, 'the end');
      t.equal(String(decode[coding](Buffer.concat(sent.pieces))), text);
      t.strictSame(headersIn(sent.trailers!), { 'x-sum': '1' });
      t.equal(heldBytes(), before);
    });
});

t.test('bytes that have arrived are not held back for later ones', async (t) => {
  const { exchange, sent } = begin();
  exchange.downstream.write(Buffer.from('first'));
  await until(() => sent.pieces.length > 0, 'the first piece');
  exchange.downstream.end(emptyFields);
  await until(() => sent.trailers !== undefined, 'the end');
  t.equal(String(gunzipSync(Buffer.concat(sent.pieces))), 'first');
});

t.test('a full buffer pauses the backend, which is resumed later', async (t) => {
  const { exchange, carrier, sent } = begin();
  t.equal(exchange.downstream.write(Buffer.alloc(64 * 1024 - 1)), true);
  t.equal(exchange.downstream.write(Buffer.from('a')), false);
  await until(() => carrier.told.includes('drained'), 'the backend to go on');
  exchange.downstream.end(emptyFields);
  await until(() => sent.trailers !== undefined, 'the end');
  t.equal(gunzipSync(Buffer.concat(sent.pieces)).length, 64 * 1024);
});

t.test('a client that stops reading pauses the compression', async (t) => {
  const { exchange, sent } = begin();
  sent.full = true;
  exchange.downstream.write(randomBytes(60_000));
  await until(() => sent.pieces.length > 0, 'the first piece');
  exchange.downstream.end(emptyFields);
  await new Promise(setImmediate);
  t.equal(sent.trailers, undefined, 'the rest waits');
  sent.full = false;
  exchange.carrier!.downstreamDrained();
  await until(() => sent.trailers !== undefined, 'the end');
  t.equal(gunzipSync(Buffer.concat(sent.pieces)).length, 60_000);
});

t.test('how a response can end early', async (t) => {
  await t.test('the backend breaks off: the client sees a truncated response', async (t) => {
    const before = heldBytes();
    const { exchange, sent } = begin();
    exchange.downstream.write(Buffer.from('half'));
    exchange.downstream.abort();
    t.strictSame([sent.aborted, sent.trailers, heldBytes()], [true, undefined, before]);
    t.equal(exchange.downstream.write(Buffer.from('late')), true);
    exchange.downstream.end(emptyFields);
    t.equal(heldBytes(), before);
  });
  await t.test('the client leaves: the backend is told', async (t) => {
    const before = heldBytes();
    const { exchange, carrier } = begin();
    exchange.downstream.write(Buffer.from('half'));
    exchange.carrier!.downstreamGone();
    t.strictSame([carrier.told, heldBytes()], [['gone'], before]);
  });
  await t.test('the client leaves after the backend has ended: its connection is no longer ours', async (t) => {
    const { exchange, carrier } = begin();
    exchange.downstream.end(emptyFields);
    exchange.carrier!.downstreamGone();
    t.strictSame(carrier.told, []);
  });
  await t.test('the carrier handles a silent backend, and a silent client is refused', async (t) => {
    const { exchange, carrier, sent } = begin();
    exchange.carrier!.idle();
    t.strictSame(carrier.told, ['idle']);
    exchange.downstream.end(emptyFields);
    exchange.carrier!.idle();
    t.match(exchange.failure, { code: 'stream_idle' });
    t.equal(sent.aborted, true);
  });
});

t.test('at most 128 streams of one process are compressed; further responses are sent as they are', async (t) => {
  const shared = new Compression();
  const all = Array.from({ length: 128 }, () => begin(shared));
  const isCoded = ({ sent }: ReturnType<typeof begin>) =>
    headersIn(sent.replies[0]!.fields)['content-encoding'] !== undefined;
  t.equal(all.every(isCoded), true);
  t.equal(isCoded(begin(shared)), false);
  all[0]!.exchange.downstream.abort();
  t.equal(isCoded(begin(shared)), true, 'a freed place is passed on once');
  t.equal(isCoded(begin(shared)), false);
  for (const { exchange } of all) exchange.downstream.abort();
});

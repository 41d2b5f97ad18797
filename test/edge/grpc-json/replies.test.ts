// Responses to transcoded calls: JSON by the mapping of protobuf, statuses both ways, streams that nothing holds back.

import { create, fromJson, type JsonValue, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { grpcJson } from '../../../sidecar/edge/grpc-json/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { framed } from '../../../sidecar/protocol/grpc.ts';
import { refuse } from '../../../sidecar/respond.ts';
import { base64Of, registry } from '../../fixtures/descriptor-set.ts';
import {
  type Answered,
  createCarrier,
  createExchange,
  headersIn,
  hooksOf,
  phasesOf,
  planOf,
  respondWith,
  serve,
} from '../../fixtures/exchange.ts';

const hooksFor = async (more: object = {}) =>
  hooksOf(
    grpcJson,
    {
      GRPCJSONTranscoding: await planOf(grpcJson, 'GRPCJSONTranscoding', {
        ...{ protoDescriptorBin: base64Of(), services: ['shop.v1.Orders'], ...more },
      }),
    },
    { shared: { refuse } },
  );
const hooks = await hooksFor();
const Order = registry.getMessage('shop.v1.Order')!;
const order = (json: JsonValue): Uint8Array => toBinary(Order, fromJson(Order, json, { registry }));

/** A request that is on its way: `reply` is the backend's. */
async function begin(path = '/v1/orders/5', using = hooks, method = 'GET') {
  const { exchange, connection, sent } = createExchange({ method, path });
  const phases = phasesOf(using);
  exchange.phases = phases;
  for (const step of [...phases.before, ...phases.serve]) await step(exchange, connection);
  for (const change of phases.rewrite) change(exchange);
  const carrier = createCarrier();
  exchange.carrier = carrier;
  for (const follow of phases.forwarded) follow(exchange, undefined);
  return { exchange, sent, told: carrier.told };
}

const fields = (of: Record<string, string>) => addFields(emptyFields, Object.entries(of));
const head = (more: Answered = {}): Answered => ({
  framing: 'chunked',
  ...more,
  headers: { 'content-type': 'application/grpc', ...more.headers },
});

function finish(exchange: Exchange, messages: readonly Uint8Array[], trailers: Record<string, string>): void {
  respondWith(exchange, head({ headers: { 'x-own': '1', 'grpc-encoding': 'identity' } }));
  for (const one of messages) exchange.downstream.write(framed(one));
  exchange.downstream.end(fields(trailers));
}

const mapped: readonly (readonly [json: JsonValue, shown: unknown, options?: object])[] = [
  [
    { id: '9007199254740993', big: '18446744073709551615' },
    { id: '9007199254740993', big: '18446744073709551615' },
  ],
  [
    { created: '2020-01-02T03:04:05Z', ttl: '3s', limit: '7' },
    { created: '2020-01-02T03:04:05Z', ttl: '3s', limit: '7' },
  ],
  [
    { extra: { a: [1, null] }, blob: 'AQI=', counts: { a: '1' } },
    { extra: { a: [1, null] }, blob: 'AQI=', counts: { a: '1' } },
  ],
  [
    { more: { '@type': 'type.googleapis.com/shop.v1.Order', sku: 'x' } },
    { more: { '@type': 'type.googleapis.com/shop.v1.Order', sku: 'x' } },
  ],
  [
    { state: 'DONE', parentOrder: {} },
    { state: 2, parent_order: {} },
    { alwaysPrintEnumsAsInts: true, preserveProtoFieldNames: true },
  ],
  [{ state: 77 }, { state: 77 }],
  [{ price: 'NaN' }, { price: 'NaN' }],
];

t.test('replies follow the JSON mapping of protobuf', async (t) => {
  for (const [json, shown, printOptions] of mapped) {
    const { exchange, sent } = await begin('/v1/orders/5', await hooksFor(printOptions && { printOptions }));
    finish(exchange, [order(json)], { 'grpc-status': '0' });
    t.strictSame(JSON.parse(sent.bodies[0]!), shown);
    const [reply] = sent.replies;
    t.strictSame(headersIn(reply!.fields), { 'x-own': '1', 'content-type': 'application/json' });
    t.match(reply, { status: 200, framing: sent.bodies[0]!.length });
    t.equal(exchange.method, 'GET');
  }
  const whole = await begin(
    '/v1/orders/5',
    await hooksFor({ printOptions: { alwaysPrintPrimitiveFields: true, addWhitespace: true } }),
  );
  finish(whole.exchange, [order({})], { 'grpc-status': '0' });
  t.match(whole.sent.bodies[0], /^\{\n "id": "0",\n "sku": "",/);
});

t.test('fields that the descriptor set does not have are left out', async (t) => {
  const { exchange, sent } = await begin();
  const more = new BinaryWriter().tag(999, WireType.LengthDelimited).string('secret').finish();
  finish(exchange, [Buffer.concat([order({ sku: 'a' }), more])], { 'grpc-status': '0' });
  t.equal(sent.bodies[0], '{"sku":"a"}');
});

t.test('response_body, HttpBody and HEAD', async (t) => {
  const sku = await begin('/v1/orders/5/sku');
  finish(sku.exchange, [order({ sku: 'a' })], { 'grpc-status': '0' });
  t.equal(sku.sent.bodies[0], '"a"');
  const none = await begin('/v1/orders/5/sku');
  finish(none.exchange, [order({})], { 'grpc-status': '0' });
  t.equal(none.sent.bodies[0], '""');
  const HttpBody = registry.getMessage('google.api.HttpBody')!;
  const raw = await begin('/v1/raw');
  const message = create(HttpBody, { contentType: 'text/csv', data: Buffer.from('a,b') } as never);
  finish(raw.exchange, [toBinary(HttpBody, message)], { 'grpc-status': '0' });
  t.equal(raw.sent.bodies[0], 'a,b');
  t.equal(headersIn(raw.sent.replies[0]!.fields)['content-type'], 'text/csv');
  const bare = await begin('/v1/orders/5', hooks, 'HEAD');
  finish(bare.exchange, [order({ sku: 'a' })], { 'grpc-status': '0' });
  t.equal(bare.sent.bodies[0], '');
  t.match(bare.sent.replies[0], { status: 200, declaredLength: 11 });
  t.equal(bare.exchange.method, 'HEAD', 'the codec sees the method of the client');
});

t.test('HEAD of a streaming method has no body, and the call ends', async (t) => {
  for (const printOptions of [{}, { streamNewlineDelimited: true }]) {
    const { exchange, sent, told } = await begin('/v1/orders', await hooksFor({ printOptions }), 'HEAD');
    respondWith(exchange, head());
    exchange.downstream.write(framed(order({ sku: 'a' })));
    exchange.downstream.end(fields({ 'grpc-status': '0' }));
    t.strictSame([sent.replies.length, sent.replies[0]!.status, sent.pieces.map(String)], [1, 200, ['']]);
    t.ok(told.includes('gone'));
    const empty = await begin('/v1/orders', await hooksFor({ printOptions }), 'HEAD');
    respondWith(empty.exchange, { headers: { 'content-type': 'application/grpc', 'grpc-status': '0' }, body: '' });
    t.strictSame([empty.sent.replies.length, empty.sent.pieces.map(String)], [1, ['']]);
  }
});

t.test('the content_type of an HttpBody cannot end its header line', async (t) => {
  const HttpBody = registry.getMessage('google.api.HttpBody')!;
  for (const contentType of ['text/csv\r\nset-cookie: a=b', 'text/csv\n', 'text/csv\0', 'ä\u2028']) {
    const { exchange, sent } = await begin('/v1/raw');
    const message = create(HttpBody, { contentType, data: Buffer.from('a') } as never);
    finish(exchange, [toBinary(HttpBody, message)], { 'grpc-status': '0' });
    t.equal(sent.replies[0]!.status, 502);
    t.equal(exchange.failure?.code, 'upstream_answer_malformed');
  }
});

t.test('fields about a body that the client does not get are dropped', async (t) => {
  const { exchange, sent } = await begin();
  const about = { 'content-encoding': 'gzip', 'content-range': 'bytes 0-1/2', 'accept-ranges': 'bytes' };
  respondWith(exchange, { status: 503, headers: { ...about, 'content-type': 'text/html', 'retry-after': '1' } });
  t.strictSame(headersIn(sent.replies[0]!.fields), { 'retry-after': '1', 'content-type': 'application/json' });
});

const statuses = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500];
t.test('each gRPC status maps to an HTTP status', async (t) => {
  for (const [code, status] of statuses.entries()) {
    if (code === 0) continue;
    const { exchange, sent } = await begin();
    respondWith(exchange, {
      headers: { 'content-type': 'application/grpc', 'grpc-status': `${code}`, 'grpc-message': 'so%20so' },
      body: '',
    });
    t.equal(sent.replies[0]!.status, status, `${code}`);
    t.equal(exchange.status, status);
    t.strictSame(JSON.parse(sent.bodies[0]!), { code, message: 'so so', details: [] });
    t.strictSame(headersIn(sent.replies[0]!.fields), { 'content-type': 'application/json' });
  }
});

t.test('details of a status are translated if their types are known', async (t) => {
  const any = (name: string, value: Uint8Array): Uint8Array =>
    new BinaryWriter()
      .tag(1, WireType.LengthDelimited)
      .string(`type.googleapis.com/${name}`)
      .tag(2, WireType.LengthDelimited)
      .bytes(value)
      .finish();
  const details = new BinaryWriter()
    .tag(3, WireType.LengthDelimited)
    .bytes(any('shop.v1.Order', order({ sku: 'gone' })))
    .tag(3, WireType.LengthDelimited)
    .bytes(any('shop.v1.None', Buffer.from([1])))
    .finish();
  const { exchange, sent } = await begin();
  finish(exchange, [], { 'grpc-status': '9', 'grpc-status-details-bin': Buffer.from(details).toString('base64') });
  t.strictSame(JSON.parse(sent.bodies[0]!), {
    ...{ code: 9, message: '' },
    details: [{ '@type': 'type.googleapis.com/shop.v1.Order', sku: 'gone' }],
  });
  const broken = await begin();
  finish(broken.exchange, [], { 'grpc-status': '9', 'grpc-status-details-bin': '////' });
  t.strictSame(JSON.parse(broken.sent.bodies[0]!), { code: 9, message: '', details: [] });
});

const bad: readonly (readonly [why: string, answer: (exchange: Exchange) => void, status: number, code?: string])[] = [
  ['no status', (one) => finish(one, [order({})], {}), 500],
  ['no message', (one) => finish(one, [], { 'grpc-status': '0' }), 502, 'upstream_answer_malformed'],
  [
    'two messages',
    (one) => finish(one, [order({}), order({})], { 'grpc-status': '0' }),
    502,
    'upstream_answer_malformed',
  ],
  [
    'no protobuf',
    (one) => finish(one, [Buffer.from([0x0a, 0xff])], { 'grpc-status': '0' }),
    502,
    'upstream_answer_malformed',
  ],
  ['too deep', (one) => finish(one, [deep(70)], { 'grpc-status': '0' }), 502, 'upstream_answer_malformed'],
  [
    'too long',
    (one) => finish(one, [Buffer.alloc(2 ** 20 + 1)], { 'grpc-status': '0' }),
    502,
    'grpc_response_too_large',
  ],
  [
    'compressed',
    (one) => {
      respondWith(one, head());
      one.downstream.write(Buffer.from([1, 0, 0, 0, 0]));
    },
    ...([502, 'upstream_answer_malformed' as const] as const),
  ],
  [
    'cut',
    (one) => {
      respondWith(one, head());
      one.downstream.write(Buffer.from([0, 0, 0, 0, 9, 1]));
      one.downstream.end(fields({ 'grpc-status': '0' }));
    },
    ...([502, 'upstream_answer_malformed' as const] as const),
  ],
  [
    'HTML',
    (one) => respondWith(one, { headers: { 'content-type': 'text/html' }, body: '<p>' }),
    502,
    'upstream_answer_malformed',
  ],
  [
    'a status of HTTP',
    (one) => respondWith(one, { status: 503, headers: { 'content-type': 'text/html' }, body: '<p>' }),
    503,
  ],
];

function deep(depth: number): Uint8Array {
  let bytes: Uint8Array = new Uint8Array();
  for (let i = 0; i < depth; i++) bytes = new BinaryWriter().tag(7, WireType.LengthDelimited).bytes(bytes).finish();
  return bytes;
}

t.test('bad responses are refused', async (t) => {
  for (const [why, answer, status, code] of bad) {
    const before = heldBytes();
    const { exchange, sent, told } = await begin();
    answer(exchange);
    t.equal(sent.replies[0]?.status, status, why);
    t.equal(exchange.failure?.code, code, why);
    t.match(JSON.parse(sent.bodies[0]!), { details: [] }, why);
    if (code !== undefined) t.ok(told.includes('gone'), `${why}: the call is ended`);
    for (const giveBack of exchange.phases!.finished) giveBack(exchange);
    t.equal(heldBytes(), before, `${why}: nothing is held`);
  }
});

t.test('refusals of the gateway are statuses as well', async (t) => {
  const { client } = await serve(
    {
      ...hooks,
      authorize() {
        throw new SallyportError('policy_denied', 'not for you');
      },
    },
    { known: { path: '/v1/orders/5' } },
  );
  t.match(client, { status: 403, headers: { 'content-type': 'application/json' } });
  t.strictSame(JSON.parse(client.body), { code: 7, message: 'RBAC: access denied', details: [] });
  const { exchange, sent } = await begin();
  refuse(exchange, new SallyportError('upstream_connect', 'no'));
  t.match(sent.replies[0], { status: 503 });
  t.match(JSON.parse(sent.bodies[0]!), { code: 14 });
});

const full = '{"code":8,"message":"full","details":[]}';
const forms: readonly (readonly [options: object, type: string, pieces: string[], failed: string | undefined])[] = [
  [{}, 'application/json', ['[', '{"sku":"a"}', ',{"sku":"b"}', ']'], undefined],
  [{ streamNewlineDelimited: true }, 'application/x-ndjson', ['{"sku":"a"}\n', '{"sku":"b"}\n'], `{"error":${full}}\n`],
  [
    { streamSseStyleDelimited: true },
    'text/event-stream',
    ['data: {"sku":"a"}\n\n', 'data: {"sku":"b"}\n\n'],
    `event: error\ndata: ${full}\n\n`,
  ],
];

t.test('streams: the head and each message are sent on at once', async (t) => {
  for (const [printOptions, type, pieces, failed] of forms) {
    const using = await hooksFor({ printOptions });
    const { exchange, sent } = await begin('/v1/orders', using);
    respondWith(exchange, head());
    t.match(headersIn(sent.replies[0]!.fields), { 'content-type': type });
    const begun = sent.pieces.length;
    exchange.downstream.write(framed(order({ sku: 'a' })));
    t.equal(sent.pieces.length, begun + 1, `${type}: the first message does not wait for the second`);
    exchange.downstream.write(framed(order({ sku: 'b' })));
    exchange.downstream.end(fields({ 'grpc-status': '0' }));
    t.strictSame(sent.pieces.map(String), pieces);
    t.ok(sent.trailers);
    const cut = await begin('/v1/orders', using);
    respondWith(cut.exchange, head());
    cut.exchange.downstream.write(framed(order({ sku: 'a' })));
    cut.exchange.downstream.end(fields({ 'grpc-status': '8', 'grpc-message': 'full' }));
    if (failed === undefined) t.ok(cut.sent.aborted, 'an array is truncated');
    else t.equal(cut.sent.pieces.at(-1)?.toString(), failed);
    const early = await begin('/v1/orders', using);
    respondWith(early.exchange, { headers: { 'content-type': 'application/grpc', 'grpc-status': '5' }, body: '' });
    t.match(early.sent.replies[0], { status: 404 }, 'before the first message the response is a status');
  }
});

t.test('a stream that arrives with its head is written after the head', async (t) => {
  for (const method of ['GET', 'HEAD']) {
    const { exchange, sent } = await begin('/v1/orders', hooks, method);
    const written: unknown[] = [];
    const { downstream } = exchange;
    const body = Buffer.concat([framed(order({ sku: 'a' })), framed(order({ sku: 'b' }))]);
    Object.assign(sent.pieces, { push: (piece: Buffer) => written.push([sent.replies.length, piece.toString()]) });
    const reply = fields({ 'content-type': 'application/grpc', 'grpc-status': '0' });
    downstream.respond(
      { status: 200, reason: '', fields: reply, hopFields: undefined, framing: body.length, declaredLength: undefined },
      body,
    );
    const pieces = method === 'HEAD' ? [''] : ['[', '{"sku":"a"}', ',{"sku":"b"}', ']'];
    t.strictSame(
      written,
      pieces.map((piece) => [1, piece]),
    );
  }
});

t.test('a slow client slows down a stream', async (t) => {
  const { exchange, sent } = await begin('/v1/orders');
  respondWith(exchange, head());
  sent.full = true;
  t.equal(exchange.downstream.write(framed(order({}))), false);
});

t.test('a request body that is held back goes no further', async (t) => {
  const { exchange, told } = await begin();
  exchange.carrier!.requestData(Buffer.from('{}'));
  exchange.carrier!.requestEnd(emptyFields);
  t.strictSame(told, []);
});

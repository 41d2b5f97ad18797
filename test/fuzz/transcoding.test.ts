// JSON transcoding and gRPC-Web under hostile bytes from both sides: a request is a call or a refusal, a response is one
// response, its body comes after its head, and nothing is held when it is over.

import assert from 'node:assert/strict';
import { fromJson, type JsonValue, toBinary } from '@bufbuild/protobuf';
import t from 'tap';
import { grpcJson } from '../../sidecar/edge/grpc-json/capability.ts';
import { grpcJsonSchema } from '../../sidecar/edge/grpc-json/schema.ts';
import { Transcoder } from '../../sidecar/edge/grpc-json/transcoder.ts';
import { grpcWeb } from '../../sidecar/edge/grpc-web/capability.ts';
import { addFields } from '../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import { framed } from '../../sidecar/protocol/grpc.ts';
import { refuse } from '../../sidecar/respond.ts';
import { base64Of, registry } from '../fixtures/descriptor-set.ts';
import { createCarrier, createExchange, hooksOf, phasesOf, planOf } from '../fixtures/exchange.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';

const written = { protoDescriptorBin: base64Of(), services: ['shop.v1.Orders'], autoMapping: true };
const plans = [{}, { streamNewlineDelimited: true }, { streamSseStyleDelimited: true }].map((printOptions) => ({
  ...{ ...written, printOptions, maxResponseBodySize: 2000 },
}));
const json = await Promise.all(
  plans.map(async (plan) => ({ GRPCJSONTranscoding: await planOf(grpcJson, 'GRPCJSONTranscoding', plan) })),
).then((all) => all.map((plan) => phasesOf(hooksOf(grpcJson, plan, { shared: { refuse } }))));
const web = phasesOf(hooksOf(grpcWeb, { GRPCWeb: {} }, { shared: { refuse } }));

const Order = registry.getMessage('shop.v1.Order')!;
const orders: readonly JsonValue[] = [
  {},
  { sku: 'a'.repeat(1500), id: '5' },
  { parentOrder: { tags: ['x'], counts: { a: '1' } }, created: '2020-01-02T03:04:05Z', ttl: '3s' },
  { more: { '@type': 'type.googleapis.com/shop.v1.Order' }, extra: { a: [1, null] }, state: 'DONE', price: 1.5 },
];
const frames = orders.map((one) => framed(toBinary(Order, fromJson(Order, one, { registry }))));
const trailers: readonly Readonly<Record<string, string>>[] = [
  {},
  { 'grpc-status': '0' },
  { 'grpc-status': '5', 'grpc-message': 'a%', 'grpc-status-details-bin': '////' },
  { 'grpc-status': '-1', 'grpc-message': '%0d%0a' },
];
const fields = (of: Readonly<Record<string, string>>) => addFields(emptyFields, Object.entries(of));

function makeReply(random: Random) {
  const sound = Buffer.concat(Array.from({ length: random.below(4) }, () => random.pick(frames)));
  const isWeb = random.below(3) === 0;
  const method = isWeb ? 'POST' : random.pick(['GET', 'HEAD']);
  return {
    ...{ isWeb, method, rules: isWeb ? web : random.pick(json) },
    path: random.pick(['/v1/orders', '/v1/orders/5', '/v1/raw', '/v1/orders/5/sku']),
    body: random.below(2) === 0 ? sound : mutate(random, sound),
    status: random.below(8) === 0 ? random.pick([204, 304, 404, 500]) : 200,
    type: random.below(8) === 0 ? 'text/html' : 'application/grpc',
    trailers: random.pick(trailers),
    isWhole: random.below(3) === 0,
    step: random.pick([1, 7, 5000]),
  };
}

fuzz(t, 'one response, whatever the backend sends', makeReply, async (made) => {
  const before = heldBytes();
  const { method, path, rules, body, status, isWhole } = made;
  const type: Record<string, string> = made.isWeb ? { 'content-type': 'application/grpc-web-text' } : {};
  const { exchange, connection, sent } = createExchange({ method, path, framing: 0 }, type);
  exchange.phases = rules;
  for (const step of [...rules.before, ...rules.serve]) await step(exchange, connection);
  for (const change of rules.rewrite) change(exchange);
  exchange.carrier = createCarrier();
  for (const follow of rules.forwarded) follow(exchange, undefined);
  let isBehind = true;
  const push = sent.pieces.push.bind(sent.pieces);
  sent.pieces.push = (...pieces: Buffer[]) => {
    isBehind &&= sent.replies.length === 1;
    return push(...pieces);
  };
  const head = { 'content-type': made.type, ...(isWhole ? made.trailers : {}) };
  const reply = { status, reason: '', fields: fields(head), hopFields: undefined, declaredLength: undefined };
  const { downstream } = exchange;
  if (isWhole) downstream.respond({ ...reply, framing: body.length }, body);
  else {
    downstream.respond({ ...reply, framing: 'chunked' }, undefined);
    for (let at = 0; at < body.length; at += made.step) downstream.write(body.subarray(at, at + made.step));
    downstream.end(fields(made.trailers));
  }
  for (const giveBack of rules.finished) giveBack(exchange);
  assert.equal(sent.replies.length, 1);
  assert.ok(isBehind, 'the body is behind the head');
  assert.ok(sent.aborted || sent.trailers !== undefined, 'the response has an end');
  if (method === 'HEAD' && exchange.failure === undefined) assert.equal(Buffer.concat(sent.pieces).length, 0);
  assert.equal(heldBytes(), before);
});

const lines = [
  'POST /v1/orders',
  'PATCH /v1/orders/5?full=true',
  'GET /v1/orders?order.parentOrder.sku=a&numbers=1&numbers=2&state=DONE&limit=7&since=2020-01-02T03:04:05Z',
  'GET /v1/shops/a%2Fb/orders/%C3%A4/c',
  'POST /v1/bulk',
  'POST /v1/orders/5:cancel?limit.value=1',
];
const transcoder = new Transcoder(grpcJsonSchema.parse(written));

fuzz(
  t,
  'a request is a call, or refused with a code',
  (random) => ({
    line:
      random.below(2) === 0 ? random.pick(lines) : mutate(random, Buffer.from(random.pick(lines))).toString('latin1'),
    body: mutate(random, Buffer.from(random.below(3) === 0 ? '' : JSON.stringify(random.pick(orders)))),
  }),
  ({ line, body }) => {
    const [, method = '', path = '', query = ''] = /^(\S*) ([^?]*)\??(.*)$/s.exec(line) ?? [];
    const found = transcoder.find(method, path);
    if (found === undefined || !('binding' in found)) return;
    const calls = transcoder.encode(found, query, body);
    if (calls.length > 0) assert.equal(calls[0], 0);
  },
  ['request_invalid', 'json_syntax', 'json_not_utf8', 'json_too_deep', 'json_number_out_of_range'],
);

const set = Buffer.from(written.protoDescriptorBin, 'base64');

fuzz(
  t,
  'a descriptor set is served or refused where it is loaded',
  (random) => mutate(random, set),
  (bytes) => {
    const read = grpcJsonSchema.safeParse({ ...written, protoDescriptorBin: bytes.toString('base64') });
    if (read.success) assert.ok(new Transcoder(read.data));
  },
);

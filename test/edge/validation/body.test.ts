// Bodies under a JSON Schema alone: what passes, what is refused and how, and what mode Report says of it.

import { gzipSync, zstdCompressSync } from 'node:zlib';
import t from 'tap';
import { codes } from '../../../cert-agent/base/errors.ts';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import type { Noted } from '../../../sidecar/exchange/ends.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { createCarrier, createExchange, hooksOf, phasesOf, planOf, serve } from '../../fixtures/exchange.ts';

const schema = {
  type: 'object',
  required: ['id'],
  additionalProperties: false,
  properties: {
    id: { type: 'string', format: 'uuid' },
    note: { type: 'string', maxLength: 5, pattern: '^[a-z]+$' },
    items: { type: 'array', uniqueItems: true, items: { $ref: '#/$defs/item' } },
    labels: { type: 'object', additionalProperties: { type: 'string' } },
  },
  $defs: {
    item: {
      type: 'object',
      required: ['sku'],
      properties: { sku: { type: 'string' }, price: { type: 'number', multipleOf: 0.01 } },
    },
  },
};
const counted: string[] = [];
const shared = (_policy: string, ...of: string[]): void => void counted.push(of.join(' '));

async function hooksFor(spec: object) {
  const plan = await planOf(validation, 'RequestValidation', spec);
  return hooksOf(validation, { RequestValidation: plan }, { shared, name: 'RequestValidation shop/v' });
}
const enforced = await hooksFor({ schema });
const reported = await hooksFor({ schema, mode: 'Report', bodyLimit: 1024 });

const id = '2eb8aa08-aa98-11ea-b4aa-73b441d16380';
const json = { 'content-type': 'application/json' };

interface Sent {
  readonly headers?: Record<string, string>;
  readonly known?: Partial<Exchange>;
}

function send(body: string | Buffer, { headers = json, known = {} }: Sent = {}, hooks = enforced) {
  const wholeBody = Buffer.from(body as string);
  const whole = wholeBody.length === 0 ? {} : { wholeBody, framing: wholeBody.length };
  return serve(hooks, { headers, known: { method: 'POST', ...whole, ...known } });
}

const passing: readonly (readonly [why: string, body: string | Buffer, sent?: Sent])[] = [
  ['a valid body', JSON.stringify({ id, note: 'abc', items: [{ sku: 'a', price: 19.99 }], labels: { any: 'x' } })],
  [
    'a type with a suffix',
    `{"id":"${id}"}`,
    { headers: { 'content-type': 'application/vnd.shop+json; charset="UTF-8"' } },
  ],
  ['no body, as is usual for the method', '', { known: { method: 'GET' }, headers: {} }],
  ['gzip', gzipSync(`{"id":"${id}"}`), { headers: { ...json, 'content-encoding': 'gzip' } }],
  ['zstd', zstdCompressSync(`{"id":"${id}"}`), { headers: { ...json, 'content-encoding': 'zstd' } }],
  ['no coding', `{"id":"${id}"}`, { headers: { ...json, 'content-encoding': 'identity' } }],
];
for (const [why, body, sent] of passing)
  t.test(`passes: ${why}`, async (t) => {
    const { client, backend, exchange } = await send(body, sent);
    t.equal(client.status, 200, client.body);
    t.ok(backend);
    t.equal(exchange.noted, undefined);
  });

const of = (content: string): Sent => ({ headers: { 'content-type': content } });
const coded = (coding: string): Sent => ({ headers: { ...json, 'content-encoding': coding } });
const bomb = gzipSync(Buffer.alloc(50_000_000));

const refused: readonly (readonly [code: string, status: number, why: string, body: string | Buffer, sent?: Sent])[] = [
  ['request_invalid', 400, 'no body', ''],
  ['request_invalid', 400, 'another type', '[]'],
  ['content_type_unsupported', 415, 'no Content-Type', `{"id":"${id}"}`, { headers: {} }],
  ['content_type_unsupported', 415, 'a form', 'id=1', of('application/x-www-form-urlencoded')],
  ['content_type_unsupported', 415, 'two types', `{"id":"${id}"}`, of('application/json, text/plain')],
  ['content_type_unsupported', 415, 'a charset', `{"id":"${id}"}`, of('application/json; charset=utf-7')],
  [
    'content_type_unsupported',
    415,
    'a charset twice',
    `{"id":"${id}"}`,
    of('application/json; charset=utf-8; charset=utf-16'),
  ],
  ['content_type_unsupported', 415, 'a type that only begins like JSON', '{}', of('application/json-seq')],
  ['content_type_unsupported', 415, 'no type at all', '{}', of('json')],
  [
    'json_not_utf8',
    400,
    'UTF-16 that says it is UTF-8',
    Buffer.from('\ufeff{}', 'utf16le'),
    of('application/json; charset=utf-8'),
  ],
  ['json_duplicate_key', 400, 'a duplicate key', `{"id":"${id}","id":"x"}`],
  ['content_encoding_unsupported', 415, 'an unknown coding', 'x', coded('compress')],
  ['content_encoding_unsupported', 415, 'two codings', gzipSync(gzipSync('{}')), coded('gzip, gzip')],
  ['content_encoding_invalid', 400, 'a coding that lies', '{}', coded('gzip')],
  [
    'content_encoding_invalid',
    400,
    'bytes after the end',
    Buffer.concat([zstdCompressSync(`{"id":"${id}"}`), Buffer.from('x')]),
    coded('zstd'),
  ],
  [
    'content_encoding_invalid',
    400,
    'a coded body that is cut',
    gzipSync(`{"id":"${id}"}`).subarray(0, 20),
    coded('gzip'),
  ],
  ['body_too_large', 413, 'a body that explodes', bomb, coded('gzip')],
];
for (const [code, status, why, body, sent] of refused)
  t.test(`refused: ${why}`, async (t) => {
    const { client, backend, exchange } = await send(body, sent);
    t.match(client, {
      status,
      code,
      headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
    });
    t.match(JSON.parse(client.body), { type: 'about:blank', status, code });
    t.equal(backend, undefined);
    t.match(exchange, { decision: 'deny', details: codes[code as keyof typeof codes].details });
  });

t.test('each violation names its position, and no value', async (t) => {
  const body = {
    id: 'secret',
    note: 'SECRET1',
    items: [{ sku: 'a' }, { price: 'secret' }],
    labels: { 'a/b~c é': 7 },
    more: 'secret',
  };
  const { client, exchange } = await send(JSON.stringify(body));
  t.equal(client.status, 400);
  const { errors } = JSON.parse(client.body) as { errors: { pointer: string; code: string; in: string }[] };
  t.strictSame(errors.map(({ pointer, code }) => `${pointer} ${code}`).toSorted(), [
    '#/id format',
    '#/items/1 required',
    '#/items/1/price type',
    '#/labels/a~1b~0c%20%C3%A9 type',
    '#/more additionalProperties',
    '#/note maxLength',
    '#/note pattern',
  ]);
  t.ok(errors.every((one) => one.in === 'body'));
  t.notMatch(client.body, /secret/i);
  const [{ name, text }] = exchange.noted as [Noted];
  t.equal(name, 'validation');
  t.notMatch(text, /secret|more/i, 'property names of the client are not repeated either');
  t.match(exchange.failure!.message, /^RequestValidation shop\/v: body /);
});

t.test('schema strings that look like generated code are only strings', async (t) => {
  const codes = ['function validate1(', 'var props1 = x.evaluated.props;', '"', '\\', '"0"', '0', ''];
  const hooks = await hooksFor({ schema: { enum: codes, anyOf: [{ type: 'string' }, { type: 'null' }] } });
  for (const one of codes) t.equal((await send(JSON.stringify(one), {}, hooks)).client.status, 200, one);
  t.equal((await send('"1"', {}, hooks)).client.status, 400);
});

t.test('a refusal says what is allowed', async (t) => {
  const hooks = await hooksFor({
    schema: { properties: { a: { minLength: 1 }, b: { maxItems: 2 }, c: { enum: ['x', 1] } } },
  });
  const { client } = await send('{"a":"","b":[1,2,3],"c":"y"}', {}, hooks);
  t.strictSame(
    JSON.parse(client.body).errors.map((one: { detail: string }) => one.detail),
    ['must have at least 1 character', 'must have at most 2 items', 'must be one of "x", 1'],
  );
});

t.test('a thousand violations are reported as the first few, without quadratic time', async (t) => {
  const items = Array.from({ length: 50_000 }, (_, i) => ({ sku: i }));
  const started = performance.now();
  const { client } = await send(JSON.stringify({ id, items }));
  t.ok(performance.now() - started < 3000);
  t.equal((JSON.parse(client.body) as { errors: unknown[] }).errors.length, 32);
  t.ok(client.body.length < 10_000);
  const long = await send(JSON.stringify({ id, ['k'.repeat(500_000)]: 1 }));
  t.ok(long.client.body.length < 1000, 'a long name is not sent back');
});

t.test('duplicate items are found in linear time', async (t) => {
  const many = Array.from({ length: 20_000 }, (_, i) => ({ sku: `${i}` }));
  const started = performance.now();
  t.equal((await send(JSON.stringify({ id, items: many }))).client.status, 200);
  t.ok(performance.now() - started < 2000);
  const twice = await send('{"id":"ID","items":[{"sku":"a","price":1},{"price":1.0,"sku":"a"}]}'.replace('ID', id));
  t.match(twice.client.body, /duplicate items/);
});

t.test('schemas that double the work at each level run out of their budget', async (t) => {
  const node = {
    anyOf: ['a', 'b'].map((kind) => ({ properties: { kind: { const: kind }, next: { $ref: '#/$defs/node' } } })),
  };
  const hooks = await hooksFor({ schema: { $ref: '#/$defs/node', $defs: { node } } });
  const started = performance.now();
  const body = `${'{"next":'.repeat(50)}{"kind":"c"}${'}'.repeat(50)}`;
  const { client } = await send(body, {}, hooks);
  t.match(client, { status: 400, code: 'validation_too_costly' });
  t.ok(performance.now() - started < 2000);
});

t.test('patterns have a budget for each message', async (t) => {
  const hooks = await hooksFor({ schema: { items: { pattern: '([a-y]{1,20}x?){1,20}z' } } });
  const started = performance.now();
  const { client } = await send(JSON.stringify(Array(100).fill(`${'ay'.repeat(4000)}z`)), {}, hooks);
  t.match(client, { status: 400, code: 'validation_too_costly' });
  t.ok(performance.now() - started < 2000);
  t.equal((await send('["abcz"]', {}, hooks)).client.status, 200, 'and the next message has its own');
});

t.test('names that every object inherits are not properties', async (t) => {
  const hooks = await hooksFor({ schema: { required: ['constructor'], properties: { toString: { type: 'string' } } } });
  t.equal((await send('{}', {}, hooks)).client.status, 400);
  t.equal((await send('{"constructor":1,"toString":"x","__proto__":{"constructor":2}}', {}, hooks)).client.status, 200);
  const closed = await hooksFor({ schema: { additionalProperties: false } });
  t.equal((await send('{"__proto__":1}', {}, closed)).client.status, 400);
});

t.test('a message that cannot be compared is refused', async (t) => {
  for (const [known, code] of [
    [{ grpc: true }, 'content_type_unsupported'],
    [{ webSocket: true, method: 'GET' }, 'upgrade_unsupported'],
    [{ method: 'CONNECT' }, 'upgrade_unsupported'],
    [{ framing: 2 ** 20 + 1 }, 'body_too_large'],
  ] as const)
    t.match((await send('', { known })).client, {
      code,
      ...('grpc' in known ? {} : { headers: { 'content-type': 'application/problem+json' } }),
    });
});

t.test('a refusal by the type names the one that is accepted, and the log the property that is missing', async (t) => {
  const { client, exchange } = await send('id=1', of('application/x-www-form-urlencoded'));
  t.match(JSON.parse(client.body!), {
    code: 'content_type_unsupported',
    errors: [{ in: 'header', name: 'content-type', code: 'contentType', detail: 'must be application/json' }],
  });
  t.match(exchange.noted, [{ name: 'validation', text: 'content_type_unsupported; header content-type contentType' }]);
  const empty = await hooksFor({ schema: { required: ['sku'] } });
  t.match((await send('{}', {}, empty)).exchange.noted, [{ name: 'validation', text: 'body required sku' }]);
  t.match((await send('', {}, empty)).exchange.noted, [{ name: 'validation', text: 'body required' }]);
});

t.test('mode Report refuses nothing, and logs the violations', async (t) => {
  counted.length = 0;
  const bad = await send('{"id":7,"secret":1}', {}, reported);
  t.match(bad, { client: { status: 200 }, backend: {} });
  t.strictSame(bad.exchange.noted, [{ name: 'validation', text: 'body /* additionalProperties; body /id type' }]);
  t.equal((await send(`{"id":"${id}"}`, {}, reported)).exchange.noted, undefined);
  t.equal((await send('x', of('text/plain'), reported)).client.status, 200);
  t.equal((await send('x'.repeat(2000), {}, reported)).client.status, 200);
  t.equal((await send('', { known: { webSocket: true } }, reported)).client.status, 200);
  t.strictSame(counted, [
    'request Report invalid',
    'request Report valid',
    'request Report invalid',
    'request Report unchecked',
    'request Report unchecked',
  ]);
});

/** A request whose body comes later. */
function gather(hooks: typeof enforced, known: Partial<Exchange> = {}) {
  const { exchange, connection } = createExchange({ method: 'POST', framing: 'chunked', ...known }, json);
  const {
    before,
    serve: [step],
  } = phasesOf(hooks);
  for (const one of before) one(exchange, connection);
  return { exchange, step: step!(exchange, connection) as Promise<void> };
}

t.test('a body in pieces is gathered with its trailers and compared as a whole', async (t) => {
  const good = gather(enforced);
  t.equal(good.exchange.bodyLimit, 2 ** 20);
  for (const piece of ['{"id":', `"${id}"}`]) good.exchange.carrier!.requestData(Buffer.from(piece));
  good.exchange.carrier!.requestEnd(addFields(emptyFields, [['x-sum', '1']]));
  await good.step;
  const bad = gather(enforced);
  bad.exchange.carrier!.requestData(Buffer.from('{}'));
  bad.exchange.carrier!.requestEnd(addFields(emptyFields, [['x-sum', '1']]));
  await t.rejects(bad.step, { code: 'request_invalid' });
  const empty = gather(enforced);
  empty.exchange.carrier!.requestEnd(addFields(emptyFields, [['x-sum', '1']]));
  await t.rejects(empty.step, { code: 'request_invalid' }, 'an empty body with trailers');
});

t.test('in mode Report a body that is too long is forwarded as it arrives', async (t) => {
  const { exchange, step } = gather(reported);
  const holding = exchange.carrier as unknown as { release(): void };
  t.equal(exchange.carrier!.requestData(Buffer.alloc(1000)), true);
  t.equal(exchange.carrier!.requestData(Buffer.alloc(1000)), false, 'the sender waits');
  await step;
  exchange.carrier!.requestData(Buffer.from('late'));
  const carrier = createCarrier();
  exchange.carrier = carrier;
  holding.release();
  t.strictSame(
    carrier.told.map((one) => one.length),
    [1005, 1005, 9],
  );
});

t.test('a request that was compared stays valid when the schema changes', async (t) => {
  const { exchange } = await send(`{"id":"${id}"}`);
  t.equal(enforced!.guard!.stillHolds(exchange, undefined), true);
  t.equal(enforced!.guard!.stillHolds(createExchange().exchange, undefined), false, 'a request that was not compared');
  t.equal(reported!.guard!.stillHolds(createExchange().exchange, undefined), true);
});

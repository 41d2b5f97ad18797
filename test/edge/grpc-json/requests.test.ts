// Requests in JSON: which binding they have, what the backend gets, and what is refused.

import { fromBinary, toJson } from '@bufbuild/protobuf';
import t from 'tap';
import { grpcJson } from '../../../sidecar/edge/grpc-json/capability.ts';
import { refuse } from '../../../sidecar/respond.ts';
import { base64Of, descriptorSet, methods, registry } from '../../fixtures/descriptor-set.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

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

/** The calls in a body, as JSON. */
function callsIn(name: string, body: Buffer): unknown[] {
  const found: unknown[] = [];
  const type = registry.getMessage(`shop.v1.${methods[name]![0].replace('stream ', '')}`)!;
  for (let at = 0; at < body.length; ) {
    const end = at + 5 + body.readUInt32BE(at + 1);
    found.push(toJson(type, fromBinary(type, body.subarray(at + 5, end)), { registry }));
    at = end;
  }
  return found;
}

const send = async (line: string, body?: unknown, using = hooks, headers: Record<string, string> = {}) => {
  const [method, path] = line.split(' ') as [string, string];
  const text = body === undefined ? undefined : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
  return serve(
    using,
    {
      known: { method, path, framing: text?.length ?? 0, wholeBody: text },
      headers: { ...(text && { 'content-type': 'application/json' }), ...headers },
    },
    { headers: { 'content-type': 'application/grpc', 'grpc-status': '5' }, body: '' },
  );
};

const rows: readonly (readonly [line: string, body: unknown, name: string, ...calls: unknown[]])[] = [
  ['GET /v1/orders/5', undefined, 'Get', { id: '5' }],
  ['HEAD /v1/orders/5', undefined, 'Get', { id: '5' }],
  ['GET /v1/orders/9007199254740993', undefined, 'Get', { id: '9007199254740993' }],
  ['GET /v1/orders/-1?full=true', undefined, 'Get', { id: '-1', full: true }],
  ['GET /v1/shops/a/orders/b', undefined, 'Get', { name: 'shops/a/orders/b' }],
  ['GET /v1/shops/a%2Fb/orders/%C3%A4/c', undefined, 'Get', { name: 'shops/a%2Fb/orders/ä/c' }],
  ['GET /v1/shops/a/orders', undefined, 'Get', { name: 'shops/a/orders' }],
  ['GET /v1/orders', undefined, 'List', {}],
  ['GET /v1/orders?numbers=1&numbers=2&state=DONE', undefined, 'List', { numbers: [1, 2], state: 'DONE' }],
  ['GET /v1/orders?state=2&mask=sku,parentOrder', undefined, 'List', { state: 'DONE', mask: 'sku,parentOrder' }],
  ['GET /v1/orders?state=77', undefined, 'List', { state: 77 }],
  [
    'GET /v1/orders?order.parentOrder.sku=a&order.id=1',
    undefined,
    'List',
    { order: { id: '1', parentOrder: { sku: 'a' } } },
  ],
  ['GET /v1/orders?order.parent_order.sku=a%26b', undefined, 'List', { order: { parentOrder: { sku: 'a&b' } } }],
  [
    'GET /v1/orders?since=2020-01-02T03:04:05Z&limit=7',
    undefined,
    'List',
    { since: '2020-01-02T03:04:05Z', limit: '7' },
  ],
  ['GET /v1/orders?order.blob=AQI=&order.price=1.5', undefined, 'List', { order: { blob: 'AQI=', price: 1.5 } }],
  [
    'POST /v1/orders',
    { id: '9007199254740993', sku: 'a', tags: ['x', 'y'] },
    'Create',
    { id: '9007199254740993', sku: 'a', tags: ['x', 'y'] },
  ],
  [
    'POST /v1/orders',
    { parent_order: { id: 1 }, state: 'OPEN' },
    'Create',
    { parentOrder: { id: '1' }, state: 'OPEN' },
  ],
  [
    'POST /v1/orders',
    { created: '2020-01-02T03:04:05.5Z', ttl: '1.5s', limit: '3' },
    'Create',
    { created: '2020-01-02T03:04:05.500Z', ttl: '1.500s', limit: '3' },
  ],
  [
    'POST /v1/orders',
    { extra: { a: [1, null, { b: 'c' }] }, counts: { x: 1 } },
    'Create',
    { extra: { a: [1, null, { b: 'c' }] }, counts: { x: '1' } },
  ],
  [
    'POST /v1/orders',
    { more: { '@type': 'type.googleapis.com/shop.v1.Order', sku: 'in' } },
    'Create',
    { more: { '@type': 'type.googleapis.com/shop.v1.Order', sku: 'in' } },
  ],
  ['POST /v1/orders', '', 'Create', {}],
  ['POST /v1/orders', { sku: null }, 'Create', {}],
  ['PATCH /v1/orders/5?full=true', { sku: 'b' }, 'Update', { id: '5', order: { sku: 'b' }, full: true }],
  ['POST /v1/orders/5:cancel', { name: 'why' }, 'Cancel', { id: '5', name: 'why' }],
  ['POST /v1/orders/5:cancel', { id: 6 }, 'Cancel', { id: '5' }],
  [
    'POST /v1/bulk',
    [{ id: '9007199254740993', tags: ['],{"'], price: 1e20 }, { id: 2 }],
    'Bulk',
    { id: '9007199254740993', tags: ['],{"'], price: 1e20 },
    { id: '2' },
  ],
  ['POST /v1/bulk', '{"id":1}\n{"id":2}\n', 'Bulk', { id: '1' }, { id: '2' }],
  ['POST /v1/bulk', '[]', 'Bulk'],
  ['PURGE /v1/any', undefined, 'Any', {}],
  [
    'POST /v1/orders',
    '{"id":9007199254740992.0,"price":1.7e308}',
    'Create',
    { id: '9007199254740992', price: 1.7e308 },
  ],
  [
    'POST /v1/orders',
    '{"sku":"9007199254740993,9007199254740993"}',
    'Create',
    { sku: '9007199254740993,9007199254740993' },
  ],
];

for (const [line, body, name, ...calls] of rows)
  t.test(`${line} ${JSON.stringify(body) ?? ''}`, async (t) => {
    const { backend, exchange } = await send(line, body);
    t.match(backend, {
      method: 'POST',
      path: `/shop.v1.Orders/${name}`,
      headers: { 'content-type': 'application/grpc', te: 'trailers' },
    });
    t.strictSame(callsIn(name, exchange.wholeBody!), calls);
    t.equal(exchange.framing, exchange.wholeBody!.length);
  });

const manyValues = 'the body has more than 52428 values';
const deep = (depth: number): string => `${'{"parentOrder":'.repeat(depth)}{}${'}'.repeat(depth)}`;
const refusals: readonly (readonly [line: string, body: unknown, code: string, message: string])[] = [
  ['GET /v2/orders', undefined, 'operation_unknown', 'no method of the services has this path'],
  ['GET /v1/orders/', undefined, 'operation_unknown', 'no method of the services has this path'],
  ['GET /v1/orders/*/x', undefined, 'operation_unknown', 'no method of the services has this path'],
  [
    'PUT /v1/orders/5',
    undefined,
    'operation_method_unknown',
    'no method of the services has this HTTP method: GET, PATCH',
  ],
  ['GET /v1/orders/5:none', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['POST /shop.v1.Orders/Plain', {}, 'operation_unknown', 'no method of the services has this path'],
  ['GET /v1/orders/x', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders/9223372036854775808', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders/%FF', undefined, 'request_invalid', 'the path has escapes that are not UTF-8'],
  ['GET /v1/orders?a=%FF', undefined, 'request_invalid', 'the query has escapes that are not UTF-8'],
  ['GET /v1/orders?none=1', undefined, 'request_invalid', 'the method has no such query parameter'],
  ['GET /v1/orders?order=1', undefined, 'request_invalid', 'the method has no such query parameter'],
  ['GET /v1/orders?__proto__.x=1', undefined, 'request_invalid', 'the method has no such query parameter'],
  ['GET /v1/orders?full=true&full=true', undefined, 'request_invalid', "the query parameter 'full' is repeated"],
  ['GET /v1/orders?full=1', undefined, 'request_invalid', "the field 'shop.v1.Query.full' is invalid"],
  ['GET /v1/orders?state=NONE', undefined, 'request_invalid', 'the request does not match the message'],
  [
    'GET /v1/orders?order.note=a&order.level=1',
    undefined,
    'request_invalid',
    "the field 'shop.v1.Order.choice' is invalid",
  ],
  ['GET /v1/orders/5?id=6', undefined, 'request_invalid', 'the method has no such query parameter'],
  [
    `GET /v1/orders?${'full=true&'.repeat(1001)}`,
    undefined,
    'request_invalid',
    'the query has more than 1000 parameters',
  ],
  ['POST /v1/orders?sku=a', {}, 'request_invalid', 'the method has no such query parameter'],
  ['PATCH /v1/orders/5?order.sku=a', {}, 'request_invalid', 'the method has no such query parameter'],
  ['GET /v1/orders/5', {}, 'request_invalid', 'the method takes no body'],
  ['POST /v1/orders', '{', 'json_syntax', 'the body is not JSON'],
  ['PATCH /v1/orders/5', '{},"id":7', 'json_syntax', 'the body is not JSON'],
  ['PATCH /v1/orders/5', '{}}', 'json_syntax', 'the body is not JSON'],
  ['POST /v1/orders', '[]', 'request_invalid', 'the request does not match the message'],
  ['POST /v1/orders', { sku: 1 }, 'request_invalid', "the field 'shop.v1.Order.sku' is invalid"],
  ['POST /v1/orders', '{"sku":"a","sku":"b"}', 'request_invalid', 'the request does not match the message'],
  [
    'POST /v1/orders',
    { parentOrder: {}, parent_order: {} },
    'request_invalid',
    "the field 'shop.v1.Order.parent_order' is invalid",
  ],
  ['POST /v1/orders', { note: 'a', level: 1 }, 'request_invalid', "the field 'shop.v1.Order.choice' is invalid"],
  ['POST /v1/orders', { secret: 1 }, 'request_invalid', 'the body has a field that the message does not have'],
  [
    'POST /v1/orders',
    '{"id":9007199254740993}',
    'json_number_out_of_range',
    'an integer of more than 53 bits must be a string',
  ],
  [
    'POST /v1/orders',
    '{"id":9007199254740993.0}',
    'json_number_out_of_range',
    'an integer of more than 53 bits must be a string',
  ],
  ['POST /v1/orders', '{"extra":{"a":-1e309}}', 'json_number_out_of_range', 'a number exceeds the range of a double'],
  // In time: a reader that begins anew at each quote takes minutes.
  ['POST /v1/orders', ` 1234567890123456 "${'\\"'.repeat(400_000)}`, 'json_syntax', 'the body is not JSON'],
  ['POST /v1/orders', `{"extra":{"a":[${'{},'.repeat(300_000)}0]}}`, 'request_invalid', manyValues],
  ['POST /v1/bulk', '{}\n'.repeat(300_000), 'request_invalid', manyValues],
  ['GET /v1/orders/0x10', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders/%205', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders/05', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders/5:', undefined, 'request_invalid', "the field 'shop.v1.Query.id' is invalid"],
  ['GET /v1/orders?numbers=1.0', undefined, 'request_invalid', "the field 'shop.v1.Query.numbers' is invalid"],
  ['GET /v1/orders?state=01', undefined, 'request_invalid', 'the request does not match the message'],
  ['GET /v1/orders?limit=0x1', undefined, 'request_invalid', "the field 'google.protobuf.Int64Value.value' is invalid"],
  ['GET /v1/orders?limit=5&limit.value=6', undefined, 'request_invalid', 'the method has no such query parameter'],
  [
    'GET /v1/orders?since=2020-01-02T03:04:05Z&since.seconds=6',
    undefined,
    'request_invalid',
    'the method has no such query parameter',
  ],
  ['POST /v1/orders', { quantity: 2 ** 31 }, 'request_invalid', "the field 'shop.v1.Order.quantity' is invalid"],
  ['POST /v1/orders', { created: 'today' }, 'request_invalid', 'the request does not match the message'],
  ['POST /v1/orders', { more: { '@type': 'x/none' } }, 'request_invalid', 'the request does not match the message'],
  ['POST /v1/orders', deep(70), 'json_too_deep', 'the message is deeper than 64'],
  ['POST /v1/orders', deep(10_000), 'json_too_deep', 'the message is deeper than 64'],
  [
    'POST /v1/orders',
    `{"extra":{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}}`,
    'json_too_deep',
    'the message is deeper than 64',
  ],
];

for (const [line, body, code, message] of refusals)
  t.test(`${line.slice(0, 60)} ${(JSON.stringify(body) ?? '').slice(0, 50)}: ${code}`, async (t) => {
    const { client, backend, exchange } = await send(line, body);
    t.equal(backend, undefined);
    t.equal(client.code, code);
    const status = JSON.parse(client.body) as { code: number; message: string };
    t.equal(status.message, message);
    t.equal(client.headers['content-type'], 'application/json');
    t.equal(client.status, exchange.failure!.row.status);
    t.equal(status.code, exchange.failure!.row.grpc);
  });

t.test('a body is UTF-8, has a JSON type, and has no Content-Encoding', async (t) => {
  const body = '{}';
  const plain = await send('POST /v1/orders', body, hooks, { 'content-type': 'text/plain' });
  t.equal(plain.client.code, 'content_type_unsupported');
  // A page can send one with a Blob, without a preflight.
  const untyped = await serve(hooks, {
    known: { method: 'POST', path: '/v1/orders', framing: 2, wholeBody: Buffer.from(body) },
  });
  t.equal(untyped.client.code, 'content_type_unsupported', 'a body without a type');
  const coded = await send('POST /v1/orders', body, hooks, { 'content-encoding': 'gzip' });
  t.equal(coded.client.code, 'content_encoding_unsupported');
  const utf16 = await send('POST /v1/orders', body, hooks, { 'content-type': 'application/json; charset=utf-16' });
  t.equal(utf16.client.code, 'content_type_unsupported');
  const wholeBody = Buffer.from([0x22, 0xff, 0x22]);
  const wrong = await serve(hooks, {
    known: { method: 'POST', path: '/v1/orders', framing: 3, wholeBody },
    headers: { 'content-type': 'application/json' },
  });
  t.equal(wrong.client.code, 'json_not_utf8');
  const long = await send('POST /v1/orders', { sku: 'x'.repeat(100) }, await hooksFor({ maxRequestBodySize: 50 }));
  t.equal(long.client.code, 'body_too_large');
});

t.test('the backend gets no field that describes the JSON body', async (t) => {
  const about = {
    trailer: 'x',
    'grpc-encoding': 'gzip',
    'grpc-accept-encoding': 'gzip',
    accept: '*/*',
    range: 'bytes=0-',
  };
  const { backend } = await serve(hooks, {
    known: { method: 'POST', path: '/v1/orders', framing: 2, wholeBody: Buffer.from('{}'), expectContinue: true },
    headers: { ...about, 'content-type': 'application/json', 'grpc-timeout': '1S' },
  });
  t.strictSame(backend?.headers, { 'grpc-timeout': '1S', 'content-type': 'application/grpc', te: 'trailers' });
});

t.test('the first template with the method applies, as in Envoy', async (t) => {
  const { Get, Create, Any } = methods;
  const set = descriptorSet({
    Get: Get!,
    Create: [Create![0], Create![1], { post: '/v1/orders/7', body: '*' }],
    Any: [Any![0], Any![1], { delete: '/v1/**' }],
  });
  const using = await hooksFor({ protoDescriptorBin: base64Of(set) });
  t.match((await send('POST /v1/orders/7', {}, using)).backend, { path: '/shop.v1.Orders/Create' });
  t.match((await send('GET /v1/orders/7', undefined, using)).backend, { path: '/shop.v1.Orders/Get' });
  t.match((await send('DELETE /v1/orders/7', undefined, using)).backend, { path: '/shop.v1.Orders/Any' });
  const none = await send('PUT /v1/orders/7', undefined, using);
  t.match(none.client.body, 'no method of the services has this HTTP method: DELETE, GET, POST');
});

t.test('the options of the mapping', async (t) => {
  const path = '/v1/orders?token=x&none=1&order.sku=a+b';
  const lenient = await hooksFor({ ignoreUnknownQueryParameters: true, queryParamUnescapePlus: true });
  const { exchange } = await send(`GET ${path}`, undefined, lenient);
  t.strictSame(callsIn('List', exchange.wholeBody!), [{ order: { sku: 'a b' } }]);
  const some = await send(`GET ${path}`, undefined, await hooksFor({ ignoredQueryParameters: ['token'] }));
  t.equal(some.client.code, 'request_invalid');
  const open = await hooksFor({ requestValidationOptions: { rejectUnknownMethod: false } });
  t.match((await send('GET /other', undefined, open)).backend, { method: 'GET', path: '/other' });
  const named = await send('POST /shop.v1.Orders/Plain', { id: 1 }, await hooksFor({ autoMapping: true }));
  t.strictSame(callsIn('Plain', named.exchange.wholeBody!), [{ id: '1' }]);
});

t.test('gRPC passes unchanged', async (t) => {
  const body = Buffer.from([0, 0, 0, 0, 0]);
  const { backend, exchange } = await serve(hooks, {
    known: { method: 'POST', path: '/shop.v1.Orders/Get', grpc: true, framing: 5, wholeBody: body },
    headers: { 'content-type': 'application/grpc' },
  });
  t.match(backend, { path: '/shop.v1.Orders/Get' });
  t.equal(exchange.wholeBody, body);
});

t.test('the record shows what the client sent', async (t) => {
  const { exchange } = await send('GET /v1/orders/5');
  for (const giveBack of exchange.phases!.finished) giveBack(exchange);
  t.match(exchange, {
    method: 'GET',
    path: '/v1/orders/5',
    noted: [{ name: 'grpc_method', text: '/shop.v1.Orders/Get' }],
  });
});

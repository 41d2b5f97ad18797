// Responses under an OpenAPI document: they pass unchanged, and what the document does not know is told.

import { gzipSync } from 'node:zlib';
import t from 'tap';
import { compression } from '../../../sidecar/edge/compression/capability.ts';
import { layOut } from '../../../sidecar/edge/phases.ts';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { type Answered, createExchange, hooksOf, planOf, respondWith, serve } from '../../fixtures/exchange.ts';

const user = {
  type: 'object',
  required: ['id'],
  properties: {
    id: { type: 'integer' },
    password: { type: 'string', writeOnly: true },
    friend: { $ref: '#/components/schemas/User' },
    free: { type: 'object' },
  },
};
const openapi = {
  openapi: '3.0.3',
  paths: {
    '/u': {
      get: {
        responses: {
          200: {
            content: {
              'application/json': {
                schema: {
                  allOf: [{ $ref: '#/components/schemas/User' }, { properties: { more: { type: 'string' } } }],
                },
              },
            },
          },
          '4XX': { content: { 'application/problem+json': { schema: { type: 'object' } } } },
          204: {},
        },
      },
    },
  },
  components: { schemas: { User: user } },
};
const counted: string[] = [];
const shared = (_policy: string, ...of: string[]): void => void counted.push(of.join(' '));
const hooksFor = async (more: object) =>
  hooksOf(
    validation,
    { RequestValidation: await planOf(validation, 'RequestValidation', { openapi, ...more }) },
    { shared },
  );
const hooks = await hooksFor({ bodyLimit: 1000 });

const json = (body: string | Buffer, more: Answered = {}): Answered => ({
  body: body as string,
  ...more,
  headers: { 'content-type': 'application/json', ...more.headers },
});
const rows: readonly (readonly [why: string, answer: Answered, outcome: string, noted?: string])[] = [
  ['valid', json('{"id":1,"friend":{"id":2},"free":{"any":1},"more":"x"}'), 'valid'],
  ['a field that the schema does not know', json('{"id":1,"secret":"x"}'), 'invalid', 'body /* unevaluatedProperties'],
  [
    'the same deeper inside',
    json('{"id":1,"friend":{"id":2,"more":"x"}}'),
    'invalid',
    'body /friend/more unevaluatedProperties',
  ],
  ['a field of another type', json('{"id":"1"}'), 'invalid', 'body /id type'],
  ['a duplicate key', json('{"id":1,"id":2}'), 'invalid', 'json_duplicate_key'],
  ['an unknown status', json('{}', { status: 500 }), 'invalid', 'body status'],
  [
    'a status by its class',
    { status: 404, body: '{}', headers: { 'content-type': 'application/problem+json' } },
    'valid',
  ],
  ['an unknown type', { body: '<p>', headers: { 'content-type': 'text/html' } }, 'invalid', 'body contentType'],
  ['nothing', { body: '' }, 'valid'],
  ['too long', json(`"${'x'.repeat(1000)}"`), 'unchecked'],
  ['an unknown coding', json('x', { headers: { 'content-encoding': 'x' } }), 'unchecked'],
];
for (const [why, answer, outcome, noted] of rows)
  t.test(why, async (t) => {
    counted.length = 0;
    const { client, exchange } = await serve(hooks, { known: { path: '/u' } }, answer);
    t.match(client, { status: answer.status ?? 200, body: answer.body });
    t.strictSame(counted, ['request Enforce valid', `response Report ${outcome}`]);
    t.strictSame(exchange.noted, noted === undefined ? undefined : [{ name: 'response_validation', text: noted }]);
  });

t.test('responses that are never compared', async (t) => {
  counted.length = 0;
  await serve(hooks, { known: { path: '/u', method: 'HEAD' } }, json('x'));
  await serve(hooks, { known: { path: '/u' } }, { status: 304, body: '' });
  await serve(await hooksFor({ responses: 'Off' }), { known: { path: '/u' } }, json('x'));
  t.strictSame(counted, Array(3).fill('request Enforce valid'));
});

/** A response in pieces, with compression before it. */
async function stream(pieces: readonly (string | Buffer)[], headers: Record<string, string> = {}, accept = 'identity') {
  const before = heldBytes();
  const { exchange, connection, sent } = createExchange({ path: '/u' }, { 'accept-encoding': accept });
  const zipped = hooksOf(
    compression,
    { compression: await planOf(compression, 'compression', [{ type: 'Gzip' }]) },
    { shared: compression.share!(undefined as never) },
  );
  exchange.phases = layOut(
    [
      ['validation', hooks!],
      ['compression', zipped!],
    ],
    () => undefined,
  );
  await exchange.phases.serve[0]!(exchange, connection);
  respondWith(exchange, { headers: { 'content-type': 'application/json', ...headers }, framing: 'chunked' });
  for (const piece of pieces) exchange.downstream.write(Buffer.from(piece as string));
  return { exchange, sent, before };
}

t.test('a body in pieces is compared in the form in which the backend sends it', async (t) => {
  const { exchange, sent } = await stream(['{"id":', '1,"secret":', '2}'], {}, 'gzip');
  exchange.downstream.end(emptyFields);
  t.match(exchange.noted, [{ name: 'response_validation', text: 'body /* unevaluatedProperties' }]);
  t.match(JSON.stringify(sent.replies[0]!.fields), /gzip/);
  const coded = await stream([gzipSync('{"id":"x"}')], { 'content-encoding': 'gzip' });
  coded.exchange.downstream.end(emptyFields);
  t.match(coded.exchange.noted, [{ name: 'response_validation', text: 'body /id type' }]);
});

t.test('a body that is too long, or does not end, leaves nothing in memory', async (t) => {
  counted.length = 0;
  const long = await stream(['x'.repeat(999), 'x'.repeat(999), 'x']);
  t.equal(heldBytes(), long.before, 'the body is released at once');
  long.exchange.downstream.end(emptyFields);
  t.strictSame(counted, ['request Enforce valid', 'response Report unchecked']);
  const cut = await stream(['x'.repeat(500)]);
  cut.exchange.downstream.abort();
  t.equal(heldBytes(), cut.before);
  const gone = await stream(['x'.repeat(500)]);
  for (const finish of gone.exchange.phases!.finished) finish(gone.exchange);
  t.equal(heldBytes(), gone.before);
});

// The cost of comparing a request with its schema, of 2 KB of JSON: reading strictly, comparing, and finding the places
// of a violation. The goal is 100 us.
//
//   npm run perf:validation

import { readJson } from '../sidecar/edge/json.ts';
import { validation } from '../sidecar/edge/validation/capability.ts';
import { createExchange, hooksOf, phasesOf, planOf } from '../test/fixtures/exchange.ts';

const item = {
  type: 'object',
  required: ['sku', 'count'],
  additionalProperties: false,
  properties: {
    sku: { type: 'string', pattern: '^[A-Z]{3}-[0-9]{4,8}$' },
    count: { type: 'integer', minimum: 1 },
    price: { type: 'number' },
    name: { type: 'string', maxLength: 200 },
    tags: { type: 'array', uniqueItems: true, items: { type: 'string' } },
  },
};
const order = {
  type: 'object',
  required: ['id', 'items'],
  additionalProperties: false,
  properties: {
    id: { type: 'string', format: 'uuid' },
    at: { type: 'string', format: 'date-time' },
    mail: { type: 'string', format: 'email' },
    items: { type: 'array', items: { $ref: '#/components/schemas/Item' } },
  },
};
const openapi = {
  openapi: '3.1.0',
  paths: {
    '/v1/orders/{id}': {
      parameters: [{ in: 'path', name: 'id', required: true, schema: { type: 'integer' } }],
      post: { requestBody: { content: { 'application/json': { schema: { $ref: '#/components/schemas/Order' } } } } },
    },
  },
  components: { schemas: { Item: item, Order: order } },
};

const value = {
  id: '2eb8aa08-aa98-11ea-b4aa-73b441d16380',
  at: '2026-11-30T08:00:00Z',
  mail: 'joe@example.test',
  items: Array.from({ length: 17 }, (_, i) => ({
    ...{ sku: 'ABC-12345', count: i + 1, price: 19.99, name: `A thing with a name and the number ${i}` },
    tags: ['a', 'b', 'new'],
  })),
};
const body = Buffer.from(JSON.stringify(value));
const wrong = Buffer.from(JSON.stringify({ ...value, items: value.items.map((one) => ({ ...one, count: '1' })) }));

const hooks = hooksOf(validation, { RequestValidation: await planOf(validation, 'RequestValidation', { openapi }) });
const [inspect] = phasesOf(hooks).serve;

/** Requests with a body that has arrived, ready to be compared. */
function requests(bytes: Buffer, count: number): (() => unknown)[] {
  return Array.from({ length: count }, () => {
    const known = { method: 'POST', path: '/v1/orders/7', wholeBody: bytes, framing: bytes.length };
    const { exchange, connection } = createExchange(known, { 'content-type': 'application/json' });
    return () => inspect!(exchange, connection);
  });
}

const rounds = 5000;

/** Microseconds each, the best of seven runs. */
function best(make: () => readonly (() => unknown)[]): number {
  let found = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 7; turn++) {
    const work = make();
    const started = performance.now();
    for (const one of work) one();
    found = Math.min(found, ((performance.now() - started) * 1000) / work.length);
  }
  return found;
}

const refused = (work: () => unknown) => (): void => {
  try {
    work();
  } catch {
    return;
  }
  throw new Error('the request passed');
};

const print = (name: string, us: number): void => console.log(`| ${name} | ${us.toPrecision(3)} |`);
console.log(`| ${body.length} bytes of JSON | us |\n|---|---|`);
print(
  'JSON.parse alone',
  best(() => Array(rounds).fill(() => JSON.parse(body.toString()))),
);
print(
  'read strictly',
  best(() => Array(rounds).fill(() => readJson(body))),
);
print(
  'path, parameter and body compared (goal: 100)',
  best(() => requests(body, rounds)),
);
print(
  '17 violations, each place named',
  best(() => requests(wrong, rounds / 5).map(refused)),
);

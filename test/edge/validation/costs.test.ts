// Each schema makes a message take much work in another way. Steps are counted, and no message takes more than its
// budget of them, whatever its schema.

import t from 'tap';
import { inBudget, stepsForMessage, stepsTaken } from '../../../sidecar/edge/validation/budget.ts';
import { generateOne } from '../../../sidecar/edge/validation/generate.ts';
import { metered } from '../../../sidecar/edge/validation/meter.ts';
import { loadValidators, type Validate } from '../../../sidecar/edge/validation/support.ts';

const many = <T>(count: number, one: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => one(i));
const named = (count: number, schema: unknown): object => Object.fromEntries(many(count, (i) => [`p${i}`, schema]));
const list = (text: string) => (count: number) => `[${Array(count).fill(text).join()}]`;
const object = (count: number): string => `{${many(count, (i) => `"k${i}":1`).join()}}`;
const text = (count: number): string => JSON.stringify('~/'.repeat(count));

/** Objects that differ in one value. */
const kinds = many(100, (i) => ({ required: ['kind'], properties: { kind: { const: `k${i}` } } }));
const lastKind = '{"kind":"k99"}';

interface Row {
  readonly schema: object;
  /** A message of a length. */
  readonly body: (count: number) => string;
  /** Steps for one more of it. */
  readonly least: number;
  /** The length of a message of a megabyte, if that is too costly. */
  readonly longest?: number;
}

const rows: Readonly<Record<string, Row>> = {
  'contains, of an enum': {
    schema: { contains: { enum: many(1000, (i) => `k${i}`) } },
    ...{ body: list('1'), least: 100, longest: 500_000 },
  },
  'an enum of strings': {
    schema: { items: { enum: many(1000, (i) => `k${i}`) } },
    ...{ body: list('"k999"'), least: 15 },
  },
  'an enum of objects': {
    schema: { items: { enum: many(1000, (i) => ({ i })) } },
    ...{ body: list('{"i":999}'), least: 16_000, longest: 90_000 },
  },
  'anyOf, of objects': { schema: { items: { anyOf: kinds } }, body: list(lastKind), least: 10_000, longest: 65_000 },
  'oneOf, of objects': { schema: { items: { oneOf: kinds } }, body: list(lastKind), least: 10_000, longest: 65_000 },
  'anyOf, of values': {
    schema: { items: { anyOf: many(100, (i) => ({ const: `k${i}` })) } },
    ...{ body: list('"k99"'), least: 10_000, longest: 150_000 },
  },
  'many properties': {
    schema: { items: { type: 'object', properties: named(500, { type: 'string' }) } },
    ...{ body: list('{}'), least: 1000, longest: 340_000 },
  },
  'many names that others depend on': {
    schema: { items: { dependentRequired: named(500, ['q']) } },
    ...{ body: list('{}'), least: 1000, longest: 340_000 },
  },
  'many schemas that depend on a name': {
    schema: { items: { dependentSchemas: named(300, { required: ['q'] }) } },
    ...{ body: list('{}'), least: 600, longest: 340_000 },
  },
  'many required names': {
    schema: { items: { anyOf: [{ required: many(250, (i) => `p${i}`) }, {}] } },
    ...{ body: list('{}'), least: 100, longest: 340_000 },
  },
  'many conditions': {
    schema: { items: { allOf: many(100, (i) => ({ if: { const: i }, ['then' as string]: { const: 3 } })) } },
    ...{ body: list('1e3'), least: 2000, longest: 250_000 },
  },
  'the length of a text, many times': {
    schema: { anyOf: many(1000, () => ({ maxLength: 0 })) },
    ...{ body: text, least: 1000, longest: 400_000 },
  },
  'the number of properties, many times': {
    schema: { anyOf: many(1000, () => ({ maxProperties: 0 })) },
    ...{ body: object, least: 1000, longest: 80_000 },
  },
  'names of properties, many times': {
    schema: { allOf: many(100, () => ({ propertyNames: { maxLength: 9 } })) },
    ...{ body: object, least: 500, longest: 80_000 },
  },
  'patterns of names, many times': {
    schema: { allOf: many(100, () => ({ patternProperties: { '^k': { type: 'integer' } } })) },
    ...{ body: object, least: 500, longest: 80_000 },
  },
  'a long name in many places': {
    schema: { anyOf: many(100, () => ({ additionalProperties: { type: 'string' } })) },
    ...{ body: (count) => `{${text(count)}:1}`, least: 100, longest: 400_000 },
  },
  'unevaluated properties of many schemas': {
    schema: { items: { anyOf: many(100, (i) => ({ properties: named(i, {}) })), unevaluatedProperties: false } },
    ...{ body: list('{"p1":1}'), least: 1000, longest: 90_000 },
  },
  'a format, many times': {
    schema: { allOf: many(100, () => ({ format: 'uri-template' })) },
    ...{ body: (count) => JSON.stringify('a'.repeat(count)), least: 100, longest: 900_000 },
  },
  'multiples of very small numbers': {
    schema: { items: { multipleOf: 1e-300 } },
    ...{ body: list('1e308'), least: 1000, longest: 150_000 },
  },
  'many items that are different': {
    schema: { uniqueItems: true },
    ...{ body: (count) => JSON.stringify(many(count, (i) => ({ i }))), least: 100 },
  },
};

function validatorOf(schema: object): Validate {
  return loadValidators(generateOne(schema as never, '2020-12').verdict)['body']!;
}

/** The steps, or the code of the error that ended them. */
function costOf(validate: Validate, body: string): number | string {
  const value = JSON.parse(body);
  try {
    return inBudget(() => {
      validate(value);
      return stepsTaken();
    });
  } catch (error) {
    return (error as { readonly code: string }).code;
  }
}

for (const [why, { schema, body, least, longest }] of Object.entries(rows))
  t.test(`the steps of ${why}`, async (t) => {
    const validate = validatorOf(schema);
    const [few, more] = [costOf(validate, body(50)), costOf(validate, body(150))] as [number, number];
    t.ok((more - few) / 100 >= least, `${(more - few) / 100} steps each`);
    if (longest !== undefined) t.equal(costOf(validate, body(longest)), 'validation_too_costly');
  });

t.test('ordinary messages of a megabyte are within the budget', async (t) => {
  const order = {
    type: 'object',
    additionalProperties: false,
    required: ['id', 'state'],
    properties: {
      id: { type: 'string', format: 'uuid' },
      at: { type: 'string', format: 'date-time' },
      state: { enum: ['new', 'paid', 'sent', 'done'] },
      sku: { type: 'string', pattern: '^[A-Z]{3}-[0-9]{4,8}$' },
      price: { type: 'number', multipleOf: 0.01 },
      tags: { type: 'array', uniqueItems: true, items: { type: 'string', maxLength: 20 } },
      note: { anyOf: [{ type: 'null' }, { type: 'string', maxLength: 200 }] },
      ...named(50, { type: 'string' }),
    },
  };
  const one = {
    ...{ id: '2eb8aa08-aa98-11ea-b4aa-73b441d16380', at: '2026-11-30T08:00:00Z', state: 'done', sku: 'ABC-12345' },
    ...{ price: 19.99, tags: ['a', 'b'], note: 'by hand', p1: 'x' },
  };
  const orders = list(JSON.stringify(one))(6500);
  t.ok(orders.length > 2 ** 20);
  const cost = costOf(validatorOf({ type: 'array', items: order }), orders);
  t.ok(Number(cost) < stepsForMessage, `${cost} steps`);
  const points = costOf(
    validatorOf({ items: { type: 'array', minItems: 2, items: { type: 'number' } } }),
    list('[13.3777,52.5163]')(60_000),
  );
  t.ok(Number(points) < stepsForMessage, `${points} steps`);
});

t.test('a program with unknown loops or functions is refused', async (t) => {
  const head = 'function validate0(data, {instancePath="", rootData=data}={}){';
  t.match(metered(`${head}for(let i0=0; i0<1; i0++){f();}}`), /\{countCall\(\);spend\(\d+\);for.*\{spend\(\d+\);f/);
  for (const body of ['while(a){}}', 'for(;;)f();}', 'do{}(a)}', 'const f = function(){};}', '}}'])
    t.throws(() => metered(`${head}${body}`), /of an unknown form/, body);
});

// What a schema promises holds for every name and number, and no message takes longer than its budget.

import t, { type Test } from 'tap';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import { compilePattern } from '../../../sidecar/edge/validation/pattern.ts';
import { requestValidation } from '../../../sidecar/edge/validation/schema.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

async function hooksFor(schema: object, more: object = {}) {
  const plan = await planOf(validation, 'RequestValidation', { schema, ...more });
  return hooksOf(validation, { RequestValidation: plan }, { name: 'RequestValidation shop/v' });
}
type HooksOf = Awaited<ReturnType<typeof hooksFor>>;

/** `passed`, or the code of the refusal. */
async function post(hooks: HooksOf, body: string): Promise<string> {
  const wholeBody = Buffer.from(body);
  const known = { method: 'POST', wholeBody, framing: wholeBody.length };
  const { client, exchange } = await serve(hooks, { headers: { 'content-type': 'application/json' }, known });
  if (client.code === 'internal') throw exchange.failure;
  return client.status === 200 ? 'passed' : client.code!;
}

/** The outcome, and that it came soon. */
async function soon(t: Test, hooks: HooksOf, body: string, outcome: string, why: string): Promise<void> {
  const started = performance.now();
  t.equal(await post(hooks, body), outcome, why);
  const ms = Math.round(performance.now() - started);
  t.ok(ms < 2000, `${ms} ms: ${why}`);
}

t.test('unevaluatedProperties ignores inherited names, where alternatives are tracked at run time', async (t) => {
  const a = { properties: { a: { type: 'integer' } }, required: ['a'] };
  const b = { properties: { b: true }, required: ['b'] };
  const schemas: Readonly<Record<string, object>> = {
    anyOf: { anyOf: [a, b] },
    oneOf: { oneOf: [a, b] },
    else: { if: { not: a }, else: a },
    $ref: { $ref: '#/$defs/any', $defs: { any: { anyOf: [a, b] } } },
    dependentSchemas: { dependentSchemas: { a }, anyOf: [a, b] },
  };
  for (const [keyword, schema] of Object.entries(schemas)) {
    const hooks = await hooksFor({ type: 'object', ...schema, unevaluatedProperties: false });
    t.equal(await post(hooks, '{"a":1}'), 'passed', keyword);
    for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty', 'valueOf', 'other'])
      t.equal(await post(hooks, `{"a":1,"${name}":{}}`), 'request_invalid', `${keyword} ${name}`);
  }
});

t.test('violations behind references are gathered in linear time', async (t) => {
  const node = { type: 'object', required: ['x'], properties: { next: { $ref: '#/$defs/node' } } };
  const hooks = await hooksFor({ items: { $ref: '#/$defs/node' }, $defs: { node } });
  await soon(t, hooks, `[${Array(60_000).fill('{}').join()}]`, 'request_invalid', 'a violation in each item');
});

t.test('patterns from clients have a budget', async (t) => {
  const hooks = await hooksFor({ items: { type: 'string', format: 'regex' } });
  await soon(t, hooks, JSON.stringify(Array(20).fill('.{1000}'.repeat(500))), 'validation_too_costly', 'long ones');
  await soon(t, hooks, JSON.stringify(Array(20_000).fill('\\pL{999}')), 'validation_too_costly', 'many');
  t.equal(await post(hooks, JSON.stringify(['^[a-z]+$', '\\d{1,3}'])), 'passed');
  t.equal(await post(hooks, JSON.stringify(['['])), 'request_invalid');
});

t.test('comparing lists and objects has a budget', async (t) => {
  const node = { uniqueItems: true, items: { $ref: '#' } };
  const list = `[${Array.from({ length: 120_000 }, (_, i) => i).join()}]`;
  const deep = await hooksFor(node);
  await soon(t, deep, `${'['.repeat(61)}${list}${']'.repeat(61)}`, 'validation_too_costly', 'recursive uniqueItems');
  await soon(t, deep, list, 'passed', 'a long list');
  const object = { a: 1, b: [1, { c: null }] };
  const values = Array.from({ length: 100 }, (_, i) => ({ ...object, i }));
  const listed = await hooksFor({ enum: values });
  const large = Object.fromEntries(Array.from({ length: 50_000 }, (_, i) => [`k${i}`, i]));
  await soon(t, listed, `{"a":1,"b":[1,${JSON.stringify(large)}],"i":7}`, 'request_invalid', 'many values');
  await soon(t, listed, JSON.stringify(large), 'request_invalid', 'one that differs at once');
  for (const [body, outcome] of [
    ['{"i":99,"b":[1.0,{"c":null}],"a":1}', 'passed'],
    ['{"i":99,"b":[1,{"c":0}],"a":1}', 'request_invalid'],
    ['{"i":99,"b":{"0":1,"1":{"c":null}},"a":1}', 'request_invalid'],
    ['{"i":99,"b":[1,{"d":null}],"a":1}', 'request_invalid'],
    ['{"i":99,"b":null,"a":1}', 'request_invalid'],
  ] as const)
    t.equal(await post(listed, body), outcome, body);
});

t.test('a text that overflows the stack of an expression is refused, and passes in mode Report', async (t) => {
  const schema = { type: 'string', format: 'json-pointer' };
  const body = JSON.stringify('/~1'.repeat(10_000_000));
  const enforced = await hooksFor(schema, { bodyLimit: 2 ** 26 });
  t.equal(await post(enforced, body), 'validation_too_costly');
  const reported = await hooksFor(schema, { bodyLimit: 2 ** 26, mode: 'Report' });
  t.equal(await post(reported, body), 'passed');
});

t.test('references that lead back to themselves are refused, under any name', async (t) => {
  const schemas: Readonly<Record<string, object>> = {
    empty: { $ref: '' },
    root: { $ref: '#' },
    'root in an if': { if: { if: { $ref: '#' } } },
    anchor: { $anchor: 'a', $ref: '#a' },
    'two anchors': { $ref: '#b', $defs: { b: { $anchor: 'b', allOf: [{ $ref: '#/$defs/c' }] }, c: { $ref: '#b' } } },
    'dynamic anchor': { $dynamicAnchor: 'a', allOf: [{ $dynamicRef: '#a' }] },
    'dynamic reference to the root': { $dynamicRef: '#' },
    'own identifier': { $id: 'http://x.test/a', $ref: 'http://x.test/a' },
    'own identifier, relative': { $id: 'http://x.test/a', $ref: 'a' },
    'own name': { $id: 'urn:x:a', allOf: [{ $ref: 'urn:x:a' }] },
    identifiers: {
      $id: 'http://x.test/a',
      $ref: 'b',
      $defs: { b: { $id: 'http://x.test/b', $ref: 'a' } },
    },
    'root of an inner resource': {
      $ref: '#/$defs/b',
      $defs: { b: { $id: 'http://x.test/b', allOf: [{ $ref: '#' }] } },
    },
    'pointer with escapes': { $defs: { 'a b': { $ref: '#/$defs/a%20b' } }, $ref: '#/$defs/a%20b' },
    'draft 7': { $schema: 'http://json-schema.org/draft-07/schema#', $id: '#a', allOf: [{ $ref: '#a' }] },
  };
  for (const [why, schema] of Object.entries(schemas)) {
    const { error } = requestValidation.safeParse({ schema });
    t.match(error?.issues[0]?.message, /leads back to its own schema/, why);
  }
  const steps: Readonly<Record<string, object>> = {
    items: { items: { $ref: '#' } },
    'inner resource': { properties: { b: { $id: 'http://x.test/b', properties: { c: { $ref: '#' } } } } },
    identifier: { $id: 'http://x.test/a', properties: { a: { $ref: 'a' } } },
    dynamic: { $dynamicAnchor: 'n', properties: { a: { $dynamicRef: '#n' } } },
    'the same reference twice': {
      allOf: [{ $ref: '#/$defs/a' }, { $ref: '#/$defs/a' }],
      $defs: { a: { type: 'object' } },
    },
  };
  for (const [why, schema] of Object.entries(steps))
    t.equal(await post(await hooksFor(schema), '{"a":{"a":{}}}'), 'passed', why);
});

t.test('multipleOf is exact', async (t) => {
  const rows: readonly (readonly [of: number, passing: readonly string[], refused: readonly string[]])[] = [
    [1_000_000_000, ['0', '3e9', '-1000000000'], ['1', '1000000001', '5e8']],
    [0.01, ['19.99', '0.07', '1e20', '-0.01', '1e-2', '123456789012.34'], ['0.01000000001', '0.005', '19.999']],
    [1e-7, ['1e-7', '3', '0.0000012'], ['1e-8', '1.5e-7']],
    [3, ['9', '3e15'], ['2', '0.3', '1e308']],
  ];
  for (const [multipleOf, passing, refused] of rows) {
    const hooks = await hooksFor({ multipleOf });
    for (const body of passing) t.equal(await post(hooks, body), 'passed', `${body} of ${multipleOf}`);
    for (const body of refused) t.equal(await post(hooks, body), 'request_invalid', `${body} of ${multipleOf}`);
  }
  const many = await hooksFor({ items: { multipleOf: 1e-9 } });
  await soon(t, many, `[${Array(60_000).fill('0.1').join()}]`, 'passed', 'many numbers');
});

t.test('the largest double of int64 is out of range', async (t) => {
  const hooks = await hooksFor({ format: 'int64' });
  for (const body of ['9223372036854775808', '0.5']) t.equal(await post(hooks, body), 'request_invalid', body);
  t.equal(await post(hooks, '-9223372036854775809'), 'json_number_out_of_range');
  for (const body of ['9223372036854774784', '-9223372036854774784', '0'])
    t.equal(await post(hooks, body), 'passed', body);
});

t.test('each pattern of a schema is compared, and not the first for all', async (t) => {
  const text = (pattern: string): object => ({ type: 'string', pattern });
  const schema = {
    properties: { a: text('^[a-z]+$'), n: text('^[0-9]+$'), same: text('^[0-9]+$') },
    patternProperties: { '^x-': text('^on$'), '^y-': text('^off$') },
  };
  const hooks = await hooksFor(schema);
  for (const one of [{ a: 'x' }, { n: '1' }, { same: '1' }, { 'x-b': 'on' }, { 'y-b': 'off' }])
    t.equal(await post(hooks, JSON.stringify(one)), 'passed', JSON.stringify(one));
  for (const one of [{ a: '1' }, { n: 'x' }, { same: 'x' }, { 'x-b': 'off' }, { 'y-b': 'on' }])
    t.equal(await post(hooks, JSON.stringify(one)), 'request_invalid', JSON.stringify(one));
});

t.test('the whitespace of patterns is that of ECMA-262', async (t) => {
  const texts = Array.from({ length: 0xffff }, (_, code) => String.fromCharCode(code)).filter((one) =>
    one.isWellFormed(),
  );
  for (const pattern of ['^\\s$', '^\\S$', '^[\\s]$', '^[^\\s]$', '^[a\\S]$', '^[^\\S]$', '^\\[\\s?.$', '^\\\\?s$']) {
    const expression = new RegExp(pattern, 'u');
    const own = compilePattern(pattern);
    const wrong = texts.filter((text) => own.test(text) !== expression.test(text));
    // The line ends that `.` matches here are documented.
    t.strictSame(
      wrong.filter((one) => !pattern.includes('.') || !/[\r\u2028\u2029]/.test(one)),
      [],
      pattern,
    );
  }
  const hooks = await hooksFor({ not: { pattern: '\\s' } });
  for (const text of ['a\vb', 'a\u00a0b', 'a\ufeffb', 'a b'])
    t.equal(await post(hooks, JSON.stringify(text)), 'request_invalid');
});

t.test('a number that a double cannot hold is refused where the schema restricts it', async (t) => {
  const said = await hooksFor({
    properties: {
      id: { type: 'integer' },
      page: { type: 'integer', minimum: 1 },
      seat: { type: 'integer', minimum: -9007199254740992, exclusiveMaximum: 9007199254740992 },
      last: { type: 'integer', maximum: 2 ** 63 },
      late: { not: { exclusiveMaximum: 2 ** 60 } },
      kind: { enum: [1, 9007199254740992] },
      price: { type: 'number', maximum: 10 },
      size: { enum: [1, 'x'] },
      one: { const: 1 },
      step: { multipleOf: 0.5 },
      any: { type: 'number' },
    },
  });
  for (const body of [
    '{"seat":9007199254740993}',
    '{"late":1152921504606846975}',
    '{"seat":-9007199254740993}',
    '{"last":9223372036854775807}',
    '{"kind":9007199254740993}',
    '{"step":9007199254740993}',
    '{"page":9223372036854775809}',
    '{"id":9223372036854775809}',
    '{"id":1.00000000000000000000001}',
    '{"id":-12345678901234567891}',
    '{"price":10.000000000000000000001}',
    '{"size":1.000000000000000000001}',
    '{"one":1.000000000000000000001}',
    '{"step":0.500000000000000000001}',
  ])
    t.equal(await post(said, body), 'json_number_out_of_range', body);
  for (const body of [
    '{"id":9007199254740991}',
    '{"id":9007199254740993}',
    '{"id":-9223372036854775807}',
    '{"page":9007199254740993}',
    '{"page":1234567890123456789}',
    '{"last":9223372036854774000}',
    '{"id":9007199254740992}',
    '{"id":1.0000000000000000000000}',
    '{"id":1e15}',
    '{"price":9.9999999999999996}',
    '{"price":0.10000000000000001}',
    '{"any":9007199254740993}',
    '{"other":1.00000000000000000000001}',
  ])
    t.equal(await post(said, body), 'passed', body);
  t.equal(await post(said, '{"any":9007199254740993,"kind":9007199254740992}'), 'json_number_out_of_range');
  t.equal(await post(said, '{"kind":9007199254740992}'), 'passed', 'the next message');
  t.equal(await post(said, '{"page":-9007199254740993}'), 'request_invalid', 'the side of a limit is certain');
  const named = await hooksFor({ properties: { a: { 'x-sallyport-exact': 'all' } } });
  t.equal(await post(named, '{"a":9007199254740993}'), 'passed', 'an extension of that name has no effect');
});

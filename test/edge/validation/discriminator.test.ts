// The discriminator of OpenAPI: the value of a property names the schema that a body must match.

import t from 'tap';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import { requestValidation } from '../../../sidecar/edge/validation/schema.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const named = (more: object) => ({ type: 'object', properties: { kind: { type: 'string' }, ...more } });
const cat = named({ lives: { type: 'integer' } });
const dog = named({ bark: { type: 'string' } });

function documentOf(schemas: object, openapi = '3.0.3', schema: object = ref('Pet')) {
  const content = { 'application/json': { schema } };
  return {
    openapi,
    paths: { '/': { post: { requestBody: { content }, responses: { 200: { content } } } } },
    components: { schemas },
  };
}

async function outcomesOf(openapi: object, bodies: readonly unknown[]): Promise<string[]> {
  const hooks = hooksOf(validation, { RequestValidation: await planOf(validation, 'RequestValidation', { openapi }) });
  const outcomes: string[] = [];
  for (const body of bodies) {
    const wholeBody = Buffer.from(JSON.stringify(body));
    const { client } = await serve(hooks, {
      headers: { 'content-type': 'application/json' },
      known: { method: 'POST', path: '/', wholeBody, framing: wholeBody.length },
    });
    const { errors = [] } = client.status === 200 ? {} : JSON.parse(client.body);
    outcomes.push(
      client.status === 200
        ? 'passed'
        : errors.map((one: { pointer: string; code: string }) => `${one.pointer} ${one.code}`).join(' '),
    );
  }
  return outcomes;
}

t.test('alternatives are selected by their name and by a mapping', async (t) => {
  const pet = (discriminator: object) => ({ anyOf: [ref('Cat'), ref('Dog')], discriminator });
  const bodies = [
    { kind: 'Cat', lives: 9 },
    { kind: 'Cat', lives: 'nine' },
    { kind: 'Dog', lives: 'nine' },
    { kind: 'Cow' },
    { lives: 9 },
  ];
  for (const version of ['3.0.3', '3.1.0']) {
    const schemas = { Pet: pet({ propertyName: 'kind' }), Cat: cat, Dog: dog };
    t.strictSame(await outcomesOf(documentOf(schemas, version), bodies), [
      'passed',
      '#/lives type # if',
      'passed',
      '#/kind enum',
      '# required',
    ]);
  }
  const mapping = { c: '#/components/schemas/Cat', kitten: 'Cat' };
  const schemas = { Pet: pet({ propertyName: 'kind', mapping }), Cat: cat, Dog: dog };
  const mapped = [{ kind: 'c', lives: 'x' }, { kind: 'kitten', lives: 'x' }, { kind: 'c' }, { kind: 'Cow' }];
  t.strictSame(await outcomesOf(documentOf(schemas), mapped), [
    '#/lives type # if',
    '#/lives type # if',
    'passed',
    '#/kind enum',
  ]);
});

t.test('schemas that extend the one with the discriminator are selected', async (t) => {
  const extending = (parent: string, more: object) => ({ allOf: [ref(parent), named(more)] });
  const schemas = {
    Pet: { ...named({ friend: { allOf: [ref('Pet')], nullable: true } }), discriminator: { propertyName: 'kind' } },
    Cat: extending('Pet', { lives: { type: 'integer' } }),
    Lion: extending('Cat', { mane: { type: 'boolean' } }),
    Dog: extending('Pet', { bark: { type: 'string' } }),
  };
  const bodies = [
    { kind: 'Pet', lives: 'x' },
    { kind: 'Lion', mane: true, lives: 1 },
    { kind: 'Lion', mane: 1 },
    { kind: 'Lion', lives: 'x' },
    { kind: 'Dog', lives: 'x', friend: { kind: 'Cat', lives: 'x' } },
    { kind: 'Cow' },
  ];
  t.strictSame(await outcomesOf(documentOf(schemas), bodies), [
    'passed',
    'passed',
    '#/mane type # if',
    '#/lives type # if',
    '#/friend/lives type #/friend if # if',
    '#/kind enum',
  ]);
});

t.test('an alternative without a name, and null', async (t) => {
  const discriminator = { propertyName: 'kind' };
  const open = { anyOf: [ref('Cat'), named({})], discriminator };
  const bodies = [{ kind: 'Cow' }, { kind: 'Cat', lives: 'x' }];
  t.strictSame(await outcomesOf(documentOf({ Pet: open, Cat: cat }), bodies), ['passed', '#/lives type # if']);
  const nullable = { Pet: { oneOf: [ref('Cat'), { type: 'null' }], discriminator }, Cat: cat };
  const pets = documentOf(nullable, '3.1.0', { type: 'array', items: ref('Pet') });
  t.strictSame(await outcomesOf(pets, [[null], [{ kind: 'Cow' }]]), ['passed', '#/0/kind enum']);
});

t.test('discriminators that cannot select are refused', async (t) => {
  const read = (pet: object) => requestValidation.safeParse({ openapi: documentOf({ Pet: pet, Cat: cat }) });
  const at = 'openapi.components.schemas.Pet.discriminator';
  const rows: readonly (readonly [discriminator: unknown, problem: string, more?: object])[] = [
    [{ propertyName: 'kind', mapping: { c: '#/components/schemas/Cow' } }, `${at}.mapping.c`],
    [{ propertyName: 'kind', mapping: { c: 'cow.json' } }, `${at}.mapping.c`],
    [{}, at],
    ['kind', at],
    [{ propertyName: 'kind', mapping: {} }, at, { anyOf: [named({ a: {} })] }],
    [{ propertyName: 'kind' }, at, { anyOf: [{ allOf: [ref('Pet')] }, named({})] }],
  ];
  for (const [discriminator, place, more] of rows) {
    const places = read({ anyOf: [ref('Cat')], discriminator, ...more }).error?.issues.map(({ path }) =>
      path.join('.'),
    );
    t.ok(places?.includes(place), `${place}: ${places}`);
  }
  t.match(read({ ...named({}), discriminator: { propertyName: 'kind' } }).error?.issues, [
    { path: at.split('.'), message: /^the discriminator 'kind' selects no schema: name them in its mapping, or / },
  ]);
  const circular = read({ oneOf: [{ allOf: [ref('Pet')] }] }).error?.issues;
  t.match(circular, [{ message: /leads back to its own schema, for the same value: move what both need to a schema/ }]);
});

/** Cats are pets, and pets are animals. */
const animals = {
  Animal: { ...named({}), discriminator: { propertyName: 'kind' } },
  Pet: { allOf: [ref('Animal'), named({ name: { type: 'string' } })] },
  Cat: { allOf: [ref('Pet'), named({ lives: { type: 'integer' } })] },
};

t.test('the discriminator of a schema that another one only wraps', async (t) => {
  const wrappers: Readonly<Record<string, object>> = {
    allOf: { allOf: [ref('Animal')] },
    'with a description': { description: 'an animal', allOf: [ref('Animal')] },
    alias: ref('Animal'),
    'more than once': { allOf: [{ allOf: [{ allOf: [ref('Animal')] }] }] },
    anyOf: { anyOf: [ref('Animal')] },
  };
  const bodies = [{ kind: 'Cat', lives: 'x' }, { kind: 'Nonsense' }, {}, { kind: 'Cat', lives: 9 }];
  const expected = [/#\/lives type/, /#\/kind enum/, /# required/, /^passed$/];
  for (const [why, Body] of Object.entries(wrappers)) {
    const inside = { properties: { a: { allOf: [ref('Body')], description: 'a' } } };
    const body = documentOf({ ...animals, Body }, '3.1.0', { anyOf: [{ ...inside, required: ['a'] }, ref('Body')] });
    t.match(await outcomesOf(body, bodies), expected, why);
    t.match(await outcomesOf(body, [{ a: bodies[0] }, { a: bodies[3] }]), [/#\/a\/lives type/, /^passed$/], why);
  }
});

t.test('a child schema that adds nothing', async (t) => {
  const schemas = { ...animals, Lynx: { allOf: [ref('Cat')] } };
  const bodies = [
    { kind: 'Lynx', lives: 9 },
    { kind: 'Lynx', lives: 'x' },
  ];
  for (const name of ['Animal', 'Lynx'])
    t.match(await outcomesOf(documentOf(schemas, '3.0.3', ref(name)), bodies), [/^passed$/, /^#\/lives type/], name);
});

t.test('grandchildren are selected from each level', async (t) => {
  const bodies = [
    { kind: 'Cat', lives: 9, name: 'x' },
    { kind: 'Cat', lives: 'x' },
    { kind: 'Cat', name: 1 },
    { kind: 'Pet', name: 1 },
    { kind: 'Nonsense' },
    { lives: 9 },
  ];
  const expected = [/^passed$/, /^#\/lives type/, /^#\/name type/, /^#\/name type/, /#\/kind enum/, /# required/];
  for (const name of ['Animal', 'Pet', 'Cat'])
    t.match(await outcomesOf(documentOf(animals, '3.0.3', ref(name)), bodies), expected, name);
});

t.test('a discriminator within a selected alternative', async (t) => {
  const schemas = {
    ...animals,
    Pet: { ...animals.Pet, discriminator: { propertyName: 'home' } },
    House: { allOf: [ref('Pet'), { properties: { rooms: { type: 'integer' } } }] },
  };
  const bodies = [
    { kind: 'Pet', home: 'House', rooms: 1 },
    { kind: 'Pet', home: 'House', rooms: 'x' },
    { kind: 'Pet', home: 'Cave' },
    { kind: 'Pet' },
    { kind: 'Animal' },
  ];
  const expected = [/^passed$/, /^#\/rooms type/, /#\/home enum/, /# required/, /^passed$/];
  t.match(await outcomesOf(documentOf(schemas, '3.0.3', ref('Animal')), bodies), expected);
});

t.test('a discriminator in the allOf of its schema', async (t) => {
  const base = { type: 'object', properties: { at: { type: 'integer' } } };
  const schemas = { ...animals, Base: base, Animal: { allOf: [ref('Base'), animals.Animal] } };
  const bodies = [{ kind: 'Cat', lives: 'x' }, { kind: 'Cat', lives: 9 }, { kind: 'Animal', at: 'x' }, { kind: 'Cow' }];
  const expected = [/^#\/lives type/, /^passed$/, /^#\/at type/, /#\/kind enum/];
  for (const name of ['Animal', 'Pet'])
    t.match(await outcomesOf(documentOf(schemas, '3.0.3', ref(name)), bodies), expected, name);
});

t.test('alternatives that wrap a reference, or contain further alternatives', async (t) => {
  const Dog = { ...named({ bark: { type: 'string' } }), required: ['bark'] };
  const wrapped = [{ allOf: [ref('Cat')] }, { description: 'a dog', allOf: [{ allOf: [ref('Dog')] }] }];
  const bodies = [
    { kind: 'Cat', lives: 9 },
    { kind: 'Cat', lives: 'x', bark: 'x' },
    { kind: 'Cow', bark: 'x' },
  ];
  const expected = [/^passed$/, /^#\/lives type/, /#\/kind enum/];
  const discriminator = { propertyName: 'kind' };
  for (const pet of [{ oneOf: wrapped }, { anyOf: [{ anyOf: [wrapped[0]] }, { oneOf: [wrapped[1]] }] }])
    t.match(await outcomesOf(documentOf({ Pet: { ...pet, discriminator }, Cat: cat, Dog }), bodies), expected);
});

t.test('a parent schema whose alternatives extend it', async (t) => {
  const mapping = { cat: '#/components/schemas/Cat', dog: '#/components/schemas/Dog' };
  const children = { Cat: { allOf: [ref('Pet'), cat] }, Dog: { allOf: [ref('Pet'), dog] } };
  const own = { required: ['kind'], properties: { kind: { type: 'string' }, name: { type: 'string' } } };
  const bodies = [
    { kind: 'cat', lives: 9, name: 'x' },
    { kind: 'cat', lives: 'x' },
    { kind: 'dog', name: 1 },
    { kind: 'cow' },
    {},
    'cat',
  ];
  const expected = [/^passed$/, /^#\/lives type/, /^#\/name type/, /#\/kind enum/, /# required/, /^# type/];
  for (const key of ['oneOf', 'anyOf'])
    for (const name of ['Pet', 'Cat']) {
      const alternatives = { [key]: [ref('Cat'), ref('Dog')] };
      const Pet = { ...own, ...alternatives, discriminator: { propertyName: 'kind', mapping } };
      t.match(
        await outcomesOf(documentOf({ Pet, ...children }, '3.0.3', ref(name)), bodies),
        expected,
        `${key} ${name}`,
      );
      const inside = { ...own, allOf: [{ ...alternatives, discriminator: Pet.discriminator }] };
      t.match(await outcomesOf(documentOf({ Pet: inside, ...children }, '3.1.0', ref(name)), bodies), expected, name);
    }
});

t.test('alternatives that do not exclude each other, as what extends one schema', async (t) => {
  const Pet = { ...named({}), required: ['kind'] };
  const discriminator = { propertyName: 'kind' };
  const schemas = {
    ...{ Cat: { allOf: [ref('Pet'), cat] }, Dog: { allOf: [ref('Pet'), dog] } },
    ...{ Puppy: { allOf: [ref('Dog'), named({ age: { type: 'integer' } })] }, Cow: { allOf: [ref('Pet')] } },
  };
  const oneOf = [ref('Cat'), ref('Dog')];
  const bodies = [
    { kind: 'Cat', lives: 9 },
    { kind: 'Dog', bark: 'x' },
    { kind: 'Dog', bark: 1 },
    { kind: 'Cow' },
    { bark: 'x' },
  ];
  const expected = [/^passed$/, /^passed$/, /#\/bark type/, /#\/kind enum/, /# required/];
  const beside = documentOf({ ...schemas, Pet }, '3.0.3', { oneOf, discriminator });
  t.match(await outcomesOf(beside, bodies), expected, 'beside the alternatives');
  // As springdoc writes it.
  const inherited = documentOf({ ...schemas, Pet: { ...Pet, discriminator } }, '3.0.3', { oneOf });
  const more = [{ kind: 'Puppy', age: 1 }, { kind: 'Puppy', age: 'x' }, { kind: 'Puppy', bark: 1 }, { kind: 'Pet' }];
  t.match(
    await outcomesOf(inherited, [...bodies, ...more]),
    [...expected, /^passed$/, /#\/age type/, /#\/bark type/, /#\/kind enum/],
    'in what they extend',
  );
  const several = { ...schemas, Pet, Stone: named({ weight: { type: 'integer' } }) };
  const other = documentOf({ ...several, Pet: { ...Pet, discriminator } }, '3.0.3', { oneOf: [ref('Stone')] });
  t.strictSame(await outcomesOf(other, [{ kind: 'x', weight: 1 }]), ['passed'], 'one that extends nothing');
});

t.test('alternatives that are not selected take nothing from the budget of a message', async (t) => {
  const kinds = Array.from({ length: 6 }, (_, i) => `Kind${i}`);
  const own = { ...named({ at: ref('Place') }), required: ['kind'] };
  const Place = { type: 'object', properties: { x: { type: 'integer' } } };
  const Event = { oneOf: kinds.map(ref), discriminator: { propertyName: 'kind' } };
  const schemas = { ...Object.fromEntries(kinds.map((kind) => [kind, own])), Place, Event };
  const document = documentOf(schemas, '3.0.3', { type: 'array', items: ref('Event') });
  const events = Array.from({ length: 15_000 }, (_, i) => ({ kind: kinds[i % 6], at: { x: i }, note: 'x'.repeat(20) }));
  const wrong = [...events.slice(0, 10_000), { kind: 'Kind5', at: { x: 'x' } }];
  t.match(await outcomesOf(document, [events, wrong, ['x']]), [/^passed$/, /^#\/10000\/at\/x type/, /^#\/0 type/]);
});

// The discriminator of OpenAPI: the value of a property names the schema that a body must match.

import t from 'tap';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import { requestValidation, type ValidationPlan } from '../../../sidecar/edge/validation/schema.ts';
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

async function outcomesOf(openapi: object, bodies: readonly object[]): Promise<string[]> {
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

t.test('alternatives by their name, and by a mapping', async (t) => {
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

t.test('schemas that extend the one with the discriminator', async (t) => {
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

t.test('what cannot select', async (t) => {
  const read = (pet: object) => requestValidation.safeParse({ openapi: documentOf({ Pet: pet, Cat: cat }) });
  const at = 'openapi.components.schemas.Pet.discriminator';
  const rows: readonly (readonly [discriminator: unknown, problem: string])[] = [
    [{ propertyName: 'kind', mapping: { c: '#/components/schemas/Cow' } }, `${at}.mapping.c`],
    [{ propertyName: 'kind', mapping: { c: 'cow.json' } }, `${at}.mapping.c`],
    [{}, at],
    ['kind', at],
  ];
  for (const [discriminator, place] of rows) {
    const places = read({ anyOf: [ref('Cat')], discriminator }).error?.issues.map(({ path }) => path.join('.'));
    t.strictSame([...new Set(places)], [place]);
  }
  const alone = read({ ...named({}), discriminator: { propertyName: 'kind' } }).data as ValidationPlan;
  t.match(alone.warnings, [{ message: "the discriminator 'kind' selects no schema, and is not compared" }]);
});

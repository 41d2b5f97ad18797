// Headers as hooks: what the backend gets of a request and the client of a response, after one modifier and after
// several.

import t from 'tap';
import { headers } from '../../../sidecar/edge/headers/capability.ts';
import { addFields, withoutTaken } from '../../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { type Headers, headersIn, hooksOf, type Plans, planOf, serve } from '../../fixtures/exchange.ts';

type Pair = readonly [name: string, value: string];

const of = (pairs: readonly Pair[]) => pairs.map(([name, value]) => ({ name, value }));
const set = (...pairs: Pair[]) => ({ set: of(pairs) });
const add = (...pairs: Pair[]) => ({ add: of(pairs) });
const remove = (...names: string[]) => ({ remove: names });

const came: Headers = { 'X-A': '1', 'x-b': '2' };

const rows: [name: string, modifiers: object[], left: Headers][] = [
  ['a field is set in place of what came', [set(['x-a', '9'])], { 'x-b': '2', 'x-a': '9' }],
  ['a field is set where none came', [set(['x-c', '9'])], { 'x-a': '1', 'x-b': '2', 'x-c': '9' }],
  ['a field is added to what came', [add(['x-a', '9'])], { 'x-a': '1, 9', 'x-b': '2' }],
  ['a field is removed, whatever its case', [remove('X-B')], { 'x-a': '1' }],
  ['what is set and removed is removed', [{ ...set(['x-a', '9']), ...remove('x-a') }], { 'x-b': '2' }],
  ['what is added and removed is removed', [{ ...add(['x-a', '9']), ...remove('x-a') }], { 'x-b': '2' }],
  [
    'a field that is set and added gets both values',
    [{ ...set(['x-a', '8']), ...add(['x-a', '9']) }],
    { 'x-b': '2', 'x-a': '8, 9' },
  ],
  ['spaces around a value are not part of it', [set(['x-a', ' 9\t'])], { 'x-b': '2', 'x-a': '9' }],
  [
    "a backend's modifier comes after its rule's, and sets anew",
    [set(['x-a', '8']), set(['X-A', '9'])],
    { 'x-b': '2', 'x-a': '9' },
  ],
  ['it adds to the value', [set(['x-a', '8']), add(['x-a', '9'])], { 'x-b': '2', 'x-a': '8, 9' }],
  ['it removes the value', [{ ...set(['x-a', '8']), ...add(['x-c', '7']) }, remove('x-a', 'x-c')], { 'x-b': '2' }],
  ['an empty modifier changes nothing', [{}], { 'x-a': '1', 'x-b': '2' }],
];

async function plansOf(field: string, modifiers: readonly object[]): Promise<Plans> {
  return Promise.all(modifiers.map(async (one) => [field, await planOf(headers, field, one)] as const));
}

for (const [name, modifiers, left] of rows) {
  t.test(`request: ${name}`, async (t) => {
    const hooks = hooksOf(headers, await plansOf('RequestHeaderModifier', modifiers));
    const { backend, client } = await serve(hooks, { headers: came }, { headers: came });
    t.strictSame(backend!.headers, left);
    t.strictSame(client.headers, { 'x-a': '1', 'x-b': '2' }, 'the response is unchanged');
  });
  t.test(`response: ${name}`, async (t) => {
    const hooks = hooksOf(headers, await plansOf('ResponseHeaderModifier', modifiers));
    const { backend, client } = await serve(hooks, { headers: came }, { headers: came });
    t.strictSame(client.headers, left);
    t.strictSame(backend!.headers, { 'x-a': '1', 'x-b': '2' }, 'the request is unchanged');
  });
}

t.test('requests and responses of one rule are changed independently', async (t) => {
  const hooks = hooksOf(headers, {
    RequestHeaderModifier: await planOf(headers, 'RequestHeaderModifier', set(['x-a', 'in'])),
    ResponseHeaderModifier: await planOf(headers, 'ResponseHeaderModifier', set(['x-a', 'out'])),
  });
  const { backend, client } = await serve(hooks, { headers: { 'x-a': '1' } }, { headers: { 'x-a': '1' } });
  t.strictSame([backend!.headers, client.headers], [{ 'x-a': 'in' }, { 'x-a': 'out' }]);
});

t.test('a removed field is removed in every spelling that servers fold into one, and from trailers', async (t) => {
  const hooks = hooksOf(headers, await plansOf('RequestHeaderModifier', [remove('x-role')]));
  const { backend, exchange } = await serve(hooks, {
    headers: { X_Role: 'admin', 'x-role': 'user', 'x.role': 'root' },
  });
  t.strictSame(backend!.headers, {});
  const trailers = addFields(emptyFields, [
    ['x_role', 'admin'],
    ['x-sum', '1'],
  ]);
  t.strictSame(headersIn(withoutTaken(exchange, trailers)), { 'x-sum': '1' });
});

t.test('no client can make us drop one of our fields as a field of its hop', async (t) => {
  const hooks = hooksOf(headers, await plansOf('RequestHeaderModifier', [set(['x-ours', '1'])]));
  const known = { hopFields: ['x-ours', 'x-theirs'] };
  const { backend, exchange } = await serve(hooks, { known, headers: { 'x-theirs': '1', 'x-a': '1' } });
  t.strictSame(backend!.headers, { 'x-a': '1', 'x-ours': '1' });
  t.equal(exchange.hopFields, undefined);
});

t.test('a request ID that the rule sets replaces ours', async (t) => {
  const given = hooksOf(headers, await plansOf('RequestHeaderModifier', [set(['X-Request-Id', 'own'])]));
  t.equal((await serve(given)).exchange.requestIdGiven, true);
  const other = hooksOf(headers, await plansOf('RequestHeaderModifier', [set(['x-a', 'own'])]));
  t.equal((await serve(other)).exchange.requestIdGiven, false);
});

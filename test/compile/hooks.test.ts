// The compiler of hooks with capabilities that are made up: where plans are found, in which order hooks stand, what is
// kept, and what becomes of a capability that fails.

import t from 'tap';
import { type Applied, displacedBy, type PlanKind, servedKinds, sticks } from '../../sidecar/compile/hooks.ts';
import { capabilities } from '../../sidecar/edge/capabilities.ts';
import type { AnyCapability, Hooks } from '../../sidecar/edge/capability.ts';
import { headerOf } from '../../sidecar/exchange/facts.ts';
import { appliedTo, compilerOf, fieldFor, madeUp, noGuard, policyWith, type World } from '../fixtures/capability.ts';
import { createExchange } from '../fixtures/exchange.ts';

const plan = { says: 'something' };

/** What was compiled for one rule, and what failed. */
function compile(table: readonly AnyCapability[], applied: Applied = appliedTo(), world: World = {}) {
  const failed: { code: unknown; message: string; of: PlanKind }[] = [];
  const hooks = compilerOf(table, world).compile(applied, (error, of) => {
    const { code, message } = error as { readonly code?: string; readonly message: string };
    failed.push({ code, message, of });
  });
  return { hooks, failed, names: hooks.map(([name]) => name) };
}

const places: [kind: PlanKind, applied: Applied, world: World, of: string][] = [
  ['SecurityPolicy', appliedTo({ security: policyWith({ made: plan }) }), {}, 'shop/p'],
  ['BackendTrafficPolicy', appliedTo({ traffic: { namespace: 'shop', name: 'b', made: plan } }), {}, 'shop/b'],
  ['rule', appliedTo({ rule: { made: plan } }), {}, 'httproute/shop/r/rule/0'],
  ['filter', appliedTo({ filters: [{ type: 'made', made: plan }] }), {}, 'httproute/shop/r/rule/0'],
  ['gateway.yaml', appliedTo(), { yaml: { made: plan } }, 'httproute/shop/r/rule/0'],
];

for (const [kind, applied, world, of] of places)
  t.test(`a field of ${kind} is found there only`, async (t) => {
    const { capability, compiled } = madeUp('made', [fieldFor(kind, 'made')]);
    t.strictSame(compile([capability], applied, world).names, ['made']);
    t.match(compiled[0]!.plans, [{ field: 'made', plan, of }]);
    for (const [other, elsewhere, otherWorld] of places) {
      if (other === kind) continue;
      t.strictSame(compile([capability], elsewhere, otherWorld).names, [], `not found in ${other}`);
    }
  });

t.test('an absent or false field is not a plan', async (t) => {
  const { capability, compiled } = madeUp('made', [fieldFor('rule', 'made'), fieldFor('rule', 'constructor')]);
  for (const rule of [{}, { made: undefined }, { made: false }]) compile([capability], appliedTo({ rule }));
  t.strictSame(compiled, []);
});

t.test('every field of the table has a kind whose plans are found', async (t) => {
  const fields = capabilities.flatMap(({ name, fields: own }) => own.map(({ kind }) => ({ name, kind })));
  // Those of our own kinds and of sidecar.yaml have tests of their own: documents/sallyport,
  // process/sidecar-capabilities.
  const isServed = (kind: string): boolean =>
    (servedKinds as readonly string[]).includes(kind) || kind === 'sidecar.yaml' || kind.startsWith('sallyport.dev/');
  const unread = fields.filter(({ kind }) => !isServed(kind));
  t.strictSame(
    unread.map(({ name, kind }) => `${name}: ${kind}`),
    [],
  );
  t.strictSame(places.map(([kind]) => kind).toSorted(), servedKinds.toSorted(), 'and each of these is tried here');
});

t.test('several plans follow the order of the fields, and of the filters', async (t) => {
  const { capability, compiled } = madeUp('made', [
    fieldFor('filter', 'B'),
    fieldFor('filter', 'A'),
    fieldFor('rule', 'made'),
  ]);
  const filters = [
    { type: 'A', a: 1 },
    { type: 'B', b: 2 },
    { type: 'Other', a: 3 },
    { type: 'A', a: 4 },
  ];
  compile([capability], appliedTo({ filters, rule: { made: 5 } }));
  t.strictSame(
    compiled[0]!.plans.map(({ field, plan: of }) => [field, of]),
    [
      ['B', 2],
      ['A', 1],
      ['A', 4],
      ['made', 5],
    ],
  );
});

t.test('hooks follow the order of the table, and a capability without hooks is left out', async (t) => {
  const of = (name: string, hooks?: () => Hooks | undefined) =>
    madeUp(name, [fieldFor('rule', name)], {}, hooks).capability;
  const [a, b, c] = [of('a'), of('b', () => undefined), of('c')];
  const applied = appliedTo({ rule: { a: 1, b: 1, c: 1 } });
  t.strictSame(compile([c, b, a], applied).names, ['c', 'a']);
  t.strictSame(compile([a, b, c], applied).names, ['a', 'c']);
});

t.test('a capability that throws has no hooks, is reported with its document, and affects no other', async (t) => {
  const throwing = (): never => {
    throw new Error('this cannot be');
  };
  const other = madeUp('other', [fieldFor('rule', 'other')]).capability;
  for (const [kind, applied, world] of places) {
    const bad = madeUp('bad', [fieldFor(kind, 'made')], {}, throwing).capability;
    const { names, failed } = compile(
      [bad, other],
      { ...applied, rule: { ...applied.rule, other: 1 } as never },
      world,
    );
    t.strictSame(names, ['other'], kind);
    t.match(failed, [{ message: 'this cannot be', of: kind }]);
  }
  const always = madeUp('bad', [], { always: true }, throwing).capability;
  t.match(compile([always, other]).failed, [{ of: 'filter' }]);
});

t.test('a part of a policy that no capability reads fails', async (t) => {
  const { capability } = madeUp('made', [fieldFor('SecurityPolicy', 'made')]);
  const { failed, names } = compile([capability], appliedTo({ security: policyWith({ made: plan, forgotten: {} }) }));
  t.match(failed, [{ code: 'config_invalid', message: /'forgotten'/, of: 'SecurityPolicy' }]);
  t.strictSame(names, ['made']);
});

t.test('hooks that always run', async (t) => {
  const { capability, compiled } = madeUp('made', [fieldFor('rule', 'made')], { always: true });
  const [[, without] = []] = compile([capability]).hooks;
  t.strictSame([compiled[0]!.plans, without!.guard], [[], undefined], 'without a plan it guards nothing');
  const [[, withPlan] = []] = compile([capability], appliedTo({ rule: { made: plan } })).hooks;
  t.equal(withPlan!.guard, noGuard);
  const { capability: usual, compiled: never } = madeUp('made', [fieldFor('rule', 'made')]);
  t.strictSame([compile([usual]).names, never], [[], []], 'other hooks are not compiled without a plan');
});

const secretOf = (name: string, value: string) => ({ namespace: 'shop', name, data: { key: value } });

t.test('the hooks of a policy are kept until their inputs change', async (t) => {
  const security = policyWith({ made: { secret: 'used' } });
  const world: World = {
    secrets: [secretOf('used', '1'), secretOf('other', '1')],
    files: { pages: { a: '1' }, text: '1' },
  };
  const rows: [name: string, security: object, world: World, isKept: boolean][] = [
    ['the same', security, world, true],
    ['an equal policy of the next generation', structuredClone(security), world, true],
    ['another part of the policy', policyWith({ made: { secret: 'used' }, cors: {} }), world, false],
    ['a Secret that the policy names', security, { ...world, secrets: [secretOf('used', '2')] }, false],
    [
      'a Secret of that name in another namespace',
      security,
      { ...world, secrets: [...world.secrets!, { ...secretOf('used', '2'), namespace: 'x' }] },
      true,
    ],
    [
      'a Secret that the policy does not name',
      security,
      { ...world, secrets: [secretOf('used', '1'), secretOf('other', '2')] },
      true,
    ],
    ['a file that the capability reads', security, { ...world, files: { pages: { a: '2' }, text: '1' } }, false],
    ['a file that the capability does not read', security, { ...world, files: { pages: { a: '1' }, text: '2' } }, true],
  ];
  for (const [name, changed, nextWorld, isKept] of rows)
    await t.test(name, async (t) => {
      const more = { perPolicy: true, files: ['pages'] } as const;
      const cors = madeUp('cors', [fieldFor('SecurityPolicy', 'cors')]).capability;
      const { capability, compiled } = madeUp('made', [fieldFor('SecurityPolicy', 'made')], more);
      const kept = new Map();
      const one = compile([capability, cors], appliedTo({ security }), { ...world, kept });
      const other = compile([capability, cors], appliedTo({ security: changed }), { ...nextWorld, kept });
      t.equal(compiled.length, isKept ? 1 : 2);
      t.equal(one.hooks[0]![1] === other.hooks[0]![1], isKept);
      t.equal(one.hooks[0]![2] === other.hooks[0]![2], isKept, 'a guard names its policy');
    });
});

t.test('kept hooks belong to no rule: their site names the policy alone', async (t) => {
  const fields = [fieldFor('SecurityPolicy', 'made'), fieldFor('filter', 'made')];
  const { capability, compiled } = madeUp('made', fields, { perPolicy: true });
  const at = { path: '/a', prefix: '/a', rule: { x: 1 } };
  compile([capability], appliedTo({ ...at, security: policyWith({ made: plan }) }));
  t.match(compiled[0]!.site, { name: 'SecurityPolicy shop/p', policy: 'shop/p', path: '/', prefix: '/' });
  t.strictSame(compiled[0]!.site.beside('x'), []);
  compile([capability], appliedTo({ ...at, filters: [{ type: 'made', made: plan }] }));
  t.match(
    compiled[1]!.site,
    { name: 'httproute/shop/r/rule/0', policy: '', path: '/a' },
    'the hook of a filter belongs to the rule',
  );
});

t.test('other hooks are compiled for each rule', async (t) => {
  const { capability, compiled } = madeUp('made', [fieldFor('SecurityPolicy', 'made')]);
  const security = policyWith({ made: plan });
  const compiler = compilerOf([capability]);
  for (const path of ['/a', '/b'])
    compiler.compile(appliedTo({ security, path, prefix: path }), () => t.fail('nothing fails'));
  t.match(
    compiled.map(({ site }) => site),
    [{ path: '/a', name: /rule/ }, { path: '/b' }],
  );
});

t.test('the fields of a site', async (t) => {
  const { capability, compiled } = madeUp('made', [fieldFor('SecurityPolicy', 'made')]);
  const neighbour = madeUp('b', [fieldFor('filter', 'B')]).capability;
  const warnings: string[] = [];
  const world: World = {
    secrets: [secretOf('s', '1'), { namespace: 'far', name: 's', data: { key: '2' } }],
    files: { pages: { 'a.html': 'a' }, keys: 'text' },
    yaml: { beside: 'yaml' },
    shared: { made: 'of the process' },
    warnings,
  };
  const security = policyWith({ made: plan, beside: 'policy', namespaces: { inherited: 'far' } });
  const traffic = { namespace: 'shop', name: 'b', beside: 'traffic' };
  const filters = [
    { type: 'B', b: 'one' },
    { type: 'B', b: 'two' },
  ];
  const route = (backend: object) => ({ to: backend });
  const { failed } = compile(
    [capability, neighbour],
    appliedTo({ security, traffic, filters, rule: { beside: 'rule' }, route }),
    world,
  );
  t.match(failed, [{ message: /'beside'/ }]);
  const { site } = compiled[0]!;
  t.equal(site.shared, 'of the process');
  t.strictSame(site.beside('B'), ['one', 'two']);
  t.strictSame(site.beside('beside'), ['rule', 'policy', 'traffic', 'yaml']);
  t.strictSame(site.beside('none'), []);
  t.strictSame([site.secret('s', 'made'), site.secret('s', 'inherited')], [{ key: '1' }, { key: '2' }]);
  t.throws(() => site.secret('none', 'made'), { code: 'config_invalid', message: /'none' in namespace 'shop'/ });
  const backend = { group: '', kind: 'Service', name: 'a' };
  t.match(site.destination(backend, 'made'), { destination: 'p made a', authority: 'a.shop:80' });
  t.equal(site.destination({ ...backend, port: 8080 }, 'inherited').authority, 'a.far:8080');
  t.equal(site.destination({ ...backend, namespace: 'other' }, 'made').authority, 'a.other:80');
  t.match(site.route(backend), { to: backend });
  t.strictSame(
    [site.files('pages'), site.files('keys'), site.files('none')],
    [{ 'a.html': 'a' }, { keys: 'text' }, undefined],
  );
  site.warn('look');
  t.strictSame(warnings, ['SecurityPolicy shop/p: look']);
});

t.test('headers that only the gateway may set under a policy are removed before any capability runs', async (t) => {
  const more = { guards: 'callers', ownHeaders: () => ['X-User'] } as const;
  const { capability } = madeUp('made', [fieldFor('SecurityPolicy', 'made')], more);
  const { hooks, names } = compile([capability], appliedTo({ security: policyWith({ made: plan }) }));
  t.strictSame(names, ['own-headers', 'made']);
  const { exchange, connection } = createExchange({}, { x_user: 'forged', 'x-a': '1' });
  hooks[0]![1].authenticate!(exchange, connection);
  t.strictSame([headerOf(exchange, 'x-user'), headerOf(exchange, 'x-a')], [undefined, '1']);
});

t.test('hooks for requests that match no rule', async (t) => {
  const named = madeUp('named', [fieldFor('gateway.yaml', 'made')]);
  const always = madeUp('always', [fieldFor('rule', 'made')], { always: true });
  const other = madeUp('other', [fieldFor('rule', 'made'), fieldFor('SecurityPolicy', 'made')]);
  const table = [named.capability, always.capability, other.capability];
  t.strictSame(
    compilerOf(table, { yaml: { made: plan } })
      .forPort()
      .map(([name]) => name),
    ['named', 'always'],
  );
  const bad = madeUp('bad', [], { always: true }, () => {
    throw new Error('this cannot be');
  });
  t.throws(() => compilerOf([bad.capability]).forPort(), { message: 'this cannot be' });
});

t.test('a filter replaces a field of the policy, unless both apply', async (t) => {
  const fields = [fieldFor('filter', 'Made'), fieldFor('SecurityPolicy', 'made')];
  const [one, both] = [madeUp('made', fields).capability, madeUp('made', fields, { combines: true }).capability];
  const filters = [{ type: 'Made', made: 1 }] as never;
  const rows: [string, ...Parameters<typeof displacedBy>, number][] = [
    ['both are configured', filters, { made: plan }, [one], 1],
    ['both apply', filters, { made: plan }, [both], 0],
    ['no filter', [], { made: plan }, [one], 0],
    ['a filter of another type', [{ type: 'Other' }] as never, { made: plan }, [one], 0],
    ['the policy has no such field', filters, {}, [one], 0],
    ['no policy', filters, undefined, [one], 0],
  ];
  for (const [name, of, security, table, count] of rows) t.equal(displacedBy(of, security, table).length, count, name);
  t.strictSame(displacedBy(filters, { made: plan }, [one]), [{ type: 'Made', field: 'made' }]);
});

t.test('rules that keep a client on one endpoint', async (t) => {
  const fields = [fieldFor('rule', 'made')];
  const [sticky, plain] = [madeUp('a', fields, { sticks: true }).capability, madeUp('b', fields).capability];
  t.equal(sticks({ made: plan } as never, [plain, sticky]), true);
  t.equal(sticks({ made: plan } as never, [plain]), false);
  t.equal(sticks({ other: plan } as never, [sticky]), false);
});

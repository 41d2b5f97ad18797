// Hooks laid out by phase: the order in which they run, and what a rule that cannot be served runs.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Hooks } from '../../sidecar/edge/capability.ts';
import { layOut, type NamedHooks } from '../../sidecar/edge/phases.ts';
import type { Authorizer } from '../../sidecar/exchange/authorizer.ts';
import type { Phases } from '../../sidecar/exchange/exchange.ts';
import { createExchange, outcomeOf } from '../fixtures/exchange.ts';

const ran: string[] = [];

/** Hooks of a capability with this name, which record that they ran. */
function stepsOf(name: string): Hooks {
  const step = (phase: string) => (): undefined => void ran.push(`${phase} ${name}`);
  return {
    // Not in the order of the phases: a capability may list them in any order.
    ...{ limit: step('limit'), authenticated: step('authenticated') },
    ...{ admit: step('admit'), authenticate: step('authenticate') },
    authorizer: { name } as unknown as Authorizer,
  };
}

async function run({ before }: Phases): Promise<{ readonly ran: readonly string[]; readonly outcome: string }> {
  ran.length = 0;
  const { exchange, connection } = createExchange();
  const outcome = await outcomeOf(async () => {
    for (const step of before) await step(exchange, connection);
  });
  return { ran: [...ran], outcome };
}

const ask = (): undefined => void ran.push('ask');
const both: NamedHooks = [
  ['a', stepsOf('a')],
  ['b', stepsOf('b')],
];

t.test('phases run in order, and within each the order of the table', async (t) => {
  t.strictSame(await run(layOut(both, ask)), {
    ran: [
      ...['admit a', 'admit b', 'authenticate a', 'authenticate b', 'authenticated a', 'authenticated b'],
      ...['ask', 'limit a', 'limit b'],
    ],
    outcome: 'passed',
  });
});

t.test('a rule that cannot be served runs its admit steps, then refuses', async (t) => {
  const broken = new SallyportError('rule_broken', 'its Secret is gone');
  t.strictSame(await run(layOut(both, ask, broken)), { ran: ['admit a', 'admit b'], outcome: 'rule_broken' });
});

t.test('all authorizers are asked in one step, which exists only if there is one', async (t) => {
  const { authorizers } = layOut(both, ask);
  t.strictSame(
    authorizers.map(({ name }) => name),
    ['a', 'b'],
  );
  const { authorizer: _, ...without } = stepsOf('a');
  const { ran: steps } = await run(layOut([['a', without]], ask));
  t.notOk(steps.includes('ask'));
});

t.test('the other phases are lists in the order of the table', async (t) => {
  const hooksOf = (name: string) => {
    const named = Object.assign(() => undefined as never, { of: name });
    return {
      authorize: named,
      serve: named,
      rewrite: named,
      forwarded: named,
      received: named,
      reply: named,
      denial: named,
      finished: named,
    };
  };
  const phases = layOut(
    [
      ['a', hooksOf('a')],
      ['b', {}],
      ['c', hooksOf('c')],
    ],
    ask,
  );
  for (const phase of [
    'authorize',
    'serve',
    'rewrite',
    'forwarded',
    'received',
    'reply',
    'denial',
    'finished',
  ] as const)
    t.strictSame(
      phases[phase].map((one) => (one as unknown as { of: string }).of),
      ['a', 'c'],
      phase,
    );
});

t.test('only one capability may change the body: two would conflict', async (t) => {
  const body = (): void => {};
  t.equal(
    layOut(
      [
        ['a', {}],
        ['b', { body }],
      ],
      ask,
    ).body,
    body,
  );
  t.equal(layOut([['a', {}]], ask).body, undefined);
  t.throws(
    () =>
      layOut(
        [
          ['a', { body }],
          ['b', { body }],
        ],
        ask,
      ),
    { code: 'config_invalid' },
  );
});

t.test('guards name their capability and their policy', async (t) => {
  const guard = { known: 'callers', stillHolds: () => true };
  const { guards } = layOut(
    [
      ['a', { guard }, 'digest'],
      ['b', {}, 'digest'],
      ['c', { guard }],
    ],
    ask,
  );
  t.strictSame(guards, [
    { name: 'a', of: 'digest', ...guard },
    { name: 'c', of: '', ...guard },
  ]);
});

t.test('without hooks there is nothing to run, and the phases are frozen', async (t) => {
  const phases = layOut([], ask);
  const { body, ...lists } = phases;
  t.equal(body, undefined);
  for (const [name, list] of Object.entries(lists)) t.strictSame(list, [], name);
  t.equal(Object.isFrozen(phases), true);
});

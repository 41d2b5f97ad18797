// Defence in depth, layer by layer: starts everything, opens every layer, and shows for each what it alone refuses.
// Then puts all layers in force, and revokes the gateway. Exits with 0 only if every step did what it should.
//
//   npx node tour.ts

import { join } from 'node:path';
import { idOf } from '../two-services/demo/ask.ts';
import { say, sayOutcome } from '../two-services/demo/print.ts';
import type { Finding, Step } from '../two-services/demo/step.ts';
import { endWorld, type World } from '../two-services/demo/world.ts';
import { askAsAssistant, askAsUser, countAsked, wordsOf } from './tour/callers.ts';
import { everyLayer, only, putInForce } from './tour/layers.ts';
import { makeUsers, type Try, triesOf, type Users } from './tour/tries.ts';
import { type Guard, logOf, makeWorld, startWorld, whyOf } from './tour/world.ts';

const world = await makeWorld();
for (const [signal, code] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }))
  process.once(signal, () => void endWorld(world).finally(() => process.exit(code)));
const failed = await makeTour().catch((error: Error) => {
  if (!world.processes.ended) say(`FAILED  ${error.message}`);
  return 1;
});
if (!world.processes.ended) {
  process.exitCode = failed === 0 ? 0 : 1;
  await endWorld(world, { keepFiles: failed !== 0 });
  if (failed !== 0) say(`The logs of all processes are kept: ${world.directory}/run/*.log`);
}

async function makeTour(): Promise<number> {
  const start = performance.now();
  const seconds = (): string => `${((performance.now() - start) / 1000).toFixed(1)} s`;
  await startWorld(world);
  say(`        gateway, two sidecars, two services and a CA are ready after ${seconds()}\n`);
  const steps = stepsOf(world, await makeUsers(world));
  let failed = 0;
  for (const { name, expected, run } of steps) {
    const [got, ok] = await run().catch((error: Error) => [error.message, false] as const);
    if (world.processes.ended) return failed;
    sayOutcome({ name, expected, got, ok });
    if (!ok) failed++;
  }
  say(failed === 0 ? `\nEvery layer held, ${seconds()} in all.` : `\n${failed} of ${steps.length} steps FAILED`);
  return failed;
}

function stepsOf(world: World, users: Users): readonly Step[] {
  const tries = triesOf(world, users);
  return [
    { name: 'every layer open: all of these pass', expected: `${tries.length} of ${tries.length}`, run: open },
    ...tries.map((one) => ({ name: one.name, expected: one.refused, run: () => alone(one, users) })),
    { name: 'every layer in force: a clerk, reading', expected: '200', run: together },
    {
      name: 'a page that is the same for all, asked for twice',
      expected: 'web is asked once',
      run: () => stored(world, users),
    },
    {
      name: "a clerk's assistant lists orders, and would delete one",
      expected: 'the list, one tool, and access denied',
      run: () => assisted(world, users),
    },
    { name: 'the gateway is revoked', expected: '503, and web logs svid_denied', run: () => revoked(world, users) },
  ];

  /** Proves that nothing else refuses what the layers below refuse. */
  async function open(): Promise<Finding> {
    await putInForce(world, only());
    const refused: string[] = [];
    // One after the other: the thief finds only tokens that were logged before.
    for (const one of tries) {
      const got = await one.ask();
      if (got !== one.open) refused.push(`${one.name}: ${got}`);
    }
    return [`${tries.length - refused.length} of ${tries.length} ${refused.join(', ')}`.trim(), refused.length === 0];
  }

  async function together(): Promise<Finding> {
    await putInForce(world, everyLayer);
    const got = await wordsOf(askAsUser(world, { token: users.clerk }));
    return [got, got === '200'];
  }
}

/** The gateway serves the second request from its cache. */
async function stored(world: World, { clerk }: Users): Promise<Finding> {
  const ask = () => askAsUser(world, { token: clerk, path: '/help' });
  const [first, second] = [await ask(), await ask()];
  const asked = countAsked(world, '/help');
  const said = /; hit\b/.test(String(second.headers['cache-status'])) ? 'a hit' : 'no hit';
  return [`${first.status}, then ${said}; web was asked ${asked} times`, asked === 1 && said === 'a hit'];
}

/** An assistant has fewer tools than its user has rights. */
async function assisted(world: World, { clerk }: Users): Promise<Finding> {
  const before = logOf(world, 'gateway').length;
  const shown = await askAsAssistant(world, clerk);
  const listed = await askAsAssistant(world, clerk, 'list_orders');
  const deleted = await askAsAssistant(world, clerk, 'delete_order');
  const { code, policy } = await recordOf('gateway', before, 'policy_denied');
  const got = `${shown}; ${listed === '' ? 'no orders' : 'the orders'}; ${deleted}; gateway: ${code}`;
  const ok = shown === 'list_orders' && listed !== '' && deleted === 'access denied';
  return [got, ok && policy === 'mcpauthorization/shop/assistants/default'];
}

/** One layer alone: what it refuses, which log records it, and that it refuses nothing else. */
async function alone(one: Try, users: Users): Promise<Finding> {
  const { layer, source, guard, code, policy, ask, refused } = one;
  await putInForce(world, only(layer, source));
  const before = logOf(world, guard).length;
  const got = await ask();
  const record = await recordOf(guard, before, code);
  const explained = policy === undefined || (await isExplained(guard, record.decision_id));
  const others = source === undefined ? await wordsOf(askAsUser(world, { token: users.clerk })) : '200';
  const ok = got.startsWith(refused) && (policy ?? record.policy) === record.policy && explained && others === '200';
  return [`${got}; ${guard}: ${code}${others === '200' ? '' : `; a clerk: ${others}`}`, ok];
}

interface LogLine {
  readonly code?: string;
  readonly policy?: string;
  readonly decision_id?: string;
}

/** The line with `code` in the log of `guard`; a failed handshake has one too. */
async function recordOf(guard: Guard, from: number, code: string): Promise<LogLine> {
  return world.processes.until(
    () =>
      logOf(world, guard)
        .slice(from)
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as LogLine)
        .find((record) => record.code === code),
    `${code} in the log of ${guard}`,
  );
}

/** Whether `sallyport why` has an explanation: a refusal by a policy of the mesh has one. */
async function isExplained(guard: Guard, id = ''): Promise<boolean> {
  const { code, explanation } = await whyOf(world, guard, id);
  return code === 'policy_denied' && explanation !== null;
}

/** With every layer open again, so that only its identity lets the gateway reach `web`. */
async function revoked(world: World, { clerk }: Users): Promise<Finding> {
  await putInForce(world, only());
  const before = logOf(world, 'web-sidecar').length;
  const ask = (): Promise<string> => wordsOf(askAsUser(world, { token: clerk }));
  const first = await ask();
  const ca = join('run', 'ca');
  await world.processes.run(
    'ca',
    'revoke',
    idOf('gateway'),
    '--dir',
    ca,
    '--wait',
    '25s',
    '--reason',
    'part of the tour',
  );
  // A request in flight at that moment is refused (403); later ones get no connection (503).
  const isCut = async (): Promise<string | false> => {
    const got = await ask();
    return got.startsWith('503') && got;
  };
  const last = await world.processes.until(isCut, 'the gateway to be cut off');
  await recordOf('web-sidecar', before, 'svid_denied');
  return [`${first}, then ${last.slice(0, 3)}; web-sidecar: svid_denied`, first === '200'];
}

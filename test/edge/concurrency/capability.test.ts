// Limits on requests in flight as hooks: who is counted with whom, in one process and over several, and that each
// leaves once.

import { Registry } from 'prom-client';
import t from 'tap';
import type { EdgeProcess, EdgeWorkers, FirstWorker } from '../../../sidecar/edge/capability.ts';
import { type ConcurrencyLimits, concurrency } from '../../../sidecar/edge/concurrency/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { parseIp } from '../../../sidecar/policy/ip.ts';
import { createExchange, hooksOf, outcomeOf, phasesOf, planOf } from '../../fixtures/exchange.ts';

type Served = Parameters<EdgeWorkers['serve']>[0];

/** What a process shares, and the part that answers other workers. */
async function startFirst(): Promise<{ shared: ConcurrencyLimits; served: Served }> {
  let served: Served | undefined;
  const workers: EdgeWorkers = { count: 2, serve: (part) => (served = part), tellAll() {}, first: undefined };
  const shared = (await concurrency.share!({ workers, registry: new Registry() } as EdgeProcess)) as ConcurrencyLimits;
  return { shared, served: served! };
}

const hooks = async (written: object, shared: unknown, name = 'httproute/shop/r/rule/0') =>
  phasesOf(hooksOf(concurrency, { concurrency: await planOf(concurrency, 'concurrency', written) }, { shared, name }));

type Phases = Awaited<ReturnType<typeof hooks>>;

/** One request enters; what becomes of it, and its end. */
async function enter({ before, finished }: Phases, known: Partial<Exchange> = {}) {
  const { exchange, connection } = createExchange({ clientIp: parseIp('192.0.2.1'), ...known });
  const outcome = await outcomeOf(() => before[0]!(exchange, connection));
  const leave = (): void => {
    exchange.finished = true;
    for (const one of finished) one(exchange);
  };
  return { outcome, leave, exchange };
}

const ip = (text: string): Partial<Exchange> => ({ clientIp: parseIp(text) });
const perClient = { maxInFlight: 1, per: 'Client' };

const pairs: [name: string, plan: object, first: Partial<Exchange>, second: Partial<Exchange>, outcome: string][] = [
  ['of a route: two clients', { maxInFlight: 1 }, ip('192.0.2.1'), ip('192.0.2.2'), 'concurrency_limited'],
  ['of a route with room', { maxInFlight: 2 }, {}, {}, 'passed'],
  ['of each client: one address', perClient, {}, {}, 'concurrency_limited'],
  ['of each client: two addresses', perClient, {}, ip('192.0.2.2'), 'passed'],
  ['an IPv6 client is its whole network', perClient, ip('2001:db8::1'), ip('2001:db8::2'), 'concurrency_limited'],
  ['another IPv6 network', perClient, ip('2001:db8::1'), ip('2001:db8:0:1::1'), 'passed'],
  [
    'an authenticated client from two addresses',
    perClient,
    { clientId: 'a' },
    { clientId: 'a', ...ip('192.0.2.2') },
    'concurrency_limited',
  ],
  ['two authenticated clients behind one address', perClient, { clientId: 'a' }, { clientId: 'b' }, 'passed'],
  [
    'clients without an address count as one',
    perClient,
    { clientIp: undefined },
    { clientIp: undefined },
    'concurrency_limited',
  ],
];

for (const [name, plan, first, second, outcome] of pairs)
  t.test(name, async (t) => {
    const phases = await hooks(plan, concurrency.shareDry!({ hasRedis: false } as never));
    const one = await enter(phases, first);
    t.equal(one.outcome, 'passed');
    const other = await enter(phases, second);
    t.equal(other.outcome, outcome);
    if (outcome === 'passed') return;
    t.equal(other.exchange.decision, 'deny');
    other.leave();
    t.equal((await enter(phases, second)).outcome, outcome, 'a refused request has not been counted');
    one.leave();
    t.equal((await enter(phases, second)).outcome, 'passed', 'the place is free again');
  });

t.test('a count is shared over listeners and generations, and separate for each limit', async (t) => {
  const { shared } = await startFirst();
  const plan = { maxInFlight: 1 };
  const one = await enter(await hooks(plan, shared));
  t.equal(one.outcome, 'passed');
  t.equal((await enter(await hooks(plan, shared))).outcome, 'concurrency_limited', 'compiled again');
  t.equal((await enter(await hooks(plan, shared, 'httproute/shop/r/rule/1'))).outcome, 'passed', 'another rule');
  t.equal((await enter(await hooks({ maxInFlight: 2 }, shared))).outcome, 'passed', 'another plan');
});

t.test('a request that ended while it waited is not counted, and leaves once', async (t) => {
  const { shared } = await startFirst();
  const phases = await hooks({ maxInFlight: 1 }, shared);
  const early = await enter(phases, { finished: true });
  t.equal(early.outcome, 'passed');
  early.leave();
  const one = await enter(phases);
  t.equal(one.outcome, 'passed');
  t.equal((await enter(phases)).outcome, 'concurrency_limited');
});

/** Another worker, whose questions to the first the test answers. */
async function startOther(answer: (question: unknown) => unknown) {
  const told: unknown[] = [];
  const lates: ((answer: never) => void)[] = [];
  const first: FirstWorker = {
    ask: async (question, late) => {
      if (late !== undefined) lates.push(late as (answer: never) => void);
      return answer(question) as never;
    },
    tell: (message) => void told.push(message),
    onTold() {},
  };
  const workers: EdgeWorkers = { count: 2, serve() {}, tellAll() {}, first };
  return { shared: await concurrency.share!({ workers } as EdgeProcess), told, lates };
}

t.test('other workers ask the first worker', async (t) => {
  const { shared: own, served } = await startFirst();
  const ask = (worker: number) => (question: unknown) => served.answer(worker, question);
  const [a, b] = [await startOther(ask(1)), await startOther(ask(2))];
  const plan = { maxInFlight: 1 };
  const one = await enter(await hooks(plan, a.shared));
  t.equal(one.outcome, 'passed');
  t.equal((await enter(await hooks(plan, b.shared))).outcome, 'concurrency_limited');
  t.equal(
    (await enter(await hooks(plan, own))).outcome,
    'concurrency_limited',
    "the first worker counts the others' requests",
  );
  one.leave();
  t.match(a.told, [{ op: 'leave' }]);
  served.answer(1, a.told[0]);
  t.equal((await enter(await hooks(plan, b.shared))).outcome, 'passed');
});

t.test('a worker that ends releases its requests, and its late messages count nothing', async (t) => {
  const { shared: own, served } = await startFirst();
  const a = await startOther((question) => served.answer(1, question));
  const plan = { maxInFlight: 2 };
  const one = await enter(await hooks(plan, a.shared));
  await enter(await hooks(plan, a.shared));
  t.equal((await enter(await hooks(plan, own))).outcome, 'concurrency_limited');
  served.gone!(1);
  one.leave();
  served.answer(1, a.told[0]);
  t.equal((await enter(await hooks(plan, a.shared, 'another rule'))).outcome, 'passed', 'the worker was restarted');
  served.answer(1, a.told[0]);
  const outcomes = [
    await enter(await hooks(plan, own)),
    await enter(await hooks(plan, own)),
    await enter(await hooks(plan, own)),
  ];
  t.strictSame(
    outcomes.map(({ outcome }) => outcome),
    ['passed', 'passed', 'concurrency_limited'],
  );
});

t.test('no request is admitted if the first worker is late, and its late answer is given back', async (t) => {
  const { shared, told, lates } = await startOther(() => undefined);
  const phases = await hooks({ maxInFlight: 1 }, shared);
  t.equal((await enter(phases)).outcome, 'concurrency_limited');
  lates[0]!(false as never);
  t.strictSame(told, [], 'the first worker had no room');
  lates[0]!(true as never);
  t.match(told, [{ op: 'leave', key: '192.0.2.1' }]);
});

t.test('a request that ended while the first worker was asked leaves at once', async (t) => {
  let admit: (isIn: boolean) => void = () => {};
  const { shared, told } = await startOther(() => new Promise<boolean>((resolve) => (admit = resolve)));
  const { before, finished } = await hooks({ maxInFlight: 1 }, shared);
  const { exchange, connection } = createExchange({ clientIp: parseIp('192.0.2.1') });
  const entering = before[0]!(exchange, connection);
  exchange.finished = true;
  for (const one of finished) one(exchange);
  admit(true);
  await entering;
  t.match(told, [{ op: 'leave' }]);
  t.equal(told.length, 1);
});

t.test('without a plan there are no hooks', async (t) => {
  t.equal(hooksOf(concurrency, {}, { shared: concurrency.shareDry!({} as never) }), undefined);
});

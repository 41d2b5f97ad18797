// The cost of a limit in a worker that is not the first. The first worker owns the buckets: one process acts as the
// first, and this one queries it. `node limits-worker.ts first` is the other side.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { EdgeWorkers } from '../sidecar/edge/capability.ts';
import { countedByFirst } from '../sidecar/edge/concurrency/capability.ts';
import { CountsOfWorkers } from '../sidecar/edge/concurrency/first.ts';
import { LimitTable } from '../sidecar/edge/concurrency/limit.ts';
import { leasesFrom, serveLeases } from '../sidecar/edge/rate-limit/first.ts';
import type { LimitFacts } from '../sidecar/edge/rate-limit/key.ts';
import { compileLeasedLimits } from '../sidecar/edge/rate-limit/leased.ts';
import { LocalLimits } from '../sidecar/edge/rate-limit/local.ts';
import type { LimitRule } from '../sidecar/edge/rate-limit/schema.ts';
import { FirstState } from '../sidecar/process/shared-state.ts';
import { type StateAnswers, type StateAsks, WorkerLink } from '../sidecar/process/worker-link.ts';

const self = fileURLToPath(import.meta.url);

if (process.argv[1] === self && process.argv[2] === 'first') answerAsTheFirst();

function answerAsTheFirst(): void {
  const state = new FirstState();
  const workers = (name: string): EdgeWorkers => ({
    ...{ count: 2, first: undefined, tellAll() {} },
    serve: (part) => state.serve(name, part),
  });
  serveLeases(workers('rate-limit'), new LocalLimits());
  workers('concurrency').serve(new CountsOfWorkers(new LimitTable()));
  process.on('message', ({ asks }: StateAsks) => {
    const answers = asks.map(([id, ask]) => [id, state.answer(2, ask)] as const).filter(([id]) => id !== 0);
    if (answers.length > 0) process.send?.({ what: 'answers', answers } satisfies StateAnswers);
  });
  process.once('disconnect', () => process.exit());
}

/** Microseconds per request, by case. */
export async function workerCosts(
  rules: readonly LimitRule[],
  one: LimitFacts,
  many: readonly LimitFacts[],
): Promise<readonly (readonly [string, number])[]> {
  const first = fork(self, ['first']);
  const link = new WorkerLink((asks) => void (first.connected && first.send(asks, () => {})));
  first.on('message', (answers: StateAnswers) => link.heard(answers));
  const limits = compileLeasedLimits({ rules }, leasesFrom(link.of('rate-limit')), { local: new LocalLimits() });
  const inFlight = countedByFirst(link.of('concurrency'), 'perf', { maxInFlight: 1_000_000, per: 'route' });
  const check = async (facts: LimitFacts): Promise<void> => {
    if (!(await limits.check(facts)).allowed) throw new Error('unexpected refusal');
  };
  const enter = async (): Promise<void> => {
    if (!(await inFlight.enter(''))) throw new Error('unexpected refusal');
    inFlight.leave('');
  };
  await check(one);
  const rows: (readonly [string, number])[] = [];
  for (const [name, atOnce, total, ask] of [
    ['local, 1 rule, 1 key, in another worker, 64 at once', 64, 200_000, () => check(one)],
    ['local, 1 rule, 1,000 keys, in another worker, 64 at once', 64, 100_000, (i) => check(many[i % 1000]!)],
    ['local, 1 rule, a new key each time, in another worker, 1 at once', 1, 10_000, (i) => check(many[i]!)],
    ['local, 1 rule, a new key each time, in another worker, 64 at once', 64, 50_000, (i) => check(many[i + 10_000]!)],
    ['in flight, in another worker, 1 at once', 1, 10_000, enter],
    ['in flight, in another worker, 64 at once', 64, 50_000, enter],
  ] as readonly (readonly [string, number, number, (i: number) => Promise<void>])[]) {
    let left = total;
    const connection = async (): Promise<void> => {
      while (left-- > 0) await ask(left);
    };
    const started = performance.now();
    await Promise.all(Array.from({ length: atOnce }, connection));
    rows.push([name, ((performance.now() - started) * 1000) / total]);
  }
  first.disconnect();
  return rows;
}

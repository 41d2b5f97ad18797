// Processes that share a limit enforce it together. When Redis is killed, each goes on at once with its own count, and
// when it is back they share again.

import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Child, type Owner, startProcess, until } from '../fixtures/process.ts';
import { noRedis, startRedis } from '../fixtures/redis.ts';

const script = fileURLToPath(new URL('../fixtures/limiter-process.ts', import.meta.url));

interface Answer {
  readonly passed: number;
  readonly ready: boolean;
  readonly fallback: number;
}

/** Three gateways, and a function that sends requests to all of them at once. */
async function startGateways(t: Owner, url: string, limit: number): Promise<(requests: number) => Promise<Answer[]>> {
  const start = (): Child => startProcess(t, process.execPath, [script, url, String(limit)]);
  const gateways = [start(), start(), start()];
  await Promise.all(gateways.map((one) => one.waitFor(/^started true/)));
  let turn = 0;
  return function askAll(requests) {
    const answer = new RegExp(`^${++turn}: (.*)$`, 'm');
    return Promise.all(
      gateways.map(async (one) => {
        one.process.stdin!.write(`${requests}\n`);
        return JSON.parse((await one.waitFor(answer))[1]!) as Answer;
      }),
    );
  };
}

const sum = (answers: readonly Answer[]): number => answers.reduce((total, { passed }) => total + passed, 0);

t.test('gateways together enforce the limit', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const askAll = await startGateways(t, redis.url, 500);
  const answers = await askAll(400);
  t.equal(sum(answers), 500);
  t.ok(
    answers.every(({ fallback }) => fallback === 0),
    'Redis decided all of it',
  );
  t.equal(sum(await askAll(50)), 0);
});

t.test('Redis is killed and returns', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const askAll = await startGateways(t, redis.url, 1000);
  t.equal(sum(await askAll(100)), 300);
  await redis.kill();
  const alone = await askAll(200);
  t.strictSame(
    alone.map(({ passed, ready }) => ({ passed, ready })),
    Array(3).fill({ passed: 200, ready: false }),
    'no request fails, and no limit is exceeded that was not used up',
  );
  t.ok(alone.every(({ fallback }) => fallback >= 190));

  await redis.again();
  const found = await until(async () => {
    const answers = await askAll(0);
    return answers.every(({ ready }) => ready) && answers;
  }, 'Redis to be found again');
  const after = await askAll(1000);
  // A killed Redis has forgotten everything. The gateways have not: each knows of 100 to 300 and of its own 200 since.
  t.ok(
    sum(after) <= 1000 && after.every(({ passed }) => passed <= 700),
    `${after.map(({ passed }) => passed)} of 1000`,
  );
  t.strictSame(
    after.map(({ fallback }) => fallback),
    found.map(({ fallback }) => fallback),
    'Redis decided all of it',
  );
  t.equal(sum(await askAll(100)), 0, 'a used-up limit is used up for all gateways');
});

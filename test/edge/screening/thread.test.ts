// The thread that screens large bodies may end or get stuck: no body is lost, and none waits for ever.

import t, { type Test } from 'tap';
import { screening } from '../../../sidecar/edge/screening/capability.ts';
import type { Rules } from '../../../sidecar/edge/screening/screen.ts';
import { ScreeningThread } from '../../../sidecar/edge/screening/thread.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const failing = new URL('../../fixtures/screen-worker-that-fails.ts', import.meta.url);
const rules = { timeLimitMs: 100 } as Rules;

function threadFor(t: Test, stallMs?: number): (body: string) => Promise<string> {
  const thread = new ScreeningThread(failing, stallMs);
  t.teardown(() => thread.close());
  return (body) =>
    thread.screen(Buffer.from(body), undefined, '/', rules).then(
      () => 'screened',
      (error: { readonly code: string }) => error.code,
    );
}

t.test('a thread that ends loses one body', async (t) => {
  const screen = threadFor(t);
  for (const fault of ['die', 'throw'])
    t.strictSame(await Promise.all(['a', fault, 'b', fault, 'c'].map(screen)), [
      ...['screened', 'overloaded', 'screened', 'overloaded', 'screened'],
    ]);
  t.equal(await screen('d'), 'screened', 'a new thread has taken its place');
});

t.test('a thread that hangs is replaced', async (t) => {
  const screen = threadFor(t, 1000);
  t.strictSame(await Promise.all(['a', 'hang', 'b'].map(screen)), ['screened', 'overloaded', 'screened']);
});

t.test('a full queue refuses', async (t) => {
  const screen = threadFor(t);
  const answers = await Promise.all(Array.from({ length: 40 }, () => screen('a')));
  t.equal(answers.filter((one) => one === 'screened').length, 32);
  t.equal(answers.filter((one) => one === 'overloaded').length, 8);
});

t.test('closing releases every waiting request', async (t) => {
  const thread = new ScreeningThread(failing);
  const answers = Promise.allSettled(
    ['a', 'hang', 'b'].map((body) => thread.screen(Buffer.from(body), undefined, '/', rules)),
  );
  thread.close();
  t.ok((await answers).some(({ status }) => status === 'rejected'));
});

t.test('Block refuses a body that no thread screened, and Detect lets it pass', async (t) => {
  for (const [mode, expected] of [
    ['Block', 'overloaded'],
    ['Detect', undefined],
  ] as const) {
    const thread = new ScreeningThread(failing);
    t.teardown(() => thread.close());
    const plan = await planOf(screening, 'RequestScreening', { mode }, 'sallyport.dev/RequestScreening');
    const hooks = hooksOf(screening, { RequestScreening: plan }, { shared: { counts: undefined, thread } });
    for (let i = 0; i < 32; i++) thread.screen(Buffer.from('a'), undefined, '/', rules).catch(() => {});
    const wholeBody = Buffer.alloc(20_000, 'a');
    const known = { method: 'POST', target: '/', wholeBody, framing: wholeBody.length };
    t.equal((await serve(hooks, { known })).client.code, expected, mode);
  }
});

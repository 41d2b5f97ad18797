// Coming and going: a CA and its operator's commands start at the same time, as in a script, and none fails.

import t from 'tap';
import { makeCa } from '../fixtures/ca.ts';
import { freePort, runSallyport, startSallyport } from '../fixtures/process.ts';

t.test('commands wait for a CA that is starting', async (t) => {
  const dir = await makeCa(t);
  const create = (name: string): ReturnType<typeof runSallyport> =>
    runSallyport(t, ['ca', 'token', 'create', '--dir', dir, '--spiffe-id', `spiffe://demo.test/ns/shop/sa/${name}`]);
  const serve = ['ca', 'serve', '--dir', dir, '--listen', `127.0.0.1:${await freePort()}`];
  // Some before it and some after it, so that each order of opening the store occurs.
  const early = [create('a'), create('b')];
  const ca = startSallyport(t, serve);
  const late = [create('c'), create('d')];
  for (const { code, stdout, stderr } of await Promise.all([...early, ...late])) {
    t.equal(code, 0, stderr);
    t.match(stdout, /^[0-9a-f]{64}\n$/);
  }
  await ca.waitFor(/"code":"listening"/);
  const { stdout } = await runSallyport(t, ['ca', 'token', 'ls', '--dir', dir, '--json']);
  t.equal((JSON.parse(stdout) as unknown[]).length, 4, 'the CA knows all four');
  t.equal(await ca.stop(), 0);
});

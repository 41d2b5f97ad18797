// The form of operational messages.

import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { runSallyport, startSallyport } from '../fixtures/process.ts';

t.test('--log-format and SALLYPORT_LOG_FORMAT', async (t) => {
  const ca = await makeCa(t);
  const serve = ['ca', 'serve', '--dir', ca.directory, '--listen', '127.0.0.1:0'];
  const cases = [
    { args: ['--log-format', 'text'], env: {}, line: /^\S+Z info {2}ca: .+ \[[a-z_]+\]/m },
    { args: [], env: { SALLYPORT_LOG_FORMAT: 'text' }, line: /^\S+Z info {2}ca: .+ \[[a-z_]+\]/m },
    { args: ['--log-format', 'json'], env: { SALLYPORT_LOG_FORMAT: 'text' }, line: /^\{"level":"info",/m },
    { args: [], env: {}, line: /^\{"level":"info",/m },
    { args: [], env: { SALLYPORT_LOG_FORMAT: 'xml' }, line: /^\{"level":"info",/m },
  ];
  for (const { args, env, line } of cases) {
    const child = startSallyport(t, [...serve, ...args], { env });
    t.match((await child.waitFor(line))[0], line, `${args.join(' ')} ${JSON.stringify(env)}`);
    await child.stop();
  }
  const { code, stderr } = await runSallyport(t, [...serve, '--log-format', 'xml']);
  t.equal(code, 2);
  t.match(stderr, /Allowed choices are text, json/);
});

import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca.ts';
import { runSallyport, startSallyport } from '../fixtures/process.ts';

t.test('two CAs never serve one directory', async (t) => {
  const dir = await makeCa(t);
  const first = startSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
  await first.waitFor(/"listening"/);
  const second = await runSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']);
  t.equal(second.code, 1);
  t.match(second.stderr, `error: another process holds ${join(dir, 'store.sqlite')} [ca_running]`);
});

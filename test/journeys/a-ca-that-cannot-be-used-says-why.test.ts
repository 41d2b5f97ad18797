import { join } from 'node:path';
import t from 'tap';
import { runSallyport, tempDir } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test('a CA that cannot be used says why, and what to do', async (t) => {
  const none = join(tempDir(t), 'none');
  const [missing, nowhere, ttl] = await Promise.all([
    runSallyport(t, ['ca', 'serve', '--dir', none]),
    runSallyport(t, ['ca', 'ls']),
    runSallyport(t, ['ca', 'token', 'create', '--dir', none, '--spiffe-id', web, '--ttl', '10']),
  ]);
  t.equal(missing.code, 2);
  t.equal(
    missing.stderr,
    `error: no CA in ${none} [ca_missing]\nhint: create one: sallyport ca init --trust-domain demo.test --dir ${none}\n`,
  );
  t.match(nowhere, { code: 2, stderr: 'error: select the CA with --dir or --socket [usage]\n' });
  t.match(ttl, { code: 2, stderr: "error: --ttl '10' is not a duration [usage]\nhint: write 30s, 10m, 1h or 1h30m\n" });
});

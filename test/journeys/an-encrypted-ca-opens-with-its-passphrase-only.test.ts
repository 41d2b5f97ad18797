import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runSallyport, startSallyport, tempDir } from '../fixtures/process.ts';

t.test('an encrypted CA opens with its passphrase only, from a file or the environment', async (t) => {
  const place = tempDir(t);
  const [dir, file] = [join(place, 'ca'), join(place, 'passphrase')];
  writeFileSync(file, 'correct horse\n');
  const init = ['ca', 'init', '--trust-domain', 'demo.test', '--dir', dir, '--passphrase-file', file, '--json'];
  const made = await runSallyport(t, init);
  t.match(JSON.parse(made.stdout), { trustDomain: 'demo.test', rootFingerprint: /^[0-9a-f]{64}$/ });
  const serve = ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0'];
  const right = startSallyport(t, serve, { env: { SALLYPORT_CA_PASSPHRASE: 'correct horse' } });
  const [again, wrong] = await Promise.all([
    runSallyport(t, init),
    runSallyport(t, serve, { env: { SALLYPORT_CA_PASSPHRASE: 'wrong' } }),
    right.waitFor(/"listening"/),
  ]);
  t.match(again, { code: 2, stderr: /already contains a CA: .* \[ca_exists\]\nhint: / });
  t.match(wrong, { code: 2, stderr: /cannot be decrypted with this passphrase \[passphrase_wrong\]\nhint: / });
  t.equal(await right.stop('SIGINT'), 0);
});

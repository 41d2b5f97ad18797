// An agent loads a valid SVID from disk, whether it was stopped or killed, and renews with it. The token file may be
// gone, and the CA unreachable for a while.

import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { startSallyport, tempDir, until } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/web';

t.test('the agent restarts with a valid SVID and no token', async (t) => {
  const ca = await makeCa(t);
  const serving = await ca.serve();
  const directory = tempDir(t);
  const [tokenFile, outDir] = [join(directory, 'token'), join(directory, 'out')];
  await ca.writeToken(id, tokenFile);
  const args = ['agent', '--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', tokenFile, '--out-dir', outDir];
  const chain = (): string => readFileSync(join(outDir, 'svid.pem'), 'utf8');

  const first = startSallyport(t, args);
  await first.waitFor(/"code":"svid_received"/);
  for (const name of ['svid.pem', 'svid.key', 'bundle.pem', 'bundle.json', 'denied.json'])
    t.ok(existsSync(join(outDir, name)), name);
  const before = chain();
  t.equal(await first.stop('SIGKILL'), null);
  rmSync(tokenFile);
  await serving.stop();

  const second = startSallyport(t, args);
  await second.waitFor(/"code":"svid_loaded"/);
  t.equal(chain(), before, 'the SVID from disk is served, without the CA');
  await ca.serve();
  await second.waitFor(/"code":"agent_started"/);
  second.process.kill('SIGHUP');
  await second.waitFor(/"code":"svid_received"/);
  await until(() => chain() !== before, 'the renewed SVID on disk');
  t.equal(await second.stop('SIGTERM'), 0, 'SIGTERM ends it with 0');
  t.notMatch(second.stderr(), /waiting for a join token/);
});

// Revoked, then allowed again by the operator: the old certificate stays on the deny list, so the workload needs a new
// join token, but no restart.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { freePort, runSallyport, startSallyport, tempDir, until } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/web';

t.test('a revoked workload comes back with a new token', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const directory = tempDir(t);
  const [tokenFile, outDir] = [join(directory, 'token'), join(directory, 'out')];
  await ca.writeToken(id, tokenFile);
  const admin = await freePort();
  const agent = startSallyport(t, [
    'agent',
    '--ca',
    ca.url,
    '--ca-bundle',
    ca.bundleFile,
    '--token-file',
    tokenFile,
    '--out-dir',
    outDir,
    '--admin',
    `127.0.0.1:${admin}`,
  ]);
  await agent.waitFor(/"code":"svid_received"/);
  const chain = (): string => readFileSync(join(outDir, 'svid.pem'), 'utf8');
  const before = chain();

  const operate = async (...args: string[]): Promise<void> => {
    const { code, stderr } = await runSallyport(t, ['ca', ...args, '--dir', ca.directory]);
    t.equal(code, 0, stderr);
  };
  const deniedIds = (): string[] =>
    (JSON.parse(readFileSync(join(outDir, 'denied.json'), 'utf8')) as { ids: string[] }).ids;
  await operate('revoke', id, '--reason', 'lost laptop');
  await until(() => deniedIds().includes(id), 'the deny list to arrive');
  const state = async (): Promise<Record<string, string>> =>
    (await (await fetch(`http://127.0.0.1:${admin}/status`)).json()) as Record<string, string>;
  t.match(await state(), {
    state: 'denied',
    waitingFor: /an operator's 'ca allow', then a new join token in .*: the ID was revoked/,
  });
  t.equal(
    (await fetch(`http://127.0.0.1:${admin}/healthz/ready`)).status,
    503,
    'the workload is not ready, and says why',
  );
  await operate('allow', id);
  await until(() => !deniedIds().includes(id), 'the ID to be allowed again');
  t.equal(chain(), before, 'the old certificate is not renewed');

  await ca.writeToken(id, `${tokenFile}.new`);
  writeFileSync(tokenFile, readFileSync(`${tokenFile}.new`));
  await until(() => chain() !== before, 'a certificate of its own again, without a signal', 10_000);
  t.match(await state(), { state: 'serving' });
  t.equal(await agent.stop(), 0);
});

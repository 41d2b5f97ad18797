import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Answer, ask, newKey } from '../fixtures/ca.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { runSallyport, startProcess, tempDir, until } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const web = 'spiffe://demo.test/ns/shop/sa/web';

t.test(
  'a CA with a full disk serves the bundle and the deny list, reports what it cannot do, and recovers',
  async (t) => {
    if (spawnSync('prlimit', ['--version']).status !== 0) return void t.pass('skipped: prlimit is missing');
    const ca = await makeCa(t);
    const token = join(tempDir(t), 'token');
    await ca.writeToken(web, token);
    const revoked = await runSallyport(t, [
      ...['ca', 'revoke', 'spiffe://demo.test/ns/shop/sa/lost', '--force', '--reason', 'test', '--dir', ca.directory],
    ]);
    t.equal(revoked.code, 0, revoked.stderr);

    // No file can grow beyond 4 KiB: writing fails as on a full disk. The limit is soft, so that it can be raised
    // again.
    const { port, host } = new URL(ca.url);
    const child = startProcess(t, 'bash', [
      ...['-c', `trap '' XFSZ; ulimit -S -f 4; exec "$@"`, 'bash', process.execPath, bin],
      ...['ca', 'serve', '--dir', ca.directory, '--listen', host],
    ]);
    await child.waitFor(
      /"code":"store_failed"[^\n]*nothing is issued or revoked; bundle and deny list are still served/,
    );
    await child.waitFor(/"code":"listening"/);

    const root = readFileSync(ca.bundleFile, 'utf8');
    const call = (question: Parameters<typeof ask>[2]): Promise<Answer> => ask(Number(port), root, question);
    const bundle = await call({ path: '/v1/bundle' });
    t.equal(bundle.status, 200, 'the bundle is served');
    t.match(bundle.text, 'spiffe://demo.test/ns/shop/sa/lost', 'with the deny list');
    const health = await call({ path: '/healthz' });
    t.equal(health.status, 503, 'the CA is not healthy');
    t.match(health.json, { code: 'store_failed', message: /issues nothing, but still serves bundle and deny list/ });
    const { csr } = await newKey();
    const enrol = (): Promise<Answer> =>
      call({ path: '/v1/svid', body: { csr, token: readFileSync(token, 'utf8').trim() } });
    t.match(await enrol(), { status: 503, json: { code: 'store_failed' } }, 'nothing is issued');

    t.equal(spawnSync('prlimit', ['--pid', String(child.process.pid), '--fsize=unlimited']).status, 0);
    await child.waitFor(/"code":"store_recovered"/, 30_000);
    t.equal((await call({ path: '/healthz' })).status, 200, 'with room again it is healthy');
    t.equal((await enrol()).status, 200, 'the CA issues again, for the same token');
    const own = (await call({ path: '/healthz' })).server.serialNumber.toLowerCase();
    const listed = await until(async () => {
      const { stdout } = await runSallyport(t, ['ca', 'ls', '--dir', ca.directory, '--all', '--json']);
      return stdout.includes(own.replace(/^0+/, '')) && stdout;
    }, "the CA's own certificate on record");
    t.match(listed, web);
    t.equal(await child.stop(), 0);
  },
);

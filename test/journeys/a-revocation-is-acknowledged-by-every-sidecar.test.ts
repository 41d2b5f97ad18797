// A workload is revoked while it has a request open to another. The command says how many agents have acknowledged it,
// and by then no sidecar serves the workload any more.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { allowAll } from '../fixtures/mesh.ts';
import { freePort, runSallyport, startSallyport, tempDir, until } from '../fixtures/process.ts';

const idOf = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;

t.test('revoke prints which sidecars acknowledged it, and open requests have ended', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const dir = tempDir(t);
  // An app that answers nothing: its requests stay open.
  const app = createServer(() => {});
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const { port: appPort } = app.address() as AddressInfo;
  const [inPort, outPort] = [await freePort(), await freePort()];
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'policy.yaml'), allowAll);

  /** An agent as a process of its own, which writes to a directory. */
  const startAgent = async (name: string, outDir = name) => {
    const tokenFile = join(dir, `${name}.token`);
    await ca.writeToken(idOf(name), tokenFile);
    const args = [
      '--ca',
      ca.url,
      '--ca-bundle',
      ca.bundleFile,
      '--token-file',
      tokenFile,
      '--out-dir',
      join(dir, outDir),
    ];
    const agent = startSallyport(t, ['agent', ...args]);
    await agent.waitFor(/"code":"svid_received"/);
    return agent;
  };
  const common = (name: string): string =>
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: ${name} }
identity: { files: { svid: ${name}/svid.pem, key: ${name}/svid.key, bundle: ${name}/bundle.json, denied: ${name}/denied.json } }
limits: { drainMinimum: 0s }
`;
  await startAgent('web');
  await startAgent('orders');
  const other = await startAgent('other');
  writeFileSync(
    join(dir, 'orders.yaml'),
    `${common('orders')}policies: policies/\ninbound: [{ port: ${inPort}, bind: 127.0.0.1, app: 127.0.0.1:${appPort} }]\n`,
  );
  writeFileSync(
    join(dir, 'web.yaml'),
    `${common('web')}outbound: [{ port: ${outPort} }]\nupstreams: { orders: { endpoints: ["127.0.0.1:${inPort}"], identity: ${idOf('orders')} } }\n`,
  );
  const sidecars = ['orders', 'web'].map((name) =>
    startSallyport(t, ['sidecar', '--config', join(dir, `${name}.yaml`)]),
  );
  await Promise.all(sidecars.map((one) => one.waitFor(/"code":"ready"/)));

  let ended: number | undefined;
  const open = get({ port: outPort, headers: { host: 'orders' }, agent: false }, (response) => {
    ended = response.statusCode;
    response.resume();
  });
  open.on('error', () => {
    ended ??= 0;
  });
  const requests = await new Promise<number>((resolve) => app.once('request', () => resolve(1)));
  t.equal(requests, 1, 'the request is at the app');

  const revoke = (target: string, ...more: string[]) =>
    runSallyport(t, ['ca', 'revoke', target, '--dir', ca.directory, '--wait', '20s', ...more]);
  // Agents connect within seconds of their first SVID.
  let acknowledged: RegExpExecArray | null = null;
  await until(async () => {
    const { code, stderr } = await revoke(idOf('stranger'), '--force');
    acknowledged = /acknowledged by (\d) of 3/.exec(stderr);
    return code === 0 && acknowledged?.[1] === '3';
  }, 'all three agents at the CA');

  const { code, stdout, stderr } = await revoke(idOf('web'), '--reason', 'laptop stolen');
  t.equal(code, 0);
  t.match(stdout, /^revoked spiffe:\/\/demo\.test\/ns\/shop\/sa\/web and 1 of its certificates\n$/);
  t.match(stderr, /acknowledged by 2 of 2 in \d+\.\d s\n/, 'the revoked one is not counted');
  await until(() => ended !== undefined, 'the end of the open request');
  t.not(ended, 200);
  const records = readFileSync(join(dir, 'orders', 'denied.json'), 'utf8');
  t.match(JSON.parse(records), { ids: [idOf('web'), idOf('stranger')].sort() });

  await other.stop('SIGKILL');
  await until(async () => {
    const late = await revoke(idOf('x'), '--force');
    return late.code === 1 && /not yet by .*other: its agent is not connected/.test(late.stderr);
  }, 'it, and an exit code that says so');
  await startAgent('other', 'replica');
  await until(
    async () => /not yet by .*other: 1 of its 2 agents is not connected/.test((await revoke(idOf('x'))).stderr),
    'the replica that is gone, beside the one that is connected',
  );
});

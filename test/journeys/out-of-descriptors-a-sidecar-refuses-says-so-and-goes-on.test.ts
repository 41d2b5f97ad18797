// More connections than the process has descriptors for: open ones go on, the rest is refused and counted, and
// accepting pauses for a moment. Once there is room, everything is as before.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { allowAll, writeCredential } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, startProcess, tempDir, until } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));

t.test('a sidecar without free descriptors refuses, logs it and continues', async (t) => {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'a.yaml'), allowAll);
  const [inPort, health, appPort] = [await freePort(), await freePort(), await freePort()];
  const app = createServer((_request, response) => response.end('ok'));
  await new Promise<void>((resolve) => app.listen(appPort, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  writeFileSync(
    join(dir, 'sidecar.yaml'),
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
inbound: [{ port: ${inPort}, bind: 127.0.0.1, app: 127.0.0.1:${appPort} }]
policies: policies/
health: 127.0.0.1:${health}
limits: { connections: 10000, drainMinimum: 0s }
`,
  );
  const start = `ulimit -n 96 && exec '${process.execPath}' '${bin}' sidecar --config '${join(dir, 'sidecar.yaml')}'`;
  const sidecar = startProcess(t, 'sh', ['-c', start]);
  await sidecar.waitFor(/"code":"ready"/);
  const peer = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
  const ask = async (): Promise<string> =>
    (await askAsPeer(inPort, authority, peer, 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n', { done: /ok$/ })).text;
  t.match(await ask(), /200 OK/);

  let closed = 0;
  const sockets: Socket[] = Array.from({ length: 120 }, () =>
    connect(inPort, '127.0.0.1')
      .on('error', () => {})
      .on('close', () => closed++),
  );
  const closeAll = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  t.teardown(closeAll);
  await sidecar.waitFor(/"code":"accept_failed".*pauses accepting: nearly all of 96 descriptors are in use/);
  await until(() => closed > 30, 'the rest to be refused');
  const open = sockets.length - closed;
  t.ok(open > 10, `${open} stay open`);
  t.notMatch(sidecar.stderr(), /EMFILE/, 'the connection limit was never reached');

  closeAll();
  t.match(await until(async () => (await ask()) || undefined, 'the port to accept connections again'), /200 OK/);
  const metrics = await (await fetch(`http://127.0.0.1:${health}/stats/prometheus`)).text();
  const refused = /sallyport_connections_refused_total\{code="descriptors_exhausted"\} (\d+)/.exec(metrics);
  t.ok(Number(refused?.[1]) > 0, 'counted');
  t.equal(await sidecar.stop(), 0);
});

// Coming and going: the app gets the same SIGTERM as its sidecar, and sends its last requests through it.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { exchangeBytes, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { type Child, freePort, type Owner, startSallyport } from '../fixtures/process.ts';

const get = 'GET /good-bye HTTP/1.1\r\nHost: orders\r\n\r\n';
const getAndClose = get.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n');

const app = createServer((_request, response) => response.end('ok'));
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
t.teardown(() => app.close());
const mesh = await startMesh(t, { app: (app.address() as { port: number }).port });

async function startWeb(t: Owner, name: string, limits: string): Promise<{ child: Child; out: number }> {
  const out = await freePort();
  const file = join(mesh.dir, `${name}.yaml`);
  writeFileSync(
    file,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }
outbound: [{ port: ${out} }]
upstreams: { orders: { endpoints: ["127.0.0.1:${mesh.inPort}"], identity: spiffe://demo.test/ns/shop/sa/orders } }
accessLog: ${name}.log
limits: ${limits}
`,
  );
  const child = startSallyport(t, ['sidecar', '--config', file]);
  await child.waitFor(/"code":"ready"/);
  return { child, out };
}

t.test('without requests in flight, outbound stays open for the minimum', async (t) => {
  const { child, out } = await startWeb(t, 'minimum', '{ drain: 200ms, drainMinimum: 1500ms }');
  const began = performance.now();
  child.process.kill('SIGTERM');
  await child.waitFor(/"code":"draining"/);
  t.match(await exchangeBytes(out, getAndClose), /^HTTP\/1\.1 200 OK/, 'a new connection is served');
  const kept = await exchangeBytes(out, get + getAndClose);
  t.equal(kept.match(/200 OK/g)?.length, 2, 'the connection is kept, as before the signal');
  t.equal(await child.exited, 0);
  t.ok(performance.now() - began >= 1500, 'not before the minimum is over');
});

t.test('a connection of the app keeps outbound open, within the drain limit, until it ends', async (t) => {
  const { child, out } = await startWeb(t, 'held', '{ drain: 60s, drainMinimum: 0s }');
  const held = connect(out, '127.0.0.1', () => held.write(get));
  await new Promise((resolve) => held.once('data', resolve));
  child.process.kill('SIGTERM');
  await child.waitFor(/"code":"draining"/);
  t.match(await exchangeBytes(out, getAndClose), /^HTTP\/1\.1 200 OK/, 'the app is running, and is served');
  held.write(get);
  await new Promise((resolve) => held.once('data', resolve));
  t.equal(child.process.exitCode, null, 'it waits');
  held.end();
  t.equal(await child.exited, 0, 'the app has ended, and so has its sidecar');
});

t.test('clients that have not heard of the drain are served for the minimum', async (t) => {
  const [port, health] = [await freePort(), await freePort()];
  const file = join(mesh.dir, 'leaving.yaml');
  writeFileSync(
    file,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders, labels: { app: orders } }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
inbound: [{ port: ${port}, bind: 127.0.0.1, app: "127.0.0.1:${(app.address() as { port: number }).port}", policyPort: 8080 }]
policies: policies/
health: 127.0.0.1:${health}
accessLog: leaving.log
limits: { drain: 200ms, drainMinimum: 2s }
`,
  );
  const child = startSallyport(t, ['sidecar', '--config', file]);
  await child.waitFor(/"code":"ready"/);
  child.process.kill('SIGTERM');
  await child.waitFor(/"code":"draining"/);
  t.equal((await fetch(`http://127.0.0.1:${health}/healthz/ready`)).status, 503, 'it is not ready');
  const { text } = await askAsPeer(port, mesh.authority, mesh.web, get, { done: /ok$/ });
  t.match(
    text,
    /^HTTP\/1\.1 200 OK[\s\S]*\r\nConnection: close\r\n[\s\S]*ok$/,
    'a new connection is served, and asked to close',
  );
  t.equal(await child.exited, 0);
});

t.test('SIGINT does not wait', async (t) => {
  const { child } = await startWeb(t, 'interrupted', '{ drain: 60s, drainMinimum: 60s }');
  t.equal(await child.stop('SIGINT'), 0);
});

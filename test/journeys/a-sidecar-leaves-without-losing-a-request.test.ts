// SIGTERM while a request is in flight: not ready and no new connections at once, the response arrives complete, then
// exit code 0. SIGHUP before that only rereads the files.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { exchangeBytes, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { webGateway, webRoute } from '../fixtures/plan.ts';
import { freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';
import { readReady, writeSidecars } from '../fixtures/sidecar-process.ts';

t.test('a sidecar leaves without losing a request', async (t) => {
  const waiting: ServerResponse[] = [];
  const app = createServer((_request, response) => waiting.push(response));
  const ca = await makeCa(t);
  await ca.serve();
  const files = await writeSidecars(t, ca, '{ drain: 10s, drainMinimum: 0s }');
  await new Promise<void>((resolve) => app.listen(files.appPort, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', files.token.web);
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/orders', files.token.orders);
  const [web, orders] = [files.start('web'), files.start('orders')];
  await Promise.all([web.waitFor(/"code":"ready"/), orders.waitFor(/"code":"ready"/)]);

  const answer = exchangeBytes(
    files.outPort,
    'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n',
    undefined,
    15_000,
  );
  await until(() => waiting.length === 1, 'the request in flight');
  orders.process.kill('SIGHUP');
  orders.process.kill('SIGTERM');
  await orders.waitFor(/"code":"draining"/);
  t.match(await readReady(files.health.orders), { status: 503, text: /^draining\n/ });
  const refused = await new Promise((resolve) =>
    connect(files.inPort, '127.0.0.1')
      .on('error', resolve)
      .on('connect', () => resolve(undefined)),
  );
  t.match(refused, { code: 'ECONNREFUSED' });
  waiting[0]!.end('in the end');
  t.match(await answer, /^HTTP\/1\.1 200 OK[\s\S]*in the end/);
  t.equal(await orders.exited, 0);
  t.match(orders.stderr(), /"code":"stopped"/);
  t.match(orders.stdout(), /"response_code":200/, 'the record is written before the exit');
  t.equal(await web.stop(), 0);
});

t.test('a gateway without admin pages reports the connections that it cut', async (t) => {
  let asked = 0;
  const app = createServer(() => {
    asked++;
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close().closeAllConnections());
  const { port: appPort } = app.address() as AddressInfo;
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'gateway', await createCredential(authority, 'spiffe://demo.test/ns/edge/sa/gateway'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'documents', 'all.yaml'), webGateway + webRoute);
  const port = await freePort();
  writeFileSync(
    join(dir, 'gateway.yaml'),
    `trustDomain: demo.test
workload: { namespace: edge, serviceAccount: gateway }
identity: { files: { svid: gateway.pem, key: gateway.key, bundle: bundle.pem } }
documents: documents/
listeners: { shop/g:80: "127.0.0.1:${port}" }
upstreams: { a: { endpoints: ["127.0.0.1:${appPort}"] } }
backends: { shop/a:80: a }
limits: { drain: 100ms, drainMinimum: 0s }
`,
  );
  const gateway = startSallyport(t, ['gateway', '--config', join(dir, 'gateway.yaml')]);
  await gateway.waitFor(/"code":"ready"/);
  const answer = exchangeBytes(port, 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n', undefined, 15_000).catch(String);
  await until(() => asked === 1, 'the request');
  gateway.process.kill('SIGTERM');
  t.equal(await gateway.exited, 0, gateway.stderr());
  t.match(gateway.stderr(), /"code":"drained".*\n.*"code":"stopped"/);
  t.match(gateway.stdout(), /"code":"draining"/, 'the record is written');
  await answer;
});

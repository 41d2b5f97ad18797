// The worst order: both sidecars first, then the CA, then the tokens, then the app. Each says what it waits for, none
// exits, and in the end a request succeeds.

import { createServer } from 'node:http';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';
import { readReady, writeSidecars } from '../fixtures/sidecar-process.ts';

t.test('sidecars start before everything that they need', async (t) => {
  const ca = await makeCa(t);
  const files = await writeSidecars(t, ca);
  const [web, orders] = [files.start('web'), files.start('orders')];
  const ask = (): Promise<string> =>
    exchangeBytes(files.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');

  await Promise.all([web.waitFor(/"code":"waiting"/), orders.waitFor(/"code":"waiting"/)]);
  const ready = await until(() => readReady(files.health.orders), 'the health port');
  t.equal(ready.status, 503);
  t.match(ready.text, /waiting for a join token/);
  t.match(await until(ask, 'the outbound port'), /^HTTP\/1\.1 503 /, 'the app of web gets a response: a refusal');

  await ca.serve();
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/orders', files.token.orders);
  await orders.waitFor(/"code":"ready"/);
  t.match(await readReady(files.health.orders), { status: 200, text: 'ready\n' });
  t.equal((await readReady(files.health.web)).status, 503, 'web still has no token');
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', files.token.web);
  await web.waitFor(/"code":"ready"/);

  t.match(await ask(), /^HTTP\/1\.1 503 /, 'the app of orders is not running');
  await orders.waitFor(/"response_flags":"UF"/);
  await web.waitFor(/"response_code":503,"response_flags":"-"/);
  const app = createServer((_request, response) => response.end('at last'));
  await new Promise<void>((resolve) => app.listen(files.appPort, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  t.match(await ask(), /^HTTP\/1\.1 200 OK[\s\S]*at last/);

  for (const child of [web, orders]) t.equal(child.process.exitCode, null);
});

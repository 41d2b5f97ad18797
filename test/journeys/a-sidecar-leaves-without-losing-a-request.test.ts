// SIGTERM while a request is in flight: not ready and nobody new at once, the answer arrives whole, then exit code 0.
// SIGHUP before that changes nothing but what files say.

import { createServer, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';
import { readReady, writeSidecars } from '../fixtures/sidecar-process.ts';

t.test('a sidecar leaves without losing a request', async (t) => {
  const waiting: ServerResponse[] = [];
  const app = createServer((_request, response) => waiting.push(response));
  const ca = await makeCa(t);
  await ca.serve();
  const files = await writeSidecars(t, ca, '{ drain: 10s }');
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
  t.match(await readReady(files.health.orders), { status: 503, text: /draining/ });
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
  t.match(orders.stdout(), /"response_code":200/, 'the record is written before the end');
  t.equal(await web.stop(), 0);
});

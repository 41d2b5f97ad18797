// An app that answers on more than loopback bypasses its sidecar: logged and counted.

import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Registry } from 'prom-client';
import t from 'tap';
import { watchExposure } from '../../sidecar/observe/exposure.ts';
import { logTo } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';

const outer = Object.values(networkInterfaces())
  .flatMap((list) => list ?? [])
  .some((one) => !one.internal && one.family === 'IPv4');

async function startApp(t: Owner, host: string): Promise<{ app: { host: string; port: number } }> {
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  t.teardown(() => server.close());
  return { app: { host: '127.0.0.1', port: (server.address() as { port: number }).port } };
}

t.test('an app on all addresses is reported', { skip: outer ? false : 'this machine has loopback only' }, async (t) => {
  const [closed, open] = [await startApp(t, '127.0.0.1'), await startApp(t, '0.0.0.0')];
  const lines: Record<string, unknown>[] = [];
  const registry = new Registry();
  // They are tried in this order: what is logged of the second comes after everything logged of the first.
  t.teardown(watchExposure(() => [closed, { app: { path: '/run/app.sock' } }, open], registry, logTo(lines)));
  await until(() => lines.length > 0, 'the warning');
  t.match(lines, [
    {
      level: 'warn',
      code: 'app_exposed',
      port: open.app.port,
      msg: /^the app answers on \S+:\d+, which bypasses this sidecar: bind it to 127\.0\.0\.1$/,
    },
  ]);
  t.match(await registry.metrics(), /^sallyport_app_exposed_total 1$/m);
});

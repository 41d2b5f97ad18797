// Kind 17: an app, or a Redis, on another machine is contacted in plaintext only if the configuration says so
// explicitly.

import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { Registry } from 'prom-client';
import t from 'tap';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { watchExposure } from '../../sidecar/observe/exposure.ts';
import { logTo } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const common =
  'trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: orders }\nidentity: { files: { svid: a, key: b, bundle: c } }\n';
const sidecar = (inbound: string): string[] =>
  problemsOf(() => parseSettings(`${common}inbound:\n  - { port: 15006, ${inbound} }\n`, 'orders.yaml'));
const gateway = (redis: string): string[] =>
  problemsOf(() => parseGatewaySettings(`${common}documents: d/\nredis: ${redis}\n`, 'gateway.yaml'));

function problemsOf(read: () => unknown): string[] {
  try {
    read();
    return [];
  } catch (error) {
    const { code, problems } = error as SallyportError;
    if (code !== 'config_invalid') throw error;
    return problems.map(({ file, line, column, message }) => `${file}:${line}:${column}: ${message}`);
  }
}

t.test('plaintext to an app', async (t) => {
  for (const near of ['127.0.0.1:8080', '"[::1]:8080"', 'localhost:8080', 'unix:/run/app.sock', '127.0.0.2:80'])
    t.strictSame(sidecar(`app: ${near}`), [], near);
  for (const far of ['10.0.0.5:8080', 'orders:8080', '"[2001:db8::1]:8080"', '0.0.0.0:8080', 'localhost.example:80']) {
    const host = /^"?\[?([^\]]*?)\]?:\d+"?$/.exec(far)![1]!;
    t.strictSame(
      sidecar(`app: ${far}`),
      [
        `orders.yaml:5:25: inbound[0].app: ${`'${host}' is not loopback: requests would leave this machine in plaintext, and others could ask the app directly; run the app beside its sidecar, or add 'unsafePlaintext: true' to this entry`}`,
      ],
      far,
    );
    t.strictSame(sidecar(`app: ${far}, unsafePlaintext: true`), [], far);
  }
  t.match(sidecar('app: 127.0.0.1:8080, unsafePlaintext: true'), [/the app is on this machine: nothing is sent/]);
});

t.test('plaintext to Redis', async (t) => {
  for (const good of [
    '"redis://127.0.0.1:6379"',
    '"redis://localhost"',
    '"rediss://redis.internal"',
    '"redis://[::1]:6379"',
  ])
    t.strictSame(gateway(`{ url: ${good} }`), [], good);
  t.match(gateway('{ url: "redis://redis.internal:6379" }'), [
    /^gateway\.yaml:5:\d+: redis\.url: 'redis\.internal' is not loopback, and redis:\/\/ is plaintext: use rediss:\/\/, or add 'unsafePlaintext: true' to this entry$/,
  ]);
  t.strictSame(gateway('{ url: "redis://redis.internal:6379", unsafePlaintext: true }'), []);
  t.match(gateway('{ url: "rediss://redis.internal", unsafePlaintext: true }'), [/nothing is sent in plaintext/]);
});

const outer = Object.values(networkInterfaces())
  .flatMap((list) => list ?? [])
  .find((one) => !one.internal && one.family === 'IPv4')?.address;

t.test('the exposure check runs on', { skip: outer === undefined && 'this machine has loopback only' }, async (t) => {
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(0, outer, resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as { port: number };
  const lines: Record<string, unknown>[] = [];
  t.teardown(watchExposure(() => [{ app: { host: outer!, port } }], new Registry(), logTo(lines)));
  await until(() => lines.length > 0, 'the warning');
  t.match(lines, [
    {
      code: 'app_exposed',
      address: outer,
      port,
      msg: /bypasses this sidecar: run it beside the sidecar, and bind it/,
    },
  ]);
});

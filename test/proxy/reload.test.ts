// Changes at run time: in force within a second, open transfers continue, and a broken file changes nothing but the
// log.

import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { readApart } from '../../sidecar/config/read-apart.ts';
import {
  allowAll,
  exchangeBytes,
  type Mesh,
  readState,
  startBackend,
  startMesh,
  writeCredential,
} from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const ask = async (mesh: Mesh, host = 'orders'): Promise<string> =>
  (await exchangeBytes(mesh.outPort, `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)).split(' ')[1]!;

t.test('a policy change applies', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  t.equal(await ask(mesh), '200');
  const started = performance.now();
  await mesh.setPolicy(allowAll.replace('rules: [{}]', 'rules: []'));
  t.ok(performance.now() - started < 2000, 'within a second, plus delays of the machine');
  t.equal(await ask(mesh), '403');

  t.test('a broken policy keeps the last good generation, is logged with its position, and counted', async (t) => {
    const { generation } = await readState(mesh.inAdmin);
    writeFileSync(join(mesh.dir, 'policies', 'policy.yaml'), allowAll.replace('action', 'acton'));
    const state = await until(async () => {
      const now = await readState(mesh.inAdmin);
      return now['configurationFailures'] === 1 && now;
    }, 'the failure to be counted');
    t.equal(state['generation'], generation);
    const file = join(mesh.dir, 'policies', 'policy.yaml');
    t.match((state['lastProblem'] as { problems: string[] }).problems, [
      `${file}:5:9: unknown key 'acton' (did you mean 'action'?)`,
    ]);
    t.equal(await ask(mesh), '403');
    await mesh.setPolicy(allowAll);
    t.equal(await ask(mesh), '200');
    t.equal((await readState(mesh.inAdmin))['lastProblem'], null);
  });
});

t.test('sidecar.yaml: an upstream gets another host, and a port is added and removed', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  t.equal(await ask(mesh, 'new.name'), '404');
  const file = join(mesh.dir, 'web.yaml');
  const { readFileSync } = await import('node:fs');
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, text.replace('hosts: [', 'hosts: [new.name, '));
  await until(async () => (await ask(mesh, 'new.name')) === '200', 'the new host');
  writeFileSync(file, text.replace(/, \{ port: \d+, protocol: http, upstream: orders \}/, ''));
  await until(async () => {
    const { ports } = await readState(mesh.outAdmin);
    return (ports as unknown[]).length === 1;
  }, 'the port to go');
  const refused = await new Promise((resolve) =>
    connect(mesh.fixedPort, '127.0.0.1')
      .on('error', resolve)
      .on('connect', () => resolve(undefined)),
  );
  t.match(refused, { code: 'ECONNREFUSED' });
  writeFileSync(file, text.replaceAll('demo.test', 'other.test'));
  await until(async () => (await readState(mesh.outAdmin))['configurationFailures'] === 1, 'the change to be refused');
  t.match((await readState(mesh.outAdmin))['lastProblem'], {
    message: 'trustDomain cannot change while the sidecar runs',
    hint: 'restart it to apply this change',
  });
});

t.test('a new SVID: new handshakes use it, and an open transfer continues to its end', async (t) => {
  const size = 4 * 1024 * 1024;
  let finish: () => void = () => {};
  const backend = await startBackend(t, (socket, soFar) => {
    if (!soFar.includes('/slow')) return void socket.write(ok);
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`);
    socket.write(Buffer.alloc(size / 2));
    finish = () => socket.write(Buffer.alloc(size / 2));
  });
  const mesh = await startMesh(t, { app: backend.port });
  let received = 0;
  const open = connect(mesh.outPort, '127.0.0.1', () => open.write('GET /slow HTTP/1.1\r\nHost: orders\r\n\r\n'));
  open.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  await until(() => received > size / 2, 'half of the transfer');
  const serial = async (port: number): Promise<unknown> =>
    ((await (await fetch(`http://127.0.0.1:${port}/certs`)).json()) as { serial: string }).serial;
  for (const [name, admin] of [
    ['orders', mesh.inAdmin],
    ['web', mesh.outAdmin],
  ] as const) {
    const before = await serial(admin);
    writeCredential(mesh.dir, name, await createCredential(mesh.authority, `spiffe://demo.test/ns/shop/sa/${name}`));
    await until(async () => (await serial(admin)) !== before, `the new SVID of ${name}`);
    t.equal(await ask(mesh), '200');
  }
  finish();
  await until(() => received > size, 'the rest of the transfer');
  const records = await mesh.records('orders', 2);
  const serials = new Set(records.map((one) => one['peer_serial']));
  t.ok(serials.has(await serial(mesh.outAdmin)), 'the new certificate is the one that peers see');
  open.destroy();
});

t.test('a key that does not match its certificate changes nothing', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  const other = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/orders');
  writeFileSync(join(mesh.dir, 'orders.key'), other.keyPem);
  await until(() => mesh.lines.some((one) => one['code'] === 'key_mismatch'), 'the refusal');
  t.equal(await ask(mesh), '200');
  const state = await readState(mesh.inAdmin);
  t.match(state, { identityFailures: 1, lastProblem: { code: 'key_mismatch' }, ready: true });
});

t.test('a reader that cannot be started keeps the last good generation, and is retried', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port, read: readApart });
  const { execPath } = process;
  t.teardown(() => {
    process.execPath = execPath;
  });
  process.execPath = '/nowhere/node';
  writeFileSync(join(mesh.dir, 'policies', 'policy.yaml'), allowAll.replace('rules: [{}]', 'rules: []'));
  await until(async () => (await readState(mesh.inAdmin))['configurationFailures'] === 1, 'the failure to be counted');
  t.match((await readState(mesh.inAdmin))['lastProblem'], {
    code: 'internal',
    message: /^the process that reads the configuration did not respond: /,
  });
  t.equal(await ask(mesh), '200');
  process.execPath = execPath;
  mesh.inbound.reload();
  await until(async () => (await ask(mesh)) === '403', 'the documents that were not read before');
  t.equal((await readState(mesh.inAdmin))['lastProblem'], null);
});

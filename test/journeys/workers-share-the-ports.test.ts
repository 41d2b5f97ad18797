// `--workers 2`: two processes on the same ports with half of each limit, one set of pages for both, and a common
// drain. A killed worker is replaced.

import { readFileSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { exchangeBytes, readState, startBackend, startMesh, writeCredential } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { freePort, startSallyport, until } from '../fixtures/process.ts';

const get = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';

t.test('workers share the ports', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (!soFar.includes('/hold')) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
  });
  // Its outbound side connects to a pair of workers that replace its inbound side.
  const mesh = await startMesh(t, { app: app.port });
  const { dir } = mesh;
  const [outPort, admin] = await Promise.all([freePort(), freePort()]);
  writeCredential(dir, 'pair', await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(
    join(dir, 'pair.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: web }\nidentity: { files: { svid: pair.pem, key: pair.key, bundle: bundle.pem } }\naccessLog: pair.log\noutbound: [{ port: ${outPort} }]\nadmin: ${admin}\nupstreams: { orders: { endpoints: ["127.0.0.1:${mesh.inPort}"], identity: spiffe://demo.test/ns/shop/sa/orders } }\nlimits: { connections: 100, drain: 300ms, drainMinimum: 0s }\n`,
  );
  const pair = startSallyport(t, ['sidecar', '--config', join(dir, 'pair.yaml'), '--workers', '2']);
  await pair.waitFor(/"code":"ready"/);
  t.match(await readState(admin), { ready: true, workers: 2 });

  const answers = await Promise.all(Array.from({ length: 40 }, () => exchangeBytes(outPort, get)));
  t.ok(answers.every((one) => one.startsWith('HTTP/1.1 200 ')));

  const page = async (path: string): Promise<string> => (await fetch(`http://127.0.0.1:${admin}${path}`)).text();
  t.match(
    await page('/stats/prometheus'),
    /^istio_requests_total\{[^}]*reporter="source"[^}]*\} 40$/m,
    'the pages sum',
  );
  t.match(await page('/stats/prometheus'), /^istio_build\{[^}]*\} 1$/m, 'the workers appear as one proxy');
  const lines = await until(() => {
    const all = readFileSync(join(dir, 'pair.log'), 'utf8').trim().split('\n');
    return all.length === 40 ? all : undefined;
  }, 'forty records');
  const runs = new Set(lines.map((line) => (JSON.parse(line) as { decision_id: string }).decision_id.slice(0, 8)));
  t.equal(runs.size, 2, 'both have served');

  const held: Socket[] = [];
  for (let i = 0; i < 20; i++) {
    const socket = connect(outPort, '127.0.0.1', () => socket.write('GET /hold HTTP/1.1\r\nHost: orders\r\n\r\n'));
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    held.push(socket);
  }
  const connections = await until(async () => {
    const all = JSON.parse(await page('/connections')) as { worker: number }[];
    return all.length === 20 ? all : undefined;
  }, 'twenty connections');
  t.same([...new Set(connections.map(({ worker }) => worker))].sort(), [1, 2], 'each worker has some connections');

  t.test('a killed worker is replaced', async (t) => {
    const [child] = readFileSync(`/proc/${pair.process.pid}/task/${pair.process.pid}/children`, 'utf8')
      .trim()
      .split(' ');
    process.kill(Number(child), 'SIGKILL');
    await pair.waitFor(/"code":"worker_exited"/);
    await until(async () => (await readState(admin))['ready'] === true, 'it to be ready again');
    t.match(await readState(admin), { workerRestarts: 1 });
    t.match(await exchangeBytes(outPort, get), /^HTTP\/1\.1 200 /);
  });

  t.test('workers drain together, and one report lists the cut connections', async (t) => {
    for (let i = 0; i < 20; i++)
      held.push(
        connect(outPort, '127.0.0.1', function (this: Socket) {
          this.on('error', () => {}).write('GET /hold HTTP/1.1\r\nHost: orders\r\n\r\n');
        }),
      );
    const open = await until(async () => {
      const all = JSON.parse(await page('/connections')) as { worker: number; inFlight: number }[];
      const holding = all.filter(({ inFlight }) => inFlight === 1);
      return holding.length >= 10 && new Set(holding.map(({ worker }) => worker)).size === 2 ? holding : undefined;
    }, 'both to hold some');
    t.equal(await pair.stop('SIGTERM'), 0);
    const cut = Number(/"component":"sidecar"[^\n]*"code":"drained"[^\n]*?"cut":(\d+)/.exec(pair.stderr())?.[1]);
    t.ok(cut >= open.length, `${cut} were cut, ${open.length} were seen`);
    for (const socket of held) socket.destroy();
    t.equal(await exchangeBytes(outPort, get), '', 'no process is left');
  });
});

t.test('workers cannot share ports that the system chooses', async (t) => {
  const mesh = await startMesh(t, { app: 1 });
  const file = join(mesh.dir, 'web.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace(/port: \d+/, 'port: 0'));
  const { code, stderr } = await (async () => {
    const child = startSallyport(t, ['sidecar', '--config', file, '--workers', '2']);
    return { code: await child.exited, stderr: child.stderr() };
  })();
  t.equal(code, 2);
  t.match(stderr, /several workers need port numbers/);
});

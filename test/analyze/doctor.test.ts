// `sallyport doctor` against real files, sockets and processes: nothing to find where all is well, and each fault by
// itself with its fix.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { clockResult } from '../../sidecar/analyze/doctor.ts';
import { cgroupResults, podResults, readCgroup } from '../../sidecar/analyze/machine.ts';
import type { Result } from '../../sidecar/analyze/result.ts';
import { diagnose } from '../../sidecar/cli/doctor.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { runCommand } from '../fixtures/command.ts';
import { startMesh, writeCredential } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, startSallyport, tempDir } from '../fixtures/process.ts';

async function examine(config: string): Promise<{ wrong: readonly Result[]; all: readonly Result[] }> {
  const all = await diagnose(config);
  return { all, wrong: all.filter(({ level }) => level === 'error' || level === 'warning') };
}

function listen(t: Owner, host: string): Promise<number> {
  const server: Server = createServer((socket) => socket.destroy());
  t.teardown(() => server.close());
  return new Promise((resolve) => server.listen(0, host, () => resolve((server.address() as { port: number }).port)));
}

t.test('doctor finds nothing wrong with a healthy mesh, and finds each fault', async (t) => {
  const app = await listen(t, '127.0.0.1');
  const mesh = await startMesh(t, { app });
  const [orders, web] = [join(mesh.dir, 'orders.yaml'), join(mesh.dir, 'web.yaml')];
  for (const file of [orders, web]) {
    const { wrong, all } = await examine(file);
    t.match(wrong, [{ check: 'process', message: /^test is running, and this is \d/, fix: 'restart it' }], file);
    t.equal(wrong.length, 1, "only the version, which is the fixture's");
    t.equal(all.find(({ check }) => check === 'upstreams')?.level, file === web ? 'ok' : 'skipped');
  }

  // One change each, beside the running ones.
  const change = async (name: string, from: string, edit: (text: string) => string): Promise<readonly Result[]> => {
    const file = join(mesh.dir, `${name}.yaml`);
    writeFileSync(file, edit(readFileSync(from, 'utf8')));
    const { wrong } = await examine(file);
    for (const one of wrong) t.ok(one.fix, `${name}: ${one.message}`);
    return wrong;
  };
  t.match(await change('taken', web, (text) => text), [
    { check: 'ports', level: 'error', message: `another process uses 127.0.0.1:${mesh.outPort}` },
  ]);
  const free = async (text: string): Promise<string> => {
    const ports = new Map<string, number>();
    for (const [, port] of text.matchAll(/(?:port|admin|health): (\d+)/g)) ports.set(port!, await freePort());
    return text.replace(/(port|admin|health): (\d+)/g, (_, key, port) => `${key}: ${ports.get(port)}`);
  };
  const freed = { web: await free(readFileSync(web, 'utf8')), orders: await free(readFileSync(orders, 'utf8')) };
  t.match(await change('other', web, () => freed.web.replace('sa/orders', 'sa/payments')), [
    { check: 'upstreams', message: /is spiffe:\/\/demo\.test\/ns\/shop\/sa\/orders, not .*payments/ },
  ]);
  t.match(await change('closed', web, () => freed.web.replace(`:${mesh.inPort}"`, ':1"')), [
    { check: 'upstreams', level: 'error', message: /127\.0\.0\.1:1/ },
  ]);
  t.match(await change('unknown', web, () => freed.web.replace(`127.0.0.1:${mesh.inPort}"`, 'nowhere.invalid:1"')), [
    { check: 'dns', message: /nowhere\.invalid \(upstream orders\) is not found/ },
    { check: 'upstreams' },
  ]);
  t.match(await change('named', web, () => freed.web.replace('serviceAccount: web', 'serviceAccount: website')), [
    { check: 'certificate', level: 'warning', message: /sa\/web, and 'workload' says .*sa\/website/ },
  ]);
  const old = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/web', {
    notBefore: Date.now() - 7_200_000,
    notAfter: Date.now() - 3_600_000,
  });
  writeCredential(mesh.dir, 'old', old);
  t.match(
    (await change('expired', web, () => freed.web.replaceAll(/\bweb\.(pem|key)/g, 'old.$1'))).filter(
      ({ check }) => check === 'certificate',
    ),
    [{ level: 'error', message: /validity: expired/ }],
  );
  t.match(await change('missing', web, () => freed.web.replace('web.pem', 'none.pem')), [
    { check: 'certificate', message: /none\.pem, its key or its bundle does not exist/ },
  ]);
  t.match(await change('quiet', orders, () => freed.orders.replace(`127.0.0.1:${app}`, '127.0.0.1:1')), [
    { check: 'app', level: 'warning', message: 'no app answers on 127.0.0.1:1' },
  ]);
  const outer = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ internal, address }) => !internal && !address.startsWith('fe80:'));
  if (outer !== undefined) {
    const open = await listen(t, '0.0.0.0');
    t.match(await change('open', orders, () => freed.orders.replace(`127.0.0.1:${app}`, `127.0.0.1:${open}`)), [
      {
        check: 'app',
        level: 'error',
        message: /answers on .*, which bypasses this sidecar/,
        fix: 'bind it to 127.0.0.1',
      },
    ]);
  }
  chmodSync(join(mesh.dir, 'web.key'), 0o644);
  t.match(await change('read', web, () => freed.web), [
    { check: 'files', message: /every user .* may read .*web\.key/ },
  ]);
  chmodSync(join(mesh.dir, 'web.key'), 0o600);
  chmodSync(join(mesh.dir, 'policies', 'policy.yaml'), 0o666);
  t.match(await change('written', orders, () => freed.orders), [
    { check: 'files', message: /may change .*policy\.yaml/ },
  ]);
  chmodSync(join(mesh.dir, 'policies', 'policy.yaml'), 0o644);
  writeFileSync(
    join(mesh.dir, 'policies', 'star.yaml'),
    `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: star, namespace: shop }
spec: { rules: [{ to: [{ operation: { paths: ["/a/*/b"] } }] }] }
`,
  );
  t.match(await change('star', orders, () => freed.orders), [
    { check: 'policies', message: /star\.yaml:\d+:\d+: \w+:/ },
  ]);
});

t.test('doctor checks the CA, and lists what it cannot check', async (t) => {
  const ca = await makeCa(t);
  const dir = tempDir(t);
  mkdirSync(join(dir, 'out'));
  const config = join(dir, 'sidecar.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { ca: { url: "${ca.url}", bundle: ${ca.bundleFile}, tokenFile: token, outDir: out } }
outbound: [{ port: ${await freePort()} }]
`,
  );
  t.match((await examine(config)).wrong, [
    { check: 'certificate', message: /no join token/ },
    { check: 'ca', level: 'error', fix: /is the CA running/ },
  ]);
  const serving = await ca.serve();
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', join(dir, 'token'));
  chmodSync(join(dir, 'token'), 0o600);
  const { wrong, all } = await examine(config);
  t.strictSame(wrong, []);
  t.equal(all.find(({ check }) => check === 'clock')?.level, 'ok');
  const other = await makeCa(t);
  writeFileSync(config, readFileSync(config, 'utf8').replace(ca.bundleFile, other.bundleFile));
  t.match((await examine(config)).wrong, [{ check: 'ca', level: 'error' }], 'a CA of another operator');
  await serving.stop();

  t.equal((await runCommand(t, ['doctor'])).code, 2);
  writeFileSync(config, 'trustDomain: demo.test\n');
  t.match(await runCommand(t, ['doctor', '--config', config]), { code: 2, stderr: /config_invalid/ });
});

t.test('the report as text', async (t) => {
  const mesh = await startMesh(t, { app: 1 });
  const { code, stdout, stderr } = await runCommand(t, ['doctor', '--config', join(mesh.dir, 'orders.yaml')]);
  t.equal(code, 1);
  t.match(stdout, /^warning {2}app {12}no app answers on 127\.0\.0\.1:1\n {9}fix: start it, or correct/m);
  t.equal(stderr, '2 findings\n', "the version is the fixture's");
});

t.test('a running process of this version', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const dir = tempDir(t);
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', join(dir, 'token'));
  chmodSync(join(dir, 'token'), 0o600);
  const config = join(dir, 'sidecar.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { ca: { url: "${ca.url}", bundle: ${ca.bundleFile}, tokenFile: token, outDir: out } }
outbound: [{ port: ${await freePort()} }]
admin: ${await freePort()}
`,
  );
  const child = startSallyport(t, ['sidecar', '--config', config]);
  await child.waitFor(/"code":"ready"/);
  const { wrong, all } = await examine(config);
  t.strictSame(wrong, []);
  t.match(
    all.find(({ check }) => check === 'process'),
    { level: 'ok', message: /is running and ready$/ },
  );
  t.match(
    all.find(({ check }) => check === 'certificate'),
    { level: 'ok', message: /sa\/web, valid for another/ },
  );
  t.equal((await runCommand(t, ['doctor', '--config', 'sidecar.yaml'], { cwd: dir })).code, 0, 'by a relative path');
  writeFileSync(config, `${readFileSync(config, 'utf8')}policies: none/\n`);
  await child.waitFor(/none/);
  await t.rejects(diagnose(config), { code: 'config_unreadable' }, 'a file that is refused');
});

t.test('clocks', async (t) => {
  const at = 1_700_000_000_000;
  const level = (theirs: number): string => clockResult(theirs, at, at + 300).level;
  for (const [theirs, expected] of [
    [at, 'ok'],
    [at - 900, 'ok'],
    [at - 5000, 'ok'],
    [at - 20_000, 'warning'],
    [at + 20_000, 'warning'],
    [at - 3_600_000, 'error'],
    [at + 3_600_000, 'error'],
    [Number.NaN, 'skipped'],
  ] as const)
    t.equal(level(theirs), expected, String(theirs - at));
  t.match(clockResult(at - 3_600_000, at, at).message, 'this clock is 59m 59s ahead of');
});

t.test('control groups', async (t) => {
  const root = tempDir(t);
  const write = (file: string, text: string): void => {
    mkdirSync(join(root, file, '..'), { recursive: true });
    writeFileSync(join(root, file), text);
  };
  t.strictSame(cgroupResults(readCgroup(root)), [], 'a machine without control groups');
  write('proc/self/cgroup', '0::/app.slice\n');
  write('sys/fs/cgroup/app.slice/memory.max', 'max\n');
  write('sys/fs/cgroup/app.slice/cpu.max', 'max 100000\n');
  t.strictSame(cgroupResults(readCgroup(root)), []);
  write('sys/fs/cgroup/app.slice/memory.max', '67108864\n');
  write('sys/fs/cgroup/app.slice/memory.events', 'low 0\noom 3\noom_kill 2\n');
  write('sys/fs/cgroup/app.slice/cpu.max', '5000 100000\n');
  write('sys/fs/cgroup/app.slice/pids.max', '20\n');
  t.match(cgroupResults(readCgroup(root)), [
    { message: '64 MB of memory' },
    { message: /ended 2 processes/ },
    { message: /^0\.05 of a CPU/ },
    { message: '20 processes and threads' },
  ]);
});

t.test('pods', async (t) => {
  const root = tempDir(t);
  const env = { KUBERNETES_SERVICE_HOST: '10.0.0.1' };
  const found = async (): Promise<unknown> => ['10.0.0.1'];
  const lost = async (): Promise<unknown> => {
    throw new Error('ENOTFOUND');
  };
  const now = 1_700_000_000_000;
  t.match(await podResults({}, now, root, found), [{ level: 'skipped' }]);
  t.match(await podResults(env, now, root, lost), [{ level: 'skipped' }, { level: 'warning', fix: /port 53/ }]);
  const dir = join(root, 'var/run/secrets/kubernetes.io/serviceaccount');
  mkdirSync(dir, { recursive: true });
  const token = (claims: object): void =>
    writeFileSync(join(dir, 'token'), `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.c2ln`);
  for (const [claims, level] of [
    [{ sub: 'system:serviceaccount:shop:web', exp: now / 1000 + 600 }, 'ok'],
    [{ sub: 'system:serviceaccount:shop:web', exp: now / 1000 - 1 }, 'error'],
    [{ sub: 'system:serviceaccount:shop:web' }, 'warning'],
  ] as const) {
    token(claims);
    t.match(await podResults(env, now, root, found), [{ level }, { level: 'ok' }]);
  }
  writeFileSync(join(dir, 'token'), 'no token');
  t.match(await podResults(env, now, root, found), [{ level: 'error' }, { level: 'ok' }]);
});

// `sallyport exec` with real processes: what the app gets, when it begins and ends, and what happens to it when one of
// the two is killed.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { allowAll, exchangeBytes, startMesh, writeCredential } from '../fixtures/mesh.ts';
import { type Authority, createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Child, freePort, type Owner, runSallyport, startSallyport, tempDir, until } from '../fixtures/process.ts';
import { readReady } from '../fixtures/sidecar-process.ts';

// Some thirty starts of a sidecar, beside other tests.

const authority = await createAuthority('demo.test');
const credential = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
const node = process.execPath;

interface Place {
  readonly dir: string;
  readonly config: string;
  readonly out: number;
  readonly admin: number;
  readonly health: string;
}

/** A sidecar.yaml with an outbound port. `more` are further lines. */
async function makePlace(t: Owner, more = '', from: Authority = authority): Promise<Place> {
  const dir = tempDir(t);
  const [out, admin, health] = [await freePort(), await freePort(), await freePort()];
  const web = from === authority ? credential : await createCredential(from, 'spiffe://demo.test/ns/shop/sa/web');
  writeCredential(dir, 'web', web);
  writeFileSync(join(dir, 'bundle.pem'), from.bundlePem);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'all.yaml'), allowAll);
  const config = join(dir, 'sidecar.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }
outbound: [{ port: ${out} }]
policies: policies/
admin: ${admin}
health: ${health}
${more}
`,
  );
  return { dir, config, out, admin, health: `http://127.0.0.1:${health}` };
}

const exec = (t: Owner, { config, dir }: Place, command: readonly string[], flags: readonly string[] = []): Child =>
  startSallyport(t, ['exec', '--config', config, ...flags, '--', ...command], {
    cwd: dir,
    env: { SALLYPORT_CA_PASSPHRASE: 'secret', NOTIFY_SOCKET: '', ORDINARY: 'yes' },
  });

/** A shell that says `begun` and its process, and runs `then`. */
const shell = (then: string): string[] => ['sh', '-c', `echo "begun $$"; ${then}`];

const refuses = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(false)).once('error', () => resolve(true));
    socket.once('connect', () => socket.destroy());
  });

const isRunning = (pid: number): boolean => {
  try {
    return !/^\d+ \(.*\) Z/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
};

t.test('the app gets its arguments, its streams and an environment without our variables', async (t) => {
  const place = await makePlace(t);
  const script =
    'process.stdin.on("data", (d) => console.log(JSON.stringify([process.argv.slice(1), String(d), process.env])))';
  const child = exec(t, place, [node, '-e', script, '--', '', 'a b', '--config', '$HOME', '--', '-h']);
  child.process.stdin?.end('input');
  t.equal(await child.exited, 0, child.stderr());
  const [args, input, env] = JSON.parse(child.stdout()) as [string[], string, Record<string, string>];
  t.strictSame(args, ['', 'a b', '--config', '$HOME', '--', '-h']);
  t.equal(input, 'input');
  t.equal(env['ORDINARY'], 'yes');
  t.strictSame(
    Object.keys(env).filter((name) => /SALLYPORT|NOTIFY_SOCKET/.test(name)),
    [],
  );
});

t.test('the app starts once its sidecar serves', async (t) => {
  const place = await makePlace(t);
  const { code, stdout } = await runSallyport(t, [
    ...['exec', '--config', place.config, '--', node, '-e'],
    `fetch("http://127.0.0.1:${place.out}", { headers: { host: "nowhere" } }).then((r) => process.exit(r.status === 200 ? 0 : 3), () => process.exit(4))`,
  ]);
  t.equal(code, 3, 'its first request is answered by the sidecar');
  t.equal(stdout, '', 'the access log is not in the output of the app');
});

t.test('its exit code is that of the app, and 128+n after a signal', async (t) => {
  const place = await makePlace(t);
  t.equal(await exec(t, place, ['sh', '-c', 'exit 7']).exited, 7);
  t.equal(await exec(t, place, ['sh', '-c', 'kill -SEGV $$']).exited, 139);
});

t.test("a command that cannot be run is reported before the wait, with a shell's exit code", async (t) => {
  const place = await makePlace(t);
  const missing = exec(t, place, ['no-such-program']);
  t.equal(await missing.exited, 127);
  t.match(missing.stderr(), 'cannot start no-such-program: there is no such program [app_not_started]');
  const plain = exec(t, place, [place.config]);
  t.equal(await plain.exited, 126);
  t.match(plain.stderr(), /EACCES.* \[app_not_started\]/);
  const script = join(place.dir, 'script');
  writeFileSync(script, '#!/no/such/interpreter\n', { mode: 0o755 });
  t.equal(await exec(t, place, [script]).exited, 127, 'also where only the system can tell');
  for (const flags of [
    ['--ready-timeout', 'soon'],
    ['--workers', '0'],
  ])
    t.equal(await exec(t, place, ['true'], flags).exited, 125);
  t.equal((await runSallyport(t, ['exec', '--', 'true'])).code, 125, 'without a configuration');
  t.equal((await runSallyport(t, ['exec', '--config', '/nowhere.yaml', '--', 'true'])).code, 125);
});

t.test('without a certificate the app is not started', async (t) => {
  const place = await makePlace(t);
  writeFileSync(place.config, readFileSync(place.config, 'utf8').replaceAll('web.pem', 'late.pem'));
  const late = exec(t, place, ['touch', 'ran'], ['--ready-timeout', '300ms']);
  t.equal(await late.exited, 125);
  t.match(late.stderr(), /not ready within 300ms: waiting for .*late\.pem.* \[ready_timeout\]/);

  for (const [signal, code] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
    ['SIGHUP', 129],
  ] as const) {
    const early = exec(t, place, ['touch', 'ran'], ['--ready-timeout', '0s']);
    await early.waitFor(/"code":"waiting"/);
    t.equal(await early.stop(signal), code, `${signal} ends the wait`);
  }
  t.notOk(existsSync(join(place.dir, 'ran')));

  const waiting = exec(t, place, ['touch', 'ran']);
  await waiting.waitFor(/"code":"waiting"/);
  writeFileSync(join(place.dir, 'late.pem'), readFileSync(join(place.dir, 'web.pem')));
  t.equal(await waiting.exited, 0, 'the app starts once there is one');
  t.ok(existsSync(join(place.dir, 'ran')));
});

t.test('exec waits for upstreams only on request', async (t) => {
  const place = await makePlace(
    t,
    'upstreams: { orders: { endpoints: ["127.0.0.1:1"], identity: spiffe://demo.test/ns/shop/sa/orders } }',
  );
  t.equal(await exec(t, place, ['true']).exited, 0);
  const patient = exec(t, place, ['true'], ['--wait-for-upstreams', '--ready-timeout', '500ms']);
  t.equal(await patient.exited, 125);
  t.match(patient.stderr(), /waiting for .*orders.* \[ready_timeout\]/);
});

t.test('each signal reaches the app exactly once', async (t) => {
  const place = await makePlace(t, 'limits: { drain: 0s, drainMinimum: 0s }');
  const names = ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGQUIT', 'SIGINT', 'SIGTERM'] as const;
  const script = `const seen = []; for (const name of ${JSON.stringify(names)}) process.on(name, () => { seen.push(name); console.log("got " + name); if (name === "SIGTERM") { console.log("all " + seen.join()); process.exit(3); } }); setInterval(() => {}, 1000); console.log("begun");`;
  const child = exec(t, place, [node, '-e', script]);
  await child.waitFor(/begun/);
  for (const name of names) {
    child.process.kill(name);
    await child.waitFor(new RegExp(`got ${name}`));
  }
  t.equal(await child.exited, 3);
  t.match(child.stdout(), `all ${names.join()}\n`);
});

t.test('outbound stays open until the app has ended, whatever the drain limits', async (t) => {
  const app = createServer((_request, response) => response.end('ok'));
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const mesh = await startMesh(t, { app: (app.address() as { port: number }).port });
  for (const workers of ['1', '2']) {
    const inPort = await freePort();
    const place = await makePlace(
      t,
      `inbound: [{ port: ${inPort}, bind: 127.0.0.1, app: 127.0.0.1:1 }]
upstreams: { orders: { endpoints: ["127.0.0.1:${mesh.inPort}"], identity: spiffe://demo.test/ns/shop/sa/orders } }
limits: { drain: 100ms, drainMinimum: 0s }`,
      mesh.authority,
    );
    // It ends when the test says so on its standard input, long after the sidecar has drained.
    const child = exec(
      t,
      place,
      ['sh', '-c', 'trap "echo leaving" TERM; echo begun; until read -r line; do :; done; exit 5'],
      [...['--workers', workers]],
    );
    await child.waitFor(/begun/);
    child.process.kill('SIGTERM');
    await child.waitFor(/leaving/);
    await until(async () => (await readReady(place.health)).status === 503, 'callers to be sent away');
    await until(() => refuses(inPort), 'inbound to be closed');
    await new Promise((resolve) => setTimeout(resolve, 300));
    for (let count = 0; count < 4; count++)
      t.match(
        await exchangeBytes(place.out, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n'),
        /^HTTP\/1\.1 200 OK/,
        `${workers} workers`,
      );
    child.process.stdin?.end('now\n');
    t.equal(await child.exited, 5);
  }
});

t.test('the app is killed', async (t) => {
  const place = await makePlace(t);
  const child = exec(t, place, shell('exec sleep 1000'));
  const [, pid] = await child.waitFor(/begun (\d+)/);
  process.kill(Number(pid), 'SIGKILL');
  t.equal(await child.exited, 137);
});

t.test('processes that the app leaves running end with it', async (t) => {
  const place = await makePlace(t);
  const child = exec(t, place, ['sh', '-c', 'sleep 1000 & echo "left $!"; exit 4']);
  const [, pid] = await child.waitFor(/left (\d+)/);
  t.equal(await child.exited, 4);
  t.match(child.stderr(), '"code":"app_left_processes"');
  t.notOk(isRunning(Number(pid)));
});

t.test('the wrapper is killed: the app ends', async (t) => {
  const place = await makePlace(t);
  const child = exec(t, place, shell('sleep 1000 & echo "other $!"; wait; echo ended'));
  const [, app] = await child.waitFor(/begun (\d+)/);
  const [, other] = await child.waitFor(/other (\d+)/);
  await child.waitFor(/"code":"app_started"/);
  child.process.kill('SIGKILL');
  await until(() => !isRunning(Number(app)) && !isRunning(Number(other)), 'the app and its child to end');
  await child.waitFor(/"code":"wrapper_killed"/);

  const stubborn = exec(t, place, shell('trap "" TERM; while :; do sleep 1; done'));
  const [, pid] = await stubborn.waitFor(/begun (\d+)/);
  await stubborn.waitFor(/"code":"app_started"/);
  stubborn.process.kill('SIGKILL');
  await until(() => !isRunning(Number(pid)), 'an app that ignores SIGTERM to be killed');
});

t.test('both are killed', async (t) => {
  const place = await makePlace(t);
  const child = exec(t, place, shell('exec sleep 1000'));
  const [, pid] = await child.waitFor(/begun (\d+)/);
  await child.waitFor(/"code":"app_started"/);
  process.kill(Number(pid), 'SIGKILL');
  child.process.kill('SIGKILL');
  await child.exited;
  t.pass('no process holds its streams: the guard has exited, too');
});

t.test('a slow reader does not truncate a large output', async (t) => {
  const place = await makePlace(t);
  const child = exec(t, place, ['sh', '-c', 'head -c 3000000 /dev/zero | tr "\\0" x && echo " done"']);
  child.process.stdout?.pause();
  await child.waitFor(/"code":"app_started"/);
  await new Promise((resolve) => setTimeout(resolve, 300));
  child.process.stdout?.resume();
  t.equal(await child.exited, 0, child.stderr());
  t.equal(child.stdout().length, 3_000_006);
});

t.test('POST /quitquitquit', async (t) => {
  const post = (admin: number, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`http://127.0.0.1:${admin}/quitquitquit`, { method: 'POST', headers });
  const place = await makePlace(t, 'limits: { drainMinimum: 0s }');
  const alone = startSallyport(t, ['sidecar', '--config', place.config]);
  await alone.waitFor(/"code":"ready"/);
  const foreign = await post(place.admin, { origin: 'https://evil.example' });
  t.match(await foreign.json(), { code: 'host_invalid' }, 'a web page cannot post it');
  const rebound = await exchangeBytes(
    place.admin,
    'POST /quitquitquit HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n',
  );
  t.match(rebound, '"host_invalid"', 'nor under another name of this machine');
  t.equal((await fetch(`http://127.0.0.1:${place.admin}/quitquitquit`)).status, 405, 'GET does nothing');
  t.equal((await fetch(`${place.health}/quitquitquit`, { method: 'POST' })).status, 404, 'the health port has none');
  t.equal((await readReady(place.health)).status, 200);
  t.equal((await post(place.admin)).status, 200);
  t.equal(await alone.exited, 0, 'the sidecar ends');

  const second = await makePlace(t, 'limits: { drainMinimum: 0s }');
  const wrapped = exec(t, second, ['sh', '-c', 'echo begun; read -r line; exit 6']);
  await wrapped.waitFor(/begun/);
  t.equal((await post(second.admin)).status, 200);
  await until(async () => (await readReady(second.health)).status === 503, 'callers to be sent away');
  wrapped.process.stdin?.end('now\n');
  t.equal(await wrapped.exited, 6, 'the app exits in its own time');
});

t.test('exec with the agent inside, and beside an agent', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const place = await makePlace(t);
  const identity = 'spiffe://demo.test/ns/shop/sa/web';
  await ca.writeToken(identity, join(place.dir, 'web.token'));
  const files = readFileSync(place.config, 'utf8');
  writeFileSync(
    place.config,
    files.replace(
      /^identity: .*$/m,
      `identity: { ca: { url: "${ca.url}", bundle: ${ca.bundleFile}, tokenFile: web.token, outDir: web } }`,
    ),
  );
  t.equal(await exec(t, place, ['test', '-s', 'web/svid.pem']).exited, 0);
  t.equal(await exec(t, place, ['test', '-s', 'web/svid.pem']).exited, 0, 'once more, without a token');

  await ca.writeToken(identity, join(place.dir, 'agent.token'));
  const agent = startSallyport(t, [
    ...['agent', '--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', join(place.dir, 'agent.token')],
    ...['--out-dir', join(place.dir, 'kept')],
  ]);
  writeFileSync(
    place.config,
    files.replace(
      /^identity: .*$/m,
      'identity: { files: { svid: kept/svid.pem, key: kept/svid.key, bundle: kept/bundle.pem } }',
    ),
  );
  t.equal(await exec(t, place, ['test', '-s', 'kept/svid.pem']).exited, 0);
  t.equal(await agent.stop(), 0);
});

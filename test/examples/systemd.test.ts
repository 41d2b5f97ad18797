// The units of examples/systemd: systemd accepts them, they leave a process little to do, their configurations are
// valid, and what they count on (readiness by sd_notify) is what the processes do.

import { spawnSync } from 'node:child_process';
import { globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { type Child, freePort, type Owner, startProcess, startSallyport, tempDir, until } from '../fixtures/process.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const example = join(root, 'examples', 'systemd');
const units = globSync(join(example, '*.service')).toSorted();
const has = (...command: readonly [string, ...string[]]): boolean =>
  spawnSync(command[0], command.slice(1), { stdio: 'ignore' }).status === 0;

t.test('each unit runs an existing command, and is listed', async (t) => {
  t.equal(units.length, 5);
  const readme = readFileSync(join(example, 'README.md'), 'utf8');
  const commands = ['agent', 'ca', 'exec', 'gateway', 'sidecar'];
  t.strictSame(
    units.map((unit) => /^ExecStart=\/usr\/bin\/sallyport (\w+)/m.exec(readFileSync(unit, 'utf8'))?.[1]),
    commands,
  );
  for (const unit of units) t.match(readme, `(${basename(unit)})`);
});

t.test('the configurations are valid', async (t) => {
  const read = (name: string): string => readFileSync(join(example, name), 'utf8');
  t.equal(parseSettings(read('orders.yaml'), '/etc/sallyport/orders.yaml').workload.serviceAccount, 'orders');
  t.ok(parseGatewaySettings(read('gateway.yaml'), '/etc/sallyport/gateway.yaml'));
});

const analyze = has('systemd-analyze', '--version') ? false : 'there is no systemd-analyze here';

t.test('systemd accepts the units, and rates their hardening', { skip: analyze }, async (t) => {
  const dir = tempDir(t);
  for (const unit of units) {
    // verify looks for the programs.
    const text = readFileSync(unit, 'utf8').replaceAll(/\/usr\/(?:local\/)?bin\/(?:sallyport|orders)\b/g, '/bin/sh');
    const file = join(dir, basename(unit));
    writeFileSync(file, text);
    const verified = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
    t.match(verified, { status: 0, stderr: '' }, basename(unit));
    const rated = spawnSync('systemd-analyze', ['security', '--no-pager', '--offline=true', '--threshold=30', file], {
      encoding: 'utf8',
    });
    t.equal(rated.status, 0, `${basename(unit)}: ${rated.stdout.trim().split('\n').at(-1)}${rated.stderr}`);
  }
});

/** A directory for PATH whose systemd-notify writes its arguments down. */
function makeNotify(t: Owner): { env: NodeJS.ProcessEnv; said(): string[] } {
  const dir = tempDir(t);
  const file = join(dir, 'said');
  writeFileSync(file, '');
  writeFileSync(join(dir, 'systemd-notify'), `#!/bin/sh\necho "$NOTIFY_SOCKET $*" >>${file}\n`, { mode: 0o755 });
  return {
    env: { NOTIFY_SOCKET: '/run/systemd/notify', PATH: `${dir}:${process.env['PATH']}` },
    said: () => readFileSync(file, 'utf8').split('\n').filter(Boolean),
  };
}

const ready = '/run/systemd/notify --ready --status=ready';
const stopping = '/run/systemd/notify STOPPING=1 --status=stopping';

t.test('CA, agent and sidecar notify systemd when they are ready and when they stop', async (t) => {
  const ca = await makeCa(t);
  const dir = tempDir(t);
  const [listen, out] = [await freePort(), await freePort()];
  mkdirSync(join(dir, 'policies'));
  const config = join(dir, 'sidecar.yaml');
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: kept/svid.pem, key: kept/svid.key, bundle: kept/bundle.pem } }
outbound: [{ port: ${out} }]
limits: { drainMinimum: 0s }
`,
  );
  const started = new Map<string, { child: Child; said(): string[] }>();
  const start = (name: string, args: readonly string[]): { child: Child; said(): string[] } => {
    const { env, said } = makeNotify(t);
    const one = { child: startSallyport(t, args, { cwd: dir, env }), said };
    started.set(name, one);
    return one;
  };
  const sidecar = start('sidecar', ['sidecar', '--config', config]);
  await until(
    () => sidecar.said().some((one) => /--status=waiting for .*kept/.test(one)),
    'what the sidecar waits for',
  );
  t.notOk(sidecar.said().includes(ready));
  const url = `https://127.0.0.1:${listen}`;
  start('ca', ['ca', 'serve', '--dir', ca.directory, '--listen', `127.0.0.1:${listen}`]);
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', join(dir, 'token'));
  start('agent', [
    ...['agent', '--ca', url, '--ca-bundle', ca.bundleFile, '--token-file', 'token', '--out-dir', 'kept'],
  ]);
  for (const [name, { said }] of started) await until(() => said().includes(ready), `${name} to be ready`);
  for (const [name, { child, said }] of [...started].toReversed()) {
    t.equal(await child.stop(), 0, name);
    t.equal(said().at(-1), stopping, name);
  }
});

const python = has('python3', '--version') && has('systemd-notify', '--version');

t.test(
  'systemd-notify works over a socket',
  { skip: python ? false : 'needs python3 and systemd-notify' },
  async (t) => {
    const dir = tempDir(t);
    const socket = join(dir, 'notify');
    const script = `import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True:
    data, fds, flags, address = socket.recv_fds(s, 4096, 4)
    print(data.decode(), flush=True)
    for fd in fds: os.close(fd)`;
    const listener = startProcess(t, 'python3', ['-c', script, socket]);
    await listener.waitFor(/bound/);
    const ca = await makeCa(t);
    const child = startSallyport(
      t,
      ['ca', 'serve', '--dir', ca.directory, '--listen', `127.0.0.1:${await freePort()}`],
      { env: { NOTIFY_SOCKET: socket } },
    );
    await listener.waitFor(/^READY=1$/m);
    t.equal(await child.stop(), 0);
    await listener.waitFor(/^STOPPING=1$/m);
  },
);

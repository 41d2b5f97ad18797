// Kind 15, background: a CA, a sidecar and an agent continue while each of their background jobs throws, log it, and
// end on request. A working directory that is deleted under a process neither stops it nor makes it spin.

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { Deadlines } from '../../sidecar/upstream/deadlines.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { startEcho } from '../fixtures/echo.ts';
import { writeGateway } from '../fixtures/gateway.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { freePort, runSallyport, startProcess, startSallyport, tempDir, until } from '../fixtures/process.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const bin = join(root, 'sidecar/bin.mjs');
const preload = new URL('../fixtures/failing-jobs.mjs', import.meta.url).href;

/** The product's sources. */
const sources = ['sidecar', 'cert-agent'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => ({ name: `${folder}/${name}`, text: readFileSync(join(root, folder, name), 'utf8') })),
);

/** The names of all background jobs. */
const jobs = new Set(
  sources.flatMap(({ text }) => [...text.matchAll(/\b(?:every|guard)\('([a-z_]+)'/g)].map(([, job]) => job!)),
);

/**
 * Two that need a request, one of a webhook in a cluster, four of a gateway that follows an API server, and one of the
 * first process of a container.
 */
const elsewhere = [
  ...['deadlines', 'oidc_refresh', 'webhook', 'zombies'],
  ...['configuration', 'kubernetes', 'lease', 'statuses'],
];
/** The jobs of these four processes. */
const beside = [...jobs].filter((job) => !elsewhere.includes(job));

t.test('every repeating timer and every new directory goes through one module', async (t) => {
  t.ok(jobs.size > 8, [...jobs].join(', '));
  const timers = sources.filter(({ text }) => /\bsetInterval\(/.test(text)).map(({ name }) => name);
  // The agent's holds the process and does nothing.
  t.strictSame(timers.sort(), ['cert-agent/base/background.ts', 'cert-agent/main.ts']);
  const makers = sources.filter(({ text }) => /mkdirSync\([^;]*recursive/.test(text)).map(({ name }) => name);
  t.strictSame(makers, ['cert-agent/base/write.ts']);
});

t.test('a CA, a sidecar, a gateway of two workers and an agent survive background jobs that throw', async (t) => {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'web', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  const app = await startEcho(t, 'a');
  const [out, inbound, health, admin] = [await freePort(), await freePort(), await freePort(), await freePort()];
  writeFileSync(
    join(dir, 'web.yaml'),
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: web }
identity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }
federatedBundles: { other.test: bundle.pem }
inbound: [{ port: ${inbound}, bind: 127.0.0.1, app: "127.0.0.1:${app}" }]
outbound: [{ port: ${out} }]
upstreams: { orders: { endpoints: ["127.0.0.1:${inbound}"], identity: spiffe://demo.test/ns/shop/sa/orders } }
health: ${health}
admin: ${admin}
learn: { file: learned.json }
limits: { drainMinimum: 0s }
accessLog: access.log
`,
  );
  const sidecar = startProcess(t, process.execPath, [
    '--import',
    preload,
    bin,
    'sidecar',
    '--config',
    join(dir, 'web.yaml'),
  ]);
  const front = await createCredential(authority, 'spiffe://demo.test/front', { dns: ['a.test'] });
  const { file } = await writeGateway(t, {
    listeners: ['default/edge:80'],
    documents:
      documentOf(
        'Gateway',
        'default/edge',
        '{ gatewayClassName: x, listeners: [{ name: a, port: 80, protocol: HTTPS, tls: { certificateRefs: [{ name: front }] } }] }',
      ) +
      `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'front' }, stringData: { 'tls.crt': front.chainPem, 'tls.key': front.keyPem } })}\n`,
    yaml: `redis: { url: "redis://127.0.0.1:${await freePort()}" }\n`,
  });
  const gateway = startProcess(t, process.execPath, [
    ...['--import', preload, bin, 'gateway', '--config', file, '--workers', '2'],
  ]);
  const agent = startProcess(t, process.execPath, [
    ...['--import', preload, bin, 'agent', '--ca', `https://127.0.0.1:${await freePort()}`],
    ...['--ca-bundle', join(dir, 'bundle.pem'), '--token-file', join(dir, 'none'), '--out-dir', join(dir, 'agent')],
  ]);
  const { directory } = await makeCa(t);
  const ca = startProcess(t, process.execPath, [
    ...['--import', preload, bin, 'ca', 'serve', '--dir', directory, '--listen', `127.0.0.1:${await freePort()}`],
  ]);
  await sidecar.waitFor(/"code":"listening"[^\n]*outbound/);
  const said = (): Set<string> =>
    new Set(
      [
        ...`${sidecar.stderr()}${gateway.stderr()}${agent.stderr()}${ca.stderr()}`.matchAll(
          /"background_failed","job":"([a-z_]+)"/g,
        ),
      ].map(([, job]) => job!),
    );
  await until(() => beside.every((job) => said().has(job)), 'a line of each job').catch(() => {});
  t.strictSame([...said()].sort(), [...beside, 'promise'].sort(), 'each job and each unhandled rejection is named');
  t.match(sidecar.stderr(), /"msg":"promise failed and will be retried: this is not awaited"/);

  t.equal((await fetch(`http://127.0.0.1:${health}/healthz/ready`)).status, 503, 'the health port answers');
  t.equal((await fetch(`http://127.0.0.1:${admin}/state`)).status, 200, 'the admin port answers');
  t.equal(sidecar.process.exitCode, null, 'the sidecar runs');
  t.equal(agent.process.exitCode, null, 'the agent runs');
  t.equal(gateway.process.exitCode, null, 'the gateway runs');
  t.equal(await gateway.stop(), 0, 'the gateway ends on request');
  t.equal(await agent.stop(), 0, 'the agent ends on request');
  t.equal(await sidecar.stop(), 0, 'the sidecar ends on request');
  t.equal(await ca.stop(), 0, 'the CA ends on request');
});

t.test('a deadline whose work throws does not affect another', (t) => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock);
  const ran: string[] = [];
  deadlines.set(10, () => {
    throw new Error('injected');
  });
  deadlines.set(20, () => ran.push('next'));
  deadlines.set(5000, () => ran.push('later'));
  clock.advance(100);
  t.strictSame(ran, ['next']);
  clock.advance(6000);
  t.strictSame(ran, ['next', 'later']);
  t.end();
});

t.test('a CA, a sidecar, a gateway and an agent survive the deletion of their working directory', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const parent = tempDir(t);
  const cwd = join(parent, 'gone');
  mkdirSync(cwd);
  const bundle = readFileSync(ca.bundleFile);
  writeFileSync(join(cwd, 'bundle.pem'), bundle);
  const agent = startSallyport(
    t,
    ['agent', '--ca', ca.url, '--ca-bundle', 'bundle.pem', '--token-file', 'web.token', '--out-dir', 'run/web'],
    { cwd },
  );
  writeFileSync(
    join(cwd, 'orders.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: orders }\nidentity: { ca: { url: "${ca.url}", bundle: bundle.pem, tokenFile: orders.token, outDir: run/orders } }\noutbound: [{ port: ${await freePort()} }]\naccessLog: access.log\nlimits: { drainMinimum: 0s }\n`,
  );
  const sidecar = startSallyport(t, ['sidecar', '--config', 'orders.yaml'], { cwd });
  await sallyportOk(t, ['ca', 'init', '--trust-domain', 'other.test', '--dir', 'ca'], cwd);
  const other = startSallyport(t, ['ca', 'serve', '--dir', 'ca', '--listen', `127.0.0.1:${await freePort()}`], { cwd });
  await agent.waitFor(/"agent_started"/);
  await sidecar.waitFor(/waiting for a join token/);
  await other.waitFor(/"listening"/);
  // They may still write a file meanwhile.
  rmSync(cwd, { recursive: true, maxRetries: 5 });

  // Put back under the same name, with what they wait for: they look there, and not in the directory that is gone.
  mkdirSync(cwd);
  writeFileSync(join(cwd, 'bundle.pem'), bundle);
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', join(cwd, 'web.token'));
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/orders', join(cwd, 'orders.token'));
  for (const name of ['web', 'orders'])
    await until(
      () => readFileSync(join(cwd, 'run', name, 'svid.pem')),
      `the SVID of ${name} in the directory that was meant`,
    );
  t.equal(await agent.stop(), 0, 'the agent ends on request');
  t.equal(await sidecar.stop(), 0, 'the sidecar ends on request');
  t.equal(await other.stop(), 0, 'the CA ends on request');
});

t.test('each command that is started in a deleted working directory names the problem', async (t) => {
  const cwd = join(tempDir(t), 'gone');
  mkdirSync(cwd);
  const commands = [
    ['agent', '--ca', 'https://127.0.0.1:1', '--ca-bundle', 'b', '--out-dir', 'run'],
    ['sidecar', '--config', 'sidecar.yaml'],
    ['ca', 'init', '--trust-domain', 'demo.test', '--dir', 'ca'],
    ['ca', 'serve', '--dir', 'ca'],
  ];
  await Promise.all(
    commands.map(async (args) => {
      const script = 'cd "$0" && rmdir "$0" 2>/dev/null; exec "$@"';
      const own = join(cwd, args.join('-').replaceAll('/', ''));
      mkdirSync(own);
      const child = startProcess(t, 'bash', ['-c', script, own, process.execPath, bin, ...args]);
      t.equal(await child.exited, 2, `${args[0]} ${args[1]}: ${child.stderr()}`);
      t.match(child.stderr(), /the working directory was deleted \[config_unreadable\]/, `${args[0]} ${args[1]}`);
    }),
  );
});

async function sallyportOk(t: Parameters<typeof runSallyport>[0], args: string[], cwd: string): Promise<void> {
  const { code, stderr } = await runSallyport(t, args, { cwd });
  if (code !== 0) throw new Error(stderr);
}

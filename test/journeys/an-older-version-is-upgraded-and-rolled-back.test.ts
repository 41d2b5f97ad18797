// An earlier commit's CA and sidecars, with their files, are replaced by those of this one, and put back: what
// OPERATIONS.md says of an upgrade and a rollback. No request is refused at any step.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { allowAll } from '../fixtures/mesh.ts';
import { type Child, freePort, startProcess, startSallyport, tempDir } from '../fixtures/process.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Its store has version 3, which the next ones bring to a version that it cannot read. */
const earlier = '7dc65271fe742b77b125880654623fb6f2eeda1f';
const idOf = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;

type Start = (args: readonly string[]) => Child;

/** The program of the earlier commit, with the packages of this checkout. */
function unpackEarlier(t: Test): Start {
  const dir = tempDir(t);
  const tar = execFileSync('git', ['archive', earlier, 'cert-agent', 'sidecar', 'package.json'], {
    cwd: root,
    maxBuffer: 2 ** 28,
  });
  execFileSync('tar', ['-x', '-C', dir], { input: tar });
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
  return (args) => startProcess(t, process.execPath, [join(dir, 'sidecar', 'bin.mjs'), ...args]);
}

async function run(start: Start, ...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = start(args);
  child.process.stdin?.end();
  const code = await child.exited;
  return { code, stdout: child.stdout(), stderr: child.stderr() };
}

/** The response to a request that one sidecar sends on to the service of another. */
function call(port: number, host: string): Promise<string> {
  return new Promise((resolve) => {
    get({ port, host: '127.0.0.1', headers: { host }, timeout: 20_000 }, (response) => {
      response.resume();
      response.once('end', () => resolve(String(response.statusCode)));
      response.once('error', (error) => resolve(error.message));
    }).once('error', (error) => resolve(error.message));
  });
}

const hasHistory = spawnSync('git', ['cat-file', '-e', earlier], { cwd: root, stdio: 'ignore' }).status === 0;
const skip = hasHistory ? false : 'the earlier commit is not in this checkout';

t.test('up to this version, and back', { skip, timeout: 280_000 }, async (t) => {
  const before = unpackEarlier(t);
  const now: Start = (args) => startSallyport(t, args);
  const place = tempDir(t);
  const dir = join(place, 'ca');
  const listen = `127.0.0.1:${await freePort()}`;
  const app = createServer((_request, response) => response.end('hello'));
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const { port: appPort } = app.address() as AddressInfo;
  const names = ['a', 'b'] as const;
  const ports = { a: [await freePort(), await freePort()], b: [await freePort(), await freePort()] } as const;
  mkdirSync(join(place, 'policies'));
  writeFileSync(join(place, 'policies', 'policy.yaml'), allowAll);

  const ok = async (start: Start, ...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await run(start, ...args);
    t.equal(code, 0, `${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  const serve = async (start: Start): Promise<Child> => {
    const child = start(['ca', 'serve', '--dir', dir, '--listen', listen]);
    await child.waitFor(/"code":"listening"/);
    return child;
  };
  const token = (start: Start, name: string) =>
    ok(
      ...([start, 'ca', 'token', 'create', '--dir', dir, '--spiffe-id', idOf(name)] as const),
      ...['--out', join(place, `${name}.token`)],
    );
  const sidecar = async (start: Start, name: string): Promise<Child> => {
    const child = start(['sidecar', '--config', join(place, `${name}.yaml`)]);
    await child.waitFor(/"code":"ready"/);
    return child;
  };
  const bothWays = async (what: string): Promise<void> => {
    t.equal(await call(ports.a[1], 'b'), '200', `${what}: a calls b`);
    t.equal(await call(ports.b[1], 'a'), '200', `${what}: b calls a`);
  };

  // The earlier version, from nothing.
  await ok(before, 'ca', 'init', '--trust-domain', 'demo.test', '--dir', dir);
  let ca = await serve(before);
  for (const name of names) {
    const other = name === 'a' ? 'b' : 'a';
    await token(before, name);
    writeFileSync(
      join(place, `${name}.yaml`),
      `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: ${name} }
identity: { ca: { url: "https://${listen}", bundle: ${join(dir, 'bundle.pem')}, tokenFile: ${name}.token, outDir: ${name} } }
limits: { drainMinimum: 0s }
policies: policies/
inbound: [{ port: ${ports[name][0]}, bind: 127.0.0.1, app: 127.0.0.1:${appPort} }]
outbound: [{ port: ${ports[name][1]} }]
upstreams: { ${other}: { endpoints: ["127.0.0.1:${ports[other][0]}"], identity: ${idOf(other)} } }
`,
    );
  }
  let a = await sidecar(before, 'a');
  let b = await sidecar(before, 'b');
  await bothWays('both of the earlier version');

  // The CA first. The earlier version has no `ca backup`: a copy of its directory while it is stopped.
  t.equal(await ca.stop(), 0);
  const backup = join(place, 'backup');
  cpSync(dir, backup, { recursive: true });
  ca = await serve(now);
  await bothWays('the CA is new');

  // Then the sidecars, one by one, with the same files. Their tokens are used up: certificate and key are enough.
  t.equal(await b.stop(), 0);
  b = await sidecar(now, 'b');
  await bothWays('b is new');
  t.equal(await a.stop(), 0);
  a = await sidecar(now, 'a');
  await bothWays('both are new');

  // What the new CA issues and revokes.
  await token(now, 'c');
  const agent = now([
    ...['agent', '--ca', `https://${listen}`, '--ca-bundle', join(dir, 'bundle.pem')],
    ...['--token-file', join(place, 'c.token'), '--out-dir', join(place, 'c')],
  ]);
  await agent.waitFor(/"svid_received"/);
  await agent.stop();
  await run(now, 'ca', 'revoke', idOf('c'), '--dir', dir, '--reason', 'test');
  t.match(await ok(now, 'ca', 'deny-list', '--dir', dir), idOf('c'));

  // Back: a sidecar is restarted with the earlier program.
  t.equal(await b.stop(), 0);
  b = await sidecar(before, 'b');
  await bothWays('b is back');
  t.equal(await a.stop(), 0);
  a = await sidecar(before, 'a');
  await bothWays('both are back, and the CA is new');

  // The CA: its store is refused, and nothing is changed. The way back is the copy.
  t.equal(await ca.stop(), 0);
  const refused = await run(before, 'ca', 'serve', '--dir', dir, '--listen', listen);
  t.match(refused, { code: 1, stderr: /the store has version \d+, this build knows 3 \[store_failed\]/ });
  await bothWays('no CA runs');
  ca = await serve(now);
  t.match(await ok(now, 'ca', 'deny-list', '--dir', dir), idOf('c'), 'the refusal has changed nothing');
  t.equal(await ca.stop(), 0);
  rmSync(dir, { recursive: true });
  cpSync(backup, dir, { recursive: true });
  ca = await serve(before);
  t.notMatch(await ok(before, 'ca', 'deny-list', '--dir', dir), idOf('c'), 'what was revoked since is forgotten');
  t.match(await ok(before, 'ca', 'ls', '--dir', dir), idOf('a'), 'what was issued before is known');
  await bothWays('everything is back');
  for (const child of [a, b, ca]) t.equal(await child.stop(), 0);
});

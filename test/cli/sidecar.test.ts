// `sallyport sidecar` as a command: its refusals, with all problems, a hint and an exit code.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, runSallyport, startSallyport, tempDir } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const credential = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders');

/** A directory with a valid configuration. */
function makeFiles(t: Owner, port: number): { dir: string; config: string; policy: string } {
  const dir = tempDir(t);
  writeCredential(dir, 'orders', credential);
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'policies'));
  const [config, policy] = [join(dir, 'sidecar.yaml'), join(dir, 'policies', 'a.yaml')];
  writeFileSync(
    policy,
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: shop }\nspec: { rules: [{}] }\n',
  );
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
inbound: [{ port: ${port}, bind: 127.0.0.1, app: 127.0.0.1:1 }]
policies: policies/
`,
  );
  return { dir, config, policy };
}

t.test('--check validates the configuration', async (t) => {
  const { dir, config, policy } = makeFiles(t, 15_006);
  const good = await runSallyport(t, ['sidecar', '--config', config, '--check']);
  t.match(good, { code: 0, stdout: '', stderr: `${config} is valid: 1 inbound port, 0 outbound ports, 1 policy\n` });

  writeFileSync(
    policy,
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a }\nspec: { ruls: [] }\n',
  );
  writeFileSync(join(dir, 'policies', 'b.yaml'), 'kind: [\n');
  const bad = await runSallyport(t, ['sidecar', '--config', config, '--check']);
  t.equal(bad.code, 1, 'a finding');
  const json = await runSallyport(t, ['sidecar', '--config', config, '--check', '--json']);
  t.equal(json.code, 1);
  const { ok, problems } = JSON.parse(json.stdout) as { ok: boolean; problems: { file: string; line: number }[] };
  t.equal(ok, false);
  t.ok(problems.some(({ file, line }) => file === policy && line === 4));
  t.match(bad.stderr, `${policy}:4:9: unknown key 'ruls' (did you mean 'rules'?)`);
  t.match(bad.stderr, `${join(dir, 'policies', 'b.yaml')}:`);
  t.match(bad.stderr, /^error: \d problems found \[config_invalid\]$/m);
});

t.test('a missing configuration is reported', async (t) => {
  for (const args of [[], ['--check']]) {
    const { code, stderr } = await runSallyport(t, ['sidecar', '--config', '/nowhere/sidecar.yaml', ...args]);
    t.equal(code, 2);
    t.match(stderr, /\/nowhere\/sidecar.yaml.* \[config_unreadable\]/);
  }
});

t.test('a broken configuration ends the start and reports each problem', async (t) => {
  const { config } = makeFiles(t, 15_006);
  writeFileSync(config, 'trustDomain: demo.test\nworklod: {}\n');
  const { code, stderr } = await runSallyport(t, ['sidecar', '--config', config]);
  t.equal(code, 2);
  t.match(stderr, `${config}:2:1: unknown key 'worklod' (did you mean 'workload'?)`);
  t.match(stderr, /problems found \[config_invalid\]/);
});

t.test('a port in use is reported', async (t) => {
  const port = await freePort();
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(port, '127.0.0.1', resolve));
  t.teardown(() => other.close());
  const { config } = makeFiles(t, port);
  const { code, stderr } = await runSallyport(t, ['sidecar', '--config', config]);
  t.equal(code, 1);
  t.match(stderr, `error: 127.0.0.1:${port} is already in use [port_in_use]`);
  t.match(stderr, 'hint: stop the other process or choose another port');
});

t.test('the sidecar waits for missing identity files', async (t) => {
  const port = await freePort();
  const { dir, config } = makeFiles(t, port);
  writeFileSync(
    config,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders }
identity: { files: { svid: late.pem, key: late.key, bundle: bundle.pem } }
inbound: [{ port: ${port}, bind: 127.0.0.1, app: 127.0.0.1:1 }]
`,
  );
  const child = startSallyport(t, ['sidecar', '--config', config]);
  await child.waitFor(/"code":"waiting".*late\.pem/);
  writeCredential(dir, 'late', credential);
  await child.waitFor(/"code":"ready"/);
  t.equal(await child.stop(), 0);
});

// What `--check` warns of: each kind of warning by itself, with its place, and none where all is well.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { formatProblem, type Problem } from '../../cert-agent/base/errors.ts';
import { configurationWarnings, firstPolicy, nothingCanPass } from '../../sidecar/analyze/configuration-warnings.ts';
import { readConfiguration } from '../../sidecar/config/read.ts';
import { parseIstio } from '../../sidecar/documents/istio/read.ts';
import { runCommand } from '../fixtures/command.ts';
import { writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, tempDir } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const credential = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders');

const allow = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: a, namespace: shop }
spec: { rules: [{}] }
`;
const yaml = `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders, labels: { app: orders } }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
inbound: [{ port: 15006, app: 127.0.0.1:1 }]
policies: policies/
`;

/** A sidecar.yaml with its files. */
function makeFiles(t: Owner, text = yaml, policy = allow): string {
  const dir = tempDir(t);
  writeCredential(dir, 'orders', credential);
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'a.yaml'), policy);
  writeFileSync(join(dir, 'sidecar.yaml'), text);
  return join(dir, 'sidecar.yaml');
}

async function warningsOf(file: string, now = Date.now()): Promise<string[]> {
  const { settings, documents, sources } = await readConfiguration(file);
  const found: readonly Problem[] = await configurationWarnings({ settings, documents, text: sources[0]!.text }, now);
  return found.map(formatProblem);
}

t.test('nothing, where all is well', async (t) => {
  t.strictSame(await warningsOf(makeFiles(t)), []);
});

t.test('files that are missing', async (t) => {
  const file = makeFiles(t, yaml.replace('orders.key', 'other.key').concat('federatedBundles: { b.test: b.pem }\n'));
  t.match(await warningsOf(file), [
    /sidecar\.yaml:3:45: identity\.files\.key: .*\/other\.key does not exist \(/,
    /sidecar\.yaml:6:29: federatedBundles\.b\.test: .*\/b\.pem does not exist \(/,
  ]);
});

t.test('a certificate that has expired, and one of another workload', async (t) => {
  const file = makeFiles(t);
  t.match(await warningsOf(file, Date.now() + 400 * 86_400_000), [
    /sidecar\.yaml:3:28: identity\.files\.svid: validity: .*\(correct the clock/,
  ]);
  const other = makeFiles(t, yaml.replace('serviceAccount: orders', 'serviceAccount: billing'));
  t.match(await warningsOf(other), [/identity\.files\.svid: it is that of .*orders, and 'workload' says .*billing/]);
});

t.test('tokens: none, and one that has expired', async (t) => {
  const withCa = (token: string): string =>
    yaml.replace(
      /identity: .*/,
      `identity: { ca: { url: "https://127.0.0.1:1", bundle: bundle.pem, ${token}, outDir: out } }`,
    );
  t.match(await warningsOf(makeFiles(t, withCa('tokenFile: web.token'))), [
    /sidecar\.yaml:3:\d+: identity\.ca: there is no certificate yet, and no join token in .*web\.token \(sallyport ca token/,
  ]);
  const file = makeFiles(t, withCa('kubernetesTokenFile: pod.token'));
  const claims = Buffer.from(JSON.stringify({ exp: 1_700_000_000 })).toString('base64url');
  const token = join(file, '..', 'pod.token');
  writeFileSync(token, `${Buffer.from('{"alg":"ES256"}').toString('base64url')}.${claims}.c2ln`);
  const expired = /identity\.ca\.kubernetesTokenFile: the token in .* expired at 2023-11-14T22:13:20/;
  t.match(await warningsOf(file), [expired]);
  t.strictSame(await warningsOf(file, 1_699_999_999_000), []);
  writeFileSync(token, 'nothing');
  t.match(await warningsOf(file), [/pod\.token is no token: /]);
});

t.test('nothing can pass, and the policy to copy', async (t) => {
  for (const [text, policy, place] of [
    [yaml, allow.replace('spec:', 'spec: { action: DENY, rules: [{}] } #'), '5:11'],
    [yaml, allow.replace('rules: [{}]', ''), '5:11'],
    [yaml, allow.replace('namespace: shop', 'namespace: other'), '5:11'],
    [yaml, allow.replace('name: a,', 'name: a, annotations: { istio.io/dry-run: "true" },'), '5:11'],
    [yaml.replace('policies: policies/\n', ''), '', '4:10'],
  ] as const)
    t.match(await warningsOf(makeFiles(t, text, policy)), [`sidecar.yaml:${place}: nothing can pass`], policy);
  for (const text of [`${yaml}defaultAction: allow\n`, yaml.replace(/inbound: .*/, 'outbound: [{ port: 9000 }]')])
    t.strictSame(await warningsOf(makeFiles(t, text, allow.replace('shop', 'other'))), [], text);
  const { settings } = await readConfiguration(makeFiles(t));
  const documents = parseIstio([{ file: 'copied.yaml', text: firstPolicy(settings) }]);
  t.notOk(nothingCanPass(settings, documents), 'the copied policy is attached and allows something');
});

t.test('CUSTOM policies of an unknown provider', async (t) => {
  const custom = allow
    .replace('name: a', 'name: c')
    .replace('rules', 'action: CUSTOM, provider: { name: nope }, rules');
  t.match(await warningsOf(makeFiles(t, yaml, `${allow}---\n${custom}`)), [
    /a\.yaml:8:1: there is no extension provider 'nope': shop\/c refuses every request/,
  ]);
});

t.test('names that do not resolve', async (t) => {
  const upstream = 'upstreams: { x: { endpoints: [nosuch.invalid:1], identity: "spiffe://demo.test/ns/a/sa/b" } }\n';
  const tokens = `${allow}---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: r, namespace: shop }
spec: { jwtRules: [{ issuer: a, jwksUri: "https://keys.invalid/jwks" }] }\n`;
  t.match(await warningsOf(makeFiles(t, yaml + upstream, tokens)), [
    /sidecar\.yaml:6:31: upstreams\.x\.endpoints\[0\]: nosuch\.invalid \(upstream x\) is not found/,
    /a\.yaml:8:1: keys\.invalid \(jwksUri of shop\/r\) is not found/,
  ]);
});

t.test('the command: warnings leave it at 0, --strict makes them errors', async (t) => {
  const file = makeFiles(t, yaml, allow.replace('shop', 'other'));
  const check = (...more: string[]) => runCommand(t, ['sidecar', '--config', file, '--check', ...more]);
  const { code, stderr } = await check();
  t.equal(code, 0);
  t.match(stderr, /^warning: .*sidecar\.yaml:5:11: nothing can pass: [^\n]*\nsuch as:\n\napiVersion: security/);
  t.match(stderr, /is valid: 1 inbound port, 0 outbound ports, 1 policy; 1 warning\n$/);
  t.match(await check('--strict'), { code: 1, stderr: /\nerror: 1 warning \(--strict\)\n$/ });
  const gateway = join(file, '..', 'gateway.yaml');
  writeFileSync(
    gateway,
    yaml
      .replace(/inbound: .*\n/, '')
      .replace('policies:', 'documents:')
      .replace(/, labels: .*? \}/, ''),
  );
  writeFileSync(join(file, '..', 'policies', 'a.yaml'), '# nothing');
  const empty = await runCommand(t, ['gateway', '--config', gateway, '--check', '--strict']);
  t.match(empty, { code: 1, stderr: /gateway\.yaml:1:1: nothing is served: there is no Gateway and no route/ });
});

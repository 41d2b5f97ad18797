// Keys, tokens, passphrases and passwords on disk belong to their owner. A file that every user may read is closed if
// it is ours, and refused if not: another user may have it by then.

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readToken } from '../../cert-agent/attestation/join-token.ts';
import { guardSecret, readSecret } from '../../cert-agent/base/secret-file.ts';
import { readPassphrase } from '../../cert-agent/ca/passphrase.ts';
import { watchIdentityFiles } from '../../cert-agent/identity/files.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { readConfiguration } from '../../sidecar/config/read.ts';
import { parseTarget } from '../../sidecar/edge/redis.ts';
import { makeCa, startTestCa } from '../fixtures/ca.ts';
import { startFakeCa } from '../fixtures/fake-ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { runSallyport, tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const web = 'spiffe://demo.test/ns/shop/sa/web';
const isRoot = process.geteuid?.() === 0;

const modeOf = (file: string): number => statSync(file).mode & 0o777;

/** A file with exactly this mode, whatever the umask is. */
function fileOf(t: Test, text: string, mode: number, dir = tempDir(t)): string {
  const file = join(dir, 'secret');
  writeFileSync(file, text);
  chmodSync(file, mode);
  return file;
}

/** Gives the file to another user: only root can, and only then can this be tried. */
function giveAway(file: string): string {
  chownSync(file, 12_345, 12_345);
  return file;
}

const refusal = (file: string) => ({
  code: 'secret_exposed',
  message: `${file} can be read or changed by every user (mode 0644), and it belongs to user 12345: the file is not used`,
  hint: `chmod 600 ${file}; in Kubernetes set defaultMode: 0440 and an fsGroup`,
});

t.test('our own open file is closed with a warning; group access is accepted and logged once', async (t) => {
  const cases: [number, number, RegExp | undefined][] = [
    [0o600, 0o600, undefined],
    [0o400, 0o400, undefined],
    [0o644, 0o600, /could be read or changed by every user \(mode 0644\); access is now removed/],
    [0o666, 0o600, /mode 0666/],
    [0o602, 0o600, /mode 0602/],
    [0o444, 0o400, /mode 0444/],
    [0o640, 0o640, /^group \d+ can read .*secret \(mode 0640\): run chmod 600 .*secret if that is not intended$/],
    [0o440, 0o440, /^group \d+ can read/],
  ];
  for (const [mode, after, warning] of cases) {
    const file = fileOf(t, 's3cret', mode);
    const said = guardSecret(file);
    if (warning === undefined) t.equal(said, undefined, mode.toString(8));
    else t.match(said, warning, mode.toString(8));
    t.notMatch(String(said), 's3cret');
    t.equal(modeOf(file), after, mode.toString(8));
    t.equal(guardSecret(file), undefined, 'logged once');
  }
  t.equal(guardSecret(join(tempDir(t), 'none')), undefined, 'a missing file is left to its reader');
  t.equal(guardSecret('/dev/null'), undefined, 'a device does not need closing');
});

t.test(
  'a file of another user is refused and left unchanged',
  { skip: !isRoot && 'only root can give a file away' },
  async (t) => {
    const file = giveAway(fileOf(t, 's', 0o644));
    t.throws(() => guardSecret(file), refusal(file));
    t.equal(modeOf(file), 0o644);
    chmodSync(file, 0o640);
    t.match(guardSecret(file), /^group 12345 can read/);
  },
);

t.test('a link that leads elsewhere changes no mode there, and an open file there is refused', async (t) => {
  const target = fileOf(t, 'of another directory', 0o644);
  const dir = tempDir(t);
  const link = join(dir, 'link');
  symlinkSync(target, link);
  const refused = {
    code: 'secret_exposed',
    message: `${link} can be read or changed by every user (mode 0644), and it is a symbolic link to somewhere else: the file is not used`,
  };
  t.throws(() => guardSecret(link), refused);
  t.throws(() => readPassphrase(link, {}), refused);
  t.throws(() => readToken(link, () => {}), refused);
  t.throws(() => parseTarget({ url: 'rediss://redis.test', passwordFile: link }, () => {}).secrets(), refused);
  t.equal(modeOf(target), 0o644);
  chmodSync(target, 0o600);
  t.equal(guardSecret(link), undefined, 'a closed file there is used');
  t.equal(readPassphrase(link, {}), 'of another directory');
});

t.test('a Kubernetes volume links into its own directory, and is read and closed as before', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, '..2026_01_01'));
  const target = fileOf(t, 'pass\n', 0o440, join(dir, '..2026_01_01'));
  symlinkSync('..2026_01_01', join(dir, '..data'));
  symlinkSync('..data/secret', join(dir, 'secret'));
  t.equal(readPassphrase(join(dir, 'secret'), {}), 'pass');
  t.equal(modeOf(target), 0o440);
  chmodSync(target, 0o644);
  t.equal(readPassphrase(join(dir, 'secret'), {}), 'pass');
  t.equal(modeOf(target), 0o600);
});

t.test('the file that is read is the one that was checked, even if its name then leads elsewhere', async (t) => {
  const dir = tempDir(t);
  const file = fileOf(t, 'judged', 0o640, dir);
  const other = fileOf(t, 'never checked', 0o644);
  const said: string[] = [];
  const text = readSecret(file, (message) => {
    said.push(message);
    rmSync(file);
    symlinkSync(other, file);
  });
  t.equal(text, 'judged');
  t.match(said, [/^group \d+ can read/]);
  t.equal(modeOf(other), 0o644);
});

t.test('a pipe is read to its end', { skip: process.platform === 'win32' }, async (t) => {
  const pipe = join(tempDir(t), 'pipe');
  execFileSync('mkfifo', [pipe]);
  const writer = spawn('sh', ['-c', 'echo joined > "$0"', pipe]);
  t.equal(readPassphrase(pipe, {}), 'joined');
  await once(writer, 'close');
});

async function agentWith(t: Test, tokenFile: string) {
  const clock = new ManualClock();
  const captured = captureLog();
  const ca = await startFakeCa(t, { authority, clock });
  const caBundleFile = join(tempDir(t), 'root.pem');
  writeFileSync(caBundleFile, authority.bundlePem);
  const outDir = join(tempDir(t), 'out');
  const options = { caUrl: ca.url, caBundleFile, outDir, tokenFile, log: captured.log, clock, random: () => 0.5 };
  const agent = startAgent(options);
  t.teardown(() => agent.close());
  return { agent, clock, captured, outDir, ca };
}

t.test("a join token that a redirect left readable is closed and used; an agent's own key stays closed", async (t) => {
  const tokenFile = fileOf(t, 'join-me\n', 0o644);
  const { agent, clock, captured, outDir } = await agentWith(t, tokenFile);
  await until(() => agent.identity.current(), 'the SVID');
  t.equal(modeOf(tokenFile), 0o600);
  t.match(captured.withCode('secret_exposed'), [
    { level: 'warn', msg: /secret could be read or changed by every user/ },
  ]);
  chmodSync(join(outDir, 'svid.key'), 0o644);
  clock.advance(1000);
  t.equal(modeOf(join(outDir, 'svid.key')), 0o600);
  t.match(captured.withCode('secret_exposed')[1]?.['msg'], /svid\.key could be read/);
});

t.test('a readable join token of another user is not used until it is closed', { skip: !isRoot }, async (t) => {
  const tokenFile = giveAway(fileOf(t, 'join-me\n', 0o644));
  const { agent, clock, ca } = await agentWith(t, tokenFile);
  await until(() => agent.status().lastError, 'the refusal');
  t.match(agent.status().lastError, refusal(tokenFile));
  t.equal(ca.requests.length, 0);
  chmodSync(tokenFile, 0o600);
  clock.advance(10_000);
  await until(() => agent.identity.current(), 'the SVID');
});

t.test('an agent does not use a readable key of another user: it joins again', { skip: !isRoot }, async (t) => {
  const tokenFile = fileOf(t, 'join-me\n', 0o600);
  const { agent, clock, captured, outDir } = await agentWith(t, tokenFile);
  const first = await until(() => agent.identity.current(), 'the SVID');
  const key = join(outDir, 'svid.key');
  chmodSync(giveAway(realpathSync(key)), 0o644);
  clock.advance(1000);
  t.equal(modeOf(key), 0o600, 'written again while it runs');
  t.match(captured.withCode('generation_damaged'), [{ msg: /svid\.key can be read or changed by every user/ }]);
  t.equal(agent.identity.current(), first);
  await agent.close();
  chmodSync(giveAway(realpathSync(key)), 0o644);
  const again = startAgent({
    caUrl: 'https://127.0.0.1:1',
    caBundleFile: 'none',
    outDir,
    trustDomain: 'demo.test',
    log: captured.log,
    clock,
  });
  t.teardown(() => again.close());
  t.equal(again.identity.current(), undefined);
  t.match(captured.withCode('generation_unusable'), [{ msg: /svid\.key can be read or changed by every user/ }]);
});

t.test('the key of identity.files is checked', async (t) => {
  const dir = tempDir(t);
  const { chainPem, keyPem } = await createCredential(authority, web);
  const key = fileOf(t, keyPem, 0o644, dir);
  const paths = { svid: join(dir, 'svid.pem'), key, bundle: join(dir, 'bundle.pem'), trustDomain: 'demo.test' };
  writeFileSync(paths.svid, chainPem);
  writeFileSync(paths.bundle, authority.bundlePem);
  const clock = new ManualClock();
  const captured = captureLog();
  const watch = () => {
    const watched = watchIdentityFiles(paths, { log: captured.log, clock });
    t.teardown(() => watched.close());
    return watched;
  };
  t.ok(watch().identity.current());
  t.equal(modeOf(key), 0o600);
  t.match(captured.withCode('secret_exposed'), [{ level: 'warn' }]);
  if (!isRoot) return;
  chmodSync(giveAway(key), 0o644);
  const refused = watch();
  t.equal(refused.identity.current(), undefined);
  t.match(refused.lastProblem(), refusal(key));
  chmodSync(key, 0o600);
  clock.advance(1000);
  t.ok(refused.identity.current(), 'the file is checked again until it is closed');
});

t.test('passphrases, Redis passwords and the keys of a CA are checked', async (t) => {
  const passphrase = fileOf(t, 'correct horse\n', 0o644);
  const said: string[] = [];
  t.equal(
    readPassphrase(passphrase, {}, (message) => said.push(message)),
    'correct horse',
  );
  const password = fileOf(t, 'pw\n', 0o644);
  const target = parseTarget({ url: 'rediss://redis.test', passwordFile: password }, (message) => said.push(message));
  t.equal(target.secrets().password, 'pw');
  t.match(said, [/could be read/, /could be read/]);
  const dir = await makeCa(t);
  const keys = ['intermediate.key', 'root.key', 'store.sqlite'].map((name) => join(dir, name));
  for (const key of keys) chmodSync(key, 0o644);
  const ca = await startTestCa(t, { dir });
  t.match(ca.logged.join(''), /"code":"secret_exposed"/);
  for (const file of [passphrase, password, ...keys]) t.equal(modeOf(file), 0o600, file);
  await ca.close();
  if (!isRoot) return;
  for (const file of [passphrase, password, keys[0]!]) chmodSync(giveAway(file), 0o644);
  t.throws(() => readPassphrase(passphrase, {}), refusal(passphrase));
  t.throws(() => target.secrets(), refusal(password));
  await t.rejects(startTestCa(t, { dir }), refusal(keys[0]!));
});

t.test('the keys of a gateway, its session keys and its Secret documents are checked', async (t) => {
  const dir = tempDir(t);
  const yaml = `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: g }
identity: { files: { svid: g.pem, key: g.key, bundle: b.pem } }
documents: documents/
certificates: { shop/pair: { certificate: pair.pem, key: pair.key } }
sessionKeys: session.keys
admin: 15000
`;
  mkdirSync(join(dir, 'documents'));
  const at = (name: string): string => join(dir, name);
  const secret = (name: string): string =>
    `apiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: shop }\nstringData: { x: y }\n`;
  const route = `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c, namespace: shop }\ndata: { x: y }\n`;
  const files: Record<string, string> = {
    'gateway.yaml': yaml,
    'pair.pem': 'certificate',
    'pair.key': 'key',
    'session.keys': 'key of sessions',
    'documents/a.yaml': secret('a'),
    'documents/b.yaml': `${route}---\n${secret('b')}`,
    'documents/c.yaml': route.replace('name: c', 'name: d'),
  };
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(at(name), text);
    chmodSync(at(name), 0o644);
  }
  const secrets = ['pair.key', 'session.keys', 'documents/a.yaml', 'documents/b.yaml'];
  const { gateway } = await readConfiguration(at('gateway.yaml'));
  t.equal(gateway?.certificates['shop/pair']?.key, 'key');
  t.equal(gateway?.sessionKeys, 'key of sessions');
  t.same(
    gateway?.documents.secrets.map((one) => one.name),
    ['a', 'b'],
  );
  for (const name of Object.keys(files)) t.equal(modeOf(at(name)), secrets.includes(name) ? 0o600 : 0o644, name);
  t.equal(gateway?.documents.warnings.filter((one) => one.message.includes('access is now removed')).length, 4);
  t.same((await readConfiguration(at('gateway.yaml'))).gateway?.documents.warnings, [], 'reported once');
  if (!isRoot) return;
  for (const name of secrets) chmodSync(giveAway(at(name)), 0o644);
  const closed = (await readConfiguration(at('gateway.yaml'))).gateway;
  t.same(closed?.certificates['shop/pair'], { certificate: 'certificate', key: '' }, 'the file is treated as missing');
  t.equal(closed?.sessionKeys, '');
  t.same(closed?.documents.secrets, []);
  t.equal(closed?.documents.configMaps.length, 2, 'the rest is served');
  t.match(
    closed?.documents.warnings.map(({ message }) => message).toSorted(),
    secrets.map((name) => refusal(at(name)).message).toSorted(),
  );
});

t.test('--out writes a file for its owner only', async (t) => {
  const dir = await makeCa(t);
  const out = join(tempDir(t), 'web.token');
  const made = await runSallyport(t, ['ca', 'token', 'create', '--dir', dir, '--spiffe-id', web, '--out', out]);
  t.match(made, { code: 0, stdout: '' });
  t.match(readFileSync(out, 'utf8'), /^[0-9a-f]{64}\n$/);
  t.equal(modeOf(out), 0o600);
  chmodSync(out, 0o644);
  const json = await runSallyport(t, [
    'ca',
    'token',
    'create',
    '--dir',
    dir,
    '--spiffe-id',
    web,
    '--out',
    out,
    '--json',
  ]);
  t.notMatch(json.stdout, readFileSync(out, 'utf8').trim(), 'the token is only in the file');
  t.equal(modeOf(out), 0o600, 'the same applies in place of an open file');
  const before = await runSallyport(t, ['ca', 'token', 'ls', '--dir', dir, '--json']);
  const nowhere = join(tempDir(t), 'none', 'x');
  t.match(await runSallyport(t, ['ca', 'token', 'create', '--dir', dir, '--spiffe-id', web, '--out', nowhere]), {
    code: 2,
    stderr: `cannot write ${nowhere}: ENOENT [config_unreadable]`,
  });
  const after = await runSallyport(t, ['ca', 'token', 'ls', '--dir', dir, '--json']);
  t.equal(after.stdout, before.stdout, 'no unprinted token is created either');
});

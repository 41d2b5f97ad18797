import { X509Certificate } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { openAuthority } from '../../cert-agent/ca/authority.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { initCa } from '../../cert-agent/ca/init.ts';
import { readPassphrase } from '../../cert-agent/ca/passphrase.ts';
import { parseBundle } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { caIdOf } from '../../cert-agent/identity/spiffe-id.ts';
import { firstPem, makeCa } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { publicKeyOf } from '../fixtures/pki.ts';
import { tempDir } from '../fixtures/process.ts';

const yearMs = 365 * 86_400_000;

t.test('a new CA has a root and an intermediate that the root signed', async (t) => {
  const clock = new ManualClock();
  const dir = join(tempDir(t), 'deep', 'ca');
  const made = await initCa({ dir, trustDomain: 'spiffe://demo.test', clock });
  const files = caFilesOf(dir);
  const [rootDer, intermediateDer] = [files.root, files.intermediate].map((one) => firstPem(readFileSync(one, 'utf8')));
  const [root, intermediate] = [new X509Certificate(rootDer!), new X509Certificate(intermediateDer!)];
  t.equal(root.subject, 'CN=demo.test root');
  t.equal(intermediate.subject, 'CN=demo.test intermediate');
  t.ok(root.checkIssued(root) && root.verify(root.publicKey), 'the root signed itself');
  t.ok(intermediate.checkIssued(root) && intermediate.verify(root.publicKey));
  t.match(readCertificateFacts(rootDer!), {
    uris: ['spiffe://demo.test'],
    isCa: true,
    pathLength: 1,
    keyUsage: ['keyCertSign', 'cRLSign'],
    keyUsageCritical: true,
    permittedUriHosts: undefined,
  });
  t.match(readCertificateFacts(intermediateDer!), { uris: ['spiffe://demo.test'], isCa: true, pathLength: 0 });
  t.equal(readCertificateFacts(intermediateDer!).permittedUriHosts, undefined);
  t.equal(root.validToDate.getTime(), clock.now() + 10 * yearMs);
  t.equal(intermediate.validToDate.getTime(), clock.now() + yearMs);
  t.equal(intermediate.validFromDate.getTime(), clock.now() - 60_000);
  t.equal(root.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
  t.match(made, { trustDomain: 'demo.test', rootFingerprint: root.fingerprint256.replaceAll(':', '').toLowerCase() });
});

t.test('keys are 0600 in a directory of 0700, and both bundles contain the root', async (t) => {
  const dir = await makeCa(t);
  const files = caFilesOf(dir);
  t.equal(statSync(dir).mode & 0o777, 0o700);
  for (const one of [files.rootKey, files.intermediateKey]) t.equal(statSync(one).mode & 0o777, 0o600, one);
  const root = firstPem(readFileSync(files.root, 'utf8'));
  const bundle = parseBundle(readFileSync(files.bundle, 'utf8'), 'demo.test', 'bundle.json');
  t.match(bundle, { sequence: 1, refreshHintS: 5 });
  t.same(bundle.roots, [root]);
  t.same(parseBundle(readFileSync(files.bundlePem, 'utf8'), 'demo.test', 'bundle.pem').roots, [root]);
});

t.test('name constraints are set on the intermediate on request', async (t) => {
  const dir = await makeCa(t, { nameConstraints: true });
  const facts = readCertificateFacts(firstPem(readFileSync(caFilesOf(dir).intermediate, 'utf8')));
  t.same(facts.permittedUriHosts, ['demo.test']);
  t.same(facts.unknownCritical, []);
});

t.test('a trust domain that is too long for a common name is shortened only there', async (t) => {
  const trustDomain = `${'a'.repeat(200)}.test`;
  const dir = await makeCa(t, { trustDomain });
  const der = firstPem(readFileSync(caFilesOf(dir).intermediate, 'utf8'));
  t.equal(new X509Certificate(der).subject, `CN=${'a'.repeat(51)} intermediate`);
  t.same(readCertificateFacts(der).uris, [`spiffe://${trustDomain}`]);
});

t.test('an existing CA is never replaced', async (t) => {
  const dir = await makeCa(t);
  const before = readFileSync(caFilesOf(dir).rootKey, 'utf8');
  const message = `${dir} already contains a CA: ${join(dir, 'root.key')} exists`;
  await t.rejects(initCa({ dir, trustDomain: 'demo.test' }), { code: 'ca_exists', message });
  rmSync(caFilesOf(dir).intermediate);
  await t.rejects(initCa({ dir, trustDomain: 'demo.test' }), { code: 'ca_exists' }, 'no other file is created either');
  t.equal(readFileSync(caFilesOf(dir).rootKey, 'utf8'), before);
});

t.test('a directory that others can read is refused unless it is empty', async (t) => {
  const dir = join(tempDir(t), 'ca');
  mkdirSync(dir, { mode: 0o755 });
  chmodSync(dir, 0o755);
  writeFileSync(join(dir, 'notes'), '');
  await t.rejects(initCa({ dir, trustDomain: 'demo.test' }), {
    code: 'config_invalid',
    message: `${dir} is not empty, and other users can access it (mode 755)`,
  });
  t.equal(statSync(dir).mode & 0o777, 0o755, 'unchanged');
  rmSync(join(dir, 'notes'));
  await initCa({ dir, trustDomain: 'demo.test' });
  t.equal(statSync(dir).mode & 0o777, 0o700);
});

t.test('an invalid trust domain is refused before anything is created', async (t) => {
  const dir = join(tempDir(t), 'ca');
  await t.rejects(initCa({ dir, trustDomain: 'Demo.test' }), {
    code: 'spiffe_id_invalid',
    message: /the trust domain 'Demo.test' may contain only/,
  });
  t.throws(() => statSync(dir), { code: 'ENOENT' });
});

t.test('an encrypted key opens only with its passphrase', async (t) => {
  const clock = new ManualClock();
  const dir = await makeCa(t, { passphrase: 'correct horse', clock });
  const files = caFilesOf(dir);
  for (const one of [files.rootKey, files.intermediateKey]) t.match(readFileSync(one, 'utf8'), /BEGIN ENCRYPTED/);
  t.equal(openAuthority(dir, 'correct horse', clock).trustDomain, 'demo.test');
  const [wrong, none] = ['cannot be decrypted with this passphrase', 'is encrypted and no passphrase was given'];
  const message = (what: string) => `the key in ${files.intermediateKey} ${what}`;
  t.throws(() => openAuthority(dir, 'wrong', clock), { code: 'passphrase_wrong', message: message(wrong) });
  t.throws(() => openAuthority(dir, undefined, clock), { code: 'passphrase_wrong', message: message(none) });
});

t.test('a passphrase is the first line of its file, or comes from the environment', async (t) => {
  const file = join(tempDir(t), 'passphrase');
  writeFileSync(file, 'first line \nsecond\n');
  t.equal(readPassphrase(file, {}), 'first line ');
  t.equal(readPassphrase(undefined, { SALLYPORT_CA_PASSPHRASE: 'env' }), 'env');
  t.equal(readPassphrase(file, { SALLYPORT_CA_PASSPHRASE: 'env' }), 'first line ', 'the flag takes precedence');
  t.equal(readPassphrase(undefined, {}), undefined);
  writeFileSync(file, '\n');
  t.throws(() => readPassphrase(file, {}), { code: 'config_invalid', message: `${file} has an empty passphrase` });
  t.throws(() => readPassphrase(`${file}2`, {}), { code: 'config_unreadable', message: /cannot be read: ENOENT/ });
});

t.test('a directory that cannot be served: the error says why', async (t) => {
  const clock = new ManualClock();
  const none = join(tempDir(t), 'none');
  t.throws(() => openAuthority(none, undefined, clock), {
    code: 'ca_missing',
    message: `no CA in ${none}`,
    hint: `create one: sallyport ca init --trust-domain demo.test --dir ${none}`,
  });
  const [dir, other] = [await makeCa(t, { clock }), await makeCa(t, { clock })];
  const files = caFilesOf(dir);
  writeFileSync(files.intermediateKey, readFileSync(caFilesOf(other).intermediateKey));
  t.throws(() => openAuthority(dir, undefined, clock), {
    code: 'key_mismatch',
    message: `the key in ${files.intermediateKey} does not belong to ${files.intermediate}`,
  });
  rmSync(files.intermediateKey);
  t.throws(() => openAuthority(dir, undefined, clock), {
    code: 'ca_missing',
    message: `the CA in ${dir} has no ${files.intermediateKey}`,
  });
});

t.test('the root key is not needed to sign, and no leaf outlives the intermediate', async (t) => {
  const clock = new ManualClock();
  const dir = await makeCa(t, { clock });
  rmSync(caFilesOf(dir).rootKey);
  const authority = openAuthority(dir, undefined, clock);
  const key = publicKeyOf(generateKey());
  clock.advance(yearMs - 120_000);
  const leaf = await authority.signLeaf(caIdOf('demo.test'), key, 3_600_000);
  t.equal(leaf.notAfter, authority.notAfter);
  clock.advance(60_001);
  const message = `the intermediate expires at ${new Date(authority.notAfter).toISOString()}`;
  t.throws(() => authority.signLeaf(caIdOf('demo.test'), key, 3_600_000), { code: 'issuer_expired', message });
  t.throws(() => openAuthority(dir, undefined, clock), { code: 'issuer_expired', message });
});

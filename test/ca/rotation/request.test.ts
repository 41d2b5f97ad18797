// An issuer from a root that is kept elsewhere: the request, every certificate that must not be installed, and the
// rotation of the root to one that is kept elsewhere.

import { spawnSync } from 'node:child_process';
import { type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemClock } from '../../../cert-agent/base/clock.ts';
import { openAuthority } from '../../../cert-agent/ca/authority.ts';
import { readCaCertificates } from '../../../cert-agent/ca/certificates.ts';
import { caFilesOf, rotationFilesOf } from '../../../cert-agent/ca/directory.ts';
import { initCa } from '../../../cert-agent/ca/init.ts';
import { openOperator } from '../../../cert-agent/ca/operator/open.ts';
import type { Operator } from '../../../cert-agent/ca/operator/operator.ts';
import { activateFiles, distributeFiles, finishStep, removeFiles } from '../../../cert-agent/ca/rotation/files.ts';
import { installFiles, readRequest, requestFiles } from '../../../cert-agent/ca/rotation/request.ts';
import { readState } from '../../../cert-agent/ca/rotation/state.ts';
import { rotateStopped } from '../../../cert-agent/ca/rotation/stopped.ts';
import { formatPem, onlyBundle } from '../../../cert-agent/identity/bundle.ts';
import { readCsr } from '../../../cert-agent/identity/csr.ts';
import { emptyDenyList } from '../../../cert-agent/identity/denied.ts';
import { formatKey, generateKey } from '../../../cert-agent/identity/keys.ts';
import { parseSpiffeId } from '../../../cert-agent/identity/spiffe-id.ts';
import { fingerprintOf, verifyChain } from '../../../cert-agent/identity/verify.ts';
import { type CertificateSpec, randomSerial, signCertificate } from '../../../cert-agent/identity/x509.ts';
import { makeCa, newKey, startTestCa } from '../../fixtures/ca.ts';
import { publicKeyOf } from '../../fixtures/pki.ts';
import { tempDir } from '../../fixtures/process.ts';

const id = parseSpiffeId('spiffe://demo.test/ns/shop/sa/web');
const dayMs = 86_400_000;

interface Party {
  readonly key: KeyObject;
  readonly certificate: Buffer;
}

const span = () => ({ serial: randomSerial(), notBefore: Date.now() - dayMs, notAfter: Date.now() + 100 * dayMs });
const signing = ['keyCertSign', 'cRLSign'] as const;

/** A root without any SPIFFE ID, as a company's is. */
async function makeRoot(subject = 'CN=Example Corp Root,O=Example'): Promise<Party> {
  const key = generateKey();
  const certificate = await signCertificate(
    { ...span(), subject, publicKey: publicKeyOf(key), ca: {}, keyUsage: signing },
    { key },
  );
  return { key, certificate };
}

/** A CA between the root and the issuer. */
async function makePolicyCa(root: Party, ca: CertificateSpec['ca'] = {}): Promise<Party> {
  const key = generateKey();
  const certificate = await signCertificate(
    { ...span(), subject: 'CN=Example Policy CA', publicKey: publicKeyOf(key), ca, keyUsage: signing },
    root,
  );
  return { key, certificate };
}

const derOf = (csr: string): Buffer => Buffer.from(csr.replaceAll(/-----[A-Z ]+-----/g, ''), 'base64');

/** What a root's owner makes of the request, PEM. */
async function sign(by: Party, csr: string, changes: Partial<CertificateSpec> = {}): Promise<string> {
  const spec: CertificateSpec = {
    ...span(),
    ...{ subject: 'CN=demo.test intermediate', uris: ['spiffe://demo.test'], publicKey: readCsr(derOf(csr)) },
    ...{ ca: { pathLength: 0 }, keyUsage: signing },
    ...changes,
  };
  return formatPem([await signCertificate(spec, by)]);
}

/** A CA below an external root, which waits for its issuer. */
async function waitingCa(t: Test) {
  const root = await makeRoot();
  const dir = join(tempDir(t), 'ca');
  const rootFile = join(tempDir(t), 'root.pem');
  writeFileSync(rootFile, formatPem([root.certificate]));
  const made = await initCa({ dir, trustDomain: 'demo.test', externalRoot: rootFile });
  return { dir, root, made, csr: readRequest(dir)! };
}

async function leafFrom(dir: string): Promise<Buffer[]> {
  const authority = openAuthority(dir, undefined, systemClock);
  const { certificate } = await authority.signLeaf(id, publicKeyOf((await newKey()).key), 600_000);
  return authority.chainOf(certificate).map((one) => Buffer.from(one));
}

const verify = (chain: Buffer[], dir: string) =>
  verifyChain(chain, onlyBundle(readCaCertificates(dir).bundle), emptyDenyList, Date.now());

t.test('a CA below an external root serves once its certificate is installed', async (t) => {
  const { dir, root, made, csr } = await waitingCa(t);
  t.match(made, { rootFingerprint: fingerprintOf(root.certificate), request: join(dir, 'next', 'issuer.csr') });
  t.equal(made.intermediateNotAfter, undefined);
  t.notOk(existsSync(caFilesOf(dir).rootKey));
  const waits = { code: 'ca_missing', message: /waits for the certificate/, hint: /ca issuer install/ };
  await t.rejects(startTestCa(t, { dir }), waits);
  const policyCa = await makePolicyCa(root);
  // Some tools append the root as well.
  const certificate = (await sign(policyCa, csr)) + formatPem([policyCa.certificate, root.certificate]);
  const { state } = await rotateStopped(dir, { step: 'install', certificate }, undefined);
  t.equal(state?.newIssuer, fingerprintOf(readCaCertificates(dir).intermediate));
  t.strictSame([readState(dir), existsSync(rotationFilesOf(dir).next)], [undefined, false]);
  const chain = await leafFrom(dir);
  t.equal(chain.length, 3, 'leaf, issuer, policy CA');
  t.match(verify(chain, dir), { id });
  const ca = await startTestCa(t, { dir });
  t.ok(ca.address.port > 0);
});

t.test('the key is encrypted with the passphrase, and the request contains its public key', async (t) => {
  const { dir } = await waitingCa(t);
  const state = await requestFiles(dir, 'issuer', { trustDomain: 'demo.test', passphrase: 'pass', now: Date.now() });
  t.match(readFileSync(caFilesOf(rotationFilesOf(dir).next).intermediateKey, 'utf8'), /ENCRYPTED PRIVATE KEY/);
  const pem = await sign(await makeRoot(), readRequest(dir)!);
  await t.rejects(installFiles(dir, state, pem, { passphrase: 'other', now: Date.now() }), {
    code: 'passphrase_wrong',
  });
});

t.test('a certificate that peers would not accept is not installed', async (t) => {
  const { dir, root, csr } = await waitingCa(t);
  const other = await waitingCa(t);
  const narrow = await makePolicyCa(root, { pathLength: 0 });
  const elsewhere = await makePolicyCa(root);
  const now = Date.now();
  const noCa = { ca: undefined } as unknown as Partial<CertificateSpec>;
  const table: [name: string, pem: string, code: string, message: RegExp][] = [
    ['nothing', '', 'issuer_unusable', /no certificate/],
    ['a request', csr, 'issuer_unusable', /no certificate/],
    [
      'a certificate with a broken signature',
      '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
      'certificate_unreadable',
      /./,
    ],
    ['a certificate for another request', await sign(root, other.csr), 'key_mismatch', /pending request/],
    ['the root', formatPem([root.certificate]), 'key_mismatch', /pending request/],
    ['no CA', await sign(root, csr, noCa), 'issuer_unusable', /CA:TRUE/],
    ['no cRLSign', await sign(root, csr, { keyUsage: ['keyCertSign'] }), 'issuer_unusable', /lacks cRLSign/],
    ['no keyCertSign', await sign(root, csr, { keyUsage: ['cRLSign'] }), 'issuer_unusable', /lacks keyCertSign/],
    ['no ID', await sign(root, csr, { uris: [] }), 'issuer_unusable', /found none/],
    [
      'a foreign ID',
      await sign(root, csr, { uris: ['spiffe://other.test'] }),
      'issuer_unusable',
      /found spiffe:\/\/other/,
    ],
    [
      'two IDs',
      await sign(root, csr, { uris: ['spiffe://demo.test', 'spiffe://other.test'] }),
      'issuer_unusable',
      /must be spiffe:\/\/demo.test/,
    ],
    [
      'an expired certificate',
      await sign(root, csr, { notBefore: now - 9 * dayMs, notAfter: now - 1000 }),
      'issuer_unusable',
      /expired/,
    ],
    [
      'a certificate that expires within a day',
      await sign(root, csr, { notAfter: now + dayMs - 60_000 }),
      'issuer_unusable',
      /expires at .*, in less than 24 h/,
    ],
    [
      'a certificate from the future',
      await sign(root, csr, { notBefore: now + dayMs }),
      'issuer_unusable',
      /not valid yet/,
    ],
    ['a certificate under another root', await sign(other.root, csr), 'issuer_unusable', /no valid path/],
    ['without the CA between', await sign(elsewhere, csr), 'issuer_unusable', /no valid path/],
    [
      'below a CA that allows no CAs below it',
      (await sign(narrow, csr)) + formatPem([narrow.certificate]),
      'issuer_unusable',
      /no valid path/,
    ],
    ['restricted to another domain', await sign(root, csr, { permittedUriHost: 'other.test' }), 'issuer_unusable', /./],
  ];
  for (const [name, certificate, code, message] of table) {
    await t.rejects(rotateStopped(dir, { step: 'install', certificate }, undefined), { code, message }, name);
    t.equal(readState(dir)?.step, 'requested', `${name}: the request still waits`);
    t.notOk(existsSync(caFilesOf(dir).intermediate), name);
  }
  const certificate = await sign(root, csr, { permittedUriHost: 'demo.test' });
  await rotateStopped(dir, { step: 'install', certificate }, undefined);
  t.match(verify(await leafFrom(dir), dir), { id }, 'the right certificate is installed afterwards');
  const again = rotateStopped(dir, { step: 'install', certificate }, undefined);
  await t.rejects(again, { code: 'rotation_refused', message: /no request is waiting/ });
});

t.test('a relative directory works', async (t) => {
  const root = await makeRoot();
  const cwd = process.cwd();
  process.chdir(tempDir(t));
  t.teardown(() => process.chdir(cwd));
  writeFileSync('root.pem', formatPem([root.certificate]));
  const made = await initCa({ dir: 'ca', trustDomain: 'demo.test', externalRoot: 'root.pem' });
  t.ok(existsSync(made.request!));
  process.chdir(cwd);
});

t.test('only a root can be the external root', async (t) => {
  const root = await makeRoot();
  const below = await makePolicyCa(root);
  const key = generateKey();
  const leaf = await signCertificate(
    { ...span(), subject: 'CN=leaf', publicKey: publicKeyOf(key), keyUsage: ['digitalSignature'] },
    { key },
  );
  const table: [name: string, pem: string, code: string][] = [
    ['an intermediate', formatPem([below.certificate]), 'root_unusable'],
    ['a leaf that signed itself', formatPem([leaf]), 'root_unusable'],
    ['two', formatPem([root.certificate, below.certificate]), 'root_unusable'],
    ['none', '', 'root_unusable'],
  ];
  for (const [name, pem, code] of table) {
    const [dir, externalRoot] = [join(tempDir(t), 'ca'), join(tempDir(t), 'root.pem')];
    writeFileSync(externalRoot, pem);
    await t.rejects(initCa({ dir, trustDomain: 'demo.test', externalRoot }), { code }, name);
    t.notOk(existsSync(dir), `${name}: no file was created`);
  }
  const absent = initCa({ dir: join(tempDir(t), 'ca'), trustDomain: 'demo.test', externalRoot: '/nowhere/root.pem' });
  await t.rejects(absent, { code: 'config_unreadable' });
});

/** A running CA below an external root. */
async function runningCa(t: Test) {
  const { dir, root, csr } = await waitingCa(t);
  await rotateStopped(dir, { step: 'install', certificate: await sign(root, csr) }, undefined);
  const ca = await startTestCa(t, { dir });
  const open = await openOperator({ dir });
  t.teardown(() => open.close());
  return { ca, dir, root, operator: open.operator };
}

const request = async (operator: Operator): Promise<string> =>
  (await operator.rotate({ kind: 'issuer', step: 'request' })).request ?? '';

t.test('a running CA gets its next issuer, and signs with the current one until then', async (t) => {
  const { dir, root, operator } = await runningCa(t);
  const before = readCaCertificates(dir).intermediate;
  const old = await leafFrom(dir);
  const refused = operator.rotate({ kind: 'issuer', step: 'activate' });
  await t.rejects(refused, { code: 'root_key_missing', hint: /ca issuer request/ }, 'the root key is elsewhere');
  const first = await request(operator);
  t.match(await operator.rotationStatus(), { request: first, next: 'sallyport ca issuer install FILE' });
  const meanwhile = operator.rotate({ kind: 'issuer', step: 'activate' });
  await t.rejects(meanwhile, { code: 'rotation_refused', message: /a request is waiting/ });
  await t.rejects(request(operator), { code: 'rotation_refused', hint: /--show prints it/ }, 'its key is not lost');
  await operator.rotate({ kind: 'issuer', step: 'cancel' });
  const second = await request(operator);
  const stale = operator.rotate({ kind: 'issuer', step: 'install', certificate: await sign(root, first) });
  await t.rejects(stale, { code: 'key_mismatch' });
  t.ok(readCaCertificates(dir).intermediate.equals(before));
  await operator.rotate({ kind: 'issuer', step: 'install', certificate: await sign(root, second) });
  t.notOk(readCaCertificates(dir).intermediate.equals(before));
  t.match(verify(await leafFrom(dir), dir), { id });
  t.match(verify(old, dir), { id });
  await request(operator);
  await operator.rotate({ kind: 'issuer', step: 'cancel' });
  t.strictSame([readState(dir), existsSync(rotationFilesOf(dir).next)], [undefined, false]);
});

t.test('the root is rotated to an external one, and the old key does not stay in the directory', async (t) => {
  const dir = await makeCa(t);
  const root = await makeRoot('CN=The next root');
  const rootFile = join(tempDir(t), 'next-root.pem');
  writeFileSync(rootFile, formatPem([root.certificate]));
  const ca = await startTestCa(t, { dir });
  const { operator, close } = await openOperator({ dir });
  t.teardown(() => close());
  const old = await leafFrom(dir);
  const { request: csr = '' } = await operator.rotate({ kind: 'root', step: 'prepare', externalRoot: rootFile });
  await t.rejects(operator.rotate({ kind: 'root', step: 'distribute' }), { code: 'rotation_refused' });
  await t.rejects(operator.rotate({ kind: 'issuer', step: 'request' }), { code: 'rotation_refused' });
  const wrong = await sign(await makeRoot(), csr);
  const install = (certificate: string) => operator.rotate({ kind: 'issuer', step: 'install', certificate });
  await t.rejects(install(wrong), { code: 'issuer_unusable' }, 'the issuer must be under the new root');
  t.match(await install(await sign(root, csr)), { state: { kind: 'root', step: 'prepared' } });
  t.match(verify(await leafFrom(dir), dir), { id }, 'the old issuer signs');
  await operator.rotate({ kind: 'root', step: 'distribute' });
  await operator.rotate({ kind: 'root', step: 'activate' });
  t.notOk(existsSync(caFilesOf(dir).rootKey));
  const fresh = await leafFrom(dir);
  t.ok(new X509Certificate(fresh.at(-1)!).checkIssued(new X509Certificate(root.certificate)));
  for (const chain of [old, fresh]) t.match(verify(chain, dir), { id });
  await ca.close();
});

t.test('a kill while an external root is activated is survived', async (t) => {
  const dir = await makeCa(t);
  const root = await makeRoot();
  const trustDomain = 'demo.test';
  const old = readFileSync(caFilesOf(dir).rootKey, 'utf8');
  const roots = { old: Buffer.from(new X509Certificate(readFileSync(caFilesOf(dir).root)).raw), new: root.certificate };
  const state = await requestFiles(dir, 'root', { trustDomain, passphrase: undefined, now: 1, roots });
  const certificate = await sign(root, readRequest(dir)!);
  const prepared = await installFiles(dir, state, certificate, { passphrase: undefined, now: Date.now() });
  const draining = activateFiles(dir, distributeFiles(dir, prepared), 1234);
  // As if nothing of what follows the moves had reached the disk.
  writeFileSync(rotationFilesOf(dir).state, JSON.stringify({ ...draining, step: 'activating' }));
  finishStep(dir);
  t.equal(readState(dir)?.step, 'draining');
  t.equal(readFileSync(join(dir, 'previous', '1234', 'root.key'), 'utf8'), old);
  t.notOk(existsSync(caFilesOf(dir).rootKey));
  removeFiles(dir, readState(dir)!);
  t.strictSame(readCaCertificates(dir).bundle.roots, [root.certificate]);
});

const noOpenssl = spawnSync('openssl', ['version']).status === 0 ? false : 'openssl is not installed';

t.test('openssl signs the request as the help describes', { skip: noOpenssl }, async (t) => {
  const { dir, root } = await waitingCa(t);
  const files = tempDir(t);
  const at = (name: string): string => join(files, name);
  writeFileSync(at('root.key'), formatKey(root.key));
  writeFileSync(at('root.pem'), formatPem([root.certificate]));
  const csr = join(rotationFilesOf(dir).next, 'issuer.csr');
  const from = ['-in', csr, '-CA', at('root.pem'), '-CAkey', at('root.key')];
  const args = ['x509', '-req', ...from, '-days', '30', '-copy_extensions', 'copy', '-out', at('issuer.pem')];
  const { status, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
  t.equal(status, 0, stderr);
  const certificate = readFileSync(at('issuer.pem'), 'utf8');
  await rotateStopped(dir, { step: 'install', certificate }, undefined);
  t.match(verify(await leafFrom(dir), dir), { id });
});

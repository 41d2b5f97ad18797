// A CA below an external root that may sign some names only: what it issues, every client accepts.

import { X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readCaCertificates } from '../../../cert-agent/ca/certificates.ts';
import { initCa } from '../../../cert-agent/ca/init.ts';
import { readRequest } from '../../../cert-agent/ca/rotation/request.ts';
import { rotateStopped } from '../../../cert-agent/ca/rotation/stopped.ts';
import { formatPem, onlyBundle } from '../../../cert-agent/identity/bundle.ts';
import { readCsr } from '../../../cert-agent/identity/csr.ts';
import { emptyDenyList } from '../../../cert-agent/identity/denied.ts';
import { verifyChain } from '../../../cert-agent/identity/verify.ts';
import { ask, leafOf, makeCa, newKey, startTestCa, svidOf, type TestCa } from '../../fixtures/ca.ts';
import {
  alternativeNames,
  basicConstraints,
  caExtensions,
  dnsName,
  forge,
  ipName,
  keyUsage,
  nameConstraints,
  newKey as newSigner,
  uriName,
} from '../../fixtures/forge.ts';
import { type Owner, tempDir } from '../../fixtures/process.ts';

const trustDomain = alternativeNames([uriName('spiffe://demo.test')]);
const web = 'spiffe://demo.test/ns/shop/sa/web';

/** A CA whose root and issuer have these extensions beside those that they need. */
async function caBelow(t: Owner, ofRoot: readonly Buffer[], ofIssuer: readonly Buffer[]): Promise<string> {
  const [dir, rootFile, by] = [join(tempDir(t), 'ca'), join(tempDir(t), 'root.pem'), newSigner()];
  const root = forge({ subject: 'r', issuer: 'r', key: by, by, extensions: [...caExtensions, trustDomain, ...ofRoot] });
  writeFileSync(rootFile, formatPem([root]));
  await initCa({ dir, trustDomain: 'demo.test', externalRoot: rootFile });
  const csr = readRequest(dir)!.replaceAll(/-----[A-Z ]+-----/g, '');
  const extensions = [...[basicConstraints(true, 0), keyUsage(0x06), trustDomain], ...ofIssuer];
  const key = readCsr(Buffer.from(csr, 'base64'));
  const issuer = forge({ subject: 'i', issuer: 'r', key, by, extensions });
  await rotateStopped(dir, { step: 'install', certificate: formatPem([issuer]) }, undefined);
  return dir;
}

async function certificateOf(ca: TestCa, dns: readonly string[]) {
  for (const name of dns) await ca.operator.dns.allow(name);
  const { token } = await ca.operator.createToken(web, 600_000, dns);
  const key = await newKey();
  const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const answer = await ask(ca.address.port, root, { path: '/v1/svid', body: { csr: key.csr, token } });
  const chain = (answer.json.chain as string[]).map((one) => Buffer.from(one, 'base64'));
  const peer = verifyChain(chain, onlyBundle(readCaCertificates(ca.dir).bundle), emptyDenyList, Date.now());
  t.equal(peer.id.uri, web, 'every peer accepts the certificate');
  return { answer, key, root, names: leafOf(answer).subjectAltName };
}

const forbidden = (ca: TestCa) =>
  ca.logged.map((line) => JSON.parse(line)).filter((one) => one.code === 'dns_names_forbidden');

t.test(
  'names that the issuer does not permit are left out, also at each renewal, and the log reports it once',
  async (t) => {
    const dir = await caBelow(t, [], [nameConstraints([dnsName('shop.test'), ipName(10, 0, 0, 0, 255, 0, 0, 0)], [])]);
    const ca = await startTestCa(t, { dir, names: ['ca.shop.test', '10.9.8.7', 'ca.other.test'] });
    t.match(forbidden(ca), [{ level: 'warn', names: ['localhost', 'ca.other.test', '127.0.0.1'] }]);
    const first = await certificateOf(ca, ['web.shop.test', 'web.other.test']);
    t.equal(first.names, `URI:${web}, DNS:web.shop.test`);
    t.equal(
      first.answer.server.subjectAltName,
      'URI:spiffe://demo.test/sallyport/ca, DNS:ca.shop.test, IP Address:10.9.8.7',
    );
    const next = await newKey();
    const question = { path: '/v1/svid/renew', body: { csr: next.csr }, svid: svidOf(first.answer, first.key) };
    const renewed = await ask(ca.address.port, first.root, question);
    t.equal(leafOf(renewed).subjectAltName, first.names);
    t.equal(forbidden(ca).length, 1);
    t.match(await ca.operator.show(renewed.json.serial), { names: ['web.shop.test'] });
  },
);

t.test('name constraints of the root count too', async (t) => {
  const dir = await caBelow(t, [nameConstraints([], [dnsName('shop.test')])], []);
  const ca = await startTestCa(t, { dir });
  const { names } = await certificateOf(ca, ['web.shop.test', 'web.other.test']);
  t.equal(names, `URI:${web}, DNS:web.other.test`);
});

t.test('name constraints that the CA sets restrict URIs and no DNS names', async (t) => {
  const ca = await startTestCa(t, { dir: await makeCa(t, { nameConstraints: true }) });
  const { names, answer } = await certificateOf(ca, ['web.other.test']);
  t.equal(names, `URI:${web}, DNS:web.other.test`);
  t.ok(answer.server.checkIP('127.0.0.1'));
  t.strictSame(forbidden(ca), []);
  t.ok(new X509Certificate(answer.server.raw).checkHost('localhost'));
});

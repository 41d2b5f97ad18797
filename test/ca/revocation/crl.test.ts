// The CA's CRL: over its API, and by OpenSSL's verdict.

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { LiveCell } from '../../../cert-agent/base/live.ts';
import { caFilesOf, rotationFilesOf } from '../../../cert-agent/ca/directory.ts';
import { CrlMaker, crlLifeMs } from '../../../cert-agent/ca/revocation/crl.ts';
import { readPemBlocks } from '../../../cert-agent/identity/bundle.ts';
import { parseCrl, parseCrls, signCrl, verifyCrl } from '../../../cert-agent/identity/crl.ts';
import { emptyDenyList } from '../../../cert-agent/identity/denied.ts';
import { readIssuer } from '../../../cert-agent/identity/issuer.ts';
import { ask, makeCa, newKey, type Question, startTestCa, svidOf } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { createAuthority } from '../../fixtures/pki.ts';
import { tempDir } from '../../fixtures/process.ts';
import { haveCommand } from '../../fixtures/tools.ts';

const clock = new ManualClock();
const dir = await makeCa(t, { clock });
const ca = await startTestCa(t, { dir, clock });
const files = caFilesOf(dir);
const rootPem = readFileSync(files.bundlePem, 'utf8');
const issuerPem = readFileSync(files.intermediate, 'utf8');
const issuer = readIssuer(readPemBlocks(issuerPem, 'x')[0]!);
const root = readIssuer(readPemBlocks(rootPem, 'x')[0]!);

const call = (question: Question) => ask(ca.address.port, rootPem, { now: clock.now(), ...question });

/** The lists of /v1/crl.pem. */
async function lists() {
  const answer = await call({ path: '/v1/crl.pem' });
  t.equal(answer.status, 200);
  return { answer, crls: parseCrls(Buffer.from(answer.text), 'x') };
}

let names = 0;
async function enrolled(ttlSeconds = 600) {
  const id = `spiffe://demo.test/ns/shop/sa/w${++names}`;
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  const answer = await call({ path: '/v1/svid', body: { csr: key.csr, token, ttlSeconds } });
  return { id, serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

t.test('every revoked certificate is on the CRL, by serial and by ID', async (t) => {
  const before = (await lists()).crls[0]!;
  t.equal(before.serials.size, 0);
  const [good, one, other] = [await enrolled(), await enrolled(), await enrolled()];
  await ca.operator.revoke(one.serial, 'keyCompromise');
  await ca.operator.revoke(other.id, 'gone');
  const { crls, answer } = await lists();
  const [crl, ofRoot] = crls;
  t.same([...crl!.serials].toSorted(), [one.serial, other.serial].toSorted());
  t.notOk(crl!.serials.has(good.serial));
  t.ok(crl!.number! > before.number!, 'its number grows');
  t.equal(verifyCrl(crl!, [issuer], clock.now(), 'x'), issuer);
  t.equal(crl!.nextUpdate, clock.now() + crlLifeMs);
  t.equal(verifyCrl(ofRoot!, [root], clock.now(), 'x'), root, 'the CRL of the root is signed again, too');
  t.match(answer.headers, { 'content-type': 'application/x-pem-file', 'cache-control': 'no-cache' });
  const etag = String(answer.headers['etag']);
  t.match(await call({ path: '/v1/crl.pem', headers: { 'if-none-match': etag } }), { status: 304, text: '' });
  t.match((await call({ path: '/v1/crl' })).headers, { 'content-type': 'application/pkix-crl' });
});

t.test('an entry stays for a day after the certificate has expired', async (t) => {
  const one = await enrolled(60);
  await ca.operator.revoke(one.serial, 'x');
  const has = async (): Promise<boolean> => (await lists()).crls[0]!.serials.has(one.serial);
  t.ok(await has());
  clock.advance(crlLifeMs);
  await ca.upkeep();
  t.ok(await has(), 'the deny list has dropped it');
  clock.advance(120_000);
  await ca.upkeep();
  await ca.operator.revoke((await enrolled()).serial, 'y');
  t.notOk(await has());
});

t.test('a CRL is signed again at half of its lifetime, with a greater number', async (t) => {
  // Until the deny list has no serial left to drop.
  clock.advance(3_600_000);
  await ca.upkeep();
  const first = (await lists()).crls[0]!;
  clock.advance(crlLifeMs / 2 - 1000);
  await ca.upkeep();
  t.equal((await lists()).crls[0]!.number, first.number);
  clock.advance(1000);
  await ca.upkeep();
  const next = (await lists()).crls[0]!;
  t.ok(next.number! > first.number!);
  t.equal(next.nextUpdate, clock.now() + crlLifeMs);
});

t.test('OpenSSL verifies a CRL, and refuses certificates by it', async (t) => {
  if (!haveCommand('openssl')) return t.comment('openssl is not installed: skipped');
  const [good, bad] = [await enrolled(86_400), await enrolled(86_400)];
  await ca.operator.revoke(bad.serial, 'superseded');
  const place = tempDir(t);
  const put = (name: string, text: string): void => writeFileSync(join(place, name), text);
  const openssl = (args: string[]): string => {
    const { stdout, stderr } = spawnSync('openssl', args, { cwd: place, encoding: 'utf8' });
    return `${stdout}${stderr}`;
  };
  const { answer } = await lists();
  put('crl.pem', answer.text);
  put('root.pem', rootPem);
  put('issuer.pem', issuerPem);
  put('both.pem', rootPem + issuerPem);
  put('good.pem', good.svid.cert);
  put('bad.pem', bad.svid.cert);
  const crl = openssl(['crl', '-in', 'crl.pem', '-CAfile', 'both.pem', '-noout', '-text', '-verify']);
  t.match(crl, /verify OK/);
  t.match(crl, /Version 2/);
  t.match(crl, /X509v3 CRL Number/);
  t.match(crl, /X509v3 Authority Key Identifier/);
  t.match(crl, /X509v3 CRL Reason Code:\s+Superseded/);
  const attime = ['-attime', String(clock.now() / 1000)];
  const checked = [
    'verify',
    ...attime,
    '-crl_check_all',
    '-CRLfile',
    'crl.pem',
    '-CAfile',
    'root.pem',
    '-untrusted',
    'issuer.pem',
  ];
  t.match(openssl([...checked, 'good.pem']), 'good.pem: OK');
  t.match(openssl([...checked, 'bad.pem']), /certificate revoked/);
});

t.test('a directory of an older version has no CRL of the root', async (t) => {
  const older = await makeCa(t);
  rmSync(caFilesOf(older).rootCrl);
  const running = await startTestCa(t, { dir: older });
  const pem = readFileSync(caFilesOf(older).bundlePem, 'utf8');
  const answer = await ask(running.address.port, pem, { path: '/v1/crl.pem' });
  t.equal(parseCrls(Buffer.from(answer.text), 'x').length, 1);
});

const idOf = (number: number): string => `spiffe://demo.test/ns/shop/sa/r${number}`;

t.test('each issuer has its own CRL while its certificates are valid, and so has each root', async (t) => {
  const rotating = await startTestCa(t, { ocsp: { host: '127.0.0.1', port: 0 } });
  const pem = readFileSync(caFilesOf(rotating.dir).bundlePem, 'utf8');
  const enrol = async () => {
    const key = await newKey();
    const { token } = await rotating.operator.createToken(idOf(++names), 600_000);
    const answer = await ask(rotating.address.port, pem, { path: '/v1/svid', body: { csr: key.csr, token } });
    const chain = (answer.json.chain as string[]).map((one) => Buffer.from(one, 'base64'));
    return { serial: String(answer.json.serial), keyId: readIssuer(chain[1]!).keyId!.toString('hex') };
  };
  const listOf = async (keyId: string) => {
    const response = await fetchBytes(rotating.ocspAddress!.port, `/v1/crl/${keyId}`);
    return parseCrl(response, keyId).serials;
  };
  const old = await enrol();
  await rotating.operator.revoke(old.serial, 'x');
  await rotating.operator.rotate({ kind: 'issuer', step: 'activate' });
  const next = await enrol();
  t.not(next.keyId, old.keyId);
  await rotating.operator.revoke(next.serial, 'x');
  t.same([...(await listOf(old.keyId))], [old.serial]);
  t.same([...(await listOf(next.keyId))], [next.serial]);
  const now = parseCrl(await fetchBytes(rotating.ocspAddress!.port, '/v1/crl'), 'now');
  t.same([...now.serials], [next.serial], 'the CRL of the current issuer');
  const all = async () => {
    const text = (await fetchBytes(rotating.ocspAddress!.port, '/v1/crl.pem')).toString();
    return { crls: parseCrls(Buffer.from(text), 'x'), issuers: readPemBlocks(text, 'x').map((one) => readIssuer(one)) };
  };
  const afterIssuer = await all();
  t.equal(afterIssuer.crls.length, 3, 'two issuers, one root');
  const rootOnly = readIssuer(readPemBlocks(pem, 'x')[0]!);
  for (const crl of afterIssuer.crls) t.ok(verifyCrl(crl, [...afterIssuer.issuers, rootOnly], Date.now(), 'x'));
  for (const step of ['prepare', 'distribute', 'activate'] as const)
    await rotating.operator.rotate({ kind: 'root', step, except: [names, names - 1].map(idOf) });
  const afterRoot = await all();
  t.equal(afterRoot.crls.length, 5, 'three issuers, two roots');
  for (const crl of afterRoot.crls)
    t.ok(
      verifyCrl(crl, [...afterRoot.issuers, rootOnly], Date.now(), 'x'),
      'signed by the old root and by the key that it certified',
    );
});

t.test('an earlier issuer whose key is gone has no CRL, and the CA reports it', async (t) => {
  const dir = await makeCa(t);
  const first = await startTestCa(t, { dir });
  // A certificate of the old issuer is valid, so that it is kept.
  const key = await newKey();
  const { token } = await first.operator.createToken('spiffe://demo.test/ns/shop/sa/kept', 600_000);
  const pem = readFileSync(caFilesOf(dir).bundlePem, 'utf8');
  await ask(first.address.port, pem, { path: '/v1/svid', body: { csr: key.csr, token } });
  await first.operator.rotate({ kind: 'issuer', step: 'activate' });
  await first.close();
  const { previous } = rotationFilesOf(dir);
  for (const time of readdirSync(previous)) rmSync(caFilesOf(join(previous, time)).intermediateKey);
  const second = await startTestCa(t, { dir });
  t.match(second.logged.join(''), /issuer_key_missing/);
  const { text } = await ask(second.address.port, pem, { path: '/v1/crl.pem' });
  t.equal(parseCrls(Buffer.from(text), 'x').length, 2, 'the CRLs of the current issuer and the root');
});

async function fetchBytes(port: number, path: string): Promise<Buffer> {
  return Buffer.from(await (await fetch(`http://127.0.0.1:${port}${path}`)).arrayBuffer());
}

t.test('a CRL is signed once per change for all clients, and then served in less than a millisecond', async (t) => {
  const authority = await createAuthority('demo.test');
  const denied = new LiveCell({ ...emptyDenyList, sequence: 1 });
  let reads = 0;
  let fails = false;
  const revoked = Array.from({ length: 100_000 }, (_, index) => ({
    ...{ serial: `41${index.toString(16).padStart(30, '0')}`, at: clock.now(), reason: 'keyCompromise' },
  }));
  const maker = new CrlMaker({
    ...{ denied, clock },
    authority: {
      issuers: [authority.issuer],
      issuerKeys: [
        {
          certificate: authority.issuer,
          notAfter: clock.now() + 365 * 86_400_000,
          signCrl: (spec) => signCrl(spec, { key: authority.issuerKey, certificate: authority.issuer }),
          async signOcspSigner() {
            throw new Error('not asked for');
          },
        },
      ],
    },
    store: {
      async listRevoked() {
        reads++;
        if (fails) throw new Error('no disk');
        return revoked;
      },
    },
  });
  const all = await Promise.all(Array.from({ length: 50 }, () => maker.current()));
  t.equal(reads, 1);
  t.equal(new Set(all).size, 1);
  t.equal(parseCrl(all[0]!.der.body, 'x').serials.size, 100_000);
  const began = performance.now();
  for (let i = 0; i < 1000; i++) maker.current();
  const each = (performance.now() - began) / 1000;
  t.ok(each < 1, `${each} ms`);
  denied.set({ ...emptyDenyList, sequence: 2 });
  const begun = maker.current();
  denied.set({ ...emptyDenyList, sequence: 3 });
  const last = await maker.current();
  t.equal(reads, 3, 'a change during the signing is in the next CRL');
  t.ok(last.number > (await begun).number || last === (await begun));
  fails = true;
  denied.set({ ...emptyDenyList, sequence: 4 });
  t.equal(await maker.current(), last, 'the last CRL is served while the store fails');
  clock.advance(crlLifeMs + 1000);
  await t.rejects(Promise.resolve(maker.current()), { message: 'no disk' }, 'until it expires');
});

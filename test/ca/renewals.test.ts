// Renewals: with a certificate that is not what was issued under its number, and by a denied identity during a flood.

import { createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { lastRecords } from '../../cert-agent/ca/ledger/look.ts';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { signLeaf } from '../../cert-agent/identity/leaf.ts';
import { ask, firstPem, makeCa, newKey, type Question, startTestCa, svidOf } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { publicKeyOf } from '../fixtures/pki.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const clock = new ManualClock();
const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
const root = readFileSync(caFilesOf(ca.dir).bundlePem, 'utf8');
const call = (question: Question) => ask(ca.address.port, root, { now: clock.now(), ...question });

async function enrolled(id: string, ttlSeconds = 3600) {
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  const answer = await call({ path: '/v1/svid', body: { csr: key.csr, token, ttlSeconds } });
  return { answer, svid: svidOf(answer, key) };
}

t.test("an issuer's key cannot give another identity's expired certificate the serial of a recorded one", async (t) => {
  const { csr, keyPem, key } = await newKey();
  const short = await enrolled(web, 60);
  clock.advance(60_001);
  const files = caFilesOf(ca.dir);
  const signer = {
    key: createPrivateKey(readFileSync(files.intermediateKey)),
    certificate: firstPem(readFileSync(files.intermediate, 'utf8')),
  };
  const serial = String(short.answer.json.serial);
  const [notBefore, notAfter] = [clock.now() - 600_000, clock.now() - 2000];
  const uri = 'spiffe://demo.test/ns/shop/sa/db';
  const forged = signLeaf({ uri, publicKey: publicKeyOf(key), serial, notBefore, notAfter }, signer);
  const svid = { cert: formatPem([forged, signer.certificate]), key: keyPem };
  t.match(await call({ path: '/v1/svid/renew', body: { csr }, svid }), {
    status: 403,
    json: { code: 'svid_expired', message: `the SVID of ${uri} has expired and is not on record here` },
  });
  t.equal((await call({ path: '/v1/svid/renew', body: { csr }, svid: short.svid })).status, 200);
});

t.test('a flood of requests by unknown clients does not hide the attempts of a denied identity', async (t) => {
  const { csr } = await newKey();
  const denied = 'spiffe://demo.test/ns/shop/sa/flooded';
  const [bySerial, byId] = [await enrolled(`${denied}-serial`), await enrolled(`${denied}-id`)];
  await ca.operator.revoke(String(bySerial.answer.json.serial), 'lost');
  await ca.operator.revoke(`${denied}-id`, 'lost');
  const token = 'ab'.repeat(32);
  await Promise.all(Array.from({ length: 70 }, () => call({ path: '/v1/svid', body: { csr, token } })));
  for (const { svid } of [bySerial, byId])
    for (let i = 0; i < 2; i++)
      t.match(await call({ path: '/v1/svid/renew', body: { csr }, svid }), {
        status: 403,
        json: { code: 'id_denied' },
      });
  const records = await lastRecords(ca.operator.records, { limit: 4, acts: ['refuse'] });
  t.match(
    records,
    ['serial', 'serial', 'id', 'id'].map((name) => ({ answer: 'id_denied', id: `${denied}-${name}` })),
  );
});

import { readFileSync } from 'node:fs';
import t from 'tap';
import { caFilesOf } from '../../../cert-agent/ca/directory.ts';
import { lastRecords } from '../../../cert-agent/ca/ledger/look.ts';
import { parseDenyList } from '../../../cert-agent/identity/denied.ts';
import { ask, makeCa, newKey, type Question, startTestCa, svidOf } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';

const clock = new ManualClock();
const dir = await makeCa(t, { clock });
const ca = await startTestCa(t, { dir, clock });
const rootPem = readFileSync(caFilesOf(dir).bundlePem, 'utf8');

const call = (question: Question) => ask(ca.address.port, rootPem, { now: clock.now(), ...question });
const denied = async () => parseDenyList((await call({ path: '/v1/bundle' })).json.sallyport_denied, 'bundle');

/** A new identity for each test, so that one test's denials do not affect the next. */
let names = 0;
const newId = () => `spiffe://demo.test/ns/shop/sa/w${++names}`;

async function enrolled(id: string) {
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  const answer = await call({ path: '/v1/svid', body: { csr: key.csr, token } });
  return { key, token, serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

const renew = async (svid: { cert: string; key: string }) =>
  call({ path: '/v1/svid/renew', body: { csr: (await newKey()).csr }, svid });

t.test('a new CA has an empty deny list', async (t) => {
  t.match(await denied(), { sequence: 0, time: 0, serials: new Set(), ids: new Set() });
});

t.test('a revoked serial is on the list at once and cannot renew', async (t) => {
  const id = newId();
  const [one, other] = [await enrolled(id), await enrolled(id)];
  const pasted = one.serial.toUpperCase().replace(/..(?=.)/g, '$&:');
  t.same(await ca.operator.revoke(pasted, 'lost'), {
    ...{ kind: 'serial', target: one.serial, certificates: 1, renewals: 0 },
  });
  t.same((await denied()).serials, new Set([one.serial]));
  t.match(await renew(one.svid), {
    status: 403,
    json: { code: 'id_denied', message: `certificate ${one.serial} of ${id} is revoked` },
  });
  t.match(await call({ path: '/v1/svid', body: { csr: one.key.csr, token: one.token } }), {
    status: 403,
    json: {
      code: 'id_denied',
      message: `the certificate of this join token of ${id} is revoked`,
      hint: /new join token/,
    },
  });
  t.equal((await renew(other.svid)).status, 200, 'another certificate of the same identity still renews');
  t.match(await ca.operator.show(one.serial), { revoked: { at: clock.now(), reason: 'lost' } });
});

t.test('a revoked ID gets no renewal and no certificate for old or new tokens until it is allowed', async (t) => {
  const id = newId();
  const one = await enrolled(id);
  const { token } = await ca.operator.createToken(id, 600_000);
  const { csr } = await newKey();
  t.same(await ca.operator.revoke(id, 'stolen'), { kind: 'id', target: id, certificates: 1, renewals: 0 });
  t.ok((await denied()).ids.has(id));
  const refused = { status: 403, json: { code: 'id_denied' } };
  t.match(await renew(one.svid), refused);
  t.match(await call({ path: '/v1/svid', body: { csr, token } }), refused);
  await t.rejects(ca.operator.createToken(id, 60_000), { code: 'id_denied', message: `${id} is on the deny list` });

  t.same(await ca.operator.allow(id), { id, changed: true });
  t.match(await ca.operator.allow(id), { id, changed: false });
  t.notOk((await denied()).ids.has(id));
  t.match(await renew(one.svid), refused, 'earlier certificates stay denied');
  t.match(await call({ path: '/v1/svid', body: { csr, token } }), { status: 401, json: { code: 'token_expired' } });
  t.equal((await renew((await enrolled(id)).svid)).status, 200, 'a new token starts a new family');
});

t.test('each change has a new sequence, and a serial leaves the list when it has expired', async (t) => {
  const one = await enrolled(newId());
  await ca.operator.revoke(one.serial, 'x');
  const before = await denied();
  clock.advance(3_600_000);
  await ca.upkeep();
  t.ok((await denied()).serials.has(one.serial), 'a peer with a slow clock may still accept the certificate');
  clock.advance(61_000);
  await ca.upkeep();
  const after = await denied();
  t.notOk(after.serials.has(one.serial));
  t.ok(after.sequence > before.sequence);
  await t.rejects(ca.operator.revoke(one.serial, 'x'), {
    code: 'not_found',
    message: `certificate ${one.serial} has already expired, like all that were renewed from it`,
  });
});

t.test('an expired certificate that could still renew is revoked, and its client reads the reason', async (t) => {
  const id = newId();
  const one = await enrolled(id);
  clock.advance(3_700_000);
  t.same(await ca.operator.revoke(one.serial, 'found late'), {
    ...{ kind: 'serial', target: one.serial, certificates: 0, renewals: 0, expired: true },
  });
  const [record] = await lastRecords(ca.operator.records, { limit: 1, acts: ['revoke'] });
  t.match(record, { id, details: { serial: one.serial, reason: 'found late', expired: true } });
  t.match(await renew(one.svid), {
    status: 403,
    json: {
      code: 'id_denied',
      message: `certificate ${one.serial} of ${id} is revoked`,
      hint: /^to start again, create a new join token: /,
    },
  });
});

t.test('a target that cannot be revoked: the error says why', async (t) => {
  const own = (await call({ path: '/healthz' })).server.serialNumber;
  const cases: [string, string, string][] = [
    ['00ff', 'not_found', 'no certificate 00ff is on record'],
    ['web', 'usage', "'web' is neither a serial number (hex) nor a SPIFFE ID"],
    ['spiffe://other.test/a', 'id_foreign', 'spiffe://other.test/a does not belong to trust domain demo.test'],
    ['spiffe://demo.test', 'id_reserved', 'spiffe://demo.test is the trust domain itself, not a workload'],
    [
      'spiffe://demo.test/sallyport/ca',
      'id_reserved',
      "spiffe://demo.test/sallyport/ca is reserved for the CA's own parts",
    ],
    [own, 'id_reserved', "spiffe://demo.test/sallyport/ca is reserved for the CA's own parts"],
  ];
  for (const [target, code, message] of cases) {
    await t.rejects(ca.operator.revoke(target, 'x'), { code, message }, target);
  }
  const message = 'the reason is longer than 200 characters';
  await t.rejects(ca.operator.revoke(newId(), 'x'.repeat(201)), { code: 'usage', message });
});

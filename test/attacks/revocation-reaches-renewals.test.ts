// A thief of a key can renew with it, and renew the result: revoking the certificate has to reach all of it, no matter
// who holds it, how old the named certificate has become, and what is in progress meanwhile.

import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readRootFingerprints } from '../../cert-agent/ca/certificates.ts';
import { openOperator } from '../../cert-agent/ca/operator/open.ts';
import { openSqliteStore } from '../../cert-agent/ca/store/sqlite.ts';
import { parseDenyList } from '../../cert-agent/identity/denied.ts';
import { ask, makeCa, newKey, type Question, startTestCa, svidOf } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { writeOldStore } from '../fixtures/old-store.ts';
import { runSallyport } from '../fixtures/process.ts';

const clock = new ManualClock();
const dir = await makeCa(t, { clock });
const ca = await startTestCa(t, { dir, clock });
const rootPem = readFileSync(join(dir, 'bundle.pem'), 'utf8');
const call = (question: Question) => ask(ca.address.port, rootPem, { now: clock.now(), ...question });
const denied = async () => parseDenyList((await call({ path: '/v1/bundle' })).json.sallyport_denied, 'bundle');

interface Held {
  readonly serial: string;
  readonly svid: { readonly cert: string; readonly key: string };
}

let names = 0;
const newId = () => `spiffe://demo.test/ns/shop/sa/w${++names}`;

async function enrolled(id: string): Promise<Held> {
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  const answer = await call({ path: '/v1/svid', body: { csr: key.csr, token } });
  return { serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

async function askRenewal({ svid }: Held) {
  const key = await newKey();
  return { key, answer: await call({ path: '/v1/svid/renew', body: { csr: key.csr }, svid }) };
}

async function renewed(held: Held): Promise<Held> {
  const { key, answer } = await askRenewal(held);
  t.equal(answer.status, 200, answer.text);
  return { serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

t.test('revoking a certificate denies everything that was renewed from it, and nothing else', async (t) => {
  const id = newId();
  const first = await enrolled(id);
  const second = await renewed(first);
  const [third, stolen] = [await renewed(second), await renewed(second)];
  const other = await enrolled(id);
  t.same(await ca.operator.revoke(first.serial.toUpperCase().replace(/..(?=.)/g, '$&:'), 'copied'), {
    ...{ kind: 'serial', target: first.serial, certificates: 4, renewals: 3 },
  });
  const list = await denied();
  for (const one of [first, second, third, stolen]) {
    t.ok(list.serials.has(one.serial));
    t.match(await askRenewal(one), { answer: { status: 403, json: { code: 'id_denied', message: /is revoked$/ } } });
    t.match(await ca.operator.show(one.serial), { revoked: { reason: 'copied' } });
  }
  t.notOk(list.serials.has(other.serial), 'a certificate from another token belongs to another family');
  t.equal((await askRenewal(other)).answer.status, 200);
  t.match(ca.logged.join(''), /"code":"revoked","target":"\w+","reason":"copied","certificates":4,"renewals":3/);
});

t.test('a thief cannot renew until the deny list is too long to be delivered', async (t) => {
  const thief = await enrolled(newId());
  const other = await enrolled(newId());
  const renewals = await Promise.all(Array.from({ length: 63 }, () => askRenewal(thief)));
  t.ok(renewals.every((one) => one.answer.status === 200));
  const { answer } = await askRenewal(thief);
  t.match(answer, { status: 429, json: { code: 'renewals_exhausted', hint: /wait until older ones expire/ } });
  t.match(answer.json.message, `too many valid certificates of spiffe://demo.test/ns/shop/sa/w${names - 1}`);
  const logged = ca.logged.map((line) => JSON.parse(line)).filter((one) => one.code === 'renewals_exhausted');
  t.match(logged, [{ level: 'warn', path: '/v1/svid/renew' }]);
  t.equal((await askRenewal(other)).answer.status, 200, 'others are unaffected');
  const before = (await denied()).serials.size;
  t.match(await ca.operator.revoke(thief.serial, 'copied'), { certificates: 64, renewals: 63 });
  t.equal((await denied()).serials.size - before, 64);
});

t.test('renewals of an expired certificate are denied, now and after they expire too', async (t) => {
  const first = await enrolled(newId());
  clock.advance(3_000_000);
  // The CA renews its own certificate.
  await ca.upkeep();
  const second = await renewed(first);
  clock.advance(1_000_000);
  await ca.upkeep();
  const third = await renewed(second);
  t.same(await ca.operator.revoke(first.serial, 'found late'), {
    ...{ kind: 'serial', target: first.serial, certificates: 2, renewals: 2 },
  });
  t.ok((await denied()).serials.has(third.serial));
  // The second has expired and left the list by now; a renewal of it that was read before must not be recorded.
  clock.advance(2_700_000);
  await ca.upkeep();
  const list = await denied();
  t.notOk(list.serials.has(second.serial));
  t.ok(list.serials.has(third.serial));
  t.match(await askRenewal(third), { answer: { status: 403, json: { code: 'id_denied' } } });
  clock.advance(3_600_000);
  await ca.upkeep();
  await t.rejects(ca.operator.revoke(first.serial, 'again'), {
    code: 'not_found',
    message: `certificate ${first.serial} has already expired, like all that were renewed from it`,
  });
});

t.test('renewals that race with the revocation are refused or denied', async (t) => {
  const first = await enrolled(newId());
  const second = await renewed(first);
  const asked = Array.from({ length: 8 }, () => askRenewal(second));
  await asked[0];
  const done = await ca.operator.revoke(first.serial, 'race');
  const answers = (await Promise.all(asked)).map(({ answer }) => answer);
  const given = answers.filter((one) => one.status === 200).map((one) => String(one.json.serial));
  t.ok(given.length > 0);
  t.equal(done.renewals, 1 + given.length);
  const { serials } = await denied();
  for (const one of given) t.ok(serials.has(one), 'every issued certificate is on the list');
  for (const { status, json } of answers) if (status !== 200) t.equal(json.code, 'id_denied');
});

t.test('a serial that was never issued is not denied: the error names the nearest', async (t) => {
  const id = 'spiffe://demo.test/ns/shop/sa/reports';
  const { serial } = await enrolled(id);
  const typo = serial.replace(/.$/, (last) => (last === '0' ? '1' : '0'));
  const hint = `did you mean '${serial}'? sallyport ca ls --all lists all certificates`;
  for (const wrong of [typo, serial.slice(0, 10)]) {
    const error = { code: 'not_found', message: `no certificate ${wrong} is on record`, hint };
    await t.rejects(ca.operator.revoke(wrong, 'x'), error);
    await t.rejects(ca.operator.revoke(wrong, 'x', { force: true }), error, 'a serial in the future cannot be denied');
    await t.rejects(ca.operator.show(wrong), error);
  }
  const before = await denied();
  const unknown = {
    code: 'not_found',
    message: 'spiffe://demo.test/ns/shop/sa/report has never had a certificate or a token',
    hint: `did you mean '${id}'? --force denies it anyway`,
  };
  await t.rejects(ca.operator.revoke('spiffe://demo.test/ns/shop/sa/report', 'x'), unknown);
  await t.rejects(ca.operator.revoke('SPIFFE://demo.test/ns/shop/sa/report', 'x'), unknown, 'in every spelling');
  t.same(await denied(), before, 'the list is unchanged');

  const coming = 'spiffe://demo.test/ns/shop/sa/report';
  await ca.operator.revoke(coming, 'not yet', { force: true });
  await t.rejects(ca.operator.createToken(coming, 60_000), { code: 'id_denied' });
  await ca.operator.revoke(coming, 'twice');
  t.same(
    await ca.operator.allow(id),
    { id, changed: false, nearest: coming },
    'the neighbour is the one that is denied',
  );
  await t.rejects(ca.operator.allow('spiffe://demo.test/ns/shop/sa/repor'), {
    code: 'not_found',
    message: 'spiffe://demo.test/ns/shop/sa/repor has never had a certificate and is not denied',
    hint: `did you mean '${coming}'? sallyport ca ls --all lists all certificates`,
  });
  t.same(await ca.operator.allow(coming), { id: coming, changed: true });

  const waiting = newId();
  await ca.operator.createToken(waiting, 60_000);
  t.match(await ca.operator.revoke(waiting, 'x'), { certificates: 0 }, 'an ID with a token is known');
});

t.test('a removed token gives no certificate', async (t) => {
  const id = newId();
  const [one, two] = [await ca.operator.createToken(id, 600_000), await ca.operator.createToken(id, 600_000)];
  const listed = (await ca.operator.listTokens()).filter((token) => token.id === id);
  t.equal(listed.length, 2);
  t.notMatch(JSON.stringify(listed), one.token.slice(0, 12), 'the token itself is never shown');
  const wrong = 'zz';
  await t.rejects(ca.operator.removeTokens({ token: wrong }), {
    code: 'usage',
    message: "'zz' is not the name of a join token",
  });
  await t.rejects(ca.operator.removeTokens({ id: `${id}x` }), {
    code: 'not_found',
    message: `no join token of ${id}x is on record`,
    hint: `did you mean '${id}'? sallyport ca token ls lists them`,
  });
  const name = listed[0]!.token;
  const near = name.replace(/.$/, (last) => (last === '0' ? '1' : '0'));
  await t.rejects(ca.operator.removeTokens({ token: near }), {
    code: 'not_found',
    message: `no join token ${near} is on record`,
    hint: `did you mean '${name}'? sallyport ca token ls lists them`,
  });
  t.same(await ca.operator.removeTokens({ token: name }), [listed[0]]);
  t.same(await ca.operator.removeTokens({ id }), [listed[1]]);
  for (const { token } of [one, two]) {
    const { csr } = await newKey();
    t.match(await call({ path: '/v1/svid', body: { csr, token } }), { status: 401, json: { code: 'token_unknown' } });
  }
});

t.test('a store of version 1 is migrated, and its revocations reach the renewals', async (t) => {
  const place = await makeCa(t);
  const file = join(place, 'store.sqlite');
  const later = Date.now() + 3_600_000;
  const id = 'spiffe://demo.test/a';
  const serials = ['41', '42', '43', '44'].map((digits) => digits.repeat(16)) as [string, string, string, string];
  rmSync(file);
  writeOldStore(
    file,
    [
      { serial: serials[0], id, notAfter: later, revokedAt: 1000 },
      { serial: serials[1], id, notAfter: 1001, renews: serials[0] },
      { serial: serials[2], id, notAfter: later, renews: serials[1] },
      { serial: serials[3], id, notAfter: later },
    ],
    5000,
  );
  for (const time of ['the first', 'the second']) {
    const { operator, close } = await openOperator({ dir: place });
    const list = (await operator.listDenials()).filter((one) => one.kind === 'serial' && one.until > Date.now());
    t.same(
      list.map((one) => [one.target, one.reason]),
      [
        [serials[0], 'lost'],
        [serials[2], 'renewed from a revoked certificate'],
      ],
      `${time} time`,
    );
    await close();
  }
  const again = await startTestCa(t, { dir: place });
  const bundle = await ask(again.address.port, readFileSync(join(place, 'bundle.pem'), 'utf8'), { path: '/v1/bundle' });
  t.equal(bundle.json.sallyport_denied.sequence, 5001, 'agents get it as a new list');
});

t.test('the commands report the family, of a running CA and of a stopped one', async (t) => {
  const id = 'spiffe://demo.test/ns/shop/sa/cli';
  const first = await enrolled(id);
  await renewed(first);
  const at = ['--dir', dir];
  const [revoked, unknown, tokens] = await Promise.all([
    runSallyport(t, ['ca', 'revoke', first.serial, ...at, '--reason', 'lost', '--wait', '0']),
    runSallyport(t, ['ca', 'revoke', `${id}x`, ...at]),
    runSallyport(t, ['ca', 'token', 'ls', ...at]),
  ]);
  t.match(revoked, { code: 0, stdout: `revoked certificate ${first.serial} and 1 renewed from it\n` });
  t.match(unknown, { code: 1, stderr: `[not_found]\nhint: did you mean '${id}'? --force denies it anyway` });
  t.match(tokens, { code: 0, stdout: new RegExp(`^[0-9a-f]{12}  ${id} +\\S+Z  \\S+Z  used +${first.serial}$`, 'm') });
  await ca.close();
  const [list, allowed, removed] = [
    await runSallyport(t, ['ca', 'deny-list', ...at, '--json']),
    await runSallyport(t, ['ca', 'allow', id, ...at]),
    await runSallyport(t, ['ca', 'token', 'rm', '--spiffe-id', id, ...at]),
  ];
  t.match(
    JSON.parse(list.stdout).find((one: { target: string }) => one.target === first.serial),
    {
      ...{ kind: 'serial', id, reason: 'lost', since: /^20.*Z$/, until: /^20.*Z$/ },
    },
  );
  t.match(allowed, { code: 0, stdout: `${id} was not denied\n` });
  t.match(removed, { code: 0, stdout: /^removed token [0-9a-f]{12} of / });
  t.match(removed.stderr, `its certificate ${first.serial} stays`);
});

t.test('a store of an earlier version is migrated with the family of each certificate', async (t) => {
  const place = await makeCa(t);
  const file = join(place, 'store.sqlite');
  const [notAfter, id] = [Date.now() + 3_600_000, 'spiffe://demo.test/a'];
  const serialOf = (index: number): string => index.toString(16).padStart(32, '0');
  const line = Array.from({ length: 64 }, (_, index) => ({
    ...{ serial: serialOf(index), id, notAfter },
    ...(index === 0 ? {} : { renews: serialOf(index - 1) }),
  }));
  // The parent of the last one is not recorded.
  const lone = { serial: serialOf(100), id, notAfter, renews: serialOf(99) };
  rmSync(file);
  writeOldStore(file, [...line, lone], 1);
  const store = await openSqliteStore(file, readRootFingerprints(place));
  t.teardown(() => store.close());
  const renew = async (reference: string, index: number) =>
    (
      await store.recordCertificate(
        {
          ...{ serial: serialOf(index), id, keyHash: 'aa', issuedAt: Date.now(), notBefore: 0, notAfter },
          ...{ evidence: { kind: 'svid', reference }, certificate: Buffer.from('der') },
        },
        'test',
      )
    ).outcome;
  t.equal(await renew(serialOf(63), 200), 'exhausted');
  t.equal(await renew(serialOf(0), 201), 'exhausted');
  t.equal(await renew(serialOf(100), 202), 'recorded');
});

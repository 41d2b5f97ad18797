// The contract of cert-agent/ca/store/store.ts as a suite: every implementation runs it.

import { randomBytes } from 'node:crypto';
import type t from 'tap';
import type { CertificateRecord, Store } from '../../../cert-agent/ca/store/store.ts';

type Test = typeof t;

const day = 86_400_000;
const now = Date.UTC(2026, 0, 1);
const web = 'spiffe://demo.test/ns/shop/sa/web';
const db = 'spiffe://demo.test/ns/shop/sa/db';

function certificate(changes: Partial<CertificateRecord> = {}): CertificateRecord {
  return {
    serial: randomBytes(16).toString('hex'),
    id: web,
    keyHash: 'aa',
    issuedAt: now,
    notBefore: now - 60_000,
    notAfter: now + 3_600_000,
    evidence: { kind: 'self', reference: '' },
    certificate: randomBytes(40),
    ...changes,
  };
}

function token(hash: string, id = web) {
  return { hash, id, createdAt: now, expiresAt: now + 600_000 };
}

const byToken = (hash: string, keyHash: string, changes: Partial<CertificateRecord> = {}) =>
  certificate({ keyHash, evidence: { kind: 'token', reference: hash }, ...changes });

const renews = (reference: string): CertificateRecord => certificate({ evidence: { kind: 'svid', reference } });

/** `open` opens the store of one place: opened again after close(), it has the same content. */
export function testStoreContract(t: Test, open: (place: string) => Promise<Store>): void {
  const using = (name: string, work: (t: Test, store: Store) => Promise<void>): void => {
    t.test(name, async (t) => {
      const store = await open(name);
      t.teardown(() => store.close());
      await work(t as unknown as Test, store);
    });
  };

  using('a certificate is found as it was recorded', async (t, store) => {
    const one = certificate();
    t.same(await store.recordCertificate(one, 'test'), { outcome: 'recorded' });
    const found = await store.findCertificate(one.serial);
    t.same({ ...found, certificate: Buffer.from(found?.certificate ?? []) }, one);
    t.equal(await store.findCertificate('00'), undefined);
  });

  using('a family is live while one of its certificates is valid, and is found by each of them', async (t, store) => {
    const own = (changes: Partial<CertificateRecord>) => certificate({ notAfter: now + day, ...changes });
    const renewing = (reference: string) => ({ kind: 'svid' as const, reference });
    const first = own({ notAfter: now + 1000 });
    const renewed = own({ issuedAt: now + 500, evidence: renewing(first.serial) });
    const joinedAgain = own({ notAfter: now + 5000 });
    const other = own({ id: db });
    const revoked = own({ id: db });
    const lost = own({ id: db, issuedAt: now + 1, evidence: renewing('0abc') });
    for (const one of [first, renewed, joinedAgain, other, revoked, lost]) await store.recordCertificate(one, 'test');
    await store.denySerial(revoked.serial, '', now, 'test');
    t.same(await store.listLiveFamilies(now, [first.serial, other.serial, revoked.serial, '00']), [
      { id: db, until: now + day, issuedAt: now, named: true },
      { id: db, until: now + day, issuedAt: now + 1, named: false },
      { id: web, until: now + 5000, issuedAt: now, named: false },
      { id: web, until: now + day, issuedAt: now + 500, named: true },
    ]);
    t.match(await store.listLiveFamilies(now + 6000, [renewed.serial]), [{}, {}, { id: web, named: true }]);
    t.same(await store.listLiveFamilies(now + day, []), []);
  });

  using('certificates are listed in the order in which they end', async (t, store) => {
    const ends = [now + 3 * day, now - 1, now + day];
    for (const notAfter of ends) await store.recordCertificate(certificate({ notAfter }), 'test');
    const list = async (filter: object) => (await store.listCertificates(filter)).map((one) => one.notAfter);
    t.same(await list({}), [now - 1, now + day, now + 3 * day]);
    t.same(await list({ endsAfter: now }), [now + day, now + 3 * day]);
    t.same(await list({ endsAfter: now, endsBy: now + day }), [now + day]);
    const [first] = await store.listCertificates({ count: 1 });
    t.equal(first?.notAfter, now - 1);
    t.same(await list({ after: first }), [now + day, now + 3 * day]);
    // Two that end together are ordered by serial.
    for (let i = 0; i < 3; i++) await store.recordCertificate(certificate({ notAfter: now + 9 * day }), 'test');
    const last = await store.listCertificates({ endsAfter: now + 3 * day });
    t.equal(last.length, 3);
    t.same(
      (await store.listCertificates({ after: last[0], count: 5 })).map((one) => one.serial),
      last.slice(1).map((one) => one.serial),
    );
  });

  using('revoked certificates are listed until they expire, however they were revoked', async (t, store) => {
    const [one, other, good, gone] = [
      certificate({ notAfter: now + day }),
      certificate({ id: db, notAfter: now + 2 * day }),
      certificate(),
      certificate({ notAfter: now - 1 }),
    ];
    for (const each of [one, other, good, gone]) await store.recordCertificate(each, 'test');
    await store.denySerial(one.serial, 'stolen', now, 'test');
    await store.denySerial(gone.serial, 'late', now, 'test');
    await store.denyId(db, 'gone', now + 1, 'test');
    const first = { serial: one.serial, at: now, reason: 'stolen' };
    const second = { serial: other.serial, at: now + 1, reason: 'gone' };
    t.same(await store.listRevoked(now), [first, second]);
    t.same(await store.listRevoked(now + day), [second]);
    await store.allowId(db, now + 2, 'test');
    t.same(await store.listRevoked(now + day), [second], 'an allowed ID gets new certificates, not its old ones');
  });

  using('identities are counted by their last certificate', async (t, store) => {
    await store.recordCertificate(certificate({ notAfter: now + 1000 }), 'test');
    await store.recordCertificate(certificate({ notAfter: now + 5000 }), 'test');
    await store.recordCertificate(certificate({ id: db, notAfter: now + 2000 }), 'test');
    await store.recordCertificate(certificate({ id: `${db}2`, notAfter: now - 1 }), 'test');
    t.same(
      await store.countIdentities(
        now,
        [1000, 2000, 9000].map((ms) => now + ms),
      ),
      { total: 2, ending: [0, 1, 2] },
    );
  });

  using('a token binds to the first key and gives it the same certificate again', async (t, store) => {
    t.same(await store.addToken(token('h'), 'test'), { outcome: 'recorded' });
    t.same(await store.findToken('h'), token('h'));
    const first = byToken('h', 'aa');
    t.same(await store.redeemToken('h', first, 'test'), { outcome: 'recorded' });
    const again = await store.redeemToken('h', byToken('h', 'aa'), 'test');
    t.equal(again.outcome === 'again' && again.certificate.serial, first.serial);
    t.same(await store.redeemToken('h', byToken('h', 'bb'), 'test'), { outcome: 'used' });
    t.same((await store.findToken('h'))?.bound, { keyHash: 'aa', serial: first.serial });
    t.equal((await store.listCertificates({})).length, 1, 'only the first is on record');
  });

  using('a name is in a token or a certificate only while it is allowed', async (t, store) => {
    t.equal(await store.allowDns('*.a.test', now, 'test'), true);
    t.equal(await store.allowDns('*.a.test', now + 1, 'test'), false);
    t.same(await store.listDns(), [{ pattern: '*.a.test', since: now }]);
    const [good, bad] = ['x.a.test', 'x.b.test'];
    const named = { ...token('h'), names: [good] };
    t.same(await store.addToken({ ...named, names: [good, bad] }, 'test'), { outcome: 'not_allowed', names: [bad] });
    t.equal(await store.findToken('h'), undefined);
    t.same(await store.addToken(named, 'test'), { outcome: 'recorded' });
    t.same(await store.findToken('h'), named);
    const renamed = { outcome: 'renamed', names: [good] };
    for (const names of [undefined, [bad], [good, bad], [good, good, bad]])
      t.same(await store.redeemToken('h', byToken('h', 'aa', names && { names }), 'test'), renamed, `${names}`);
    const first = byToken('h', 'aa', { names: [good] });
    t.same(await store.redeemToken('h', first, 'test'), { outcome: 'recorded' });
    t.same((await store.findCertificate(first.serial))?.names, [good]);
    const renewal = (changes: Partial<CertificateRecord>) =>
      certificate({ evidence: { kind: 'svid', reference: first.serial }, ...changes });
    t.same(await store.recordCertificate(renewal({}), 'test'), renamed, 'renewals have the same names');
    t.same(await store.recordCertificate(renewal({ forbidden: [good] }), 'test'), { outcome: 'recorded' });
    t.same(await store.disallowDns('*.a.test', now, 'test'), { changed: true, certificates: 1, until: first.notAfter });
    t.same(await store.disallowDns('*.a.test', first.notAfter, 'test'), { changed: false, certificates: 0 });
    t.same(await store.recordCertificate(renewal({ names: [good] }), 'test'), { outcome: 'renamed', names: [] });
    t.same(await store.recordCertificate(renewal({}), 'test'), { outcome: 'recorded' });
    const stranger = renewal({ names: [good], evidence: { kind: 'svid', reference: 'f00d' } });
    t.same(
      await store.recordCertificate(stranger, 'test'),
      { outcome: 'renamed', names: [] },
      'a renewal of an unknown family',
    );
    t.same(await store.recordCertificate(certificate({ names: ['localhost'] }), 'test'), { outcome: 'recorded' });
  });

  using('of redemptions at the same time one comes first', async (t, store) => {
    await store.addToken(token('h'), 'test');
    const keys = Array.from({ length: 20 }, (_, index) => byToken('h', `key${index}`));
    const outcomes = (await Promise.all(keys.map((one) => store.redeemToken('h', one, 'test')))).map(
      (one) => one.outcome,
    );
    t.equal(outcomes.filter((one) => one === 'recorded').length, 1);
    t.equal(outcomes.filter((one) => one === 'used').length, 19);
  });

  using('a token is refused when it is unknown, expired or for another ID', async (t, store) => {
    await store.addToken(token('h'), 'test');
    t.same(await store.redeemToken('x', byToken('x', 'aa'), 'test'), { outcome: 'unknown' });
    t.same(await store.redeemToken('h', byToken('h', 'aa', { id: db }), 'test'), { outcome: 'unknown' });
    t.same(await store.redeemToken('h', byToken('h', 'aa', { issuedAt: now + 600_000 }), 'test'), {
      outcome: 'expired',
    });
    t.same(await store.redeemToken('h', byToken('h', 'aa', { issuedAt: now + 599_999 }), 'test'), {
      outcome: 'recorded',
    });
  });

  using('a denied ID gets neither certificate nor token until it is allowed', async (t, store) => {
    await store.addToken(token('before'), 'test');
    t.same(await store.denyId(web, 'stolen', now, 'test'), { outcome: 'denied', certificates: 0, renewals: 0 });
    t.same(await store.addToken(token('during'), 'test'), { outcome: 'denied' });
    t.equal(await store.findToken('during'), undefined);
    t.same(await store.redeemToken('before', byToken('before', 'aa'), 'test'), { outcome: 'denied' });
    t.same(await store.recordCertificate(certificate(), 'test'), { outcome: 'denied' });
    t.same(
      await store.recordCertificate(certificate({ id: db }), 'test'),
      { outcome: 'recorded' },
      'other families are not affected',
    );
    t.equal(await store.allowId(web, now, 'test'), true);
    t.equal(await store.allowId(web, now, 'test'), false);
    t.same(await store.recordCertificate(certificate(), 'test'), { outcome: 'recorded' });
    t.same(
      await store.redeemToken('before', byToken('before', 'aa'), 'test'),
      { outcome: 'expired' },
      'old tokens are void',
    );
  });

  using('denying an ID denies its certificates, and allowing it does not bring them back', async (t, store) => {
    const monthMs = 30 * 86_400_000;
    const [live, dead] = [certificate(), certificate({ notAfter: now - monthMs - 1 })];
    // It could still renew.
    const expired = certificate({ notAfter: now - monthMs + 60_000 });
    for (const one of [live, dead, expired]) await store.recordCertificate(one, 'test');
    t.same(await store.denyId(web, 'stolen', now, 'test'), { outcome: 'denied', certificates: 1, renewals: 0 });
    await store.allowId(web, now, 'test');
    const list = await store.denyList();
    t.same([...list.ids], []);
    t.same([...list.serials], [live.serial]);
    t.same((await store.findCertificate(live.serial))?.revoked, { at: now, reason: 'stolen' });
    t.equal((await store.findCertificate(dead.serial))?.revoked, undefined);
    t.same((await store.findCertificate(expired.serial))?.revoked, { at: now, reason: 'stolen' });
  });

  using('a denied serial renews nothing', async (t, store) => {
    const [old, other] = [certificate(), certificate()];
    for (const one of [old, other]) await store.recordCertificate(one, 'test');
    t.same(await store.denySerial(old.serial, 'lost', now, 'test'), {
      outcome: 'denied',
      certificates: 1,
      renewals: 0,
    });
    t.same(await store.denySerial(old.serial, 'again', now, 'test'), {
      outcome: 'denied',
      certificates: 0,
      renewals: 0,
    });
    t.same((await store.findCertificate(old.serial))?.revoked?.reason, 'lost', 'the first reason stays');
    t.same(await store.recordCertificate(renews(old.serial), 'test'), { outcome: 'revoked' });
    t.same(await store.recordCertificate(renews(other.serial), 'test'), { outcome: 'recorded' });
  });

  using('a denied serial takes all that were renewed from it along, and nothing else', async (t, store) => {
    const from = (reference: string, changes: Partial<CertificateRecord> = {}) =>
      certificate({ evidence: { kind: 'svid', reference }, ...changes });
    const first = certificate();
    const [second, sibling] = [from(first.serial, { notAfter: now + 2000 }), from(first.serial)];
    const third = from(second.serial);
    const other = certificate();
    for (const one of [first, second, sibling, third, other]) await store.recordCertificate(one, 'test');
    t.same(await store.denySerial(second.serial, 'copied', now + 3000, 'test'), {
      ...{ outcome: 'denied', certificates: 1, renewals: 1 },
    });
    t.same((await store.denyList()).serials, new Set([third.serial]), 'even if it has expired');
    t.same(await store.denySerial(first.serial, 'lost', now, 'test'), {
      outcome: 'denied',
      certificates: 3,
      renewals: 2,
    });
    t.equal((await store.findCertificate(third.serial))?.revoked?.reason, 'copied', 'the first reason stays');
    t.notOk((await store.denyList()).serials.has(other.serial));
    await store.prune(now + 3_660_001);
    t.same((await store.denyList()).serials, new Set());
    for (const one of [first, second, sibling, third])
      t.same(
        await store.recordCertificate(from(one.serial), 'test'),
        { outcome: 'revoked' },
        'the serial leaves the list, but is remembered',
      );
    t.same(await store.recordCertificate(from(other.serial), 'test'), { outcome: 'recorded' });
  });

  using('of one family 64 are valid at once, whichever of them is renewed', async (t, store) => {
    const from = (reference: string, changes: Partial<CertificateRecord> = {}) =>
      certificate({ evidence: { kind: 'svid', reference }, ...changes });
    const [first, other] = [certificate(), certificate()];
    for (const one of [first, other]) await store.recordCertificate(one, 'test');
    const family = [first, from(first.serial, { notAfter: now + 1000 })];
    while (family.length < 64) family.push(from(family[Math.floor(family.length / 3)]!.serial));
    for (const one of family.slice(1)) t.same(await store.recordCertificate(one, 'test'), { outcome: 'recorded' });
    for (const one of [family[0]!, family[1]!, family[63]!])
      t.same(await store.recordCertificate(from(one.serial), 'test'), { outcome: 'exhausted' });
    t.same(
      await store.recordCertificate(from(other.serial), 'test'),
      { outcome: 'recorded' },
      'other families are not affected',
    );
    const later = () => from(family[63]!.serial, { issuedAt: now + 1000 });
    t.same(await store.recordCertificate(later(), 'test'), { outcome: 'recorded' }, 'one of them has expired');
    t.same(await store.recordCertificate(later(), 'test'), { outcome: 'exhausted' });
    t.equal((await store.listCertificates({})).length, 67, 'refused ones are not on record');
    t.same(await store.denySerial(family[1]!.serial, 'x', now + 1000, 'test'), {
      outcome: 'denied',
      certificates: 39,
      renewals: 39,
    });
    t.same(
      await store.recordCertificate(from(first.serial), 'test'),
      { outcome: 'recorded' },
      'revoked names take no place',
    );
  });

  using('of renewals at the same time, no more than 64 of a family become valid', async (t, store) => {
    const reference = 'ab'.repeat(16);
    const renewals = Array.from({ length: 80 }, () => certificate({ evidence: { kind: 'svid', reference } }));
    const done = await Promise.all(renewals.map((one) => store.recordCertificate(one, 'test')));
    t.equal(
      done.filter(({ outcome }) => outcome === 'recorded').length,
      64,
      'also in the family of a certificate that is not on record',
    );
    t.equal(done.filter(({ outcome }) => outcome === 'exhausted').length, 16);
  });

  using('of a denial and a renewal at the same time, the renewal is refused or denied', async (t, store) => {
    const one = certificate();
    await store.recordCertificate(one, 'test');
    const renewals = Array.from({ length: 10 }, () =>
      certificate({ evidence: { kind: 'svid', reference: one.serial } }),
    );
    const done = await Promise.all([
      ...renewals.slice(0, 5).map((renewal) => store.recordCertificate(renewal, 'test')),
      store.denySerial(one.serial, 'x', now, 'test'),
      ...renewals.slice(5).map((renewal) => store.recordCertificate(renewal, 'test')),
    ]);
    t.equal(done.filter(({ outcome }) => outcome === 'recorded').length, 5);
    t.match(done[5], { outcome: 'denied', certificates: 6, renewals: 5 });
    t.equal((await store.denyList()).serials.size, 6);
  });

  using('tokens are listed and removed', async (t, store) => {
    for (const hash of ['h1', 'h2']) await store.addToken(token(hash), 'test');
    t.same(await store.listTokens(), [token('h1'), token('h2')]);
    t.equal(await store.removeToken('h1', now, 'test'), true);
    t.equal(await store.removeToken('h1', now, 'test'), false);
    t.same(await store.redeemToken('h1', byToken('h1', 'aa'), 'test'), { outcome: 'unknown' });
    t.same(await store.listTokens(), [token('h2')]);
  });

  using('the list tells what it holds, since when, why and until when', async (t, store) => {
    const one = certificate();
    await store.recordCertificate(one, 'test');
    await store.denySerial(one.serial, 'lost', now, 'test');
    await store.denyId(db, 'stolen', now + 1, 'test');
    t.same(await store.listDenials(), [
      { kind: 'id', target: db, since: now + 1, reason: 'stolen' },
      { kind: 'serial', target: one.serial, id: web, since: now, reason: 'lost', until: one.notAfter },
    ]);
  });

  using('an ID is known by a certificate, a token or a denial', async (t, store) => {
    const [one, two, three] = ['x', 'y', 'z'].map((name) => `spiffe://demo.test/${name}`) as [string, string, string];
    const issued = certificate({ id: one });
    await store.recordCertificate(issued, 'test');
    await store.addToken(token('h', two), 'test');
    await store.denyId(three, 'x', now, 'test');
    t.same(await store.listIds(), [one, two, three]);
    for (const id of [one, two, three]) t.equal(await store.isKnownId(id), true, id);
    t.equal(await store.isKnownId(web), false);
    const wrong = (index: number) => issued.serial.replace(new RegExp(`(?<=^.{${index}}).`), 'x');
    t.same(await store.similarSerials(wrong(1)), [issued.serial]);
    t.same(await store.similarSerials(wrong(30)), [issued.serial]);
  });

  using('a serial that is unknown or expired is not on the list, and an expired one cannot renew', async (t, store) => {
    const dead = certificate({ notAfter: now - 1 });
    await store.recordCertificate(dead, 'test');
    t.same(await store.denySerial('00', 'x', now, 'test'), { outcome: 'unknown', certificates: 0, renewals: 0 });
    const { sequence } = await store.ledgerEnd();
    t.same(await store.denySerial(dead.serial, 'x', now, 'test'), { outcome: 'marked', certificates: 0, renewals: 0 });
    t.match(JSON.parse((await store.readLedger(sequence + 1, 1))[0]!.line), {
      ...{ act: 'revoke', caller: 'test', id: web, answer: 'denied', serial: dead.serial, expired: true },
    });
    t.same(await store.recordCertificate(renews(dead.serial), 'test'), { outcome: 'revoked' });
    t.same(await store.denySerial(dead.serial, 'x', now, 'test'), { outcome: 'expired', certificates: 0, renewals: 0 });
    t.equal((await store.ledgerEnd()).sequence, sequence + 1, 'the second time changes nothing');
    t.same((await store.denyList()).serials, new Set());
  });

  using('the sequence rises with every change and is not below its time', async (t, store) => {
    const one = certificate();
    await store.recordCertificate(one, 'test');
    t.match(await store.denyList(), { sequence: 0, time: 0 });
    await store.denySerial(one.serial, 'x', now, 'test');
    t.match(await store.denyList(), { sequence: now, time: now });
    await store.denyId(db, 'x', now, 'test');
    t.match(await store.denyList(), { sequence: now + 1, time: now });
    await store.allowId(db, now + 500, 'test');
    t.match(await store.denyList(), { sequence: now + 500, time: now + 500 });
    await store.denyId(db, 'x', now, 'test');
    t.match(await store.denyList(), { sequence: now + 501 }, 'a clock that is set back does not lower the sequence');
  });

  using('a serial leaves the list a minute after its certificate has expired', async (t, store) => {
    const one = certificate({ notAfter: now + 1000 });
    await store.recordCertificate(one, 'test');
    await store.denySerial(one.serial, 'x', now, 'test');
    t.equal(await store.prune(now + 60_000), false);
    t.equal((await store.denyList()).serials.size, 1);
    t.equal(await store.prune(now + 61_000), true);
    const list = await store.denyList();
    t.equal(list.serials.size, 0);
    t.equal(list.sequence, now + 61_000);
    t.ok((await store.findCertificate(one.serial))?.revoked, 'the record keeps it');
  });

  using('a token is forgotten a day after its end', async (t, store) => {
    await store.addToken(token('h'), 'test');
    await store.prune(now + day);
    t.ok(await store.findToken('h'));
    await store.prune(now + day + 600_001);
    t.equal(await store.findToken('h'), undefined);
  });

  using('a call that fails rejects and takes nothing of its neighbours with it', async (t, store) => {
    const [one, two] = [certificate(), certificate()];
    const [first, twice, second] = await Promise.allSettled([
      store.recordCertificate(one, 'test'),
      store.recordCertificate(one, 'test'),
      store.recordCertificate(two, 'test'),
    ]);
    t.equal(first.status, 'fulfilled');
    t.match(twice, { status: 'rejected', reason: { code: 'store_failed' } });
    t.equal(second.status, 'fulfilled');
    t.equal((await store.listCertificates({})).length, 2);
  });

  t.test('confirmed writes survive close and reopen', async (t) => {
    const first = await open('again');
    const one = certificate();
    await Promise.all([
      first.recordCertificate(one, 'test'),
      first.addToken(token('h'), 'test'),
      first.denyId(db, 'x', now, 'test'),
    ]);
    const waiting = first.addToken(token('last'), 'test');
    await first.close();
    t.same(await waiting, { outcome: 'recorded' }, 'close waits for pending calls');
    await t.rejects(first.findToken('h'), { code: 'store_failed' });
    const second = await open('again');
    t.teardown(() => second.close());
    t.ok(await second.findCertificate(one.serial));
    t.ok(await second.findToken('last'));
    t.same((await second.denyList()).ids, new Set([db]));
  });
}

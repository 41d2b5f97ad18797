// The DNS names of a workload's certificates: those of its token that the operator allows at the time.

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { eachRecord } from '../../../cert-agent/ca/ledger/look.ts';
import { connectOperator } from '../../../cert-agent/ca/operator/socket.ts';
import { type Answer, ask, leafOf, makeCa, newKey, startTestCa, svidOf } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';

const clock = new ManualClock();
const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
const operator = connectOperator(ca.socket);
let count = 0;

const enrol = async (dns: readonly string[]) => {
  const id = `spiffe://demo.test/ns/shop/sa/w${++count}`;
  const { token } = await operator.createToken(id, 600_000, dns);
  return { id, token, ...(await redeem(token)) };
};
const redeem = async (token: string, key?: Awaited<ReturnType<typeof newKey>>) => {
  const held = key ?? (await newKey());
  const body = { csr: held.csr, token };
  return { key: held, answer: await ask(ca.address.port, root, { path: '/v1/svid', body, now: clock.now() }) };
};
const renew = async ({ answer, key }: { answer: Answer; key: Awaited<ReturnType<typeof newKey>> }) => {
  const next = await newKey();
  const question = { path: '/v1/svid/renew', body: { csr: next.csr }, svid: svidOf(answer, key), now: clock.now() };
  return { key: next, answer: await ask(ca.address.port, root, question) };
};
const namesIn = (answer: Answer): string => leafOf(answer).subjectAltName ?? answer.text;
const recordOf = async (serial: string) => {
  for await (const one of eachRecord(operator.records, 0)) if (one.details['serial'] === serial) return one.details;
  return undefined;
};
const logged = (code: string) => ca.logged.map((line) => JSON.parse(line)).filter((one) => one.code === code);

t.test('no name is allowed until an operator allows it', async (t) => {
  await t.rejects(operator.createToken('spiffe://demo.test/a', 600_000, ['web.shop.test']), {
    code: 'dns_name_not_allowed',
    message: 'web.shop.test: not allowed in certificates of this CA',
    hint: /^sallyport ca dns allow web\.shop\.test allows it/,
  });
  t.strictSame(await operator.dns.list(), []);
  t.strictSame(await operator.dns.allow('*.shop.test'), { pattern: '*.shop.test', changed: true });
  t.strictSame(await operator.dns.allow('*.shop.test'), { pattern: '*.shop.test', changed: false });
  await operator.dns.allow('web');
  t.strictSame(await operator.dns.list(), [
    { pattern: '*.shop.test', since: clock.now() },
    { pattern: 'web', since: clock.now() },
  ]);
  for (const name of ['shop.test', 'a.b.shop.test', 'web.other.test', '*.other.test', 'xshop.test'])
    await t.rejects(operator.createToken('spiffe://demo.test/a', 600_000, ['web', name]), {
      code: 'dns_name_not_allowed',
      message: `${name}: not allowed in certificates of this CA`,
    });
  await t.rejects(operator.createToken('spiffe://demo.test/a', 600_000, ['WEB']), { code: 'dns_name_invalid' });
  await t.rejects(operator.dns.allow('*'), { code: 'dns_name_invalid' });
  t.equal((await operator.listTokens()).length, 0, 'no token is on record');
});

t.test('the names of a token are in its certificate, in each renewal and in the record', async (t) => {
  const first = await enrol(['web.shop.test', '*.shop.test', 'web']);
  const names = `URI:${first.id}, DNS:web.shop.test, DNS:*.shop.test, DNS:web`;
  t.equal(namesIn(first.answer), names);
  t.ok(leafOf(first.answer).checkHost('other.shop.test'));
  const second = await renew(first);
  const third = await renew(second);
  for (const { answer } of [second, third]) t.equal(namesIn(answer), names);
  const recorded = { names: ['web.shop.test', '*.shop.test', 'web'] };
  t.match(await operator.show(third.answer.json.serial), recorded);
  t.match(
    (await operator.list({})).find((one) => one.serial === second.answer.json.serial),
    recorded,
  );
  t.match(
    (await operator.listTokens()).find((one) => one.id === first.id),
    recorded,
  );
  t.match(
    (await operator.records.identities('', 200)).find((one) => one.id === first.id),
    recorded,
  );
  t.match(await recordOf(third.answer.json.serial), { names: 'web.shop.test *.shop.test web' });
  t.equal(leafOf((await enrol([])).answer).subjectAltName, `URI:spiffe://demo.test/ns/shop/sa/w${count}`);
});

t.test('a name that is no longer allowed is left out at the next renewal, and the identity renews', async (t) => {
  await operator.dns.allow('pay.test');
  const first = await enrol(['pay.test', 'web.shop.test']);
  const done = await operator.dns.disallow('pay.test');
  t.match(done, { pattern: 'pay.test', changed: true, certificates: 1, still: [] });
  t.equal(done.until, leafOf(first.answer).validToDate.getTime());
  const second = await renew(first);
  t.equal(second.answer.status, 200);
  t.equal(namesIn(second.answer), `URI:${first.id}, DNS:web.shop.test`);
  t.match(logged('dns_names_left_out'), [{ level: 'warn', id: first.id, names: ['pay.test'] }]);
  t.match(await recordOf(second.answer.json.serial), { names: 'web.shop.test', leftOut: 'pay.test' });
  const third = await renew(second);
  t.equal(logged('dns_names_left_out').length, 1, 'the change is logged once');
  await operator.dns.allow('pay.test');
  t.equal(
    namesIn((await renew(third)).answer),
    `URI:${first.id}, DNS:pay.test, DNS:web.shop.test`,
    'the name is added again',
  );
  await operator.dns.disallow('pay.test');
  await t.rejects(operator.dns.disallow('pay.test'), { code: 'not_found', hint: /ca dns ls/ });
});

t.test('a pending token gets the names that are allowed when it is used', async (t) => {
  await operator.dns.allow('late.test');
  const { token, id } = await operator.createToken('spiffe://demo.test/late', 600_000, ['late.test', 'web']);
  await operator.dns.disallow('late.test');
  const { answer, key } = await redeem(token);
  t.equal(namesIn(answer), `URI:${id}, DNS:web`);
  t.equal((await redeem(token, key)).answer.json.serial, answer.json.serial, 'the same key gets it again');
  t.equal(logged('dns_names_left_out').filter((one) => one.id === id).length, 1);
});

t.test('removing a name or pattern lists the entries that still allow a part of it', async (t) => {
  await operator.dns.allow('a.shop.test');
  t.match(await operator.dns.disallow('*.shop.test'), { still: ['a.shop.test'] });
  await operator.dns.allow('*.shop.test');
  t.match(await operator.dns.disallow('a.shop.test'), { still: ['*.shop.test'] });
  await t.rejects(operator.dns.disallow('*.shop.tset'), { code: 'not_found', hint: /^did you mean '\*\.shop\.test'/ });
});

t.test('while the list changes, each certificate has the names that its record allows', async (t) => {
  const first = await enrol(['web.shop.test']);
  const changes = (async () => {
    for (let i = 0; i < 20; i++) {
      await operator.dns.disallow('*.shop.test');
      await operator.dns.allow('*.shop.test');
    }
  })();
  const renewals = await Promise.all(Array.from({ length: 20 }, () => renew(first)));
  await changes;
  const allowed = new Map<string, boolean>();
  let isAllowed = true;
  for await (const { act, answer, details } of eachRecord(operator.records, 0)) {
    if (act === 'dns' && details['pattern'] === '*.shop.test') isAllowed = answer === 'allowed';
    if (typeof details['serial'] === 'string') allowed.set(details['serial'], isAllowed);
  }
  for (const { answer } of renewals) {
    t.equal(answer.status, 200, answer.text);
    t.equal(namesIn(answer).includes('web.shop.test'), allowed.get(answer.json.serial));
  }
});

t.test("names survive a restart, and changes are in the ledger's order", async (t) => {
  const acts = [];
  for await (const one of eachRecord(operator.records, 0)) if (one.act === 'dns') acts.push(one);
  t.match(acts[0], { act: 'dns', caller: 'operator', answer: 'allowed', details: { pattern: '*.shop.test' } });
  const first = await enrol(['web.shop.test']);
  await ca.close();
  const again = await startTestCa(t, { dir: ca.dir, clock });
  const key = await newKey();
  const question = { path: '/v1/svid/renew', body: { csr: key.csr }, svid: svidOf(first.answer, first.key) };
  const answer = await ask(again.address.port, root, { ...question, now: clock.now() });
  t.equal(namesIn(answer), `URI:${first.id}, DNS:web.shop.test`);
  t.ok(new X509Certificate(Buffer.from(answer.json.chain[0], 'base64')).checkHost('web.shop.test'));
});

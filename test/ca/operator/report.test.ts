import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type Act, type LedgerRecord, nextRecord } from '../../../cert-agent/ca/ledger/record.ts';
import type { ListedIdentity } from '../../../cert-agent/ca/operator/identities.ts';
import type { Operator } from '../../../cert-agent/ca/operator/operator.ts';
import { collectReport } from '../../../cert-agent/ca/operator/report.ts';

const day = 86_400_000;
const now = Date.parse('2026-11-30T12:00:00Z');
const idOf = (name: string) => `spiffe://demo.test/${name}`;

/** An operator with these records, a minute apart and the last one now, and these identities. */
function operatorWith(
  acts: readonly Act[],
  identities: readonly ListedIdentity[] = [],
  agents: () => Promise<readonly object[]> = async () => [],
): Operator {
  const ledger: LedgerRecord[] = [];
  for (const [i, act] of acts.entries())
    ledger.push(nextRecord(ledger.at(-1), now - (acts.length - 1 - i) * 60_000, act));
  return {
    agents,
    listTokens: async () => [
      { token: 'aaaa', id: idOf('used'), createdAt: now, expiresAt: now, serial: '01' },
      { token: 'bbbb', id: idOf('waiting'), createdAt: now, expiresAt: now + day },
    ],
    records: {
      state: async () => ({
        ...{ trustDomain: 'demo.test', first: 1, roots: [] },
        end: { sequence: ledger.length, hash: ledger.at(-1)?.hash ?? '' },
      }),
      records: async (from: number, count: number) => ledger.slice(from - 1, from - 1 + count),
      firstSince: async (time: number) =>
        ledger.find(({ line }) => Date.parse(JSON.parse(line).time) >= time)?.sequence,
      headUpTo: async () => ({ sequence: 2 }),
      identities: async (after: string, count: number) => identities.filter(({ id }) => id > after).slice(0, count),
    },
  } as unknown as Operator;
}

const renewal = (name: string, details: NonNullable<Act['details']>): Act => ({
  ...{ act: 'renew', caller: '192.0.2.1', id: idOf(name), evidence: 'svid 01', answer: 'recorded' },
  details,
});

t.test('the report lists who denied whom, late and forked renewals, and restores since a given time', async (t) => {
  const operator = operatorWith([
    { act: 'revoke', caller: 'operator', id: idOf('before'), answer: 'revoked' },
    { act: 'revoke', caller: 'operator', id: idOf('a'), answer: 'revoked', details: { reason: 'laptop' } },
    { act: 'revoke', caller: 'operator', id: idOf('b'), answer: 'revoked', details: { serial: '0a', reason: 'x' } },
    { act: 'allow', caller: 'operator', id: idOf('a'), answer: 'allowed' },
    renewal('late', { serial: '02', expired: true }),
    renewal('twice', { serial: '03', forked: true }),
    renewal('well', { serial: '04' }),
    { act: 'restore', caller: 'operator', answer: 'restored', details: { lostFrom: 7, lostTo: 9 } },
    { act: 'dns', caller: 'operator', answer: 'disallowed', details: { pattern: '*.shop.test' } },
  ]);
  const report = await collectReport(operator, now - 7 * 60_000, now);
  t.match(report.denials, {
    total: 3,
    listed: [
      { record: 2, act: 'revoke', by: 'operator', target: idOf('a'), note: 'laptop', time: '2026-11-30T11:53:00.000Z' },
      { record: 3, target: `0a of ${idOf('b')}`, note: 'x' },
      { record: 4, act: 'allow', target: idOf('a'), note: '' },
    ],
  });
  t.match(report.expiredRenewals, { total: 1, listed: [{ record: 5, target: idOf('late'), note: 'svid 01' }] });
  t.match(report.forks, { total: 1, listed: [{ record: 6, target: idOf('twice') }] });
  t.match(report.restores, { total: 1, listed: [{ record: 8, note: 'records 7 to 9 are lost' }] });
  t.match(report.unusedTokens, { total: 1, listed: [{ token: 'bbbb', id: idOf('waiting') }] });
  t.match(report.dns, { total: 1, listed: [{ record: 9, act: 'dns', target: '*.shop.test', note: 'disallowed' }] });
  t.same(report.ledger, { first: 1, last: 9, signedUpTo: 2 });
});

t.test(
  'identities: never renewed, weak keys, longest lifetimes; those without a valid certificate are listed separately',
  async (t) => {
    const plain = { valid: 1, lastIssued: now, nextEnd: now + day, lastEnd: now + day, key: 'EC P-256' };
    const many = Array.from({ length: 450 }, (_, i) => ({
      ...{ ...plain, id: idOf(`w${String(i).padStart(3, '0')}`), lastRenewed: now, longestLifeMs: i * 1000 },
    }));
    const report = await collectReport(
      operatorWith([], [
        ...[
          { ...plain, id: idOf('ended'), valid: 0, key: 'RSA 2048' },
          { ...plain, id: idOf('new'), names: ['new.test'] },
        ],
        ...[{ ...plain, id: idOf('rsa2048'), lastRenewed: now, key: 'RSA 2048' }],
        ...[{ ...plain, id: idOf('rsa3072'), lastRenewed: now, key: 'RSA 3072' }],
        { ...plain, id: idOf('sallyport/ca') },
        ...many,
      ] as unknown as ListedIdentity[]),
      now,
      now,
    );
    t.equal(report.identities.total, 455);
    t.match(report.neverRenewed, { total: 1, listed: [{ id: idOf('new'), names: ['new.test'] }] });
    t.match(report.weakKeys, { total: 1, listed: [{ id: idOf('rsa2048') }] });
    t.same(
      report.longestLives.map(({ longestLifeMs }) => longestLifeMs),
      Array.from({ length: 10 }, (_, i) => (449 - i) * 1000),
    );
  },
);

t.test('the clocks of connected agents that differ; a stopped CA reports none', async (t) => {
  const agents = async () => [
    { id: idOf('a'), clockAheadMs: 1999 },
    { id: idOf('b'), clockAheadMs: -2000 },
    { id: idOf('c'), clockAheadMs: 3_600_000 },
    { id: idOf('d') },
  ];
  const { clocks } = await collectReport(operatorWith([], [], agents), 0, now);
  t.strictSame(clocks?.listed, [
    { id: idOf('b'), aheadMs: -2000 },
    { id: idOf('c'), aheadMs: 3_600_000 },
  ]);
  const stopped = async () => {
    throw new SallyportError('ca_unreachable', 'stopped');
  };
  t.equal((await collectReport(operatorWith([], [], stopped), 0, now)).clocks, undefined);
  const broken = async () => {
    throw new SallyportError('internal', 'broken');
  };
  await t.rejects(collectReport(operatorWith([], [], broken), 0, now), { code: 'internal' });
});

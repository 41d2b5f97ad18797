import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemClock } from '../../../cert-agent/base/clock.ts';
import { openAuthority } from '../../../cert-agent/ca/authority.ts';
import { publicHalf, signIntermediate, signRoot } from '../../../cert-agent/ca/ca-certificates.ts';
import { readCaCertificates } from '../../../cert-agent/ca/certificates.ts';
import { firstLine, headLine, recordLine } from '../../../cert-agent/ca/ledger/copy.ts';
import { formatCertificates, signHead } from '../../../cert-agent/ca/ledger/head.ts';
import { type Act, type LedgerRecord, nextRecord } from '../../../cert-agent/ca/ledger/record.ts';
import type { LedgerHead } from '../../../cert-agent/ca/ledger/table.ts';
import { type Verification, type VerifyOptions, verifyCopy } from '../../../cert-agent/ca/ledger/verify.ts';
import { generateKey } from '../../../cert-agent/identity/keys.ts';
import { randomSerial, signCertificate } from '../../../cert-agent/identity/x509.ts';
import { makeCa } from '../../fixtures/ca.ts';

const dir = await makeCa(t);
const authority = openAuthority(dir, undefined, systemClock);
const other = await makeCa(t);
const { bundle } = readCaCertificates(dir);
const options: VerifyOptions = { trustDomain: 'demo.test', roots: bundle.roots };
const now = Date.now();

/** Records 1 to `count`; heads after each of `headsAt`. */
function makeLedger(count: number, headsAt: readonly number[], acts: Readonly<Record<number, Act>> = {}) {
  const records: LedgerRecord[] = [];
  const heads: LedgerHead[] = [];
  for (let i = 1; i <= count; i++) {
    const act: Act = acts[i] ?? {
      act: 'issue',
      caller: '10.0.0.1',
      id: `spiffe://demo.test/w${i}`,
      answer: 'recorded',
    };
    records.push(nextRecord(records.at(-1), now + i, act, 'salt'));
    if (headsAt.includes(i)) heads.push(authority.signHead(records.at(-1)!, now + i));
  }
  return { records, heads };
}

/** The lines of a copy. */
function linesOf({ records, heads }: ReturnType<typeof makeLedger>, checkpoint?: LedgerHead): string[] {
  const lines = [firstLine('demo.test', checkpoint)];
  for (const record of records) {
    lines.push(recordLine(record));
    for (const head of heads) if (head.sequence === record.sequence) lines.push(headLine(head));
  }
  return lines;
}

const verify = (lines: readonly string[], more: Partial<VerifyOptions> = {}): Promise<Verification> =>
  verifyCopy([Buffer.from(`${lines.join('\n')}\n`)], { ...options, ...more });

const whole = makeLedger(9, [3, 6, 9]);
const lines = linesOf(whole);
/** The line of record `n`. */
const at = (n: number): number => lines.findIndex((one) => one.includes(`\\"sequence\\":${n},`));

t.test('a complete copy verifies', async (t) => {
  t.match(await verify(lines), {
    faultCount: 0,
    records: 9,
    heads: 3,
    checkpoint: 0,
    covered: 9,
    uncovered: 0,
    last: { sequence: 9, hash: whole.records[8]!.hash },
  });
});

t.test('a copy is read in pieces of any size, with or without a final newline', async (t) => {
  const text = Buffer.from(lines.join('\n'));
  const pieces = Array.from({ length: Math.ceil(text.length / 7) }, (_, i) => text.subarray(i * 7, i * 7 + 7));
  t.match(await verifyCopy(pieces, options), { faultCount: 0, records: 9 });
});

t.test('records after the last head are counted', async (t) => {
  t.match(await verify(linesOf(makeLedger(9, [3]))), { faultCount: 0, covered: 3, uncovered: 6 });
});

const first = async (t: Test, changed: readonly string[], kind: string, sequence: number, message: RegExp | string) => {
  const { faults } = await verify(changed);
  t.match(faults[0], { kind, sequence, message });
};

t.test('each edit of each record is detected', async (t) => {
  for (let n = 1; n <= 9; n++) {
    const changed = lines.with(at(n), lines[at(n)]!.replace('10.0.0.1', '10.0.0.2'));
    await first(t, changed, 'edited', n, `record ${n} was changed: its hash does not match`);
    t.equal((await verify(changed)).faultCount, 1, 'no other fault is reported');
  }
});

t.test('an edit with recomputed hashes is detected by the next head', async (t) => {
  const acts = { 5: { act: 'issue', caller: '10.9.9.9', answer: 'recorded' } } as const;
  const { records } = makeLedger(9, [], acts);
  await first(
    t,
    linesOf({ records, heads: whole.heads }),
    'head_mismatch',
    4,
    'the signed head of record 6 does not match: records were replaced between 4 and 6',
  );
});

t.test('gaps, reorderings and duplicates are detected', async (t) => {
  await first(t, lines.toSpliced(at(5), 1), 'gap', 5, 'record 5 is missing');
  await first(t, lines.toSpliced(at(4), 2), 'gap', 4, 'records 4 to 5 are missing');
  await first(t, lines.toSpliced(at(1), 1), 'gap', 1, 'record 1 is missing');
  await first(t, lines.toSpliced(at(5), 0, lines[at(5)]!), 'duplicate', 5, 'record 5 occurs twice');
  await first(t, lines.with(at(4), lines[at(5)]!).with(at(5), lines[at(4)]!), 'gap', 4, 'record 4 is missing');
  await first(t, lines.toSpliced(at(8), 0, lines[at(2)]!), 'order', 2, 'record 2 comes after record 7');
  await first(
    t,
    lines.toSpliced(at(8), 0, headLine(whole.heads[0]!)),
    'order',
    3,
    'the head of record 3 is not in its place',
  );
});

t.test('a truncated copy is detected by its own heads, or by a known head', async (t) => {
  const cut = linesOf({ records: whole.records.slice(0, 7), heads: whole.heads });
  await first(
    t,
    [...cut, headLine(whole.heads[2]!)],
    'truncated',
    8,
    'it ends with record 7, but a head covers 9: the end is missing',
  );
  t.match(await verify(cut), { faultCount: 0, covered: 6, uncovered: 1 }, 'truncated together with its heads');
  const seen = [{ sequence: 9, hash: whole.heads[2]!.hash }];
  t.match(await verify(cut, { seen }), { faults: [{ kind: 'truncated', sequence: 8 }] });
  t.match(await verify(lines, { seen }), { faultCount: 0 });
  const wrong = [{ sequence: 9, hash: 'ab'.repeat(32) }];
  t.match(await verify(lines, { seen: wrong }), { faults: [{ kind: 'head_mismatch', sequence: 9 }] });
});

t.test('a copy that ends in the middle of a record is detected', async (t) => {
  const text = lines.join('\n');
  for (const cut of [1, 20, 100]) {
    const { faults } = await verifyCopy([Buffer.from(text.slice(0, text.indexOf(lines[at(8)]!) + cut))], options);
    t.match(faults[0], { kind: 'copy_invalid', sequence: 8, message: /^line 11, after record 7, is not a line/ });
  }
});

t.test('a line that the CA would write differently is detected', async (t) => {
  const odd = [
    lines[at(5)]!.replace('{"hash"', '{ "hash"'),
    lines[at(5)]!.replace('{"hash"', '{"note":"x","hash"'),
    `${lines[at(5)]!}\r`,
    '',
    '[]',
    '{"head":{"sequence":5}}',
    headLine({ ...whole.heads[1]!, issuer: 'xx' }),
  ];
  for (const line of odd) await first(t, lines.with(at(5), line), 'copy_invalid', 5, /not a line of a ledger/);
  const pieces = [Buffer.from(`${lines.slice(0, at(5)).join('\n')}\n`), Buffer.from([0x22, 0xff, 0x22, 10])];
  t.match((await verifyCopy(pieces, options)).faults, [{ kind: 'copy_invalid', sequence: 5 }]);
});

t.test('heads that other keys signed prove nothing', async (t) => {
  const theirs = openAuthority(other, undefined, systemClock);
  const changes: [LedgerHead, RegExp][] = [
    [theirs.signHead(whole.records[5]!, now), /its signer is not an issuer of this CA$/],
    [{ ...whole.heads[1]!, signature: 'AAAA' }, /its signature does not match$/],
    [{ ...whole.heads[1]!, time: now + 1e12 }, /its signer was not valid at that time$/],
    [{ ...whole.heads[1]!, time: now + 7 }, /its signature does not match$/],
    [{ ...whole.heads[1]!, issuer: 'AAAA' }, /it cannot be read$/],
  ];
  for (const [head, message] of changes) {
    const heads = [whole.heads[0]!, head, whole.heads[2]!];
    await first(t, linesOf({ records: whole.records, heads }), 'head_invalid', 6, message);
  }
  t.match(await verify(lines, { roots: readCaCertificates(other).bundle.roots }), {
    faults: [{ kind: 'head_invalid' }, { kind: 'head_invalid' }, { kind: 'head_invalid' }, { kind: 'unsigned' }],
  });
});

t.test('heads of an earlier root count once a head of a current root covers a record of that root', async (t) => {
  const theirs = openAuthority(other, undefined, systemClock);
  const roots = readCaCertificates(other).bundle.roots;
  const start: Act = {
    act: 'start',
    caller: 'self',
    answer: 'started',
    details: { roots: formatCertificates(bundle.roots) },
  };
  const ledger = makeLedger(9, [3, 6], { 5: start });
  const last = theirs.signHead(ledger.records[8]!, now + 9);
  const rotated = { records: ledger.records, heads: [...ledger.heads, last] };
  t.match(await verify(linesOf(rotated), { roots }), { faultCount: 0, heads: 3, covered: 9, uncovered: 0 });
  t.match(
    await verify(linesOf({ ...rotated, records: rotated.records.slice(3) }, ledger.heads[0]), { roots, part: true }),
    {
      ...{ faultCount: 0, checkpoint: 3 },
    },
  );
  // No head of a present root covers the record, or no record has the root: nothing vouches for the heads.
  t.match(await verify(linesOf(ledger), { roots }), {
    faults: [{ kind: 'head_invalid', sequence: 3 }, { kind: 'head_invalid', sequence: 6 }, { kind: 'unsigned' }],
  });
  const plain = makeLedger(9, [3, 6]);
  const unvouched = { records: plain.records, heads: [...plain.heads, theirs.signHead(plain.records[8]!, now + 9)] };
  t.match(await verify(linesOf(unvouched), { roots }), {
    ...{ covered: 9, faultCount: 2 },
    faults: [
      { kind: 'head_invalid', sequence: 3 },
      { kind: 'head_invalid', sequence: 6 },
    ],
  });
  // The other way round: a reader with the old root, who gets the new one from a record under a head of the old one.
  const added: Act = { ...start, act: 'rotate', details: { roots: formatCertificates([...bundle.roots, ...roots]) } };
  const distributed = makeLedger(9, [6], { 5: added });
  const heads = [...distributed.heads, theirs.signHead(distributed.records[8]!, now + 9)];
  t.match(await verify(linesOf({ records: distributed.records, heads })), { faultCount: 0, covered: 9 });
});

t.test('an issuer may be below CAs other than the root', async (t) => {
  const keys = { root: generateKey(), middle: generateKey(), issuer: generateKey() };
  const names = { trustDomain: 'demo.test', now };
  const root = await signRoot(names, keys.root);
  const middle = await signCertificate(
    {
      ...{ subject: 'CN=demo.test policy', uris: ['spiffe://demo.test'], publicKey: publicHalf(keys.middle) },
      ...{ serial: randomSerial(), notBefore: now - 60_000, notAfter: now + 3_600_000 },
      ...{ keyUsage: ['keyCertSign', 'cRLSign'], ca: { pathLength: 1 } },
    },
    { key: keys.root, certificate: root },
  );
  const above = { key: keys.middle, certificate: middle };
  const issuer = await signIntermediate(names, publicHalf(keys.issuer), above, false);
  const { records } = makeLedger(9, []);
  const head = (chain: readonly Buffer[]) => signHead('demo.test', records[8]!, now + 9, { key: keys.issuer, chain });
  const given = (chain: readonly Buffer[]) => verify(linesOf({ records, heads: [head(chain)] }), { roots: [root] });
  t.match(await given([issuer, middle]), { faultCount: 0, covered: 9 });
  t.match(await given([issuer]), { faults: [{ kind: 'head_invalid' }, { kind: 'unsigned' }] });
  t.match(await given([issuer, root, middle]), { faults: [{ kind: 'head_invalid' }, { kind: 'unsigned' }] });
});

t.test('a head of an earlier root does not hide an edit', async (t) => {
  const theirs = openAuthority(other, undefined, systemClock);
  const roots = readCaCertificates(other).bundle.roots;
  const start: Act = {
    act: 'start',
    caller: 'self',
    answer: 'started',
    details: { roots: formatCertificates(bundle.roots) },
  };
  const { records, heads } = makeLedger(9, [3], { 1: start });
  const last = theirs.signHead(records[8]!, now + 9);
  const forged = makeLedger(9, [3], { 1: start, 2: { act: 'issue', caller: '10.9.9.9', answer: 'recorded' } });
  const mixed = linesOf({ records: forged.records, heads: [...forged.heads, last] });
  await t.resolveMatch(verify(mixed, { roots }), {
    faults: [{ kind: 'head_mismatch', sequence: 4 }, { kind: 'head_invalid', sequence: 3 }, { kind: 'unsigned' }],
  });
  t.match(await verify(linesOf({ records, heads: [...heads, last] }), { roots }), { faultCount: 0 });
});

t.test('a copy without any head proves nothing', async (t) => {
  t.match((await verify(linesOf({ ...whole, heads: [] }))).faults, [{ kind: 'unsigned' }]);
  const seen = [{ sequence: 9, hash: whole.heads[2]!.hash }];
  t.match(await verify(linesOf({ ...whole, heads: [] }), { seen }), { faultCount: 0, covered: 9 });
});

t.test('a pruned copy begins at its checkpoint, and a record shows it', async (t) => {
  const details = { upTo: 3, hash: whole.records[2]!.hash, records: 3, issue: 3 };
  const ledger = makeLedger(9, [3, 6, 9], { 8: { act: 'checkpoint', caller: 'self', answer: 'pruned', details } });
  const rest = { records: ledger.records.slice(3), heads: ledger.heads };
  t.match(await verify(linesOf(rest, ledger.heads[0])), { faultCount: 0, checkpoint: 3, records: 6, covered: 9 });
  await first(t, linesOf(rest), 'gap', 1, 'records 1 to 3 are missing');
  const more = { records: ledger.records.slice(6), heads: ledger.heads };
  const begun = linesOf(more, ledger.heads[1]);
  await first(t, begun, 'gap', 4, 'records up to 6 are missing, and no record says that they were pruned');
  t.match(await verify(begun, { part: true }), { faultCount: 0 });
  t.match(await verify(begun, { part: true, seen: [{ sequence: 5, hash: 'x' }] }), {
    faultCount: 0,
    notCompared: [{ sequence: 5, why: 'the copy begins after record 6' }],
  });
  const forged = linesOf(more, { ...ledger.heads[1]!, hash: 'ab'.repeat(32) });
  await first(t, forged, 'head_invalid', 6, /its signature does not match/);
});

t.test('records that no head covers do not excuse a missing record', async (t) => {
  const details = { upTo: 3, hash: 'x', records: 3 };
  const ledger = makeLedger(9, [3, 6], { 8: { act: 'checkpoint', caller: 'self', answer: 'pruned', details } });
  const rest = { ...ledger, records: ledger.records.slice(3), heads: ledger.heads.slice(1) };
  t.match((await verify(linesOf(rest, ledger.heads[0]))).faults, [
    { kind: 'gap', message: /^records up to 3 are missing, and no signed head covers record 8, which says/ },
  ]);
  const lost = { backupTime: 'x', backupEnd: 4, lostFrom: 5, lostTo: 9 };
  const restored = makeLedger(7, [4], { 5: { act: 'restore', caller: 'operator', answer: 'restored', details: lost } });
  t.match((await verify(linesOf(restored), { seen: [{ sequence: 7, hash: 'ab' }] })).faults, [
    {
      kind: 'truncated',
      message: /^record 7 was seen, and no signed head covers record 5, by which a restore lost it$/,
    },
  ]);
});

t.test('a restore reports which records it lost', async (t) => {
  const details = { lostFrom: 5, lostTo: 9 };
  const ledger = makeLedger(7, [7], { 5: { act: 'restore', caller: 'operator', answer: 'restored', details } });
  const seen = [{ sequence: 7, hash: whole.records[6]!.hash }];
  t.match(await verify(linesOf(ledger), { seen }), {
    faultCount: 0,
    restored: [{ sequence: 5, lost: { from: 5, to: 9 } }],
    notCompared: [{ sequence: 7, why: 'a restore lost it: see record 5' }],
  });
});

t.test('files that are not copies of a ledger are refused', async (t) => {
  t.match((await verify([])).faults, [{ kind: 'copy_invalid' }]);
  t.match((await verifyCopy([], options)).faults, [{ kind: 'copy_invalid', message: /first line is missing$/ }]);
  t.match((await verify([readFileSync(join(dir, 'bundle.json'), 'utf8')])).faultCount > 0, true);
  t.match((await verify(['{"ledger":2}'])).faults, [{ message: 'this build cannot read copies of version 2' }]);
  const foreign = [firstLine('other.test', undefined), ...lines.slice(1)];
  t.match((await verify(foreign)).faults, [
    { message: 'it is the ledger of other.test, but the roots are of demo.test' },
  ]);
});

t.test('faults are counted, and the first ones kept; a long line is not buffered', async (t) => {
  const bad = [lines[0]!, ...Array.from({ length: 100 }, () => 'x')];
  const { faults, faultCount } = await verify(bad);
  t.same([faults.length, faultCount], [20, 101 - 1]);
  const pieces = function* () {
    yield Buffer.from(`${lines[0]}\n`);
    for (let i = 0; i < 40; i++) yield Buffer.alloc(65_536, 'x');
  };
  t.match((await verifyCopy(pieces(), options)).faults, [{ kind: 'copy_invalid', line: 2 }]);
});

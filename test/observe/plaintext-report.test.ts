// Who still uses plaintext: counted by port and address, within a bound.

import t, { type Test } from 'tap';
import type { PortRules } from '../../sidecar/exchange/exchange.ts';
import { SecurityReport } from '../../sidecar/observe/plaintext-report.ts';

const rules = { mtls: { mode: 'PERMISSIVE', from: 'shop/modes' } } as PortRules;
/** A wall clock that the test moves. */
function stopClock(t: Test): { now: number } {
  const clock = { now: Date.now() };
  t.intercept(Date, 'now', { value: () => clock.now });
  return clock;
}

const at = (ms: number): string => new Date(ms).toISOString();

t.test('connections by address, the most frequent first', async (t) => {
  const clock = stopClock(t);
  const start = clock.now;
  const report = new SecurityReport();
  for (const [address, secure] of [
    ['10.0.0.1', false],
    ['10.0.0.2', false],
    ['10.0.0.3', true],
  ] as const)
    report.note('80', address, secure);
  clock.now += 1000;
  report.note('80', '10.0.0.2', false);
  clock.now += 1000;
  report.note('80', '10.0.0.2', true);
  t.strictSame(report.describe('80', rules), {
    port: '80',
    mode: 'PERMISSIVE',
    from: 'shop/modes',
    mtlsConnections: 2,
    plaintextConnections: 3,
    plaintextPeers: [
      { address: '10.0.0.2', connections: 2, firstSeen: at(start), lastSeen: at(start + 1000) },
      { address: '10.0.0.1', connections: 1, firstSeen: at(start), lastSeen: at(start) },
    ],
    strictPossibleSince: at(start + 1000),
  });
});

t.test('a port without plaintext could have been STRICT since the start', async (t) => {
  const clock = stopClock(t);
  const start = clock.now;
  const report = new SecurityReport();
  clock.now += 5000;
  report.note('80', '10.0.0.1', true);
  report.note('81', '10.0.0.1', false);
  t.match(report.describe('80', rules), { mtlsConnections: 1, plaintextPeers: [], strictPossibleSince: at(start) });
  t.match(report.describe('81', rules), { mtlsConnections: 0, strictPossibleSince: at(start + 5000) });
  t.match(report.describe('82', rules), { mtlsConnections: 0, plaintextConnections: 0 }, 'nobody came yet');
  t.equal(report.describe('80', { ...rules, mtls: undefined }), undefined, 'an outbound port');
});

t.test('strangers choose their addresses: past a thousand they are counted together', async (t) => {
  const report = new SecurityReport();
  for (let i = 0; i < 1010; i++) report.note('80', `10.0.${i >> 8}.${i & 255}`, false);
  report.note('80', '10.0.0.0', false);
  const { plaintextConnections, plaintextPeers } = report.describe('80', rules)!;
  t.equal(plaintextConnections, 1011);
  t.equal(plaintextPeers.length, 1001);
  t.match(plaintextPeers.slice(0, 2), [
    { address: 'others', connections: 10 },
    { address: '10.0.0.0', connections: 2 },
  ]);
});

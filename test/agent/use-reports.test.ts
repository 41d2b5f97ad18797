// The agent's socket for sidecars, when two agents have one directory for a while, and after a restart.

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Keep } from '../../cert-agent/agent/keep.ts';
import { UseReports } from '../../cert-agent/agent/use-reports.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { writeGeneration } from '../../cert-agent/identity/generation.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createSvid } from '../fixtures/pki.ts';
import { tempDir, until } from '../fixtures/process.ts';

const roots = ['ab'.repeat(32)];

function startReports(t: Test, outDir: string, clock = new ManualClock()) {
  const captured = captureLog();
  let changes = 0;
  const reports = new UseReports({ outDir, log: captured.log, clock, onChange: () => changes++ });
  t.teardown(() => reports.close());
  reports.tick();
  return { reports, clock, captured, changes: () => changes };
}

/** A sidecar that reports the deny list `denied`. */
function report(t: Test, outDir: string, denied: number): Socket {
  const socket = connect(join(outDir, 'agent.sock'));
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(`${JSON.stringify({ bundle: 1, denied, roots })}\n`);
  return socket;
}

const inodeOf = (outDir: string) => statSync(join(outDir, 'agent.sock'), { throwIfNoEntry: false })?.ino;

async function listening(outDir: string, before?: number): Promise<number> {
  return until(() => inodeOf(outDir) !== before && inodeOf(outDir), 'the socket');
}

t.test('an agent that exits leaves the socket of its successor in place', async (t) => {
  const outDir = tempDir(t);
  const old = startReports(t, outDir);
  const first = await listening(outDir);
  report(t, outDir, 7);
  await until(() => (old.reports.inUse()?.denied ?? 0) > 0, 'the report');
  const next = startReports(t, outDir);
  const second = await listening(outDir, first);
  old.reports.tick();
  await until(() => old.captured.withCode('agents_overlap')[0], 'a word about it');
  for (let n = 0; n < 5; n++) {
    old.clock.advance(5000);
    old.reports.tick();
  }
  t.equal(old.captured.withCode('agents_overlap').length, 1, 'once a minute');
  t.match(old.reports.inUse(), { sidecars: 1, denied: 7 }, 'sidecars of the successor stay its own');
  old.reports.close();
  t.equal(inodeOf(outDir), second);
  report(t, outDir, 8);
  await until(() => (next.reports.inUse()?.denied ?? 0) > 0, 'the report to the successor');
  t.match(next.reports.inUse(), { sidecars: 1, denied: 8 });
  next.reports.close();
  t.notOk(existsSync(join(outDir, 'agent.sock')), "the agent's own socket goes with it");
});

t.test('a lost socket is replaced, also when one without an agent is in its place', async (t) => {
  const outDir = tempDir(t);
  const { reports, captured } = startReports(t, outDir);
  const first = await listening(outDir);
  const kept = report(t, outDir, 7);
  await until(() => reports.inUse(), 'the report');
  unlinkSync(join(outDir, 'agent.sock'));
  reports.tick();
  const second = await listening(outDir, first);
  t.match(captured.withCode('listen_failed'), [{ msg: /agent\.sock was removed/ }]);
  // What a kill leaves behind.
  const other = createServer();
  const elsewhere = join(outDir, 'x.sock');
  await new Promise<void>((resolve) => other.listen(elsewhere, resolve));
  renameSync(elsewhere, join(outDir, 'agent.sock'));
  await new Promise((resolve) => other.close(resolve));
  t.not(inodeOf(outDir), second);
  reports.tick();
  await until(() => {
    report(t, outDir, 6);
    return (reports.inUse()?.sidecars ?? 0) > 1;
  }, 'a report to the new one');
  t.match(reports.inUse(), { denied: 6 });
  t.notOk(kept.destroyed, 'the connections of the lost one stay');
});

t.test(
  'after a restart, sidecars that reported before are unknown until they have had time to reconnect',
  async (t) => {
    const outDir = tempDir(t);
    const first = startReports(t, outDir);
    t.notOk(first.reports.isHolding, 'a new directory has none');
    await listening(outDir);
    report(t, outDir, 7);
    await until(() => first.reports.inUse(), 'the report');
    first.reports.close();

    const second = startReports(t, outDir);
    t.ok(second.reports.isHolding);
    await listening(outDir);
    report(t, outDir, 7);
    await until(() => second.reports.inUse(), 'the report');
    t.ok(second.reports.isHolding, 'other sidecars may still connect');
    const before = second.changes();
    second.clock.advance(2000);
    t.notOk(second.reports.isHolding);
    t.equal(second.changes(), before + 1, 'once they have connected, the deny list is acknowledged');
    second.reports.close();

    const third = startReports(t, outDir);
    third.clock.advance(2000);
    third.reports.close();
    t.notOk(startReports(t, outDir).reports.isHolding, 'the reports are gone');
  },
);

t.test('a directory that is removed and created again gets a new socket', async (t) => {
  const outDir = join(tempDir(t), 'out');
  const { reports } = startReports(t, outDir);
  const first = await listening(outDir);
  rmSync(outDir, { recursive: true });
  mkdirSync(outDir);
  reports.tick();
  t.not(await listening(outDir, first), undefined);
});

t.test('files that another process keeps changing are repaired each time, and logged once a minute', async (t) => {
  const [dir, clock, captured] = [tempDir(t), new ManualClock(), captureLog()];
  const [outDir, caBundleFile] = [join(dir, 'out'), join(dir, 'root.pem')];
  const authority = await createAuthority('demo.test');
  writeFileSync(caBundleFile, authority.bundlePem);
  const svid = await createSvid(authority, 'spiffe://demo.test/ns/shop/sa/web');
  writeGeneration(outDir, { svid, bundles: authority.bundles, denied: emptyDenyList }, 'ours');
  const keep = new Keep({ outDir, caBundleFile, log: captured.log, clock });
  const said = () => captured.withCode('generation_damaged').map(({ msg }) => String(msg));
  for (let second = 0; second < 90; second++) {
    writeFileSync(join(outDir, 'crl.pem'), 'theirs');
    clock.advance(1000);
    keep.mend();
    t.equal(readFileSync(join(outDir, 'crl.pem'), 'utf8'), 'ours');
  }
  t.match(said(), [/is damaged: .*crl\.pem was changed/, /another agent writes to/, /another agent writes to/]);
  t.equal(said().length, 3);
});

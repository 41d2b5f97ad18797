// The time and memory of `sallyport ca ledger verify` for a copy of a million records with a signed head in every
// thousand, as a busy CA has them in an hour.

import { createWriteStream, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { systemClock } from '../cert-agent/base/clock.ts';
import { openAuthority } from '../cert-agent/ca/authority.ts';
import { initCa } from '../cert-agent/ca/init.ts';
import { firstLine, headLine, recordLine } from '../cert-agent/ca/ledger/copy.ts';
import { type LedgerRecord, nextRecord } from '../cert-agent/ca/ledger/record.ts';
import { commandOf } from './ours.ts';
import { startRunning } from './process.ts';

const trustDomain = 'perf.test';
const perHead = 1000;
const sampleMs = 100;

export interface Verified {
  readonly seconds: number;
  /** The most that was resident, MB. */
  readonly peakMb: number;
}

/** Writes a copy of `count` records into the new directory `dir`, and verifies it with the program in `root`. */
export async function measureLedger(dir: string, root: string, count: number): Promise<Verified> {
  await initCa({ dir, trustDomain });
  const copy = join(dir, 'ledger.jsonl');
  await pipeline(Readable.from(chunksOf(dir, count)), createWriteStream(copy, { highWaterMark: 1_048_576 }));
  const args = ['ca', 'ledger', 'verify', copy, '--ca-bundle', join(dir, 'bundle.pem')];
  const started = performance.now();
  const running = startRunning(process.execPath, [...commandOf(root), ...args], dir);
  let peakMb = 0;
  const sample = setInterval(() => {
    peakMb = Math.max(peakMb, peakOf(running.child.pid!));
  }, sampleMs);
  const code = await new Promise<number | null>((resolve) => running.child.once('exit', resolve));
  clearInterval(sample);
  if (code !== 0) throw new Error(`ca ledger verify ended with ${code}`);
  return { seconds: (performance.now() - started) / 1000, peakMb };
}

/** The most that has been resident in a process, MB; 0 once it has ended. */
function peakOf(pid: number): number {
  try {
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

/** The copy, in pieces of a head's records. */
function* chunksOf(dir: string, count: number): Generator<string> {
  const authority = openAuthority(dir, undefined, systemClock);
  const now = Date.now();
  let last: LedgerRecord | undefined;
  yield `${firstLine(trustDomain, undefined)}\n`;
  for (let from = 1; from <= count; from += perHead) {
    const lines: string[] = [];
    for (let i = from; i < Math.min(from + perHead, count + 1); i++) {
      const serial = i.toString(16).padStart(32, '0');
      last = nextRecord(last, now, {
        ...{ act: 'renew', caller: '192.0.2.17', answer: 'recorded', evidence: `svid ${serial}` },
        ...{ id: `spiffe://${trustDomain}/ns/shop/sa/service-${i % 500}`, details: { serial, life: '1h' } },
      });
      lines.push(recordLine(last));
    }
    lines.push(headLine(authority.signHead(last!, now)));
    yield `${lines.join('\n')}\n`;
  }
}

// Tunes V8's garbage collection for a proxy. A socket read allocates up to 64 KB outside the heap and an object of
// about a hundred bytes inside it. A young collection would free both in half a millisecond, but V8 starts one only
// when the young generation is full. Meanwhile the buffers pile up until their sum makes V8 collect the whole heap,
// again and again: half the CPU time of a TCP stream, and 20 MB of memory under load (measured, perf/README.md).

import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

// A sidecar runs beside every service, so its memory counts as often. Gateways are few, and they trade some 50 MB for a
// fifth of the CPU time of a request (measured).
const isGateway = process.argv[2] === 'gateway';
if (!isGateway) {
  // The young generation keeps its initial size: 4 MB by bin.mjs, 1 MB if Node was started without it. It would grow
  // while modules load, so cli.ts imports this file first.
  setFlagsFromString('--semi-space-growth-factor=1');
  // Requests in flight outlive such a young generation and become garbage in the old one. V8 lets the old one grow to
  // four times the live size before it collects. 2.2 times is enough: 30 MB less under load for 4 % of a request's CPU
  // time (measured).
  setFlagsFromString('--heap-growing-percent=120');
}
// Several threads share a young collection and wait for each other, half of the CPU time that it takes. It is short
// enough for one: with 4 MB the longest was 1.8 ms (measured). The old generation keeps its helpers: alone, the main
// thread would stand still for as long as it takes to mark the whole of it.
setFlagsFromString('--no-parallel-scavenge');
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as (options: { readonly type: 'minor' | 'major' }) => void;

/** A young collection takes 0.4 ms: at this interval, a fiftieth of the time that copying the bytes takes. */
const everyBytes = 6 * 1024 * 1024;
let held = 0;

/** Counts bytes of socket reads, which are garbage once they are passed on, and makes V8 free them in time. */
export function readBytes(count: number): void {
  held += count;
  if (held < everyBytes) return;
  held = 0;
  collect({ type: 'minor' });
}

/** Of text that was made objects of. Their garbage is old when they are done with: only a whole collection frees it. */
const everyListedBytes = 8 * 1024 * 1024;
let listed = 0;
let listedMost = everyListedBytes;

/**
 * Before anything is served: collects the whole heap in time. It takes some 30 ms for 10,000 objects, and longer for more,
 * so that it is done less often for more.
 */
export function collectEarly(count: number): void {
  listed += count;
  if (listed < listedMost) return;
  collect({ type: 'major' });
  listed = 0;
  listedMost = Math.max(everyListedBytes, getHeapStatistics().used_heap_size / 4);
}

let holders = 0;

/**
 * Keeps a gateway's young generation from growing until what is returned is called. A large reading would make it grow to
 * 128 MB, which V8 never gives back (measured).
 */
export function holdYoungGeneration(): () => void {
  let isHeld = true;
  if (isGateway && ++holders === 1) setFlagsFromString('--semi-space-growth-factor=1');
  return () => {
    if (isGateway && isHeld && --holders === 0) setFlagsFromString('--semi-space-growth-factor=2');
    isHeld = false;
  };
}

// How V8 keeps a proxy's garbage. A socket read allocates up to 64 KB outside the heap behind an object of some hundred
// bytes inside it. V8 starts a young collection, which would free both in half a millisecond, only by what fills the
// heap; the buffers pile up meanwhile until their sum makes it collect the whole heap, over and over: half the CPU time
// of a TCP stream, and 20 MB of memory under load (measured, perf/README.md).

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

// A sidecar stands beside every service, and its memory counts as often; of gateways there are few, and what they are to
// spare is CPU time: a fifth of it a request, for some 50 MB (measured).
if (process.argv[2] !== 'gateway') {
  // The young generation stays as small as it begins. It grows while modules load, so cli.ts imports this file first.
  setFlagsFromString('--semi-space-growth-factor=1');
  // Requests in flight outlive such a young generation and are garbage in the old one, which V8 lets grow to four times what is
  // alive before it looks. Twice is enough: 30 MB less under load for 4 % of a request's CPU time (measured).
  setFlagsFromString('--heap-growing-percent=100');
}
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as (options: { readonly type: 'minor' }) => void;

/** A young collection takes 0.4 ms; at this distance it is a fiftieth of what copying the bytes takes. */
const everyBytes = 6 * 1024 * 1024;
let held = 0;

/** Counts bytes of socket reads that are garbage once they are passed on, and has V8 free them in time. */
export function readBytes(count: number): void {
  held += count;
  if (held < everyBytes) return;
  held = 0;
  collect({ type: 'minor' });
}

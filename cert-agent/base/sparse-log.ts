// A log of what unknown clients do: bounded, so that they cannot fill our disk.

import type { Log } from './log.ts';

/** Logs a line, unless there were too many in this second: their number is logged then. Never throws. */
export type Say = (code: string, message: string) => void;

const sparseLogs = new WeakMap<Log, Say>();

/** The bounded log of what unknown clients do; one for each `log`. */
export function sparseLogOf(log: Log): Say {
  let say = sparseLogs.get(log);
  if (say === undefined) {
    say = createSparseLog(log);
    sparseLogs.set(log, say);
  }
  return say;
}

/** At most `perSecond` lines a second. The metrics count all events. */
function createSparseLog(log: Log, perSecond = 20): Say {
  let second = 0;
  let seen = 0;
  return function logOrCount(code, message) {
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) {
      if (seen > perSecond)
        log.warn(
          { code: 'log_limited', left_out: seen - perSecond },
          'some refusals of the last second were not logged',
        );
      [second, seen] = [now, 0];
    }
    if (++seen <= perSecond) log.warn({ code }, message);
  };
}

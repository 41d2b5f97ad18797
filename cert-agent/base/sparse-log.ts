// A log of what strangers do: bounded, so that a stranger cannot fill our disk.

import type { Log } from './log.ts';

export type Say = (code: string, message: string) => void;

const sparseLogs = new WeakMap<Log, Say>();

/** The log of what strangers do. */
export function sparseLogOf(log: Log): Say {
  let say = sparseLogs.get(log);
  if (say === undefined) {
    say = createSparseLog(log);
    sparseLogs.set(log, say);
  }
  return say;
}

/** A stranger must not fill our disk: at most so many lines a second, the metric counts them all. */
function createSparseLog(log: Log, perSecond = 20): Say {
  let second = 0;
  let said = 0;
  return function sayOrCount(code, message) {
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) {
      if (said > perSecond)
        log.warn(
          { code: 'log_limited', left_out: said - perSecond },
          'more refusals in the last second than are logged',
        );
      [second, said] = [now, 0];
    }
    if (++said <= perSecond) log.warn({ code }, message);
  };
}

// The operational log: one JSON line per event on stderr, each with a stable `code`. The access log is another file's.

import { writeSync } from 'node:fs';
import { type DestinationStream, type Logger, pino } from 'pino';
import { errnoOf } from './errors.ts';

export type Log = Logger;

export interface LogOptions {
  /** Which part of the product speaks: `ca`, `agent`, `sidecar`. */
  readonly component: string;
  /** pino's level names; default from SALLYPORT_LOG_LEVEL, else `info`. */
  readonly level?: string;
  /** Where lines go; default stderr. */
  readonly destination?: DestinationStream;
}

export function createLog(options: LogOptions): Log {
  const level = options.level ?? process.env['SALLYPORT_LOG_LEVEL'] ?? 'info';
  return pino(
    {
      level: pino.levels.values[level] === undefined && level !== 'silent' ? 'info' : level,
      base: { component: options.component },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    options.destination ?? stderr,
  );
}

/** How long a line waits for a reader of a pipe that is full. */
const patienceMs = 50;

/** Whether the last line was cut by a disk that is full: the next one begins on a line of its own. */
let torn = false;

/**
 * Standard error, written before the call returns so that a crash loses nothing. What cannot be written is lost: a log that is full must
 * not end the process, nor hold up traffic.
 */
const stderr: DestinationStream = {
  write(line) {
    const bytes = Buffer.from(torn ? `\n${line}` : line);
    let at = 0;
    const end = performance.now() + patienceMs;
    while (at < bytes.length) {
      try {
        at += writeSync(2, bytes, at);
      } catch (error) {
        if (errnoOf(error) !== 'EAGAIN' || performance.now() > end) break;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    }
    if (at > 0) torn = at < bytes.length;
  },
};

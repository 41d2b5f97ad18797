// The operational log: one line per event on stderr, each with a stable `code`. It is JSON, or text if stderr is a
// terminal. The access log is separate.

import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { type DestinationStream, type Logger, pino } from 'pino';
import { errnoOf } from './errors.ts';
import { formatLogLine } from './log-text.ts';

/** pino's logger. The first argument has `code`, the second is a sentence. */
export type Log = Logger;

/** Where lines go and which of them. */
export interface LogOptions {
  /** Which part of the product logs: `ca`, `agent`, `sidecar`. */
  readonly component: string;
  /** pino's level names; default from SALLYPORT_LOG_LEVEL, else `info`. */
  readonly level?: string;
  /** Where lines go, as JSON; default stderr. */
  readonly destination?: DestinationStream;
}

/**
 * The form of lines on stderr. SALLYPORT_LOG_FORMAT decides; a value that is neither counts as `json`, which is what
 * programs expect.
 */
function isText(): boolean {
  const format = process.env['SALLYPORT_LOG_FORMAT'];
  return format === undefined || format === '' ? isatty(2) : format === 'text';
}

/** Lines go to standard error unless `destination` is given. An unknown level counts as `info`. */
export function createLog(options: LogOptions): Log {
  const level = options.level ?? process.env['SALLYPORT_LOG_LEVEL'] ?? 'info';
  return pino(
    {
      level: pino.levels.values[level] === undefined && level !== 'silent' ? 'info' : level,
      base: { component: options.component },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    options.destination ?? (isText() ? { write: (line) => stderr.write(formatLogLine(line)) } : stderr),
  );
}

/** How long a line waits for the reader of a full pipe. */
const patienceMs = 50;

/** Whether a full disk cut the last line. The next one then begins with a line break. */
let torn = false;

/**
 * Standard error, written before the call returns so that a crash loses nothing. A line that cannot be written is lost:
 * a full log must neither end the process nor hold up traffic.
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

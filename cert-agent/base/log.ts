// The operational log: one JSON line per event on stderr, each with a stable `code`. The access log is another file's.

import { type DestinationStream, type Logger, pino } from 'pino';

export type Log = Logger;

export interface LogOptions {
  /** Which part of the product speaks: `ca`, `agent`, `sidecar`. */
  readonly component: string;
  /** pino's level names; default from SALLYPORT_LOG_LEVEL, else `info`. */
  readonly level?: string;
  /** Where lines go; default stderr, written before the call returns so that a crash loses none. */
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
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  );
}

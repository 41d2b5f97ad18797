// Background jobs: timers, watchers, upkeep. None of them may end the process. An error is logged, and the job runs
// again when it is next due. test/attacks/no-background-job-ends-the-process.test.ts makes each of them throw.

import { reasonOf } from './errors.ts';
import type { Log } from './log.ts';

/** A failing job may run four times a second. The operator needs the first line and then a reminder. */
const repeatMs = 60_000;

let log: Log | undefined;
const loggedAt = new Map<string, number>();

/** Runs `job` now. An exception or a rejection is logged as `background_failed` and goes no further. */
export function guard(name: string, job: () => unknown): void {
  try {
    const result = job();
    if (result instanceof Promise) result.catch((error: unknown) => reportBackground(name, error));
  } catch (error) {
    reportBackground(name, error);
  }
}

/**
 * Runs `job` every `ms` milliseconds until the returned function is called. Does not keep the process alive. A run is
 * skipped while the previous one is still going.
 */
export function every(name: string, ms: number, job: () => unknown): () => void {
  let running = false;
  const turn = (): void => {
    if (running) return;
    guard(name, () => {
      const result = job();
      if (!(result instanceof Promise)) return undefined;
      running = true;
      return result.finally(() => {
        running = false;
      });
    });
  };
  const timer = setInterval(turn, ms);
  timer.unref();
  return () => clearInterval(timer);
}

/** For a command that runs until a signal: logs failures of background jobs and unhandled rejections to `target`. */
export function reportBackgroundTo(target: Log): void {
  if (log === undefined) process.on('unhandledRejection', (error) => reportBackground('promise', error));
  log = target;
}

/** Logs that the background job `name` failed; the same reason at most once a minute. */
export function reportBackground(name: string, error: unknown): void {
  const key = `${name} ${reasonOf(error)}`;
  const now = performance.now();
  if (now - (loggedAt.get(key) ?? Number.NEGATIVE_INFINITY) < repeatMs) return;
  // A reason may contain names and numbers that change each time, so the table needs a bound.
  if (loggedAt.size >= 1000) loggedAt.clear();
  loggedAt.set(key, now);
  log?.error({ code: 'background_failed', job: name }, `${name} failed and will be retried: ${reasonOf(error)}`);
}

// What runs beside requests: timers, watchers, upkeep. None of it may end the process. What a job throws is logged, and the
// job runs again when it is next due. test/attacks/no-background-job-ends-the-process.test.ts makes each of them throw.

import { reasonOf } from './errors.ts';
import type { Log } from './log.ts';

/** A failing job may be due four times a second; the operator needs the first line and then a reminder. */
const repeatMs = 60_000;

let log: Log | undefined;
const saidAt = new Map<string, number>();

/** Runs `job` now. What it throws, or rejects with, is logged as `background_failed` and goes no further. */
export function guard(name: string, job: () => unknown): void {
  try {
    const result = job();
    if (result instanceof Promise) result.catch((error: unknown) => reportBackground(name, error));
  } catch (error) {
    reportBackground(name, error);
  }
}

/**
 * Runs `job` every `ms` milliseconds until the returned function is called; does not keep the process alive. A job that
 * is still running when it is due again is left out once.
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

/** For a command that runs until a signal: where failures of background work go, rejections that nobody awaits included. */
export function reportBackgroundTo(target: Log): void {
  if (log === undefined) process.on('unhandledRejection', (error) => reportBackground('promise', error));
  log = target;
}

/** Logs that background work of `name` failed, the same reason once a minute. */
export function reportBackground(name: string, error: unknown): void {
  const key = `${name} ${reasonOf(error)}`;
  const now = performance.now();
  if (now - (saidAt.get(key) ?? Number.NEGATIVE_INFINITY) < repeatMs) return;
  // Reasons may hold names and numbers that change each time.
  if (saidAt.size >= 1000) saidAt.clear();
  saidAt.set(key, now);
  log?.error({ code: 'background_failed', job: name }, `${name} failed and is tried again: ${reasonOf(error)}`);
}

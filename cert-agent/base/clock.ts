// Time as a value that tests control. `now` is the wall clock, which jumps (NTP, a laptop that wakes up); `monotonic`
// does not.

/** For durations use `monotonic`, for what a certificate or token says `now`. */
export interface Clock {
  /** Milliseconds since 1970, wall clock. */
  now(): number;
  /** Milliseconds from an arbitrary start, never backwards. */
  monotonic(): number;
  /** Calls `run` once after `ms` milliseconds, unless cancelled. Does not keep the process alive. */
  after(ms: number, run: () => void): () => void;
}

const maxTimerMs = 2 ** 31 - 1;

/** The machine's clock. A timer beyond setTimeout's maximum, 24.8 days, fires at that. */
export const systemClock: Clock = Object.freeze({
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms: number, run: () => void): () => void {
    // setTimeout fires at once when its delay is above the maximum.
    const timer = setTimeout(run, Math.min(Math.max(ms, 0), maxTimerMs));
    timer.unref();
    return () => clearTimeout(timer);
  },
});

/** RFC 3339, UTC, milliseconds: the only format in which we write a time. */
export function formatTime(ms: number): string {
  return new Date(ms).toISOString();
}

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration as text. */
export const durationPattern = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/;

/**
 * Milliseconds of a duration such as `500ms`, `10s`, `1m30s`, `24h`, `7d`.
 * Undefined for anything else, including a bare number: its unit would be a guess.
 */
export function parseDuration(text: string): number | undefined {
  if (!durationPattern.test(text)) return undefined;
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) {
    total += Number(amount) * (unitMs[unit ?? ''] ?? 0);
  }
  return Number.isSafeInteger(Math.round(total)) ? Math.round(total) : undefined;
}

/** The two largest units of a span in milliseconds: `1h 2m`, `45s`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`;
  const seconds = Math.floor(ms / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor((seconds % 86_400) / 3600), 'h'],
    [Math.floor((seconds % 3600) / 60), 'm'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  const shown = parts.slice(first, first + 2).filter(([amount]) => amount > 0);
  return shown.map(([amount, unit]) => `${amount}${unit}`).join(' ');
}

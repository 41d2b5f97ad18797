// The results of `sallyport doctor`.

/** `skipped`: there was nothing to check, or it could not be. */
export type Level = 'ok' | 'warning' | 'error' | 'skipped';

/** The result of one check. */
export interface Result {
  /** A stable name, such as `certificate`. */
  readonly check: string;
  readonly level: Level;
  readonly message: string;
  /** What to do; present for warnings and errors. */
  readonly fix?: string;
}

export const ok = (check: string, message: string): Result => ({ check, level: 'ok', message });
export const skipped = (check: string, message: string): Result => ({ check, level: 'skipped', message });
/** It will not work, or is open to others. */
export const bad = (check: string, message: string, fix: string): Result => ({ check, level: 'error', message, fix });
/** It works, and probably not as intended. */
export const poor = (check: string, message: string, fix: string): Result => ({
  check,
  level: 'warning',
  message,
  fix,
});

// Everything that changes at run time is a Live value: settings, policies, our SVID, bundles, the deny list. Readers
// ask for the current value each time and never keep a copy. A writer sets a complete, valid, frozen value. A failed
// refresh sets nothing, so the last good value stays.

/** A value that changes at run time. `current` never throws; a failed refresh changes nothing. */
export interface Live<T> {
  /** The value now. Cheap; call it each time. */
  current(): T;
  /** Calls `listener` after each change, synchronously, with the new value. Returns a function that unsubscribes. */
  onChange(listener: (value: T) => void): () => void;
}

/** A Live value with its setter. */
export class LiveCell<T> implements Live<T> {
  #value: T;
  readonly #listeners = new Set<(value: T) => void>();

  constructor(value: T) {
    this.#value = value;
  }

  /** The value that was set last. Frozen by its writer. */
  current(): T {
    return this.#value;
  }

  /** Does not call `listener` with the present value. */
  onChange(listener: (value: T) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls the listeners before it returns. If one throws, those after it are not called. */
  set(value: T): void {
    this.#value = value;
    for (const listener of [...this.#listeners]) listener(value);
  }
}

/** Resolves with the first value, or the current one, for which `accept` is true; rejects when `signal` aborts. */
export function whenLive<T, S extends T>(
  live: Live<T>,
  accept: (value: T) => value is S,
  signal?: AbortSignal,
): Promise<S> {
  return new Promise((resolve, reject) => {
    const now = live.current();
    if (accept(now)) return resolve(now);
    const stop = live.onChange((value) => {
      if (!accept(value)) return;
      stop();
      signal?.removeEventListener('abort', onAbort);
      resolve(value);
    });
    const onAbort = (): void => {
      stop();
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** Freezes plain data recursively. */
export function deepFreeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  Object.freeze(value);
  for (const inner of Object.values(value)) deepFreeze(inner);
  return value;
}

/** What `deepFreeze` makes of plain data. */
export type Frozen<T> = T extends object ? { readonly [K in keyof T]: Frozen<T[K]> } : T;

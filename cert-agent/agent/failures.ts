// What goes wrong at one step, counted and said once: the same reason again and again is one line that people read, and
// from then on a line for those who debug.

import type { Code, SallyportError } from '../base/errors.ts';

export interface AgentFailure {
  readonly code: Code;
  readonly message: string;
  readonly hint: string | undefined;
  /** Milliseconds since 1970. */
  readonly time: number;
}

export class Failures {
  readonly #byCode: Record<string, number> = {};
  #inARow = 0;
  #last: AgentFailure | undefined;
  #lastSaid: string | undefined;

  /** Keeps `error` as the last one; it counts only where somebody was asked (`counts`). */
  add(error: SallyportError, time: number, counts = true): void {
    const { code, message, hint } = error;
    this.#last = { code, message, hint, time };
    if (!counts) return;
    this.#inARow += 1;
    this.#byCode[code] = (this.#byCode[code] ?? 0) + 1;
  }

  /** The step went well. */
  clear(): void {
    this.#inARow = 0;
    this.#last = undefined;
    this.#lastSaid = undefined;
  }

  /** The level at which to say `text`: as given when it is new, else `debug`. */
  level<L extends string>(text: string, level: L): L | 'debug' {
    const isNew = text !== this.#lastSaid;
    this.#lastSaid = text;
    return isNew ? level : 'debug';
  }

  get inARow(): number {
    return this.#inARow;
  }

  /** Undefined once the step went well. */
  get last(): AgentFailure | undefined {
    return this.#last;
  }

  get byCode(): Readonly<Record<string, number>> {
    return this.#byCode;
  }
}

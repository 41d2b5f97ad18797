// Counts the failures of one step and logs each reason once; repetitions of the same reason go to the debug level.

import type { Code, SallyportError } from '../base/errors.ts';

/** A failed step, for the agent's state page. `message` has no secret. */
export interface AgentFailure {
  readonly code: Code;
  readonly message: string;
  readonly hint: string | undefined;
  /** Milliseconds since 1970. */
  readonly time: number;
}

/** Of one step: asking for an SVID, a bundle or a CRL. */
export class Failures {
  readonly #byCode: Record<string, number> = {};
  #inARow = 0;
  #last: AgentFailure | undefined;
  #lastLogged: string | undefined;

  /** Keeps `error` as the last one. `counts` is true if a request was made, and only then it counts as a failure. */
  add(error: SallyportError, time: number, counts = true): void {
    const { code, message, hint } = error;
    this.#last = { code, message, hint, time };
    if (!counts) return;
    this.#inARow += 1;
    this.#byCode[code] = (this.#byCode[code] ?? 0) + 1;
  }

  /** The step succeeded. */
  clear(): void {
    this.#inARow = 0;
    this.#last = undefined;
    this.#lastLogged = undefined;
  }

  /** The level for `text`: the given one if the text is new, else `debug`. */
  level<L extends string>(text: string, level: L): L | 'debug' {
    const isNew = text !== this.#lastLogged;
    this.#lastLogged = text;
    return isNew ? level : 'debug';
  }

  /** How many failures came after the last success: 0 after one. For the back-off. */
  get inARow(): number {
    return this.#inARow;
  }

  /** Undefined once the step succeeded. */
  get last(): AgentFailure | undefined {
    return this.#last;
  }

  /** All failures since the start, for metrics; a success does not reset them. */
  get byCode(): Readonly<Record<string, number>> {
    return this.#byCode;
  }
}

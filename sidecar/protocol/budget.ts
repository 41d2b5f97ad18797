// A budget for a peer's useless work: frames without effect, requests that are cancelled at once. It belongs to the
// connection; useful requests earn some of it back, so that a busy connection may err more often.

/** A token bucket that is filled only when it is empty: `spend` then costs nothing but a subtraction. */
export class Budget {
  readonly #burst: number;
  readonly #perSecond: number;
  #left: number;
  #filledAt = performance.now();

  /** `burst` at once, and `perSecond` after that. */
  constructor(burst: number, perSecond: number) {
    this.#burst = burst;
    this.#perSecond = perSecond;
    this.#left = burst;
  }

  /** Takes one. False if the budget is exhausted. */
  spend(): boolean {
    if (--this.#left > 0) return true;
    const now = performance.now();
    this.#left = Math.min(this.#burst, Math.floor(((now - this.#filledAt) / 1000) * this.#perSecond));
    this.#filledAt = now;
    return this.#left > 0;
  }

  /** A useful request was completed. */
  earn(): void {
    if (this.#left < this.#burst) this.#left++;
  }
}

// How much a peer may ask for that is for nobody: frames without use, requests that are taken back at once. Counted against
// the connection that they come on; what is of use earns some of it back, so that a busy connection may err more often.

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

  /** Takes one. False when that was one too many. */
  spend(): boolean {
    if (--this.#left > 0) return true;
    const now = performance.now();
    this.#left = Math.min(this.#burst, Math.floor(((now - this.#filledAt) / 1000) * this.#perSecond));
    this.#filledAt = now;
    return this.#left > 0;
  }

  /** Something of use was asked for and done. */
  earn(): void {
    if (this.#left < this.#burst) this.#left++;
  }
}

// The usual level of one number per window: its mean and deviation, exponentially weighted, and its highest value. An
// outlier is learned only in part, so that one attack does not become usual, but a slow rise does.

/** An unusual value must be this many times the highest so far: jobs that run at night are usual in their own time. */
const timesPeak = 2;
/** How far the highest value may rise in one window, once values are compared. */
const peakGrowth = 1.1;

/** The rate of forgetting: the weight of a new window. */
export function weightOf(windowMs: number, halfLifeMs: number): number {
  return 1 - 0.5 ** (windowMs / halfLifeMs);
}

/** One learned number. */
export class Level {
  /** Windows so far. */
  #windows = 0;
  #mean = 0;
  /** The mean of squares: windows without a request change it in one step. */
  #squares = 0;
  #peak = 0;
  #isSettled = false;

  get mean(): number {
    return this.#mean;
  }

  /** The highest usual value. */
  limit(threshold: number): number {
    const deviation = Math.sqrt(Math.max(0, this.#squares - this.#mean ** 2));
    return Math.max(this.#mean + threshold * deviation, timesPeak * this.#peak);
  }

  /** Learns the value of a window. */
  learn(value: number, weight: number, isUnusual: boolean, threshold: number): void {
    const taken = isUnusual ? Math.min(value, this.limit(threshold)) : value;
    const share = Math.max(weight, 1 / ++this.#windows);
    this.#mean += share * (taken - this.#mean);
    this.#squares += share * (taken ** 2 - this.#squares);
    // It decays as the mean does.
    const peak = this.#peak * (1 - weight);
    // Values below the limit raise it slowly as well: otherwise it could be doubled step by step.
    const raised = this.#isSettled ? Math.min(value, Math.max(this.#peak * peakGrowth, this.#mean)) : value;
    this.#peak = Math.max(peak, raised);
  }

  /** Values are compared from now on: rises are slow. */
  settle(): void {
    this.#isSettled = true;
  }

  /** Learns `count` empty windows. */
  skip(count: number, weight: number): void {
    if (count <= 0 || this.#windows === 0) return;
    // At first each window counts the same; see `learn`.
    const plain = Math.min(count, Math.max(0, Math.floor(1 / weight) - this.#windows));
    const left = (this.#windows / (this.#windows + plain)) * (1 - weight) ** (count - plain);
    this.#windows += count;
    this.#mean *= left;
    this.#squares *= left;
    this.#peak *= (1 - weight) ** count;
  }
}

/** The learned share of errors. */
export class Share {
  #errors = 0;
  #requests = 0;

  get value(): number {
    return this.#requests === 0 ? 0 : this.#errors / this.#requests;
  }

  /** The usual number of errors among so many requests: the share, deviations of a binomial, and a tenth. */
  limit(requests: number, threshold: number): number {
    const share = this.value;
    const deviation = Math.sqrt(requests * share * (1 - share));
    return requests * share + Math.max(threshold * deviation, requests / 10, fewErrors);
  }

  learn(errors: number, requests: number, weight: number, threshold: number): void {
    const taken = this.#requests === 0 ? errors : Math.min(errors, this.limit(requests, threshold));
    this.#errors = this.#errors * (1 - weight) + taken;
    this.#requests = this.#requests * (1 - weight) + requests;
  }

  skip(count: number, weight: number): void {
    const left = (1 - weight) ** count;
    this.#errors *= left;
    this.#requests *= left;
  }
}

/** Fewer errors than this in a window are not reported. */
const fewErrors = 4;

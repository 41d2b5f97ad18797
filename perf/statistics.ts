// Statistics of a series of slices: the median, the spread, and the confidence interval of the median.

/** The median of a series with its 95 % interval and the quartiles of the series. */
export interface Spread {
  readonly median: number;
  /** The 95 % interval of the median. */
  readonly low: number;
  readonly high: number;
  readonly quartiles: readonly [number, number];
  /** The number of values. */
  readonly count: number;
}

/** The spread of a series of at least one value. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const count = sorted.length;
  const rank = lowerRank(count);
  return {
    median: quantile(sorted, 0.5),
    low: sorted[rank]!,
    high: sorted[count - 1 - rank]!,
    quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)],
    count,
  };
}

export function median(values: readonly number[]): number {
  return quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

function quantile(sorted: readonly number[], part: number): number {
  const at = (sorted.length - 1) * part;
  const below = Math.floor(at);
  const above = sorted[Math.ceil(at)]!;
  return sorted[below]! + (above - sorted[below]!) * (at - below);
}

/**
 * The rank r (from 0) such that the true median lies between the values of rank r and count - 1 - r with at least 95 %
 * confidence. The number of values below the median is binomial for any distribution. 0 if there are too few values.
 */
function lowerRank(count: number): number {
  let probability = 0.5 ** count;
  let below = probability;
  let rank = 0;
  while (below + (probability * (count - rank)) / (rank + 1) <= 0.025) {
    probability *= (count - rank) / (rank + 1);
    rank++;
    below += probability;
  }
  return below <= 0.025 ? rank : 0;
}

// Suggests the nearest known word for an unknown one.

/** A hint with the nearest of `known` to `word`, if one is near enough. */
export function didYouMean(word: string, known: Iterable<string>): string | undefined {
  const best = nearestTo(word, known);
  return best === undefined ? undefined : `did you mean '${best}'?`;
}

/** The nearest of `known`, ignoring case; undefined when the edit distance is above a third of the length of `word`. */
export function nearestTo(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase(), bestDistance);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/** The edit distance, in which two swapped letters are one edit, or `limit` once it cannot be below it. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row[j] = Math.min(replaced, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) row[j] = Math.min(row[j] ?? 0, (before[j - 2] ?? 0) + 1);
    }
    [before, previous] = [previous, row];
  }
  return previous[b.length] ?? limit;
}

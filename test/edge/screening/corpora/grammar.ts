// Sentences of a small grammar, drawn at random from a seed, so that a corpus is the same in every run.

export type Rules = Readonly<Record<string, readonly string[]>>;

/** Numbers from 0 to 1 (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function pick<T>(random: () => number, list: readonly T[]): T {
  return list[Math.floor(random() * list.length)]!;
}

/** Different sentences of a grammar; `<name>` in a rule is another rule. */
export function sentences(rules: Rules, count: number, seed: number): string[] {
  const random = randomOf(seed);
  const expand = (text: string): string =>
    text.replaceAll(/<(\w+)>/g, (whole, name: string) =>
      rules[name] === undefined ? whole : expand(pick(random, rules[name])),
    );
  const found = new Set<string>();
  for (let turn = 0; turn < count * 20 && found.size < count; turn++) found.add(expand('<start>'));
  return [...found];
}

// A client's preference by its Accept and Accept-Encoding (RFC 9110 section 12.5). Weights decide; among equals the
// more specific, then the earlier, then our own preference.

interface Wish {
  /** In lower case, without parameters. */
  readonly what: string;
  /** From 0, which refuses, to 1. */
  readonly weight: number;
}

/** More than any real client lists; a longer list is an attack. */
const maxWishes = 32;

/** Section 12.4.2. An unreadable weight refuses. */
function readWishes(value: string): Wish[] {
  return value.split(',', maxWishes).map((item) => {
    const [what = '', ...parameters] = item.split(';').map((one) => one.trim().toLowerCase());
    const said = parameters.find((one) => one.startsWith('q='))?.slice(2);
    const weight = said === undefined ? 1 : /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(said) ? Number(said) : 0;
    return { what, weight };
  });
}

/**
 * Section 12.5.3: the coding for the client; undefined if it prefers none. A client that sends no Accept-Encoding gets
 * none, since it may not know any.
 */
export function chooseCoding<C extends string>(accepts: string | undefined, offers: readonly C[]): C | undefined {
  if (accepts === undefined || accepts === '') return undefined;
  const wishes = readWishes(accepts);
  const weightOf = (...names: string[]): number | undefined => wishes.find(({ what }) => names.includes(what))?.weight;
  const anyOther = weightOf('*') ?? 0;
  let best: C | undefined;
  let bestWeight = 0;
  for (const coding of offers) {
    // Section 8.4.1.3: the old name is an alias.
    const weight = (coding === 'gzip' ? weightOf('gzip', 'x-gzip') : weightOf(coding)) ?? anyOther;
    if (weight > bestWeight) [best, bestWeight] = [coding, weight];
  }
  return (weightOf('identity') ?? 0) > bestWeight ? undefined : best;
}

/** Section 12.5.1: the media type that the client prefers; the first if it has no preference, or accepts none. */
export function chooseType<T extends string>(accepts: string | undefined, offers: readonly [T, ...T[]]): T {
  if (accepts === undefined) return offers[0];
  const wishes = readWishes(accepts);
  const scored = offers.map((type) => ({ type, ...scoreOf(type, wishes) }));
  const [best] = scored.toSorted((a, b) => b.weight - a.weight || b.exact - a.exact || a.at - b.at) as [
    (typeof scored)[number],
  ];
  return best.weight > 0 ? best.type : offers[0];
}

/** The most specific range decides: `text/html;q=0` beside `*` + `/*` refuses. */
function scoreOf(type: string, wishes: readonly Wish[]): { weight: number; exact: number; at: number } {
  const patterns = ['*/*', `${type.slice(0, type.indexOf('/'))}/*`, type];
  for (let exact = patterns.length - 1; exact >= 0; exact--) {
    const at = wishes.findIndex(({ what }) => what === patterns[exact]);
    if (at !== -1) return { weight: wishes[at]!.weight, exact, at };
  }
  return { weight: 0, exact: 0, at: 0 };
}

// Makes a program of ajv count its steps: each loop counts each round, each function each call, and
// each large block its entry. The remaining blocks have a few comparisons, which count with the
// block around them.

/** Steps by the parts of a program that cost more than a statement. */
const weights: Readonly<Record<string, number>> = {
  ';': 1,
  'if(': 2,
  '||': 1,
  '&&': 1,
  /** An error, with the text of its place. */
  '{instancePath': 100,
};

/** A block with less than this counts for the one around it. */
const leastBlock = 10;

/** For the first of a function or a loop. */
const perRound = 5;
const perCall = 20;

const tokens =
  /(?<call>function validate\d+\(data, \{instancePath="", [^{}]*(?:\{\})?\}=\{\}\)\{)|(?<round>\bfor\((?:[^(){}]|\([^(){}]*\))*\)\{)|(?<block>\)\{|else ?\{)|\{instancePath|[{};]|\bif\(|\|\||&&/g;

interface Frame {
  /** Where its own statements begin; undefined for an object. */
  readonly start: number | undefined;
  /** The cost of entering it, whatever it contains. */
  readonly base: number;
  weight: number;
}

/**
 * @param program without texts: they may look like code
 * @throws Error if it has a loop or a function of an unknown form.
 */
export function metered(program: string): string {
  const insertions: (readonly [at: number, code: string])[] = [];
  const open: Frame[] = [{ start: undefined, base: 0, weight: 0 }];
  const heads = { call: 0, round: 0 };
  const close = ({ start, base, weight }: Frame): void => {
    if (start !== undefined && (base > 0 || weight >= leastBlock))
      insertions.push([start, `${base === perCall ? 'countCall();' : ''}spend(${base + weight});`]);
    else open.at(-1)!.weight += weight;
  };
  for (const match of program.matchAll(tokens)) {
    const [text] = match;
    const { call, round, block } = match.groups!;
    open.at(-1)!.weight += weights[text] ?? 0;
    if (text === '}') {
      const closed = open.pop()!;
      if (open.length === 0) throw new Error('the generated program has blocks of an unknown form');
      close(closed);
    } else if (text.includes('{')) {
      const isCode = call !== undefined || round !== undefined || block !== undefined;
      const base = call === undefined ? (round === undefined ? 0 : perRound) : perCall;
      open.push({ start: isCode ? match.index + text.length : undefined, base, weight: 0 });
    }
    if (call !== undefined) heads.call++;
    if (round !== undefined) heads.round++;
  }
  const others = /\b(?:while|do)\b/.test(program);
  if (heads.call !== countOf(program, /\bfunction\b/g) || heads.round !== countOf(program, /\bfor\b/g) || others)
    throw new Error('the generated program has functions or loops of an unknown form');
  return inserted(program, insertions);
}

function countOf(program: string, what: RegExp): number {
  return program.match(what)?.length ?? 0;
}

function inserted(program: string, insertions: (readonly [at: number, code: string])[]): string {
  let from = 0;
  const parts = insertions
    .toSorted(([a], [b]) => a - b)
    .map(([at, code]) => {
      const before = program.slice(from, at);
      from = at;
      return before + code;
    });
  return parts.join('') + program.slice(from);
}

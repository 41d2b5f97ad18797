// The kinds of characters in a text: most detectors need one of a few, and are skipped without it.

/** One bit for each kind of character. */
export const has = Object.freeze({
  quote: 1,
  angle: 2,
  round: 4,
  curly: 8,
  equals: 16,
  separator: 32,
  lineBreak: 64,
  control: 128,
  slash: 256,
  colon: 512,
  dollar: 1024,
  hash: 2048,
  star: 4096,
  percent: 8192,
  at: 16_384,
  letter: 32_768,
  digit: 65_536,
  minus: 131_072,
  backquote: 262_144,
  square: 524_288,
  other: 1_048_576,
  dot: 2_097_152,
  space: 4_194_304,
  /** `~`, `^`, `!`, `?` and the control characters that are not above. */
  rest: 8_388_608,
  /** Five blanks in a row. */
  gap: 16_777_216,
});

const table = new Uint32Array(256).fill(0);
for (let code = 0; code < 0x80; code++) if (!/[\w,+ ]/.test(String.fromCharCode(code))) table[code] = has.rest;
const put = (characters: string, bit: number): void => {
  for (const one of characters) table[one.charCodeAt(0)] = bit;
};
put(' ', has.space);
put('\'"', has.quote);
put('`', has.backquote);
put('<>', has.angle);
put('()', has.round);
put('{}', has.curly);
put('[]', has.square);
put('=', has.equals);
put(';|&', has.separator);
put('\r\n', has.lineBreak);
put('\0\x1b', has.control);
put('/\\', has.slash);
put(':', has.colon);
put('$', has.dollar);
put('#', has.hash);
put('*', has.star);
put('%', has.percent);
put('@', has.at);
put('-', has.minus);
put('.', has.dot);
put('0123456789', has.digit);
for (let code = 0x41; code <= 0x5a; code++) table[code] = table[code + 0x20] = has.letter;
for (let code = 0x80; code < 256; code++) table[code]! |= has.other;
table[0x85]! |= has.control;

/** The bits of a text. */
export function charactersIn(text: string): number {
  let bits = 0;
  let blanks = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    bits |= code < 256 ? table[code]! : has.other;
    if (code > 0x20 && code !== 0xa0) blanks = 0;
    else if (++blanks === 5) bits |= has.gap;
  }
  return bits;
}

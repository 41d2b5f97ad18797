// `\s` and `\S` of ECMA-262 (section 22.2.2.9), which are wider than those of RE2.

const spaces =
  '\\t\\n\\x{0b}\\f\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}';

/** All other code points. */
const others =
  '\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}' +
  '\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{fefe}\\x{ff00}-\\x{10ffff}';

/** The pattern with both written out. */
export function withAllSpaces(pattern: string): string {
  let isInClass = false;
  return pattern.replace(/\\.|[[\]]/gs, (part) => {
    if (part === '\\s') return isInClass ? spaces : `[${spaces}]`;
    if (part === '\\S') return isInClass ? others : `[${others}]`;
    if (part === '[') isInClass = true;
    else if (part === ']') isInClass = false;
    return part;
  });
}

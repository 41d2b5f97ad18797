// Duplicate keys in JSON: JSON.parse takes the last one, other readers the first, and a token must not have two
// meanings.

/** Does any object of this JSON name a key twice? `text` must be valid JSON. Linear in its length. */
export function hasDuplicateKeys(text: string): boolean {
  /** For each open object its keys so far; undefined for an array. */
  const open: (Set<string> | undefined)[] = [];
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '{') {
      open.push(new Set());
      isKey = true;
    } else if (character === '[') {
      open.push(undefined);
      isKey = false;
    } else if (character === '}' || character === ']') open.pop();
    else if (character === ',') isKey = open.at(-1) !== undefined;
    else if (character === ':') isKey = false;
    else if (character === '"') {
      const from = at;
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
      if (!isKey) continue;
      // Unescaped: "a" and "\u0061" are the same key.
      const key = JSON.parse(text.slice(from, at + 1)) as string;
      const keys = open.at(-1)!;
      if (keys.has(key)) return true;
      keys.add(key);
    }
  }
  return false;
}

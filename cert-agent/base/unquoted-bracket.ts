// A slip in YAML that policies invite: `{ key: request.headers[x] }`.

/** The hint for an error at `offset` in `{ key: request.headers[x] }`, undefined for another one: between braces or brackets, an inner one ends the scalar. */
export function unquotedBracket(text: string, offset: number): string | undefined {
  if (text[offset] !== '[') return undefined;
  const before = /[\w.-]{1,80}$/.exec(text.slice(Math.max(0, offset - 80), offset))?.[0];
  const inside = /^\[[\w.-]{1,80}\]/.exec(text.slice(offset, offset + 90))?.[0];
  return before === undefined || inside === undefined ? undefined : `quote it: "${before}${inside}"`;
}

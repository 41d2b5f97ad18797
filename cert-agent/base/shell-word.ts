// Commands in messages, which users copy into a shell.

/** As a POSIX shell reads it as one word, and no option. With control characters it is a word of bash, zsh and ksh. */
export function shellWord(text: string): string {
  const path = text.startsWith('-') ? `./${text}` : text;
  if (/^[\w./@%+=:,-]+$/.test(path)) return path;
  if (!/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(path)) return `'${path.replaceAll("'", "'\\''")}'`;
  const escaped = path.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}'\\]/gu, (one) =>
    [...Buffer.from(one)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
  );
  return `$'${escaped}'`;
}

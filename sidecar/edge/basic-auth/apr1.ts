// Apache's variant of MD5-crypt, `$apr1$salt$digest`, which `htpasswd` writes by default. It is a thousand rounds of
// MD5, which is few: an attacker who has the file can guess fast. Follows the algorithm of APR's apr_md5.c, which comes
// from FreeBSD's md5crypt.

import { createHash, timingSafeEqual } from 'node:crypto';

/** `$apr1$`, a salt of up to 8 characters, 22 characters of a digest. */
const form = /^\$apr1\$([./0-9A-Za-z]{1,8})\$([./0-9A-Za-z]{22})$/;
const alphabet = './0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const rounds = 1000;

/** True if the text is such a hash. */
export function isApr1(hash: string): boolean {
  return form.test(hash);
}

/** True if it is the password of this hash. Takes some two milliseconds. */
export function matchesApr1(password: string, hash: string): boolean {
  const [, salt, digest] = form.exec(hash) ?? [];
  if (salt === undefined || digest === undefined) return false;
  return timingSafeEqual(Buffer.from(digestOf(Buffer.from(password, 'utf8'), Buffer.from(salt))), Buffer.from(digest));
}

function digestOf(password: Buffer, salt: Buffer): string {
  const other = md5(password, salt, password);
  const parts: Buffer[] = [password, Buffer.from('$apr1$'), salt];
  for (let left = password.length; left > 0; left -= 16) parts.push(other.subarray(0, Math.min(16, left)));
  // Each bit of the length adds a byte: a zero for 1, the password's first byte for 0.
  for (let bits = password.length; bits > 0; bits >>= 1)
    parts.push((bits & 1) === 1 ? Buffer.from([0]) : password.subarray(0, 1));
  let last = md5(...parts);
  for (let round = 0; round < rounds; round++)
    last = md5(
      round % 2 === 1 ? password : last,
      ...(round % 3 === 0 ? [] : [salt]),
      ...(round % 7 === 0 ? [] : [password]),
      round % 2 === 1 ? last : password,
    );
  // The bytes of the digest in APR's order, three at a time.
  const triples = [0, 1, 2, 3, 4].map((i) => [last[i]!, last[i + 6]!, last[i === 4 ? 5 : i + 12]!] as const);
  return triples.map(([a, b, c]) => encode((a << 16) | (b << 8) | c, 4)).join('') + encode(last[11]!, 2);
}

function md5(...parts: Buffer[]): Buffer {
  const hash = createHash('md5');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

/** Six bits per character, the lowest first. */
function encode(value: number, length: number): string {
  return Array.from({ length }, (_, i) => alphabet[(value >> (6 * i)) & 63]!).join('');
}

// Cookies that only we can read or make: AES-256-GCM with a key that is derived for one policy and one purpose, so that
// a cookie of another policy, client or purpose does not open. A long value is split over several cookies.

import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Fields } from '../../exchange/message.ts';
import { cookieNames, cookieOf } from '../credentials.ts';

/** Browsers accept 4096 bytes per cookie, with its name and attributes. */
const maxChunk = 3800;
const maxChunks = 5;
const ivBytes = 12;
const tagBytes = 16;

/** A shorter secret is refused as a key. */
export const minSecretBytes = 32;

/** Seals and opens texts for one purpose. */
export class Seal {
  readonly #keys: readonly Buffer[];
  readonly #purpose: Buffer;

  /**
   * `secrets`: the first encrypts, all decrypt. `purpose` is bound to the sealed text.
   * @throws SallyportError `config_invalid` without a secret.
   */
  constructor(secrets: readonly Buffer[], purpose: string) {
    if (secrets.length === 0) throw new SallyportError('config_invalid', 'there is no key for session cookies');
    this.#purpose = Buffer.from(purpose, 'utf8');
    const info = `sallyport cookie v1 ${createHash('sha256').update(purpose).digest('hex')}`;
    this.#keys = secrets.map((secret) => Buffer.from(hkdfSync('sha256', secret, Buffer.alloc(0), info, 32)));
  }

  close(text: string): string {
    return this.closeBytes(Buffer.from(text, 'utf8'));
  }

  /** Gives base64url of a nonce, the ciphertext and its tag. */
  closeBytes(bytes: Buffer): string {
    const iv = randomBytes(ivBytes);
    const cipher = createCipheriv('aes-256-gcm', this.#keys[0]!, iv, { authTagLength: tagBytes });
    cipher.setAAD(this.#purpose);
    return Buffer.concat([iv, cipher.update(bytes), cipher.final(), cipher.getAuthTag()]).toString('base64url');
  }

  /** The text; undefined for anything that we did not seal for this purpose. */
  open(sealed: string): string | undefined {
    return this.openBytes(sealed)?.toString('utf8');
  }

  /** As `open`, for the output of `closeBytes`. */
  openBytes(sealed: string): Buffer | undefined {
    if (sealed.length > maxChunk * maxChunks || !/^[A-Za-z0-9_-]+$/.test(sealed)) return undefined;
    const bytes = Buffer.from(sealed, 'base64url');
    if (bytes.length < ivBytes + tagBytes) return undefined;
    for (const key of this.#keys) {
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, ivBytes), { authTagLength: tagBytes });
      decipher.setAAD(this.#purpose);
      decipher.setAuthTag(bytes.subarray(-tagBytes));
      try {
        const opened = decipher.update(bytes.subarray(ivBytes, -tagBytes));
        return Buffer.concat([opened, decipher.final()]);
      } catch {
        // Another key may have sealed it.
      }
    }
    return undefined;
  }
}

/** Attributes of our cookies. */
export interface CookieAttributes {
  readonly domain: string | undefined;
  readonly sameSite: 'Lax' | 'Strict' | 'None';
}

/**
 * The name prefix that browsers enforce (RFC 6265bis section 4.1.3): with `__Host-` a sibling host cannot set our
 * cookie. A cookie for a whole domain can only have `__Secure-`.
 */
export function prefixOf({ domain }: Pick<CookieAttributes, 'domain'>): string {
  return domain === undefined ? '__Host-' : '__Secure-';
}

/** One `Set-Cookie` value. `maxAgeMs` 0 deletes the cookie. */
export function printCookie(name: string, value: string, maxAgeMs: number, attributes: CookieAttributes): string {
  const domain = attributes.domain === undefined ? '' : `; Domain=${attributes.domain}`;
  const age = Math.max(0, Math.floor(maxAgeMs / 1000));
  return `${name}=${value}; Path=/${domain}; Max-Age=${age}; Secure; HttpOnly; SameSite=${attributes.sameSite}`;
}

/** The names of the cookies that hold a long value of cookie `name`. */
function chunkNames(name: string): readonly string[] {
  return [name, ...Array.from({ length: maxChunks - 1 }, (_, i) => `${name}.${i + 1}`)];
}

/** The value that was given to `printChunks`; undefined if any part of it is missing. */
export function readChunks(fields: Fields, name: string): string | undefined {
  const first = cookieOf(fields, name);
  const counted = /^([1-5])\.([A-Za-z0-9_-]+)$/.exec(first ?? '');
  if (counted === null) return undefined;
  const pieces = [counted[2]!];
  for (const next of chunkNames(name).slice(1, Number(counted[1]))) {
    const piece = cookieOf(fields, next);
    if (piece === undefined) return undefined;
    pieces.push(piece);
  }
  return pieces.join('');
}

/**
 * The `Set-Cookie` values for a long value, and those that delete what is left of a longer one before it.
 * @throws SallyportError `oidc_provider_failed` if it is too long for five cookies.
 */
export function printChunks(
  fields: Fields,
  name: string,
  value: string,
  maxAgeMs: number,
  attributes: CookieAttributes,
): string[] {
  const pieces = value.match(new RegExp(`.{1,${maxChunk}}`, 'g')) ?? [];
  if (pieces.length > maxChunks)
    throw new SallyportError(
      'oidc_provider_failed',
      `the tokens of a session take ${value.length} bytes: at most ${maxChunk * maxChunks} fit into its cookies`,
      { hint: 'make the provider send fewer claims, or do not forward the access token' },
    );
  const names = chunkNames(name);
  const set = pieces.map((piece, i) =>
    printCookie(names[i]!, i === 0 ? `${pieces.length}.${piece}` : piece, maxAgeMs, attributes),
  );
  return [...set, ...clearing(fields, names.slice(pieces.length), attributes)];
}

/** The `Set-Cookie` values that delete a cookie and all its pieces, if the browser has them. */
export function clearChunks(fields: Fields, name: string, attributes: CookieAttributes): string[] {
  return clearing(fields, chunkNames(name), attributes);
}

function clearing(fields: Fields, names: readonly string[], attributes: CookieAttributes): string[] {
  const there = new Set(cookieNames(fields));
  return names.filter((one) => there.has(one)).map((one) => printCookie(one, '', 0, attributes));
}

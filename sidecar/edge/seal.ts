// Texts that only we can read or make, and that clients keep for us: AES-256-GCM with a key that is derived for one
// policy and one purpose, so that a text of another policy, client or purpose does not open.

import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto';
import { SallyportError } from '../../cert-agent/base/errors.ts';

/** A longer text is not ours: none is longer than five cookies. */
const maxSealed = 19_000;
const ivBytes = 12;
const tagBytes = 16;

/** A shorter secret is refused as a key. */
const minSecretBytes = 32;

const hint = 'make one with: openssl rand -base64 48';

/**
 * The keys in a text, one a line; `of` names the policy. An operator who names a file wants its keys: an empty one is
 * refused.
 * @throws SallyportError `config_invalid` for a key that is too short, and for a file that is empty.
 */
export function keysIn(text: string, of: string): readonly Buffer[] {
  const keys = text
    .split(/\s+/)
    .filter(Boolean)
    .map((one) => Buffer.from(one, 'utf8'));
  if (keys.length === 0)
    throw new SallyportError('config_invalid', `${of}: the file of 'sessionKeys' in gateway.yaml is missing or empty`, {
      hint,
    });
  const short = keys.find(({ length }) => length < minSecretBytes);
  if (short !== undefined)
    throw new SallyportError(
      'config_invalid',
      `${of}: a session key has ${short.length} bytes, but it needs at least ${minSecretBytes}`,
      { hint },
    );
  return keys;
}

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
    if (sealed.length > maxSealed || !/^[A-Za-z0-9_-]+$/.test(sealed)) return undefined;
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

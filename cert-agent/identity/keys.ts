// Private keys. They are generated where they are used, written with mode 0600 and never logged.

import { createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { errnoOf, reasonOf, SallyportError } from '../base/errors.ts';

/** A new P-256 private key: every TLS peer of the last ten years can verify it, and signing is cheap. */
export function generateKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
}

/** The key as PKCS#8 PEM, encrypted (PBES2, AES-256-CBC) if there is a passphrase. */
export function formatKey(key: KeyObject, passphrase?: string): string {
  const plain = { type: 'pkcs8', format: 'pem' } as const;
  return String(key.export(passphrase === undefined ? plain : { ...plain, cipher: 'aes-256-cbc', passphrase }));
}

/**
 * Parses a PEM private key. The error message never contains a part of the key.
 * @throws SallyportError `passphrase_wrong` when it is encrypted and the passphrase is missing or wrong, else
 * `key_unreadable`.
 */
export function parseKey(pem: string, file: string, passphrase?: string): KeyObject {
  try {
    return createPrivateKey({ key: pem, format: 'pem', ...(passphrase === undefined ? {} : { passphrase }) });
  } catch (error) {
    const encrypted = pem.includes('ENCRYPTED');
    const why = errnoOf(error) ?? reasonOf(error);
    if (encrypted) {
      const what =
        passphrase === undefined
          ? 'is encrypted and no passphrase was given'
          : 'cannot be decrypted with this passphrase';
      throw new SallyportError('passphrase_wrong', `the key in ${file} ${what}`, {
        hint:
          passphrase === undefined
            ? 'give the passphrase file with --passphrase-file'
            : 'check the first line of the passphrase file, or SALLYPORT_CA_PASSPHRASE: it is another passphrase',
      });
    }
    throw new SallyportError('key_unreadable', `${file} contains no readable private key (${why})`, {
      hint: 'expected a PEM block BEGIN PRIVATE KEY',
    });
  }
}

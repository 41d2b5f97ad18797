// A join token: a secret of an operator for one workload, for the first key that uses it.

import { createHash } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import { readSecret } from '../base/secret-file.ts';
import { isMissing, readText } from '../identity/read.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import type { EnrolmentKind, GatheredKind, TokenEvidence, Verifiers } from './contract.ts';

/** A token is a short line. A larger file is some other file, which must not be sent to the CA. */
const maxTokenBytes = 4096;

export const joinToken: GatheredKind & EnrolmentKind = {
  gather({ tokenFile, warn }) {
    const token = tokenFile === undefined ? undefined : readToken(tokenFile, warn);
    return token === undefined ? undefined : { kind: 'token', token, file: tokenFile! };
  },
  field: 'token',
  maxLength: 512,
  verify: verifyToken,
};

/**
 * The token in `file`; undefined while the file is missing or empty. `warn` receives a warning if others can read it.
 * @throws SallyportError `config_unreadable` or `secret_exposed`.
 */
export function readToken(file: string, warn: (message: string) => void): string | undefined {
  let text: string;
  try {
    text = readText(file, (from) => readSecret(from, warn)).trim();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
  if (text === '') return undefined;
  if (Buffer.byteLength(text) <= maxTokenBytes && /^[\x21-\x7e]+$/.test(text)) return text;
  throw new SallyportError('config_unreadable', `${file} contains no join token: expected one line without spaces`);
}

/** Tokens are stored and looked up only as hashes: neither the store nor the timing of a look-up reveals a token. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/** @throws SallyportError `token_unknown`. One that has expired is for the caller to judge. */
async function verifyToken(token: string, { findToken }: Pick<Verifiers, 'findToken'>): Promise<TokenEvidence> {
  const hash = hashToken(token);
  const found = await findToken(hash);
  if (found === undefined) {
    throw new SallyportError('token_unknown', 'unknown join token', {
      hint: 'copy the whole token, or create one: sallyport ca token create --dir DIR --spiffe-id ID --ttl 10m',
    });
  }
  const { expiresAt, names = [], bound } = found;
  return { kind: 'token', id: parseSpiffeId(found.id), hash, expiresAt, names, bound };
}

// Step one of a certificate: evidence of our identity. An SVID is evidence by itself, over mTLS, also for some time
// after its expiry: the CA decides. Without one, a join token is needed. Its file is read each time, because the
// operator may just have replaced it.

import { SallyportError } from './base/errors.ts';
import { readSecret } from './base/secret-file.ts';
import { isMissing, readText } from './identity/read.ts';
import type { Svid } from './identity/svid.ts';

export type Evidence =
  | { readonly kind: 'svid'; readonly svid: Svid }
  | { readonly kind: 'token'; readonly token: string; readonly file: string };

/** A token is a short line. A larger file is some other file, which must not be sent to the CA. */
const maxTokenBytes = 4096;

/**
 * The evidence of an agent with the SVID `held`, if it has one.
 * @throws SallyportError `token_missing` when a token is needed and there is none yet.
 */
export function gatherEvidence(
  held: Svid | undefined,
  tokenFile: string | undefined,
  warn: (message: string) => void,
): Evidence {
  if (held !== undefined) return { kind: 'svid', svid: held };
  if (tokenFile === undefined) {
    throw new SallyportError('token_missing', 'a join token is needed, but no token file is configured', {
      hint: "create a token with 'sallyport ca token create' and set its file with --token-file",
    });
  }
  const token = readToken(tokenFile, warn);
  if (token === undefined) {
    throw new SallyportError('token_missing', `no join token in ${tokenFile} yet`, {
      hint: `create one with 'sallyport ca token create' and write it to ${tokenFile}`,
    });
  }
  return { kind: 'token', token, file: tokenFile };
}

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

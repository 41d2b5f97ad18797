// The passphrase of a CA's keys, from a file or the environment, never from the command line, which `ps` shows.

import { reasonOf, SallyportError } from '../base/errors.ts';
import { readSecret } from '../base/secret-file.ts';

/**
 * The first line of `file` if given, else SALLYPORT_CA_PASSPHRASE, else undefined: the keys are not encrypted.
 * `warn` receives a warning if others can read the file.
 * @throws SallyportError `config_unreadable`, `secret_exposed`, or `config_invalid` when it is empty.
 */
export function readPassphrase(
  file: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  warn: (message: string) => void = () => {},
): string | undefined {
  if (file === undefined) {
    const value = env['SALLYPORT_CA_PASSPHRASE'];
    return value === undefined ? undefined : notEmpty(value, 'SALLYPORT_CA_PASSPHRASE');
  }
  let text: string;
  try {
    text = readSecret(file, warn);
  } catch (error) {
    if (error instanceof SallyportError) throw error;
    throw new SallyportError('config_unreadable', `the passphrase file cannot be read: ${reasonOf(error)}`);
  }
  return notEmpty(text.split(/\r?\n/, 1)[0] ?? '', file);
}

/** An empty passphrase would write keys that look encrypted and are not. */
function notEmpty(value: string, source: string): string {
  if (value !== '') return value;
  throw new SallyportError('config_invalid', `${source} has an empty passphrase`, {
    hint: 'omit the passphrase to write keys that are not encrypted',
  });
}

// Files with the roots by which a server is known.

import { readFileSync } from 'node:fs';
import { SallyportError } from './errors.ts';

/**
 * Reads a file of PEM certificates. For Node, an empty `ca` means the roots of the system: any server with a public
 * certificate would then get our token or password.
 * @throws SallyportError `config_invalid` for a file without a certificate; the system's error if it cannot be read.
 */
export function readRoots(file: string): string {
  const pem = readFileSync(file, 'utf8');
  if (!pem.includes('-----BEGIN CERTIFICATE-----'))
    throw new SallyportError('config_invalid', `${file} has no certificate (PEM)`);
  return pem;
}

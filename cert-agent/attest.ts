// Step one of a certificate: evidence of our identity, by the table of kinds (attestation/kinds.ts). An SVID is evidence
// by itself, over mTLS, also for some time after its expiry: the CA decides. Without one, a token is needed. Its file is
// read each time, because the operator or the kubelet may just have replaced it.

import type { Gathered, Holdings } from './attestation/contract.ts';
import { gathered } from './attestation/kinds.ts';
import { SallyportError } from './base/errors.ts';

export type Evidence = Gathered;

/** Where an agent finds tokens. Absolute. */
export interface TokenFiles {
  readonly tokenFile?: string | undefined;
  readonly kubernetesTokenFile?: string | undefined;
}

/**
 * The first evidence that there is.
 * @throws SallyportError `token_missing` when a token is needed and there is none yet.
 */
export function gatherEvidence(holdings: Holdings): Evidence {
  for (const kind of gathered) {
    const found = kind.gather(holdings);
    if (found !== undefined) return found;
  }
  const { kubernetesTokenFile, tokenFile } = holdings;
  if (tokenFile === undefined && kubernetesTokenFile !== undefined)
    throw new SallyportError('token_missing', `no service-account token in ${kubernetesTokenFile} yet`, {
      hint: 'mount a projected volume with serviceAccountToken there',
    });
  if (tokenFile === undefined) {
    throw new SallyportError('token_missing', 'a join token is needed, but no token file is configured', {
      hint: "create a token with 'sallyport ca token create' and set its file with --token-file",
    });
  }
  throw new SallyportError('token_missing', `no join token in ${tokenFile} yet`, {
    hint: `create one with 'sallyport ca token create' and write it to ${tokenFile}`,
  });
}

/** The first token that there is, whatever else proves our identity. */
export function gatherToken(
  files: TokenFiles,
  warn: (message: string) => void,
): Exclude<Evidence, { kind: 'svid' }> | undefined {
  for (const kind of gathered) {
    const found = kind.gather({ ...files, svid: undefined, warn });
    if (found !== undefined && found.kind !== 'svid') return found;
  }
  return undefined;
}

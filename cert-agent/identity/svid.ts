// Our own credential: a chain, its key and their parsed fields. Read once per generation and frozen.

import { createPublicKey, X509Certificate } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import { formatPem, readPemBlocks } from './bundle.ts';
import { readCertificateFacts } from './certificate.ts';
import { weaknessOf } from './key-strength.ts';
import { parseKey } from './keys.ts';
import type { SpiffeId } from './spiffe-id.ts';
import { parseSpiffeId } from './spiffe-id.ts';
import { checkLeafRules } from './verify.ts';

/** Parsed and consistent: the key belongs to the leaf. Whether peers accept it is for verify.ts. */
export interface Svid {
  readonly id: SpiffeId;
  /** DER, leaf first, intermediates after it, no root. */
  readonly chain: readonly Buffer[];
  readonly chainPem: string;
  /** PKCS#8 PEM. Never logged, never sent. */
  readonly keyPem: string;
  /** Lower-case hex. */
  readonly serial: string;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
}

/**
 * Combines a chain and its key. Does not check expiry: an expired SVID is still ours, and its user checks.
 * @throws SallyportError `certificate_unreadable`, `key_unreadable`, `key_mismatch` or `svid_invalid`.
 */
export function parseSvid(chainPem: string, keyPem: string, source: { chain: string; key: string }): Svid {
  const chain = readPemBlocks(chainPem, source.chain);
  const [leafDer] = chain;
  if (leafDer === undefined) {
    throw new SallyportError('certificate_unreadable', `${source.chain} contains no certificate`, {
      hint: 'expected PEM, leaf first',
    });
  }
  const leaf = new X509Certificate(leafDer);
  const facts = readCertificateFacts(leafDer);
  const broken = checkLeafRules(facts).find((one) => !one.holds);
  if (broken !== undefined)
    throw new SallyportError('svid_invalid', `${source.chain} is not an X509-SVID: ${broken.message}`);
  const weakness = weaknessOf(leaf.publicKey);
  if (weakness !== undefined)
    throw new SallyportError('svid_invalid', `${source.chain} has a key that no peer accepts: ${weakness}`);
  const key = parseKey(keyPem, source.key);
  if (!leaf.publicKey.equals(createPublicKey(key))) {
    throw new SallyportError(
      'key_mismatch',
      `the key in ${source.key} does not belong to the certificate in ${source.chain}`,
      {
        hint: 'both files must come from the same issuance',
      },
    );
  }
  return Object.freeze({
    id: parseSpiffeId(facts.uris[0]!),
    chain,
    chainPem: formatPem(chain),
    keyPem,
    serial: leaf.serialNumber.toLowerCase(),
    notBefore: leaf.validFromDate.getTime(),
    notAfter: leaf.validToDate.getTime(),
  });
}

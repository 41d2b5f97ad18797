// The signing part of the CA: the intermediate, its key, and the form of a leaf. It decides nothing; authorization
// comes before it.

import { createPublicKey, X509Certificate } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { onlyBundle, type TrustBundle, type TrustBundles } from '../identity/bundle.ts';
import { parseKey } from '../identity/keys.ts';
import type { SpiffeId } from '../identity/spiffe-id.ts';
import { randomSerial, type Signer, signCertificate } from '../identity/x509.ts';
import { readCaCertificates } from './certificates.ts';
import { caFilesOf, readCaFile } from './directory.ts';
import { signHead } from './ledger/head.ts';
import type { LedgerEnd, LedgerHead } from './ledger/table.ts';

export interface Leaf {
  readonly serial: string;
  /** Milliseconds since 1970, in whole seconds like the certificate. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** DER. */
  readonly certificate: Buffer;
}

export interface Authority {
  readonly trustDomain: string;
  readonly bundle: TrustBundle;
  readonly bundles: TrustBundles;
  /** The intermediate, DER; it follows the leaf in every chain. */
  readonly intermediate: Buffer;
  /** Expiry of the intermediate, and the latest expiry of everything that it signs. */
  readonly notAfter: number;
  /** Signs a leaf for `id` and `publicKey` (SPKI, DER). @throws SallyportError `issuer_expired`. */
  signLeaf(id: SpiffeId, publicKey: Uint8Array, lifeMs: number): Promise<Leaf>;
  /** Signs the end of the ledger at `time`, milliseconds since 1970. */
  signHead(end: LedgerEnd, time: number): LedgerHead;
}

/** Peers whose clocks are slow by less than this accept a new certificate at once. */
const backdateMs = 60_000;

/** The shortest useful life of a leaf. Below it, the intermediate counts as expired. */
const shortestLifeMs = 60_000;

/**
 * Reads the intermediate and its key from a CA's directory. The root's key is not read.
 * @throws SallyportError `ca_missing`, `passphrase_wrong`, `key_unreadable`, `key_mismatch` or `issuer_expired`.
 */
export function openAuthority(dir: string, passphrase: string | undefined, clock: Clock): Authority {
  const files = caFilesOf(dir);
  const { trustDomain, intermediate, bundle } = readCaCertificates(dir);
  const key = parseKey(readCaFile(dir, files.intermediateKey), files.intermediateKey, passphrase);
  const certificate = new X509Certificate(intermediate);
  if (!certificate.publicKey.equals(createPublicKey(key))) {
    throw new SallyportError(
      'key_mismatch',
      `the key in ${files.intermediateKey} does not belong to ${files.intermediate}`,
      { hint: 'restore both files from the same ca init' },
    );
  }
  const signer: Signer = { key, certificate: intermediate };
  const notAfter = certificate.validToDate.getTime();
  refuseExpired(notAfter, clock.now());
  return Object.freeze({
    trustDomain,
    bundle,
    bundles: onlyBundle(bundle),
    intermediate,
    notAfter,
    signLeaf: (id: SpiffeId, publicKey: Uint8Array, lifeMs: number): Promise<Leaf> =>
      signLeaf(signer, { id, publicKey, lifeMs, issuerNotAfter: notAfter, now: clock.now() }),
    signHead: (end: LedgerEnd, time: number): LedgerHead =>
      signHead(trustDomain, end, time, { key, certificate: intermediate }),
  });
}

interface LeafOrder {
  readonly id: SpiffeId;
  readonly publicKey: Uint8Array;
  readonly lifeMs: number;
  readonly issuerNotAfter: number;
  readonly now: number;
}

/** X509-SVID sections 2 to 4: one URI name, critical with an empty subject; digitalSignature; both TLS usages. */
async function signLeaf(signer: Signer, order: LeafOrder): Promise<Leaf> {
  refuseExpired(order.issuerNotAfter, order.now);
  const serial = randomSerial();
  const notBefore = wholeSeconds(order.now - backdateMs);
  const notAfter = Math.min(wholeSeconds(order.now + order.lifeMs), order.issuerNotAfter);
  const certificate = await signCertificate(
    {
      subject: '',
      uris: [order.id.uri],
      publicKey: order.publicKey,
      serial,
      notBefore,
      notAfter,
      keyUsage: ['digitalSignature'],
      tlsUsage: ['serverAuth', 'clientAuth'],
    },
    signer,
  );
  return { serial, notBefore, notAfter, certificate };
}

function refuseExpired(issuerNotAfter: number, now: number): void {
  if (now + shortestLifeMs <= issuerNotAfter) return;
  throw new SallyportError('issuer_expired', `the intermediate expires at ${formatTime(issuerNotAfter)}`, {
    hint: 'the CA can no longer sign: it needs a new intermediate',
  });
}

function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}

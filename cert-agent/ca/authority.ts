// The signing part of the CA: the intermediate, its key, and the form of a leaf. It decides nothing; authorization
// comes before it.

import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import { onlyBundle, readPemBlocks, type TrustBundle, type TrustBundles } from '../identity/bundle.ts';
import { type CrlSpec, signCrl } from '../identity/crl.ts';
import { parseKey } from '../identity/keys.ts';
import { type LeafSigner, signLeaf } from '../identity/leaf.ts';
import type { NameConstraints } from '../identity/name-constraints.ts';
import { readLink } from '../identity/path.ts';
import type { SpiffeId } from '../identity/spiffe-id.ts';
import { randomSerial, type Signer, signCertificate } from '../identity/x509.ts';
import { readCaCertificates } from './certificates.ts';
import { caFilesOf, readCaFile, rotationFilesOf } from './directory.ts';
import { constraintsOf, isPermitted } from './dns/permitted.ts';
import { signHead } from './ledger/head.ts';
import type { LedgerEnd, LedgerHead } from './ledger/table.ts';

/** A leaf just signed. It is on no record yet: see issue.ts. */
export interface Leaf {
  readonly serial: string;
  /** Milliseconds since 1970, in whole seconds like the certificate. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** The DNS names and IP addresses in it; absent without one. */
  readonly names?: readonly string[];
  /** Names that it does not have, because an issuer's name constraints forbid them. */
  readonly forbidden?: readonly string[];
  /** DER. */
  readonly certificate: Buffer;
}

/** A current or former issuer's key, which signs revocation responses and lists for its certificates. */
export interface IssuerKey {
  /** DER. */
  readonly certificate: Buffer;
  /** Its expiry, milliseconds since 1970. */
  readonly notAfter: number;
  /**
   * Signs the certificate of an OCSP responder for `publicKey` (SPKI, DER). @throws SallyportError `issuer_expired`.
   */
  signOcspSigner(publicKey: Uint8Array, lifeMs: number): Promise<Leaf>;
  /** Signs a CRL. Returns DER. */
  signCrl(spec: CrlSpec): Promise<Buffer>;
}

/** The CA's issuer of now. Fields change by `reload`, so read them each time. */
export interface Authority {
  readonly trustDomain: string;
  /** The bundle that agents get. It changes while a root is rotated. */
  readonly bundle: Live<TrustBundle>;
  readonly bundles: TrustBundles;
  /** What follows a leaf signed now, DER: the intermediate, CAs between it and the root, the cross certificate. */
  readonly above: readonly Buffer[];
  /** All intermediates and cross certificates that leaves may be signed by, those of now first. */
  readonly issuers: readonly Buffer[];
  /** Expiry of the intermediate, and the latest expiry of everything that it signs. Milliseconds since 1970. */
  readonly notAfter: number;
  readonly notBefore: number;
  /**
   * Signs a leaf for `id` and `publicKey` (SPKI, DER) with those of `names` (DNS names, IP addresses) that our issuers
   * permit. @throws SallyportError `issuer_expired`.
   */
  signLeaf(id: SpiffeId, publicKey: Uint8Array, lifeMs: number, names?: readonly string[]): Leaf;
  /** The chain of a leaf (DER) that we signed, now or before. */
  chainOf(leaf: Uint8Array): readonly Uint8Array[];
  /** The issuer of now, then those that were replaced and whose certificates may still be valid. */
  readonly issuerKeys: readonly IssuerKey[];
  /** Signs the end of the ledger at `time`, milliseconds since 1970. */
  signHead(end: LedgerEnd, time: number): LedgerHead;
  /** Reads the directory again: after a step of a rotation. @throws SallyportError as openAuthority does. */
  reload(): void;
}

/** Peers whose clocks are slow by less than this accept a new certificate at once. */
export const backdateMs = 60_000;

/** The shortest useful life of a leaf. Below it, the intermediate counts as expired. */
const shortestLifeMs = 60_000;

/**
 * Reads the intermediate and its key from a CA's directory. The root's key is not read.
 * @throws SallyportError `ca_missing`, `passphrase_wrong`, `key_unreadable`, `key_mismatch` or `issuer_expired`.
 */
export function openAuthority(dir: string, passphrase: string | undefined, clock: Clock): Authority {
  return new DirectoryAuthority(dir, passphrase, clock);
}

/** What the directory contains. */
interface Opened {
  readonly trustDomain: string;
  readonly bundles: TrustBundles;
  readonly signer: LeafSigner;
  readonly notBefore: number;
  readonly notAfter: number;
  /** On the names of what it signs. */
  readonly constraints: readonly NameConstraints[];
  /** The intermediate, and CAs between it and the root. */
  readonly chain: readonly Buffer[];
  readonly above: readonly Buffer[];
  /** The chains of earlier intermediates. */
  readonly previous: readonly (readonly Buffer[])[];
  readonly issuerKeys: readonly IssuerKey[];
}

class DirectoryAuthority implements Authority {
  readonly #dir: string;
  readonly #passphrase: string | undefined;
  readonly #clock: Clock;
  readonly #bundle: LiveCell<TrustBundle>;
  #opened: Opened;

  constructor(dir: string, passphrase: string | undefined, clock: Clock) {
    this.#dir = dir;
    this.#passphrase = passphrase;
    this.#clock = clock;
    const { bundle, ...opened } = this.#open();
    this.#opened = opened;
    this.#bundle = new LiveCell(bundle);
    refuseExpired(opened.notAfter, clock.now());
  }

  get trustDomain(): string {
    return this.#opened.trustDomain;
  }

  get bundle(): Live<TrustBundle> {
    return this.#bundle;
  }

  get bundles(): TrustBundles {
    return this.#opened.bundles;
  }

  get above(): readonly Buffer[] {
    return this.#opened.above;
  }

  get issuers(): readonly Buffer[] {
    return [...this.#opened.above, ...this.#opened.previous.flat()];
  }

  get issuerKeys(): readonly IssuerKey[] {
    return this.#opened.issuerKeys;
  }

  get notBefore(): number {
    return this.#opened.notBefore;
  }

  get notAfter(): number {
    return this.#opened.notAfter;
  }

  signLeaf(id: SpiffeId, publicKey: Uint8Array, lifeMs: number, names: readonly string[] = []): Leaf {
    const { signer, notAfter, constraints } = this.#opened;
    const order = { id, publicKey, lifeMs, issuerNotAfter: notAfter, now: this.#clock.now() };
    const permitted = names.filter((name) => isPermitted(constraints, name));
    const forbidden = names.filter((name) => !permitted.includes(name));
    return { ...makeLeaf(signer, { ...order, names: permitted }), ...(forbidden.length === 0 ? {} : { forbidden }) };
  }

  chainOf(leaf: Uint8Array): readonly Uint8Array[] {
    const { above, previous } = this.#opened;
    const certificate = new X509Certificate(leaf);
    const isOurs = (issuer: Buffer): boolean => certificate.checkIssued(readLink(issuer).certificate);
    if (above.length === 0 || isOurs(above[0]!)) return [leaf, ...above];
    return [leaf, ...(previous.find((chain) => chain[0] !== undefined && isOurs(chain[0])) ?? [])];
  }

  signHead(end: LedgerEnd, time: number): LedgerHead {
    const { trustDomain, signer, chain } = this.#opened;
    return signHead(trustDomain, end, time, { key: signer.key, chain });
  }

  reload(): void {
    const { bundle, ...opened } = this.#open();
    this.#opened = opened;
    // Listeners ask for the rest, so that it is in place first.
    if (bundle.sequence !== this.#bundle.current().sequence) this.#bundle.set(bundle);
  }

  #open(): Opened & { readonly bundle: TrustBundle } {
    const files = caFilesOf(this.#dir);
    const { cross, previous } = rotationFilesOf(this.#dir);
    const { trustDomain, intermediate, chain, bundle } = readCaCertificates(this.#dir);
    const key = parseKey(readCaFile(this.#dir, files.intermediateKey), files.intermediateKey, this.#passphrase);
    const certificate = new X509Certificate(intermediate);
    if (!certificate.publicKey.equals(createPublicKey(key))) {
      throw new SallyportError(
        'key_mismatch',
        `the key in ${files.intermediateKey} does not belong to ${files.intermediate}`,
        { hint: 'restore both files from the same ca init' },
      );
    }
    const signer = { key, certificate: intermediate };
    const replaced = directoriesIn(previous).flatMap((one) => readReplaced(one, this.#passphrase));
    const above = [...chain, ...readIfThere(cross)];
    return {
      ...{ trustDomain, bundle, bundles: onlyBundle(bundle), signer },
      issuerKeys: [signer, ...replaced].map((one) => issuerKeyOf(one, trustDomain, this.#clock)),
      notBefore: certificate.validFromDate.getTime(),
      notAfter: Math.min(...chain.map((one) => new X509Certificate(one).validToDate.getTime())),
      constraints: constraintsOf(above, bundle),
      chain,
      above,
      previous: directoriesIn(previous).map((one) => readIfThere(caFilesOf(one).intermediate)),
    };
  }
}

function directoriesIn(directory: string): readonly string[] {
  return existsSync(directory) ? readdirSync(directory).map((name) => join(directory, name)) : [];
}

function readIfThere(file: string): readonly Buffer[] {
  return existsSync(file) ? readPemBlocks(readFileSync(file, 'utf8'), file) : [];
}

function issuerKeyOf(signer: Signer & { readonly certificate: Buffer }, trustDomain: string, clock: Clock): IssuerKey {
  const { certificate } = signer;
  const notAfter = new X509Certificate(certificate).validToDate.getTime();
  return Object.freeze({
    ...{ certificate, notAfter },
    async signOcspSigner(publicKey: Uint8Array, lifeMs: number): Promise<Leaf> {
      const named = nameLeaf({ lifeMs, issuerNotAfter: notAfter, now: clock.now() });
      const subject = `CN=${trustDomain.slice(0, 49)} OCSP responder`;
      const spec = { ...named, subject, publicKey, ocspSigner: true, keyUsage: ['digitalSignature'] } as const;
      return { ...named, certificate: await signCertificate(spec, signer) };
    },
    signCrl: (spec: CrlSpec): Promise<Buffer> => signCrl(spec, signer),
  });
}

/**
 * The key that was replaced, and its certificate; nothing if it cannot be used any more, such as with another
 * passphrase: the CA issues without it, and only its lists and OCSP responses are missing.
 */
function readReplaced(directory: string, passphrase: string | undefined): (Signer & { certificate: Buffer })[] {
  const { intermediate, intermediateKey } = caFilesOf(directory);
  const [certificate] = readIfThere(intermediate);
  if (certificate === undefined || !existsSync(intermediateKey)) return [];
  try {
    const key = parseKey(readFileSync(intermediateKey, 'utf8'), intermediateKey, passphrase);
    return new X509Certificate(certificate).publicKey.equals(createPublicKey(key)) ? [{ key, certificate }] : [];
  } catch {
    return [];
  }
}

interface LeafTimes {
  readonly lifeMs: number;
  readonly issuerNotAfter: number;
  readonly now: number;
}

interface LeafOrder extends LeafTimes {
  readonly id: SpiffeId;
  readonly publicKey: Uint8Array;
  readonly names: readonly string[];
}

/**
 * X509-SVID sections 2 to 4: one URI name, critical with an empty subject; digitalSignature; both TLS usages. Names of
 * other kinds may stand beside it.
 */
function makeLeaf(signer: LeafSigner, { id, publicKey, names, ...times }: LeafOrder): Leaf {
  const named = nameLeaf(times);
  const [dns, ips] = [names.filter((one) => isIP(one) === 0), names.filter((one) => isIP(one) !== 0)];
  const certificate = signLeaf({ uri: id.uri, dns, ips, publicKey, ...named }, signer);
  return { ...named, certificate, ...(names.length === 0 ? {} : { names }) };
}

/** A serial and times within those of the issuer. @throws SallyportError `issuer_expired`. */
function nameLeaf({ lifeMs, issuerNotAfter, now }: LeafTimes): Omit<Leaf, 'certificate'> {
  refuseExpired(issuerNotAfter, now);
  const notBefore = wholeSeconds(now - backdateMs);
  const notAfter = Math.min(wholeSeconds(now + lifeMs), issuerNotAfter);
  return { serial: randomSerial(), notBefore, notAfter };
}

function refuseExpired(issuerNotAfter: number, now: number): void {
  if (now + shortestLifeMs <= issuerNotAfter) return;
  throw new SallyportError('issuer_expired', `the intermediate expires at ${formatTime(issuerNotAfter)}`, {
    hint: 'the CA can no longer sign: sallyport ca rotate issuer creates a new intermediate',
  });
}

function wholeSeconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000;
}

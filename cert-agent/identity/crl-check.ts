// Whether certificates of a chain are on the CRLs that an operator named, RFC 5280 section 6.3. It fails closed: where
// the CRL of an issuer is missing, forged or too old, every certificate of that issuer is refused, and only those.

import type { X509Certificate } from 'node:crypto';
import { formatTime } from '../base/clock.ts';
import { asSallyportError, SallyportError } from '../base/errors.ts';
import { openCertificate } from './certificate.ts';
import { type Crl, isOf, parseCrls, serialText, verifyCrl } from './crl.ts';
import { type Issuer, readIssuer } from './issuer.ts';

/** A text with CRLs, and where it is from. */
export interface CrlSource {
  readonly source: string;
  /** PEM, with one or more lists. */
  readonly text: string;
}

/** What to check clients' certificates against. Plain data. */
export interface CrlSettings {
  readonly sources: readonly CrlSource[];
  /** Only the leaf's issuer needs a CRL; otherwise each CA in the chain, below the authorities. */
  readonly onlyLeaf: boolean;
}

/** What OpenSSL's default allows as well. A chain is bounded before. */
const longestPath = 10;

interface OfIssuer {
  /** The newest of its lists; the error where it has none. */
  readonly crl: Crl | SallyportError;
}

/** For one set of lists and authorities. A changed list makes a new one of these. */
export class CrlCheck {
  readonly #crls: readonly { readonly crl: Crl; readonly source: string }[];
  readonly #onlyLeaf: boolean;
  readonly #anchors: readonly X509Certificate[];
  /** By the issuer's certificate: a signature over a large list is verified once. */
  readonly #issuers = new Map<string, OfIssuer>();
  /** Sources that could not be parsed. */
  readonly problems: readonly SallyportError[];

  /** Parses the lists. `authorities` (DER) are those that chains are verified by. @throws SallyportError for these. */
  constructor({ sources, onlyLeaf }: CrlSettings, authorities: readonly Uint8Array[]) {
    this.#anchors = authorities.map((one) => openCertificate(one));
    const problems: SallyportError[] = [];
    this.#onlyLeaf = onlyLeaf;
    this.#crls = sources.flatMap(({ source, text }) => {
      try {
        return parseCrls(Buffer.from(text, 'latin1'), source).map((crl) => ({ crl, source }));
      } catch (error) {
        problems.push(asSallyportError(error, 'crl_invalid', source));
        return [];
      }
    });
    this.problems = problems;
  }

  /** True if a list ended after `from` and before `to`, milliseconds since 1970: then answers have changed. */
  hasEnded(from: number, to: number): boolean {
    return this.#crls.some(({ crl }) => crl.nextUpdate >= from && crl.nextUpdate < to);
  }

  /**
   * Why a verified chain (DER, leaf first) is refused at `now`, milliseconds since 1970; undefined if nothing in it is
   * revoked. `client_certificate_revoked`, `crl_missing`, `crl_untrusted` or `crl_expired`.
   */
  refusalOf(chain: readonly Buffer[], now: number): SallyportError | undefined {
    const anchors = this.#anchors;
    const others = chain.map((one) => openCertificate(one));
    let [current] = others;
    for (let depth = 0; current !== undefined && depth < longestPath; depth++) {
      const held: X509Certificate = current;
      if (anchors.some((one) => one.raw.equals(held.raw))) return undefined;
      const issuer = [...anchors, ...others].find((one) => isIssuer(one, held));
      if (issuer === undefined) return missing(`the issuer of ${nameOf(held)} is not known`);
      const refusal = this.#refusalOf(held, issuer, now);
      if (refusal !== undefined || this.#onlyLeaf) return refusal;
      current = issuer;
    }
    return missing('its chain is too long');
  }

  #refusalOf(certificate: X509Certificate, issuer: X509Certificate, now: number): SallyportError | undefined {
    const { crl } = this.#of(issuer);
    if (crl instanceof SallyportError) return crl;
    const { nextUpdate } = crl;
    if (now > nextUpdate)
      return new SallyportError(
        'crl_expired',
        `the CRL of ${nameOf(issuer)} was to be replaced by ${formatTime(nextUpdate)}: its certificates are refused`,
        { hint: 'put the current CRL in its place' },
      );
    if (!crl.serials.has(serialText(readIssuer(certificate.raw).serial))) return undefined;
    return new SallyportError(
      'client_certificate_revoked',
      `${nameOf(certificate)} (serial ${certificate.serialNumber.toLowerCase()}) is on the CRL of its issuer`,
    );
  }

  #of(certificate: X509Certificate): OfIssuer {
    const name = certificate.fingerprint256;
    const known = this.#issuers.get(name);
    if (known !== undefined) return known;
    const made = { crl: this.#newestOf(readIssuer(certificate.raw), nameOf(certificate)) };
    this.#issuers.set(name, made);
    return made;
  }

  #newestOf(issuer: Issuer, name: string): Crl | SallyportError {
    let newest: Crl | undefined;
    let forged: SallyportError | undefined;
    for (const { crl, source } of this.#crls) {
      if (!isOf(crl, issuer)) continue;
      try {
        // When it ends is asked at each use.
        verifyCrl(crl, [issuer], crl.nextUpdate, source);
        if (newest === undefined || isNewer(crl, newest)) newest = crl;
      } catch (error) {
        forged = asSallyportError(error, 'crl_untrusted', source);
      }
    }
    return newest ?? forged ?? missing(`there is no CRL of ${name}: its certificates are refused`);
  }
}

function isNewer(a: Crl, b: Crl): boolean {
  if (a.number !== undefined && b.number !== undefined && a.number !== b.number) return a.number > b.number;
  return a.thisUpdate > b.thisUpdate;
}

function isIssuer(one: X509Certificate, of: X509Certificate): boolean {
  return one.ca && of.checkIssued(one) && of.verify(one.publicKey);
}

function missing(message: string): SallyportError {
  return new SallyportError('crl_missing', message, { hint: 'add the CRL of that CA to the others' });
}

function nameOf({ subject, subjectAltName }: X509Certificate): string {
  return (subject ?? subjectAltName ?? 'a certificate').split('\n').join(', ');
}

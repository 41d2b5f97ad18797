// The CA's OCSP responder, RFC 6960: from the bytes of a request to those of a response. Anyone may ask, so a request
// is bounded before it is parsed, work in flight is bounded, and a request about another CA costs no signature.

import { createHash, createPublicKey } from 'node:crypto';
import type { Clock } from '../../base/clock.ts';
import { reasonOf } from '../../base/errors.ts';
import type { Live } from '../../base/live.ts';
import type { Log } from '../../base/log.ts';
import { sparseLogOf } from '../../base/sparse-log.ts';
import { reasonNamed } from '../../identity/crl.ts';
import type { DenyList } from '../../identity/denied.ts';
import { type Issuer, readIssuer } from '../../identity/issuer.ts';
import { generateKey } from '../../identity/keys.ts';
import type { CertQuestion, OcspQuestions } from '../../identity/ocsp.ts';
import { caIdOf, parseTrustDomain } from '../../identity/spiffe-id.ts';
import { fingerprintOf } from '../../identity/verify.ts';
import type { Authority, IssuerKey } from '../authority.ts';
import type { CertificateStore } from '../store/store.ts';
import { type CertStatus, type OcspSigner, ocspErrors, signOcspResponse } from './ocsp-answer.ts';

/** `recordCertificate` is for certificates of the responder itself. */
export interface OcspParts {
  readonly authority: Authority;
  readonly store: Pick<CertificateStore, 'findCertificate' | 'recordCertificate'>;
  readonly denied: Live<DenyList>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Served with 200, errors included: the status is in the body (RFC 6960 appendix A.2). */
export interface OcspAnswer {
  /** An OCSPResponse, DER. */
  readonly body: Buffer;
  /** How long a cache may keep it, milliseconds; 0 for not at all. */
  readonly freshMs: number;
}

/** From thisUpdate to nextUpdate: how long a client may go on with a response after a revocation. */
export const responseLifeMs = 600_000;

/** Of the signer's certificate. It is renewed at half of it, and cannot be revoked: nothing checks it. */
const signerLifeMs = 24 * 3_600_000;

/** Requests in flight that need the store or a signature; more get `tryLater`, and one address gets a part of them. */
const maxInFlight = { all: 64, address: 8 } as const;

/** Such requests of one address in a second. What is kept is answered beyond that. */
const perSecond = 50;

/** Addresses that are counted one by one; beyond, all share one count. */
const mostAddresses = 4096;

/** Responses without a nonce that are kept: some 4 MB. */
const maxKept = 4096;

interface Kept {
  readonly body: Buffer;
  readonly nextUpdate: number;
}

interface Signer extends OcspSigner {
  readonly notBefore: number;
  readonly notAfter: number;
}

/** An issuer of ours, and who signs for it. Made at the first question about it. */
interface Responder {
  readonly issuer: Issuer;
  readonly key: IssuerKey;
  signer?: Signer;
  renewing?: Promise<Signer> | undefined;
}

/** One for a CA. Signed responses are kept until a denial, or their end. */
export class OcspResponder {
  readonly #parts: OcspParts;
  readonly #responders = new Map<string, Responder>();
  /** By CertID. A Map keeps its order, so the first is the one that was used longest ago. */
  readonly #kept = new Map<string, Kept>();
  #inFlight = 0;
  readonly #inFlightOf = new Map<string, number>();
  #second = 0;
  readonly #askedIn = new Map<string, number>();

  constructor(parts: OcspParts) {
    this.#parts = parts;
    parts.denied.onChange(() => this.#kept.clear());
  }

  /** Answers every request of a client at `address`, also a malformed one. Never throws. */
  async answer(request: Uint8Array, address: string): Promise<OcspAnswer> {
    try {
      const questions = await readQuestions(request);
      return questions === undefined ? refusal('malformedRequest') : await this.#answer(questions, address);
    } catch (error) {
      sparseLogOf(this.#parts.log)('ocsp_failed', `an OCSP request failed: ${reasonOf(error)}`);
      return refusal('tryLater');
    }
  }

  /** True if the client may have an answer that has to be made. Call `#done` afterwards. */
  #begin(address: string): boolean {
    const second = Math.floor(this.#parts.clock.monotonic() / 1000);
    if (second !== this.#second) this.#askedIn.clear();
    this.#second = second;
    const key = this.#askedIn.has(address) || this.#askedIn.size < mostAddresses ? address : '';
    const asked = this.#askedIn.get(key) ?? 0;
    const running = this.#inFlightOf.get(address) ?? 0;
    if (asked >= perSecond || running >= maxInFlight.address || this.#inFlight >= maxInFlight.all) return false;
    this.#askedIn.set(key, asked + 1);
    this.#inFlightOf.set(address, running + 1);
    this.#inFlight++;
    return true;
  }

  #done(address: string): void {
    this.#inFlight--;
    const running = (this.#inFlightOf.get(address) ?? 1) - 1;
    if (running === 0) this.#inFlightOf.delete(address);
    else this.#inFlightOf.set(address, running);
  }

  async #answer({ asked, nonce }: OcspQuestions, address: string): Promise<OcspAnswer> {
    const [first] = asked;
    // RFC 5019 section 2.2.3: of other CAs we know nothing. Unsigned, so that it costs nothing. One response has one
    // signer: of certificates of another issuer than the first one's, it says `unknown`.
    const ours = this.#ours();
    const responder = asked.map((one) => ours.find(({ issuer }) => isAbout(one, issuer))).find((one) => one);
    if (first === undefined || responder === undefined) return refusal('unauthorized');
    const isKeepable = nonce === undefined && asked.length === 1;
    const name = first.certId.toString('latin1');
    const now = this.#parts.clock.now();
    const kept = isKeepable ? this.#kept.get(name) : undefined;
    if (kept !== undefined && freshMsOf(kept, now) > 0) return { body: kept.body, freshMs: freshMsOf(kept, now) };
    if (!this.#begin(address)) return refusal('tryLater');
    try {
      return await this.#make({ asked, nonce }, responder, isKeepable ? name : undefined);
    } finally {
      this.#done(address);
    }
  }

  /** Signs a response, and keeps it under `name` if it is given. */
  async #make({ asked, nonce }: OcspQuestions, responder: Responder, name: string | undefined): Promise<OcspAnswer> {
    const now = this.#parts.clock.now();
    const { sequence } = this.#parts.denied.current();
    const signer = await this.#signerOf(responder, now);
    const answers = await Promise.all(
      asked.map(async (one) => ({ certId: one.certId, status: await this.#statusOf(one, responder) })),
    );
    const nextUpdate = Math.min(now + responseLifeMs, signer.notAfter);
    const body = signOcspResponse({ answers, now, nextUpdate, nonce }, signer);
    if (name === undefined) return { body, freshMs: 0 };
    const made = { body, nextUpdate };
    // What was looked up before a revocation must not be kept after it. Unknown serials are without number.
    if (answers[0]?.status.kind !== 'unknown' && sequence === this.#parts.denied.current().sequence)
      this.#keep(name, made);
    return { body, freshMs: freshMsOf(made, now) };
  }

  #keep(name: string, made: Kept): void {
    this.#kept.delete(name);
    this.#kept.set(name, made);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= maxKept) break;
      this.#kept.delete(oldest);
    }
  }

  /** The issuers of now: an old one is dropped when the CA drops it. */
  #ours(): readonly Responder[] {
    const keys = this.#parts.authority.issuerKeys;
    const names = keys.map(({ certificate }) => fingerprintOf(certificate));
    for (const name of this.#responders.keys()) if (!names.includes(name)) this.#responders.delete(name);
    return keys.map((key, at) => {
      const name = names[at]!;
      const known = this.#responders.get(name) ?? { issuer: readIssuer(key.certificate), key };
      this.#responders.set(name, known);
      return known;
    });
  }

  async #statusOf(one: CertQuestion, { issuer }: Responder): Promise<CertStatus> {
    if (!isAbout(one, issuer)) return { kind: 'unknown' };
    const found = await this.#parts.store.findCertificate(one.serial);
    // Certificates of all our issuers are in one table.
    const keyId = issuer.keyId ?? Buffer.alloc(0);
    if (found === undefined || !Buffer.from(found.certificate).includes(keyId)) return { kind: 'unknown' };
    if (found.revoked === undefined) return { kind: 'good' };
    return { kind: 'revoked', at: found.revoked.at, reason: reasonNamed(found.revoked.reason) };
  }

  /** Made at the first request, and renewed by those that come after half of its life. */
  async #signerOf(responder: Responder, now: number): Promise<Signer> {
    const held = responder.signer;
    if (held !== undefined && now >= held.notBefore && now < (held.notBefore + held.notAfter) / 2) return held;
    responder.renewing ??= this.#makeSigner(responder, now).finally(() => {
      responder.renewing = undefined;
    });
    try {
      responder.signer = await responder.renewing;
      return responder.signer;
    } catch (error) {
      if (held === undefined || now < held.notBefore || now > held.notAfter) throw error;
      return held;
    }
  }

  /** On record like every certificate, under the ID of the CA. Its key is in memory only. */
  async #makeSigner(responder: Responder, now: number): Promise<Signer> {
    const { authority, store } = this.#parts;
    const key = generateKey();
    const publicKey = createPublicKey(key).export({ type: 'spki', format: 'der' });
    const leaf = await responder.key.signOcspSigner(publicKey, signerLifeMs);
    const id = caIdOf(parseTrustDomain(authority.trustDomain)).uri;
    const keyHash = createHash('sha256').update(publicKey).digest('hex');
    const record = { ...leaf, id, keyHash, issuedAt: now, evidence: { kind: 'self', reference: '' } as const };
    await store.recordCertificate(record, 'self');
    return { ...leaf, key, keyBits: readIssuer(leaf.certificate).keyBits };
  }
}

function isAbout({ hash, issuerNameHash, issuerKeyHash }: CertQuestion, { subject, keyBits }: Issuer): boolean {
  if (hash === undefined) return false;
  const hashOf = (bytes: Buffer): Buffer => createHash(hash).update(bytes).digest();
  return hashOf(subject).equals(issuerNameHash) && hashOf(keyBits).equals(issuerKeyHash);
}

/** A client gets a response that still holds for half of its life, at least. */
function freshMsOf({ nextUpdate }: Kept, now: number): number {
  return Math.max(0, Math.min(nextUpdate - responseLifeMs / 2 - now, responseLifeMs));
}

/** The request of `GET /ocsp/<base64>`; undefined if it is not base64. RFC 6960 appendix A.1: in any URL encoding. */
export function readGetRequest(text: string): Buffer | undefined {
  if (text.length > maxGetCharacters) return undefined;
  let base64: string;
  try {
    base64 = decodeURIComponent(text);
  } catch {
    return undefined;
  }
  return /^[A-Za-z0-9+/]+={0,2}$/.test(base64) ? Buffer.from(base64, 'base64') : undefined;
}

/** RFC 5019 section 5 has GET for requests below 255 bytes; larger ones are for POST. */
const maxGetCharacters = 1024;

function refusal(kind: keyof typeof ocspErrors): OcspAnswer {
  return { body: ocspErrors[kind], freshMs: 0 };
}

/** The parser is loaded by the first request. */
async function readQuestions(request: Uint8Array): Promise<OcspQuestions | undefined> {
  const { readOcspRequest } = await import('../../identity/ocsp.ts');
  try {
    return readOcspRequest(request);
  } catch {
    return undefined;
  }
}

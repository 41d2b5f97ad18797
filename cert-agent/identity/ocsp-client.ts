// Asks about one certificate by OCSP: whom, with which request (RFC 6960 section 4.1), and whether the response is what
// it has to be (section 3.2). The response is parsed by ocsp.ts, which is loaded when there is one.

import { createHash, X509Certificate } from 'node:crypto';
import { formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { DerReader, derTag, readOid } from './der.ts';
import { element, integer, octets, oid, sequence } from './der-write.ts';
import { type Issuer, isSignedBy, readIssuer } from './issuer.ts';
import type { CertAnswer, OcspReply } from './ocsp.ts';

/** A certificate that names a responder, with its issuer. */
export interface OcspSubject {
  /** DER. */
  readonly leaf: Buffer;
  readonly issuer: Buffer;
  /** http:// or https://, as the certificate has it. */
  readonly url: string;
}

/** A good response. Times are milliseconds since 1970. */
export interface OcspVerdict {
  readonly thisUpdate: number;
  readonly nextUpdate: number | undefined;
}

/** Peers' clocks may differ by this much. */
const skewMs = 300_000;

/** A response without nextUpdate says nothing about its life. */
const longestAgeMs = 7 * 86_400_000;

/** The responder of authority information access (RFC 5280 section 4.2.2.1); undefined where there is none by HTTP. */
export function responderOf(leaf: Uint8Array): string | undefined {
  const { infoAccess } = new X509Certificate(leaf);
  const urls = [...(infoAccess ?? '').matchAll(/^OCSP - URI:(\S+)$/gm)].map(([, url]) => URL.parse(url!));
  return urls.find((one) => one?.protocol === 'http:' || one?.protocol === 'https:')?.href;
}

/** True for a certificate that is only good with a stapled response: TLS feature 5, RFC 7633. */
export function mustStaple(leaf: Uint8Array): boolean {
  const bytes = Buffer.from(leaf.buffer, leaf.byteOffset, leaf.byteLength);
  const body = new DerReader(bytes).enter().enter();
  while (!body.done) {
    const { tag, body: content } = body.read();
    if (tag !== 0xa3) continue;
    for (const list = new DerReader(content).enter(); !list.done; ) {
      const one = list.enter();
      if (readOid(one.read(derTag.oid)) !== '1.3.6.1.5.5.7.1.24') continue;
      one.readIf(derTag.boolean);
      const features = new DerReader(one.read(derTag.octetString).body).enter();
      while (!features.done) if (features.read(derTag.integer).body.equals(Buffer.from([5]))) return true;
    }
  }
  return false;
}

/** A request without a nonce, so that responders may answer from a cache (RFC 5019 section 2.1). DER. */
export function formatOcspRequest({ leaf, issuer }: OcspSubject): Buffer {
  const { subject, keyBits } = readIssuer(issuer);
  const hash = (bytes: Buffer): Buffer => octets(createHash('sha1').update(bytes).digest());
  const algorithm = sequence(oid('1.3.14.3.2.26'), element(5));
  const certId = sequence(algorithm, hash(subject), hash(keyBits), integer(readIssuer(leaf).serial));
  return sequence(sequence(sequence(sequence(certId))));
}

/**
 * Verifies a response about a certificate: its signature, by the issuer or a responder that the issuer delegated; that
 * it is about this certificate; its times; and that it is good.
 * @throws SallyportError `ocsp_invalid`, or `certificate_revoked`.
 */
export async function verifyOcspResponse(der: Uint8Array, about: OcspSubject, now: number): Promise<OcspVerdict> {
  const { readOcspResponse } = await import('./ocsp.ts');
  let reply: OcspReply;
  try {
    reply = readOcspResponse(der);
  } catch (error) {
    throw invalid(error instanceof TypeError ? error.message : 'it cannot be parsed');
  }
  const issuer = readIssuer(about.issuer);
  const signer = signerOf(reply, about.issuer, issuer, now);
  if (!isSignedBy(signer.publicKey, reply.algorithm, reply.body, reply.signature))
    throw invalid('its signature is wrong');
  const { serial } = readIssuer(about.leaf);
  const answer = reply.answers.find((one) => isAbout(one, issuer, serial));
  if (answer === undefined) throw invalid('it is about another certificate');
  const { thisUpdate, nextUpdate } = answer;
  if (thisUpdate > now + skewMs) throw invalid(`its thisUpdate is in the future (${formatTime(thisUpdate)})`);
  const end = nextUpdate ?? thisUpdate + longestAgeMs;
  if (end <= now) throw invalid(`it expired at ${formatTime(end)}`);
  if (answer.status === 'revoked')
    throw new SallyportError('certificate_revoked', 'the responder says that the certificate is revoked', {
      hint: 'get a new certificate',
    });
  if (answer.status !== 'good') throw invalid('the responder does not know the certificate');
  return { thisUpdate, nextUpdate };
}

/** RFC 6960 section 4.2.2.2: the issuer itself, or one that it certified for this. */
function signerOf({ responder, certificates }: OcspReply, issuerDer: Buffer, issuer: Issuer, now: number): Issuer {
  const isNamed = ({ keyBits, subject }: Issuer): boolean =>
    'keyHash' in responder
      ? createHash('sha1').update(keyBits).digest().equals(responder.keyHash)
      : responder.name.equals(subject);
  if (isNamed(issuer)) return issuer;
  const by = new X509Certificate(issuerDer);
  for (const one of certificates) {
    const certificate = new X509Certificate(one);
    const isDelegated = certificate.keyUsage?.includes('1.3.6.1.5.5.7.3.9') === true;
    const isValid = certificate.validFromDate.getTime() <= now + skewMs && certificate.validToDate.getTime() >= now;
    if (!isDelegated || !isValid || !certificate.checkIssued(by) || !certificate.verify(by.publicKey)) continue;
    const found = readIssuer(one);
    if (isNamed(found)) return found;
  }
  throw invalid('its signer is neither the issuer nor delegated by it');
}

function isAbout({ hash, issuerNameHash, issuerKeyHash, serial }: CertAnswer, issuer: Issuer, own: Buffer): boolean {
  if (hash === undefined || BigInt(`0x${serial}`) !== BigInt(`0x${own.toString('hex')}`)) return false;
  const of = (bytes: Buffer): Buffer => createHash(hash).update(bytes).digest();
  return of(issuer.subject).equals(issuerNameHash) && of(issuer.keyBits).equals(issuerKeyHash);
}

function invalid(why: string): SallyportError {
  return new SallyportError('ocsp_invalid', `the OCSP response cannot be used: ${why}`);
}

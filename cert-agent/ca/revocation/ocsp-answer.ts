// Writes OCSP responses, RFC 6960 section 4.2.1, in the form that RFC 5019 asks for: the responder is named by its key,
// and its certificate comes with the response.

import { createHash, type KeyObject } from 'node:crypto';
import { type ReasonName, reasonCodes } from '../../identity/crl.ts';
import {
  bitString,
  element,
  extension,
  generalizedTime,
  octets,
  oid,
  sequence,
  tagged,
  writeTag,
} from '../../identity/der-write.ts';
import { algorithmOf } from '../../identity/issuer.ts';

/** The status of one certificate, RFC 6960 section 4.2.1. `at` is milliseconds since 1970. */
export type CertStatus =
  | { readonly kind: 'good' }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'revoked'; readonly at: number; readonly reason: ReasonName };

/** The issuer's delegate, RFC 6960 section 4.2.2.2. */
export interface OcspSigner {
  readonly key: KeyObject;
  /** DER. */
  readonly certificate: Buffer;
  /** The bits of its public key. */
  readonly keyBits: Buffer;
}

/** Times are milliseconds since 1970, whole seconds in the response. */
export interface OcspSpec {
  readonly answers: readonly { readonly certId: Buffer; readonly status: CertStatus }[];
  readonly now: number;
  readonly nextUpdate: number;
  readonly nonce: Buffer | undefined;
}

/** Signs a response. Returns DER. */
export function signOcspResponse({ answers, now, nextUpdate, nonce }: OcspSpec, signer: OcspSigner): Buffer {
  const { algorithm, sign } = algorithmOf(signer.key);
  const thisUpdate = generalizedTime(now);
  const until = tagged(0, generalizedTime(nextUpdate));
  const responses = answers.map(({ certId, status }) => sequence(certId, statusOf(status), thisUpdate, until));
  const nonceId = '1.3.6.1.5.5.7.48.1.2';
  const body = sequence(
    tagged(2, octets(createHash('sha1').update(signer.keyBits).digest())),
    generalizedTime(now),
    sequence(...responses),
    ...(nonce === undefined ? [] : [tagged(1, sequence(extension(nonceId, octets(nonce))))]),
  );
  const basic = sequence(body, algorithm, bitString(sign(body)), tagged(0, sequence(signer.certificate)));
  return sequence(responseStatus(0), tagged(0, sequence(oid('1.3.6.1.5.5.7.48.1.1'), octets(basic))));
}

/** Section 2.3: responses without a signature. */
export const ocspErrors = Object.freeze({
  malformedRequest: sequence(responseStatus(1)),
  tryLater: sequence(responseStatus(3)),
  unauthorized: sequence(responseStatus(6)),
});

function responseStatus(value: number): Buffer {
  return element(writeTag.enumerated, Buffer.from([value]));
}

function statusOf(status: CertStatus): Buffer {
  if (status.kind === 'good') return element(0x80);
  if (status.kind === 'unknown') return element(0x82);
  const code = reasonCodes[status.reason];
  const why = code === 0 ? [] : [tagged(0, element(writeTag.enumerated, Buffer.from([code])))];
  return tagged(1, generalizedTime(status.at), ...why);
}

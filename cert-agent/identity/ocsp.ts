// Reads OCSP requests and responses, RFC 6960. The only file that imports pkijs: import it lazily, where there is
// something to read. What comes in here is bounded first, in size and in depth.

import { BasicOCSPResponse, type CertID, type Extension, OCSPRequest, OCSPResponse } from 'pkijs';
import { serialText } from './crl.ts';
import { checkDerShape } from './der.ts';

/** Which certificate is asked about, section 4.1.1. */
export interface CertQuestion {
  /** The CertID, DER. */
  readonly certId: Buffer;
  /** Node's name of the hash; undefined for one that is not supported. */
  readonly hash: string | undefined;
  readonly issuerNameHash: Buffer;
  readonly issuerKeyHash: Buffer;
  /** In the form of `normalizeSerial`. */
  readonly serial: string;
}

/** A request, bounded: 1 to 16 certificates. */
export interface OcspQuestions {
  readonly asked: readonly CertQuestion[];
  /** The content of the nonce's OCTET STRING (RFC 9654). */
  readonly nonce: Buffer | undefined;
}

/** A request asks about this many certificates at most. */
export const maxQuestions = 16;
export const maxRequestBytes = 4096;
export const maxResponseBytes = 65_536;

/** RFC 9654 section 2.1. */
const maxNonceBytes = 128;

const hashes: Readonly<Record<string, string>> = Object.freeze({
  '1.3.14.3.2.26': 'sha1',
  '2.16.840.1.101.3.4.2.1': 'sha256',
  '2.16.840.1.101.3.4.2.2': 'sha384',
  '2.16.840.1.101.3.4.2.3': 'sha512',
});

const nonceId = '1.3.6.1.5.5.7.48.1.2';

/** @throws an error for a request that is malformed or too large. Signatures of requests are not checked. */
export function readOcspRequest(der: Uint8Array): OcspQuestions {
  if (der.length > maxRequestBytes) throw new TypeError('the request is too large');
  checkDerShape(der, { depth: 12, elements: 1000 });
  const { tbsRequest } = OCSPRequest.fromBER(copyOf(der));
  const { requestList, requestExtensions = [] } = tbsRequest;
  if (requestList.length === 0 || requestList.length > maxQuestions)
    throw new TypeError(`a request asks about 1 to ${maxQuestions} certificates`);
  for (const { singleRequestExtensions = [] } of requestList) refuseCritical(singleRequestExtensions);
  refuseCritical(requestExtensions);
  return { asked: requestList.map((one) => questionOf(one.reqCert)), nonce: nonceIn(requestExtensions) };
}

function questionOf(id: CertID): CertQuestion {
  const serial = Buffer.from(id.serialNumber.valueBlock.valueHexView);
  // RFC 5280 section 4.1.2.2: positive, 20 octets at most.
  if (serial.length === 0 || serial.length > 21) throw new TypeError('not a serial number');
  return {
    certId: Buffer.from(id.toSchema().toBER(false)),
    hash: hashes[id.hashAlgorithm.algorithmId],
    issuerNameHash: Buffer.from(id.issuerNameHash.valueBlock.valueHexView),
    issuerKeyHash: Buffer.from(id.issuerKeyHash.valueBlock.valueHexView),
    serial: serialText(serial),
  };
}

function refuseCritical(extensions: readonly Extension[]): void {
  const unknown = extensions.find((one) => one.critical && one.extnID !== nonceId);
  if (unknown !== undefined) throw new TypeError(`the critical extension ${unknown.extnID} is not supported`);
}

function nonceIn(extensions: readonly Extension[]): Buffer | undefined {
  const [found, ...more] = extensions.filter((one) => one.extnID === nonceId);
  if (found === undefined) return undefined;
  const value = Buffer.from(found.extnValue.valueBlock.valueHexView);
  const [tag = 0, length = 0] = value;
  // An OCTET STRING of 1 to 128 octets; 128 takes a second octet of length.
  const head = length === 0x81 ? 3 : 2;
  const content = value.subarray(head);
  const said = length === 0x81 ? value[2] : length;
  if (more.length > 0 || tag !== 4 || said !== content.length || content.length < 1 || content.length > maxNonceBytes)
    throw new TypeError('not a nonce');
  return content;
}

/** What a response says of one certificate. Times are milliseconds since 1970. */
export interface CertAnswer extends CertQuestion {
  readonly status: 'good' | 'revoked' | 'unknown';
  readonly thisUpdate: number;
  readonly nextUpdate: number | undefined;
}

/** A response that was read. Its signature is not verified yet. */
export interface OcspReply {
  readonly answers: readonly CertAnswer[];
  /** Certificates that came with it, DER: perhaps the signer's. */
  readonly certificates: readonly Buffer[];
  /** SHA-1 of the signer's key, or its Name, DER. */
  readonly responder: { readonly keyHash: Buffer } | { readonly name: Buffer };
  /** What is signed, with what. The AlgorithmIdentifier is DER. */
  readonly body: Buffer;
  readonly algorithm: Buffer;
  readonly signature: Buffer;
}

/** Parses a response; nothing of it is verified. @throws an error if it is malformed, or an error itself. */
export function readOcspResponse(der: Uint8Array): OcspReply {
  if (der.length > maxResponseBytes) throw new TypeError('the response is too large');
  checkDerShape(der, { depth: 24, elements: 10_000 });
  const outer = OCSPResponse.fromBER(copyOf(der));
  const status = outer.responseStatus.valueBlock.valueDec;
  if (status !== 0) throw new TypeError(`the responder answered ${statusNames[status] ?? status}`);
  const inner = outer.responseBytes;
  if (inner === undefined || inner.responseType !== '1.3.6.1.5.5.7.48.1.1') throw new TypeError('no basic response');
  const bytes = Buffer.from(inner.response.valueBlock.valueHexView);
  checkDerShape(bytes, { depth: 24, elements: 10_000 });
  const basic = BasicOCSPResponse.fromBER(copyOf(bytes));
  const { responses, responderID, responseExtensions = [] } = basic.tbsResponseData;
  refuseCritical(responseExtensions);
  if (responses.length > maxQuestions) throw new TypeError('too many answers');
  const id = responderID as { valueBlock?: { valueHexView: Uint8Array }; toSchema?: () => { toBER(): ArrayBuffer } };
  return {
    answers: responses.map((one) => {
      refuseCritical(one.singleExtensions ?? []);
      return {
        ...questionOf(one.certID),
        status: certStatuses[(one.certStatus as { idBlock: { tagNumber: number } }).idBlock.tagNumber] ?? 'unknown',
        thisUpdate: one.thisUpdate.getTime(),
        nextUpdate: one.nextUpdate?.getTime(),
      };
    }),
    certificates: (basic.certs ?? []).map((one) => Buffer.from(one.toSchema(true).toBER(false))),
    responder:
      id.valueBlock?.valueHexView === undefined
        ? { name: Buffer.from(id.toSchema!().toBER()) }
        : { keyHash: Buffer.from(id.valueBlock.valueHexView) },
    body: Buffer.from(basic.tbsResponseData.tbsView),
    algorithm: Buffer.from(basic.signatureAlgorithm.toSchema().toBER(false)),
    signature: Buffer.from(basic.signature.valueBlock.valueHexView),
  };
}

const statusNames: Readonly<Record<number, string>> = {
  1: 'malformedRequest',
  2: 'internalError',
  3: 'tryLater',
  5: 'sigRequired',
  6: 'unauthorized',
};

const certStatuses = ['good', 'revoked', 'unknown'] as const;

/** pkijs wants an ArrayBuffer of its own. */
function copyOf(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

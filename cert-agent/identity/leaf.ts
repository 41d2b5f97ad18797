// Writes the certificate of a workload: X509-SVID sections 2 to 4, RFC 5280 section 4.1. A CA signs many of them, and
// the library that makes the certificates of CAs (x509.ts) takes fifty times as long. A test compares the two byte by
// byte.

import { createHash, type KeyObject, sign } from 'node:crypto';
import { isIPv4 } from 'node:net';
import { DerReader, derTag, readOid } from './der.ts';
import {
  bitString,
  element,
  extension,
  integer,
  octets,
  oid,
  sequence,
  tagged,
  time,
  wholeNumber,
} from './der-write.ts';

/** What a leaf has. All of it has been checked: this only writes. */
export interface LeafSpec {
  /** The SPIFFE ID. */
  readonly uri: string;
  /** DNS names and IP addresses, for clients that check them. */
  readonly dns?: readonly string[];
  readonly ips?: readonly string[];
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** Lower-case hex; see randomSerial. */
  readonly serial: string;
  /** Milliseconds since 1970; a certificate has whole seconds. */
  readonly notBefore: number;
  readonly notAfter: number;
}

/** What signs: a CA's key and its certificate, DER. */
export interface LeafSigner {
  readonly key: KeyObject;
  readonly certificate: Buffer;
}

/** Signs a leaf for servers and clients; returns DER. Its subject is empty, so that its names are critical. */
export function signLeaf(spec: LeafSpec, signer: LeafSigner): Buffer {
  const { algorithm, hash, issuer, authorityKey } = partsOf(signer);
  const body = sequence(
    tagged(0, wholeNumber(2)),
    integer(Buffer.from(spec.serial, 'hex')),
    algorithm,
    issuer,
    sequence(time(spec.notBefore), time(spec.notAfter)),
    sequence(),
    spec.publicKey,
    tagged(
      3,
      sequence(...constant, extension('2.5.29.14', octets(keyIdOf(spec.publicKey))), authorityKey, namesOf(spec)),
    ),
  );
  return sequence(body, algorithm, bitString(sign(hash, body, signer.key)));
}

/** The same for each leaf: no CA, digitalSignature, TLS server and client. */
const constant: readonly Buffer[] = [
  critical('2.5.29.19', sequence()),
  // The first bit of eight, seven of them unused.
  critical('2.5.29.15', element(derTag.bitString, Buffer.from([7, 0x80]))),
  extension('2.5.29.37', sequence(oid('1.3.6.1.5.5.7.3.1'), oid('1.3.6.1.5.5.7.3.2'))),
];

function critical(id: string, value: Uint8Array): Buffer {
  return sequence(oid(id), element(derTag.boolean, Buffer.from([0xff])), octets(value));
}

/** RFC 5280 section 4.2.1.6: a URI has tag 6, a DNS name 2, an address 7. */
function namesOf({ uri, dns = [], ips = [] }: LeafSpec): Buffer {
  const text = (tag: number) => (value: string) => element(tag, Buffer.from(value, 'latin1'));
  return critical(
    '2.5.29.17',
    sequence(text(0x86)(uri), ...dns.map(text(0x82)), ...ips.map((ip) => element(0x87, addressBytes(ip)))),
  );
}

/** An IP address in a certificate: four octets, or sixteen (RFC 5280 section 4.2.1.6). */
export function addressBytes(ip: string): Buffer {
  if (isIPv4(ip)) return Buffer.from(ip.split('.').map(Number));
  // The URL parser writes every address in hexadecimal groups, with one run of zeros left out.
  const [head = '', tail] = new URL(`http://[${ip}]`).hostname.slice(1, -1).split('::');
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'));
  const [before, after] = [groups(head), groups(tail ?? '')];
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return Buffer.from([...before, ...zeros, ...after].map((group) => group.padStart(4, '0')).join(''), 'hex');
}

interface SignerParts {
  /** AlgorithmIdentifier, DER. */
  readonly algorithm: Buffer;
  readonly hash: string;
  /** The issuer's name, DER. */
  readonly issuer: Buffer;
  /** The authority key identifier extension. */
  readonly authorityKey: Buffer;
}

const known = new WeakMap<Buffer, SignerParts>();

function partsOf({ key, certificate }: LeafSigner): SignerParts {
  const found = known.get(certificate);
  if (found !== undefined) return found;
  const { subject, keyId } = readIssuer(certificate);
  // Section 4.2.1.1: keyIdentifier has tag 0.
  const authorityKey = extension('2.5.29.35', sequence(element(0x80, keyId)));
  const parts = { ...algorithmOf(key), issuer: subject, authorityKey };
  known.set(certificate, parts);
  return parts;
}

/** RFC 5758 section 3.2 for ECDSA, RFC 4055 section 5 for RSA, whose parameters are NULL. */
function algorithmOf(key: KeyObject): { readonly algorithm: Buffer; readonly hash: string } {
  if (key.asymmetricKeyType !== 'ec')
    return { algorithm: sequence(oid('1.2.840.113549.1.1.11'), Buffer.from([5, 0])), hash: 'sha256' };
  return key.asymmetricKeyDetails?.namedCurve === 'secp384r1'
    ? { algorithm: sequence(oid('1.2.840.10045.4.3.3')), hash: 'sha384' }
    : { algorithm: sequence(oid('1.2.840.10045.4.3.2')), hash: 'sha256' };
}

/** An issuer's name, and its key identifier: the one that it has, or else that of its key. */
function readIssuer(certificate: Buffer): { readonly subject: Buffer; readonly keyId: Buffer } {
  const body = new DerReader(certificate).enter().enter();
  body.readIf(0xa0);
  body.read(derTag.integer);
  for (let i = 0; i < 3; i++) body.read(derTag.sequence);
  const subject = body.read(derTag.sequence).whole;
  const publicKey = body.read(derTag.sequence).whole;
  const extensions = body.readIf(0xa3);
  const list = extensions === undefined ? undefined : new DerReader(extensions.body).enter();
  while (list !== undefined && !list.done) {
    const one = list.enter();
    const id = readOid(one.read(derTag.oid));
    one.readIf(derTag.boolean);
    const { body: value } = one.read(derTag.octetString);
    if (id === '2.5.29.14') return { subject, keyId: new DerReader(value).read(derTag.octetString).body };
  }
  return { subject, keyId: keyIdOf(publicKey) };
}

/** RFC 5280 section 4.2.1.2, method 1: SHA-1 of the key's bits. It identifies, and secures nothing. */
function keyIdOf(publicKey: Uint8Array): Buffer {
  const info = new DerReader(Buffer.from(publicKey.buffer, publicKey.byteOffset, publicKey.byteLength)).enter();
  info.read(derTag.sequence);
  const { body } = info.read(derTag.bitString);
  return createHash('sha1').update(body.subarray(1)).digest();
}

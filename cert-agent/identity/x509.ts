// X.509 as ASN.1: making certificates and requests, and reading what node:crypto does not show (KeyUsage bits,
// criticality, path length, name constraints). The only file that imports @peculiar/x509; DER goes in and out.

import 'reflect-metadata';
import { createPublicKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  Extension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  Pkcs10CertificateRequest,
  Pkcs10CertificateRequestGenerator,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { reasonOf, SallyportError } from '../base/errors.ts';

// The library's types know the browser's Crypto; Node's webcrypto is the same thing under another declaration.
cryptoProvider.set(webcrypto as unknown as Parameters<typeof cryptoProvider.set>[0]);

const oidNameConstraints = '2.5.29.30';

/** Bits of KeyUsage, RFC 5280 section 4.2.1.3, by the names that OpenSSL prints. */
export type KeyUse = 'digitalSignature' | 'keyEncipherment' | 'keyCertSign' | 'cRLSign';

export interface CertificateSpec {
  /** RFC 4514, or empty for a subject without attributes (the SAN is then critical, RFC 5280 section 4.2.1.6). */
  readonly subject: string;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** Lower-case hex; see randomSerial. */
  readonly serial: string;
  /** Milliseconds since 1970; a certificate holds whole seconds. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  /** Present for a CA; `pathLength` is the number of CAs that may stand below it. */
  readonly ca?: { readonly pathLength?: number };
  readonly keyUsage: readonly KeyUse[];
  readonly keyUsageCritical?: boolean;
  readonly tlsUsage?: readonly ('serverAuth' | 'clientAuth')[];
  /** Only URIs of this host may stand below: a critical extension, which rustls peers refuse altogether. */
  readonly permittedUriHost?: string;
}

export interface Signer {
  readonly key: KeyObject;
  /** The signer's certificate, DER; absent when the certificate signs itself. */
  readonly certificate?: Uint8Array;
}

/** What the rules of SPIFFE and RFC 5280 ask of a certificate, read once from its DER. */
export interface CertificateFacts {
  readonly subjectEmpty: boolean;
  readonly uris: readonly string[];
  readonly dns: readonly string[];
  readonly sanCritical: boolean;
  readonly isCa: boolean;
  readonly pathLength: number | undefined;
  /** Undefined where the extension is absent. */
  readonly keyUsage: readonly string[] | undefined;
  readonly keyUsageCritical: boolean;
  /** Undefined where the extension is absent. */
  readonly tlsUsage: readonly string[] | undefined;
  /** Permitted URI hosts of a name-constraints extension; undefined where there is none. */
  readonly permittedUriHosts: readonly string[] | undefined;
  /** OIDs of critical extensions that nothing here understands: a path through them must be refused. */
  readonly unknownCritical: readonly string[];
}

/** 128 random bits as hex, positive and without a leading zero byte, RFC 5280 section 4.1.2.2. */
export function randomSerial(): string {
  const bytes = randomBytes(16);
  // The top bit clear keeps the INTEGER positive in 16 octets, the next one set keeps its length the same for all.
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

/** Signs `spec` and gives the certificate as DER. The signature is ECDSA or RSA with SHA-256, as the signer's key is. */
export async function signCertificate(spec: CertificateSpec, signer: Signer): Promise<Buffer> {
  const subjectKey = createPublicKey({ key: Buffer.from(spec.publicKey), format: 'der', type: 'spki' });
  const publicKey = await subjectKey.toCryptoKey(algorithmOf(subjectKey), true, ['verify']);
  const signingKey = await signer.key.toCryptoKey(algorithmOf(signer.key), false, ['sign']);
  const issuer = signer.certificate === undefined ? undefined : new X509Certificate(Buffer.from(signer.certificate));
  const certificate = await X509CertificateGenerator.create({
    serialNumber: spec.serial,
    subject: spec.subject,
    issuer: issuer?.subject ?? spec.subject,
    notBefore: new Date(Math.floor(spec.notBefore / 1000) * 1000),
    notAfter: new Date(Math.floor(spec.notAfter / 1000) * 1000),
    publicKey,
    signingKey,
    signingAlgorithm: signingAlgorithmOf(signer.key),
    extensions: await extensionsOf(spec, publicKey, issuer),
  });
  return Buffer.from(certificate.rawData);
}

/** A PKCS#10 request (DER) that proves possession of `key` and asks for nothing: the evidence decides the identity. */
export async function createCsr(key: KeyObject): Promise<Buffer> {
  const publicKey = await createPublicKey(key).toCryptoKey(algorithmOf(key), true, ['verify']);
  const privateKey = await key.toCryptoKey(algorithmOf(key), false, ['sign']);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    keys: { publicKey, privateKey },
    signingAlgorithm: signingAlgorithmOf(key),
  });
  return Buffer.from(csr.rawData);
}

/**
 * The public key (SPKI, DER) of a request whose signature holds. A CSR contributes its public key and nothing else.
 * Keys that TLS peers cannot use, or that are too weak, are refused.
 * @throws SallyportError `csr_invalid`.
 */
export async function readCsr(der: Uint8Array): Promise<Buffer> {
  let csr: Pkcs10CertificateRequest;
  try {
    csr = new Pkcs10CertificateRequest(Buffer.from(der));
  } catch (error) {
    throw new SallyportError('csr_invalid', `the CSR is not PKCS#10 DER: ${reasonOf(error)}`);
  }
  const spki = Buffer.from(csr.publicKey.rawData);
  checkPublicKey(spki);
  if (!(await csr.verify().catch(() => false))) {
    throw new SallyportError('csr_invalid', 'the CSR is not signed by the key that it carries');
  }
  return spki;
}

/** What `der` says about itself. @throws SallyportError `certificate_unreadable`. */
export function readCertificateFacts(der: Uint8Array): CertificateFacts {
  try {
    const certificate = new X509Certificate(Buffer.from(der));
    const names = certificate.getExtension(SubjectAlternativeNameExtension);
    const constraints = certificate.getExtension(BasicConstraintsExtension);
    const usage = certificate.getExtension(KeyUsagesExtension);
    const extended = certificate.getExtension(ExtendedKeyUsageExtension);
    const nameConstraints = certificate.getExtension(oidNameConstraints);
    const permittedUriHosts =
      nameConstraints === null ? undefined : readPermittedUriHosts(Buffer.from(nameConstraints.value));
    return Object.freeze({
      subjectEmpty: certificate.subject === '',
      uris: namesOf(names, 'url'),
      dns: namesOf(names, 'dns'),
      sanCritical: names?.critical ?? false,
      isCa: constraints?.ca ?? false,
      pathLength: constraints?.pathLength,
      keyUsage: usage === null ? undefined : usesOf(usage.usages),
      keyUsageCritical: usage?.critical ?? false,
      tlsUsage: extended === null ? undefined : Array.from(extended.usages, nameOfExtendedUse),
      permittedUriHosts,
      unknownCritical: [...certificate.extensions]
        .filter((one) => one.critical && !isUnderstood(one.type, permittedUriHosts))
        .map((one) => one.type),
    });
  } catch (error) {
    throw new SallyportError('certificate_unreadable', `the certificate cannot be read: ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

async function extensionsOf(
  spec: CertificateSpec,
  publicKey: webcrypto.CryptoKey,
  issuer: X509Certificate | undefined,
): Promise<Extension[]> {
  const uses = spec.keyUsage.reduce((bits, use) => bits | KeyUsageFlags[use], 0);
  const names: JsonGeneralName[] = [
    ...(spec.uris ?? []).map((value) => ({ type: 'url', value }) as const),
    ...(spec.dns ?? []).map((value) => ({ type: 'dns', value }) as const),
  ];
  const own = await SubjectKeyIdentifierExtension.create(publicKey);
  const above = issuer?.getExtension(SubjectKeyIdentifierExtension)?.keyId;
  return [
    new BasicConstraintsExtension(spec.ca !== undefined, spec.ca?.pathLength, true),
    new KeyUsagesExtension(uses, spec.keyUsageCritical ?? true),
    ...(spec.tlsUsage === undefined
      ? []
      : [
          new ExtendedKeyUsageExtension(
            spec.tlsUsage.map((use) => ExtendedKeyUsage[use]),
            false,
          ),
        ]),
    own,
    ...(issuer === undefined
      ? []
      : [
          above === undefined
            ? await AuthorityKeyIdentifierExtension.create(issuer)
            : new AuthorityKeyIdentifierExtension(above),
        ]),
    ...(names.length === 0 ? [] : [new SubjectAlternativeNameExtension(names, spec.subject === '')]),
    ...(spec.permittedUriHost === undefined
      ? []
      : [new Extension(oidNameConstraints, true, permittedUriHost(spec.permittedUriHost))]),
  ];
}

function algorithmOf(key: KeyObject): { name: string; namedCurve?: string; hash?: string } {
  if (key.asymmetricKeyType === 'ec') {
    const curve = key.asymmetricKeyDetails?.namedCurve;
    return { name: 'ECDSA', namedCurve: curve === 'secp384r1' ? 'P-384' : 'P-256' };
  }
  return { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };
}

function signingAlgorithmOf(key: KeyObject): { name: string; hash: string } {
  return {
    name: algorithmOf(key).name,
    hash: key.asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 'SHA-384' : 'SHA-256',
  };
}

function checkPublicKey(spki: Buffer): void {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  } catch (error) {
    throw new SallyportError('csr_invalid', `the CSR's public key cannot be read: ${reasonOf(error)}`);
  }
  const { namedCurve, modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  const usable =
    (key.asymmetricKeyType === 'ec' && (namedCurve === 'prime256v1' || namedCurve === 'secp384r1')) ||
    (key.asymmetricKeyType === 'rsa' && modulusLength >= 2048 && modulusLength <= 4096);
  if (usable) return;
  throw new SallyportError(
    'csr_invalid',
    `the CSR's key (${key.asymmetricKeyType} ${namedCurve ?? modulusLength}) is not accepted`,
    {
      hint: 'use EC P-256 or P-384, or RSA of 2048 to 4096 bits',
    },
  );
}

function namesOf(names: SubjectAlternativeNameExtension | null, type: 'url' | 'dns'): string[] {
  return (names?.names.items ?? []).filter((one) => one.type === type).map((one) => one.value);
}

const useNames = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const;

function usesOf(bits: number): string[] {
  return useNames.filter((name) => (bits & KeyUsageFlags[name]) !== 0);
}

function nameOfExtendedUse(oid: unknown): string {
  if (oid === ExtendedKeyUsage.serverAuth) return 'serverAuth';
  return oid === ExtendedKeyUsage.clientAuth ? 'clientAuth' : String(oid);
}

/** Critical extensions that a path may carry: SAN, basic constraints, key usages, and name constraints that were read. */
function isUnderstood(oid: string, permittedUriHosts: readonly string[] | undefined): boolean {
  if (oid === oidNameConstraints) return permittedUriHosts !== undefined;
  return ['2.5.29.15', '2.5.29.17', '2.5.29.19', '2.5.29.37'].includes(oid);
}

// Name constraints, RFC 5280 section 4.2.1.10. The library has no class for them, and of the whole structure only
// permitted URI hosts are ours: SEQUENCE { [0] { SEQUENCE { [6] IA5String } ... } }. Anything else is 'not understood'.

function permittedUriHost(host: string): Buffer {
  return der(0x30, der(0xa0, der(0x30, der(0x86, Buffer.from(host, 'latin1')))));
}

function der(tag: number, content: Buffer): Buffer {
  const size = content.length;
  const head = size < 128 ? [tag, size] : size < 256 ? [tag, 0x81, size] : [tag, 0x82, size >> 8, size & 0xff];
  return Buffer.concat([Buffer.from(head), content]);
}

/** Permitted hosts, or undefined when the extension holds anything but permitted URI hosts. */
function readPermittedUriHosts(value: Buffer): string[] | undefined {
  const [sequence, ...rest] = readDer(value);
  if (sequence?.tag !== 0x30 || rest.length > 0) return undefined;
  const parts = readDer(sequence.content);
  if (parts.length !== 1 || parts[0]?.tag !== 0xa0) return undefined;
  const hosts: string[] = [];
  for (const subtree of readDer(parts[0].content)) {
    const [base, ...bounds] = subtree.tag === 0x30 ? readDer(subtree.content) : [];
    if (base?.tag !== 0x86 || bounds.length > 0) return undefined;
    hosts.push(base.content.toString('latin1'));
  }
  return hosts;
}

/** The elements of a DER SEQUENCE's content. @throws RangeError when a length runs past the end. */
function readDer(bytes: Buffer): { tag: number; content: Buffer }[] {
  const found: { tag: number; content: Buffer }[] = [];
  let at = 0;
  while (at < bytes.length) {
    const tag = bytes.readUInt8(at);
    let size = bytes.readUInt8(at + 1);
    at += 2;
    if (size >= 0x80) {
      const octets = size & 0x7f;
      if (octets < 1 || octets > 3) throw new RangeError('a DER length of more than three octets');
      size = bytes.readUIntBE(at, octets);
      at += octets;
    }
    if (at + size > bytes.length) throw new RangeError('a DER length past the end');
    found.push({ tag, content: bytes.subarray(at, at + size) });
    at += size;
  }
  return found;
}

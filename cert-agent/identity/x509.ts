// Creates certificates of any kind, and requests. The only file that imports @peculiar/x509; DER goes in and out.
// Leaves are written by leaf.ts, requests are read by csr.ts and certificates by certificate.ts.

import 'reflect-metadata';
import { createPublicKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import {
  GeneralName,
  GeneralSubtree,
  GeneralSubtrees,
  id_ce_nameConstraints,
  NameConstraints,
} from '@peculiar/asn1-x509';
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
  Pkcs10CertificateRequestGenerator,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

// The library's types use the browser's Crypto; Node's webcrypto is the same under another declaration.
cryptoProvider.set(webcrypto as unknown as Parameters<typeof cryptoProvider.set>[0]);

/** Bits of KeyUsage, RFC 5280 section 4.2.1.3, by the names that OpenSSL prints. */
export type KeyUse = 'digitalSignature' | 'keyEncipherment' | 'keyCertSign' | 'cRLSign';

/** What a certificate has. All of it has been checked: this only writes. */
export interface CertificateSpec {
  /** RFC 4514, or empty for a subject without attributes (the SAN is then critical, RFC 5280 section 4.2.1.6). */
  readonly subject: string;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** Lower-case hex; see randomSerial. */
  readonly serial: string;
  /** Milliseconds since 1970; a certificate has whole seconds. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  /** Present for a CA; `pathLength` is the number of CAs that may follow below it. */
  readonly ca?: { readonly pathLength?: number };
  readonly keyUsage: readonly KeyUse[];
  readonly keyUsageCritical?: boolean;
  readonly tlsUsage?: readonly ('serverAuth' | 'clientAuth')[];
  /** Signs OCSP responses for its issuer (RFC 6960 section 4.2.2.2), and is itself not checked by OCSP. */
  readonly ocspSigner?: boolean;
  /** Restricts URIs below it to this host: a critical extension, which rustls peers refuse altogether. */
  readonly permittedUriHost?: string;
}

/** The key decides the signature's algorithm. */
export interface Signer {
  readonly key: KeyObject;
  /** The signer's certificate, DER; absent when the certificate signs itself. */
  readonly certificate?: Uint8Array;
}

/** 128 random bits as hex, positive and without a leading zero byte, RFC 5280 section 4.1.2.2. */
export function randomSerial(): string {
  const bytes = randomBytes(16);
  // A clear top bit keeps the INTEGER positive in 16 octets; a set second bit gives all of them the same length.
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

/** Signs `spec`; returns DER. The signature is ECDSA or RSA with SHA-256, depending on the signer's key. */
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

/** A PKCS#10 request (DER) that proves possession of `key` and requests no name: the evidence decides the identity. */
export async function createCsr(key: KeyObject): Promise<Buffer> {
  const publicKey = await createPublicKey(key).toCryptoKey(algorithmOf(key), true, ['verify']);
  const privateKey = await key.toCryptoKey(algorithmOf(key), false, ['sign']);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    keys: { publicKey, privateKey },
    signingAlgorithm: signingAlgorithmOf(key),
  });
  return Buffer.from(csr.rawData);
}

/** A PKCS#10 request (DER) for an issuing CA: with its names, and with the extensions that its certificate needs. */
export async function createCaCsr(key: KeyObject, subject: string, uris: readonly string[]): Promise<Buffer> {
  const publicKey = await createPublicKey(key).toCryptoKey(algorithmOf(key), true, ['verify']);
  const privateKey = await key.toCryptoKey(algorithmOf(key), false, ['sign']);
  const csr = await Pkcs10CertificateRequestGenerator.create({
    name: subject,
    keys: { publicKey, privateKey },
    signingAlgorithm: signingAlgorithmOf(key),
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      new SubjectAlternativeNameExtension(uris.map((value) => ({ type: 'url', value }) as const)),
    ],
  });
  return Buffer.from(csr.rawData);
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
    ...(spec.ocspSigner === true
      ? [
          new ExtendedKeyUsageExtension([ExtendedKeyUsage.ocspSigning], false),
          // id-pkix-ocsp-nocheck, section 4.2.2.2.1: a NULL.
          new Extension('1.3.6.1.5.5.7.48.1.5', false, Buffer.from([5, 0])),
        ]
      : []),
    own,
    ...(issuer === undefined
      ? []
      : [
          above === undefined
            ? await AuthorityKeyIdentifierExtension.create(issuer)
            : new AuthorityKeyIdentifierExtension(above),
        ]),
    ...(names.length === 0 ? [] : [new SubjectAlternativeNameExtension(names, spec.subject === '')]),
    ...(spec.permittedUriHost === undefined ? [] : [permittedUris(spec.permittedUriHost)]),
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

/** RFC 5280 section 4.2.1.10; the library has no class of its own for this extension. */
function permittedUris(host: string): Extension {
  const base = new GeneralName({ uniformResourceIdentifier: host });
  const permittedSubtrees = new GeneralSubtrees([new GeneralSubtree({ base })]);
  return new Extension(id_ce_nameConstraints, true, AsnConvert.serialize(new NameConstraints({ permittedSubtrees })));
}

// The sources of `sallyport inspect`: a PEM file, an agent's directory, the peer of a TLS handshake, or the admin port
// of a running sidecar. Each returns a chain and what to check it against.

import type { KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { connect, type EphemeralKeyInfo, type TLSSocket } from 'node:tls';
import { type Address, formatAddress } from '../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { onlyBundle, parseBundle, readPemBlocks, type TrustBundles } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { type DenyList, parseDenyList } from '../../cert-agent/identity/denied.ts';
import { pathsIn } from '../../cert-agent/identity/generation.ts';
import type { IdentityPaths } from '../../cert-agent/identity/identity.ts';
import { parseKey } from '../../cert-agent/identity/keys.ts';
import { readPresented } from '../../cert-agent/identity/peer-chain.ts';
import { readIdentityTexts, readText } from '../../cert-agent/identity/read.ts';
import { parseTrustDomain } from '../../cert-agent/identity/spiffe-id.ts';
import { meshAlpn } from '../policy/mtls.ts';
import { askAdmin } from './admin-client.ts';
import { otherFile } from './not-a-certificate.ts';

/** A chain with the options for inspectChain. */
export interface Sight {
  readonly chain: readonly Buffer[];
  readonly bundles?: TrustBundles;
  readonly denied?: DenyList;
  readonly trustDomain?: string;
  readonly key?: KeyObject;
  readonly connection?: ConnectionReport;
}

/** What was negotiated with a peer. */
export interface ConnectionReport {
  readonly address: string;
  /** `TLSv1.3`. */
  readonly tlsVersion: string;
  /** `X25519MLKEM768`; undefined if this Node does not report it. */
  readonly group: string | undefined;
  readonly cipher: string;
  /** The SPIFFE ID that we presented; undefined if none. */
  readonly shown: string | undefined;
  /** The peer's reaction: in TLS 1.3 it checks our certificate after our side of the handshake is done. */
  readonly afterHandshake: string;
}

/** The credential that we present in a handshake. */
export interface ClientSvid {
  readonly chainPem: string;
  readonly keyPem: string;
}

const handshakeTimeoutMs = 5000;

/** Long enough for a refusal to arrive, short enough for a person who waits. */
const refusalWaitMs = 250;

/**
 * A PEM file, the leaf first, or one certificate in DER; `-` is standard input.
 * @throws SallyportError `config_unreadable` or `certificate_unreadable`.
 */
export function lookAtFile(file: string): Sight {
  const text = readText(file, (from) => readFileSync(from === '-' ? 0 : from, 'latin1'));
  const chain = readPemBlocks(text, file);
  if (chain.length > 0) return { chain };
  const { what, hint } = otherFile(text, file) ?? {};
  // A SEQUENCE whose length takes two bytes: RFC 5280 section 4.1. PEM begins with text.
  if (what === undefined && text.startsWith('0\x82'))
    return { chain: [onlyCertificate(Buffer.from(text, 'latin1'), file)] };
  const instead = what === undefined ? '' : `: it is ${what}`;
  throw new SallyportError('certificate_unreadable', `${file} contains no certificate${instead}`, {
    hint: hint ?? 'expected PEM, leaf first, or one certificate in DER',
  });
}

/** @throws SallyportError `certificate_unreadable` for bytes behind it, which would not be shown. */
function onlyCertificate(der: Buffer, file: string): Buffer {
  const length = der.length < 4 ? 0 : 4 + der.readUInt16BE(2);
  if (length >= der.length) return der;
  throw new SallyportError(
    'certificate_unreadable',
    `${file} has ${der.length - length} bytes behind its certificate`,
    {
      hint: 'one certificate in DER, or several in PEM',
    },
  );
}

/** An agent's directory. @throws SallyportError as lookAtFile does, or the problem of another file. */
export function lookAtDirectory(directory: string): Sight {
  return lookAtFiles(pathsIn(directory, ''));
}

/** The files of an identity. @throws SallyportError like lookAtDirectory. */
export function lookAtFiles(paths: IdentityPaths): Sight {
  const read = readIdentityTexts(paths);
  if ('missing' in read) {
    throw new SallyportError('config_unreadable', `${read.missing} does not exist`, {
      hint: 'has the agent received an SVID yet? see its log',
    });
  }
  const { svid, key, bundle, denied } = read.texts;
  const chain = readPemBlocks(svid, paths.svid);
  const [leaf] = chain;
  if (leaf === undefined) throw new SallyportError('certificate_unreadable', `${paths.svid} contains no certificate`);
  const trustDomain = trustDomainOf(leaf);
  return {
    chain,
    key: parseKey(key, paths.key),
    ...(trustDomain === undefined ? {} : { bundles: onlyBundle(parseBundle(bundle, trustDomain, paths.bundle)) }),
    ...(denied === undefined ? {} : { denied: parseDenyList(denied, paths.denied ?? 'denied.json') }),
  };
}

/** A running sidecar or agent, by its admin port. @throws SallyportError `upstream_connect` or `upstream_protocol`. */
export async function lookAtAdmin(url: URL): Promise<Sight> {
  const page = new URL('/certs', url);
  const { status, body } = await askAdmin(page);
  const fields = isObject(body) ? body : {};
  if (status !== 200) {
    const why = typeof fields['message'] === 'string' ? `: ${reasonOf(fields['message'])}` : '';
    throw new SallyportError('upstream_protocol', `${page.href} responded ${status}${why}`, {
      hint: 'is this the admin address of a sidecar or an agent?',
    });
  }
  const { chainPem, bundlePem, trustDomain } = fields;
  if (typeof chainPem !== 'string' || typeof bundlePem !== 'string' || typeof trustDomain !== 'string')
    throw new SallyportError('upstream_protocol', `${page.href} lacks chainPem, bundlePem or trustDomain`);
  const name = parseTrustDomain(trustDomain);
  const chain = readPemBlocks(chainPem, page.href);
  if (chain.length === 0) throw new SallyportError('certificate_unreadable', `${page.href} contains no certificate`);
  return { chain, trustDomain: name, bundles: onlyBundle(parseBundle(bundlePem, name, page.href)) };
}

/**
 * The peer of a TLS handshake. Nothing is verified here: the purpose is to see what it presents.
 * @throws SallyportError `upstream_connect`, `upstream_connect_timeout`, `upstream_tls`, or `svid_missing`.
 */
export async function lookAtPeer(address: Address, svid: ClientSvid | undefined): Promise<Sight> {
  const socket = await handshake(address, svid);
  try {
    const { chain } = readPresented(socket);
    if (chain.length === 0)
      throw new SallyportError('svid_missing', `${formatAddress(address)} presented no certificate`);
    const details = {
      address: formatAddress(address),
      tlsVersion: socket.getProtocol() ?? 'unknown',
      group: groupOf(socket),
      cipher: socket.getCipher().standardName,
      shown: svid === undefined ? undefined : shownId(svid),
    };
    return { chain, connection: { ...details, afterHandshake: await refusalOf(socket) } };
  } finally {
    socket.destroy();
  }
}

function handshake(address: Address, svid: ClientSvid | undefined): Promise<TLSSocket> {
  const where = formatAddress(address);
  return new Promise((resolve, reject) => {
    let connected = false;
    const socket = connect({
      ...('path' in address ? { path: address.path } : { host: address.host, port: address.port }),
      servername: 'path' in address || isIP(address.host) !== 0 ? '' : address.host,
      ecdhCurve: 'X25519MLKEM768:X25519:P-256',
      rejectUnauthorized: false,
      // Otherwise a PERMISSIVE port would present the certificate of the app behind it.
      ALPNProtocols: ['h2', 'http/1.1', meshAlpn],
      ...(svid === undefined ? {} : { cert: svid.chainPem, key: svid.keyPem }),
    });
    const timer = setTimeout(() => {
      socket.destroy(new SallyportError('upstream_connect_timeout', `${where} did not finish a handshake in 5 s`));
    }, handshakeTimeoutMs);
    socket.once('connect', () => {
      connected = true;
    });
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      resolve(socket);
    });
    socket.once('error', (error) => {
      clearTimeout(timer);
      if (error instanceof SallyportError) return reject(error);
      const code = connected ? 'upstream_tls' : 'upstream_connect';
      const what = connected ? 'the TLS handshake with' : 'connecting to';
      const hint = connected ? 'does this port use TLS? write an admin address as http://host:port' : undefined;
      reject(new SallyportError(code, `${what} ${where} failed: ${reasonOf(error)}`, { hint, cause: error }));
    });
  });
}

/** Waits a moment for the peer to close, which means a refused or missing client certificate. */
function refusalOf(socket: TLSSocket): Promise<string> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve('the connection stays open'), refusalWaitMs);
    const end = (how: string): void => {
      clearTimeout(timer);
      resolve(how);
    };
    socket.on('error', (error) => end(`the peer refused: ${reasonOf(error)}`));
    socket.on('close', () => end('the peer closed the connection'));
    socket.resume();
  });
}

/** TLS 1.3 groups have { type: 'TLSGroup' }, older ones { type: 'ECDH' }; both have the name. */
function groupOf(socket: TLSSocket): string | undefined {
  const info: EphemeralKeyInfo | object | null = socket.getEphemeralKeyInfo();
  const name: unknown = info !== null && 'name' in info ? info.name : undefined;
  return typeof name === 'string' && name !== '' ? name : undefined;
}

function shownId(svid: ClientSvid): string {
  const [leaf] = readPemBlocks(svid.chainPem, 'the client SVID');
  return (leaf === undefined ? undefined : readCertificateFacts(leaf).uris[0]) ?? 'a certificate without SPIFFE ID';
}

/** The trust domain of a leaf's SPIFFE ID, or undefined without one. */
function trustDomainOf(leaf: Buffer): string | undefined {
  const uri = readCertificateFacts(leaf).uris[0] ?? '';
  try {
    return parseTrustDomain(/^spiffe:\/\/([^/]*)/i.exec(uri)?.[1] ?? '');
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

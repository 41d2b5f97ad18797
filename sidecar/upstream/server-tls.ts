// TLS to a server that is no peer of the mesh: it proves its name by a certificate of a public or a given CA, and we
// present nothing (Gateway API's BackendTLSPolicy). The subject's common name does not count as a name (RFC 9525
// section 2).

import { X509Certificate } from 'node:crypto';
import { connect } from 'node:net';
import {
  type ConnectionOptions,
  connect as connectTls,
  createSecureContext,
  getCACertificates,
  type SecureContext,
} from 'node:tls';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { TlsFacts } from '../exchange/upstream.ts';
import { runsOn } from '../protocol/reset.ts';
import { dialedFacts, serverDialOptions, type TlsSettings } from '../protocol/tls.ts';
import { type Dial, settle } from './dial.ts';

/** The expected server, and the CA that must vouch for it. Plain data. */
export interface ServerTls {
  /** Sent in SNI; the certificate must have it unless `subjectAltNames` are given. */
  readonly hostname: string;
  /** PEM, one or more certificates; `System`: those that the machine trusts. */
  readonly ca: string;
  /** The certificate must have any one of these. */
  readonly subjectAltNames?: readonly { readonly type: 'Hostname' | 'URI'; readonly value: string }[];
  readonly tls: TlsSettings;
  /** The offered protocols; without `h2` it is HTTP/1.1. */
  readonly alpn: readonly string[];
}

/** For connections without mutual TLS. The SVID is never presented on them. */
export interface ServerTlsDialOptions extends Omit<ServerTls, 'alpn'> {
  /** Called for each completed handshake. */
  dialed?(tls: TlsFacts): void;
}

/** TLS 1.2 or later to a server whose certificate is verified. */
export function createServerTlsDial(options: ServerTlsDialOptions): Dial {
  let secureContext: SecureContext | undefined;

  return function dialServer(address, connectMs, alpn) {
    try {
      // Created at the first dial: reading the machine's hundred certificates takes some milliseconds.
      secureContext ??= createSecureContext(serverDialOptions(authoritiesOf(options.ca), options.tls));
    } catch (error) {
      const message = `the CA for ${options.hostname} cannot be read: ${reasonOf(error)}`;
      return Promise.reject(error instanceof SallyportError ? error : new SallyportError('upstream_tls', message));
    }
    const context = secureContext;
    return new Promise((resolve, reject) => {
      const raw = connect({ ...address, noDelay: true, allowHalfOpen: true });
      const settings: ConnectionOptions & { readonly allowHalfOpen: true } = {
        socket: raw,
        allowHalfOpen: true,
        secureContext: context,
        servername: options.hostname,
        ...(alpn.length === 0 ? {} : { ALPNProtocols: [...alpn] }),
        rejectUnauthorized: true,
        checkServerIdentity: (_name, { raw: der }) => judgeName(new X509Certificate(der), options),
      };
      const socket = connectTls(settings);
      runsOn(socket, raw);
      const ready = (): void => {
        options.dialed?.(dialedFacts(socket));
        const leaf = socket.getPeerX509Certificate();
        resolve({ socket, peer: undefined, validUntil: leaf?.validToDate.getTime() ?? Number.POSITIVE_INFINITY });
      };
      settle(socket, address, connectMs, 'secureConnect', ready, reject);
    });
  };
}

/** OpenSSL has found a path to the CA; this checks the server's name. Node wants the error returned. */
function judgeName(
  certificate: X509Certificate,
  { hostname, subjectAltNames = [] }: Omit<ServerTls, 'alpn'>,
): SallyportError | undefined {
  const wanted = subjectAltNames.length === 0 ? [{ type: 'Hostname' as const, value: hostname }] : subjectAltNames;
  const isNamed = wanted.some(({ type, value }) =>
    type === 'URI' ? urisOf(certificate).includes(value) : namesHost(certificate, value),
  );
  if (isNamed) return undefined;
  const names = wanted.map(({ value }) => value).join(' or ');
  return new SallyportError(
    'upstream_identity',
    `the server's certificate is not for ${names}: ${certificate.subjectAltName ?? 'it has no alternative names'}`,
    { hint: "correct 'hostname' or 'subjectAltNames' of the policy, or find out what runs at its address" },
  );
}

function namesHost(certificate: X509Certificate, host: string): boolean {
  return certificate.checkHost(host, { subject: 'never', partialWildcards: false }) !== undefined;
}

/** Node quotes a name that contains a comma or a quote, so that no name can look like two. */
function urisOf({ subjectAltName = '' }: X509Certificate): string[] {
  return [...subjectAltName.matchAll(/(?:^|, )(\w[\w ]*):("(?:[^"\\]|\\.)*"|[^,]*)/g)].flatMap(([, kind, value]) => {
    if (kind !== 'URI') return [];
    return [value!.startsWith('"') ? (JSON.parse(value!) as string) : value!];
  });
}

/**
 * @throws SallyportError `upstream_tls` if the machine trusts no CA: then no server is trusted, rather than every one.
 */
function authoritiesOf(ca: string): string | string[] {
  if (ca !== 'System') return ca;
  const system = getCACertificates('system');
  if (system.length > 0) return system;
  throw new SallyportError('upstream_tls', "this machine has no CA certificates of its own ('System')", {
    hint: 'install ca-certificates, or set a CA',
  });
}

// `tls.options` of a listener: keys of implementations, by which people ask for client certificates and versions of TLS. Those
// that are known here have an effect; one that is not would be a promise that is not kept, and closes its listener.

import type { TlsVersion } from '../protocol/tls.ts';
import type { Unresolved } from './references.ts';

/** What options come to. */
export interface TlsOptions {
  /** Whether clients have to show a certificate; undefined: not said. */
  readonly clients?: 'SIMPLE' | 'MUTUAL';
  readonly minVersion?: TlsVersion;
}

/** Ours, for a listener and for a BackendTLSPolicy. */
export const minVersionKey = 'sallyport.dev/tls-min-version';

/** Istio's, and of those that have it from there. */
const terminateModes = new Set(
  ['istio.io', 'agentgateway.io', 'higress.io'].map((vendor) => `gateway.${vendor}/tls-terminate-mode`),
);

/** @returns what is asked for, or the first of it that cannot be. */
export function readTlsOptions(options: Readonly<Record<string, string>>): TlsOptions | Unresolved {
  let said: TlsOptions = {};
  for (const [key, value] of Object.entries(options)) {
    const read = readOption(key, value);
    if (typeof read === 'string') return { reason: 'UnsupportedValue', message: `tls.options: ${key}: ${read}` };
    // Of two keys the stricter one holds.
    said = {
      ...said,
      ...(read.clients === 'MUTUAL' || said.clients === undefined ? read : { ...read, clients: said.clients }),
      ...(said.minVersion === 'TLSv1.3' ? { minVersion: said.minVersion } : {}),
    };
  }
  return said;
}

/** One option, or why it cannot be served. */
function readOption(key: string, value: string): TlsOptions | string {
  if (terminateModes.has(key)) return readMode(value);
  if (key === minVersionKey) return readMinVersion(value);
  if (key === 'nginx.org/ssl-protocols') return readProtocols(value);
  if (/cipher/i.test(key))
    return 'ciphers are not chosen here: they are those of TLS 1.3, and of TLS 1.2 the ones with forward secrecy';
  return `it is not known here: ${[...terminateModes][0]}, nginx.org/ssl-protocols and ${minVersionKey} are`;
}

function readMode(value: string): TlsOptions | string {
  if (value === 'SIMPLE' || value === 'MUTUAL') return { clients: value };
  if (value === 'ISTIO_MUTUAL')
    return 'a gateway shows its own certificates outside, and takes no SVIDs there: use a sidecar';
  if (value === 'OPTIONAL_MUTUAL')
    return "write it as the Gateway's 'tls.frontend' with mode AllowInsecureFallback, which also lets in bad certificates, as nobody's";
  return `'${value}' is none of SIMPLE and MUTUAL`;
}

/** `1.2` or `1.3`. */
export function readMinVersion(value: string): { readonly minVersion: TlsVersion } | string {
  if (value === '1.2' || value === '1.3') return { minVersion: `TLSv${value}` };
  return `'${value}' is none of 1.2 and 1.3`;
}

/** nginx's: all versions that are offered. */
function readProtocols(value: string): TlsOptions | string {
  const versions = value.split(/\s+/).filter(Boolean);
  const old = versions.find((one) => one !== 'TLSv1.2' && one !== 'TLSv1.3');
  if (old !== undefined) return `${old} is not served`;
  if (!versions.includes('TLSv1.3')) return 'TLS 1.3 is always served';
  return { minVersion: versions.includes('TLSv1.2') ? 'TLSv1.2' : 'TLSv1.3' };
}

// `tls.options` of a listener: implementation-specific keys, used to require client certificates and TLS versions.
// Known keys have an effect; an unknown one would promise something that is not done, and closes its listener.

import type { TlsVersion } from '../protocol/tls.ts';
import type { Unresolved } from './conditions.ts';

/** The effective options. */
export interface TlsOptions {
  /** Whether clients must present a certificate; undefined: not set. */
  readonly clients?: 'SIMPLE' | 'MUTUAL';
  readonly minVersion?: TlsVersion;
}

/** Our own key, for a listener and for a BackendTLSPolicy. */
export const minVersionKey = 'sallyport.dev/tls-min-version';

/** Istio's key, and those of products that adopted it. */
const terminateModes = new Set(
  ['istio.io', 'agentgateway.io', 'higress.io'].map((vendor) => `gateway.${vendor}/tls-terminate-mode`),
);

/** @returns the effective options, or the first one that is not supported. */
export function readTlsOptions(options: Readonly<Record<string, string>>): TlsOptions | Unresolved {
  let result: TlsOptions = {};
  for (const [key, value] of Object.entries(options)) {
    const read = readOption(key, value);
    if (typeof read === 'string') return { reason: 'UnsupportedValue', message: `tls.options: ${key}: ${read}` };
    // Of two keys the stricter one wins.
    result = {
      ...result,
      ...(read.clients === 'MUTUAL' || result.clients === undefined ? read : { ...read, clients: result.clients }),
      ...(result.minVersion === 'TLSv1.3' ? { minVersion: result.minVersion } : {}),
    };
  }
  return result;
}

/** One option, or why it is not supported. */
function readOption(key: string, value: string): TlsOptions | string {
  if (terminateModes.has(key)) return readMode(value);
  if (key === minVersionKey) return readMinVersion(value);
  if (key === 'nginx.org/ssl-protocols') return readProtocols(value);
  if (/cipher/i.test(key))
    return 'ciphers cannot be configured: they are those of TLS 1.3, and those of TLS 1.2 with forward secrecy';
  return `it is unknown; known are ${[...terminateModes][0]}, nginx.org/ssl-protocols and ${minVersionKey}`;
}

function readMode(value: string): TlsOptions | string {
  if (value === 'SIMPLE' || value === 'MUTUAL') return { clients: value };
  if (value === 'ISTIO_MUTUAL')
    return 'a gateway presents its own certificates to clients and accepts no SVIDs there: use a sidecar';
  if (value === 'OPTIONAL_MUTUAL')
    return "write it as the Gateway's 'tls.frontend' with mode AllowInsecureFallback, which also admits invalid certificates, without an identity";
  return `'${value}' is neither SIMPLE nor MUTUAL`;
}

/** `1.2` or `1.3`. */
export function readMinVersion(value: string): { readonly minVersion: TlsVersion } | string {
  if (value === '1.2' || value === '1.3') return { minVersion: `TLSv${value}` };
  return `'${value}' is neither 1.2 nor 1.3`;
}

/** nginx's: lists all enabled versions. */
function readProtocols(value: string): TlsOptions | string {
  const versions = value.split(/\s+/).filter(Boolean);
  const old = versions.find((one) => one !== 'TLSv1.2' && one !== 'TLSv1.3');
  if (old !== undefined) return `${old} is not supported`;
  if (!versions.includes('TLSv1.3')) return 'TLS 1.3 cannot be disabled';
  return { minVersion: versions.includes('TLSv1.2') ? 'TLSv1.2' : 'TLSv1.3' };
}

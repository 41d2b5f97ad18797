// SPIFFE IDs, sections 2.1 to 2.3 of the SPIFFE-ID standard. Text becomes a value only here.

import { SallyportError } from '../base/errors.ts';

/** A valid ID, made by parseSpiffeId or caIdOf. Compare `uri`. */
export interface SpiffeId {
  /** The whole ID, `spiffe://demo.test/ns/shop/sa/web`. */
  readonly uri: string;
  readonly trustDomain: string;
  /** With its leading slash; empty for the ID of a trust domain. */
  readonly path: string;
}

/** SPIFFE-ID section 2.3: an implementation must accept IDs of up to 2048 bytes and should not make longer ones. */
const maxIdBytes = 2048;

/**
 * Parses a SPIFFE ID. The case of the scheme does not matter; everything else is used unchanged or refused.
 * @throws SallyportError `spiffe_id_invalid`.
 */
export function parseSpiffeId(text: string): SpiffeId {
  if (Buffer.byteLength(text) > maxIdBytes) throw invalid(`${text.slice(0, 64)}...`, `longer than ${maxIdBytes} bytes`);
  const match = /^spiffe:\/\/([^/]*)(.*)$/is.exec(text);
  if (match === null) throw invalid(text, 'it does not begin with spiffe://');
  const [, authority = '', path = ''] = match;
  const trustDomain = checkTrustDomain(authority, text);
  checkPath(path, text);
  return Object.freeze({ uri: `spiffe://${trustDomain}${path}`, trustDomain, path });
}

/** The name of a trust domain, with or without `spiffe://`. @throws SallyportError `spiffe_id_invalid`. */
export function parseTrustDomain(text: string): string {
  return checkTrustDomain(text.replace(/^spiffe:\/\//, ''), text);
}

/** True for IDs that belong to the CA's own parts; they are never issued to workloads. */
export function isReserved(id: SpiffeId): boolean {
  return id.path === '/sallyport' || id.path.startsWith('/sallyport/');
}

/** The CA's own ID, which agents require. */
export function caIdOf(trustDomain: string): SpiffeId {
  return parseSpiffeId(`spiffe://${trustDomain}/sallyport/ca`);
}

/** The `<ns>` of a `/ns/<ns>/...` path, the form of Istio's policies, or undefined. */
export function namespaceOf(id: SpiffeId): string | undefined {
  return /^\/ns\/([^/]+)/.exec(id.path)?.[1];
}

/** The `<sa>` of a `/ns/<ns>/sa/<sa>` path, or undefined. */
export function serviceAccountOf(id: SpiffeId): string | undefined {
  return /^\/ns\/[^/]+\/sa\/([^/]+)/.exec(id.path)?.[1];
}

/** Section 2.1: lower-case letters, digits, dot, dash and underscore; no user info, port or percent-encoding. */
function checkTrustDomain(name: string, text: string): string {
  if (name === '') throw invalid(text, 'the trust domain is empty');
  if (name.length > 255) throw invalid(text, 'the trust domain is longer than 255 bytes');
  if (!/^[a-z0-9._-]+$/.test(name)) {
    throw invalid(text, `the trust domain '${name}' may contain only a-z, 0-9, dot, dash and underscore`);
  }
  return name;
}

/** Section 2.2: no empty or dot segments, no trailing slash, no percent-encoding, query or fragment. */
function checkPath(path: string, text: string): void {
  if (path === '') return;
  for (const segment of path.slice(1).split('/')) {
    if (segment === '') throw invalid(text, 'its path has an empty segment or ends in a slash');
    if (segment === '.' || segment === '..') throw invalid(text, 'its path has a dot segment');
    if (!/^[A-Za-z0-9._-]+$/.test(segment)) {
      throw invalid(text, `the path segment '${segment}' may contain only letters, digits, dot, dash and underscore`);
    }
  }
}

function invalid(text: string, why: string): SallyportError {
  return new SallyportError('spiffe_id_invalid', `'${text}' is not a SPIFFE ID: ${why}`, {
    hint: 'an ID looks like spiffe://demo.test/ns/shop/sa/web',
  });
}

// Parses the CA's responses into values. Nothing here sends a request or decides whether to use a response.

import type { KeyObject } from 'node:crypto';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { formatPem, parseBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, parseDenyList } from '../identity/denied.ts';
import { formatKey } from '../identity/keys.ts';
import { parseSvid, type Svid } from '../identity/svid.ts';
import { type LedgerHead, type LedgerPlace, readLedgerHead, readLedgerPlace } from './ledger-memory.ts';

/** The roots that we trust and the identities that are denied. */
export interface Trust {
  readonly bundle: TrustBundle;
  readonly denied: DenyList;
  /** The end of the CA's ledger, if the CA sent it. */
  readonly ledger?: LedgerHead;
}

/** A CA's response to a CSR, parsed but not yet compared with what we have. */
export interface Issued extends Trust {
  readonly svid: Svid;
}

/** The CA's own code of a refusal (`token_used`), kept as the cause of our error. */
export interface CaRefusal {
  readonly status: number;
  readonly caCode: string;
}

/** The CA's own code of a refusal; undefined for any other error. */
export function caCodeOf(error: unknown): string | undefined {
  const cause: unknown = error instanceof SallyportError && error.code === 'ca_refused' ? error.cause : undefined;
  return isObject(cause) && typeof cause['caCode'] === 'string' ? cause['caCode'] : undefined;
}

/** Parses the response to a CSR of `key`. The caller decides which bundle to verify the chain against. */
export function readSvidAnswer(body: unknown, key: KeyObject, trustDomain: string, url: URL): Issued {
  if (!isObject(body)) throw invalidAnswer(url, 'not an object');
  const chain = body['chain'];
  if (!Array.isArray(chain) || chain.length === 0 || !chain.every((one) => typeof one === 'string'))
    throw invalidAnswer(url, "'chain' is not a list of certificates");
  const chainPem = formatPem(chain.map((one) => Buffer.from(String(one), 'base64')));
  const source = { chain: `the response of the CA at ${url.origin}`, key: 'pending.key' };
  const svid = parseSvid(chainPem, formatKey(key), source);
  return { svid, ...readBundleDocument(body['bundle'], trustDomain, url) };
}

/**
 * Parses the response to `GET /v1/bundle`. @throws SallyportError `ca_answer_invalid`, `bundle_invalid`,
 * `bundle_empty`.
 */
export function readBundleDocument(document: unknown, trustDomain: string, url: URL): Trust {
  if (!isObject(document)) throw invalidAnswer(url, 'it contains no bundle');
  const source = `the bundle of the CA at ${url.origin}`;
  const ledger = readLedgerHead(document['sallyport_ledger']);
  return {
    bundle: parseBundle(JSON.stringify(document), trustDomain, source),
    denied: parseDenyList(document['sallyport_denied'], source),
    ...(ledger === undefined ? {} : { ledger }),
  };
}

/** Parses the response to `GET /v1/ledger/N`. @throws SallyportError `ca_answer_invalid`. */
export function readRecordAnswer(body: unknown, sequence: number, url: URL): LedgerPlace {
  const place = readLedgerPlace(body, sequence);
  if (place === undefined) throw invalidAnswer(url, `it says nothing of record ${sequence}`);
  return place;
}

/** A refusal in the CA's words. */
export function describeRefusal(status: number, body: unknown, url: URL): SallyportError {
  const fields = isObject(body) ? body : {};
  const text = (name: string): string | undefined => {
    const value = fields[name];
    // The CA's text is shown to the operator, so it is cut to one line of bounded length.
    return typeof value === 'string' ? reasonOf(value).slice(0, 300) : undefined;
  };
  const code = text('code');
  const message =
    code === undefined
      ? `the CA at ${url.origin} responded ${status} without a reason`
      : `the CA at ${url.origin} refused: ${text('message') ?? 'no message'} [${code}]`;
  const cause: CaRefusal | undefined = code === undefined ? undefined : { status, caCode: code };
  return new SallyportError('ca_refused', message, {
    hint: text('hint') ?? (code === undefined ? `is ${url.origin} a Sallyport CA?` : undefined),
    cause,
  });
}

/** The error for a response that cannot be used. */
export function invalidAnswer(url: URL, why: string): SallyportError {
  return new SallyportError('ca_answer_invalid', `invalid response from the CA at ${url.origin}: ${why}`);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

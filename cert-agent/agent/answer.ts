// What a CA's answers say, read into values: nothing here asks, and nothing here decides whether to use what was said.

import type { KeyObject } from 'node:crypto';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { formatPem, parseBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, parseDenyList } from '../identity/denied.ts';
import { formatKey } from '../identity/keys.ts';
import { parseSvid, type Svid } from '../identity/svid.ts';

/** Whom we believe, and whom not any more. */
export interface Trust {
  readonly bundle: TrustBundle;
  readonly denied: DenyList;
}

/** What a CA's answer to a CSR holds, read but not yet compared with what we have. */
export interface Issued extends Trust {
  readonly svid: Svid;
}

/** The CA's own code where it refused (`token_used`), carried as the error's cause. */
export interface CaRefusal {
  readonly status: number;
  readonly caCode: string;
}

/** The CA's own code of a refusal, or undefined for any other error. */
export function caCodeOf(error: unknown): string | undefined {
  const cause: unknown = error instanceof SallyportError && error.code === 'ca_refused' ? error.cause : undefined;
  return isObject(cause) && typeof cause['caCode'] === 'string' ? cause['caCode'] : undefined;
}

/** Reads the answer to a CSR of `key`. The chain is verified against the bundle by whoever decides which bundle holds. */
export function readSvidAnswer(body: unknown, key: KeyObject, trustDomain: string, url: URL): Issued {
  if (!isObject(body)) throw invalidAnswer(url, 'it is not an object');
  const chain = body['chain'];
  if (!Array.isArray(chain) || chain.length === 0 || !chain.every((one) => typeof one === 'string'))
    throw invalidAnswer(url, "'chain' is not a list of certificates");
  const chainPem = formatPem(chain.map((one) => Buffer.from(String(one), 'base64')));
  const source = { chain: `the answer of the CA at ${url.origin}`, key: 'pending.key' };
  const svid = parseSvid(chainPem, formatKey(key), source);
  return { svid, ...readBundleDocument(body['bundle'], trustDomain, url) };
}

/** Reads what `GET /v1/bundle` answers. @throws SallyportError `ca_answer_invalid`, `bundle_invalid` or `bundle_empty`. */
export function readBundleDocument(document: unknown, trustDomain: string, url: URL): Trust {
  if (!isObject(document)) throw invalidAnswer(url, 'it holds no bundle');
  const source = `the bundle of the CA at ${url.origin}`;
  return {
    bundle: parseBundle(JSON.stringify(document), trustDomain, source),
    denied: parseDenyList(document['sallyport_denied'], source),
  };
}

/** A refusal as the CA words it. */
export function describeRefusal(status: number, body: unknown, url: URL): SallyportError {
  const said = isObject(body) ? body : {};
  const text = (name: string): string | undefined => {
    const value = said[name];
    // What the other side says is shown, so it is kept to one line of bounded length.
    return typeof value === 'string' ? reasonOf(value).slice(0, 300) : undefined;
  };
  const code = text('code');
  const message =
    code === undefined
      ? `the CA at ${url.origin} answered ${status} without a reason`
      : `the CA at ${url.origin} refused: ${text('message') ?? 'no message'} [${code}]`;
  const cause: CaRefusal | undefined = code === undefined ? undefined : { status, caCode: code };
  return new SallyportError('ca_refused', message, {
    hint: text('hint') ?? (code === undefined ? `is ${url.origin} a Sallyport CA?` : undefined),
    cause,
  });
}

/** The error of an answer that cannot be used. */
export function invalidAnswer(url: URL, why: string): SallyportError {
  return new SallyportError('ca_answer_invalid', `the answer of the CA at ${url.origin} is not usable: ${why}`);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// The response to `GET /v1/bundle`: the SPIFFE bundle with the deny list. It is created once per change of the list, so
// that the request that every agent sends every few seconds costs only a comparison.

import { createHash } from 'node:crypto';
import { formatTime } from '../base/clock.ts';
import { type Live, LiveCell } from '../base/live.ts';
import { formatBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, formatDenyList } from '../identity/denied.ts';
import type { LedgerHead } from './ledger/table.ts';

/** One version of the response, as document and as bytes. */
export interface BundleAnswer {
  readonly document: object;
  readonly body: string;
  /** A strong validator, RFC 9110 section 8.8.3: the digest of the body. */
  readonly etag: string;
  /** Of bundle and deny list. */
  readonly sequences: { readonly bundle: number; readonly denied: number };
}

/** Follows its sources from now on, and is never closed. */
export function createBundleAnswer(
  bundle: Live<TrustBundle>,
  denied: Live<DenyList>,
  ledger: Live<LedgerHead | undefined>,
): Live<BundleAnswer> {
  const now = (): BundleAnswer => answerOf(bundle.current(), denied.current(), ledger.current());
  const cell = new LiveCell(now());
  denied.onChange(() => cell.set(now()));
  ledger.onChange(() => cell.set(now()));
  bundle.onChange(() => cell.set(now()));
  return cell;
}

function answerOf(bundle: TrustBundle, denied: DenyList, head: LedgerHead | undefined): BundleAnswer {
  const document = {
    ...formatBundle(bundle),
    sallyport_denied: formatDenyList(denied),
    // Agents remember it: a restored CA whose ledger is behind may have forgotten revocations.
    ...(head === undefined
      ? {}
      : { sallyport_ledger: { sequence: head.sequence, hash: head.hash, time: formatTime(head.time) } }),
  };
  const body = JSON.stringify(document);
  const etag = `"${createHash('sha256').update(body).digest('base64url')}"`;
  return Object.freeze({ document, body, etag, sequences: { bundle: bundle.sequence, denied: denied.sequence } });
}

/** True if the If-None-Match value matches; the comparison is weak (RFC 9110 section 13.1.2). */
export function matchesEtag(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  return header.split(',').some((one) => one.trim() === '*' || one.trim().replace(/^W\//, '') === etag);
}

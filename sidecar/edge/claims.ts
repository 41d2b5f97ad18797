// Forwards claims as headers, as Envoy does: strings, numbers and booleans as text, lists and objects as JSON in
// base64.

import type { Log } from '../../cert-agent/base/log.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import { claimText } from '../policy/request-authentication.ts';

/** Called for each claim that cannot be forwarded. */
export type ReportUnfit = (message: string) => void;

/** Policies name no more claims than this. */
const mostReported = 1000;

/** Logs each message once. Clients whose tokens have such a claim send many of them. */
export function createClaimReport(log: Log): ReportUnfit {
  const reported = new Set<string>();
  return function reportClaim(message) {
    if (reported.has(message) || reported.size >= mostReported) return;
    reported.add(message);
    log.warn({ code: 'claim_not_passed' }, message);
  };
}

/** The header for each claim. */
export type ClaimHeaders = readonly { readonly header: string; readonly claim: string }[];

/** Sets the headers of those claims that exist. A header of the same name from the client is replaced. */
export function passClaims(
  exchange: Exchange,
  claims: Readonly<Record<string, unknown>>,
  list: ClaimHeaders,
  report: ReportUnfit,
): void {
  const added: [string, string][] = [];
  for (const { header, claim } of list) {
    const text = claimText(claims, claim);
    if (typeof text === 'string') added.push([header.toLowerCase(), text]);
    else if (text !== undefined) report(`claim '${claim}' cannot be forwarded in header '${header}': ${text.unfit}`);
  }
  if (added.length > 0) changeRequest(exchange, new Set(added.map(([name]) => name)), added);
}

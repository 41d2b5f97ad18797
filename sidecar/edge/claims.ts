// Claims as headers, as Envoy passes them on: texts, numbers and booleans as they are, lists and objects as JSON in
// base64.

import type { Log } from '../../cert-agent/base/log.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import { claimText } from '../policy/request-authentication.ts';

/** Hears of what cannot be passed on. */
export type ReportUnfit = (message: string) => void;

/** As many as policies name claims. */
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

/** Which claim goes into which header. */
export type ClaimHeaders = readonly { readonly header: string; readonly claim: string }[];

/** Tells the app those claims that there are, in headers that nobody else has set. */
export function passClaims(
  exchange: Exchange,
  claims: Readonly<Record<string, unknown>>,
  list: ClaimHeaders,
  report: ReportUnfit,
): void {
  const added: [string, string][] = [];
  for (const { header, claim } of list) {
    const said = claimText(claims, claim);
    if (typeof said === 'string') added.push([header.toLowerCase(), said]);
    else if (said !== undefined) report(`claim '${claim}' cannot be passed on in header '${header}': ${said.unfit}`);
  }
  if (added.length > 0) changeRequest(exchange, new Set(added.map(([name]) => name)), added);
}

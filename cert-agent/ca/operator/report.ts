// The report on a CA: its identities, and what in the ledger deserves a look.

import { formatTime } from '../../base/clock.ts';
import { SallyportError } from '../../base/errors.ts';
import { caIdOf } from '../../identity/spiffe-id.ts';
import { eachRecord, type ShownRecord } from '../ledger/look.ts';
import type { ListedIdentity } from './identities.ts';
import { allIdentities } from './identities.ts';
import type { Operator } from './operator.ts';

/** An identity in the report; times are text. */
export interface ReportedIdentity {
  readonly id: string;
  readonly certificates: number;
  readonly lastIssued: string;
  readonly lastRenewal?: string;
  readonly nextExpiry?: string;
  readonly key: string;
  readonly longestLifeMs?: number;
  /** Of its newest certificate: DNS names and, for the CA itself, IP addresses. */
  readonly names?: readonly string[];
}

/** An act of the ledger in the report. */
export interface ReportedAct {
  readonly record: number;
  readonly time: string;
  readonly act: string;
  readonly by: string;
  /** The identity or, for the revocation of one certificate, its serial. */
  readonly target: string;
  readonly note: string;
}

/** A list that keeps its first `mostListed` entries. */
export interface Listing<T> {
  readonly total: number;
  readonly listed: readonly T[];
}

/** Times are RFC 3339 text. A list keeps its first 10,000 entries and the number of all. */
export interface Report {
  readonly trustDomain: string;
  readonly time: string;
  /** Acts are those from this time on. */
  readonly since: string;
  readonly identities: Listing<ReportedIdentity>;
  readonly neverRenewed: Listing<ReportedIdentity>;
  readonly unusedTokens: Listing<{ readonly token: string; readonly id: string; readonly expiresAt: string }>;
  /** RSA below 3072 bits, which NIST SP 800-57 deems too weak from 2031 on. */
  readonly weakKeys: Listing<ReportedIdentity>;
  /** The ten with the longest certificates. */
  readonly longestLives: readonly ReportedIdentity[];
  readonly denials: Listing<ReportedAct>;
  /** DNS names that were allowed and disallowed. */
  readonly dns: Listing<ReportedAct>;
  readonly expiredRenewals: Listing<ReportedAct>;
  readonly forks: Listing<ReportedAct>;
  readonly restores: Listing<ReportedAct>;
  /** Connected agents whose clocks differ from the CA's by 2 s or more; absent while the CA is stopped. */
  readonly clocks?: Listing<{ readonly id: string; readonly aheadMs: number }>;
  readonly ledger: { readonly first: number; readonly last: number; readonly signedUpTo: number };
}

/** Entries that a list of the report keeps. */
const mostListed = 10_000;
const mostLongest = 10;
/** Less may be the way of an acknowledgement. */
const clockDifferenceMs = 2000;

class Collected<T> implements Listing<T> {
  total = 0;
  readonly listed: T[] = [];

  add(one: T): void {
    this.total += 1;
    if (this.listed.length < mostListed) this.listed.push(one);
  }
}

/** Times are milliseconds since 1970. */
export async function collectReport(operator: Operator, since: number, now: number): Promise<Report> {
  const { records } = operator;
  const { trustDomain, first, end } = await records.state();
  const [identities, neverRenewed, weakKeys] = [
    new Collected<ReportedIdentity>(),
    new Collected<ReportedIdentity>(),
    new Collected<ReportedIdentity>(),
  ];
  const own = caIdOf(trustDomain).uri;
  let longestLives: ReportedIdentity[] = [];
  for await (const found of allIdentities(records)) {
    const one = reportedOf(found);
    identities.add(one);
    if (found.valid === 0) continue;
    // The CA does not renew its own SVID: it issues a new one.
    if (one.lastRenewal === undefined && one.id !== own) neverRenewed.add(one);
    if (isWeak(found.key)) weakKeys.add(one);
    longestLives = [...longestLives, one]
      .toSorted((a, b) => (b.longestLifeMs ?? 0) - (a.longestLifeMs ?? 0))
      .slice(0, mostLongest);
  }
  const unusedTokens = new Collected<Report['unusedTokens']['listed'][number]>();
  for (const { token, id, expiresAt, serial } of await operator.listTokens())
    if (serial === undefined) unusedTokens.add({ token, id, expiresAt: formatTime(expiresAt) });
  const acts = await collectActs(operator, since);
  const signedUpTo = (await records.headUpTo(end.sequence))?.sequence ?? 0;
  return {
    ...{ trustDomain, time: formatTime(now), since: formatTime(since) },
    ...{ identities, neverRenewed, unusedTokens, weakKeys, longestLives, ...acts },
    ...(await collectClocks(operator)),
    ledger: { first, last: end.sequence, signedUpTo },
  };
}

async function collectClocks(operator: Operator): Promise<Pick<Report, 'clocks'>> {
  const clocks = new Collected<{ readonly id: string; readonly aheadMs: number }>();
  const agents = await operator.agents().catch((error: unknown) => {
    if (error instanceof SallyportError && error.code === 'ca_unreachable') return undefined;
    throw error;
  });
  for (const { id, clockAheadMs = 0 } of agents ?? [])
    if (Math.abs(clockAheadMs) >= clockDifferenceMs) clocks.add({ id, aheadMs: clockAheadMs });
  return agents === undefined ? {} : { clocks };
}

async function collectActs({ records }: Operator, since: number) {
  const [denials, dns, expiredRenewals, forks, restores] = Array.from(
    { length: 5 },
    () => new Collected<ReportedAct>(),
  ) as [
    Collected<ReportedAct>,
    Collected<ReportedAct>,
    Collected<ReportedAct>,
    Collected<ReportedAct>,
    Collected<ReportedAct>,
  ];
  for await (const record of eachRecord(records, since)) {
    const { act, details } = record;
    if (act === 'revoke' || act === 'allow') denials.add(actOf(record, String(details['reason'] ?? '')));
    if (act === 'dns') dns.add({ ...actOf(record, record.answer), target: String(details['pattern'] ?? '') });
    if (act === 'restore') restores.add(actOf(record, lostBy(record)));
    if (act === 'renew' && details['expired'] === true)
      expiredRenewals.add(actOf(record, String(record.evidence ?? '')));
    if (act === 'renew' && details['forked'] === true) forks.add(actOf(record, String(record.evidence ?? '')));
  }
  return { denials, dns, expiredRenewals, forks, restores };
}

function lostBy({ details }: ShownRecord): string {
  const { lostFrom, lostTo } = details;
  return lostFrom === undefined ? 'no record is known to be lost' : `records ${lostFrom} to ${lostTo} are lost`;
}

function actOf({ sequence, time, act, caller, id = '', details }: ShownRecord, note: string): ReportedAct {
  const target = act === 'revoke' && typeof details['serial'] === 'string' ? `${details['serial']} of ${id}` : id;
  return { record: sequence, time, act, by: caller, target, note };
}

function reportedOf({
  id,
  valid,
  lastIssued,
  lastRenewed,
  nextEnd,
  key,
  longestLifeMs,
  names,
}: ListedIdentity): ReportedIdentity {
  return {
    ...{ id, certificates: valid, lastIssued: formatTime(lastIssued), key },
    ...(lastRenewed === undefined ? {} : { lastRenewal: formatTime(lastRenewed) }),
    ...(nextEnd === undefined ? {} : { nextExpiry: formatTime(nextEnd) }),
    ...(longestLifeMs === undefined ? {} : { longestLifeMs }),
    ...(names === undefined ? {} : { names }),
  };
}

function isWeak(key: string): boolean {
  const bits = /^RSA (\d+)$/.exec(key)?.[1];
  return bits !== undefined && Number(bits) < 3072;
}

// The outcome of a request in the cache: the Cache-Status field (RFC 9211), the access log's value, and the counts.

/** Why a request was forwarded (RFC 9211 section 2.2). */
export type Forwarded = 'bypass' | 'method' | 'uri-miss' | 'vary-miss' | 'request' | 'stale' | 'miss';

/** The values of the access log and of the metric. */
export const outcomes = Object.freeze(['hit', 'stale', 'validated', 'collapsed', 'miss', 'bypass', 'refused'] as const);
/** The outcome of a request: see README.md beside this file. */
export type CacheOutcome = (typeof outcomes)[number];
/** Since the start, for metrics; the data path adds to its fields. */
export type CacheCounts = Record<CacheOutcome, number>;

/** The parameters of Cache-Status for one request. */
export interface Told {
  readonly hit?: boolean;
  readonly fwd?: Forwarded;
  readonly fwdStatus?: number;
  readonly stored?: boolean;
  readonly collapsed?: boolean;
  /** The remaining freshness, seconds; negative if it is stale. */
  readonly ttl?: number;
  readonly detail?: string;
}

/** The field's member, which starts with the cache's name. */
export function formatStatus(name: string, { hit, fwd, fwdStatus, stored, collapsed, ttl, detail }: Told): string {
  return [
    name,
    ...(hit ? ['hit'] : []),
    ...(fwd === undefined ? [] : [`fwd=${fwd}`]),
    ...(fwdStatus === undefined ? [] : [`fwd-status=${fwdStatus}`]),
    ...(stored ? ['stored'] : []),
    ...(collapsed ? ['collapsed'] : []),
    ...(ttl === undefined ? [] : [`ttl=${Math.floor(ttl)}`]),
    ...(detail === undefined ? [] : [`detail=${detail}`]),
  ].join('; ');
}

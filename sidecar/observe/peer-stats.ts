// The counts of one peer, as plain fields that the data path adds to. Labels are made at scrape.

import type { PortRules } from '../exchange/exchange.ts';

/** Upper bounds, as Envoy's: milliseconds for durations, bytes for sizes. */
export const buckets: readonly number[] = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
  3_600_000,
];

/** A histogram's counts. */
export class Distribution {
  /** By bucket, not cumulative; the last one counts what exceeds all bounds. */
  readonly counts = new Float64Array(buckets.length + 1);
  sum = 0;

  /** Adds a value, in the unit of its metric. A bucket includes its upper bound, as in Prometheus. */
  observe(value: number): void {
    let i = 0;
    while (i < buckets.length && value > buckets[i]!) i++;
    this.counts[i]!++;
    this.sum += value;
  }
}

/** A status as it is counted: 0 without a response, else 100 to 599, or the class of several. */
export type CountedStatus = number | StatusClass;

/** All classes of statuses. */
export const statusClasses = ['other', '1xx', '2xx', '3xx', '4xx', '5xx'] as const;

/** What a status counts as where single ones would be too many. */
export type StatusClass = (typeof statusClasses)[number];

/** The status as it is counted: apps may answer with anything. 0 is ours, for requests without a response. */
export function countedStatus(status: number): CountedStatus {
  return status === 0 || (Number.isInteger(status) && status >= 100 && status <= 599) ? status : 'other';
}

/** The class of a status. */
export function classOf(status: CountedStatus): StatusClass {
  return typeof status === 'number' ? (statusClasses[Math.trunc(status / 100)] ?? 'other') : status;
}

/** The gRPC status as it is counted: -1 without one, and for those that gRPC does not define (0 to 16 are). */
export function countedGrpcStatus(status: number): number {
  return Number.isInteger(status) && status >= 0 && status <= 16 ? status : -1;
}

/** Requests with one status, response flag and gRPC status. */
export class Outcome {
  requests = 0;
  readonly duration = new Distribution();
  readonly requestBytes = new Distribution();
  readonly replyBytes = new Distribution();
  requestMessages = 0;
  replyMessages = 0;
  readonly status: CountedStatus;
  readonly flag: string;
  /** Undefined for requests that are not gRPC; -1 for gRPC that ended without a known status. */
  readonly grpcStatus: number | undefined;

  constructor(status: CountedStatus, flag: string, grpcStatus: number | undefined) {
    this.status = status;
    this.flag = flag;
    this.grpcStatus = grpcStatus;
  }
}

/** Everything counted for one peer in one direction. Looked up once per connection, then only added to. */
export class PeerStats {
  readonly direction: PortRules['direction'];
  /** The peer's SPIFFE ID; undefined for requests without one or without an upstream. */
  readonly principal: string | undefined;
  /** At a gateway, Envoy's name of the backend: many backends have no identity, and differ by their Service. */
  readonly cluster: string | undefined;
  readonly outcomes = new Map<string | number, Outcome>();
  /** Of the outcomes, those that are not a class. */
  detailed = 0;
  tcpOpened = 0;
  tcpClosed = 0;
  tcpSent = 0;
  tcpReceived = 0;

  constructor(direction: PortRules['direction'], principal: string | undefined, cluster: string | undefined) {
    this.direction = direction;
    this.principal = principal;
    this.cluster = cluster;
  }

  /** The counts for one outcome; undefined before its first request. */
  known(status: CountedStatus, flag: string, grpcStatus: number | undefined): Outcome | undefined {
    return this.outcomes.get(keyOf(status, flag, grpcStatus));
  }

  /** The counts for one outcome, made at its first request. */
  outcome(status: CountedStatus, flag: string, grpcStatus: number | undefined): Outcome {
    const key = keyOf(status, flag, grpcStatus);
    let known = this.outcomes.get(key);
    if (known === undefined) {
      known = new Outcome(status, flag, grpcStatus);
      this.outcomes.set(key, known);
    }
    return known;
  }
}

function keyOf(status: CountedStatus, flag: string, grpcStatus: number | undefined): string | number {
  return flag === '-' && grpcStatus === undefined ? status : `${status}${flag} ${grpcStatus ?? ''}`;
}

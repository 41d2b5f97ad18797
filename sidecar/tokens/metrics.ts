// Counts transaction tokens by outcome: a gateway that is missing under `gateways` shows here first.

import type { Registry } from 'prom-client';
import { type MetricRow, registerRows } from '../observe/metric-rows.ts';

/**
 * `verified`: accepted. `refused`: from a trusted gateway, but invalid; the request was refused. `untrusted_peer`: from
 * a peer that is not a trusted gateway, or in plaintext; removed. `own_app`: from our own app; removed.
 */
export type TransactionTokenOutcome = 'verified' | 'refused' | 'untrusted_peer' | 'own_app';

/** The counts of one sidecar. */
export class TransactionTokenCounts {
  readonly #counts: Record<TransactionTokenOutcome, number> = {
    verified: 0,
    refused: 0,
    untrusted_peer: 0,
    own_app: 0,
  };

  /** Counts one request that carried a token. */
  count(outcome: TransactionTokenOutcome): void {
    this.#counts[outcome]++;
  }

  /** Lets `registry` read the counts at scrape. */
  register(registry: Registry): void {
    registerRows(registry, rows, this.#counts);
  }
}

const rows: readonly MetricRow<Readonly<Record<TransactionTokenOutcome, number>>>[] = [
  {
    type: 'counter',
    name: 'sallyport_txn_tokens_total',
    help: 'Requests that carried a transaction token, by outcome; those of untrusted_peer and own_app were removed.',
    labels: ['outcome'],
    read: (counts) => Object.entries(counts).map(([outcome, count]) => [{ outcome }, count]),
  },
];

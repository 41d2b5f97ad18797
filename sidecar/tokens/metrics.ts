// Counts transaction tokens by outcome: a gateway that is missing under `gateways` shows here first.

import { Counter, type Registry } from 'prom-client';

const outcomes = {
  /** Accepted. */
  verified: 0,
  /** From a trusted gateway, but invalid: the request was refused. */
  refused: 0,
  /** From a peer that is not a trusted gateway, or in plaintext: removed. */
  untrusted_peer: 0,
  /** From our own app: removed. */
  own_app: 0,
};

export type TransactionTokenOutcome = keyof typeof outcomes;

/** Counts one request that carried one. */
export function countTransactionToken(outcome: TransactionTokenOutcome): void {
  outcomes[outcome]++;
}

/** Lets `registry` read the counts of this process at scrape. */
export function registerTransactionTokens(registry: Registry): void {
  new Counter({
    name: 'sallyport_txn_tokens_total',
    help: 'Requests that carried a transaction token, by outcome; those of untrusted_peer and own_app were removed.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(outcomes)) this.inc({ outcome }, count);
    },
  });
}

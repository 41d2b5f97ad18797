// What became of transaction tokens, counted: a gateway that was not named under `gateways` shows here before anywhere else.

import { Counter, type Registry } from 'prom-client';

const outcomes = {
  /** Believed. */
  verified: 0,
  /** From a gateway whose word is taken, and not good: the request was refused. */
  refused: 0,
  /** From a peer whose word is not taken, or in plaintext: removed. */
  untrusted_peer: 0,
  /** From our own app: removed. */
  own_app: 0,
};

export type TransactionTokenOutcome = keyof typeof outcomes;

/** One request that carried one. */
export function countTransactionToken(outcome: TransactionTokenOutcome): void {
  outcomes[outcome]++;
}

/** Lets `registry` read the counts of this process when it is asked. */
export function registerTransactionTokens(registry: Registry): void {
  new Counter({
    name: 'sallyport_txn_tokens_total',
    help: 'Requests that carried a transaction token, by what became of it; untrusted_peer and own_app were removed.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(outcomes)) this.inc({ outcome }, count);
    },
  });
}

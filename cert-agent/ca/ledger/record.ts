// The ledger's records: what the CA did, each with a hash that covers all records before it. Pure functions; the store
// keeps the records (ledger/table.ts), and `ca ledger verify` checks them without the CA (ledger/verify.ts).

import { createHash, randomUUID } from 'node:crypto';
import { formatTime } from '../../base/clock.ts';

/** The acts of a CA. */
export const actNames = [
  ...(['start', 'stop'] as const),
  ...(['issue', 'renew', 'repeat', 'refuse'] as const),
  ...(['token', 'token_remove', 'revoke', 'allow', 'dns', 'rotate', 'backup', 'restore', 'checkpoint'] as const),
] as const;

/** Stable: it is part of what is hashed, and read back from copies of any age. */
export type ActName = (typeof actNames)[number];

/** The source of a request: the address of a client, `operator`, or `self` for acts of the CA itself. */
export type Caller = string;

/** An act before it is recorded. Details are flat, and never contain a token or a key. */
export interface Act {
  readonly act: ActName;
  readonly caller: Caller;
  /** The SPIFFE ID that it is about. */
  readonly id?: string;
  /**
   * The proof of the identity: `token 5a0e6cf1d2b9` (the first digits of its hash), `svid SERIAL`,
   * `kubernetes POD UID`, `self`.
   */
  readonly evidence?: string;
  /** The outcome, or an error code. */
  readonly answer: string;
  readonly details?: Readonly<Record<string, string | number | boolean>>;
}

/** A record in the ledger. */
export interface LedgerRecord {
  /** From 1, without gaps. */
  readonly sequence: number;
  /** The line as written, JSON. The hash covers its bytes. */
  readonly line: string;
  /** SHA-256 of the previous hash and the line, lower-case hex. */
  readonly hash: string;
}

/** A token is named by the first 12 digits of its hash: enough to identify it, and useless to an attacker. */
export function nameOfToken(hash: string): string {
  return hash.slice(0, 12);
}

/** The hash before the first record. */
export const genesis = '0'.repeat(64);

/** The hash of a record: SHA-256 over the 32 bytes of the previous one and the bytes of its line. */
export function hashOf(previous: string, line: string): string {
  return createHash('sha256').update(Buffer.from(previous, 'hex')).update(line).digest('hex');
}

/**
 * A record's line: JSON with the fields of `act`. `now`: milliseconds since 1970. Hashes of records are public, and
 * the content of a record is easy to guess: the salt keeps a guess from being confirmed.
 */
export function lineOf(sequence: number, now: number, act: Act, salt: string = randomUUID()): string {
  const { act: name, caller, id, evidence, answer, details } = act;
  return JSON.stringify({ sequence, time: formatTime(now), act: name, caller, id, evidence, answer, ...details, salt });
}

/** The record after `last`. */
export function nextRecord(
  last: Pick<LedgerRecord, 'sequence' | 'hash'> | undefined,
  now: number,
  act: Act,
  salt?: string,
): LedgerRecord {
  const sequence = (last?.sequence ?? 0) + 1;
  const line = lineOf(sequence, now, act, salt);
  return { sequence, line, hash: hashOf(last?.hash ?? genesis, line) };
}

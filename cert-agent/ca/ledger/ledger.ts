// The ledger of a running CA: its start and stop, refusals, signed heads. Changes are recorded by the store itself, in
// the transaction that makes them.

import type { Clock } from '../../base/clock.ts';
import { type Live, LiveCell } from '../../base/live.ts';
import type { Log } from '../../base/log.ts';
import type { Authority } from '../authority.ts';
import type { LedgerStore } from '../store/store.ts';
import type { Act, Caller } from './record.ts';
import type { LedgerHead } from './table.ts';

/** The ledger's dependencies. The caller owns all of them, and closes the store last. */
export interface LedgerParts {
  readonly store: LedgerStore;
  readonly authority: Authority;
  readonly clock: Clock;
  readonly log?: Log;
  /** Called with each head once it is in the store. */
  readonly onSigned?: (head: LedgerHead) => void;
  /** Records older than this are pruned, milliseconds; undefined: none. */
  readonly keepMs?: number;
}

/** A refusal of a request for a certificate. */
export interface Refusal {
  readonly caller: Caller;
  /** The error code. */
  readonly code: string;
  /** The identity, if it was proved. */
  readonly id: string | undefined;
  /** The identity that the client claims without proof. */
  readonly claims?: string | undefined;
}

const minuteMs = 60_000;

/**
 * Refusals that get their own records, per minute; the others are counted, in one record a minute. Otherwise clients
 * could fill the disk. Each proved identity has its own budget, so that a flood by unknown clients does
 * not hide them.
 */
const perMinute = { strangers: 60, identity: 10 } as const;

/** Proved identities that have their own budget; further ones share the budget of unknown clients. */
const mostIdentities = 10_000;

/** A head is signed at least this often while there are new records. */
const headMs = 3_600_000;

/** How often records are pruned. The first time is an hour after the start: the clock may be wrong until then. */
const pruneMs = 24 * 3_600_000;
const firstPruneMs = 3_600_000;

/** One for a running CA. It has no timer: call `upkeep` periodically. */
export class Ledger {
  readonly #parts: LedgerParts;
  #minute = 0;
  readonly #used = new Map<string, number>();
  /** Refusals without a record of their own, by code. */
  readonly #counted = new Map<string, number>();
  readonly #head = new LiveCell<LedgerHead | undefined>(undefined);
  #pruneAt: number;
  #signedAt = 0;
  #signed = 0;
  #signing: Promise<void> = Promise.resolve();

  constructor(parts: LedgerParts) {
    this.#parts = parts;
    this.#pruneAt = parts.clock.monotonic() + firstPruneMs;
  }

  /** The last signed head. */
  get head(): Live<LedgerHead | undefined> {
    return this.#head;
  }

  /** Records the start of the CA. @throws SallyportError `store_failed`. */
  async start(details: NonNullable<Act['details']>): Promise<void> {
    await this.#append({ act: 'start', caller: 'self', answer: 'started', details });
    await this.sign();
  }

  /** Records a refusal before it is answered. A store that cannot be written does not change the answer. */
  async refuse({ caller, code, id, claims }: Refusal): Promise<void> {
    if (!this.#hasRoom(id)) {
      this.#counted.set(code, (this.#counted.get(code) ?? 0) + 1);
      return;
    }
    const details = claims === undefined ? {} : { details: { claims } };
    const act: Act = { act: 'refuse', caller, ...(id === undefined ? {} : { id }), answer: code, ...details };
    await this.#append(act).catch(() => {});
  }

  /** Records that a token and its key got their certificate again. */
  async repeat(caller: Caller, id: string, serial: string): Promise<void> {
    if (!this.#hasRoom(id)) {
      this.#counted.set('repeated', (this.#counted.get('repeated') ?? 0) + 1);
      return;
    }
    await this.#append({ act: 'repeat', caller, id, answer: 'again', details: { serial } });
  }

  /** Writes the counted refusals, and signs a head if one is due. Call it periodically. */
  async upkeep(): Promise<void> {
    if (this.#counted.size > 0 && this.#minuteNow() !== this.#minute) {
      const details = Object.fromEntries(this.#counted);
      this.#counted.clear();
      await this.#append({ act: 'refuse', caller: 'self', answer: 'counted', details });
    }
    if (this.#parts.clock.now() - this.#signedAt >= headMs) await this.sign();
    await this.#prune();
  }

  async #prune(): Promise<void> {
    const { store, clock, log, keepMs } = this.#parts;
    if (keepMs === undefined || clock.monotonic() < this.#pruneAt) return;
    const done = await store.pruneLedger(clock.now() - keepMs, clock.now());
    // A part at a time, since the store is blocked meanwhile. The next upkeep continues.
    if (done === undefined) this.#pruneAt = clock.monotonic() + pruneMs;
    else {
      // A record of a prune that no head covers proves nothing.
      await this.sign();
      log?.info({ code: 'ledger_pruned', ...done }, `dropped ${done.records} old records of the ledger`);
    }
  }

  /** Signs the end of the ledger, if records were added since the last head. */
  sign(): Promise<void> {
    // One at a time: heads must be in order.
    const done = this.#signing.then(() => this.#sign());
    this.#signing = done.catch(() => {});
    return done;
  }

  async #sign(): Promise<void> {
    const { store, authority, clock } = this.#parts;
    const end = await store.ledgerEnd();
    if (end.sequence === 0 || end.sequence === this.#signed) return;
    const now = clock.now();
    const head = authority.signHead(end, now);
    await store.addLedgerHead(head);
    this.#parts.onSigned?.(head);
    this.#head.set(head);
    this.#signed = end.sequence;
    this.#signedAt = now;
  }

  /** Records the stop of the CA under a signed head. */
  async stop(): Promise<void> {
    this.#minute = 0;
    await this.upkeep();
    await this.#append({ act: 'stop', caller: 'self', answer: 'stopped' });
    await this.sign();
  }

  #append(act: Act): Promise<unknown> {
    return this.#parts.store.appendLedger(act, this.#parts.clock.now());
  }

  #hasRoom(id: string | undefined): boolean {
    const minute = this.#minuteNow();
    if (minute !== this.#minute) {
      this.#minute = minute;
      this.#used.clear();
    }
    const isOne = id !== undefined && (this.#used.has(id) || this.#used.size < mostIdentities);
    const key = isOne ? id : '';
    const used = (this.#used.get(key) ?? 0) + 1;
    this.#used.set(key, used);
    return used <= (isOne ? perMinute.identity : perMinute.strangers);
  }

  #minuteNow(): number {
    return Math.floor(this.#parts.clock.monotonic() / minuteMs) + 1;
  }
}

// Keeps bundle and deny list fresh: polls the CA every few seconds and stores newer ones as a new generation of the
// same SVID. It has no timer of its own; the rotation calls it.

import { type Clock, formatTime } from '../base/clock.ts';
import { asSallyportError, reasonOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { CaClient, TrustNews } from '../fetch.ts';
import { onlyBundle } from '../identity/bundle.ts';
import type { Identity } from '../identity/identity.ts';
import { verifyChain } from '../identity/verify.ts';
import { caCodeOf, type Issued, type Trust } from './answer.ts';
import { Failures } from './failures.ts';
import { type Keep, newerTrust, trustOf } from './keep.ts';
import { LedgerMemory } from './ledger-memory.ts';
import { type Random, refreshDelay } from './schedule.ts';

/** What the refresh uses. The caller owns and closes all of it. */
export interface RefreshOptions {
  readonly client: CaClient;
  readonly keep: Keep;
  readonly outDir: string;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  /** Called when a new SVID is needed by `at`, because ours no longer verifies against the bundle. */
  onUntrusted(at: number): void;
  /** Called when a refresh has ended, successfully or not. */
  onEnd(): void;
}

/** After a change of roots all workloads need new SVIDs, but must not request them in the same second. */
const rootChangeSpreadMs = 30_000;

/** One refresh at a time. It has no timer: the rotation asks `due`. */
export class TrustRefresh {
  readonly #options: RefreshOptions;
  readonly failures = new Failures();
  readonly #ledger: LedgerMemory;
  #due = 0;
  #running: Promise<void> | undefined;
  #again = false;
  #stopped = false;
  #etag: string | undefined;
  #taken = 0;
  #refreshedAt: number | undefined;

  constructor(options: RefreshOptions) {
    this.#options = options;
    this.#ledger = new LedgerMemory(options);
  }

  /** Infinity while a refresh is in flight or there is no bundle to verify the CA with. */
  get due(): number {
    const possible = this.#running === undefined && this.#options.keep.held() !== undefined;
    return possible ? this.#due : Number.POSITIVE_INFINITY;
  }

  /** When our values were last confirmed by the CA. */
  get refreshedAt(): number | undefined {
    return this.#refreshedAt;
  }

  /** Number of accepted changes. */
  get taken(): number {
    return this.#taken;
  }

  /** Makes the next refresh due at the next tick, without cutting one in flight short. */
  hurry(): void {
    this.#due = 0;
  }

  /** Refreshes at the next tick, also if a refresh is in flight: that one was asked for before. */
  again(): void {
    this.hurry();
    this.#again = this.#running !== undefined;
  }

  /** Refreshes now, unless a refresh is in flight. */
  now(): void {
    this.hurry();
    if (this.#options.clock.now() >= this.due) this.start();
  }

  /** The validator of what we have. */
  get etag(): string | undefined {
    return this.#options.keep.unsure() === undefined ? this.#etag : undefined;
  }

  /** A change that the CA sent by itself. */
  take(news: TrustNews): void {
    const { keep } = this.#options;
    const held = keep.held();
    if (this.#stopped || held === undefined) return;
    try {
      this.#adopt(held, keep.unsure() === undefined ? trustOf(held) : keep.trust(), news);
      this.#plan();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Refreshes. Only when none is in flight: see `due`. Failures are logged and planned for, not thrown. */
  start(): void {
    this.#running = this.#refresh()
      .catch((error: unknown) => this.#failed(error))
      .finally(() => {
        this.#running = undefined;
        this.#plan();
        this.#options.onEnd();
        if (!this.#again || this.#stopped) return;
        this.#again = false;
        this.start();
      });
  }

  /** Resolves when no refresh is in flight. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** What to trust after a renewal: an SVID with an older bundle is still good if it verifies against ours. */
  afterRenewal(issued: Issued): Trust {
    const held = this.#options.keep.held();
    if (held === undefined) return issued;
    try {
      return newerTrust(trustOf(held), issued);
    } catch (error) {
      // Ours does not count if it only replaces a damaged one.
      if (this.#options.keep.unsure() !== undefined) throw error;
      this.#failed(error);
      return trustOf(held);
    }
  }

  /** A renewal included the bundle. */
  renewed(): void {
    this.#etag = undefined;
    this.#refreshedAt = this.#options.clock.now();
    this.#plan();
  }

  async #refresh(): Promise<void> {
    const { keep, client } = this.#options;
    const asked = keep.held();
    if (asked === undefined) return;
    const unsure = keep.unsure() !== undefined;
    // A replacement of a damaged bundle only serves to verify the CA. Everything that the CA sends is newer.
    const before = unsure ? keep.trust() : trustOf(asked);
    const news = await client.fetchBundle(before, unsure ? undefined : this.#etag);
    // A renewal in between brought its own bundle and deny list.
    if (this.#stopped || keep.held() !== asked) return;
    this.#adopt(asked, before, news);
    await this.#confirmLedger();
  }

  #adopt(asked: Identity, before: Trust, news: TrustNews | undefined): void {
    const { keep, clock, log } = this.#options;
    const unsure = keep.unsure() !== undefined;
    const trust = news === undefined ? before : newerTrust(before, news);
    if (unsure || trust.bundle !== before.bundle || trust.denied !== before.denied) {
      keep.commit(asked.svid, trust);
      this.#taken += 1;
      log.info(
        { code: 'bundle_refreshed', bundleSequence: trust.bundle.sequence, deniedSequence: trust.denied.sequence },
        `received a new ${unsure ? 'bundle and deny list' : trust.bundle === before.bundle ? 'deny list' : 'bundle'} from the CA`,
      );
      if (unsure || trust.bundle !== before.bundle) this.#renewIfUntrusted(asked, trust);
    }
    if (news !== undefined) this.#etag = news.etag;
    this.#ledger.see(news?.ledger);
    this.#refreshedAt = clock.now();
    this.failures.clear();
  }

  /** What fails here is tried again with the next refresh. Bundle and deny list are taken already. */
  async #confirmLedger(): Promise<void> {
    const { keep, client, log, clock } = this.#options;
    const held = keep.held();
    if (held === undefined) return;
    try {
      await this.#ledger.confirm((sequence) => client.fetchRecord(trustOf(held), sequence), clock.now());
    } catch (error) {
      log.debug({ code: 'ledger_unconfirmed' }, reasonOf(error));
    }
  }

  /** When the root of our SVID is gone, no peer accepts it any more. */
  #renewIfUntrusted({ svid }: Identity, { bundle, denied }: Trust): void {
    const { clock, random, log, onUntrusted } = this.#options;
    try {
      verifyChain(svid.chain, onlyBundle(bundle), denied, clock.now());
    } catch (error) {
      const { code } = asSallyportError(error, 'internal', 'the SVID cannot be verified');
      if (code !== 'svid_untrusted') return;
      const at = clock.now() + Math.floor(random() * rootChangeSpreadMs);
      onUntrusted(at);
      log.warn({ code, nextRenewal: formatTime(at) }, 'our SVID does not verify against the new bundle; renewing soon');
    }
  }

  #failed(error: unknown): void {
    if (this.#stopped) return;
    const known = asSallyportError(error, 'internal', 'the refresh failed');
    this.failures.add(known, this.#options.clock.now());
    this.#options.log[this.failures.level(known.message, 'warn')](
      { code: known.code, caCode: caCodeOf(known), hint: known.hint },
      `cannot refresh bundle and deny list: ${known.message}`,
    );
  }

  #plan(): void {
    const { keep, clock, random } = this.#options;
    const held = keep.held();
    const hint = held === undefined ? 0 : trustOf(held).bundle.refreshHintS;
    this.#due = clock.now() + refreshDelay(hint, this.failures.inARow, random);
  }
}

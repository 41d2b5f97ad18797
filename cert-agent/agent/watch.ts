// Keeps a stream to the CA: changes of bundle and deny list arrive at once, and what our sidecars use is acknowledged.
// Without it, for want of a CA that has it or of a network, the polls of refresh.ts go on.

import { guard } from '../base/background.ts';
import type { Clock } from '../base/clock.ts';
import { asSallyportError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { CaClient, Watch } from '../fetch.ts';
import type { Identity } from '../identity/identity.ts';
import { fingerprintOf } from '../identity/verify.ts';
import { type Keep, trustOf } from './keep.ts';
import type { TrustRefresh } from './refresh.ts';
import type { Random } from './schedule.ts';

/** What the watch uses. The caller owns and closes all of it. */
export interface WatchOptions {
  readonly client: CaClient;
  readonly keep: Keep;
  readonly refresh: TrustRefresh;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  /** Resolves once this process has ended what the newest identity does not allow. */
  settled(): Promise<void>;
  /** The CA asks for a renewal within this time, milliseconds. */
  onRenew(withinMs: number): void;
  /**
   * What the sidecars that read our files use; undefined without such sidecars. `unknown`: they may not have connected
   * to us yet, and nothing is acknowledged.
   */
  inUse(): InUse | 'unknown' | undefined;
}

/** What all sidecars use: the oldest sequences, the roots that each of them has. */
export interface InUse {
  readonly sidecars: number;
  readonly bundle: number;
  readonly denied: number;
  readonly roots: readonly string[];
}

/** The delays of another attempt: at random, so that the agents of a CA that starts do not come at once. */
const againMs = { least: 200, most: 3000, mostAfterRefusals: 60_000 } as const;

/** One stream at a time. It has no timer: the rotation calls `tick`. */
export class TrustWatch {
  readonly #options: WatchOptions;
  #open: Watch | undefined;
  /** The SVID that it was opened with, or was refused with. */
  #serial: string | undefined;
  #opening = false;
  #refusals = 0;
  #closed = false;
  #dueAt = 0;

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  /** True while the CA tells us of changes by itself. */
  get isOpen(): boolean {
    return this.#open !== undefined;
  }

  /** Opens the stream if that is due. Called every second. */
  tick(): void {
    const { keep, clock } = this.#options;
    const identity = keep.identity.current();
    if (this.#closed || this.#opening || identity === undefined) return;
    // A new SVID replaces the one that the stream rests on, and may be accepted where that was not.
    if (this.#serial !== identity.svid.serial) {
      this.#open?.close();
      this.#dueAt = 0;
    }
    if (this.#open !== undefined || clock.monotonic() < this.#dueAt) return;
    this.#opening = true;
    guard('agent', () => this.#start(identity).finally(() => (this.#opening = false)));
  }

  /** Tells the CA what is in use. Call it at each change, after those who verify peers with it have heard of it. */
  acknowledge(): void {
    guard('agent', () => this.#acknowledge());
  }

  async #acknowledge(): Promise<void> {
    const { keep, inUse, settled, clock } = this.#options;
    await settled();
    const identity = keep.identity.current();
    if (this.#open === undefined || identity === undefined) return;
    const used = inUse() ?? { ...usedBy(identity), sidecars: 0 };
    // Sidecars of other processes count from when they have said so.
    if (used !== 'unknown') this.#open.send({ ...used, clock: clock.now() });
  }

  /** Ends the stream, and opens no other. The polls go on. */
  close(): void {
    this.#closed = true;
    this.#open?.close();
  }

  async #start(identity: Identity): Promise<void> {
    const { client, refresh, log, keep } = this.#options;
    const { svid } = identity;
    this.#serial = svid.serial;
    try {
      this.#open = await client.watch({
        ...{ trust: keep.trust(), svid, etag: refresh.etag },
        news: (news) => refresh.take(news),
        changed: () => refresh.now(),
        renew: (withinMs) => this.#options.onRenew(withinMs),
        end: () => this.#ended(),
      });
      this.#refusals = 0;
      log.debug({ code: 'watch_open' }, 'the CA sends changes as they happen');
      this.acknowledge();
    } catch (error) {
      const { code, message } = asSallyportError(error, 'internal', 'cannot open a stream to the CA');
      this.#refusals++;
      this.#plan(Math.min(againMs.mostAfterRefusals, againMs.most * 2 ** Math.min(this.#refusals, 10)));
      // Polls report whether the CA can be reached at all.
      log.debug({ code }, `polling the CA, since it sends no changes: ${message}`);
    }
  }

  #ended(): void {
    this.#open = undefined;
    this.#plan(againMs.most);
  }

  #plan(most: number): void {
    const { clock, random } = this.#options;
    this.#dueAt = clock.monotonic() + againMs.least + random() * (most - againMs.least);
  }
}

/** What a process with this identity verifies with. */
export function usedBy(identity: Identity): Omit<InUse, 'sidecars'> {
  const { bundle, denied } = trustOf(identity);
  return { bundle: bundle.sequence, denied: denied.sequence, roots: bundle.roots.map(fingerprintOf) };
}

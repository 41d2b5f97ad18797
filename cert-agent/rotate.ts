// Step three of a certificate: keep it fresh. One timer asks each second, or earlier when something is due, whether to
// renew, to refresh bundle and deny-list, to take back what expired, and whether the clock jumped. Whatever fails is
// tried again; what we have stays until it expires.

import { type Evidence, gatherEvidence, readToken } from './attest.ts';
import { type Clock, formatDuration, formatTime } from './base/clock.ts';
import { asSallyportError, type Code, SallyportError } from './base/errors.ts';
import type { Live } from './base/live.ts';
import type { Log } from './base/log.ts';
import { type CaClient, caCodeOf, type Issued, type Trust } from './fetch.ts';
import { onlyBundle } from './identity/bundle.ts';
import { pendingKey } from './identity/generation.ts';
import type { Identity } from './identity/identity.ts';
import { verifyChain } from './identity/verify.ts';
import { isBundleMissing, type Keep, newerTrust, trustOf } from './keep.ts';
import { lateFrom, type Random, refreshDelay, renewalTime, retryDelay, watchJumps } from './schedule.ts';

export interface RotationOptions {
  readonly caUrl: URL;
  readonly caBundleFile: string;
  readonly tokenFile?: string;
  readonly outDir: string;
  readonly ttlMs?: number;
  readonly client: CaClient;
  readonly keep: Keep;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
}

/** `late`: serving, but 90 % of the life are over and there is no successor. */
export type AgentState = 'waiting' | 'serving' | 'late' | 'stopped';

/** Times are milliseconds since 1970. */
export interface AgentStatus {
  readonly state: AgentState;
  /** Ready for 'waiting for ...'; undefined while there is a valid SVID. */
  readonly waitingFor: string | undefined;
  readonly id: string | undefined;
  readonly serial: string | undefined;
  readonly notBefore: number | undefined;
  readonly notAfter: number | undefined;
  /** When the CA is asked for an SVID next; undefined while it is being asked. */
  readonly nextRenewal: number | undefined;
  /** When bundle and deny-list were last known to be the CA's own. */
  readonly refreshedAt: number | undefined;
  readonly bundleSequence: number | undefined;
  readonly deniedSequence: number | undefined;
  readonly lastError: AgentFailure | undefined;
  /** SVIDs received by this process. */
  readonly renewals: number;
  /** Changes of bundle or deny-list taken by this process. */
  readonly refreshes: number;
  /** By error code. */
  readonly svidFailures: Readonly<Record<string, number>>;
  readonly bundleFailures: Readonly<Record<string, number>>;
}

export interface AgentFailure {
  readonly code: Code;
  readonly message: string;
  readonly hint: string | undefined;
  readonly time: number;
}

/** More than any slewing, less than what a certificate's back-dating forgives. */
const jumpMs = 5000;
const tickMs = 1000;

/** After a change of roots all workloads need new SVIDs, and not all in one second. */
const rootChangeSpreadMs = 30_000;

/** Keeps the SVID, the bundle and the deny-list of one directory fresh until closed. */
export class Rotation {
  readonly #options: RotationOptions;
  readonly #keep: Keep;
  readonly #jumpedBy: () => number;
  #nextRenewal = 0;
  #nextRefresh = 0;
  #renewing: Promise<void> | undefined;
  #refreshing: Promise<void> | undefined;
  #cancelTick = (): void => {};
  #closed = false;
  #renewals = 0;
  #refreshes = 0;
  #failedInARow = 0;
  #refreshFailedInARow = 0;
  #etag: string | undefined;
  #refreshedAt: number | undefined;
  #waitingFor: string | undefined;
  #lastError: AgentFailure | undefined;
  #lastSaid: string | undefined;
  #lastSaidOfBundle: string | undefined;
  /** The token that the CA refused: it is not worth another try, but another one in its file is worth one at once. */
  #refusedToken: string | undefined;
  readonly #svidFailures: Record<string, number> = {};
  readonly #bundleFailures: Record<string, number> = {};

  constructor(options: RotationOptions) {
    this.#options = options;
    this.#keep = options.keep;
    this.#jumpedBy = watchJumps(options.clock);
    const svid = this.#keep.identity.current()?.svid;
    if (svid !== undefined) this.#nextRenewal = renewalTime(svid, svid.notBefore, options.random);
    this.#tick();
  }

  get identity(): Live<Identity | undefined> {
    return this.#keep.identity;
  }

  /** Asks the CA for a new SVID and for the bundle at once. */
  renewNow(): void {
    this.#nextRenewal = 0;
    this.#nextRefresh = 0;
    this.#tick();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTick();
    await this.#options.client.close();
    await Promise.all([this.#renewing, this.#refreshing]);
  }

  status(): AgentStatus {
    const svid = this.identity.current()?.svid;
    const held = this.#keep.held();
    return {
      state: this.#state(),
      waitingFor: svid === undefined ? (this.#waitingFor ?? `the CA at ${this.#options.caUrl.origin}`) : undefined,
      id: svid?.id.uri,
      serial: svid?.serial,
      notBefore: svid?.notBefore,
      notAfter: svid?.notAfter,
      nextRenewal: Number.isFinite(this.#nextRenewal) ? this.#nextRenewal : undefined,
      refreshedAt: this.#refreshedAt,
      bundleSequence: held === undefined ? undefined : trustOf(held).bundle.sequence,
      deniedSequence: held?.denied.sequence,
      lastError: this.#lastError,
      renewals: this.#renewals,
      refreshes: this.#refreshes,
      svidFailures: this.#svidFailures,
      bundleFailures: this.#bundleFailures,
    };
  }

  #state(): AgentState {
    const svid = this.identity.current()?.svid;
    if (this.#closed) return 'stopped';
    if (svid === undefined) return 'waiting';
    return this.#options.clock.now() >= lateFrom(svid) ? 'late' : 'serving';
  }

  #tick(): void {
    if (this.#closed) return;
    this.#noticeJump();
    this.#keep.judge();
    this.#noticeNewToken();
    const now = this.#options.clock.now();
    if (this.#renewing === undefined && now >= this.#nextRenewal) this.#startRenewal();
    if (this.#refreshing === undefined && now >= this.#nextRefresh && this.#keep.held() !== undefined)
      this.#startRefresh();
    this.#arm();
  }

  #arm(): void {
    this.#cancelTick();
    if (this.#closed) return;
    const now = this.#options.clock.now();
    const due = [(this.identity.current()?.svid.notAfter ?? Number.POSITIVE_INFINITY) + 1];
    // What is on its way is not due, whatever its time says; it arms the timer itself when it ends.
    if (this.#renewing === undefined) due.push(this.#nextRenewal);
    if (this.#refreshing === undefined && this.#keep.held() !== undefined) due.push(this.#nextRefresh);
    const delay = Math.max(0, Math.min(tickMs, ...due.map((at) => at - now)));
    this.#cancelTick = this.#options.clock.after(delay, () => this.#tick());
  }

  #noticeJump(): void {
    const by = this.#jumpedBy();
    if (Math.abs(by) <= jumpMs) return;
    const direction = by > 0 ? 'forward' : 'back';
    this.#options.log.warn(
      { code: 'clock_jump', byMs: Math.round(by) },
      `the clock jumped ${direction} by ${formatDuration(Math.abs(by))}; renewing now`,
    );
    this.#nextRenewal = 0;
    this.#nextRefresh = 0;
  }

  #noticeNewToken(): void {
    const { tokenFile } = this.#options;
    if (this.#refusedToken === undefined || tokenFile === undefined || this.identity.current() !== undefined) return;
    try {
      const token = readToken(tokenFile);
      if (token === undefined || token === this.#refusedToken) return;
    } catch {
      return; // The next attempt says why.
    }
    this.#refusedToken = undefined;
    this.#nextRenewal = 0;
  }

  #startRenewal(): void {
    this.#nextRenewal = Number.POSITIVE_INFINITY;
    this.#renewing = this.#renew()
      .catch((error: unknown) => this.#renewalFailed(error))
      .finally(() => {
        this.#renewing = undefined;
        this.#arm();
      });
  }

  async #renew(): Promise<void> {
    const { tokenFile, outDir, ttlMs, client, clock } = this.#options;
    const held = this.#keep.held();
    const trust = this.#keep.trust();
    const evidence = gatherEvidence(held?.svid, tokenFile, clock.now());
    const key = pendingKey(outDir, held?.svid);
    let issued: Issued;
    try {
      issued = await client.fetchSvid({ trust, evidence, key, ttlMs });
    } catch (error) {
      if (evidence.kind === 'token' && isTokenRefusal(error)) this.#refusedToken = evidence.token;
      throw error;
    }
    if (!this.#closed) this.#accept(issued, evidence);
  }

  /** Checks what an answer says against what we have, and only then makes it ours. */
  #accept(issued: Issued, evidence: Evidence): void {
    const { clock, random, log } = this.#options;
    const { svid } = issued;
    const trust = evidence.kind === 'svid' ? this.#trustAfterRenewal(issued) : issued;
    verifyChain(svid.chain, onlyBundle(trust.bundle), trust.denied, clock.now());
    if (evidence.kind === 'svid' && evidence.svid.id.uri !== svid.id.uri) {
      throw new SallyportError(
        'ca_answer_invalid',
        `the CA answered with ${svid.id.uri}, and we are ${evidence.svid.id.uri}`,
      );
    }
    this.#keep.commit(svid, trust);
    this.#renewals += 1;
    this.#failedInARow = 0;
    this.#waitingFor = undefined;
    this.#lastSaid = undefined;
    this.#lastError = undefined;
    this.#refusedToken = undefined;
    this.#etag = undefined;
    this.#refreshedAt = clock.now();
    this.#nextRefresh = clock.now() + refreshDelay(trust.bundle.refreshHintS, 0, random);
    this.#nextRenewal = renewalTime(svid, clock.now(), random);
    const times = { notAfter: formatTime(svid.notAfter), nextRenewal: formatTime(this.#nextRenewal) };
    log.info(
      { code: 'svid_received', id: svid.id.uri, serial: svid.serial, ...times },
      `received an SVID for ${svid.id.uri}`,
    );
  }

  /** An SVID that comes with an older bundle is still good if it verifies against the one that we have. */
  #trustAfterRenewal(issued: Issued): Trust {
    const held = this.#keep.held();
    if (held === undefined) return issued;
    try {
      return newerTrust(trustOf(held), issued);
    } catch (error) {
      this.#refreshFailed(error);
      return trustOf(held);
    }
  }

  #renewalFailed(error: unknown): void {
    const { clock, random, log } = this.#options;
    if (this.#closed) return;
    const known = asSallyportError(error, 'internal', 'the renewal failed');
    const now = clock.now();
    const isLocal = known.code === 'token_missing' || isBundleMissing(known);
    if (isLocal) {
      // Nothing was sent, so nobody is spared by waiting longer: the files are looked at again in a second.
      this.#nextRenewal = now + tickMs;
    } else {
      this.#failedInARow += 1;
      this.#svidFailures[known.code] = (this.#svidFailures[known.code] ?? 0) + 1;
      this.#nextRenewal = now + retryDelay(this.#failedInARow, this.#keep.held()?.svid, now, random);
    }
    this.#lastError = { code: known.code, message: known.message, hint: known.hint, time: now };
    this.#waitingFor = this.#whatIsMissing(known);
    const about = { code: known.code, caCode: caCodeOf(known), hint: known.hint, retryInMs: this.#nextRenewal - now };
    const serving = this.identity.current() !== undefined;
    const text = serving
      ? `the SVID cannot be renewed: ${known.message}`
      : `waiting for ${this.#waitingFor}: ${known.message}`;
    // The same reason is not said again and again at a level that wakes people.
    const level = text === this.#lastSaid ? 'debug' : serving && this.#state() === 'late' ? 'error' : 'warn';
    log[level](about, text);
    this.#lastSaid = text;
  }

  #whatIsMissing(error: SallyportError): string {
    const { tokenFile, caUrl, caBundleFile } = this.#options;
    if (error.code === 'token_missing')
      return tokenFile === undefined ? 'a join token' : `a join token in ${tokenFile}`;
    if (isBundleMissing(error)) return `the CA bundle ${caBundleFile}`;
    if (isTokenRefusal(error)) return `a join token that the CA accepts in ${tokenFile}`;
    if (error.code === 'ca_unreachable') return `the CA at ${caUrl.origin}`;
    return `an SVID from the CA at ${caUrl.origin}`;
  }

  #startRefresh(): void {
    this.#nextRefresh = Number.POSITIVE_INFINITY;
    this.#refreshing = this.#refresh()
      .then(
        () => this.#refreshed(),
        (error: unknown) => this.#refreshFailed(error),
      )
      .finally(() => {
        const { clock, random } = this.#options;
        const hint = this.#keep.held()?.bundles.values().next().value?.refreshHintS ?? 0;
        this.#nextRefresh = clock.now() + refreshDelay(hint, this.#refreshFailedInARow, random);
        this.#refreshing = undefined;
        this.#arm();
      });
  }

  async #refresh(): Promise<void> {
    const asked = this.#keep.held();
    if (asked === undefined) return;
    const news = await this.#options.client.fetchBundle(trustOf(asked), this.#etag);
    // A renewal in between brought its own bundle and deny-list.
    const held = this.#keep.held();
    if (news === undefined || held === undefined || held !== asked || this.#closed) return;
    const before = trustOf(held);
    const trust = newerTrust(before, news);
    this.#etag = news.etag;
    if (trust.bundle === before.bundle && trust.denied === before.denied) return;
    this.#keep.commit(held.svid, trust);
    this.#refreshes += 1;
    this.#options.log.info(
      { code: 'bundle_refreshed', bundleSequence: trust.bundle.sequence, deniedSequence: trust.denied.sequence },
      `took a new ${trust.bundle === before.bundle ? 'deny-list' : 'bundle'} from the CA`,
    );
    if (trust.bundle !== before.bundle) this.#renewIfUntrusted(held, trust);
  }

  /** When the root above our SVID is gone, nobody believes it any more. */
  #renewIfUntrusted({ svid }: Identity, { bundle, denied }: Trust): void {
    const { clock, random, log } = this.#options;
    try {
      verifyChain(svid.chain, onlyBundle(bundle), denied, clock.now());
    } catch (error) {
      const known = asSallyportError(error, 'internal', 'the SVID cannot be verified');
      if (known.code !== 'svid_untrusted') return;
      const at = clock.now() + Math.floor(random() * rootChangeSpreadMs);
      this.#nextRenewal = Math.min(this.#nextRenewal, at);
      log.warn(
        { code: known.code, nextRenewal: formatTime(at) },
        'the new bundle does not vouch for our SVID; renewing soon',
      );
    }
  }

  #refreshed(): void {
    this.#refreshFailedInARow = 0;
    this.#lastSaidOfBundle = undefined;
    this.#refreshedAt = this.#options.clock.now();
  }

  #refreshFailed(error: unknown): void {
    if (this.#closed) return;
    const known = asSallyportError(error, 'internal', 'the refresh failed');
    this.#refreshFailedInARow += 1;
    this.#bundleFailures[known.code] = (this.#bundleFailures[known.code] ?? 0) + 1;
    this.#lastError = { code: known.code, message: known.message, hint: known.hint, time: this.#options.clock.now() };
    const level = known.message === this.#lastSaidOfBundle ? 'debug' : 'warn';
    this.#lastSaidOfBundle = known.message;
    this.#options.log[level](
      { code: known.code, caCode: caCodeOf(known), hint: known.hint },
      `bundle and deny-list stay as they are: ${known.message}`,
    );
  }
}

function isTokenRefusal(error: unknown): boolean {
  return caCodeOf(error)?.startsWith('token_') ?? false;
}

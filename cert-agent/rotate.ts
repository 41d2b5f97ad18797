// Step three of a certificate: keep it fresh. Once a second, or earlier when something is due, one timer checks whether
// to renew, to refresh bundle and deny list, to withdraw an expired SVID, and whether the clock jumped. Failures are
// retried; the current identity stays until it expires.

import { caCodeOf, type Issued } from './agent/answer.ts';
import { CrlRefresh } from './agent/crl.ts';
import { type AgentFailure, Failures } from './agent/failures.ts';
import { isBundleMissing, type Keep, trustOf } from './agent/keep.ts';
import { TrustRefresh } from './agent/refresh.ts';
import { lateFrom, type Random, renewalTime, retryDelay, watchJumps } from './agent/schedule.ts';
import { UseReports } from './agent/use-reports.ts';
import { TrustWatch } from './agent/watch.ts';
import { type Evidence, gatherEvidence, gatherToken } from './attest.ts';
import { guard } from './base/background.ts';
import { type Clock, formatDuration, formatTime } from './base/clock.ts';
import { asSallyportError, SallyportError } from './base/errors.ts';
import type { Live } from './base/live.ts';
import type { Log } from './base/log.ts';
import type { CaClient } from './fetch.ts';
import { onlyBundle } from './identity/bundle.ts';
import { deniedBy } from './identity/denied.ts';
import type { Identity } from './identity/identity.ts';
import type { Svid } from './identity/svid.ts';
import { verifyChain } from './identity/verify.ts';

/** Paths are absolute. The rotation closes `client`. */
export interface RotationOptions {
  readonly caUrl: URL;
  readonly caBundleFile: string;
  readonly tokenFile?: string;
  readonly kubernetesTokenFile?: string;
  readonly outDir: string;
  readonly ttlMs?: number;
  readonly client: CaClient;
  readonly keep: Keep;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  /** Resolves once this process has ended what the newest identity does not allow. Default: at once. */
  settled?(): Promise<void>;
}

/**
 * `late`: serving, but 90 % of the life are over without a successor. `denied`: the SVID or its ID is on the deny list.
 */
export type AgentState = 'waiting' | 'serving' | 'late' | 'denied' | 'stopped';

/** Times are milliseconds since 1970. */
export interface AgentStatus {
  readonly state: AgentState;
  /** An object for 'waiting for ...'; undefined while there is a valid SVID that is not denied. */
  readonly waitingFor: string | undefined;
  readonly id: string | undefined;
  readonly serial: string | undefined;
  readonly notBefore: number | undefined;
  readonly notAfter: number | undefined;
  /** Time of the next SVID request; undefined while one is in flight. */
  readonly nextRenewal: number | undefined;
  /** When bundle and deny list were last confirmed by the CA. */
  readonly refreshedAt: number | undefined;
  readonly bundleSequence: number | undefined;
  readonly deniedSequence: number | undefined;
  /** Why there is no new SVID, else why there is no fresh bundle; undefined if both succeeded last time. */
  readonly lastError: AgentFailure | undefined;
  /** SVIDs received by this process. */
  readonly renewals: number;
  /** Changes of bundle or deny list that this process accepted. */
  readonly refreshes: number;
  /** By error code. */
  readonly svidFailures: Readonly<Record<string, number>>;
  readonly bundleFailures: Readonly<Record<string, number>>;
}

/** More than any slewing, less than a certificate's back-dating tolerates. */
const jumpMs = 5000;
const tickMs = 1000;

/** The CA may ask for renewals spread over this time at most. */
const longestSpreadMs = 3_600_000;

/** Keeps the SVID, the bundle and the deny list of one directory fresh until closed. */
export class Rotation {
  readonly #options: RotationOptions;
  readonly #keep: Keep;
  readonly #refresh: TrustRefresh;
  readonly #crl: CrlRefresh;
  readonly #watch: TrustWatch;
  readonly #reports: UseReports;
  readonly #failures = new Failures();
  readonly #jumpedBy: () => number;
  #nextRenewal = 0;
  #renewing: Promise<void> | undefined;
  #cancelTick = (): void => {};
  #closed = false;
  #renewals = 0;
  #waitingFor: string | undefined;
  /** The token that was used last. If its file has a new one, it is tried at once. */
  #usedToken: string | undefined;
  /** The token that the CA refused. */
  #refusedToken: string | undefined;
  /** The serial of the SVID that the CA refused. A token is better evidence then. */
  #refusedSvid: string | undefined;

  constructor(options: RotationOptions) {
    this.#options = options;
    this.#keep = options.keep;
    this.#jumpedBy = watchJumps(options.clock);
    this.#refresh = new TrustRefresh({
      ...options,
      onUntrusted: (at) => {
        this.#nextRenewal = Math.min(this.#nextRenewal, at);
      },
      onEnd: () => this.#arm(),
    });
    this.#crl = new CrlRefresh(options);
    this.#reports = new UseReports({ ...options, onChange: () => this.#watch.acknowledge() });
    this.#watch = new TrustWatch({
      ...options,
      refresh: this.#refresh,
      inUse: () => (this.#reports.isHolding ? 'unknown' : this.#reports.inUse()),
      onRenew: (withinMs) => this.#renewWithin(withinMs),
      settled: async () => options.settled?.(),
    });
    // All who verify peers with it hear of it in this turn.
    this.identity.onChange(() => setImmediate(() => this.#watch.acknowledge()));
    const svid = this.#keep.held()?.svid;
    const holds = svid !== undefined && options.clock.now() <= svid.notAfter;
    // Also without bundle and deny list: they are requested at once, and the SVID is good.
    if (holds) this.#nextRenewal = renewalTime(svid, svid.notBefore, options.random);
    this.#tick();
  }

  /** Undefined while there is no valid SVID. */
  get identity(): Live<Identity | undefined> {
    return this.#keep.identity;
  }

  /** Requests a new SVID and the bundle from the CA at once. */
  renewNow(): void {
    this.#hurry();
    this.#tick();
  }

  /** At random, so that not all agents renew in the same second. */
  #renewWithin(withinMs: number): void {
    const { clock, random } = this.#options;
    const spread = Math.min(Math.max(0, withinMs), longestSpreadMs);
    this.#nextRenewal = Math.min(this.#nextRenewal, clock.now() + Math.floor(random() * spread));
    this.#arm();
  }

  /** Stops everything, and resolves when nothing is written to disk any more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTick();
    this.#watch.close();
    this.#reports.close();
    await this.#options.client.close();
    await Promise.all([this.#renewing, this.#refresh.stop(), this.#crl.stop()]);
  }

  /** For the state page and metrics. Times are milliseconds since 1970; contains no secret. */
  status(): AgentStatus {
    const svid = this.identity.current()?.svid;
    const held = this.#keep.held();
    return {
      state: this.#state(),
      waitingFor: this.#isDenied() ? this.#whatDeniedWaitsFor() : svid === undefined ? this.#whatFor() : undefined,
      id: svid?.id.uri,
      serial: svid?.serial,
      notBefore: svid?.notBefore,
      notAfter: svid?.notAfter,
      nextRenewal: this.#renewing === undefined ? this.#nextRenewal : undefined,
      refreshedAt: this.#refresh.refreshedAt,
      bundleSequence: held === undefined ? undefined : trustOf(held).bundle.sequence,
      deniedSequence: held?.denied.sequence,
      lastError: this.#failures.last ?? this.#refresh.failures.last,
      renewals: this.#renewals,
      refreshes: this.#refresh.taken,
      svidFailures: this.#failures.byCode,
      bundleFailures: this.#refresh.failures.byCode,
    };
  }

  #whatFor(): string {
    const ca = `the CA at ${this.#options.caUrl.origin}`;
    return this.#waitingFor ?? (this.#keep.unsure() === undefined ? ca : `bundle and deny list from ${ca}`);
  }

  #whatDeniedWaitsFor(): string {
    const { tokenFile, kubernetesTokenFile } = this.#options;
    // The kubelet's token serves again: the CA has to allow the ID.
    if (tokenFile === undefined && kubernetesTokenFile !== undefined) return "an operator's 'ca allow': it was revoked";
    const token = tokenFile === undefined ? 'a join token' : `a new join token in ${tokenFile}`;
    const held = this.#keep.held();
    // The CA creates no token for a denied ID.
    const isIdDenied = held?.denied.ids.has(held.svid.id.uri) === true;
    return isIdDenied
      ? `an operator's 'ca allow', then ${token}: the ID was revoked`
      : `${token}: the certificate was revoked`;
  }

  #state(): AgentState {
    const svid = this.identity.current()?.svid;
    if (this.#closed) return 'stopped';
    if (this.#isDenied()) return 'denied';
    if (svid === undefined) return 'waiting';
    return this.#options.clock.now() >= lateFrom(svid) ? 'late' : 'serving';
  }

  #tick(): void {
    if (this.#closed) return;
    // Armed first: the rest may throw, and must be retried anyway.
    this.#armIn(tickMs);
    this.#noticeJump();
    this.#keep.judge();
    if (this.#keep.mend()) this.#refresh.again();
    this.#noticeNewToken();
    const now = this.#options.clock.now();
    if (this.#renewing === undefined && now >= this.#nextRenewal) this.#startRenewal();
    if (now >= this.#refresh.due) this.#refresh.start();
    this.#crl.tick();
    this.#watch.tick();
    this.#reports.tick();
    this.#arm();
  }

  #arm(): void {
    this.#cancelTick();
    if (this.#closed) return;
    // A request in flight is not due, whatever its time. It arms the timer when it ends.
    const renewal = this.#renewing === undefined ? this.#nextRenewal : Number.POSITIVE_INFINITY;
    const expiry = (this.identity.current()?.svid.notAfter ?? Number.POSITIVE_INFINITY) + 1;
    const due = Math.min(renewal, expiry, this.#refresh.due) - this.#options.clock.now();
    this.#armIn(Math.max(0, Math.min(tickMs, due)));
  }

  #armIn(ms: number): void {
    this.#cancelTick();
    this.#cancelTick = this.#options.clock.after(ms, () => guard('agent', () => this.#tick()));
  }

  #hurry(): void {
    this.#nextRenewal = 0;
    this.#refresh.hurry();
  }

  #noticeJump(): void {
    const by = this.#jumpedBy();
    if (Math.abs(by) <= jumpMs) return;
    this.#options.log.warn(
      { code: 'clock_jump', byMs: Math.round(by) },
      `the clock jumped ${by > 0 ? 'forward' : 'back'} by ${formatDuration(Math.abs(by))}; renewing now`,
    );
    this.#hurry();
  }

  #noticeNewToken(): void {
    const { tokenFile, kubernetesTokenFile } = this.#options;
    if ((tokenFile ?? kubernetesTokenFile) === undefined || this.#renewing !== undefined) return;
    const needsToken = this.#isDenied() || (this.#refusedToken !== undefined && this.identity.current() === undefined);
    if (!needsToken) return;
    try {
      const found = gatherToken(this.#options, this.#warn);
      if (found === undefined || found.token === this.#usedToken) return;
    } catch {
      return; // The next attempt reports why.
    }
    this.#refusedToken = undefined;
    this.#nextRenewal = 0;
  }

  #startRenewal(): void {
    this.#renewing = this.#renew()
      .catch((error: unknown) => this.#renewalFailed(error))
      .finally(() => {
        this.#renewing = undefined;
        this.#arm();
      });
  }

  async #renew(): Promise<void> {
    const { ttlMs, client } = this.#options;
    const held = this.#keep.held();
    const trust = this.#keep.trust();
    const evidence = this.#evidence(held?.svid);
    if (evidence.kind !== 'svid') this.#usedToken = evidence.token;
    const key = this.#keep.nextKey(evidence.kind === 'svid');
    let issued: Issued;
    try {
      issued = await client.fetchSvid({ trust, evidence, key, ttlMs });
    } catch (error) {
      if (evidence.kind !== 'svid' && isTokenRefusal(error)) this.#refusedToken = evidence.token;
      if (evidence.kind === 'svid' && isSvidRefusal(error)) this.#refusedSvid = evidence.svid.serial;
      throw error;
    }
    if (!this.#closed) this.#accept(issued, evidence);
  }

  /**
   * An SVID that is denied, or that the CA refuses, proves nothing. A token that was not refused yet is better
   * evidence. Without one the SVID is tried again: the CA's clock may have been wrong.
   */
  #evidence(held: Svid | undefined): Evidence {
    const isSpent = this.#isDenied() || (held !== undefined && held.serial === this.#refusedSvid);
    const found = isSpent ? gatherToken(this.#options, this.#warn) : undefined;
    if (found !== undefined && found.token !== this.#refusedToken) return found;
    const { tokenFile, kubernetesTokenFile } = this.#options;
    return gatherEvidence({ svid: held, tokenFile, kubernetesTokenFile, warn: this.#warn });
  }

  readonly #warn = (message: string): void => this.#options.log.warn({ code: 'secret_exposed' }, message);

  #isDenied(): boolean {
    const held = this.#keep.held();
    return held !== undefined && deniedBy(held.denied, held.svid) !== undefined;
  }

  /** Checks a response against what we have before it is used. */
  #accept(issued: Issued, evidence: Evidence): void {
    const { clock, random, log } = this.#options;
    const { svid } = issued;
    const trust = evidence.kind === 'svid' ? this.#refresh.afterRenewal(issued) : issued;
    verifyChain(svid.chain, onlyBundle(trust.bundle), trust.denied, clock.now());
    if (evidence.kind === 'svid' && evidence.svid.id.uri !== svid.id.uri) {
      const message = `the CA issued ${svid.id.uri}, but we are ${evidence.svid.id.uri}`;
      throw new SallyportError('ca_answer_invalid', message);
    }
    this.#nextRenewal = renewalTime(svid, clock.now(), random);
    this.#keep.commit(svid, trust);
    this.#renewals += 1;
    this.#failures.clear();
    this.#waitingFor = undefined;
    this.#refusedToken = undefined;
    this.#refresh.renewed();
    const times = { notAfter: formatTime(svid.notAfter), nextRenewal: formatTime(this.#nextRenewal) };
    const about = { code: 'svid_received', id: svid.id.uri, serial: svid.serial, ...times };
    log.info(about, `received an SVID for ${svid.id.uri}`);
  }

  #renewalFailed(error: unknown): void {
    const { clock, random, log } = this.#options;
    if (this.#closed) return;
    const known = asSallyportError(error, 'internal', 'the renewal failed');
    const now = clock.now();
    const wasAsked = known.code !== 'token_missing' && !isBundleMissing(known);
    this.#failures.add(known, now, wasAsked);
    // If no request was sent, a longer wait spares no server: the files are checked again in a second.
    const delay = wasAsked ? retryDelay(this.#failures.inARow, this.#keep.held()?.svid, now, random) : tickMs;
    this.#nextRenewal = now + delay;
    this.#waitingFor = this.#whatIsMissing(known);
    const isServing = this.identity.current() !== undefined;
    const text = isServing ? 'cannot renew the SVID' : `waiting for ${this.#waitingFor}`;
    const level = this.#failures.level(`${text}: ${known.message}`, this.#state() === 'late' ? 'error' : 'warn');
    const about = { code: known.code, caCode: caCodeOf(known), hint: known.hint, retryInMs: Math.round(delay) };
    log[level](about, `${text}: ${known.message}`);
  }

  #whatIsMissing(error: SallyportError): string {
    const { tokenFile, kubernetesTokenFile, caUrl, caBundleFile } = this.#options;
    if (tokenFile === undefined && kubernetesTokenFile !== undefined) {
      if (error.code === 'token_missing') return `a service-account token in ${kubernetesTokenFile}`;
      if (isTokenRefusal(error)) return `a service-account token that the CA accepts in ${kubernetesTokenFile}`;
    }
    if (error.code === 'token_missing')
      return tokenFile === undefined ? 'a join token' : `a join token in ${tokenFile}`;
    if (isBundleMissing(error)) return `the CA bundle ${caBundleFile}`;
    if (isTokenRefusal(error)) return `a join token that the CA accepts in ${tokenFile}`;
    if (caCodeOf(error) === 'svid_expired') {
      const where = tokenFile === undefined ? '' : ` in ${tokenFile}`;
      return `a join token${where}: the SVID has expired, and the CA does not renew it any more`;
    }
    if (error.code === 'ca_unreachable') return `the CA at ${caUrl.origin}`;
    return `an SVID from the CA at ${caUrl.origin}`;
  }
}

/** True if the CA does not recognize our SVID (its roots changed, or it was created anew), or expired too long ago. */
function isSvidRefusal(error: unknown): boolean {
  const code = caCodeOf(error);
  // `id_denied`: also of an expired SVID that was revoked, which the deny list no longer has.
  return code === 'svid_untrusted' || code === 'svid_expired' || code === 'id_denied';
}

function isTokenRefusal(error: unknown): boolean {
  const code = caCodeOf(error);
  return code === 'kubernetes_token_invalid' || (code?.startsWith('token_') ?? false);
}

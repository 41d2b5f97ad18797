// Step three of a certificate: keep it fresh. One timer asks each second, or earlier when something is due, whether to
// renew, to refresh bundle and deny-list, to take back what expired, and whether the clock jumped. Whatever fails is
// tried again; what we have stays until it expires.

import { caCodeOf, type Issued } from './agent/answer.ts';
import { type AgentFailure, Failures } from './agent/failures.ts';
import { isBundleMissing, type Keep, trustOf } from './agent/keep.ts';
import { TrustRefresh } from './agent/refresh.ts';
import { lateFrom, type Random, renewalTime, retryDelay, watchJumps } from './agent/schedule.ts';
import { type Evidence, gatherEvidence, readToken } from './attest.ts';
import { guard } from './base/background.ts';
import { type Clock, formatDuration, formatTime } from './base/clock.ts';
import { asSallyportError, SallyportError } from './base/errors.ts';
import type { Live } from './base/live.ts';
import type { Log } from './base/log.ts';
import type { CaClient } from './fetch.ts';
import { onlyBundle } from './identity/bundle.ts';
import { deniedBy } from './identity/denied.ts';
import { pendingKey } from './identity/generation.ts';
import type { Identity } from './identity/identity.ts';
import type { Svid } from './identity/svid.ts';
import { verifyChain } from './identity/verify.ts';

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

/** `late`: serving, but 90 % of the life are over and there is no successor. `denied`: the SVID, or its ID, is on the deny-list. */
export type AgentState = 'waiting' | 'serving' | 'late' | 'denied' | 'stopped';

/** Times are milliseconds since 1970. */
export interface AgentStatus {
  readonly state: AgentState;
  /** Ready for 'waiting for ...'; undefined while there is a valid SVID that is not denied. */
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
  /** Why there is no new SVID, else why there is no fresh bundle; undefined when all went well the last time. */
  readonly lastError: AgentFailure | undefined;
  /** SVIDs received by this process. */
  readonly renewals: number;
  /** Changes of bundle or deny-list taken by this process. */
  readonly refreshes: number;
  /** By error code. */
  readonly svidFailures: Readonly<Record<string, number>>;
  readonly bundleFailures: Readonly<Record<string, number>>;
}

/** More than any slewing, less than what a certificate's back-dating forgives. */
const jumpMs = 5000;
const tickMs = 1000;

/** Keeps the SVID, the bundle and the deny-list of one directory fresh until closed. */
export class Rotation {
  readonly #options: RotationOptions;
  readonly #keep: Keep;
  readonly #refresh: TrustRefresh;
  readonly #failures = new Failures();
  readonly #jumpedBy: () => number;
  #nextRenewal = 0;
  #renewing: Promise<void> | undefined;
  #cancelTick = (): void => {};
  #closed = false;
  #renewals = 0;
  #waitingFor: string | undefined;
  /** The token that was used last: another one in its file is worth a try at once. */
  #usedToken: string | undefined;
  /** The token that the CA refused. */
  #refusedToken: string | undefined;
  /** The serial of the SVID that the CA refused: a token is better evidence then. */
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
    const svid = this.#keep.held()?.svid;
    const holds = svid !== undefined && options.clock.now() <= svid.notAfter;
    // Also without bundle and deny-list: those are asked for at once, and the SVID is good.
    if (holds) this.#nextRenewal = renewalTime(svid, svid.notBefore, options.random);
    this.#tick();
  }

  get identity(): Live<Identity | undefined> {
    return this.#keep.identity;
  }

  /** Asks the CA for a new SVID and for the bundle at once. */
  renewNow(): void {
    this.#hurry();
    this.#tick();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelTick();
    await this.#options.client.close();
    await Promise.all([this.#renewing, this.#refresh.stop()]);
  }

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
    return this.#waitingFor ?? (this.#keep.unsure() === undefined ? ca : `bundle and deny-list from ${ca}`);
  }

  #whatDeniedWaitsFor(): string {
    const { tokenFile } = this.#options;
    const token = tokenFile === undefined ? 'a join token' : `a new join token in ${tokenFile}`;
    const held = this.#keep.held();
    // A token is made for no ID that is denied.
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
    // Should what follows throw, it is tried again all the same.
    this.#armIn(tickMs);
    this.#noticeJump();
    this.#keep.judge();
    if (this.#keep.mend()) this.#refresh.hurry();
    this.#noticeNewToken();
    const now = this.#options.clock.now();
    if (this.#renewing === undefined && now >= this.#nextRenewal) this.#startRenewal();
    if (now >= this.#refresh.due) this.#refresh.start();
    this.#arm();
  }

  #arm(): void {
    this.#cancelTick();
    if (this.#closed) return;
    // What is on its way is not due, whatever its time says; it arms the timer itself when it ends.
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
    const { tokenFile } = this.#options;
    if (tokenFile === undefined || this.#renewing !== undefined) return;
    const needsToken = this.#isDenied() || (this.#refusedToken !== undefined && this.identity.current() === undefined);
    if (!needsToken) return;
    try {
      const token = readToken(tokenFile, this.#warn);
      if (token === undefined || token === this.#usedToken) return;
    } catch {
      return; // The next attempt says why.
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
    const { outDir, ttlMs, client, clock } = this.#options;
    const held = this.#keep.held();
    const trust = this.#keep.trust();
    const evidence = this.#evidence(held?.svid, clock.now());
    if (evidence.kind === 'token') this.#usedToken = evidence.token;
    const key = pendingKey(outDir, held?.svid);
    let issued: Issued;
    try {
      issued = await client.fetchSvid({ trust, evidence, key, ttlMs });
    } catch (error) {
      if (evidence.kind === 'token' && isTokenRefusal(error)) this.#refusedToken = evidence.token;
      if (evidence.kind === 'svid' && isSvidRefusal(error)) this.#refusedSvid = evidence.svid.serial;
      throw error;
    }
    if (!this.#closed) this.#accept(issued, evidence);
  }

  /** An SVID that is denied, or that the CA refuses, speaks for nobody any more: a token that was not refused yet is better evidence. */
  #evidence(held: Svid | undefined, now: number): Evidence {
    const { tokenFile } = this.#options;
    const isSpent = this.#isDenied() || (held !== undefined && held.serial === this.#refusedSvid);
    if (tokenFile !== undefined && isSpent) {
      const token = readToken(tokenFile, this.#warn);
      if (token !== undefined && token !== this.#refusedToken) return { kind: 'token', token, file: tokenFile };
    }
    return gatherEvidence(held, tokenFile, now, this.#warn);
  }

  readonly #warn = (message: string): void => this.#options.log.warn({ code: 'secret_exposed' }, message);

  #isDenied(): boolean {
    const held = this.#keep.held();
    return held !== undefined && deniedBy(held.denied, held.svid) !== undefined;
  }

  /** Checks what an answer says against what we have, and only then makes it ours. */
  #accept(issued: Issued, evidence: Evidence): void {
    const { clock, random, log } = this.#options;
    const { svid } = issued;
    const trust = evidence.kind === 'svid' ? this.#refresh.afterRenewal(issued) : issued;
    verifyChain(svid.chain, onlyBundle(trust.bundle), trust.denied, clock.now());
    if (evidence.kind === 'svid' && evidence.svid.id.uri !== svid.id.uri) {
      const message = `the CA answered with ${svid.id.uri}, and we are ${evidence.svid.id.uri}`;
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
    // Where nobody was asked, nobody is spared by waiting longer: the files are looked at again in a second.
    const delay = wasAsked ? retryDelay(this.#failures.inARow, this.#keep.held()?.svid, now, random) : tickMs;
    this.#nextRenewal = now + delay;
    this.#waitingFor = this.#whatIsMissing(known);
    const isServing = this.identity.current() !== undefined;
    const text = isServing ? 'the SVID cannot be renewed' : `waiting for ${this.#waitingFor}`;
    const level = this.#failures.level(`${text}: ${known.message}`, this.#state() === 'late' ? 'error' : 'warn');
    const about = { code: known.code, caCode: caCodeOf(known), hint: known.hint, retryInMs: Math.round(delay) };
    log[level](about, `${text}: ${known.message}`);
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
}

/** The CA does not know our SVID for its own: its roots are others by now, or it was made anew. */
function isSvidRefusal(error: unknown): boolean {
  return caCodeOf(error) === 'svid_untrusted';
}

function isTokenRefusal(error: unknown): boolean {
  return caCodeOf(error)?.startsWith('token_') ?? false;
}

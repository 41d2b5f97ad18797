// Rotates the issuer or the root of a running CA, step by step: prepare, distribute, activate, drain, remove. No step
// locks out a known workload, unless the operator names that workload.

import { setTimeout as pause } from 'node:timers/promises';
import type { Clock } from '../../base/clock.ts';
import { formatTime } from '../../base/clock.ts';
import { asSallyportError, SallyportError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { DenyList } from '../../identity/denied.ts';
import { parseSpiffeId } from '../../identity/spiffe-id.ts';
import { fingerprintOf } from '../../identity/verify.ts';
import { familiesOf, type Readiness, readinessOf, shown, stateOf } from '../acknowledged.ts';
import type { Agents } from '../agents.ts';
import type { Authority } from '../authority.ts';
import { formatCertificates } from '../ledger/head.ts';
import type { Act } from '../ledger/record.ts';
import type { Store } from '../store/store.ts';
import {
  activateFiles,
  cancelFiles,
  distributeFiles,
  dropPrevious,
  prepareFiles,
  previousTimes,
  readRoot,
  readRootSigner,
  removeFiles,
} from './files.ts';
import { type IssuerStep, rotationRefused, takeIssuerStep } from './issuer.ts';
import { type Begin, onRecord } from './on-record.ts';
import { readExternalRoot, readRequest, requestFiles } from './request.ts';
import { type RotationKind, type RotationState, readState } from './state.ts';

/** The rotation owns none of it. `denied` is the current list. */
export interface RotationParts {
  readonly dir: string;
  readonly passphrase: string | undefined;
  readonly authority: Authority;
  readonly store: Store;
  readonly agents: Agents;
  readonly clock: Clock;
  readonly log: Log;
  /** How long after its expiry an SVID may renew, milliseconds. */
  readonly graceMs: number;
  denied(): DenyList;
  /** Called after each change: the CA's own SVID may need another issuer. */
  changed(): Promise<void>;
}

/** A step that an operator may ask for. A root's steps are `prepare` to `cancel`, an issuer's those of issuer.ts. */
export type RotationStep = 'prepare' | 'distribute' | 'activate' | 'remove' | 'cancel' | IssuerStep;

/** One step, as an operator asks for it. Each optional field is for some steps only. */
export interface RotationRequest {
  readonly kind: RotationKind;
  readonly step: RotationStep;
  /** Workloads that need not be ready: SPIFFE IDs, or last parts that identify one blocking workload. */
  readonly except?: readonly string[];
  /** The file of the root's key, if it is not in the directory. */
  readonly rootKey?: string;
  /** With `prepare`: the file of a new root whose key is kept elsewhere, PEM. */
  readonly externalRoot?: string;
  /** With `install`: the certificate of the request, PEM. */
  readonly certificate?: string;
}

/** The rotation in progress, and the workloads that it waits for. */
export interface RotationStatus extends Readiness {
  readonly state: RotationState | null;
  /** The IDs that the step has left behind: they blocked it, and `except` named them. */
  readonly excepted?: readonly string[];
  /** The request that waits for its certificate, PEM. */
  readonly request?: string;
  /** The command for the next step; undefined if the operator has nothing to do. */
  readonly next?: string;
  /** The issuer in use: SHA-256, and times in milliseconds since 1970. */
  readonly issuer: { readonly fingerprint: string; readonly notBefore: number; readonly notAfter: number };
  /** SHA-256 of the roots in the bundle. */
  readonly roots: readonly string[];
}

/** Peers with a slow clock accept a certificate that much longer. */
const marginMs = 60_000;

/** A sidecar retires its connections when its certificate has a new issuer; requests in flight end first. */
const settleMs = 5000;

const reminderMs = 24 * 3_600_000;

/** After a failed attempt, the schedule tries again after this. */
const againMs = 3_600_000;

/** One for a running CA. Steps are taken one at a time, in the order of the calls. */
export class Rotations {
  readonly #parts: RotationParts;
  #remindedAt = Number.NEGATIVE_INFINITY;
  #againAt = Number.NEGATIVE_INFINITY;
  #busy: Promise<unknown> = Promise.resolve();

  constructor(parts: RotationParts) {
    this.#parts = parts;
    // Activated by an earlier run.
    parts.agents.renewThoseBefore(readState(parts.dir)?.activatedAt);
  }

  /**
   * The rotation in progress, the workloads not ready for its next step, and its command. @throws SallyportError
   * `config_unreadable` or `store_failed`.
   */
  async status(): Promise<RotationStatus> {
    const { dir, authority } = this.#parts;
    const state = readState(dir) ?? null;
    const issuer = {
      ...{ fingerprint: fingerprintOf(authority.above[0]!) },
      ...{ notBefore: authority.notBefore, notAfter: authority.notAfter },
    };
    const roots = authority.bundle.current().roots.map(fingerprintOf);
    const ready = shown(await this.#readiness(state));
    const next = nextCommand(state);
    const request = state?.step === 'requested' ? readRequest(dir) : undefined;
    const more = { ...(next === undefined ? {} : { next }), ...(request === undefined ? {} : { request }) };
    return { state, ...ready, ...more, issuer, roots };
  }

  /** Takes one step. @throws SallyportError `rotation_refused`, `root_key_missing` and others that say why not. */
  step(request: RotationRequest, by: RotationState['by'] = 'operator'): Promise<RotationStatus> {
    // One at a time.
    const done = this.#busy.then(() => this.#step(request, by));
    this.#busy = done.catch(() => {});
    return done;
  }

  /** Takes the due steps: a new issuer at half of its lifetime; the end of an issuer's drain. Call it periodically. */
  async upkeep(): Promise<void> {
    const { dir, authority, clock } = this.#parts;
    const state = readState(dir);
    // `prepared`: a kill has interrupted its activation.
    if (state?.kind === 'issuer' && state.step === 'prepared') await this.#renewIssuer(state.by);
    else if (clock.now() >= (authority.notBefore + authority.notAfter) / 2) await this.#renewIssuer('schedule');
    await this.#dropDrained(state);
  }

  /** Deletes old keys once everything that they signed has expired. */
  async #dropDrained(state: RotationState | undefined): Promise<void> {
    const { dir, authority, store, clock } = this.#parts;
    for (const time of previousTimes(dir)) {
      if (time === state?.activatedAt) continue;
      const last = await store.lastEnd(time);
      if (last !== undefined && clock.now() <= last + marginMs) continue;
      dropPrevious(dir, time);
      authority.reload();
    }
  }

  async #renewIssuer(by: RotationState['by']): Promise<void> {
    const { authority, clock, log } = this.#parts;
    if (clock.now() < this.#againAt) return;
    try {
      await this.step({ kind: 'issuer', step: 'activate' }, by);
    } catch (error) {
      const { code, hint, message } = asSallyportError(error, 'internal', 'the step failed');
      // Each attempt that began has two records.
      if (code !== 'root_key_missing') this.#againAt = clock.now() + againMs;
      if (clock.now() - this.#remindedAt < reminderMs) return;
      this.#remindedAt = clock.now();
      log.warn(
        { code: 'intermediate_ending', notAfter: formatTime(authority.notAfter), hint },
        `the issuer has passed half of its life and cannot be renewed automatically: ${message}`,
      );
    }
  }

  async #step(request: RotationRequest, by: RotationState['by']): Promise<RotationStatus> {
    const { dir, authority, store, clock, log } = this.#parts;
    const { kind, step } = request;
    const before = readState(dir);
    // No step without a record of it.
    await store.probe();
    // Before the step: the outgoing root must confirm the heads that its issuers signed.
    const roots = formatCertificates(authority.bundle.current().roots);
    const caller = by === 'operator' ? 'operator' : 'self';
    const record = async (answer: string, more: Act['details']): Promise<unknown> =>
      store.appendLedger({ act: 'rotate', caller, answer, details: { kind, ...more } }, clock.now());
    const excepted: string[] = [];
    const done = await onRecord({ step, by }, record, (begin) => this.#take(request, by, before, { excepted, begin }));
    authority.reload();
    const after = done ?? before!;
    if (step === 'remove') this.#parts.agents.renewThoseBefore(undefined);
    const details = {
      ...(after.newIssuer === undefined ? {} : { newIssuer: after.newIssuer }),
      ...(after.newRoot === undefined ? {} : { newRoot: after.newRoot, roots }),
      ...(excepted.length === 0 ? {} : { except: excepted.join(' ') }),
    };
    await record(step, details);
    if (step === 'activate' && after.newRoot !== undefined) {
      await store.adoptRoot(after.newRoot);
      this.#parts.agents.renewThoseBefore(after.activatedAt);
    }
    log.info({ code: 'rotated', kind, step }, `${kind}: ${sentences[step]}`);
    await this.#parts.changed();
    return { ...(await this.status()), ...(excepted.length === 0 ? {} : { excepted }) };
  }

  /** Adds the excepted blocking workloads to `excepted`, and calls `begin` before it changes anything. */
  async #take(
    request: RotationRequest,
    by: RotationState['by'],
    state: RotationState | undefined,
    { excepted, begin }: { readonly excepted: string[]; readonly begin: Begin },
  ): Promise<RotationState | undefined> {
    const { dir, passphrase, clock } = this.#parts;
    const { step, except = [] } = request;
    const now = clock.now();
    if (request.kind === 'issuer') {
      if (!isIssuerStep(step)) throw refused(`${step} is not a step of an issuer's rotation`, state);
      const activate = (made: RotationState): RotationState => this.#activate(made);
      return takeIssuerStep(dir, { ...request, step }, state, { by, passphrase, now, activate, begin });
    }
    if (step === 'prepare') return this.#prepareRoot(request, state, begin);
    if (state === undefined || state.kind !== 'root') throw refused('no rotation of the root is under way', state);
    const allowed = stepsFrom(state);
    if (!allowed.includes(step))
      throw refused(`the rotation of the root is ${state.step}: ${step} cannot be done now`, state);
    if (step === 'activate' || step === 'remove') excepted.push(...(await this.#refuseStragglers(state, except)));
    await begin();
    if (step === 'distribute') return distributeFiles(dir, state);
    if (step === 'cancel') return void cancelFiles(dir, state);
    // Connections under the last certificates of the old root are being retired.
    if (step === 'remove') await pause(settleMs);
    if (step === 'activate') return this.#activate(state);
    return void removeFiles(dir, state);
  }

  /**
   * In one turn, so that nothing is signed meanwhile: certificates of the old issuer are older than this time, even in
   * the same millisecond, and so count as old.
   */
  #activate(state: RotationState): RotationState {
    const { dir, authority, clock } = this.#parts;
    const done = activateFiles(dir, state, clock.now() + 1);
    authority.reload();
    return done;
  }

  async #prepareRoot(
    { rootKey, externalRoot }: RotationRequest,
    state: RotationState | undefined,
    begin: Begin,
  ): Promise<RotationState> {
    const { dir, passphrase, authority, clock } = this.#parts;
    if (state !== undefined) throw refused(`the ${state.kind} is being rotated already (${state.step})`, state);
    const now = clock.now();
    if (externalRoot === undefined) {
      const root = readRootSigner(dir, rootKey, passphrase);
      await begin();
      return prepareFiles(dir, 'root', { by: 'operator', root, passphrase, now });
    }
    const roots = { old: readRoot(dir), new: readExternalRoot(externalRoot) };
    if (roots.old.equals(roots.new)) throw refused(`${externalRoot} is the current root`, state);
    const oldIssuer = fingerprintOf(authority.above[0]!);
    await begin();
    return requestFiles(dir, 'root', { trustDomain: authority.trustDomain, passphrase, now, oldIssuer, roots });
  }

  /**
   * Returns the blocking workloads that `except` names.
   * @throws SallyportError `rotation_refused` with the names of the others: the next step would lock them out.
   */
  async #refuseStragglers(state: RotationState, except: readonly string[]): Promise<readonly string[]> {
    const { stragglers } = await this.#readiness(state);
    const ids = stragglers.map(({ id }) => id);
    const excepted = new Set(except.map((name) => exceptedBy(name, ids)));
    const left = ids.filter((id) => !excepted.has(id));
    if (left.length === 0) return ids.filter((id) => excepted.has(id));
    const [one, many] =
      state.step === 'draining'
        ? ['still has a certificate', 'still have certificates']
        : ['does not trust', 'do not trust'];
    const who = left.length === 1 ? `1 known workload ${one}` : `${left.length} known workloads ${many}`;
    const what = state.step === 'draining' ? 'of the old root' : 'the new root yet';
    throw new SallyportError('rotation_refused', `${who} ${what}: ${namesOf(left)}`, {
      hint: 'sallyport ca rotate status lists them; --except ID continues without one',
    });
  }

  async #readiness(state: RotationState | null): Promise<Readiness> {
    const { agents, store, clock, graceMs } = this.#parts;
    const parts = { agents, store, clock, denied: this.#parts.denied(), graceMs };
    const { newRoot } = state ?? {};
    if (newRoot === undefined) return { stragglers: [], by: 0, of: 0 };
    if (state?.step !== 'draining') return stateOf(parts, ({ roots }) => roots.includes(newRoot));
    const all = await familiesOf(parts);
    const old = all.filter(({ issuedAt }) => issuedAt < (state.activatedAt ?? clock.now()));
    const { stragglers } = readinessOf(
      all.filter(({ named }) => named),
      old.filter(({ named }) => named),
      old.filter(({ named }) => !named),
    );
    return { stragglers, by: all.length - old.length, of: all.length };
  }
}

/**
 * The ID that an operator names: in full, or by a last part that exactly one blocking workload has.
 * @throws SallyportError `rotation_refused` for another last part: a guess would lock out a workload. `spiffe_id_invalid`.
 */
function exceptedBy(name: string, inTheWay: readonly string[]): string {
  if (/^spiffe:/i.test(name)) return parseSpiffeId(name).uri;
  const found = inTheWay.filter((id) => id.endsWith(`/${name}`));
  if (found.length === 1) return found[0]!;
  const what = found.length === 0 ? 'none of the blocking workloads' : `${found.length} workloads: ${namesOf(found)}`;
  throw rotationRefused(`--except ${name} names ${what}`, 'give the full SPIFFE ID');
}

/** The first ten. */
function namesOf(ids: readonly string[]): string {
  const more = ids.length - mostNamed;
  return `${ids.slice(0, mostNamed).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

const mostNamed = 10;

const sentences: Readonly<Record<RotationStep, string>> = {
  prepare: 'the new key and certificate exist',
  distribute: 'the bundle has the new root beside the old one',
  activate: 'the new one signs',
  remove: 'the old one was removed',
  cancel: 'the rotation was cancelled',
  request: 'a request for the certificate of a new one exists',
  install: 'the certificate of the new one is installed',
};

function isIssuerStep(step: RotationStep): step is IssuerStep {
  return ['activate', 'request', 'install', 'cancel'].includes(step);
}

function stepsFrom({ kind, step }: RotationState): readonly RotationStep[] {
  if (step === 'requested') return ['install', 'cancel'];
  if (step === 'prepared') return kind === 'root' ? ['distribute', 'cancel'] : ['activate', 'cancel'];
  if (step === 'distributed') return ['activate', 'cancel'];
  return step === 'draining' ? ['remove'] : [];
}

function nextCommand(state: RotationState | null): string | undefined {
  if (state === null) return undefined;
  const [step] = stepsFrom(state);
  if (step === 'install') return 'sallyport ca issuer install FILE';
  return step === undefined ? undefined : `sallyport ca rotate ${state.kind}${state.kind === 'root' ? ` ${step}` : ''}`;
}

function refused(message: string, state: RotationState | undefined): SallyportError {
  const next = nextCommand(state ?? null);
  return rotationRefused(message, next === undefined ? undefined : `next: ${next}`);
}

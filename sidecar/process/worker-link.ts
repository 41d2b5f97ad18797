// The way from a worker to the first, for what is one over all of them: see shared-state.ts. All questions of a turn of the
// event loop go in one message. Whoever gets no answer in time must do without: nothing passes then that has to be counted.

import { every } from '../../cert-agent/base/background.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Owners } from '../compile/gateway-plan.ts';
import { type ConcurrencyPlan, type InFlight, refusalOf } from '../edge/concurrency/limit.ts';
import { type Claim, LocalSessions, type SessionMemory } from '../edge/oidc/session-memory.ts';
import { type Lease, LimitLeases } from '../edge/rate-limit/leases.ts';
import type { StateAnswer, StateAsk } from './shared-state.ts';

/** What goes over the pipe to the first, and back. An ask without a number wants no answer. */
export interface StateAsks {
  readonly asks: readonly (readonly [id: number, ask: StateAsk])[];
}
export interface StateAnswers {
  readonly what: 'answers';
  readonly answers: readonly (readonly [id: number, answer: StateAnswer])[];
}
/** Sessions that ended, from the first to all. */
export interface StateEnded {
  readonly what: 'ended';
  readonly sessions: readonly (readonly [id: string, until: number])[];
}

/** What the first has in force, from it to each of the others: whenever it changes, and when one starts. */
export interface StateInForce {
  readonly what: 'inForce';
  /** Of the files: see `Configuration.digest`. */
  readonly digest: string;
  readonly owners: Owners;
}

/** A first that answers nothing in this time hangs. */
const patienceMs = 3000;

export class WorkerLink {
  readonly #send: (asks: StateAsks) => void;
  readonly #waiting = new Map<
    number,
    { readonly since: number; readonly answer: (said: StateAnswer | undefined) => void }
  >();
  #queue: (readonly [number, StateAsk])[] = [];
  #nextId = 1;
  readonly leases: LimitLeases;
  readonly sessions: SessionMemory;
  readonly #ended = new LocalSessions();
  #inForce: StateInForce | undefined = undefined;
  #changed: () => void = () => {};

  /** `send` writes to the first. */
  constructor(send: (asks: StateAsks) => void) {
    this.#send = send;
    this.leases = new LimitLeases(
      (asks) => this.#ask<readonly Lease[]>({ op: 'lend', asks }),
      (all) => this.#tell({ op: 'giveBack', all }),
    );
    this.sessions = new FirstsSessions((ask) => this.#ask(ask), this.#ended);
    this.leases.start();
    every('worker_link', patienceMs / 4, () => this.#giveUp());
  }

  /** Resolves when it is known which sessions have ended: before that nobody may be served. */
  async start(): Promise<void> {
    for (;;) {
      const all = await this.#ask<readonly (readonly [string, number])[]>({ op: 'ended' });
      if (all !== undefined) return this.#end(all);
    }
  }

  /** A message of the first. */
  heard(message: StateAnswers | StateEnded | StateInForce): void {
    if (message.what === 'inForce') {
      this.#inForce = message;
      return this.#changed();
    }
    if (message.what === 'ended') return this.#end(message.sessions);
    for (const [id, answer] of message.answers) {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      waiting?.answer(answer);
    }
  }

  /** Who has what, as the first has it in force; undefined unless the first has the files of this digest. */
  ownersFor(digest: string | undefined): Owners | undefined {
    return this.#inForce?.digest === digest ? this.#inForce?.owners : undefined;
  }

  /** Calls back whenever something else is in force at the first. */
  onInForce(changed: () => void): void {
    this.#changed = changed;
  }

  /** The requests in flight that `limit` names, of all workers. Who cannot be counted is not let in. */
  inFlight(limit: string, plan: ConcurrencyPlan): InFlight {
    return {
      enter: async (key) => {
        const asked = { op: 'enter', limit, plan, key } as const;
        return (await this.#ask<boolean>(asked, (late) => late && this.#tell({ ...asked, op: 'leave' }))) === true;
      },
      leave: (key) => this.#tell({ op: 'leave', limit, plan, key }),
      refusal: (route) => refusalOf(plan, route),
    };
  }

  #end(all: readonly (readonly [string, number])[]): void {
    for (const [id, until] of all) this.#ended.end(id, until);
  }

  /** Undefined where there is no answer in time; `late` hears of one that comes then. Never rejects. */
  #ask<T extends StateAnswer>(ask: StateAsk, late: (answer: T) => void = () => {}): Promise<T | undefined> {
    return new Promise((resolve) => {
      const id = this.#nextId++;
      let isOver = false;
      this.#waiting.set(id, {
        since: performance.now(),
        answer: (said) => {
          if (said === undefined) isOver = true;
          else if (isOver) return late(said as T);
          resolve(said as T | undefined);
        },
      });
      this.#write(id, ask);
    });
  }

  #tell(ask: StateAsk): void {
    this.#write(0, ask);
  }

  #write(id: number, ask: StateAsk): void {
    if (this.#queue.length === 0)
      setImmediate(() => {
        const asks = this.#queue;
        this.#queue = [];
        this.#send({ asks });
      });
    this.#queue.push([id, ask]);
  }

  #giveUp(): void {
    const now = performance.now();
    for (const [id, { since, answer }] of this.#waiting) {
      // In the order in which they were asked.
      if (now - since < patienceMs) return;
      answer(undefined);
      // An answer that comes ten times later is that of a first that has started anew, which cannot be: it is not waited for.
      if (now - since > 10 * patienceMs) this.#waiting.delete(id);
    }
  }
}

/** Remembered by the first; what has ended is known here as well, since every request asks. */
class FirstsSessions implements SessionMemory {
  readonly #ask: (ask: StateAsk) => Promise<StateAnswer | undefined>;
  readonly #ended: LocalSessions;

  constructor(ask: (ask: StateAsk) => Promise<StateAnswer | undefined>, ended: LocalSessions) {
    this.#ask = ask;
    this.#ended = ended;
  }

  async spend(key: string, until: number): Promise<boolean> {
    return (await this.#answerTo({ op: 'spend', key, until })) === true;
  }

  async claim(key: string, owner: string, leaseMs: number): Promise<Claim> {
    return (await this.#answerTo({ op: 'claim', key, owner, leaseMs })) as Claim;
  }

  async settle(key: string, owner: string, answer: string | undefined, keepMs: number): Promise<void> {
    await this.#answerTo({ op: 'settle', key, owner, answer, keepMs });
  }

  async end(id: string, until: number): Promise<void> {
    this.#ended.end(id, until);
    await this.#ask({ op: 'end', id, until });
  }

  isEnded(id: string): boolean {
    return this.#ended.isEnded(id);
  }

  async #answerTo(ask: StateAsk): Promise<StateAnswer> {
    const answer = await this.#ask(ask);
    if (answer === undefined)
      throw new SallyportError(
        'oidc_provider_unavailable',
        'the first worker, which keeps logins apart, does not answer',
      );
    return answer;
  }
}

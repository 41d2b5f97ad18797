// Shares the state of logins between the workers of one gateway: the first worker keeps it. Every worker also knows the
// ended sessions, as every request checks them.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { EdgeWorkers, FirstWorker } from '../capability.ts';
import { type Claim, LocalSessions, type SessionMemory } from './session-memory.ts';

type Question =
  | { readonly op: 'spend'; readonly key: string; readonly until: number }
  | { readonly op: 'claim'; readonly key: string; readonly owner: string; readonly leaseMs: number }
  | {
      readonly op: 'settle';
      readonly key: string;
      readonly owner: string;
      readonly answer?: string | undefined;
      readonly keepMs: number;
    }
  | { readonly op: 'end'; readonly id: string; readonly until: number }
  | { readonly op: 'ended' };

type Ended = readonly (readonly [id: string, until: number])[];

/** In the first worker, also if it is the only one. */
export function sessionsOfFirst(workers: EdgeWorkers): LocalSessions {
  const sessions = new LocalSessions(Date.now, (id, until) => workers.tellAll([[id, until]] satisfies Ended));
  workers.serve({
    answer: (worker, question) => answer(sessions, worker, question as Question),
    gone: (worker) => sessions.release(ownerOf(worker, '')),
  });
  return sessions;
}

function answer(sessions: LocalSessions, worker: number, ask: Question): boolean | Claim | Ended {
  switch (ask.op) {
    case 'spend':
      return sessions.spend(ask.key, ask.until);
    case 'claim':
      return sessions.claim(ask.key, ownerOf(worker, ask.owner), ask.leaseMs);
    case 'settle':
      sessions.settle(ask.key, ownerOf(worker, ask.owner), ask.answer, ask.keepMs);
      return true;
    case 'end':
      sessions.end(ask.id, ask.until);
      return true;
    case 'ended':
      return sessions.ended();
  }
}

function ownerOf(worker: number, owner: string): string {
  return `worker ${worker} ${owner}`;
}

/** In another worker. Resolves once the ended sessions are known; nothing may be served before. */
export async function sessionsAtFirst(first: FirstWorker): Promise<SessionMemory> {
  const sessions = new FirstsSessions(first);
  await sessions.start();
  return sessions;
}

class FirstsSessions implements SessionMemory {
  readonly #first: FirstWorker;
  readonly #ended = new LocalSessions();

  constructor(first: FirstWorker) {
    this.#first = first;
    first.onTold((message) => this.#end(message as Ended));
  }

  async start(): Promise<void> {
    for (;;) {
      const all = await this.#first.ask<Ended>({ op: 'ended' } satisfies Question);
      if (all !== undefined) return this.#end(all);
    }
  }

  async spend(key: string, until: number): Promise<boolean> {
    return (await this.#answerTo<boolean>({ op: 'spend', key, until })) === true;
  }

  claim(key: string, owner: string, leaseMs: number): Promise<Claim> {
    return this.#answerTo({ op: 'claim', key, owner, leaseMs });
  }

  async settle(key: string, owner: string, answer: string | undefined, keepMs: number): Promise<void> {
    await this.#answerTo({ op: 'settle', key, owner, answer, keepMs });
  }

  async end(id: string, until: number): Promise<void> {
    this.#ended.end(id, until);
    await this.#first.ask({ op: 'end', id, until } satisfies Question);
  }

  isEnded(id: string): boolean {
    return this.#ended.isEnded(id);
  }

  #end(all: Ended): void {
    for (const [id, until] of all) this.#ended.end(id, until);
  }

  async #answerTo<T>(question: Question): Promise<T> {
    const answer = await this.#first.ask<T>(question);
    if (answer === undefined)
      throw new SallyportError(
        'oidc_provider_unavailable',
        'the first worker, which keeps the state of logins, does not respond',
      );
    return answer;
  }
}

// The last refusals, with what was known of each request, so that `sallyport why` can explain them. Nothing is explained
// before somebody asks: a flood of refused requests must not cost more than it does. Bounded in number and in size, in memory
// only, for the admin port only.

import { formatTime } from '../../cert-agent/base/clock.ts';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange.ts';
import type { PolicySet } from '../policy/compile.ts';
import { type Explanation, explain } from '../policy/explain.ts';
import type { RequestFacts } from '../policy/facts.ts';

/** One refusal that can still be explained. */
interface Denial {
  readonly id: string;
  /** Wall clock, milliseconds. */
  readonly time: number;
  readonly code: string;
  readonly reason: string;
  readonly policy: string;
  readonly facts: RequestFacts;
}

/** A refusal as it is listed; plain data. */
export interface DenialLine {
  readonly id: string;
  readonly time: string;
  readonly code: string;
  readonly policy: string;
  readonly from: string;
  readonly request: string;
}

/** A refusal as it is explained; plain data. */
export interface Why {
  readonly id: string;
  readonly time: string;
  readonly code: string;
  readonly reason: string;
  readonly request: {
    readonly protocol: string;
    readonly principal: string;
    readonly method: string;
    readonly path: string;
  };
  /** Null when what judged it is not kept any more. */
  readonly explanation: Explanation | null;
}

const maxDenials = 1000;
/** A generation of 10,000 rules takes megabytes: only those that may still be asked about soon are kept. */
const maxSets = 3;
const maxValue = 2048;

/** Codes that somebody may ask about; the rest says it all in its record. */
const explained = new Set(['policy_denied', 'ext_authz_denied', 'ext_authz_failed']);

export class Denials {
  readonly #kept = new Map<string, { readonly denial: Denial; set: PolicySet | undefined }>();
  readonly #sets: PolicySet[] = [];

  /** Remembers why `exchange` was refused. `facts` are read now, and not kept. */
  note(exchange: Exchange, error: SallyportError, facts: RequestFacts, set: PolicySet): void {
    if (!explained.has(error.code)) return;
    if (this.#sets.at(-1) !== set) this.#remember(set);
    const id = exchange.decisionId;
    this.#kept.set(id, {
      denial: {
        id,
        time: exchange.startedAt,
        code: error.code,
        reason: error.message,
        policy: exchange.policy,
        facts: copyFacts(facts, set),
      },
      set,
    });
    if (this.#kept.size > maxDenials) for (const oldest of this.#kept.keys()) return void this.#kept.delete(oldest);
  }

  /** Why a request was refused; undefined for one that is not known here. */
  why(id: string): Why | undefined {
    const known = this.#kept.get(id);
    if (known === undefined) return undefined;
    const { denial, set } = known;
    const { protocol, principal, method, path } = denial.facts;
    return {
      id,
      time: formatTime(denial.time),
      code: denial.code,
      reason: denial.reason,
      request: { protocol, principal, method, path },
      explanation: set === undefined ? null : explain(set, denial.facts, denial),
    };
  }

  /** The newest first. */
  list(): DenialLine[] {
    return [...this.#kept.values()]
      .map(({ denial: { id, time, code, policy, facts } }) => ({
        id,
        time: formatTime(time),
        code,
        policy,
        from: facts.principal,
        request: facts.protocol === 'tcp' ? `TCP :${facts.port}` : `${facts.method} ${facts.path}`,
      }))
      .toReversed();
  }

  #remember(set: PolicySet): void {
    this.#sets.push(set);
    if (this.#sets.length <= maxSets) return;
    const gone = this.#sets.shift();
    for (const one of this.#kept.values()) if (one.set === gone) one.set = undefined;
  }
}

/** Only the headers that some policy asks for: the others explain nothing, and may be secret. */
function copyFacts(facts: RequestFacts, { headers }: PolicySet): RequestFacts {
  const kept = new Map<string, string>();
  for (const name of headers) {
    const value = facts.header(name);
    if (value !== undefined) kept.set(name, value.slice(0, maxValue));
  }
  const { protocol, principal, method, host, port, sourceIp, remoteIp, destinationIp, sni, auth } = facts;
  return {
    ...{ protocol, principal, method, host, port, sourceIp, remoteIp, destinationIp, sni, auth },
    path: facts.path.slice(0, maxValue),
    header: (name) => kept.get(name),
  };
}

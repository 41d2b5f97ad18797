// The last refusals, with the facts of each request, so that `sallyport why` can explain them. Explanations are made on
// demand: a flood of refused requests must not cost more than it does. Bounded in number and in size, in memory only,
// for the admin port only.

import { formatTime } from '../../cert-agent/base/clock.ts';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange/exchange.ts';
import type { PolicySet } from '../policy/compile.ts';
import { explain } from '../policy/explain.ts';
import type { RequestFacts } from '../policy/facts.ts';
import type { DenialLine, Why } from './denial-lines.ts';
import { OtherRefusals } from './other-refusals.ts';

/** One refusal that can still be explained. */
interface Denial {
  readonly id: string;
  /** Wall clock, milliseconds. */
  readonly time: number;
  readonly code: string;
  readonly reason: string;
  readonly policy: string;
  /** The caller: a SPIFFE ID, or at a gateway the client as far as it is known. */
  readonly from: string;
  readonly facts: RequestFacts;
}

const maxDenials = 1000;
/** Limit on all of them: a flood of large requests must not take more memory than one of small ones. */
const maxBytes = 4 * 1024 * 1024;
/** Memory of one besides its texts (measured, rounded up). */
const bytesPerDenial = 1024;
/** A generation of 10,000 rules takes megabytes: only the latest are kept. */
const maxSets = 3;
const maxValue = 2048;
const maxOfOne = 32 * 1024;

/** Codes that can be explained further; for the others the record is complete. */
const explained = new Set(['policy_denied', 'ext_authz_denied', 'ext_authz_failed']);

/** No policy of the mesh is in force at a gateway, so that no header explains anything. */
const noHeaders = { headers: new Set<string>() };

interface Kept {
  readonly denial: Denial;
  readonly bytes: number;
  readonly gateway: boolean;
  set: PolicySet | undefined;
}

/** One for each process. Holds facts of requests, which may be personal: shown on the admin port only. */
export class Denials {
  readonly #kept = new Map<string, Kept>();
  #bytes = 0;
  readonly #sets: PolicySet[] = [];
  /** Connections that were refused before a request. */
  readonly connections = new OtherRefusals();
  /** Requests of the own app, outbound. */
  readonly outbound = new OtherRefusals();

  /** Remembers why `exchange` was refused. `facts` are copied now, and not kept. */
  note(exchange: Exchange, error: SallyportError, facts: RequestFacts, set: PolicySet): void {
    if (!explained.has(error.code)) return;
    if (this.#sets.at(-1) !== set) this.#remember(set);
    this.#keep(exchange, error, facts, set, facts.principal);
  }

  /** The same at a gateway, for callers that are unknown or may not do this. `from` names the client. */
  noteAtGateway(exchange: Exchange, error: SallyportError, facts: RequestFacts, from: string): void {
    const { status } = error.row;
    if (status === 401 || status === 403) this.#keep(exchange, error, facts, undefined, from);
  }

  #keep(
    exchange: Exchange,
    error: SallyportError,
    facts: RequestFacts,
    set: PolicySet | undefined,
    caller: string,
  ): void {
    const id = exchange.decisionId;
    const { facts: copied, bytes } = copyFacts(facts, set ?? noHeaders);
    const reason = copyText(error.message);
    const from = copyText(caller);
    const size = bytesPerDenial + bytes + reason.length + from.length;
    const denial = {
      id,
      time: exchange.startedAt,
      code: error.code,
      reason,
      policy: exchange.policy,
      from,
      facts: copied,
    };
    this.#bytes -= this.#kept.get(id)?.bytes ?? 0;
    this.#kept.delete(id);
    this.#kept.set(id, { denial, bytes: size, set, gateway: set === undefined });
    this.#bytes += size;
    for (const [oldest, one] of this.#kept) {
      if (this.#kept.size <= maxDenials && this.#bytes <= maxBytes) break;
      this.#kept.delete(oldest);
      this.#bytes -= one.bytes;
    }
  }

  /** Bytes held, approximately; for tests. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Why a request was refused; undefined for an unknown one. */
  why(id: string): Why | undefined {
    const known = this.#kept.get(id);
    if (known === undefined) return this.connections.why(id) ?? this.outbound.why(id);
    const { denial, set, gateway } = known;
    const { protocol, method, path } = denial.facts;
    return {
      id,
      time: formatTime(denial.time),
      code: denial.code,
      reason: denial.reason,
      request: { protocol, principal: denial.from, method, path },
      policy: denial.policy,
      gateway,
      explanation: set === undefined ? null : explain(set, denial.facts, denial),
    };
  }

  /** The newest first. */
  list(): DenialLine[] {
    const byPolicies = [...this.#kept.values()].map(({ denial: { id, time, code, policy, from, facts } }) => ({
      id,
      time: formatTime(time),
      code,
      policy,
      from,
      isRequest: true,
      request: facts.protocol === 'tcp' ? `TCP :${facts.port}` : `${facts.method} ${facts.path}`,
    }));
    const all = [...byPolicies, ...this.connections.list(false), ...this.outbound.list(true)];
    return all.toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0)).toReversed();
  }

  #remember(set: PolicySet): void {
    this.#sets.push(set);
    if (this.#sets.length <= maxSets) return;
    const gone = this.#sets.shift();
    for (const one of this.#kept.values()) if (one.set === gone) one.set = undefined;
  }
}

/** Only the headers that some policy tests: others explain nothing, and may be secret. */
function copyFacts(
  facts: RequestFacts,
  { headers }: Pick<PolicySet, 'headers'>,
): { facts: RequestFacts; bytes: number } {
  const kept = new Map<string, string>();
  let bytes = 0;
  const copy = (text: string): string => {
    const own = copyText(text);
    bytes += own.length;
    return own;
  };
  for (const name of headers) {
    // Policies may test more headers than we would keep of one request.
    const value = bytes > maxOfOne ? undefined : facts.header(name);
    if (value !== undefined) kept.set(name, copy(value));
  }
  const { protocol, principal, method, host, port, sourceIp, remoteIp, destinationIp, sni, auth } = facts;
  // Claims are shared with the cached token, but may outlive it.
  if (auth !== undefined) bytes += JSON.stringify(auth.claims).length;
  return {
    facts: {
      ...{ protocol, principal, port, sourceIp, remoteIp, destinationIp, auth },
      ...{ method: copy(method), host: copy(host), sni: copy(sni), path: copy(facts.path) },
      header: (name) => kept.get(name),
    },
    get bytes() {
      return bytes;
    },
  };
}

/** A bounded copy of a text: a slice would keep the whole head in memory. */
function copyText(text: string): string {
  return Buffer.from(text.slice(0, maxValue), 'utf8').toString('utf8');
}

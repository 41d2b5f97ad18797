// `policy diff` and `policy replay`: which decisions a change of policies changes.

import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { LoggedRequest } from '../analyze/replay.ts';
import type { ScopeFlags } from '../analyze/world.ts';
import type { PolicySet } from '../policy/compile.ts';
import type { RequestFacts } from '../policy/facts.ts';
import type { PolicyScope, Workload } from '../policy/policy.ts';
import { counted, exitCodes, note, notePassedOver, paint, print, printJson, printTable } from './terminal.ts';

interface DiffFlags extends ScopeFlags {
  readonly log?: string;
  readonly json?: boolean;
}

/** A kind of request whose decision changes. */
interface Change {
  /** The workload: from the flags, or one of those that the policies' selectors distinguish. */
  readonly workload: string;
  readonly before: string;
  readonly after: string;
  readonly from: string;
  readonly request: string;
  count: number;
  firstSeen: string | null;
  lastSeen: string | null;
}

/** `policy diff`. */
export async function diffPolicies(before: string, after: string, flags: DiffFlags): Promise<number> {
  const [old, next] = await Promise.all([
    readPolicies({ ...flags, policies: [before] }),
    readPolicies({ ...flags, policies: [after] }),
  ]);
  const { evaluate } = await evaluator();
  const compared = new Comparison();
  const scopes = isScoped(flags) ? [old.scope] : await scopesOf(old, next);
  if (flags.log !== undefined && scopes.length > 1) {
    const names = scopes.map(({ workload }) => nameOf(workload)).join(', ');
    throw new SallyportError('usage', `a log belongs to one workload, but the policies apply to ${names}`, {
      hint: 'give the workload with --config, or with --namespace and --label',
    });
  }
  for (const scope of scopes) {
    if (!old.holdsFor(scope) && !next.holdsFor(scope)) continue;
    const [oldSet, nextSet] = [old.compile(scope), next.compile(scope)];
    const workload = nameOf(scope.workload);
    const compare = (facts: RequestFacts, time: string | null, askedForMore?: () => boolean): void => {
      compared.count++;
      const [was, is] = [evaluate(oldSet, facts), evaluate(nextSet, facts)];
      if (askedForMore?.() === true) compared.untold++;
      else if (was.allowed !== is.allowed || was.asks !== is.asks)
        compared.note(workload, facts, was.text, is.text, time);
    };
    if (flags.log === undefined) {
      const { makeWitnesses } = await import('../policy/witness.ts');
      const about = { trustDomain: scope.trustDomain, namespace: scope.workload.namespace };
      for (const facts of makeWitnesses([oldSet, nextSet], about)) compare(facts, null);
    } else for await (const one of readLog(flags.log)) compare(one.facts, one.time, one.askedForMore);
  }
  const workloads = scopes.map(({ workload }) => nameOf(workload));
  return show(compared, { workloads, shown: !isScoped(flags) }, flags.json === true);
}

/** `policy replay`. */
export async function replayLog(flags: DiffFlags): Promise<number> {
  const next = await readPolicies(flags);
  const workloads = [nameOf(next.scope.workload)];
  if (!next.holdsFor(next.scope)) throw nothingCompared(workloads);
  const set = next.compile(next.scope);
  const [{ evaluate }, { customPrefix }] = await Promise.all([evaluator(), import('../policy/policy.ts')]);
  const compared = new Comparison();
  for await (const one of readLog(flags.log!)) {
    compared.count++;
    const is = evaluate(set, one.facts);
    // A rule needs a header or a claim, or an authorizer is needed: a log has neither.
    if (one.askedForMore() || is.asks !== '' || one.policy.startsWith(customPrefix)) compared.untold++;
    else if (is.allowed !== one.allowed)
      compared.note(workloads[0]!, one.facts, one.allowed ? `allow ${one.policy}` : one.policy, is.text, one.time);
  }
  if (compared.count === 0)
    throw new SallyportError('usage', `${flags.log} contains no request with a policy decision: nothing was compared`, {
      hint: 'use the access log of a sidecar with inbound ports',
    });
  return show(compared, { workloads, shown: false }, flags.json === true);
}

interface Policies {
  readonly scope: PolicyScope;
  readonly selectors: readonly Pick<Workload, 'namespace' | 'labels'>[];
  /** True if one of the policies is attached to the workload of `scope`. */
  holdsFor(scope: PolicyScope): boolean;
  compile(scope: PolicyScope): PolicySet;
}

async function readPolicies(flags: ScopeFlags): Promise<Policies> {
  const [{ readWorld }, { compilePolicies }, { isAttached }] = await Promise.all([
    import('../analyze/world.ts'),
    import('../policy/compile.ts'),
    import('../policy/policy.ts'),
  ]);
  const { documents, scope, passedOver } = await readWorld(flags);
  notePassedOver(passedOver);
  const policies = documents.authorizationPolicies;
  return {
    scope,
    selectors: policies
      .filter(({ targetRefs }) => targetRefs === undefined)
      .map(({ namespace, matchLabels = {} }) => ({ namespace, labels: matchLabels })),
    holdsFor: (one) => policies.some((policy) => isAttached(policy, one)),
    // A dry-run policy is evaluated as if it were enforced: that is the purpose of the comparison.
    compile: (one) => compilePolicies(policies, one),
  };
}

/** True if a flag selects a workload. */
function isScoped({ config, namespace, label, serviceAccount }: ScopeFlags): boolean {
  return [config, namespace, label, serviceAccount].some((one) => one !== undefined);
}

/** A workload for each selector of either version, in each namespace of the policies, or in `default` without any. */
async function scopesOf(old: Policies, next: Policies): Promise<PolicyScope[]> {
  const { isDeepStrictEqual } = await import('node:util');
  const { rootNamespace } = old.scope;
  const all = [...old.selectors, ...next.selectors];
  const own = [...new Set(all.map(({ namespace }) => namespace).filter((one) => one !== rootNamespace))];
  const namespaces = own.length === 0 ? ['default'] : own;
  const found: PolicyScope[] = [];
  for (const { namespace, labels } of all)
    for (const one of namespace === rootNamespace ? namespaces : [namespace]) {
      const scope = { ...old.scope, workload: { namespace: one, serviceAccount: '', labels } };
      if (!found.some((known) => isDeepStrictEqual(known, scope))) found.push(scope);
    }
  return found;
}

function nameOf({ namespace, labels }: Pick<Workload, 'namespace' | 'labels'>): string {
  const pairs = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? namespace : `${namespace}/${pairs.join(',')}`;
}

/** An empty comparison must not look like one without differences. */
function nothingCompared(workloads: readonly string[]): SallyportError {
  const whom = workloads.length === 0 ? 'any workload' : workloads.join(', ');
  return new SallyportError('usage', `no AuthorizationPolicy applies to ${whom}: nothing was compared`, {
    hint: 'give the workload with --config, or with --namespace and --label',
  });
}

interface Evaluated {
  readonly allowed: boolean;
  /** The external authorizers to ask first; empty for none. */
  readonly asks: string;
  readonly text: string;
}

async function evaluator(): Promise<{ evaluate: (set: PolicySet, facts: RequestFacts) => Evaluated }> {
  const [{ customOf, decide, policiesFor }, { isPermit }] = await Promise.all([
    import('../policy/decide.ts'),
    import('../policy/policy.ts'),
  ]);
  return {
    evaluate(set, facts) {
      const peer = policiesFor(set, facts.principal === '' ? null : facts.principal);
      const decision = decide(peer, facts);
      const allowed = isPermit(decision);
      const asks = customOf(peer, facts)
        .map(({ provider }) => provider)
        .join(', ');
      const text = allowed ? `allow ${decision.policy}` : decision.policy;
      return { allowed, asks, text: asks === '' ? text : `ask ${asks}, then ${text}` };
    },
  };
}

class Comparison {
  readonly changes = new Map<string, Change>();
  count = 0;
  /** Requests whose decision depends on unknown data. */
  untold = 0;

  note(workload: string, facts: RequestFacts, before: string, after: string, time: string | null): void {
    const from = facts.principal || 'no identity';
    const request =
      facts.protocol === 'tcp'
        ? `TCP :${facts.port}`
        : `${facts.method} ${facts.path} (host ${facts.host}, port ${facts.port})`;
    const key = [workload, before, after, from, request].join('\n');
    const known = this.changes.get(key);
    if (known === undefined)
      this.changes.set(key, { workload, before, after, from, request, count: 1, firstSeen: time, lastSeen: time });
    else {
      known.count++;
      known.lastSeen = time;
    }
  }
}

/** @throws SallyportError `usage` where nothing was compared. */
function show(
  { changes, count: compared, untold }: Comparison,
  { workloads, shown }: { readonly workloads: readonly string[]; readonly shown: boolean },
  json: boolean,
): number {
  if (compared === 0) throw nothingCompared(workloads);
  const list = [...changes.values()].toSorted((a, b) => b.count - a.count);
  if (json) printJson({ workloads, compared, cannotBeTold: untold, changes: list });
  else {
    const head = ['before', 'after', 'from', 'request', 'count'];
    printTable(
      shown ? ['workload', ...head] : head,
      list.map(({ workload, before, after, from, request, count }) => [
        ...(shown ? [workload] : []),
        ...[before, after, from, request, String(count)],
      ]),
      'no decision changes',
    );
    note(
      `${counted(compared, 'request')} compared${shown ? ` for ${workloads.join(', ')}` : ''}${untold > 0 ? `, ${untold} cannot be decided without a header, a claim or an authorizer` : ''}`,
    );
    if (list.length > 0)
      print(
        paint(
          'yellow',
          `${counted(list.length, 'kind of request changes its decision', 'kinds of requests change their decisions')}`,
        ),
      );
  }
  return list.length === 0 ? exitCodes.ok : exitCodes.no;
}

async function* readLog(file: string): AsyncGenerator<LoggedRequest> {
  const { readLogLine } = await import('../analyze/replay.ts');
  const input = file === '-' ? process.stdin : createReadStream(file);
  const failed = new Promise<never>((_, reject) => {
    input.once('error', (error: unknown) =>
      reject(new SallyportError('config_unreadable', `${file} cannot be read: ${reasonOf(error)}`)),
    );
  });
  failed.catch(() => {});
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  for (let number = 1; ; number++) {
    const { done, value } = await Promise.race([lines.next(), failed]);
    if (done === true) return;
    if (value.trim() === '') continue;
    let read: LoggedRequest | undefined;
    try {
      read = readLogLine(value);
    } catch (error) {
      throw new SallyportError('body_invalid', `${file}:${number}: not a line of an access log: ${reasonOf(error)}`);
    }
    if (read !== undefined) yield read;
  }
}

// `policy diff` and `policy replay`: which verdicts a change of policy changes.

import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { ScopeFlags } from '../config/world.ts';
import type { LoggedRequest } from '../observe/replay.ts';
import type { PolicySet } from '../policy/compile.ts';
import type { RequestFacts } from '../policy/facts.ts';
import { exitCodes, note, notePassedOver, paint, print, printJson, printTable } from './terminal.ts';

interface DiffFlags extends ScopeFlags {
  readonly log?: string;
  readonly json?: boolean;
}

/** A kind of request whose verdict changes. */
interface Change {
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
    compileFrom({ ...flags, policies: [before] }),
    compileFrom({ ...flags, policies: [after] }),
  ]);
  const { judge } = await judging();
  const changes = new Map<string, Change>();
  let compared = 0;
  let untold = 0;
  const compare = (facts: RequestFacts, time: string | null, askedForMore?: () => boolean): void => {
    compared++;
    const [was, is] = [judge(old.set, facts), judge(next.set, facts)];
    if (askedForMore?.() === true) untold++;
    else if (was.allowed !== is.allowed || was.asks !== is.asks) noteChange(changes, facts, was.text, is.text, time);
  };
  if (flags.log === undefined) {
    const { makeWitnesses } = await import('../policy/witness.ts');
    const scope = { trustDomain: old.scope.trustDomain, namespace: old.scope.workload.namespace };
    for (const facts of makeWitnesses([old.set, next.set], scope)) compare(facts, null);
  } else for await (const one of readLog(flags.log)) compare(one.facts, one.time, one.askedForMore);
  return show(changes, compared, untold, flags.json === true);
}

/** `policy replay`. */
export async function replayLog(flags: DiffFlags): Promise<number> {
  const next = await compileFrom(flags);
  const [{ judge }, { customPrefix }] = await Promise.all([judging(), import('../policy/policy.ts')]);
  const changes = new Map<string, Change>();
  let compared = 0;
  let untold = 0;
  for await (const one of readLog(flags.log!)) {
    compared++;
    const is = judge(next.set, one.facts);
    // Somebody asked for a header or a claim, or an authorizer is to be asked: a log holds neither.
    if (one.askedForMore() || is.asks !== '' || one.policy.startsWith(customPrefix)) untold++;
    else if (is.allowed !== one.allowed)
      noteChange(changes, one.facts, one.allowed ? `allow ${one.policy}` : one.policy, is.text, one.time);
  }
  return show(changes, compared, untold, flags.json === true);
}

async function compileFrom(
  flags: ScopeFlags,
): Promise<{ set: PolicySet; scope: import('../policy/policy.ts').PolicyScope }> {
  const [{ readWorld }, { compilePolicies }] = await Promise.all([
    import('../config/world.ts'),
    import('../policy/compile.ts'),
  ]);
  const { documents, scope, passedOver } = readWorld(flags);
  notePassedOver(passedOver);
  // A policy on trial is asked about as if it were in force: that is what the question is for.
  return { set: compilePolicies(documents.authorizationPolicies, scope), scope };
}

interface Judged {
  readonly allowed: boolean;
  /** The external authorizers that are asked first; empty for none. */
  readonly asks: string;
  readonly text: string;
}

async function judging(): Promise<{ judge: (set: PolicySet, facts: RequestFacts) => Judged }> {
  const [{ customOf, decide, policiesFor }, { isPermit }] = await Promise.all([
    import('../policy/decide.ts'),
    import('../policy/policy.ts'),
  ]);
  return {
    judge(set, facts) {
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

function noteChange(
  changes: Map<string, Change>,
  facts: RequestFacts,
  before: string,
  after: string,
  time: string | null,
): void {
  const from = facts.principal || 'nobody';
  const request =
    facts.protocol === 'tcp'
      ? `TCP :${facts.port}`
      : `${facts.method} ${facts.path} (host ${facts.host}, port ${facts.port})`;
  const key = [before, after, from, request].join('\n');
  const known = changes.get(key);
  if (known === undefined)
    changes.set(key, { before, after, from, request, count: 1, firstSeen: time, lastSeen: time });
  else {
    known.count++;
    known.lastSeen = time;
  }
}

function show(changes: ReadonlyMap<string, Change>, compared: number, untold: number, json: boolean): number {
  const list = [...changes.values()].toSorted((a, b) => b.count - a.count);
  if (json) printJson({ compared, cannotBeTold: untold, changes: list });
  else {
    printTable(
      ['before', 'after', 'from', 'request', 'count'],
      list.map(({ before, after, from, request, count }) => [before, after, from, request, String(count)]),
      'no verdict changes',
    );
    note(
      `${compared} requests compared${untold > 0 ? `, ${untold} cannot be told: they hang on a header, a claim or an authorizer` : ''}`,
    );
    if (list.length > 0) print(paint('yellow', `${list.length} kinds of requests change their verdict`));
  }
  return list.length === 0 ? exitCodes.ok : exitCodes.no;
}

async function* readLog(file: string): AsyncGenerator<LoggedRequest> {
  const { readLogLine } = await import('../observe/replay.ts');
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
      throw new SallyportError(
        'body_invalid',
        `${file}:${number}: this is no line of an access log: ${reasonOf(error)}`,
      );
    }
    if (read !== undefined) yield read;
  }
}

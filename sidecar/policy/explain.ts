// Why a request was decided as it was: the evaluator itself, with an observer that sees every check. It gives what was
// considered, in order, and what decided. Where no ALLOW rule matched, it gives the nearest ones, what failed in them,
// and the smallest edit that would let the request pass. Plain data: for the CLI and the admin port, never for the
// caller.

import type { CompiledRule, PolicySet } from './compile.ts';
import { auditOf, customOf, decide, policiesFor, rulesOf } from './decide.ts';
import type { RequestFacts } from './facts.ts';
import { matches } from './index-rules.ts';
import { type Action, customPrefix, isPermit, ruleId } from './policy.ts';
import type { Check, Clause } from './shape.ts';

/** A field that did not hold. */
export interface FailedCheck {
  /** `spec.rules[0].to[0].operation.methods` */
  readonly place: string;
  readonly field: string;
  readonly wanted: readonly string[];
  readonly negated: boolean;
  /** Null if the request has no such attribute. */
  readonly saw: string | null;
}

/** What became of one rule. `failed` is empty if it matched. */
export interface RuleReport {
  readonly action: Action;
  /** `namespace/name` */
  readonly policy: string;
  readonly rule: number;
  readonly matched: boolean;
  readonly failed: readonly FailedCheck[];
}

/** The answer to 'why was this decided?'. Has values of the request: for operators only. */
export interface Explanation {
  readonly allowed: boolean;
  /** Istio's id of the rule that decided, `none` or `default-action`. */
  readonly policy: string;
  /** In one sentence. */
  readonly because: string;
  /** The rules of each action in evaluation order; of those that did not match, only the nearest. */
  readonly considered: readonly RuleReport[];
  /** How many rules of each action are in scope. */
  readonly inScope: Readonly<Record<Action, number>>;
  /** If no ALLOW rule matched: the ones that came nearest. */
  readonly nearest: readonly RuleReport[];
  /** The smallest edits that would let it pass, as sentences; the first is the smallest. */
  readonly edits: readonly string[];
  /** The AUDIT rule that matches, if any. */
  readonly audit: string | null;
}

const order: readonly Action[] = ['CUSTOM', 'DENY', 'ALLOW', 'AUDIT'];
const maxNearest = 3;

/** A recorded refusal: by which policy, and why. */
export interface Refused {
  readonly policy: string;
  readonly reason: string;
}

/**
 * Explains what `decide` returns for these facts. `refused` is the recorded decision: an external authorizer is asked
 * before `decide`, and cannot be asked again.
 */
export function explain(set: PolicySet, facts: RequestFacts, refused?: Refused): Explanation {
  const peer = policiesFor(set, facts.principal === '' ? null : facts.principal);
  const decision = decide(peer, facts);
  const reports = order.flatMap((action) => rulesOf(set, action).map((rule) => reportOf(action, rule, facts)));
  const ofAction = (action: Action): RuleReport[] => reports.filter((one) => one.action === action);
  const nearest = ofAction('ALLOW')
    .filter(({ matched }) => !matched)
    .toSorted((a, b) => a.failed.length - b.failed.length)
    .slice(0, maxNearest);
  const denied = ofAction('DENY').find(({ matched }) => matched);
  const asks = customOf(peer, facts);
  const allowed = isPermit(decision);
  const first = refused?.policy.startsWith(customPrefix) === true ? refused : undefined;
  const missed = !allowed && denied === undefined;
  return {
    allowed: allowed && first === undefined,
    policy: first?.policy ?? decision.policy,
    because: becauseOf(decision.policy, denied, ofAction('ALLOW').length, allowed, asks, first),
    considered: reports.filter(
      (one) => one.matched || (one.action === 'DENY' && nearlyMatches(one)) || nearest.includes(one),
    ),
    inScope: Object.fromEntries(order.map((action) => [action, ofAction(action).length])) as Record<Action, number>,
    nearest: missed ? nearest : [],
    edits: missed ? editsFor(nearest, facts) : denied === undefined ? [] : [editOfDenial(denied)],
    audit: auditOf(peer, facts) ?? null,
  };
}

function nearlyMatches({ failed }: RuleReport): boolean {
  return failed.length === 1;
}

function becauseOf(
  policy: string,
  denied: RuleReport | undefined,
  allowRules: number,
  allowed: boolean,
  asks: readonly CompiledRule[],
  first: Refused | undefined,
): string {
  const custom = asks
    .map(({ name, provider }) => `${ruleId(name)} requires the authorizer ${provider} to be asked first`)
    .join('; ');
  const own = denied
    ? `the DENY rule ${policy} matches`
    : policy === 'default-action'
      ? 'no DENY rule matches, no ALLOW policy is in scope, and the default action is to allow'
      : allowed
        ? `no DENY rule matches, and the ALLOW rule ${policy} does`
        : allowRules === 0
          ? 'no DENY rule matches, and there is no ALLOW rule in scope'
          : `no DENY rule matches, and ${allowRules === 1 ? 'the one ALLOW rule in scope does not match' : `none of the ${allowRules} ALLOW rules in scope matches`}`;
  if (first !== undefined) return `${first.reason}; of the other rules: ${own}`;
  return custom === '' ? own : `${custom}; then ${own}`;
}

/** A rule with what failed in it: for its sources and its operations, the one that came nearest. */
function reportOf(action: Action, rule: CompiledRule, facts: RequestFacts): RuleReport {
  const { name } = rule;
  const base = { action, policy: `${name.namespace}/${name.name}`, rule: name.rule };
  const shape = facts.protocol === 'tcp' ? rule.tcp : rule.http;
  if (shape === null) return { ...base, matched: false, failed: httpFields(rule) };
  const failures = new Map<Clause, Check[]>();
  const matched = matches(shape, facts, (check, held, clause) => {
    const list = failures.get(clause) ?? [];
    failures.set(clause, list);
    if (!held) list.push(check);
  });
  if (matched) return { ...base, matched, failed: [] };
  const nearestOf = (kind: 'from' | 'to', clauses: readonly Clause[] | undefined): FailedCheck[] => {
    const all = (clauses ?? []).map((clause, index) => ({ index, failed: failures.get(clause) ?? [] }));
    const [best] = all.toSorted((a, b) => a.failed.length - b.failed.length);
    const of = kind === 'from' ? 'source' : 'operation';
    return (best?.failed ?? []).map((check) =>
      failedCheck(check, `spec.rules[${name.rule}].${kind}[${best!.index}].${of}.${check.field}`, facts),
    );
  };
  return {
    ...base,
    matched,
    failed: [
      ...nearestOf('from', shape.sources),
      ...nearestOf('to', shape.operations),
      ...(failures.get(shape.conditions) ?? []).map((check) =>
        failedCheck(check, `spec.rules[${name.rule}].${check.field}`, facts),
      ),
    ],
  };
}

function failedCheck({ field, values, negated, attribute }: Check, place: string, facts: RequestFacts): FailedCheck {
  return { place, field, wanted: values, negated, saw: attribute.see(facts) ?? null };
}

/** An ALLOW rule that does not exist on TCP fails on its HTTP-only fields. */
function httpFields({ http, name }: CompiledRule): FailedCheck[] {
  const all = [...(http.sources ?? []), ...(http.operations ?? []), http.conditions].flat();
  return all
    .filter(({ attribute }) => attribute.httpOnly)
    .map(({ field, values, negated }) => ({
      place: `spec.rules[${name.rule}]: ${field}`,
      field,
      wanted: values,
      negated,
      saw: null,
    }));
}

function editsFor(nearest: readonly RuleReport[], facts: RequestFacts): string[] {
  return nearest.map(({ policy, failed }) => `in ${policy}: ${failed.map((one) => editOf(one, facts)).join(', and ')}`);
}

function editOf({ place, field, wanted, negated, saw }: FailedCheck, facts: RequestFacts): string {
  if (facts.protocol === 'tcp' && saw === null && place.includes(': '))
    return `remove '${field}', which does not exist on TCP`;
  if (negated) return `remove the value that matches '${saw ?? ''}' from ${place} (values: ${list(wanted)})`;
  if (saw === null) return `remove ${place}, or send a matching value (${list(wanted)})`;
  return `add '${valueFor(field, saw)}' to ${place}`;
}

/** The value to write into a document for what was seen. */
function valueFor(field: string, saw: string): string {
  const plain = field.replace(/^when source\./, '');
  if (/^principals?$/.test(plain)) return saw.replace('spiffe://', '');
  if (/^namespaces?$/.test(plain)) return /\/ns\/([^/]+)\//.exec(saw)?.[1] ?? saw;
  if (/^serviceAccounts?$/.test(plain)) {
    const [, ns, sa] = /\/ns\/([^/]+)\/(?:.*\/)?sa\/([^/]+)/.exec(saw) ?? [];
    return ns === undefined ? saw : `${ns}/${sa}`;
  }
  if (/^trustDomains?$/.test(plain)) return /^spiffe:\/\/([^/]+)/.exec(saw)?.[1] ?? saw;
  return /^when request\.auth\.claims/.test(field) ? firstOf(saw) : saw;
}

/** For a claim that is a list, any member will do. */
function firstOf(saw: string): string {
  try {
    const value: unknown = JSON.parse(saw);
    return Array.isArray(value) && typeof value[0] === 'string' ? value[0] : saw;
  } catch {
    return saw;
  }
}

function editOfDenial({ policy, rule }: RuleReport): string {
  return `in ${policy}: narrow spec.rules[${rule}] so that it does not match this request, or remove it; ALLOW rules cannot outweigh it`;
}

function list(values: readonly string[]): string {
  const shown = values.slice(0, 5).map((one) => `'${one}'`);
  return values.length > 5 ? `${shown.join(', ')} and ${values.length - 5} more` : shown.join(', ');
}

// Whether a caller may send a message, and see a name in a list. The first rule that matches decides. Fails closed:
// unknown methods, and names with several spellings, need a rule that names them.

import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import type { Match } from '../../policy/match.ts';
import { compilePrincipal, type Test, type Vouches } from '../principal.ts';
import type { Message } from './message.ts';
import { compileMethods, compileNames, type Kind, Name, type NameMatch } from './names.ts';
import type { McpPlan } from './schema.ts';

interface CompiledRule {
  readonly name: string;
  readonly isAllow: boolean;
  readonly isAboutAll: boolean;
  readonly tests: readonly Test[];
  readonly methods: Match | undefined;
  readonly names: NameMatch | undefined;
}

/** A decision about a message. */
export interface Verdict {
  readonly isAllowed: boolean;
  /** The rule that decided. */
  readonly rule: string;
}

/** The permissions of one caller. */
export interface Caller {
  /** False for a caller that no rule allows anything: it may not even start a session. */
  readonly isAdmitted: boolean;
  /** About one message. A message with several targets needs all of them. */
  judge(message: Message): Verdict;
  /** Whether a list shows this name. */
  sees(kind: Kind, name: string): boolean;
}

/** Finds the rules of a caller. */
export type CallerOf = (exchange: Exchange, connection: ConnectionFacts) => Caller;

/** The method by which a name of a list is used. */
const uses: Readonly<Record<Kind, string>> = { tool: 'tools/call', prompt: 'prompts/get', resource: 'resources/read' };

/** `of` begins the names of the rules, for the log. */
export function compileRules({ rules, defaultAction }: McpPlan, of: string, vouches: Vouches | undefined): CallerOf {
  const compiled = rules.map(
    ({ name, action, principal, operation }): CompiledRule => ({
      name: `${of}/rule/${name}`,
      isAllow: action === 'Allow',
      isAboutAll: operation === undefined,
      tests: compilePrincipal(principal, action, vouches),
      methods: compileMethods(operation?.methods, action),
      names: compileNames(operation ?? {}, action),
    }),
  );
  const byDefault: Verdict = { isAllowed: defaultAction === 'Allow', rule: `${of}/default` };
  return (exchange, connection) =>
    new RulesOfCaller(
      compiled.filter(({ tests }) => tests.every((test) => test(exchange, connection))),
      byDefault,
    );
}

class RulesOfCaller implements Caller {
  readonly #rules: readonly CompiledRule[];
  readonly #byDefault: Verdict;
  readonly isAdmitted: boolean;

  constructor(rules: readonly CompiledRule[], byDefault: Verdict) {
    this.#rules = rules;
    this.#byDefault = byDefault;
    const first = rules.find(({ isAllow, isAboutAll }) => isAllow || isAboutAll);
    this.isAdmitted = first?.isAllow ?? byDefault.isAllowed;
  }

  judge({ method, targets, isKnown, isTwin }: Message): Verdict {
    // Responses belong to the session, which belongs to its caller.
    if (method === undefined) return { isAllowed: this.isAdmitted, rule: this.#byDefault.rule };
    if (isTwin) return { isAllowed: false, rule: this.#byDefault.rule };
    if (targets.length === 0) return this.#decide(method, undefined, isKnown);
    let last = this.#byDefault;
    for (const target of targets) {
      last = this.#decide(method, new Name(target.kind, target.name), isKnown);
      if (!last.isAllowed) return last;
    }
    return last;
  }

  sees(kind: Kind, name: string): boolean {
    return this.#decide(uses[kind], new Name(kind, name), true).isAllowed;
  }

  #decide(method: string, target: Name | undefined, isKnown: boolean): Verdict {
    const isOrdinary = isKnown && (target === undefined || target.isPlain);
    const rule = this.#rules.find((one) => isAbout(one, method, target, isKnown, isOrdinary));
    if (rule !== undefined) return { isAllowed: rule.isAllow, rule: rule.name };
    const { rule: name, isAllowed } = this.#byDefault;
    // The session itself, and filtered lists: for each caller that may use anything.
    if (target === undefined && isKnown) return { isAllowed: this.isAdmitted, rule: name };
    return { isAllowed: isAllowed && isOrdinary, rule: name };
  }
}

function isAbout(
  { isAllow, methods, names }: CompiledRule,
  method: string,
  target: Name | undefined,
  isKnown: boolean,
  isOrdinary: boolean,
): boolean {
  if (methods !== undefined && !methods(method)) return false;
  if (names !== undefined) return target !== undefined && (isKnown || methods !== undefined) && names(target);
  if (!isAllow) return true;
  // A named method may be unknown to us; a name in it still has one spelling.
  return methods === undefined ? isOrdinary : target === undefined || target.isPlain;
}

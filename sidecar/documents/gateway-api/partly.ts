// A route with rules that cannot be served. Each of those answers 500 to its requests, and the others are served
// (Gateway API's `PartiallyInvalid`). Its matches are read as far as possible. If they cannot be read, more is covered,
// never less: requests that reached the next rule would avoid what the broken rule was to require.

import { formatProblem, type Problem } from '../../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { GrpcRule, HttpRule, RouteSpec } from '../../routing/documents.ts';
import { wrongIn } from '../../routing/unsupported.ts';
import { sectionName } from '../../schema/gateway-patterns.ts';
import { coverGrpc, coverHttp, coverMatches } from './cover.ts';
import { readGatewayApi } from './gateway.ts';

type Read = ReturnType<typeof readGatewayApi>;
type Rule = HttpRule | GrpcRule;
type Reason = 'UnsupportedValue' | 'IncompatibleFilters';

/** If a stream's only rule is broken, nothing is left: those routes are served whole or not at all. */
const coverOf = { HTTPRoute: coverHttp, GRPCRoute: coverGrpc } as const;

/**
 * A document of Gateway API as its schema reads it. If only rules of a route are invalid: the other rules, and
 * stand-ins for those.
 */
export function readRoutePartly(document: YamlDocument): Read {
  const { kind, spec } = document.value as { readonly kind: string; readonly spec?: { readonly rules?: unknown } };
  const whole = readGatewayApi(document);
  const cover = coverOf[kind as keyof typeof coverOf] as ((match: unknown) => object) | undefined;
  const rules = spec?.rules;
  if (cover === undefined || !Array.isArray(rules)) return whole;
  if (!('problems' in whole)) return withBroken(whole, (rule) => brokenBy(rule, cover));
  const said = new Map<number, readonly Problem[]>();
  for (const index of rules.keys()) {
    // An empty rule is valid: every problem found is this one's, with its place.
    const alone = readGatewayApi(
      withRules(
        document,
        rules.map((rule: unknown, at) => (at === index ? rule : {})),
      ),
    );
    if ('problems' in alone) said.set(index, alone.problems);
  }
  const rest = readGatewayApi(
    withRules(
      document,
      rules.map((rule: unknown, at) => (said.has(at) ? nameOfRule(rule) : rule)),
    ),
  );
  // The problem is not in a rule, or is in several together.
  if ('problems' in rest) return whole;
  return withBroken(rest, (rule, index) => {
    const problems = said.get(index);
    if (problems === undefined) return brokenBy(rule, cover);
    return standIn(rule, rules[index], cover, sentenceOf(problems), reasonOf(problems));
  });
}

function withBroken(
  read: Exclude<Read, { problems: Problem[] }>,
  breakRule: (rule: Rule, index: number) => Rule,
): Read {
  const spec = read.value.spec as RouteSpec<Rule>;
  return { value: { ...read.value, spec: { ...spec, rules: spec.rules?.map(breakRule) } } };
}

/** A valid rule that cannot be served. */
function brokenBy(rule: Rule, cover: (match: unknown) => object): Rule {
  const why = wrongIn(rule);
  return why === undefined ? rule : standIn(rule, rule, cover, why, 'UnsupportedValue');
}

function standIn(
  { name }: Rule,
  said: unknown,
  cover: (match: unknown) => object,
  message: string,
  reason: Reason,
): Rule {
  return {
    ...(name === undefined ? {} : { name }),
    matches: coverMatches(said, cover),
    broken: { reason, message },
  } as Rule;
}

/** Its name, if valid: policies are attached to it. */
export function nameOfRule(rule: unknown): { readonly name?: string } {
  const name = typeof rule === 'object' && rule !== null ? (rule as { readonly name?: unknown }).name : undefined;
  const read = sectionName.safeParse(name);
  return read.success ? { name: read.data } : {};
}

function withRules(document: YamlDocument, rules: readonly unknown[]): YamlDocument {
  const value = document.value as { readonly spec: object };
  return { ...document, value: { ...value, spec: { ...value.spec, rules } } };
}

function sentenceOf(problems: readonly Problem[]): string {
  return problems.map(formatProblem).join('; ');
}

/** The standard's reason. */
export function reasonOf(problems: readonly Problem[]): Reason {
  return problems.every(({ message }) => message.includes('exclude each other'))
    ? 'IncompatibleFilters'
    : 'UnsupportedValue';
}

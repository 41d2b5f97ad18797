// Istio's DestinationRule as plain data, and which of several applies to an upstream. Pure.

import { normalizeHostPattern } from '../policy/host.ts';
import type { TrafficPlan } from './traffic.ts';

/** A DestinationRule of networking.istio.io, read and checked. Subsets are not supported. */
export interface DestinationRule {
  readonly namespace: string;
  readonly name: string;
  /** Wall clock; 0 if the document does not state it. */
  readonly createdAt: number;
  /** In its one spelling (policy/host.ts): a name, `*`, or `*.` and the end of names. */
  readonly host: string;
  /** Namespaces in which it applies, `.` for its own and `*` for all; empty: all. */
  readonly exportTo: readonly string[];
  readonly traffic: TrafficPlan;
  /** For endpoints on these ports, replacing `traffic`, not merged with it. */
  readonly ports: readonly { readonly port: number; readonly traffic: TrafficPlan }[];
  readonly file: string;
  readonly line: number;
}

/** An upstream under the names that rules use. */
export interface NamedUpstream {
  readonly name: string;
  readonly hosts: readonly string[];
  /** The port of all its endpoints; undefined if they differ. */
  readonly port: number | undefined;
}

/** Where rules are looked up. */
export interface RuleScope {
  /** Our own. */
  readonly namespace: string;
  readonly rootNamespace: string;
}

/** The upstreams of each rule, and the plan of each upstream. */
export interface MatchedRules {
  readonly traffic: ReadonlyMap<string, TrafficPlan>;
  /** Rules that apply to no upstream, and why. */
  readonly unused: readonly { readonly rule: DestinationRule; readonly why: string }[];
}

/**
 * Which rule applies to which upstream: the one that names its host exactly, else the wildcard with the longest end. Of
 * two for one host: the one of our own namespace, then others, then the root's; of those the older.
 */
export function matchRules(
  rules: readonly DestinationRule[],
  upstreams: readonly NamedUpstream[],
  scope: RuleScope,
): MatchedRules {
  const traffic = new Map<string, TrafficPlan>();
  const used = new Set<DestinationRule>();
  const losers = new Map<DestinationRule, DestinationRule>();
  const visible = rules.filter((rule) => isExported(rule, scope.namespace));
  for (const upstream of upstreams) {
    const [best, ...rest] = visible
      .map((rule) => ({ rule, weight: weightOf(rule, upstream, scope) }))
      .filter(({ weight }) => weight >= 0)
      .toSorted(
        (a, b) => b.weight - a.weight || rankOf(a.rule, scope) - rankOf(b.rule, scope) || byAge(a.rule, b.rule),
      );
    if (best === undefined) continue;
    used.add(best.rule);
    for (const { rule } of rest) losers.set(rule, best.rule);
    const { ports, traffic: all } = best.rule;
    traffic.set(upstream.name, ports.find(({ port }) => port === upstream.port)?.traffic ?? all);
  }
  const unused = rules.filter((rule) => !used.has(rule)).map((rule) => ({ rule, why: whyNot(rule, losers, scope) }));
  return { traffic, unused };
}

function whyNot(
  rule: DestinationRule,
  losers: ReadonlyMap<DestinationRule, DestinationRule>,
  { namespace }: RuleScope,
): string {
  if (!isExported(rule, namespace)) return `it is not exported to namespace ${namespace}`;
  const winner = losers.get(rule);
  return winner === undefined
    ? `no upstream has the host ${rule.host}`
    : `${winner.namespace}/${winner.name} takes precedence for the same host`;
}

function isExported({ exportTo, namespace }: DestinationRule, to: string): boolean {
  return (
    exportTo.length === 0 || exportTo.some((one) => one === '*' || one === to || (one === '.' && namespace === to))
  );
}

function rankOf({ namespace }: DestinationRule, scope: RuleScope): number {
  if (namespace === scope.namespace) return 0;
  return namespace === scope.rootNamespace ? 2 : 1;
}

function byAge(a: DestinationRule, b: DestinationRule): number {
  // One without a date stays where it was read: files by name, and their documents in order.
  return a.createdAt - b.createdAt;
}

/**
 * How closely a rule names an upstream: -1 not at all, a wildcard by the length of its end, a name above all wildcards.
 */
function weightOf(rule: DestinationRule, { name, hosts }: NamedUpstream, scope: RuleScope): number {
  const literal = [name, ...hosts].map((one) => normalizeHostPattern(one).replace(/:\d+$/, ''));
  const full = new Set([...literal, ...literal.map((one) => fullName(one, scope.namespace))]);
  if (rule.host.startsWith('*')) {
    const end = rule.host.slice(1);
    return [...full].some((one) => one.length > end.length && one.endsWith(end)) ? end.length : -1;
  }
  return literal.includes(rule.host) || full.has(fullName(rule.host, rule.namespace)) ? 1000 : -1;
}

/** Istio's: a name without a dot is a service of the namespace in which it is written; `name.ns.svc` is short, too. */
function fullName(host: string, namespace: string): string {
  if (!host.includes('.')) return `${host}.${namespace}.svc.cluster.local`;
  return /^[^.]+\.[^.]+\.svc$/.test(host) ? `${host}.cluster.local` : host;
}

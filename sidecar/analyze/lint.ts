// Finds likely mistakes in policies. Each finding has a code, a position and a fix. Istio reports none of them as an
// error.

import type { Problem } from '../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../cert-agent/base/yaml.ts';
import { namespaceOf, parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
import { type PlacedDocument, readIstio } from '../documents/istio/read.ts';
import { isAddressKey } from '../policy/attributes.ts';
import { areCovered, contradiction, ruleCovers } from '../policy/covers.ts';
import { expandTrustDomain } from '../policy/match.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { AuthorizationPolicy, FieldValues, Rule } from '../policy/policy.ts';
import type { RequestAuthentication } from '../policy/request-authentication.ts';
import { deadParts } from './lint-dead.ts';

/** `code` is stable. `line` and `column` count from 1; `mend` says what to change. */
export interface Finding {
  readonly code: string;
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
  readonly mend: string;
}

/** What is known of the mesh and the workload. The less is known, the less is reported. */
export interface LintScope {
  readonly trustDomain: string;
  readonly trustDomainAliases: readonly string[];
  readonly rootNamespace: string;
  /** SPIFFE IDs of existing workloads; empty if unknown, and then none is reported as missing. */
  readonly workloads: readonly string[];
  /** Ports that carry TCP. */
  readonly tcpPorts: readonly number[];
  /** Existing extension providers; undefined if unknown, and then none is reported as missing. */
  readonly providers?: readonly string[];
  /** The workload's ports as policies see them; undefined if unknown, and then none is reported as missing. */
  readonly ports?: readonly number[];
  /** The path normalization before evaluation; undefined if unknown. */
  readonly pathNormalization?: PathNormalization;
}

/** A policy with its document. */
interface Placed {
  readonly policy: AuthorizationPolicy;
  readonly document: YamlDocument;
}

type Path = readonly PropertyKey[];
type Report = (code: string, path: Path, message: string, mend: string) => void;

/** Istio's sidecars treat these ports as TCP by default. */
const assumedTcp = [25, 53, 3306, 27017];

/** All findings in the readable documents; `problems` are those of the others. */
export function lint(
  documents: readonly PlacedDocument[],
  scope: LintScope,
): { findings: Finding[]; problems: readonly Problem[] } {
  const { problems } = readIstio(documents, 'eval');
  const policies: Placed[] = [];
  const authentications: RequestAuthentication[] = [];
  for (const one of documents) {
    const read = readIstio([one], 'eval').documents;
    for (const policy of read.authorizationPolicies) policies.push({ policy, document: one.document });
    authentications.push(...read.requestAuthentications);
  }
  const findings: Finding[] = [];
  for (const { policy, document } of policies) {
    const report: Report = (code, path, message, mend) => {
      const { file, line, column } = document.problemAt(path, message);
      findings.push({ code, file: file || policy.file, line, column, message, mend });
    };
    lintPolicy(policy, report, authentications, scope);
    lintSelector(document.value, report);
    for (const [index, rule] of policy.rules.entries()) {
      lintRule(policy, rule, ['spec', 'rules', index], report, scope);
      lintReach(policies, policy, index, report, scope);
      lintSplit(policy, index, report);
    }
  }
  findings.push(...authentications.flatMap((one) => lintAuthentication(one, documents)));
  return {
    findings: findings.toSorted((a, b) => (a.file < b.file ? -1 : a.file > b.file ? 1 : a.line - b.line)),
    problems,
  };
}

function lintPolicy(
  policy: AuthorizationPolicy,
  report: Report,
  authentications: readonly RequestAuthentication[],
  { rootNamespace, providers }: LintScope,
): void {
  if (policy.provider !== undefined && providers?.includes(policy.provider) === false)
    report(
      'unknown_provider',
      ['spec', 'provider', 'name'],
      `no extension provider '${policy.provider}': this policy refuses everything that it matches`,
      "add it to 'extensionProviders' in sidecar.yaml",
    );
  if (policy.action === 'DENY' && policy.rules.length === 0)
    report(
      'deny_without_rules',
      ['spec'],
      'a DENY policy without rules denies nothing',
      'write rules: [{}] to deny everything, or remove it',
    );
  if (policy.targetRefs !== undefined)
    report(
      'not_for_sidecars',
      ['spec'],
      'a policy with targets is for gateways and waypoints: no sidecar evaluates it',
      "attach it by 'selector' if it is meant for workloads",
    );
  const asksForToken = policy.rules.some(
    ({ from = [], when = [] }) =>
      from.some((one) => 'requestPrincipals' in one || 'notRequestPrincipals' in one) ||
      when.some(({ key }) => key.startsWith('request.auth.')),
  );
  const verified = authentications.some(
    ({ namespace, matchLabels }) =>
      (namespace === rootNamespace || namespace === policy.namespace) &&
      Object.entries(matchLabels ?? {}).every(
        ([key, value]) => policy.matchLabels === undefined || policy.matchLabels[key] === value,
      ),
  );
  if (asksForToken && !verified)
    report(
      'jwt_without_authentication',
      ['spec', 'rules'],
      'it requires a token, but no RequestAuthentication here verifies one: nothing will match',
      'add a RequestAuthentication for the same workloads',
    );
}

/** An empty selector selects everything. */
function lintSelector(value: unknown, report: Report): void {
  const { spec } = value as { readonly spec?: { readonly selector?: { readonly matchLabels?: object } | null } | null };
  if (spec?.selector == null || Object.keys(spec.selector.matchLabels ?? {}).length > 0) return;
  report(
    'selector_without_labels',
    ['spec', 'selector'],
    'a selector without labels selects every workload of the namespace',
    "add labels, or omit 'selector' if that is intended",
  );
}

/** Fields that exist only in HTTP. */
const httpFields = /^(?:not)?(?:RequestPrincipals|Hosts|Methods|Paths)$/i;
const httpKeys = /^request\./;

function lintRule(policy: AuthorizationPolicy, rule: Rule, path: Path, report: Report, scope: LintScope): void {
  const { from = [], to = [], when = [] } = rule;
  const http =
    [...from, ...to].some((one) => Object.keys(one).some((field) => httpFields.test(field))) ||
    when.some(({ key }) => httpKeys.test(key));
  const ports = to.flatMap(({ ports: list = [] }) => list.map(Number));
  const hasPorts = to.length > 0 && to.every((one) => one['ports'] !== undefined || one['notPorts'] !== undefined);
  if (policy.action === 'DENY' && http && !hasPorts && !when.some(({ key }) => key === 'destination.port'))
    report(
      'deny_wider_on_tcp',
      path,
      'on TCP ports this DENY rule loses its HTTP fields and denies more than intended',
      "list the HTTP ports in 'to.operation.ports'",
    );
  const tcp = ports.filter((port) => scope.tcpPorts.includes(port) || assumedTcp.includes(port));
  if (http && tcp.length > 0)
    report(
      'http_on_tcp_port',
      path,
      `port ${tcp.join(', ')} carries TCP, which has no methods, paths, hosts, headers or tokens${policy.action === 'ALLOW' ? ': this rule never matches there' : ': this rule is wider there'}`,
      'use a separate rule with ports and peers only',
    );
  for (const [i, source] of from.entries()) lintFields(source, [...path, 'from', i, 'source'], report);
  for (const [i, operation] of to.entries()) lintFields(operation, [...path, 'to', i, 'operation'], report);
  for (const [i, source] of from.entries()) lintSource(policy, source, [...path, 'from', i, 'source'], report, scope);
  for (const { path: at, message, mend } of deadParts(rule, scope))
    report('never_matches', [...path, ...at], message, mend);
  for (const [i, { key, values = [], notValues = [] }] of when.entries()) {
    lintStars([...values, ...notValues], [...path, 'when', i], report);
    lintRepeated(policy, key, values, [...path, 'when', i, 'values'], report);
    const field = isAddressKey(key) ? 'ipBlocks' : '';
    if (values.length > 0 && areCovered(field, notValues, values))
      report(
        'dead_rule',
        [...path, 'when', i],
        `every value of '${key}' is excluded by its own notValues: the rule never matches`,
        'remove one of the two',
      );
  }
}

/**
 * A repeated header is evaluated as one value joined with commas, as in Istio, so a client that sends it twice evades a
 * denial of either value. An ALLOW rule does not become wider, and neither do `notValues`.
 */
function lintRepeated(
  { action }: AuthorizationPolicy,
  key: string,
  values: readonly string[],
  path: Path,
  report: Report,
): void {
  const name = /^request\.headers\[([^:][^\]]*)\]$/.exec(key)?.[1];
  if (action !== 'DENY' || name === undefined || /^host$/i.test(name)) return;
  if (values.length === 0 || values.includes('*')) return;
  report(
    'repeated_header',
    path,
    `a request that sends '${name}' twice is evaluated with both values joined by a comma, which these do not match`,
    "deny everything but the good values with 'notValues', or deny any value with '*'",
  );
}

function lintFields(fields: FieldValues, path: Path, report: Report): void {
  for (const [field, values] of Object.entries(fields)) {
    if (!/^(?:not)?(?:Ip|RemoteIp)Blocks$|[pP]orts$|[nN]amespaces$/.test(field))
      lintStars(values, [...path, field], report);
    if (/^(?:not)?methods$/i.test(field))
      for (const [i, one] of values.entries())
        if (/[a-z]/.test(one))
          report(
            'method_never_sent',
            [...path, field, i],
            `'${one}': methods are upper case, and others are refused before any policy`,
            `write '${one.toUpperCase()}'`,
          );
  }
  const excluded = contradiction(fields);
  if (excluded !== undefined)
    report(
      'dead_rule',
      [...path, excluded],
      `every value of '${excluded}' is excluded by its own negation: this alternative never matches`,
      'remove one of the two',
    );
}

function lintStars(values: readonly string[], path: Path, report: Report): void {
  for (const [i, one] of values.entries()) {
    const inner = one.replace(/^\*/, '');
    const literal = one.startsWith('*') ? inner.includes('*') : one.replace(/\*$/, '').includes('*');
    if (literal && !/\{\*{1,2}\}/.test(one))
      report(
        'literal_star',
        [...path, i],
        `'${one}' does not mean 'contains': ${one.startsWith('*') ? `it matches values that end with '${inner}', including the star` : 'a star inside a value is a literal star'}`,
        'use one star at one end or, for paths, {*} and {**}',
      );
  }
}

function lintSource(
  policy: AuthorizationPolicy,
  source: FieldValues,
  path: Path,
  report: Report,
  scope: LintScope,
): void {
  const names = [scope.trustDomain, ...scope.trustDomainAliases];
  for (const field of ['principals', 'notPrincipals'] as const) {
    for (const [i, one] of (source[field] ?? []).entries()) {
      const at = [...path, field, i];
      if (one.startsWith('spiffe://'))
        report(
          'principal_with_scheme',
          at,
          `'${one}' can never match: principals are written without 'spiffe://'`,
          `write '${one.slice(9)}'`,
        );
      else if (
        /^cluster\.local(?:\/|$)/.test(one) &&
        !names.includes('cluster.local') &&
        expandTrustDomain(one, names).includes(one)
      )
        report(
          'principal_not_local',
          at,
          `'${one}' means a trust domain named cluster.local: only IDs of five parts stand for the local one`,
          `write '${one.replace('cluster.local', scope.trustDomain)}'`,
        );
      else if (
        field === 'principals' &&
        scope.workloads.length > 0 &&
        !one.includes('*') &&
        !expandTrustDomain(one, names).some((id) => scope.workloads.includes(`spiffe://${id}`))
      )
        report(
          'unknown_principal',
          at,
          `no known workload is '${one}'`,
          'correct it, or add the workload with --workload',
        );
    }
  }
  const known = new Set(scope.workloads.map((id) => namespaceOf(parseSpiffeId(id))));
  for (const field of ['namespaces', 'notNamespaces'] as const)
    for (const [i, one] of (source[field] ?? []).entries())
      if (known.size > 0 && !one.includes('*') && !known.has(one))
        report(
          'unknown_namespace',
          [...path, field, i],
          `no known workload is in the namespace '${one}'`,
          'correct it, or add a workload of it with --workload',
        );
  const positive = Object.keys(source).some((field) => !/^not[A-Z]/.test(field));
  if (policy.action === 'ALLOW' && !positive && ('notPrincipals' in source || 'notNamespaces' in source))
    report(
      'allows_nobody_in_particular',
      path,
      'a source with only negations also matches peers without identity',
      "add principals: ['*'] to require one",
    );
}

/**
 * Istio's classic slip: a dash before `to` begins a rule, so that each half matches without the other. A rule with `when`
 * beside it was written on purpose.
 */
function lintSplit({ action, rules }: AuthorizationPolicy, index: number, report: Report): void {
  const isOnly = (part: 'from' | 'to', { from = [], to = [], when = [] }: Rule): boolean =>
    when.length === 0 && from.length > 0 === (part === 'from') && to.length > 0 === (part === 'to');
  const before = rules[index - 1];
  if (before === undefined || !isOnly('from', before) || !isOnly('to', rules[index]!)) return;
  const does = { ALLOW: 'allows', DENY: 'denies', AUDIT: 'audits', CUSTOM: 'asks about' }[action];
  report(
    'split_rule',
    ['spec', 'rules', index],
    `rule ${index - 1} has only 'from' and rule ${index} only 'to', so the policy ${does} everything from those sources, and these operations from anyone: one rule was probably meant`,
    "remove the dash before 'to' to make them one rule; if two are meant, write the one with 'to' first",
  );
}

/** Rules that other rules make redundant. */
function lintReach(
  all: readonly Placed[],
  policy: AuthorizationPolicy,
  index: number,
  report: Report,
  scope: LintScope,
): void {
  const rule = policy.rules[index]!;
  for (const { policy: other } of all) {
    if (other.dryRun || !reachesAll(other, policy, scope)) continue;
    for (const [i, wide] of other.rules.entries()) {
      if (other === policy && i === index) continue;
      const name = `${other.namespace}/${other.name} rule ${i}`;
      if (other.action === 'DENY' && policy.action === 'ALLOW' && ruleCovers(wide, rule))
        return report(
          'dead_rule',
          ['spec', 'rules', index],
          `everything that this rule allows is denied by ${name}`,
          'remove it, or narrow the denial',
        );
      const earlier = other !== policy || i < index || !ruleCovers(rule, wide);
      if (
        other.action === policy.action &&
        other.provider === policy.provider &&
        earlier &&
        ruleCovers(wide, rule) &&
        !(
          other !== policy &&
          ruleCovers(rule, wide) &&
          all.findIndex((one) => one.policy === other) > all.findIndex((one) => one.policy === policy)
        )
      )
        return report(
          'shadowed_rule',
          ['spec', 'rules', index],
          `everything that this rule matches is also matched by ${name}`,
          'remove one of the two',
        );
    }
  }
}

/** True if `wide` is attached to every workload that `narrow` is attached to. */
function reachesAll(wide: AuthorizationPolicy, narrow: AuthorizationPolicy, { rootNamespace }: LintScope): boolean {
  if (wide.targetRefs !== undefined || narrow.targetRefs !== undefined) return false;
  if (wide.namespace !== rootNamespace && wide.namespace !== narrow.namespace) return false;
  return Object.entries(wide.matchLabels ?? {}).every(([key, value]) => narrow.matchLabels?.[key] === value);
}

function lintAuthentication(one: RequestAuthentication, documents: readonly PlacedDocument[]): Finding[] {
  return one.jwtRules.flatMap(({ jwksUri, issuer }, index) => {
    const url = URL.parse(jwksUri ?? issuer);
    if (url?.protocol !== 'http:' || /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname)) return [];
    const placed = documents.find(
      ({ file, document }) => file === one.file && document.problemAt(['metadata', 'name'], '').line === one.line,
    );
    const message = `keys from ${url.origin} are fetched in the clear: an attacker on the network can replace them and sign tokens`;
    const place = placed?.document.problemAt(['spec', 'jwtRules', index], message);
    return [
      {
        code: 'jwks_in_the_clear',
        file: one.file,
        line: place?.line ?? one.line,
        column: place?.column ?? 1,
        message,
        mend: 'use an https:// URL, or put the keys inline',
      },
    ];
  });
}

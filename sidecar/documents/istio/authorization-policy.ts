// The schema of AuthorizationPolicy: accepts and refuses what Istio's own validation does, with positions.

import { z } from 'zod';
import { didYouMean } from '../../../cert-agent/base/did-you-mean.ts';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../../cert-agent/base/live.ts';
import { readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { attributeOf, isAddressKey, plainKeys } from '../../policy/attributes.ts';
import { isIpBlock } from '../../policy/ip.ts';
import type { AuthorizationPolicy, Condition, FieldValues, Rule } from '../../policy/policy.ts';
import { problemOfTemplate } from '../../policy/template.ts';
import {
  apiVersion,
  attachment,
  checked,
  dryRunAnnotation,
  hasValues,
  metadata,
  notEmpty,
  type Purpose,
  refuseTwoTargets,
  targetFields,
  values,
} from './patterns.ts';

/** Istio's own limits. */
const maxRules = 512;
const maxSources = 512;

const problemOfBlock = (value: string): string | undefined =>
  isIpBlock(value) ? undefined : `'${value}' is neither an address nor a CIDR block`;

function problemOfPort(value: string): string | undefined {
  if (!/^\d+$/.test(value)) return 'a port must be a string of digits';
  return Number(value) <= 65_535 ? undefined : 'a port is at most 65535';
}

function problemOfAccount(value: string): string | undefined {
  if (value.length > 320) return 'a service account has at most 320 characters';
  if (value.includes('*')) return `'${value}': service accounts have no wildcards`;
  return /^[^/]+(?:\/[^/]+)?$/.test(value) ? undefined : `'${value}' is neither <account> nor <namespace>/<account>`;
}

function problemOfTrustDomain(value: string): string | undefined {
  const stars = value.split('*').length - 1;
  if (stars === 0 || value === '*' || (stars === 1 && (value.startsWith('*') || value.endsWith('*'))))
    return value.includes('/') ? `'${value}': a trust domain has no scheme or path` : undefined;
  return `'${value}': a trust domain has at most one star, at an end`;
}

// Istio's limit, as the 320 characters of each.
const accounts = checked(problemOfAccount).refine(
  (list) => list.length <= 16,
  'a source has at most 16 service accounts',
);
const blocks = checked(problemOfBlock);
const ports = checked(problemOfPort);
const paths = checked(problemOfTemplate);
// In Istio's extended channel.
const trustDomains = checked(problemOfTrustDomain);

const source = z
  .strictObject({
    principals: values.describe('SPIFFE IDs of peers, without `spiffe://`. A star may be at one end.'),
    notPrincipals: values.describe('SPIFFE IDs of peers that do not match.'),
    requestPrincipals: values.describe('Users of tokens, as `<issuer>/<subject>`. A star may be at one end.'),
    notRequestPrincipals: values.describe('Users of tokens that do not match. Without a token, it matches.'),
    namespaces: values.describe('Namespaces of peers, from their SPIFFE IDs. A star may be at one end.'),
    notNamespaces: values.describe('Namespaces of peers that do not match.'),
    serviceAccounts: accounts.describe(
      "Service accounts of peers, as `<account>` of the policy's namespace or `<namespace>/<account>`.",
    ),
    notServiceAccounts: accounts.describe('Service accounts of peers that do not match.'),
    trustDomains: trustDomains.describe('Trust domains of peers. A star may be at one end.'),
    notTrustDomains: trustDomains.describe('Trust domains of peers that do not match.'),
    ipBlocks: blocks.describe("Addresses and CIDR blocks of the connection's other end."),
    notIpBlocks: blocks.describe("Addresses and CIDR blocks of the connection's other end that do not match."),
    remoteIpBlocks: blocks.describe('Addresses and CIDR blocks of the client, behind trusted proxies.'),
    notRemoteIpBlocks: blocks.describe('Addresses and CIDR blocks of the client that do not match.'),
  })
  .partial()
  .refine(hasValues, notEmpty("'source' is empty: omit 'from' to match any source"))
  .superRefine((one, context) => {
    const some = (...lists: (readonly string[] | undefined)[]): boolean =>
      lists.some((list) => (list?.length ?? 0) > 0);
    // Istio's rule.
    if (!some(one.serviceAccounts, one.notServiceAccounts)) return;
    if (!some(one.principals, one.notPrincipals, one.namespaces, one.notNamespaces)) return;
    context.addIssue({
      code: 'custom',
      path: [one.serviceAccounts === undefined ? 'notServiceAccounts' : 'serviceAccounts'],
      message: 'service accounts cannot be combined with principals or namespaces in one source',
    });
  });

const operation = z
  .strictObject({
    hosts: values.describe('Hosts of requests, without regard to case. A star may be at one end.'),
    notHosts: values.describe('Hosts that do not match.'),
    ports: ports.describe('Ports of the app, as strings of digits.'),
    notPorts: ports.describe('Ports of the app that do not match.'),
    methods: values.describe('Methods of requests. A star may be at one end.'),
    notMethods: values.describe('Methods that do not match.'),
    paths: paths.describe('Paths without query: exact, with a star at one end, or templates with `{*}` and `{**}`.'),
    notPaths: paths.describe('Paths that do not match.'),
  })
  .partial()
  .refine(hasValues, notEmpty("'operation' is empty: omit 'to' to match any operation"));

const replaced: Readonly<Record<string, string>> = {
  'destination.namespace': "the policy's own namespace determines it",
  'destination.name': 'only the first version of Istio had it',
  'destination.user': 'only the first version of Istio had it',
  'destination.labels': "the policy's selector determines it",
};

/** `experimental.envoy.filters.<filter>[<key>]`: Envoy's own metadata. */
const experimentalKey = /^experimental\.envoy\.filters\.[^[\]]+\[[^[\]]+\]$/;

const condition = z
  .strictObject({
    key: z
      .string()
      .min(1, 'a condition needs a key')
      .describe(
        'The attribute that is compared, such as `source.ip`, `request.headers[x-team]` or `request.auth.claims[groups]`.',
      ),
    values: values.optional().describe('The attribute must be one of these values.'),
    notValues: values.optional().describe('The attribute must be none of these values.'),
  })
  .superRefine(({ key, values: yes = [], notValues: no = [] }, context) => {
    if (key === '') return;
    const issue = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    // Istio logs an unknown key and skips the whole rule. Of a DENY rule that would open what it closes, so the
    // document is refused.
    if (attributeOf(key) === undefined && !experimentalKey.test(key)) {
      const old = replaced[key.replace(/\[.*/, '')];
      const hint = old ?? didYouMean(key, [...plainKeys, 'request.headers[...]', 'request.auth.claims[...]']);
      return issue(['key'], `'${key}' is not an attribute${hint === undefined ? '' : `: ${hint}`}`);
    }
    if (yes.length + no.length === 0) return issue([], `'${key}' has neither 'values' nor 'notValues'`);
    const problemOf = isAddressKey(key) ? problemOfBlock : key === 'destination.port' ? problemOfPort : undefined;
    for (const [field, list] of [
      ['values', yes],
      ['notValues', no],
    ] as const) {
      for (const [index, value] of list.entries()) {
        const message = value === '' ? undefined : problemOf?.(value);
        if (message !== undefined) issue([field, index], message);
      }
    }
  });

const rule = z.strictObject({
  from: z
    .array(z.strictObject({ source: source.describe('A caller, of which every field must match.') }))
    // Istio's rule, as for `to`.
    .min(1, "'from' is empty: leave it out to mean any source")
    .max(maxSources, `a rule has at most ${maxSources} sources`)
    .optional()
    .describe('Callers, of which one must match. Without it: any caller.'),
  to: z
    .array(z.strictObject({ operation: operation.describe('An operation, of which every field must match.') }))
    .min(1, "'to' is empty: leave it out to mean any operation")
    .optional()
    .describe('Operations, of which one must match. Without it: any operation.'),
  when: z.array(condition).optional().describe('Conditions that must all hold.'),
});

const actions = ['ALLOW', 'DENY', 'AUDIT', 'CUSTOM'] as const;

const spec = z
  .strictObject({
    ...targetFields,
    // Istio's default.
    action: z
      .enum(actions, `an action must be one of ${actions.join(', ')}`)
      .default('ALLOW')
      .describe('What a match means: ALLOW, DENY, AUDIT (noted only), or CUSTOM (the provider decides).'),
    provider: z
      .strictObject({ name: z.string().describe('The name of a provider in `extensionProviders` of sidecar.yaml.') })
      .optional()
      .describe('The authorizer that a CUSTOM policy asks.'),
    rules: z
      .array(rule)
      .max(maxRules, `a policy has at most ${maxRules} rules`)
      .optional()
      .describe('Rules, of which one must match. Without rules an ALLOW policy allows nothing.'),
  })
  .superRefine((value, context) => {
    refuseTwoTargets(value, context);
    const issue = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    if (value.action !== 'CUSTOM') {
      if (value.provider !== undefined) issue(['provider'], `'provider' is for CUSTOM policies, not ${value.action}`);
      return;
    }
    // Istio's rule, too.
    if (value.rules === undefined || value.rules.length === 0)
      return issue(
        ['action'],
        'CUSTOM without rules never asks the authorizer: write rules: [{}] to ask it for every request',
      );
    if (!value.provider?.name) issue(['provider'], "CUSTOM needs 'provider.name'");
    refuseLateFields(value.rules, issue);
  });

const lateFields = [
  'principals',
  'notPrincipals',
  'requestPrincipals',
  'notRequestPrincipals',
  'namespaces',
  'notNamespaces',
  'serviceAccounts',
  'notServiceAccounts',
];
const lateKey = /^source\.(?:principal|namespace|serviceAccount)$|^request\.auth\./;

/** Istio asks the provider before it authenticates the client, so CUSTOM rules cannot use these fields. */
function refuseLateFields(
  rules: readonly z.output<typeof rule>[],
  issue: (path: (string | number)[], message: string) => void,
): void {
  for (const [r, { from = [], when = [] }] of rules.entries()) {
    for (const [i, item] of from.entries())
      for (const field of lateFields)
        if (item.source[field as keyof typeof item.source] !== undefined)
          issue(['rules', r, 'from', i, 'source', field], `a CUSTOM policy cannot use '${field}'`);
    for (const [i, { key }] of when.entries())
      if (lateKey.test(key)) issue(['rules', r, 'when', i, 'key'], `a CUSTOM policy cannot use '${key}'`);
  }
}

/** The schema of the document. */
export const authorizationPolicy = z.strictObject({
  apiVersion,
  kind: z.literal('AuthorizationPolicy').describe('The kind of the document.'),
  metadata,
  spec: spec.prefault({}).describe('What the policy is for, and what it allows or denies.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** The policy of a document, frozen, or all problems. */
export function readAuthorizationPolicy(
  document: YamlDocument,
  file: string,
  purpose: Purpose,
): { value: AuthorizationPolicy } | { problems: Problem[] } {
  const read = readDocument(authorizationPolicy, document);
  if ('problems' in read) return read;
  const { metadata: meta, spec: parsed } = read.value;
  const problems = [
    ...refuseDryRun(document, meta.annotations),
    ...(purpose === 'check' ? refuseIdleDeny(document, parsed) : []),
    ...(purpose === 'check' ? [] : refuseUnread(document, parsed)),
    ...(purpose === 'run' ? refuseUnenforced(document, parsed) : []),
  ];
  if (problems.length > 0) return { problems };
  const policy: AuthorizationPolicy = {
    name: meta.name,
    namespace: meta.namespace,
    action: parsed.action,
    ...(parsed.provider === undefined ? {} : { provider: parsed.provider.name }),
    dryRun: yes.has(meta.annotations?.[dryRunAnnotation] ?? ''),
    ...attachment(parsed),
    rules: (parsed.rules ?? []).map(readRule),
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { value: deepFreeze(policy) };
}

function readRule({ from, to, when }: z.output<typeof rule>): Rule {
  return {
    ...(from === undefined ? {} : { from: from.map((item) => withoutEmpty(item.source)) }),
    ...(to === undefined ? {} : { to: to.map((item) => withoutEmpty(item.operation)) }),
    ...(when === undefined || when.length === 0
      ? {}
      : { when: when.map((one) => withoutEmpty(one) as unknown as Condition) }),
  };
}

/** An empty list counts as absent. */
function withoutEmpty(value: object): FieldValues {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => !Array.isArray(one) || one.length > 0));
}

// Istio's spellings, those of Go's ParseBool.
const yes = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const no = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

/** A misspelt dry-run value would enforce the policy. */
function refuseDryRun(document: YamlDocument, annotations: Readonly<Record<string, string>> = {}): Problem[] {
  const value = annotations[dryRunAnnotation];
  if (value === undefined || yes.has(value) || no.has(value)) return [];
  return [
    document.problemAt(
      ['metadata', 'annotations', dryRunAnnotation],
      `${dryRunAnnotation} must be "true" or "false", not '${value}'`,
    ),
  ];
}

type Spec = z.output<typeof spec>;

/** Istio refuses a DENY policy that never denies. */
function refuseIdleDeny(document: YamlDocument, { action, rules = [] }: Spec): Problem[] {
  if (action !== 'DENY' || rules.length > 0) return [];
  return [
    document.problemAt(['spec', 'action'], 'DENY without rules never denies anything', {
      hint: 'write rules: [{}] to deny everything',
    }),
  ];
}

/** What Istio accepts but Sallyport cannot evaluate. */
function refuseUnread(document: YamlDocument, { rules = [] }: Spec): Problem[] {
  return rules.flatMap(({ when = [] }, r) =>
    when.flatMap(({ key }, i) =>
      experimentalKey.test(key)
        ? [
            document.problemAt(
              ['spec', 'rules', r, 'when', i, 'key'],
              `'${key}' is Envoy's own metadata, which does not exist here`,
            ),
          ]
        : [],
    ),
  );
}

/** What Istio accepts but a sidecar would silently not enforce. */
function refuseUnenforced(document: YamlDocument, parsed: Spec): Problem[] {
  const problems: Problem[] = [];
  for (const key of ['targetRef', 'targetRefs'] as const) {
    if (parsed[key] === undefined) continue;
    problems.push(
      document.problemAt(['spec'], `'${key}' is for gateways and waypoints: a sidecar would not enforce this policy`, {
        key,
        hint: "attach it by 'selector', or keep it out of this directory",
      }),
    );
  }
  for (const [r, { from = [] }] of (parsed.rules ?? []).entries())
    for (const [i, item] of from.entries())
      for (const field of ['principals', 'notPrincipals'] as const)
        for (const [v, value] of (item.source[field] ?? []).entries())
          if (value.startsWith('spiffe://'))
            problems.push(
              document.problemAt(
                ['spec', 'rules', r, 'from', i, 'source', field, v],
                `spec.rules[${r}].from[${i}].source.${field}[${v}]: '${value}' can never match: principals are written without 'spiffe://'`,
              ),
            );
  return problems;
}

// Istio documents from plain files, as strict as Istio's own validation and stricter where silence would be a wider
// policy: a field that this build does not evaluate is an error with its place, never skipped.

import { z } from 'zod';
import type { Problem } from '../../cert-agent/base/errors.ts';
import { deepFreeze } from '../../cert-agent/base/live.ts';
import { configError, didYouMean, parseYaml, readDocument, type YamlDocument } from '../../cert-agent/base/yaml.ts';
import type { PeerAuthentication } from '../policy/mtls.ts';
import type { AuthorizationPolicy } from '../policy/policy.ts';
import type { IstioDocuments } from './documents.ts';

/** Istio's fields that this build does not evaluate yet, by where they stand. */
const unsupported: Readonly<Record<string, readonly string[]>> = {
  source: [
    'requestPrincipals',
    'notRequestPrincipals',
    'ipBlocks',
    'notIpBlocks',
    'remoteIpBlocks',
    'notRemoteIpBlocks',
    'serviceAccounts',
    'notServiceAccounts',
    'trustDomains',
    'notTrustDomains',
  ],
  rule: ['when'],
  spec: ['targetRef', 'targetRefs', 'provider'],
};

const mtlsModes = ['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT'] as const;

/** Istio's own limits. */
const maxRules = 512;
const maxSources = 512;

const nonEmpty = z.string().min(1, 'an empty value matches nothing: leave it out');
const values = z.array(nonEmpty).min(1, 'an empty list matches nothing: leave the field out');

const principals = z
  .array(
    nonEmpty.superRefine((value, context) => {
      if (!value.startsWith('spiffe://')) return;
      context.addIssue({
        code: 'custom',
        message: `'${value}' can never match: principals are written without 'spiffe://'`,
      });
    }),
  )
  .min(1, 'an empty list matches nothing: leave the field out');

const paths = z
  .array(
    nonEmpty.superRefine((value, context) => {
      if (!/\{\*{1,2}\}/.test(value)) return;
      context.addIssue({ code: 'custom', message: `'${value}': path templates are not supported by this build` });
    }),
  )
  .min(1, 'an empty list matches nothing: leave the field out');

const port = nonEmpty.superRefine((value, context) => {
  if (/^\d{1,5}$/.test(value) && Number(value) <= 65_535) return;
  const message = /^\d+$/.test(value) ? 'a port is at most 65535' : 'a port is written as a string of digits';
  context.addIssue({ code: 'custom', message });
});

const ports = z.array(port).min(1, 'an empty list matches nothing: leave the field out');

/** Said only of what is empty as it was written, not of what is left once an unknown key has been reported. */
const notEmpty = (message: string) => ({
  error: message,
  when: ({ issues }: { readonly issues: readonly unknown[] }) => issues.length === 0,
});
const hasFields = (value: object): boolean => Object.keys(value).length > 0;

const source = z
  .strictObject({ principals, notPrincipals: principals, namespaces: values, notNamespaces: values })
  .partial()
  .refine(hasFields, notEmpty("'source' is empty: leave 'from' out to mean any source"));

const operation = z
  .strictObject({
    hosts: values,
    notHosts: values,
    ports,
    notPorts: ports,
    methods: values,
    notMethods: values,
    paths,
    notPaths: paths,
  })
  .partial()
  .refine(hasFields, notEmpty("'operation' is empty: leave 'to' out to mean any operation"));

const rule = z.strictObject({
  from: z
    .array(z.strictObject({ source }))
    .min(1, "'from' is empty: leave it out to mean any source")
    .max(maxSources)
    .optional(),
  to: z
    .array(z.strictObject({ operation }))
    .min(1, "'to' is empty: leave it out to mean any operation")
    .max(maxSources)
    .optional(),
});

const selector = z.strictObject({ matchLabels: z.record(nonEmpty, z.string()).optional() }).optional();

const spec = z.strictObject({
  selector,
  action: z
    .string()
    .default('ALLOW')
    .superRefine((value, context) => {
      if (value === 'ALLOW' || value === 'DENY') return;
      const known = value === 'AUDIT' || value === 'CUSTOM';
      context.addIssue({
        code: 'custom',
        message: known
          ? `action ${value} is not supported by this build`
          : `'${value}' is not an action: ALLOW or DENY`,
      });
    }),
  rules: z.array(rule).max(maxRules, `a policy has at most ${maxRules} rules`).optional(),
});

const name = z.string().regex(/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/, 'a name holds a-z, 0-9, dots and dashes');

const apiVersion = z.enum(['security.istio.io/v1', 'security.istio.io/v1beta1']);

// Kubernetes puts more here than concerns us (uid, resourceVersion, managedFields); none of it changes who may pass,
// but for the annotation that makes a policy a trial, and the age that decides between two of one scope.
const metadata = z.looseObject({
  name,
  namespace: name.default('default'),
  annotations: z.record(z.string(), z.string()).optional(),
});

const authorizationPolicy = z.strictObject({
  apiVersion,
  kind: z.literal('AuthorizationPolicy'),
  metadata,
  spec: spec.default({ action: 'ALLOW' }),
  status: z.unknown().optional(),
});

export interface PolicyFile {
  readonly file: string;
  readonly text: string;
}

const peerAuthenticationSpec = z
  .strictObject({
    selector,
    mtls: z.strictObject({ mode: z.enum(mtlsModes).default('UNSET') }).optional(),
    portLevelMtls: z
      .record(z.string(), z.strictObject({ mode: z.enum(mtlsModes).default('UNSET') }))
      .superRefine((ports, context) => {
        if (Object.keys(ports).length === 0)
          context.addIssue({ code: 'custom', message: "'portLevelMtls' is empty: leave it out" });
        for (const key of Object.keys(ports)) {
          if (/^[1-9]\d{0,4}$/.test(key) && Number(key) <= 65_535) continue;
          context.addIssue({ code: 'custom', path: [key], message: 'a port is a number from 1 to 65535' });
        }
      })
      .optional(),
  })
  .superRefine((value, context) => {
    if (value.portLevelMtls !== undefined && Object.keys(value.selector?.matchLabels ?? {}).length === 0)
      context.addIssue({
        code: 'custom',
        path: ['portLevelMtls'],
        message: "'portLevelMtls' needs a selector: ports belong to a workload",
      });
  });

const peerAuthentication = z.strictObject({
  apiVersion,
  kind: z.literal('PeerAuthentication'),
  metadata: metadata.extend({ creationTimestamp: z.iso.datetime({ offset: true }).nullish() }),
  spec: peerAuthenticationSpec.default({}),
  status: z.unknown().optional(),
});

/** Spelled as they should be, so that nobody means anything else. */
const notYet = new Set(['RequestAuthentication', 'DestinationRule', 'VirtualService', 'ServiceEntry', 'Telemetry']);

const kinds = ['AuthorizationPolicy', 'PeerAuthentication'];

/**
 * All documents of `files`, frozen.
 * @throws SallyportError `config_invalid` with every problem of every file.
 */
export function parseIstio(files: readonly PolicyFile[]): IstioDocuments {
  const problems: Problem[] = [];
  const authorizationPolicies: AuthorizationPolicy[] = [];
  const peerAuthentications: PeerAuthentication[] = [];
  const places = new Map<string, string>();
  for (const { file, text } of files) {
    const parsed = parseYaml(text, file);
    problems.push(...parsed.problems);
    for (const document of parsed.documents) {
      const read = readOne(document, file);
      if ('problems' in read) {
        problems.push(...read.problems);
        continue;
      }
      const { kind, value } = read;
      const key = `${kind} ${value.namespace}/${value.name}`;
      const taken = places.get(key);
      const what = `${kind === 'AuthorizationPolicy' ? 'policy' : kind} ${value.namespace}/${value.name}`;
      if (taken !== undefined)
        problems.push(document.problemAt(['metadata', 'name'], `the ${what} already stands in ${taken}`));
      places.set(key, `${file}:${value.line}`);
      if (kind === 'AuthorizationPolicy') authorizationPolicies.push(value);
      else peerAuthentications.push(value);
    }
  }
  if (problems.length > 0) throw configError(problems);
  return Object.freeze({
    authorizationPolicies: Object.freeze(authorizationPolicies),
    peerAuthentications: Object.freeze(peerAuthentications),
  });
}

type One =
  | { readonly kind: 'AuthorizationPolicy'; readonly value: AuthorizationPolicy }
  | { readonly kind: 'PeerAuthentication'; readonly value: PeerAuthentication };

function readOne(document: YamlDocument, file: string): One | { problems: Problem[] } {
  const kind = kindOf(document.value);
  if (kind === 'AuthorizationPolicy') return readPolicy(document, file);
  if (kind === 'PeerAuthentication') return readPeerAuthentication(document, file);
  const message =
    kind === undefined
      ? "this is not an Istio document: it has no 'kind'"
      : `kind ${kind} is not supported by this build`;
  const hint = kind === undefined || notYet.has(kind) ? undefined : didYouMean(kind, kinds);
  return { problems: [document.problemAt(['kind'], message, hint === undefined ? {} : { hint })] };
}

function readPeerAuthentication(document: YamlDocument, file: string): One | { problems: Problem[] } {
  const read = readDocument(peerAuthentication, document);
  if ('problems' in read) return read;
  const { metadata: of, spec: said } = read.value;
  const ports = Object.entries(said.portLevelMtls ?? {}).map(([number, { mode }]) => [Number(number), mode] as const);
  const mode = said.mtls?.mode ?? 'UNSET';
  const value: PeerAuthentication = {
    name: of.name,
    namespace: of.namespace,
    createdAt: of.creationTimestamp == null ? 0 : Date.parse(of.creationTimestamp),
    ...(Object.keys(said.selector?.matchLabels ?? {}).length === 0 ? {} : { matchLabels: said.selector!.matchLabels! }),
    ...(mode === 'UNSET' ? {} : { mode }),
    portLevel: new Map(ports),
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { kind: 'PeerAuthentication', value: Object.freeze(value) };
}

function readPolicy(document: YamlDocument, file: string): One | { problems: Problem[] } {
  const early = findUnsupported(document);
  const read = readDocument(authorizationPolicy, withoutUnsupported(document));
  if ('problems' in read) {
    const isConsequence = (problem: Problem): boolean =>
      early.length > 0 && problem.message.includes(" is empty: leave '");
    return { problems: [...early, ...read.problems.filter((problem) => !isConsequence(problem))] };
  }
  if (early.length > 0) return { problems: early };
  const { metadata: of, spec: said } = read.value;
  const { line } = document.problemAt(['metadata', 'name'], '');
  const policy: AuthorizationPolicy = {
    name: of.name,
    namespace: of.namespace,
    action: said.action as 'ALLOW' | 'DENY',
    ...(said.selector?.matchLabels === undefined ? {} : { matchLabels: said.selector.matchLabels }),
    rules: (said.rules ?? []).map((one) => ({
      ...(one.from === undefined ? {} : { from: one.from.map((item) => item.source) }),
      ...(one.to === undefined ? {} : { to: one.to.map((item) => item.operation) }),
    })),
    file,
    line,
  };
  return { kind: 'AuthorizationPolicy', value: deepFreeze(policy) };
}

type Path = readonly PropertyKey[];

/** Fields that Istio has and this build has not: 'unknown key' would be untrue. */
function findUnsupported(document: YamlDocument): Problem[] {
  const problems: Problem[] = [];
  const report = (path: Path, key: string): void => {
    problems.push(document.problemAt(path, `'${key}' is not supported by this build`, { key }));
  };
  visitUnsupported(document.value, report);
  const annotations = at(document.value, 'metadata', 'annotations');
  if (isObject(annotations) && 'istio.io/dry-run' in annotations)
    report(['metadata', 'annotations'], 'istio.io/dry-run');
  return problems;
}

/** The same document without those fields, so that each is reported once and with the better sentence. */
function withoutUnsupported(document: YamlDocument): YamlDocument {
  const value: unknown = structuredClone(document.value);
  visitUnsupported(value, (_path, key, owner) => delete owner[key]);
  return { value, problemAt: document.problemAt };
}

function visitUnsupported(
  value: unknown,
  found: (path: Path, key: string, owner: Record<string, unknown>) => void,
): void {
  const look = (owner: unknown, path: Path, keys: readonly string[]): void => {
    if (isObject(owner)) for (const key of keys) if (key in owner) found(path, key, owner);
  };
  look(at(value, 'spec'), ['spec'], unsupported['spec']!);
  for (const [index, rule] of listAt(value, 'spec', 'rules').entries()) {
    look(rule, ['spec', 'rules', index], unsupported['rule']!);
    for (const [i, item] of listAt(rule, 'from').entries()) {
      look(at(item, 'source'), ['spec', 'rules', index, 'from', i, 'source'], unsupported['source']!);
    }
  }
}

function kindOf(value: unknown): string | undefined {
  const kind = at(value, 'kind');
  return typeof kind === 'string' ? kind : undefined;
}

function at(value: unknown, ...path: readonly string[]): unknown {
  let inner = value;
  for (const key of path) inner = isObject(inner) ? inner[key] : undefined;
  return inner;
}

function listAt(value: unknown, ...path: readonly string[]): unknown[] {
  const list = at(value, ...path);
  return Array.isArray(list) ? list : [];
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// Requests made from rules: for each rule, some that match it and some that just miss it. They compare two versions of
// the policies without a log, and find rules that no request reaches.

import type { CompiledRule, PolicySet } from './compile.ts';
import { rulesOf } from './decide.ts';
import { createFacts, type RequestFacts, readClaims } from './facts.ts';
import { parseIp } from './ip.ts';
import type { Condition, FieldValues } from './policy.ts';
import { isTemplate } from './template.ts';

/** The parts of a witness; the rest of the facts follows from them. */
interface Draft {
  principal: string;
  method: string;
  path: string;
  host: string;
  port: number;
  sni: string;
  sourceIp: string | undefined;
  remoteIp: string | undefined;
  destinationIp: string | undefined;
  claims: Record<string, unknown> | undefined;
  headers: Record<string, string>;
}

/** What made-up requests are for. `namespace` is that of made-up callers, where no rule names one. */
export interface WitnessScope {
  readonly trustDomain: string;
  readonly namespace: string;
  /** Ports of the workload, for rules that name none. */
  readonly ports?: readonly number[];
}

/** Requests around every rule of `sets`, each once; at most `limit`. */
export function makeWitnesses(sets: readonly PolicySet[], scope: WitnessScope, limit = 20_000): RequestFacts[] {
  const seen = new Map<string, RequestFacts>();
  const add = (draft: Draft): void => {
    for (const protocol of ['http', 'tcp'] as const) {
      const facts = factsOf(draft, protocol);
      const key = JSON.stringify([
        protocol,
        protocol === 'tcp' ? { ...draft, method: '', path: '', host: '', claims: undefined, headers: {} } : draft,
      ]);
      if (seen.size < limit) seen.set(key, facts);
    }
  };
  add(base(scope));
  add({ ...base(scope), principal: '' });
  const drafts: Draft[] = [];
  for (const set of sets)
    for (const action of ['CUSTOM', 'DENY', 'ALLOW'] as const)
      for (const rule of rulesOf(set, action)) {
        // A rule's first draft fits it; the others are variations.
        for (const draft of draftsOf(rule, scope)) {
          drafts.push(draft);
          add(draft);
        }
      }
  for (const draft of cross(drafts)) {
    if (seen.size >= limit) break;
    add(draft);
  }
  return [...seen.values()];
}

/** Every named principal with everything that is named: rules overlap where their authors did not expect it. */
function* cross(drafts: readonly Draft[]): Generator<Draft> {
  const callers = new Map(
    drafts.map((one) => [
      JSON.stringify([one.principal, one.sourceIp, one.remoteIp, one.claims, one.headers, one.sni]),
      one,
    ]),
  );
  const calls = new Map(
    drafts.map((one) => [JSON.stringify([one.method, one.path, one.host, one.port, one.destinationIp]), one]),
  );
  for (const { principal, sourceIp, remoteIp, claims, headers, sni } of callers.values())
    for (const call of calls.values()) yield { ...call, principal, sourceIp, remoteIp, claims, headers, sni };
}

function base({ trustDomain, namespace, ports = [8080] }: WitnessScope): Draft {
  return {
    principal: `spiffe://${trustDomain}/ns/${namespace}/sa/somebody`,
    method: 'GET',
    path: '/',
    host: 'app',
    port: ports[0] ?? 8080,
    sni: '',
    sourceIp: '198.51.100.7',
    remoteIp: '198.51.100.7',
    destinationIp: '198.51.100.8',
    claims: undefined,
    headers: {},
  };
}

/** One that fits each combination of source and operation, and for each some that differ in one thing. */
function* draftsOf({ rule, name }: CompiledRule, scope: WitnessScope): Generator<Draft> {
  const sources: readonly FieldValues[] = rule.from ?? [{}];
  const operations: readonly FieldValues[] = rule.to ?? [{}];
  for (const source of sources)
    for (const operation of operations)
      for (const values of combine(source, operation)) {
        const draft = base({ ...scope, namespace: name.namespace });
        for (const [field, value] of Object.entries(values)) apply(draft, field, value, scope, name.namespace);
        for (const condition of rule.when ?? []) applyCondition(draft, condition, scope, name.namespace);
        yield draft;
        for (const method of ['GET', 'POST', 'DELETE']) yield { ...draft, method };
        yield { ...draft, path: `${draft.path}${draft.path.endsWith('/') ? '' : '/'}more` };
        yield { ...draft, path: '/elsewhere' };
        yield { ...draft, host: 'elsewhere.test' };
        yield { ...draft, port: draft.port + 1 };
        yield { ...draft, principal: '' };
        yield { ...draft, principal: `spiffe://${scope.trustDomain}/ns/elsewhere/sa/somebody` };
        yield { ...draft, sourceIp: '203.0.113.9', remoteIp: '203.0.113.9' };
        yield { ...draft, claims: undefined };
        yield { ...draft, headers: {} };
      }
}

/**
 * The first value of every positive field, then each further value, one at a time; negations are met by avoiding them.
 */
function* combine(source: FieldValues, operation: FieldValues): Generator<Record<string, string>> {
  const all = Object.entries({ ...source, ...operation }).filter(([field]) => !/^not[A-Z]/.test(field));
  const first = Object.fromEntries(all.map(([field, values]) => [field, values[0]!]));
  yield first;
  for (const [field, values] of all) for (const value of values.slice(1)) yield { ...first, [field]: value };
}

function apply(draft: Draft, field: string, value: string, scope: WitnessScope, namespace: string): void {
  const text = instance(value);
  switch (field) {
    case 'principals': {
      const id =
        value === '*'
          ? `${scope.trustDomain}/ns/${namespace}/sa/somebody`
          : value.startsWith('*')
            ? `${scope.trustDomain}/ns/${namespace}${text.replace(/^x?(?!\/)/, '/')}`
            : text;
      draft.principal = `spiffe://${id.replace(/^cluster\.local(?=\/)/, scope.trustDomain)}`;
      break;
    }
    case 'namespaces':
      draft.principal = `spiffe://${scope.trustDomain}/ns/${text}/sa/somebody`;
      break;
    case 'serviceAccounts': {
      const [ns, sa] = value.includes('/') ? value.split('/') : [namespace, value];
      draft.principal = `spiffe://${scope.trustDomain}/ns/${ns}/sa/${sa}`;
      break;
    }
    case 'trustDomains':
      draft.principal = `spiffe://${text}/ns/${namespace}/sa/somebody`;
      break;
    case 'ipBlocks':
      draft.sourceIp = value.split('/')[0]!;
      break;
    case 'remoteIpBlocks':
      draft.remoteIp = value.split('/')[0]!;
      break;
    case 'requestPrincipals': {
      const slash = value.lastIndexOf('/');
      const [iss, sub] =
        slash === -1
          ? value.endsWith('*') && value !== '*'
            ? [text, 'somebody']
            : ['issuer', text]
          : [instance(value.slice(0, slash)), instance(value.slice(slash + 1))];
      draft.claims = { ...draft.claims, iss, sub };
      break;
    }
    case 'methods':
      draft.method = value === '*' ? 'GET' : text.toUpperCase();
      break;
    case 'paths':
      draft.path = isTemplate(value)
        ? value.replaceAll('{*}', 'x').replaceAll('{**}', 'x/y')
        : value.startsWith('*')
          ? `/${text}`.replace('//', '/')
          : text;
      break;
    case 'hosts':
      draft.host = text;
      break;
    case 'ports':
      draft.port = Number(value);
      break;
  }
}

function applyCondition(draft: Draft, { key, values }: Condition, scope: WitnessScope, namespace: string): void {
  const value = values?.[0];
  if (value === undefined) return;
  const field: Readonly<Record<string, string>> = {
    'source.principal': 'principals',
    'source.namespace': 'namespaces',
    'source.serviceAccount': 'serviceAccounts',
    'source.trustDomain': 'trustDomains',
    'source.ip': 'ipBlocks',
    'remote.ip': 'remoteIpBlocks',
    'destination.port': 'ports',
    'request.auth.principal': 'requestPrincipals',
  };
  const same = field[key];
  if (same !== undefined) return apply(draft, same, value, scope, namespace);
  const text = instance(value);
  if (key === 'destination.ip') draft.destinationIp = value.split('/')[0]!;
  else if (key === 'connection.sni') draft.sni = text;
  else if (key === 'request.auth.audiences') draft.claims = { ...draft.claims, aud: text };
  else if (key === 'request.auth.presenter') draft.claims = { ...draft.claims, azp: text };
  const header = /^request\.headers\[(.+)\]$/.exec(key)?.[1];
  if (header !== undefined) draft.headers = { ...draft.headers, [header]: text };
  const claim = /^request\.auth\.claims\[(.+)\]$/.exec(key)?.[1];
  if (claim === undefined) return;
  const path = claim.split('][');
  const nested = path.toReversed().reduce<unknown>((inner, step) => ({ [step]: inner }), [text]);
  draft.claims = { ...draft.claims, ...(nested as Record<string, unknown>) };
}

/** A text that matches a value by the string rule. */
function instance(value: string): string {
  if (value === '*') return 'x';
  if (value.startsWith('*')) return `x${value.slice(1)}`;
  return value.endsWith('*') ? `${value.slice(0, -1)}x` : value;
}

function factsOf(draft: Draft, protocol: 'http' | 'tcp'): RequestFacts {
  const http = protocol === 'http';
  const ip = (text: string | undefined): ReturnType<typeof parseIp> => (text === undefined ? undefined : parseIp(text));
  const { principal, port, sni } = draft;
  return createFacts({
    ...{ protocol, principal, port, sni },
    ...(http ? { method: draft.method, path: draft.path, host: draft.host } : {}),
    sourceIp: ip(draft.sourceIp),
    remoteIp: ip(draft.remoteIp),
    destinationIp: ip(draft.destinationIp),
    auth: http && draft.claims !== undefined ? readClaims(draft.claims) : undefined,
    headers: http ? draft.headers : {},
  });
}

// What a SecurityPolicy, or a policy of our own kinds, means beside the hooks of its parts: whether it demands anything
// of callers, which headers it sets, and which query parameters hold credentials. Each capability answers for its own
// plan. The policy's keys add to that, for a policy that cannot be read and for a part that no capability reads: a
// header that it names is ours unless it is known to be the caller's, and each parameter is secret. Fails closed: a
// forgotten name refuses more, never less.

import { capabilities, fieldsOf } from './capabilities.ts';
import type { AnyCapability, NamedBackend } from './capability.ts';

/** The summary of a policy. */
const aboutItself = [
  ...(['kind', 'name', 'namespace', 'targets', 'createdAt', 'file', 'line'] as const),
  ...(['mergeType', 'merged', 'required', 'namespaces'] as const),
] as const;

const about: ReadonlySet<string> = new Set(aboutItself);

type Table = readonly AnyCapability[];

/** The capability of each part of a SecurityPolicy. */
const ofSecurity = fieldsOf('SecurityPolicy');

/** The capability of each part of a policy. A policy of our own kinds has its `kind`. */
function fieldsFor(policy: object, table: Table): typeof ofSecurity {
  if ('kind' in policy) return fieldsOf(`sallyport.dev/${policy.kind}`, table);
  return table === capabilities ? ofSecurity : fieldsOf('SecurityPolicy', table);
}

/** The names of all parts of a policy, of any kind. */
export function partsOf(policy: object): readonly string[] {
  return Object.entries(policy).flatMap(([name, part]) => (part === undefined || about.has(name) ? [] : [name]));
}

/** The names of the parts that demand something of callers; empty if all callers pass. */
export function askingParts(policy: object, table: Table = capabilities): readonly string[] {
  return partsThat(policy, table, (guards) => guards !== false);
}

/** The names of the parts that can authenticate callers. */
export function knowingParts(policy: object, table: Table = capabilities): readonly string[] {
  return partsThat(policy, table, (guards) => guards === 'callers');
}

/** A part that no capability reads may be a new method of authentication. */
function partsThat(policy: object, table: Table, are: (guards: AnyCapability['guards']) => boolean): readonly string[] {
  const fields = fieldsFor(policy, table);
  return partsOf(policy).filter((name) => are(fields.get(name)?.capability.guards ?? 'callers'));
}

/** The parts that no capability evaluates: if the policy were served, all callers would pass them. */
export function unevaluatedParts(policy: object, table: Table = capabilities): readonly string[] {
  const fields = fieldsFor(policy, table);
  return askingParts(policy, table).filter((name) => !fields.has(name));
}

/** The parts of a valid policy, each with its guard. */
export function guardsIn(policy: object, table: Table = capabilities) {
  const fields = fieldsFor(policy, table);
  return askingParts(policy, table).flatMap((field) => {
    const { capability } = fields.get(field) ?? {};
    const plan = (policy as Readonly<Record<string, unknown>>)[field];
    return capability === undefined || capability.guards === false ? [] : [{ capability, plan, field }];
  });
}

/** The backends that the parts of a policy name. */
export function backendsOf(
  policy: object,
  table: Table = capabilities,
): readonly { readonly field: string; readonly backend: NamedBackend }[] {
  return guardsIn(policy, table).flatMap(({ capability, plan, field }) =>
    (capability.backends?.(plan) ?? []).map((backend) => ({ field, backend })),
  );
}

/** What a policy says about the requests of all clients, on every route: the union of its parts. */
export interface PolicyTraits {
  readonly ownHeaders: ReadonlySet<string>;
  readonly secretParams: readonly string[];
  readonly secretPaths: readonly string[];
}

/**
 * What the capabilities say about the parts of a valid policy, and what its keys say. A policy of our own kinds is one
 * part, which its capability reads as a whole: there the capability alone answers.
 */
export function traitsOf(policy: object, table: Table = capabilities): PolicyTraits {
  const guards = guardsIn(policy, table);
  const of = (trait: 'ownHeaders' | 'secretParams' | 'secretPaths'): string[] =>
    guards.flatMap(({ capability, plan, field }) => capability[trait]?.(plan, field) ?? []);
  const isOwn = 'kind' in policy;
  return {
    ownHeaders: new Set([
      ...of('ownHeaders').map((name) => name.toLowerCase()),
      ...(isOwn ? [] : ownHeadersOf(policy, table)),
    ]),
    secretParams: [...new Set([...of('secretParams'), ...(isOwn ? [] : secretParamsOf(policy, table))])],
    secretPaths: of('secretPaths'),
  };
}

/** Fields in which a policy names headers that callers may set: credentials, and conditions on requests. */
const readFromCaller: ReadonlySet<string> = new Set(['extractFrom', 'fromHeaders', 'headersToExtAuth', 'denyRedirect']);

/**
 * Headers, in lower case, that only we may set under this policy: as read, or the `spec` of an invalid one. They count
 * whether the policy can be served or not: if its Secret is missing, clients may not set them either.
 */
export function ownHeadersOf(policy: object, table: Table = capabilities): ReadonlySet<string> {
  const names = new Set<string>();
  const { extAuth, authorization: _asksOnly, ...others } = policy as Parts;
  for (const name of askingParts({ ...others, extAuth }, table))
    collectHeaders((policy as Readonly<Record<string, unknown>>)[name], names);
  // What is sent to an authorizer is the caller's to set, and it may replace or keep credentials. They come in
  // `authorization` and cannot be removed before they are read; the step that sets it replaces it.
  for (const name of stringsIn(extAuth?.headersToExtAuth)) names.delete(name.toLowerCase());
  if (extAuth !== undefined) names.delete('cookie');
  names.delete('authorization');
  return names;
}

interface Parts {
  readonly extAuth?: { readonly headersToExtAuth?: unknown };
  readonly authorization?: unknown;
}

/** Every header, in lower case, that a policy names: none of them is evaluated in trailers, so none passes there. */
export function namedHeadersOf(policy: object, table: Table = capabilities): ReadonlySet<string> {
  const names = new Set<string>();
  for (const name of askingParts(policy, table))
    collectHeaders((policy as Readonly<Record<string, unknown>>)[name], names, nothing);
  return names;
}

const nothing: ReadonlySet<string> = new Set();

function collectHeaders(value: unknown, into: Set<string>, skipped = readFromCaller): void {
  for (const [key, one] of entriesOf(value)) {
    if (skipped.has(key)) continue;
    if (/header/i.test(key)) for (const name of headerNamesIn(one)) into.add(name.toLowerCase());
    else collectHeaders(one, into, skipped);
  }
}

/** The names in a field about headers: itself, a list of them, or `header` and `name` of its entries. */
function headerNamesIn(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (Array.isArray(value)) return value.flatMap(headerNamesIn);
  const said = entriesOf(value);
  const named = said.filter(([key]) => /header|name/i.test(key));
  return (named.length === 0 ? said : named).flatMap(([, one]) => headerNamesIn(one));
}

/** Query parameters that may hold a credential, by a policy or by its `spec`: they are not logged. */
export function secretParamsOf(policy: object, table: Table = capabilities): readonly string[] {
  return [...new Set(askingParts(policy, table).flatMap((name) => paramsIn(policy, name)))];
}

function paramsIn(value: unknown, name: string): string[] {
  const one = (value as Readonly<Record<string, unknown>>)[name];
  if (/params?|query/i.test(name)) return stringsIn(one);
  return entriesOf(one).flatMap(([key]) => paramsIn(one, key));
}

function stringsIn(value: unknown): string[] {
  return typeof value === 'string' ? [value] : entriesOf(value).flatMap(([, one]) => stringsIn(one));
}

function entriesOf(value: unknown): [string, unknown][] {
  return typeof value === 'object' && value !== null ? Object.entries(value) : [];
}

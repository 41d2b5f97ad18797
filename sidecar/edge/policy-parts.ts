// What a SecurityPolicy means beside the hooks of its parts: does it ask anything of a caller, which headers does it speak in, in
// which parameters of a query does a credential stand. Each capability says it of its own plan. What the policy's keys say by
// themselves is added, for a policy that cannot be read and for a part that no capability reads: a header that it names is ours,
// unless it is known to be the caller's, and each parameter is secret. Fails closed: what is forgotten refuses more, never less.

import { fieldsOf } from './capabilities.ts';
import type { AnyCapability, NamedBackend } from './capability.ts';

/** What a policy says about itself. */
const aboutItself = [
  ...(['name', 'namespace', 'targets', 'createdAt', 'file', 'line'] as const),
  ...(['mergeType', 'merged', 'required', 'namespaces'] as const),
] as const;

const about: ReadonlySet<string> = new Set(aboutItself);

/** Which capability each part of a SecurityPolicy is of. */
export type PolicyFields = ReturnType<typeof fieldsOf>;

const served: PolicyFields = fieldsOf('SecurityPolicy');

/** A part that no capability reads may be a new way to know callers. */
function guardsOf(name: string, fields: PolicyFields): AnyCapability['guards'] {
  return fields.get(name)?.capability.guards ?? 'callers';
}

/** The names of all parts of a policy, of whichever kind. */
export function partsOf(policy: object): readonly string[] {
  return Object.entries(policy).flatMap(([name, part]) => (part === undefined || about.has(name) ? [] : [name]));
}

/** The names of the parts that ask something of a caller; none where all callers pass. */
export function askingParts(policy: object, fields: PolicyFields = served): readonly string[] {
  return partsOf(policy).filter((name) => guardsOf(name, fields) !== false);
}

/** The names of the parts by which callers may be known. */
export function knowingParts(policy: object): readonly string[] {
  return partsOf(policy).filter((name) => guardsOf(name, served) === 'callers');
}

/** The parts that no capability evaluates: a policy that has one would let all callers past it. */
export function unevaluatedParts(policy: object, fields: PolicyFields = served): readonly string[] {
  return askingParts(policy, fields).filter((name) => !fields.has(name));
}

/** The parts of a policy that was read, with the guard that each is of. */
export function guardsIn(policy: object, fields: PolicyFields = served) {
  return askingParts(policy, fields).flatMap((field) => {
    const { capability } = fields.get(field) ?? {};
    const plan = (policy as Readonly<Record<string, unknown>>)[field];
    return capability === undefined || capability.guards === false ? [] : [{ capability, plan, field }];
  });
}

/** The backends that the parts of a policy name. */
export function backendsOf(policy: object): readonly { readonly field: string; readonly backend: NamedBackend }[] {
  return guardsIn(policy, served).flatMap(({ capability, plan, field }) =>
    (capability.backends?.(plan) ?? []).map((backend) => ({ field, backend })),
  );
}

/** What a policy says about the requests of all clients, on every route: the union of its parts. */
export interface PolicyTraits {
  readonly ownHeaders: ReadonlySet<string>;
  readonly secretParams: readonly string[];
  readonly secretPaths: readonly string[];
}

/** What the capabilities say of the parts of a policy that was read, and what its keys say by themselves. */
export function traitsOf(policy: object, fields: PolicyFields = served): PolicyTraits {
  const of = (trait: 'ownHeaders' | 'secretParams' | 'secretPaths'): string[] =>
    guardsIn(policy, fields).flatMap(({ capability, plan, field }) => capability[trait]?.(plan, field) ?? []);
  return {
    ownHeaders: new Set([...of('ownHeaders').map((name) => name.toLowerCase()), ...ownHeadersOf(policy, fields)]),
    secretParams: [...new Set([...of('secretParams'), ...secretParamsOf(policy, fields)])],
    secretPaths: of('secretPaths'),
  };
}

/** Where a policy names headers that are the caller's to set: credentials, and what is asked of a request. */
const readFromCaller: ReadonlySet<string> = new Set(['extractFrom', 'fromHeaders', 'headersToExtAuth', 'denyRedirect']);

/**
 * Headers, in lower case, that only we may set by this policy: as it was read, or the `spec` of one that cannot be. They are
 * known whether it can be served or not: where its Secret is gone, no client may say them either.
 */
export function ownHeadersOf(policy: object, fields: PolicyFields = served): ReadonlySet<string> {
  const names = new Set<string>();
  const { extAuth, authorization: _asksOnly, ...others } = policy as Parts;
  for (const name of askingParts({ ...others, extAuth }, fields))
    collectHeaders((policy as Readonly<Record<string, unknown>>)[name], names);
  // What an authorizer is told is the caller's to say, and credentials it may exchange or leave. They come in `authorization`
  // and cannot be dropped before they were looked at; the step that sets it replaces it.
  for (const name of stringsIn(extAuth?.headersToExtAuth)) names.delete(name.toLowerCase());
  if (extAuth !== undefined) names.delete('cookie');
  names.delete('authorization');
  return names;
}

interface Parts {
  readonly extAuth?: { readonly headersToExtAuth?: unknown };
  readonly authorization?: unknown;
}

/** Every header, in lower case, that a policy names: in trailers none of them is judged, so none of them passes there. */
export function namedHeadersOf(policy: object): ReadonlySet<string> {
  const names = new Set<string>();
  for (const name of askingParts(policy))
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

/** The names in a field that is about headers: itself, a list of them, or `header` and `name` of its entries. */
function headerNamesIn(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (Array.isArray(value)) return value.flatMap(headerNamesIn);
  const said = entriesOf(value);
  const named = said.filter(([key]) => /header|name/i.test(key));
  return (named.length === 0 ? said : named).flatMap(([, one]) => headerNamesIn(one));
}

/** Parameters of a query in which a credential may stand, by a policy or by its `spec`: none of them is for a log. */
export function secretParamsOf(policy: object, fields: PolicyFields = served): readonly string[] {
  return [...new Set(askingParts(policy, fields).flatMap((name) => paramsIn(policy, name)))];
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

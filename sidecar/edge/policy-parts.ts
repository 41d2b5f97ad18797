// What a SecurityPolicy means beside its own steps: does it ask anything of a caller, which headers does it speak in, in which
// parameters of a query does a credential stand, and is a caller who is in already still the one who came in. Derived from the
// policy's own keys: a part that is not known to be harmless asks; a header that it names is ours, unless it is known to be the
// caller's; each parameter is secret. Fails closed: what is forgotten here refuses more, never less.

import { hash } from 'node:crypto';
import type { SecurityPolicy } from './security-policy.ts';

/** What a policy says about itself. */
const aboutItself = [
  ...(['name', 'namespace', 'targets', 'createdAt', 'file', 'line'] as const),
  ...(['mergeType', 'merged', 'required', 'namespaces'] as const),
] as const;

/** Parts that neither let a caller in nor keep one out. A name that is added here opens something: show that it may. */
const harmless: readonly string[] = ['cors'];

/** The parts of a SecurityPolicy that ask something of a caller. */
type AskingPart = Exclude<keyof SecurityPolicy, (typeof aboutItself)[number]>;

const askNothing: ReadonlySet<string> = new Set([...aboutItself, ...harmless]);

/**
 * Who still holds after a change of the policy. `client` and `user`: the caller who is known by what the new one takes.
 * `again`: the part is asked anew for each open exchange. `same`: the caller who was asked by the very same part. A part without a row
 * is evaluated by nothing, and its policy is not served.
 */
const rows: { readonly [K in AskingPart]: 'client' | 'user' | 'again' | 'same' } = {
  apiKeyAuth: 'client',
  basicAuth: 'client',
  jwt: 'user',
  oidc: 'user',
  introspection: 'user',
  extAuth: 'same',
  authorization: 'again',
};

const rowOf = (name: string): string | undefined => (Object.hasOwn(rows, name) ? rows[name as AskingPart] : undefined);

/** The names of all parts of a policy, of whichever kind. */
export function partsOf(policy: object): readonly string[] {
  const about: ReadonlySet<string> = new Set(aboutItself);
  return Object.entries(policy).flatMap(([name, part]) => (part === undefined || about.has(name) ? [] : [name]));
}

/** The names of the parts that ask something of a caller; none where all callers pass. */
export function askingParts(policy: object): readonly string[] {
  return Object.entries(policy).flatMap(([name, part]) => (part === undefined || askNothing.has(name) ? [] : [name]));
}

/** The parts that no step evaluates: a policy that has one would let all callers past it. */
export function unevaluatedParts(policy: object): readonly string[] {
  return askingParts(policy).filter((name) => rowOf(name) === undefined);
}

/**
 * What the parts say by which only those hold who were asked by the very same: a digest for each, of the part and of all
 * Secrets that it names. `timeoutMs` decides about no caller.
 */
export function sayingsOf(
  policy: object,
  resolveSecret: (name: string, part: string) => object | undefined,
): ReadonlyMap<string, string> {
  const names = askingParts(policy).filter((name) => (rowOf(name) ?? 'same') === 'same');
  return new Map(
    names.map((name) => {
      const part = (policy as Readonly<Record<string, unknown>>)[name];
      const secrets = stringsIn(part).map((one) => resolveSecret(one, name) ?? null);
      const text = JSON.stringify([part, secrets], (key, value: unknown) => (key === 'timeoutMs' ? undefined : value));
      return [name, hash('sha256', text)];
    }),
  );
}

/** Where a policy names headers that are the caller's to set: credentials, and what is asked of a request. */
const readFromCaller: ReadonlySet<string> = new Set(['extractFrom', 'fromHeaders', 'headersToExtAuth', 'denyRedirect']);

/**
 * Headers, in lower case, that only we may set by this policy: as it was read, or the `spec` of one that cannot be. They are
 * known whether it can be served or not: where its Secret is gone, no client may say them either.
 */
export function ownHeadersOf(policy: object): ReadonlySet<string> {
  const names = new Set<string>();
  const { extAuth, authorization: _asksOnly, ...others } = policy as Partial<SecurityPolicy>;
  for (const name of askingParts({ ...others, extAuth }))
    collectHeaders((policy as Readonly<Record<string, unknown>>)[name], names);
  // What an authorizer is told is the caller's to say, and credentials it may exchange or leave. They come in `authorization`
  // and cannot be dropped before they were looked at; the step that sets it replaces it.
  for (const name of stringsIn(extAuth?.headersToExtAuth)) names.delete(name.toLowerCase());
  if (extAuth !== undefined) names.delete('cookie');
  names.delete('authorization');
  return names;
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
export function secretParamsOf(policy: object): readonly string[] {
  return [...new Set(askingParts(policy).flatMap((name) => paramsIn(policy, name)))];
}

function paramsIn(value: unknown, name: string): string[] {
  const one = (value as Readonly<Record<string, unknown>>)[name];
  if (/params?|query/i.test(name)) return stringsIn(one);
  return entriesOf(one).flatMap(([key]) => paramsIn(one, key));
}

/** Paths whose query is a credential as a whole: a provider sends a browser back to them with a code. */
export function secretPathsOf({ oidc }: Partial<SecurityPolicy>): readonly string[] {
  return oidc === undefined ? [] : [new URL(oidc.redirectUrl).pathname];
}

function stringsIn(value: unknown): string[] {
  return typeof value === 'string' ? [value] : entriesOf(value).flatMap(([, one]) => stringsIn(one));
}

function entriesOf(value: unknown): [string, unknown][] {
  return typeof value === 'object' && value !== null ? Object.entries(value) : [];
}

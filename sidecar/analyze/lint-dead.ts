// What of a rule can be proven to match nothing: values that no request ever has by the time it is judged. In an ALLOW such a
// rule lets nothing in; in a DENY, or among exceptions, something stands open that was to be closed.

import { compileNamespaces } from '../policy/match.ts';
import { normalizePath, type PathNormalization } from '../policy/path.ts';
import type { FieldValues, Rule } from '../policy/policy.ts';
import { isTemplate } from '../policy/template.ts';

/** What has to be known of the workload; what is undefined is not asked about. */
export interface DeadScope {
  readonly ports?: readonly number[];
  readonly pathNormalization?: PathNormalization;
}

export interface DeadPart {
  /** Below the rule. */
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly mend: string;
}

type Why = { readonly why: string; readonly mend: string } | undefined;
type Test = (value: string, scope: DeadScope) => Why;

/** Everything in `rule` that never matches. */
export function deadParts(rule: Rule, scope: DeadScope): readonly DeadPart[] {
  const { from = [], to = [], when = [] } = rule;
  return [
    ...from.flatMap((fields, i) => [...deadFields(fields, ['from', i, 'source'], scope), ...deadSource(fields, i)]),
    ...to.flatMap((fields, i) => deadFields(fields, ['to', i, 'operation'], scope)),
    ...when.flatMap(({ key }, i) => deadKey(key, ['when', i, 'key'])),
    ...when.flatMap(({ key, values = [], notValues = [] }, i) => {
      const test = conditionTests[key];
      if (test === undefined) return [];
      const of = (field: string, list: readonly string[]) => deadValues(test, list, ['when', i, field], scope);
      return [...of('values', values), ...of('notValues', notValues)];
    }),
    ...deadConditions(rule),
  ];
}

function deadFields(fields: FieldValues, path: readonly PropertyKey[], scope: DeadScope): DeadPart[] {
  return Object.entries(fields).flatMap(([field, values]) => {
    const test = fieldTests[field.replace(/^not([A-Z])/, (_, first: string) => first.toLowerCase())];
    return test === undefined ? [] : deadValues(test, values, [...path, field], scope);
  });
}

function deadValues(test: Test, values: readonly string[], path: readonly PropertyKey[], scope: DeadScope): DeadPart[] {
  return values.flatMap((value, i) => {
    const dead = test(value, scope);
    return dead === undefined
      ? []
      : [{ path: [...path, i], message: `'${value}' never matches: ${dead.why}`, mend: dead.mend }];
  });
}

const port: Test = (value, { ports }) =>
  ports === undefined || ports.includes(Number(value))
    ? undefined
    : {
        why: `the workload has no such port, only ${ports.join(', ') || 'none'}`,
        mend: "write the app's port, not that of the sidecar",
      };

const namespace: Test = (value) =>
  /^[a-z0-9*](?:[-a-z0-9*]*[a-z0-9*])?$/.test(value)
    ? undefined
    : { why: 'a namespace is written in a-z, 0-9 and dashes', mend: 'correct it' };

const withoutScheme: Test = (value) =>
  value.startsWith('spiffe://')
    ? { why: "principals are written without 'spiffe://'", mend: `write '${value.slice(9)}'` }
    : undefined;

const fieldTests: Readonly<Record<string, Test>> = {
  paths: deadPath,
  hosts: deadHost,
  namespaces: namespace,
  ports: port,
  requestPrincipals: (value) =>
    value.includes('/') || value.startsWith('*') || value.endsWith('*')
      ? undefined
      : { why: "it is written 'issuer/subject', and a token without a subject has none", mend: `write '${value}/*'` },
};

const conditionTests: Readonly<Record<string, Test>> = {
  'destination.port': port,
  'source.namespace': namespace,
  'source.principal': withoutScheme,
};

/** RFC 9110 section 5.1: what is no token is no header's name, and no request has it. */
function deadKey(key: string, path: readonly PropertyKey[]): DeadPart[] {
  const name = /^request\.headers\[(.*)\]$/.exec(key)?.[1];
  if (name === undefined || /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) return [];
  return [{ path, message: `'${key}' is never there: '${name}' is not the name of a header`, mend: 'correct it' }];
}

function deadHost(value: string): Why {
  const mend = 'write the host name alone';
  if (value.includes('://')) return { why: 'a host has no scheme', mend };
  return /[/?#\s]/.test(value) ? { why: 'a host has no path and no spaces', mend } : undefined;
}

/** Paths are judged in their normal form and without their query: what is no normal form is no path that is judged. */
function deadPath(value: string, { pathNormalization: how }: DeadScope): Why {
  if (value === '*') return undefined;
  if (/[?#]/.test(value))
    return {
      why: 'paths are judged without their query and have no fragment',
      mend: 'leave out what follows the path',
    };
  if (!/^[/*]/.test(value)) return { why: 'a path begins with /', mend: `write '/${value}'` };
  if (isTemplate(value)) return undefined;
  const isSuffix = value.startsWith('*');
  const isPrefix = !isSuffix && value.endsWith('*');
  // Of a prefix the last escape may go on.
  const literal = isSuffix ? value.slice(1) : isPrefix ? value.slice(0, -1).replace(/%[0-9A-Fa-f]?$/, '') : value;
  const sample = isSuffix ? `/a${literal}` : isPrefix ? `${literal}a` : literal;
  const normal = normalOf(sample, how ?? 'BASE');
  const holds = isSuffix ? normal?.endsWith(literal) : isPrefix ? normal?.startsWith(literal) : normal === literal;
  if (holds === true) return undefined;
  return normal === undefined
    ? { why: 'a request for it is refused before it is judged', mend: 'write the path as apps see it' }
    : {
        why: `paths are judged in their normal form${how === undefined ? '' : ` (${how})`}, and this is none`,
        mend: isSuffix || isPrefix ? 'write it as paths are after that' : `write '${normal}'`,
      };
}

function normalOf(path: string, how: PathNormalization): string | undefined {
  try {
    return normalizePath(path, how);
  } catch {
    return undefined;
  }
}

/** A source whose principals are all outside of its namespaces. */
function deadSource({ principals, namespaces, notNamespaces = [] }: FieldValues, index: number): DeadPart[] {
  if (principals === undefined || principals.some((one) => one.includes('*') || one.startsWith('spiffe://'))) return [];
  const uris = principals.map((one) => `spiffe://${one}`);
  const within = namespaces === undefined ? uris : uris.filter(compileNamespaces(namespaces));
  const left = notNamespaces.length === 0 ? within : within.filter((one) => !compileNamespaces(notNamespaces)(one));
  if (left.length > 0) return [];
  const field = within.length === 0 ? 'namespaces' : 'notNamespaces';
  return [
    {
      path: ['from', index, 'source', field],
      message: `this source never matches: its '${field}' leave out every one of its 'principals'`,
      mend: `leave '${field}' out: a principal says its namespace`,
    },
  ];
}

/** Attributes that a request has once: two conditions that no value satisfies together. */
const single = new Set([
  'destination.port',
  'destination.ip',
  'source.ip',
  'remote.ip',
  'source.principal',
  'connection.sni',
]);

function deadConditions({ when = [] }: Rule): DeadPart[] {
  return when.flatMap(({ key, values = [] }, i) => {
    if (!single.has(key) || values.length === 0 || !values.every(isExact)) return [];
    const other = when.findIndex(
      (one, j) => j < i && one.key === key && one.values?.every(isExact) && !one.values.some((v) => values.includes(v)),
    );
    if (other === -1) return [];
    const message = `'${key}' would have to be two things at once: conditions ${other} and ${i} have no value in common`;
    return [{ path: ['when', i], message, mend: 'put the values into one condition: they are alternatives there' }];
  });
}

const isExact = (value: string): boolean => !/[*/]/.test(value) || value.includes('/ns/');

// Finds parts of a rule that provably match nothing: values that no request has when it is evaluated. An ALLOW rule
// with one lets nothing in. In a DENY rule, or among exceptions, it leaves open what should be closed.

import { compileNamespaces } from '../policy/match.ts';
import { normalizePath, type PathNormalization } from '../policy/path.ts';
import type { FieldValues, Rule } from '../policy/policy.ts';
import { isTemplate } from '../policy/template.ts';

/** The facts about the workload. Checks that need an undefined one are skipped. */
export interface DeadScope {
  readonly ports?: readonly number[];
  readonly pathNormalization?: PathNormalization;
}

/** `mend` says what to write instead. */
export interface DeadPart {
  /** Path below the rule. */
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly mend: string;
}

type Why = { readonly why: string; readonly mend: string } | undefined;
type Test = (value: string, scope: DeadScope) => Why;

/** All parts of `rule` that never match. */
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
    : { why: 'a namespace consists of a-z, 0-9 and dashes', mend: 'correct it' };

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
      : {
          why: "the form is 'issuer/subject', and a token without a subject has no principal",
          mend: `write '${value}/*'`,
        },
};

const conditionTests: Readonly<Record<string, Test>> = {
  'destination.port': port,
  'source.namespace': namespace,
  'source.principal': withoutScheme,
};

/** RFC 9110 section 5.1: a header name is a token, so no request has any other name. */
function deadKey(key: string, path: readonly PropertyKey[]): DeadPart[] {
  const name = /^request\.headers\[(.*)\]$/.exec(key)?.[1];
  if (name === undefined || /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name)) return [];
  return [{ path, message: `'${key}' is never present: '${name}' is not a header name`, mend: 'correct it' }];
}

function deadHost(value: string): Why {
  const mend = 'write the host name alone';
  if (value.includes('://')) return { why: 'a host has no scheme', mend };
  return /[/?#\s]/.test(value) ? { why: 'a host has no path and no spaces', mend } : undefined;
}

/**
 * Paths are evaluated in normal form and without their query, so a pattern that is not in normal form never matches.
 */
function deadPath(value: string, { pathNormalization: how }: DeadScope): Why {
  if (value === '*') return undefined;
  if (/[?#]/.test(value))
    return {
      why: 'paths are evaluated without their query and have no fragment',
      mend: 'remove what follows the path',
    };
  if (!/^[/*]/.test(value)) return { why: 'a path begins with /', mend: `write '/${value}'` };
  if (isTemplate(value)) return undefined;
  const isSuffix = value.startsWith('*');
  const isPrefix = !isSuffix && value.endsWith('*');
  // The last escape of a prefix may be incomplete.
  const literal = isSuffix ? value.slice(1) : isPrefix ? value.slice(0, -1).replace(/%[0-9A-Fa-f]?$/, '') : value;
  const sample = isSuffix ? `/a${literal}` : isPrefix ? `${literal}a` : literal;
  const normal = normalOf(sample, how ?? 'BASE');
  const holds = isSuffix ? normal?.endsWith(literal) : isPrefix ? normal?.startsWith(literal) : normal === literal;
  if (holds === true) return undefined;
  return normal === undefined
    ? { why: 'a request for it is refused before any policy', mend: 'write the path as the app sees it' }
    : {
        why: `paths are evaluated in normal form${how === undefined ? '' : ` (${how})`}, and this is not one`,
        mend: isSuffix || isPrefix ? 'write it in normal form' : `write '${normal}'`,
      };
}

function normalOf(path: string, how: PathNormalization): string | undefined {
  try {
    return normalizePath(path, how);
  } catch {
    return undefined;
  }
}

/** A source whose principals are all outside its namespaces. */
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
      message: `this source never matches: its '${field}' exclude all of its 'principals'`,
      mend: `remove '${field}': a principal contains its namespace`,
    },
  ];
}

/** Attributes with a single value per request: two conditions that no value satisfies together. */
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
    const message = `'${key}' would need two values at once: conditions ${other} and ${i} have no value in common`;
    return [{ path: ['when', i], message, mend: 'put the values into one condition, where they are alternatives' }];
  });
}

const isExact = (value: string): boolean => !/[*/]/.test(value) || value.includes('/ns/');

// The key that a rule counts a request under: none if a condition does not match, else one with a part for each
// Distinct value. Parts include their length, so that no two lists of values give the same key. Long ones are hashed,
// so that clients cannot choose the size of our table's keys.

import { hash } from 'node:crypto';
import { compileIpBlocks, type Ip } from '../../policy/ip.ts';
import { compileRegex } from '../../routing/regex.ts';
import type { LimitRule, LimitSelector, NamedTest, ValueTest } from './schema.ts';

/** A request's attributes for rules. An absent attribute is undefined. */
export interface LimitFacts {
  /** The route, by a stable name. */
  readonly route: string;
  readonly method: string;
  /** Normalised, without query. */
  readonly path: string;
  /** Without the question mark. */
  readonly query: string;
  /** The client's address behind the trusted hops. */
  readonly clientIp: Ip | undefined;
  readonly clientId: string | undefined;
  /** The SPIFFE ID of its certificate. */
  readonly principal: string | undefined;
  readonly claims: Readonly<Record<string, unknown>> | undefined;
  /** Name in lower case. */
  header(name: string): string | undefined;
}

/** The key; undefined if the rule does not apply to this request. */
export type KeyOf = (facts: LimitFacts) => string | undefined;

/** A part of the key: '' for a condition that matches but separates no clients, undefined if it does not match. */
type Part = (facts: LimitFacts) => string | undefined;

/**
 * The rule's key for a request. All selectors of a rule must match, and all conditions of each (Envoy Gateway's
 * `clientSelectors`: "all individual select conditions must hold True"). With Distinct, a rule does not apply to
 * requests without the value.
 */
export function compileKey(rule: LimitRule): KeyOf {
  const parts = rule.selectors.flatMap(partsOf);
  // The rule's text is part of the key: a changed rule begins with full buckets, an unchanged one keeps its own.
  const prefix = hash('sha256', JSON.stringify(rule), 'base64url').slice(0, 16);
  // A limit nearly always serves one route: its part, a map's key with its hash, is made once.
  let route = '';
  let begin = rule.acrossRoutes ? prefix : prefix + partOf(route);
  return function limitKey(facts) {
    if (facts.route !== route && !rule.acrossRoutes) {
      route = facts.route;
      begin = prefix + partOf(route);
    }
    let key = begin;
    for (const part of parts) {
      const one = part(facts);
      if (one === undefined) return undefined;
      if (one !== '') key += one;
    }
    return key;
  };
}

/** Longer values are hashed. */
const longest = 64;

function partOf(value: string): string {
  if (value.length > longest) return `#${hash('sha256', value, 'base64url')}`;
  return `${value.length}:${value}`;
}

function partsOf(selector: LimitSelector): Part[] {
  const { headers, queryParams, methods, path, sourceCIDR, jwtClaims, clientId, principal } = selector;
  return [
    ...(methods.length === 0 ? [] : [methodPart(methods)]),
    ...(path === undefined ? [] : [pathPart(path)]),
    ...(sourceCIDR === undefined ? [] : [addressPart(sourceCIDR)]),
    ...headers.map((test) => namedPart(test, (facts) => facts.header(test.name))),
    ...queryParams.map((test) => namedPart(test, ({ query }) => parameterOf(query, test.name))),
    ...jwtClaims.map((test) => claimPart(test)),
    ...(clientId === undefined ? [] : [namedPart(named(clientId), (facts) => facts.clientId)]),
    ...(principal === undefined ? [] : [namedPart(named(principal), (facts) => facts.principal)]),
  ];
}

const named = (test: ValueTest): NamedTest => ({ ...test, name: '', invert: false });

function methodPart(methods: LimitSelector['methods']): Part {
  return ({ method }) => (methods.some(({ value, invert }) => (value === method) !== invert) ? '' : undefined);
}

function pathPart({ type, value, invert }: NonNullable<LimitSelector['path']>): Part {
  const matches = type === 'Exact' ? (path: string) => path === value : pathTest(type, value);
  return ({ path }) => (matches(path) !== invert ? '' : undefined);
}

/** A prefix covers whole segments, as in Gateway API: /a matches /a and /a/b, not /ab. */
function pathTest(type: string, value: string): (path: string) => boolean {
  if (type === 'RegularExpression') return compileRegex(value);
  const prefix = value.endsWith('/') ? value.slice(0, -1) : value;
  return (path) => path.startsWith(prefix) && (path.length === prefix.length || path[prefix.length] === '/');
}

/**
 * A client with an unknown address counts as in every block, and all such clients share one bucket: otherwise no rule
 * would limit them. For IPv6, Distinct uses the /64 network: a client with one address has all of it.
 */
function addressPart({ type, value }: ValueTest): Part {
  const inBlock = compileIpBlocks([value]);
  return function addressOf({ clientIp }) {
    if (clientIp !== undefined && !inBlock(clientIp)) return undefined;
    if (type === 'Exact') return '';
    if (clientIp === undefined) return '-';
    return clientIp.family === 4 ? `${clientIp.a}.` : `${clientIp.a}:${clientIp.b}.`;
  };
}

function namedPart({ type, value, invert }: NamedTest, read: (facts: LimitFacts) => string | undefined): Part {
  if (type === 'Distinct')
    return (facts) => {
      const found = read(facts);
      return found === undefined ? undefined : partOf(found);
    };
  const matches = type === 'Exact' ? (found: string) => found === value : compileRegex(value);
  return (facts) => {
    const found = read(facts);
    return (found !== undefined && matches(found)) !== invert ? '' : undefined;
  };
}

/** The first parameter of that name, decoded. */
function parameterOf(query: string, name: string): string | undefined {
  return query === '' ? undefined : (new URLSearchParams(query).get(name) ?? undefined);
}

/** A list claim matches by any member; as a Distinct value the whole list counts. */
function claimPart({ name, type, value }: NamedTest): Part {
  const path = name.split('.');
  return function claimOf({ claims }) {
    const found = claims === undefined ? undefined : claimAt(claims, name, path);
    if (found === undefined || found === null) return undefined;
    if (type === 'Distinct') return partOf(typeof found === 'object' ? JSON.stringify(found) : String(found));
    const all: unknown[] = Array.isArray(found) ? found : [found];
    return all.some((one) => typeof one !== 'object' && String(one) === value) ? '' : undefined;
  };
}

/** By its whole name, which may contain dots (https://example.test/tier), else from object to object. */
function claimAt(claims: Readonly<Record<string, unknown>>, name: string, path: readonly string[]): unknown {
  if (Object.hasOwn(claims, name)) return claims[name];
  let at: unknown = claims;
  for (const step of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, step)) return undefined;
    at = (at as Record<string, unknown>)[step];
  }
  return at;
}

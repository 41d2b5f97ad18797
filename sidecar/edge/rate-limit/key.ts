// Whom a rule counts a request for: nobody where a condition does not hold, else a key, with a part for each Distinct
// value. Parts carry their length, so that no two lists of values make one key; long ones are hashed, so that nobody
// chooses how large our table's keys are.

import { hash } from 'node:crypto';
import { compileIpBlocks, type Ip } from '../../policy/ip.ts';
import { compileRegex } from '../../routing/regex.ts';
import type { LimitRule, LimitSelector, NamedTest, ValueTest } from './plan.ts';

/** What rules ask of a request. An absent attribute is undefined. */
export interface LimitFacts {
  /** The route that was found, by a name that stays. */
  readonly route: string;
  readonly method: string;
  /** Normalised, without query. */
  readonly path: string;
  /** Without the question mark. */
  readonly query: string;
  /** The client's address behind the hops that are trusted. */
  readonly clientIp: Ip | undefined;
  readonly clientId: string | undefined;
  /** The SPIFFE ID of its certificate. */
  readonly principal: string | undefined;
  readonly claims: Readonly<Record<string, unknown>> | undefined;
  /** Name in lower case. */
  header(name: string): string | undefined;
}

/** The key, or undefined where the rule is not about this request. */
export type KeyOf = (facts: LimitFacts) => string | undefined;

/** A part of the key, '' where a condition holds that tells nobody apart, undefined where it does not hold. */
type Part = (facts: LimitFacts) => string | undefined;

/**
 * The rule's key of a request. All selectors of a rule must hold, and in each all that it says (Envoy Gateway's
 * `clientSelectors`: "all individual select conditions must hold True"). With Distinct, a request without the value is
 * not the rule's.
 */
export function compileKey(rule: LimitRule): KeyOf {
  const parts = rule.selectors.flatMap(partsOf);
  // What the rule says is part of the key: a rule that changes begins with full buckets, one that stays keeps its own.
  const prefix = hash('sha256', JSON.stringify(rule), 'base64url').slice(0, 16);
  // Nearly always a limit is asked for one route: its part, which is a map's key with its hash, is made once.
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

/** Longer values are known by their hash. */
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

/** A prefix is one of segments, as in Gateway API: /a is that of /a and /a/b, not of /ab. */
function pathTest(type: string, value: string): (path: string) => boolean {
  if (type === 'RegularExpression') return compileRegex(value);
  const prefix = value.endsWith('/') ? value.slice(0, -1) : value;
  return (path) => path.startsWith(prefix) && (path.length === prefix.length || path[prefix.length] === '/');
}

/**
 * A client whose address nobody knows is in every block, and all of them are one: else it would be limited by none. Of
 * IPv6, Distinct is a network of 64 bits: whoever has one address has all of it.
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

/** The first of its name, decoded. */
function parameterOf(query: string, name: string): string | undefined {
  return query === '' ? undefined : (new URLSearchParams(query).get(name) ?? undefined);
}

/** A claim that is a list matches by any of its members, and as a whole tells clients apart. */
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

/** By its whole name, which may hold dots (https://example.test/tier), else from object to object. */
function claimAt(claims: Readonly<Record<string, unknown>>, name: string, path: readonly string[]): unknown {
  if (Object.hasOwn(claims, name)) return claims[name];
  let at: unknown = claims;
  for (const step of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, step)) return undefined;
    at = (at as Record<string, unknown>)[step];
  }
  return at;
}

// Every field of a source or an operation and every key of `when`, one row each: what it reads from a request, how its
// values match, and where it exists. This table is the only place that knows fields by name.

import type { RequestFacts } from './facts.ts';
import { normalizeHostPattern } from './host.ts';
import { compileIpBlocks, type Ip } from './ip.ts';
import {
  compileNamespaces,
  compilePrincipals,
  compileRequestPrincipals,
  compileServiceAccounts,
  compileStrings,
  compileTrustDomains,
  isPattern,
  type Match,
  matchAny,
} from './match.ts';
import { compileTemplate, isTemplate } from './template.ts';

/** What the meaning of a field's values depends on. */
export interface ValueScope {
  /** Our own, then its aliases. */
  readonly trustDomains: readonly string[];
  /** The policy's namespace. */
  readonly namespace: string;
}

/** A compiled question about a request; for an absent field the answer is no. */
export type Holds = (facts: RequestFacts) => boolean;

/** One row of the table: a field of `from` or `to`, or a key of `when`. */
export interface Attribute {
  /** The field does not exist on TCP. */
  readonly httpOnly: boolean;
  /** It depends on the peer's identity alone, which is the same for a whole connection. */
  readonly ofPeer: boolean;
  /** Does any of `values` match? */
  compile(values: readonly string[], scope: ValueScope): Holds;
  /** The field's value in this request, for explanations; undefined if absent. */
  see(facts: RequestFacts): string | undefined;
}

const peer = (compile: (values: readonly string[], scope: ValueScope) => Match): Attribute => ({
  httpOnly: false,
  ofPeer: true,
  compile(values, scope) {
    const match = compile(values, scope);
    return (facts) => match(facts.principal);
  },
  see: (facts) => facts.principal || undefined,
});

const address = (read: (facts: RequestFacts) => Ip | undefined): Attribute => ({
  httpOnly: false,
  ofPeer: false,
  compile(values) {
    const match = compileIpBlocks(values);
    return (facts) => {
      const ip = read(facts);
      return ip !== undefined && match(ip);
    };
  },
  see: (facts) => read(facts)?.text,
});

const http = (compile: (values: readonly string[]) => Holds, see: Attribute['see']): Attribute => ({
  httpOnly: true,
  ofPeer: false,
  compile,
  see,
});

const methods = http(
  (values) => {
    const match = compileStrings(values);
    return (facts) => match(facts.method);
  },
  (facts) => facts.method,
);

const hosts = http(
  (values) => {
    const match = compileHosts(values);
    return (facts) => match(facts.host);
  },
  (facts) => facts.host,
);

/** Hosts of requests are normalised already; these values get the same spelling. */
function compileHosts(values: readonly string[]): Match {
  return compileStrings(values.map(normalizeHostPattern));
}

const paths = http(
  (values) => {
    const match = compilePaths(values);
    return (facts) => match(facts.path);
  },
  (facts) => facts.path,
);

function compilePaths(values: readonly string[]): Match {
  const templates = values.filter(isTemplate);
  if (templates.length === 0) return compileStrings(values);
  const plain = values.filter((one) => !isTemplate(one));
  const tests = templates.map(compileTemplate);
  return matchAny(new Set(), plain.length === 0 ? tests : [compileStrings(plain), ...tests]);
}

const ports: Attribute = {
  httpOnly: false,
  ofPeer: false,
  compile(values) {
    const wanted = new Set(values.map(Number));
    const [only] = wanted;
    return wanted.size === 1 ? (facts) => facts.port === only : (facts) => wanted.has(facts.port);
  },
  see: (facts) => String(facts.port),
};

const sni: Attribute = {
  httpOnly: false,
  ofPeer: false,
  compile(values) {
    const match = compileHosts(values);
    return (facts) => match(facts.sni);
  },
  see: (facts) => facts.sni || undefined,
};

const requestPrincipals = http(
  (values) => {
    const match = compileRequestPrincipals(values);
    return (facts) => match(facts.auth?.issuer, facts.auth?.subject);
  },
  (facts) => facts.auth?.principal,
);

const principals = peer((values, { trustDomains }) => compilePrincipals(values, trustDomains));
const namespaces = peer(compileNamespaces);
const serviceAccounts = peer((values, { namespace }) => compileServiceAccounts(values, namespace));
const trustDomains = peer((values, scope) => compileTrustDomains(values, scope.trustDomains));
const sourceIp = address((facts) => facts.sourceIp);
const remoteIp = address((facts) => facts.remoteIp);

/** The fields of a source and of an operation; each has a `not` twin. */
export const fields = {
  source: {
    principals,
    requestPrincipals,
    namespaces,
    serviceAccounts,
    trustDomains,
    ipBlocks: sourceIp,
    remoteIpBlocks: remoteIp,
  },
  operation: { hosts, ports, methods, paths },
} as const satisfies Record<string, Record<string, Attribute>>;

const keys: Readonly<Record<string, Attribute>> = {
  'source.principal': principals,
  'source.namespace': namespaces,
  'source.serviceAccount': serviceAccounts,
  'source.trustDomain': trustDomains,
  'source.ip': sourceIp,
  'remote.ip': remoteIp,
  'destination.ip': address((facts) => facts.destinationIp),
  'destination.port': ports,
  'connection.sni': sni,
  'request.auth.principal': requestPrincipals,
  'request.auth.audiences': claimAttribute(['aud']),
  'request.auth.presenter': claimAttribute(['azp']),
};

/** The names of the keys without brackets, for hints. */
export const plainKeys: readonly string[] = Object.keys(keys);

const addressKeys = new Set(['source.ip', 'remote.ip', 'destination.ip']);

/** The row of a key of `when`; undefined for one that does not exist. */
export function attributeOf(key: string): Attribute | undefined {
  const known = keys[key];
  if (known !== undefined) return known;
  const header = /^request\.headers\[([^[\]]+)\]$/.exec(key)?.[1];
  if (header !== undefined) return headerAttribute(header.toLowerCase());
  const claims = /^request\.auth\.claims((?:\[[^[\]]+\])+)$/.exec(key)?.[1];
  if (claims !== undefined) return claimAttribute(claims.slice(1, -1).split(']['));
  return undefined;
}

/** The header that a key reads; undefined for other keys. */
export function headerOf(key: string): string | undefined {
  return /^request\.headers\[([^[\]]+)\]$/.exec(key)?.[1]?.toLowerCase();
}

/** Are the values of this key addresses? */
export function isAddressKey(key: string): boolean {
  return addressKeys.has(key);
}

/** Headers that carry secrets: an explanation may state that they are present, but not their value. */
const secretHeaders = /^(?:authorization|proxy-authorization|cookie|set-cookie)$|token|secret|api-?key|password/;

function headerAttribute(name: string): Attribute {
  return http(
    (values) => {
      if (name === ':authority' || name === 'host') return hosts.compile(values, noScope);
      // For a star, presence is enough; otherwise the string rule applies to the joined value of several lines.
      const exact = new Set(values.filter((one) => !isPattern(one)));
      const patterns = values.filter((one) => isPattern(one) && one !== '*');
      const match = matchAny(exact, patterns.length === 0 ? [] : [compileStrings(patterns)]);
      const any = values.includes('*');
      return (facts) => {
        const value = facts.header(name);
        return value !== undefined && (any || match(value));
      };
    },
    (facts) => {
      const value = facts.header(name);
      return value !== undefined && secretHeaders.test(name) ? '(present, not shown)' : value;
    },
  );
}

/** Hosts mean the same in every scope. */
const noScope: ValueScope = Object.freeze({ trustDomains: [], namespace: '' });

/** A claim by its path: a string, or a list that holds one. Numbers and booleans match nothing, as in Envoy. */
function claimAttribute(path: readonly string[]): Attribute {
  return http(
    (values) => {
      const match = compileStrings(values);
      return (facts) => {
        const value = claimAt(facts, path);
        if (typeof value === 'string') return match(value);
        return Array.isArray(value) && value.some((one) => typeof one === 'string' && match(one));
      };
    },
    (facts) => {
      const value = claimAt(facts, path);
      return value === undefined ? undefined : typeof value === 'string' ? value : JSON.stringify(value);
    },
  );
}

function claimAt(facts: RequestFacts, path: readonly string[]): unknown {
  let value: unknown = facts.auth?.claims;
  for (const step of path) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, step))
      return undefined;
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}

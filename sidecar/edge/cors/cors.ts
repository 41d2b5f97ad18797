// CORS (Fetch standard, section 3.3): which origins may read answers, and what a preflight is told. Of a SecurityPolicy
// or of an HTTPRoute filter; both have the same fields.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { preflightFor } from '../../routing/match.ts';
import { originPattern } from './origin.ts';
import type { CorsPlan } from './schema.ts';

/** The rules of one place, ready to be applied. */
export interface Cors {
  readonly allowsOrigin: (origin: string) => boolean;
  readonly anyOrigin: boolean;
  readonly credentials: boolean;
  /** `*` among them stands for all. */
  readonly methods: readonly string[];
  readonly headers: readonly string[];
  readonly expose: readonly string[];
  readonly maxAgeS: number;
}

/** A function for one pattern; what is no pattern matches nothing. */
function compileOrigin(text: string): (scheme: string, host: string, port: string) => boolean {
  const [, scheme, host = '', port = ''] = originPattern.exec(text.toLowerCase()) ?? [];
  const end = host.startsWith('*.') ? host.slice(1) : undefined;
  return function matchesOrigin(asked, of, at) {
    if (scheme === undefined || asked !== scheme || (port !== '*' && at !== port)) return false;
    return host === '*' || (end === undefined ? of === host : of.length > end.length && of.endsWith(end));
  };
}

/** Which origins may read answers. An origin is compared as browsers write it, without a default port. */
function compileOrigins(list: readonly string[]): (origin: string) => boolean {
  const exact = new Set(list.filter((one) => !one.includes('*')).map((one) => one.toLowerCase()));
  const patterns = list.filter((one) => one !== '*' && one.includes('*')).map(compileOrigin);
  return function allowsOrigin(origin) {
    const asked = origin.toLowerCase();
    if (exact.has(asked)) return true;
    const [, scheme, host, port = ''] = /^([a-z][a-z0-9+.-]*):\/\/([a-z0-9._-]+)(?::(\d{1,5}))?$/.exec(asked) ?? [];
    return scheme !== undefined && patterns.some((matches) => matches(scheme, host!, port));
  };
}

/** GEP-1767: an origin exactly, `*`, or a wildcard in the place of subdomains, `https://*.example.com`. */
export function compileCors(plan: CorsPlan): Cors {
  const { allowOrigins, allowCredentials, allowMethods, allowHeaders, exposeHeaders, maxAge } = plan;
  const anyOrigin = allowOrigins.includes('*');
  const allows = compileOrigins(allowOrigins);
  return {
    anyOrigin,
    allowsOrigin: (origin) => anyOrigin || allows(origin),
    credentials: allowCredentials,
    methods: allowMethods,
    headers: allowHeaders,
    expose: exposeHeaders,
    maxAgeS: maxAge,
  };
}

/** Is this a preflight? Fetch standard, section 3.3.2: OPTIONS, with both of its fields. */
export function isPreflight(exchange: Exchange): boolean {
  return preflightFor(exchange) !== undefined;
}

/**
 * What a preflight is answered with. An origin that may not gets no word of CORS, which is how a browser is told no.
 */
export function preflightFields(exchange: Exchange, cors: Cors): [string, string][] {
  const origin = headerOf(exchange, 'origin')!;
  if (!cors.allowsOrigin(origin)) return [['vary', 'Origin']];
  const method = headerOf(exchange, 'access-control-request-method')!;
  const asked = headerOf(exchange, 'access-control-request-headers') ?? '';
  return [
    ...originFields(origin, cors),
    ['access-control-allow-methods', listFor(cors.methods, method, cors.credentials)],
    ...fieldOf('access-control-allow-headers', listFor(cors.headers, asked, cors.credentials)),
    // Browsers pass it over here; Gateway API wants it.
    ...exposedFields(cors),
    ['access-control-max-age', String(cors.maxAgeS)],
  ];
}

/** What any other answer carries. */
export function replyCorsFields(exchange: Exchange, cors: Cors): [string, string][] {
  const origin = headerOf(exchange, 'origin');
  if (origin === undefined || !cors.allowsOrigin(origin)) return cors.anyOrigin ? [] : [['vary', 'Origin']];
  return [...originFields(origin, cors), ...exposedFields(cors)];
}

/** With credentials `*` would be the name of a header. */
function exposedFields({ expose, credentials }: Cors): [string, string][] {
  return fieldOf('access-control-expose-headers', expose.filter((one) => one !== '*' || !credentials).join(', '));
}

function fieldOf(name: string, value: string): [string, string][] {
  return value === '' ? [] : [[name, value]];
}

/** With credentials `*` means nothing to a browser (Fetch standard, section 3.3.5): the origin is named. */
function originFields(origin: string, { anyOrigin, credentials }: Cors): [string, string][] {
  if (anyOrigin && !credentials) return [['access-control-allow-origin', '*']];
  const fields: [string, string][] = [
    ['access-control-allow-origin', origin],
    ['vary', 'Origin'],
  ];
  if (credentials) fields.push(['access-control-allow-credentials', 'true']);
  return fields;
}

function listFor(list: readonly string[], asked: string, credentials: boolean): string {
  if (!list.includes('*')) return list.join(', ');
  return credentials ? asked : '*';
}

/**
 * Fields of CORS that a backend says itself: the gateway's word stands alone, two of them are an error to a browser.
 */
export const corsFields: ReadonlySet<string> = new Set([
  'access-control-allow-origin',
  'access-control-allow-credentials',
  'access-control-expose-headers',
  'access-control-allow-methods',
  'access-control-allow-headers',
  'access-control-max-age',
]);

// CORS (Fetch standard, section 3.3): which origins may read responses, and the response to a preflight. From a
// SecurityPolicy or an HTTPRoute filter; both have the same fields.

import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { originPattern } from './origin.ts';
import type { CorsPlan } from './schema.ts';

/** The rules of one place, compiled. */
export interface Cors {
  readonly allowsOrigin: (origin: string) => boolean;
  readonly anyOrigin: boolean;
  readonly credentials: boolean;
  /** `*` among them means all. */
  readonly methods: readonly string[];
  readonly headers: readonly string[];
  readonly expose: readonly string[];
  readonly maxAgeS: number;
}

/** A function for one pattern; an invalid pattern matches nothing. */
function compileOrigin(text: string): (scheme: string, host: string, port: string) => boolean {
  const [, scheme, host = '', port = ''] = originPattern.exec(text.toLowerCase()) ?? [];
  const end = host.startsWith('*.') ? host.slice(1) : undefined;
  return function matchesOrigin(asked, of, at) {
    if (scheme === undefined || asked !== scheme || (port !== '*' && at !== port)) return false;
    return host === '*' || (end === undefined ? of === host : of.length > end.length && of.endsWith(end));
  };
}

/** The origins that may read responses. They are compared as browsers write them, without a default port. */
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

/** GEP-1767: an exact origin, `*`, or a wildcard for subdomains, `https://*.example.com`. */
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

/**
 * The fields of a preflight's response. For an origin that is not allowed there are none: that is how browsers refuse.
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
    // Browsers ignore it here; Gateway API requires it.
    ...exposedFields(cors),
    ['access-control-max-age', String(cors.maxAgeS)],
  ];
}

/** The fields of any other response. */
export function replyCorsFields(exchange: Exchange, cors: Cors): [string, string][] {
  const origin = headerOf(exchange, 'origin');
  if (origin === undefined || !cors.allowsOrigin(origin)) return cors.anyOrigin ? [] : [['vary', 'Origin']];
  return [...originFields(origin, cors), ...exposedFields(cors)];
}

/** With credentials, `*` would be the name of a header. */
function exposedFields({ expose, credentials }: Cors): [string, string][] {
  return fieldOf('access-control-expose-headers', expose.filter((one) => one !== '*' || !credentials).join(', '));
}

function fieldOf(name: string, value: string): [string, string][] {
  return value === '' ? [] : [[name, value]];
}

/** With credentials, `*` means nothing to browsers (Fetch standard, section 3.3.5): the origin is named. */
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

/** CORS fields of a backend are replaced by the gateway's: two of them are an error to browsers. */
export const corsFields: ReadonlySet<string> = new Set([
  'access-control-allow-origin',
  'access-control-allow-credentials',
  'access-control-expose-headers',
  'access-control-allow-methods',
  'access-control-allow-headers',
  'access-control-max-age',
]);

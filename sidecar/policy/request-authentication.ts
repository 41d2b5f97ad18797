// RequestAuthentication: which tokens a workload accepts, where it looks for them, and what it does with them. The
// nouns and the pure parts; keys are fetched and signatures verified elsewhere.

import {
  cookieReadings,
  holdsCookie,
  holdsParam,
  mayHoldParam,
  paramReadings,
  type Reading,
  readHeaderToken,
} from './credential-readings.ts';
import type { TargetRef } from './policy.ts';

/** One `jwtRules` entry, read and checked. */
export interface JwtRule {
  /** Empty: any issuer whose tokens the keys of `jwksUri` verify. */
  readonly issuer: string;
  /** Empty: any audience. */
  readonly audiences: readonly string[];
  /** Inline keys, or where to fetch them; neither uses the issuer's OIDC discovery. */
  readonly jwks?: string;
  readonly jwksUri?: string;
  readonly fromHeaders: readonly { readonly name: string; readonly prefix: string }[];
  readonly fromParams: readonly string[];
  readonly fromCookies: readonly string[];
  readonly outputPayloadToHeader?: string;
  readonly outputClaimToHeaders: readonly { readonly header: string; readonly claim: string }[];
  readonly forwardOriginalToken: boolean;
  readonly timeoutMs: number;
  readonly spaceDelimitedClaims: readonly string[];
}

/** The name of a rule's issuer in logs, metrics and refusals. */
export function issuerOf({ issuer, jwksUri = '' }: Pick<JwtRule, 'issuer' | 'jwksUri'>): string {
  return issuer || jwksUri;
}

/**
 * A RequestAuthentication of security.istio.io, read and checked. Without `matchLabels` and `targetRefs`: all workloads
 * of its namespace, or of the mesh in the root namespace.
 */
export interface RequestAuthentication {
  readonly name: string;
  readonly namespace: string;
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly targetRefs?: readonly TargetRef[];
  readonly jwtRules: readonly JwtRule[];
  readonly file: string;
  readonly line: number;
}

/** Where a token was found, so that it can be removed again. */
export type TokenPlace =
  | { readonly kind: 'header'; readonly name: string }
  | { readonly kind: 'param'; readonly name: string }
  | { readonly kind: 'cookie'; readonly name: string };

/** Something at a place of a rule that an app could read as its token. Unverified. */
export interface FoundToken extends Reading {
  readonly place: TokenPlace;
}

/** The parts of a request that are searched for tokens. Header names in lower case; `path` with its query. */
export interface TokenSource {
  header(name: string): string | undefined;
  readonly path: string;
}

/**
 * The tokens at a rule's locations, in order; by default `Authorization: Bearer`, then the query's `access_token`.
 * Anything that a server could read as a token counts (credential-readings.ts), so one place may hold several.
 */
export function findTokens(rule: JwtRule, source: TokenSource): FoundToken[] {
  const { fromHeaders, fromCookies } = rule;
  const headers = isDefault(rule) ? bearerOnly : fromHeaders;
  const found: FoundToken[] = [];
  for (const { name, prefix } of headers) {
    const lower = name.toLowerCase();
    const value = source.header(lower);
    const reading = value === undefined ? undefined : readHeaderToken(value, lower, prefix);
    if (reading !== undefined) found.push({ ...reading, place: { kind: 'header', name: lower } });
  }
  if (source.path.includes('?'))
    for (const name of paramsOf(rule))
      for (const token of paramReadings(source.path, name))
        found.push({ token, sound: true, place: { kind: 'param', name } });
  for (const name of fromCookies)
    for (const token of cookieReadings(source.header('cookie'), name))
      found.push({ token, sound: true, place: { kind: 'cookie', name } });
  return found;
}

const bearerOnly: JwtRule['fromHeaders'] = [{ name: 'authorization', prefix: 'Bearer ' }];

function isDefault({ fromHeaders, fromParams, fromCookies }: JwtRule): boolean {
  return fromHeaders.length + fromParams.length + fromCookies.length === 0;
}

/** The query parameters that a rule reads. */
export function paramsOf(rule: JwtRule): readonly string[] {
  return isDefault(rule) ? ['access_token'] : rule.fromParams;
}

/** The path without one query parameter, in every way that servers read it. */
export function withoutParam(path: string, name: string): string {
  if (!mayHoldParam(path, name)) return path;
  const at = path.indexOf('?');
  const query = path.slice(at + 1);
  const kept = query.split('&').filter((part) => !holdsParam(part, name));
  return kept.length === 0 ? path.slice(0, at) : `${path.slice(0, at)}?${kept.join('&')}`;
}

/** A Cookie header without one cookie, in every way that servers read it; undefined if nothing is left. */
export function withoutCookie(header: string, name: string): string | undefined {
  const kept = header.split(';').filter((part) => !holdsCookie(part, name));
  const text = kept.join(';').trim();
  return text === '' ? undefined : text;
}

/**
 * The pairs of a Cookie header in their order, duplicates included, values as sent. A part without `=` has an empty
 * value.
 */
export function cookiesOf(header: string | undefined): [string, string][] {
  return (header ?? '').split(';').map((part) => {
    const at = part.indexOf('=');
    return at === -1 ? [part.trim(), ''] : [part.slice(0, at).trim(), part.slice(at + 1).trim()];
  });
}

/**
 * A claim as a header's value, by its name or its dotted path: text as UTF-8 bytes, a list or an object as JSON in
 * padded base64, as in Envoy (its pull request 30377). Undefined if the claim is absent or null; `unfit` is why it
 * cannot be a value.
 */
export function claimText(
  claims: Readonly<Record<string, unknown>>,
  path: string,
): string | { readonly unfit: string } | undefined {
  const value = claimAt(claims, path);
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'object') return Buffer.from(JSON.stringify(value), 'utf8').toString('base64');
  const text = String(value);
  // A line break in a claim would start a header of its own.
  return headerText(text) ?? { unfit: 'it contains a control character' };
}

/** A text as bytes of a header (UTF-8, one character each); undefined if it cannot be a single field's value. */
export function headerText(text: string): string | undefined {
  const isControl = [...text].some((one) => one < ' ' || one === '\x7f');
  return isControl ? undefined : Buffer.from(text, 'utf8').toString('latin1');
}

function claimAt(claims: Readonly<Record<string, unknown>>, path: string): unknown {
  // Some providers use URLs as claim names.
  if (Object.hasOwn(claims, path)) return claims[path];
  let value: unknown = claims;
  for (const step of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return undefined;
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}

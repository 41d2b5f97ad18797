// Authenticates users by token: the rules of all RequestAuthentication documents of a workload, merged as Istio does. A
// token is verified once and cached until it expires or its keys change, so that most requests do not wait. Algorithms
// come from the list below only, keys from the rule's own issuer only; the token chooses neither.

import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { type RequestAuth, readClaims } from './facts.ts';
import { hasDuplicateKeys } from './json-keys.ts';
import {
  type FoundToken,
  findTokens,
  issuerOf,
  type JwtRule,
  paramsOf,
  type RequestAuthentication,
  type TokenPlace,
  type TokenSource,
} from './request-authentication.ts';

/** Asymmetric ones only: with a shared secret every verifier can sign, and an RSA key must never pass for a secret. */
export const jwtAlgorithms: readonly string[] = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  ...['ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'],
];

/** One set of keys; a new object after they change. `verify` throws if none of them made the signature. */
export interface KeySet {
  /** The signature only: claims are checked elsewhere. */
  verify(token: string): Promise<void>;
  /** Whether a key may be meant by this id: a key without one, or a token without one, may be any. */
  has(kid: string | undefined): boolean;
}

/** The keys of one issuer. */
export interface KeySource {
  /** The keys known now, without waiting; undefined if there are none. */
  current(): KeySet | undefined;
  /**
   * The keys after a fetch, where one is due: none is known yet, or `kid` is not among them.
   * @throws SallyportError `jwks_unavailable`.
   */
  keysFor(kid: string | undefined): Promise<KeySet>;
}

/** A verified token, with the rule that verified it. */
export interface Verified {
  readonly kind: 'verified';
  readonly auth: RequestAuth;
  readonly rule: JwtRule;
  /** base64url, as it was in the token. */
  readonly payload: string;
  readonly places: readonly TokenPlace[];
  /** Places of tokens of other rules that do not forward them. */
  readonly alsoTaken?: readonly TokenPlace[];
  /** Wall clock, milliseconds; Infinity if the token does not expire. */
  readonly validUntil: number;
}

/** Some rule found a token, and none verified. `error` has the code and what the log says. */
export interface Refused {
  readonly kind: 'refused';
  readonly error: SallyportError;
  /** Envoy's text for it, which the caller may read. */
  readonly text: string;
}

/** No rule found a token. The request passes without principal; policies may require one. */
export interface NoToken {
  readonly kind: 'none';
}

/** The outcome for one request; data, never thrown. */
export type AuthResult = Verified | Refused | NoToken;

const noToken: NoToken = Object.freeze({ kind: 'none' });

/** A longer token is not read: heads are limited to 60 KiB altogether. */
const maxTokenLength = 16_384;
/** Memory limit of cached verified tokens; the oldest are dropped first. */
const rememberedBytes = 4 * 1_048_576;
/** Memory of one entry besides its text: claims, the entry, the result (measured, rounded up). */
const bytesPerToken = 2048;
/** Refusals are cached separately, so that tokens invented by a client do not displace good ones; few, and briefly. */
const mostRefused = 256;
/** A refusal is cached only briefly: a token that is not yet valid will be, and keys arrive. */
const refusalMs = 1000;
/**
 * Clocks differ by seconds: a token that was just issued may be from the near future. None is accepted after its end.
 */
const notBeforeLeewayMs = 10_000;

interface Provider {
  readonly rule: JwtRule;
  readonly keys: KeySource;
  readonly remembered: Map<string, Remembered>;
  bytes: number;
  readonly refused: Map<string, Remembered>;
}

interface Remembered {
  readonly result: Verified | Refused;
  readonly keys: KeySet | undefined;
  readonly until: number;
}

/** Called for each token that was verified or refused, for metrics. */
export type TokenObserver = (issuer: string, outcome: string) => void;

/** The compiled RequestAuthentication documents of one workload. Without rules, every request gives `none`. */
export interface Authentication {
  /** Sorted by issuer. */
  readonly rules: readonly JwtRule[];
  /** Headers that only we may set, in lower case: claims that are forwarded to the app. */
  readonly outputHeaders: ReadonlySet<string>;
  /** Headers that are searched for tokens, in lower case. */
  readonly tokenHeaders: ReadonlySet<string>;
  /** Query parameters that may hold tokens. */
  readonly secretParams: readonly string[];
  /** Authenticates the tokens of this request; a promise only for a token that is not cached. */
  check(source: TokenSource, now: number): AuthResult | Promise<AuthResult>;
}

/** The rules of all documents that are attached to a workload; undefined where there are none. */
export function compileAuthentication(
  documents: readonly (Pick<RequestAuthentication, 'jwtRules'> & Partial<RequestAuthentication>)[],
  keysOf: (rule: JwtRule) => KeySource,
  observe: TokenObserver = () => {},
): Authentication | undefined {
  const rules = documents.flatMap(({ jwtRules }) => jwtRules).toSorted((a, b) => compare(a.issuer, b.issuer));
  if (rules.length === 0) return undefined;
  const providers = rules.map(
    (rule): Provider => ({ rule, keys: keysOf(rule), remembered: new Map(), bytes: 0, refused: new Map() }),
  );
  return {
    rules,
    outputHeaders: new Set(
      rules.flatMap(({ outputPayloadToHeader: payload, outputClaimToHeaders: claims }) =>
        [...(payload === undefined ? [] : [payload]), ...claims.map(({ header }) => header)].map((one) =>
          one.toLowerCase(),
        ),
      ),
    ),
    tokenHeaders: new Set(rules.flatMap(({ fromHeaders }) => fromHeaders.map(({ name }) => name.toLowerCase()))),
    secretParams: [...new Set(rules.flatMap(paramsOf))],
    check: (source, now) => checkFrom(providers, 0, source, now, noToken, observe),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * One rule that verifies is enough. If none does, the request passes without principal only if no rule found a token.
 * Of several refusals the most specific is reported; 'another issuer than this rule's' is the least specific.
 */
function checkFrom(
  providers: readonly Provider[],
  from: number,
  source: TokenSource,
  now: number,
  worst: AuthResult,
  observe: TokenObserver,
): AuthResult | Promise<AuthResult> {
  let result = worst;
  for (let i = from; i < providers.length; i++) {
    const provider = providers[i]!;
    const tokens = findTokens(provider.rule, source);
    if (tokens.length === 0) continue;
    const got = checkTokens(provider, tokens, now, observe);
    if (got instanceof Promise)
      return got.then((one) =>
        one.kind === 'verified'
          ? checkOthers(providers, tokens[0]!.token, one, source, now, observe)
          : checkFrom(providers, i + 1, source, now, worse(result, one), observe),
      );
    if (got.kind === 'verified') return checkOthers(providers, tokens[0]!.token, got, source, now, observe);
    result = worse(result, got);
  }
  return result;
}

/**
 * A good token does not vouch for another one beside it. A token at the place of another rule is forwarded only if that
 * rule forwards it and verifies it; otherwise the app would read an unverified token there.
 */
function checkOthers(
  providers: readonly Provider[],
  token: string,
  verified: Verified,
  source: TokenSource,
  now: number,
  observe: TokenObserver,
): Verified | Promise<Verified> {
  if (providers.length === 1) return verified;
  const known = [...verified.places];
  const taken: TokenPlace[] = [];
  const asked: Promise<TokenPlace | undefined>[] = [];
  for (const provider of providers)
    for (const found of findTokens(provider.rule, source)) {
      const { place } = found;
      if (known.some((one) => samePlace(one, place))) continue;
      known.push(place);
      const there = findTokens(provider.rule, source).filter((one) => samePlace(one.place, place));
      const isOne = there.every((one) => one.sound && one.token === found.token);
      const takers = providers.filter(
        ({ rule }) => rule.forwardOriginalToken && findTokens(rule, source).some((one) => samePlace(one.place, place)),
      );
      if (takers.length === 0 || !isOne) taken.push(place);
      else if (found.token !== token)
        asked.push(isGood(takers, found, now, observe).then((good) => (good ? undefined : place)));
    }
  const without = (alsoTaken: readonly TokenPlace[]): Verified =>
    alsoTaken.length === 0 ? verified : { ...verified, alsoTaken };
  if (asked.length === 0) return without(taken);
  return Promise.all(asked).then((bad) => without([...taken, ...bad.filter((one) => one !== undefined)]));
}

/** Whether one of `providers` verifies it. */
async function isGood(
  providers: readonly Provider[],
  found: FoundToken,
  now: number,
  observe: TokenObserver,
): Promise<boolean> {
  for (const provider of providers) {
    const got = recall(provider, found.token, now) ?? (await verifyAndRemember(provider, found, now, observe));
    if (got.kind === 'verified') return true;
  }
  return false;
}

function worse(a: AuthResult, b: Refused): AuthResult {
  return a.kind === 'refused' && b.error.code === 'jwt_issuer_unknown' ? a : b;
}

/** A rule's locations must hold one token only: of two the app may read the other one. */
function checkTokens(
  provider: Provider,
  tokens: readonly FoundToken[],
  now: number,
  observe: TokenObserver,
): Verified | Refused | Promise<Verified | Refused> {
  const [first] = tokens as readonly [FoundToken, ...FoundToken[]];
  const { token, place } = first;
  const unsound = tokens.find((one) => !one.sound);
  if (unsound !== undefined)
    return refusal(
      'jwt_invalid',
      'Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections',
      `the ${unsound.place.kind} ${unsound.place.name} holds something that an app could read as a token, but not in the form that the rule requires`,
    ).refused;
  if (tokens.some((one) => one.token !== token))
    return refusal('jwt_invalid', 'Jwt verification fails', 'the request carries two tokens for one rule').refused;
  const places = tokens.map((one) => one.place);
  const placed = (result: Verified | Refused): Verified | Refused =>
    result.kind === 'refused' ? result : { ...result, places };
  const known = recall(provider, token, now);
  if (known === undefined) return verifyAndRemember(provider, first, now, observe).then(placed);
  // The usual case allocates nothing: the same token at the same place.
  if (known.kind === 'refused' || (tokens.length === 1 && samePlace(known.places[0], place))) return known;
  return placed(known);
}

function samePlace(a: TokenPlace | undefined, b: TokenPlace): boolean {
  return a?.kind === b.kind && a.name === b.name;
}

function recall(provider: Provider, token: string, now: number): Verified | Refused | undefined {
  const known = provider.remembered.get(token) ?? provider.refused.get(token);
  if (known === undefined) return undefined;
  if (now < known.until && known.keys === provider.keys.current()) return known.result;
  forget(provider, token);
  return undefined;
}

function forget(provider: Provider, token: string): void {
  if (provider.remembered.delete(token)) provider.bytes -= token.length + bytesPerToken;
  provider.refused.delete(token);
}

async function verifyAndRemember(
  provider: Provider,
  { token: given, place }: FoundToken,
  now: number,
  observe: TokenObserver,
): Promise<Verified | Refused> {
  const { rule } = provider;
  // A copy: a cached slice would keep the whole head in memory.
  const token = Buffer.from(given.slice(0, maxTokenLength + 1), 'latin1').toString('latin1');
  let result: Verified | Refused;
  try {
    result = { ...(await verifyToken(token, rule, provider.keys, now)), places: [place] };
    observe(issuerOf(rule), 'verified');
  } catch (error) {
    const known =
      error instanceof TokenRefusal ? error : refusal('jwt_invalid', 'Jwt verification fails', reasonOf(error));
    observe(issuerOf(rule), known.refused.error.code);
    result = known.refused;
  }
  const keys = provider.keys.current();
  forget(provider, token);
  if (result.kind === 'refused') {
    if (token.length <= maxTokenLength) provider.refused.set(token, { result, keys, until: now + refusalMs });
    for (const oldest of provider.refused.keys()) {
      if (provider.refused.size <= mostRefused) break;
      provider.refused.delete(oldest);
    }
    return result;
  }
  provider.remembered.set(token, { result, keys, until: Math.min(result.validUntil, Number.MAX_SAFE_INTEGER) });
  provider.bytes += token.length + bytesPerToken;
  for (const oldest of provider.remembered.keys()) {
    if (provider.bytes <= rememberedBytes) break;
    forget(provider, oldest);
  }
  return result;
}

class TokenRefusal extends Error {
  readonly refused: Refused;

  constructor(refused: Refused) {
    super(refused.text);
    this.refused = refused;
  }
}

type TokenCode =
  | 'jwt_invalid'
  | 'jwt_expired'
  | 'jwt_not_yet_valid'
  | 'jwt_issuer_unknown'
  | 'jwt_audience'
  | 'jwks_unavailable';

/** `text` is for the caller, who holds the token anyway; `why` is for the log, and contains nothing of the token. */
function refusal(code: TokenCode, text: string, why: string = text): TokenRefusal {
  return new TokenRefusal({ kind: 'refused', error: new SallyportError(code, why), text });
}

async function verifyToken(
  token: string,
  rule: JwtRule,
  keys: KeySource,
  now: number,
): Promise<Omit<Verified, 'places'>> {
  const { header, claims, payload } = readToken(token);
  const { alg, crit, kid } = header;
  if (typeof alg !== 'string' || !jwtAlgorithms.includes(alg))
    throw refusal(
      'jwt_invalid',
      'Jwt header [alg] field value is not supported',
      `the token's algorithm is not supported: ${named(alg)}`,
    );
  // RFC 7515 section 4.1.11: a recipient that does not support a critical extension must refuse the token; we support
  // none.
  if (crit !== undefined)
    throw refusal(
      'jwt_invalid',
      'Jwt verification fails',
      "the token has 'crit', and no critical extension is supported",
    );
  if (kid !== undefined && typeof kid !== 'string')
    throw refusal('jwt_invalid', 'Jwt header [kid] field is not a string');
  if (rule.issuer !== '' && claims['iss'] !== rule.issuer)
    throw refusal('jwt_issuer_unknown', 'Jwt issuer is not configured', `the token's issuer is not ${issuerOf(rule)}`);
  const validUntil = checkTimes(claims, rule, now);
  await verifySignature(token, kid, rule, keys);
  checkAudience(claims, rule);
  return {
    kind: 'verified',
    auth: readClaims(claims, rule.spaceDelimitedClaims),
    rule,
    payload,
    validUntil,
  };
}

function named(value: unknown): string {
  return typeof value === 'string' ? `'${value.slice(0, 20).replace(/[^\x21-\x7e]/g, '?')}'` : 'not a string';
}

interface ReadToken {
  readonly header: Readonly<Record<string, unknown>>;
  readonly claims: Readonly<Record<string, unknown>>;
  readonly payload: string;
}

function readToken(token: string): ReadToken {
  if (token.length > maxTokenLength)
    throw refusal(
      'jwt_invalid',
      'Jwt is too long',
      `the token has ${token.length} characters; the limit is ${maxTokenLength}`,
    );
  const parts = token.split('.');
  const [header = '', payload = ''] = parts;
  if (parts.length !== 3 || !parts.every((part) => /^[A-Za-z0-9_-]+$/.test(part)))
    throw refusal('jwt_invalid', 'Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections');
  return { header: readPart(header, 'header'), claims: readPart(payload, 'payload'), payload };
}

function readPart(part: string, what: string): Readonly<Record<string, unknown>> {
  const text = Buffer.from(part, 'base64url').toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw refusal('jwt_invalid', `Jwt ${what} is an invalid JSON`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw refusal('jwt_invalid', `Jwt ${what} is not an object`);
  if (hasDuplicateKeys(text)) throw refusal('jwt_invalid', `Jwt ${what} names a field twice`);
  return value as Record<string, unknown>;
}

/** RFC 7519 sections 4.1.4 and 4.1.5. Returns the end, in milliseconds. */
function checkTimes(claims: Readonly<Record<string, unknown>>, rule: JwtRule, now: number): number {
  const { exp, nbf } = claims;
  if ((exp !== undefined && !Number.isFinite(exp)) || (nbf !== undefined && !Number.isFinite(nbf)))
    throw refusal('jwt_invalid', 'Jwt payload [exp] or [nbf] field is not a number');
  if (typeof nbf === 'number' && nbf * 1000 > now + notBeforeLeewayMs)
    throw refusal('jwt_not_yet_valid', 'Jwt not yet valid', `the token of ${issuerOf(rule)} is not valid yet`);
  if (typeof exp !== 'number') return Number.POSITIVE_INFINITY;
  if (exp * 1000 <= now) throw refusal('jwt_expired', 'Jwt is expired', `the token of ${issuerOf(rule)} has expired`);
  return exp * 1000;
}

async function verifySignature(token: string, kid: string | undefined, rule: JwtRule, keys: KeySource): Promise<void> {
  let set: KeySet;
  try {
    set = await keys.keysFor(kid);
  } catch (error) {
    throw refusal(
      'jwks_unavailable',
      'Jwks remote fetch is failed',
      `cannot fetch the JWKS of ${issuerOf(rule)}: ${reasonOf(error)}`,
    );
  }
  if (!set.has(kid))
    throw refusal(
      'jwt_invalid',
      "Jwks doesn't have key to match kid or alg from Jwt",
      `the token of ${issuerOf(rule)} names a key that is not in the issuer's JWKS`,
    );
  try {
    await set.verify(token);
  } catch (error) {
    throw refusal(
      'jwt_invalid',
      'Jwt verification fails',
      `the token of ${issuerOf(rule)} does not verify: ${reasonOf(error)}`,
    );
  }
}

function checkAudience({ aud }: Readonly<Record<string, unknown>>, rule: JwtRule): void {
  if (rule.audiences.length === 0) return;
  const list = Array.isArray(aud) ? aud : [aud];
  if (list.some((one) => typeof one === 'string' && rule.audiences.includes(one))) return;
  throw refusal(
    'jwt_audience',
    'Audiences in Jwt are not allowed',
    `the token of ${issuerOf(rule)} is for another audience`,
  );
}

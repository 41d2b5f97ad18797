// The keys of issuers: inline, by URI, or by OIDC discovery. Fetched once on first use, again when they are old or a
// token names one that is not among them, and kept through an outage of the issuer, but not for ever.

import { asSallyportError, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { weaknessOfJwk } from '../../cert-agent/identity/key-strength.ts';
import type { KeyFacts } from '../observe/metrics.ts';
import { jwtAlgorithms, type KeySet, type KeySource } from '../policy/jwt.ts';
import { issuerOf, type JwtRule } from '../policy/request-authentication.ts';

/** Envoy's interval: keys in use are fetched again when they are older than this. */
const refreshMs = 5 * 60_000;
/** A client that invents key ids must not make us ask the issuer for each of them. */
const coolDownMs = 10_000;
/** How long the last good keys stay valid while the issuer does not respond. */
const maxStaleMs = 24 * 3_600_000;
const maxBytes = 262_144;
const maxKeys = 100;
/** A token without a key id may be of any key of its kind: no issuer signs with so many, and each costs a check. */
const maxTries = 8;

/** Fetches one document of an issuer. */
export type FetchJson = (url: string, timeoutMs: number) => Promise<unknown>;

/** The state of an issuer's keys, for pages. */
export interface JwksFacts extends KeyFacts {
  readonly fetched: number;
  readonly lastProblem: string | null;
}

/** The key sources of a process, by where the keys come from: a change of policy fetches nothing again. */
export class Jwks {
  readonly #log: Log | undefined;
  readonly #fetch: FetchJson;
  readonly #now: () => number;
  readonly #remote = new Map<string, RemoteKeys>();
  readonly #inline = new Map<string, KeySource>();

  constructor(log: Log | undefined, fetch: FetchJson = fetchJson, now: () => number = Date.now) {
    this.#log = log;
    this.#fetch = fetch;
    this.#now = now;
  }

  /**
   * The same source for the same place of keys, also in later generations. Keys of a URI are fetched when a token first
   * needs them.
   */
  sourceOf(rule: JwtRule): KeySource {
    // Loading the library takes 50 ms: do it now, not when the first token arrives.
    void import('jose').catch(() => {});
    const { jwks, issuer, jwksUri = '' } = rule;
    if (jwks !== undefined) {
      const known = this.#inline.get(jwks) ?? inlineKeys(jwks, issuerOf(rule), this.#log);
      this.#inline.set(jwks, known);
      return known;
    }
    const key = `${issuer} ${jwksUri}`;
    const known = this.#remote.get(key) ?? new RemoteKeys(rule, this.#fetch, this.#now, this.#log);
    this.#remote.set(key, known);
    return known;
  }

  /** Drops the sources that none of `rules` names. */
  keepOnly(rules: readonly JwtRule[]): void {
    const inline = new Set(rules.map(({ jwks }) => jwks));
    const remote = new Set(rules.map(({ issuer, jwksUri = '' }) => `${issuer} ${jwksUri}`));
    for (const key of this.#inline.keys()) if (!inline.has(key)) this.#inline.delete(key);
    for (const key of this.#remote.keys()) if (!remote.has(key)) this.#remote.delete(key);
  }

  /** For the admin port: keys that are fetched, not inline ones. */
  facts(): JwksFacts[] {
    return [...this.#remote.values()].map((one) => one.facts());
  }
}

/** Keys inline in the document. @returns a source that never waits. */
function inlineKeys(jwks: string, issuer: string, log: Log | undefined): KeySource {
  let set: KeySet | undefined;
  const made = createKeySet(JSON.parse(jwks), issuer, log).then((one) => {
    set = one;
    return one;
  });
  // Reported to callers that ask for the keys.
  made.catch(() => {});
  return { current: () => set, keysFor: () => made };
}

class RemoteKeys implements KeySource {
  readonly #rule: JwtRule;
  readonly #fetch: FetchJson;
  readonly #now: () => number;
  readonly #log: Log | undefined;
  #set: KeySet | undefined = undefined;
  #count = 0;
  #goodAt = 0;
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined = undefined;
  #problem: SallyportError | undefined = undefined;
  #text = '';
  #fetched = 0;
  #failed = 0;

  constructor(rule: JwtRule, fetch: FetchJson, now: () => number, log: Log | undefined) {
    this.#rule = rule;
    this.#fetch = fetch;
    this.#now = now;
    this.#log = log;
  }

  current(): KeySet | undefined {
    const age = this.#now() - this.#goodAt;
    // If every token is cached, no caller asks for keys, and a withdrawn one would stay valid.
    if (this.#set !== undefined && age > refreshMs && this.#cooled()) void this.#ask();
    return age > maxStaleMs ? undefined : this.#set;
  }

  async keysFor(kid: string | undefined): Promise<KeySet> {
    const known = this.current();
    const wanted = known === undefined || !known.has(kid);
    if (wanted && (this.#cooled() || this.#asking !== undefined)) await this.#ask();
    const now = this.current();
    if (now !== undefined) return now;
    throw this.#problem ?? new SallyportError('jwks_unavailable', 'no keys are known');
  }

  facts(): JwksFacts {
    return {
      issuer: issuerOf(this.#rule),
      keys: this.#count,
      ageMs: this.#set === undefined ? null : this.#now() - this.#goodAt,
      fetched: this.#fetched,
      failed: this.#failed,
      lastProblem: this.#problem?.message ?? null,
    };
  }

  #cooled(): boolean {
    return this.#now() - this.#askedAt >= coolDownMs;
  }

  /** One fetch at a time, however many callers wait; a bad response keeps the last good keys. */
  #ask(): Promise<void> {
    this.#asking ??= this.#askNow().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #askNow(): Promise<void> {
    this.#askedAt = this.#now();
    const issuer = issuerOf(this.#rule);
    try {
      const answer = await this.#fetchKeys();
      const text = JSON.stringify(answer);
      // The same keys stay the same object: tokens verified with them stay cached.
      if (text !== this.#text) {
        this.#set = await createKeySet(answer, issuer, this.#log);
        this.#text = text;
        this.#count = (answer as { keys: unknown[] }).keys.length;
      }
      this.#goodAt = this.#now();
      this.#fetched++;
      if (this.#problem !== undefined)
        this.#log?.info({ code: 'jwks_fetched', issuer }, `the keys of ${issuer} were fetched again`);
      this.#problem = undefined;
    } catch (error) {
      const problem = asSallyportError(error, 'jwks_unavailable', `the keys of ${issuer} cannot be fetched`);
      this.#failed++;
      if (problem.message !== this.#problem?.message) this.#log?.warn({ code: problem.code, issuer }, problem.message);
      this.#problem = problem;
    }
  }

  async #fetchKeys(): Promise<unknown> {
    const { issuer, jwksUri, timeoutMs } = this.#rule;
    if (jwksUri !== undefined) return this.#fetch(jwksUri, timeoutMs);
    // OpenID Connect Discovery 1.0 section 4.3: the document must name the issuer that was asked for.
    const found = await this.#fetch(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`, timeoutMs);
    const { issuer: of, jwks_uri: uri } = (found ?? {}) as { issuer?: unknown; jwks_uri?: unknown };
    if (of !== issuer)
      throw new SallyportError('jwks_unavailable', `the discovery document of ${issuer} names another issuer`);
    if (typeof uri !== 'string' || !/^https?:\/\//.test(uri))
      throw new SallyportError('jwks_unavailable', `the discovery document of ${issuer} names no jwks_uri`);
    return this.#fetch(uri, timeoutMs);
  }
}

/** @throws SallyportError `jwks_unavailable`, also if there are keys and none of them is usable. */
async function createKeySet(jwks: unknown, issuer: string, log: Log | undefined): Promise<KeySet> {
  const all = typeof jwks === 'object' && jwks !== null && 'keys' in jwks ? jwks.keys : undefined;
  if (!Array.isArray(all) || all.length > maxKeys)
    throw new SallyportError('jwks_unavailable', `the document is not a JWK Set of at most ${maxKeys} keys`);
  // Symmetric keys are ignored: a published key cannot be a secret.
  const signing = (all as Record<string, unknown>[]).filter(
    (key) =>
      typeof key === 'object' &&
      key !== null &&
      ['RSA', 'EC', 'OKP'].includes(key['kty'] as string) &&
      (key['use'] === undefined || key['use'] === 'sig') &&
      (key['alg'] === undefined || jwtAlgorithms.includes(key['alg'] as string)),
  );
  const keys = withoutWeak(signing, issuer, log);
  // Few sidecars get tokens; the others do not load the library.
  const { compactVerify, createLocalJWKSet, errors } = await import('jose');
  const find = createLocalJWKSet({ keys } as unknown as Parameters<typeof createLocalJWKSet>[0]);
  const algorithms = [...jwtAlgorithms];
  return {
    has: (kid) => keys.some((key) => kid === undefined || key['kid'] === undefined || key['kid'] === kid),
    async verify(token) {
      try {
        await compactVerify(token, find, { algorithms });
      } catch (error) {
        if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
        // Without a kid any key of its kind may be meant.
        let tries = 0;
        for await (const key of error) {
          if (++tries > maxTries) break;
          try {
            await compactVerify(token, key, { algorithms });
            return;
          } catch (next) {
            if (!(next instanceof errors.JWSSignatureVerificationFailed)) throw next;
          }
        }
        throw error;
      }
    },
  };
}

/** Leaves out weak keys and logs them; the others stay usable. */
function withoutWeak(
  keys: readonly Record<string, unknown>[],
  issuer: string,
  log: Log | undefined,
): readonly Record<string, unknown>[] {
  const good: Record<string, unknown>[] = [];
  const weak: string[] = [];
  for (const key of keys) {
    const weakness = weaknessOfJwk(key);
    if (weakness === undefined) good.push(key);
    else
      weak.push(`${typeof key['kid'] === 'string' ? `'${key['kid'].slice(0, 60)}'` : 'one without kid'}: ${weakness}`);
  }
  if (weak.length === 0) return good;
  const named = weak.slice(0, 5).join('; ');
  if (good.length === 0) throw new SallyportError('jwks_unavailable', `no key of ${issuer} can be used: ${named}`);
  log?.warn({ code: 'jwks_key_refused', issuer }, `${weak.length} keys of ${issuer} are not used: ${named}`);
  return good;
}

/** Fetches one document as JSON: no redirects, which could lead anywhere, and limits on size and time. */
export async function fetchJson(url: string, timeoutMs: number): Promise<unknown> {
  const { request } = await import('undici');
  const where = new URL(url);
  try {
    const { statusCode, body } = await request(where, {
      signal: AbortSignal.timeout(timeoutMs),
      headers: { accept: 'application/json' },
    });
    if (statusCode !== 200) {
      // Destroying it emits an error, which has no other listener.
      body.on('error', () => {}).destroy();
      throw new Error(`it answered ${statusCode}`);
    }
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of body) {
      size += (part as Buffer).length;
      if (size > maxBytes) throw new Error(`the response is larger than ${maxBytes} bytes`);
      parts.push(part as Buffer);
    }
    return JSON.parse(Buffer.concat(parts).toString('utf8'));
  } catch (error) {
    throw new SallyportError('jwks_unavailable', `${where.origin}${where.pathname}: ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

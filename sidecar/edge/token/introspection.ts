// Opaque tokens, which the issuer is asked about (RFC 7662), once for all requests with the same token. The response is
// cached for a minute by default, so that a revoked token is noticed. Without a response the token is refused.

import { createHash } from 'node:crypto';
import { asSallyportError, reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { takeOut } from '../../exchange/token-places.ts';
import { type RequestAuth, readClaims } from '../../policy/facts.ts';
import { networkOf } from '../../policy/ip.ts';
import { ConcurrencyLimit } from '../concurrency-limit.ts';
import { challenge, refuseCaller } from '../credentials.ts';
import { Expiring } from '../expiring.ts';
import { loadOAuth, type OAuth, type ProviderFetch } from '../provider-fetch.ts';
import type { IntrospectionPlan } from './schema.ts';

const maxTokenLength = 4096;
const maxRemembered = 10_000;
/** How long a refusal is cached. Short, as a token that is not active yet may become so. */
const refusedMs = 5000;
/** Introspections at one time: a client that invents tokens must not make us flood the issuer. */
const maxAsking = 256;
const maxOfOneClient = 64;

interface Meaning {
  readonly auth: RequestAuth;
  readonly validUntil: number;
}

/** The opaque tokens of one policy. Keeps hashes of tokens, not tokens. */
export class Introspection {
  readonly #policy: IntrospectionPlan;
  readonly #secret: string;
  readonly #fetch: ProviderFetch;
  readonly #now: () => number;
  /** By the token's hash: the token itself is not kept. */
  readonly #known: Expiring<Meaning>;
  /** A cache of its own, so that invented tokens do not evict active ones. */
  readonly #refused: Expiring<null>;
  readonly #ofClients = new ConcurrencyLimit({ maxInFlight: maxOfOneClient, per: 'client' });
  readonly #asking = new Map<string, Promise<Meaning | null>>();

  constructor(policy: IntrospectionPlan, secret: string, fetch: ProviderFetch, now: () => number) {
    this.#policy = policy;
    this.#secret = secret;
    this.#fetch = fetch;
    this.#now = now;
    this.#known = new Expiring(maxRemembered, now);
    this.#refused = new Expiring(maxRemembered, now);
  }

  /**
   * Authenticates the caller by `token`, which is in `Authorization`.
   * @throws SallyportError `introspection_refused`, `introspection_failed`; its promise rejects with the same.
   */
  know(exchange: Exchange, token: string): undefined | Promise<void> {
    if (token.length > maxTokenLength || !/^[\x21-\x7e]+$/.test(token))
      throw this.#refuse(exchange, 'it is too long or has invalid characters');
    const key = createHash('sha256').update(token).digest('base64');
    const known = this.#known.get(key) ?? this.#refused.get(key);
    if (known !== undefined) {
      this.#take(exchange, known);
      return undefined;
    }
    const asking = this.#asking.get(key) ?? this.#begin(exchange, key, token);
    return asking.then(
      (meaning) => this.#take(exchange, meaning),
      (error: unknown) => {
        const { message } = asSallyportError(error, 'introspection_failed', 'introspection failed');
        throw refuseCaller(exchange, 'introspection_failed', 'token introspection failed', message);
      },
    );
  }

  #begin(exchange: Exchange, key: string, token: string): Promise<Meaning | null> {
    const client = networkOf(exchange.clientIp);
    const isFull = this.#asking.size >= maxAsking;
    if (isFull || !this.#ofClients.enter(client)) {
      const inFlight = isFull ? `${maxAsking} introspections` : `${maxOfOneClient} introspections of one client`;
      throw refuseCaller(exchange, 'introspection_failed', 'token introspection failed', `${inFlight} are in flight`);
    }
    const asking = this.#ask(key, token).finally(() => this.#ofClients.leave(client));
    this.#asking.set(key, asking);
    return asking;
  }

  #take(exchange: Exchange, meaning: Meaning | null): void {
    if (meaning === null) throw this.#refuse(exchange, 'its issuer does not confirm it');
    exchange.auth = meaning.auth;
    exchange.authMethod = 'introspection';
    exchange.tokenValidUntil = meaning.validUntil;
    if (!this.#policy.forwardOriginalToken) takeOut(exchange, { kind: 'header', name: 'authorization' });
  }

  #refuse(exchange: Exchange, why: string): SallyportError {
    return refuseCaller(exchange, 'introspection_refused', 'token is not active', `the token is refused: ${why}`, [
      challenge(exchange, 'Bearer', ', error="invalid_token"'),
    ]);
  }

  async #ask(key: string, token: string): Promise<Meaning | null> {
    try {
      const meaning = this.#read(await this.#question(token));
      const now = this.#now();
      if (meaning === null) this.#refused.set(key, null, now + refusedMs);
      else this.#known.set(key, meaning, Math.min(now + this.#policy.cacheMs, meaning.validUntil));
      return meaning;
    } finally {
      this.#asking.delete(key);
    }
  }

  async #question(token: string): Promise<OAuth.IntrospectionResponse> {
    const { endpoint, clientId } = this.#policy;
    const oauth = await loadOAuth();
    const server = { issuer: new URL(endpoint).origin, introspection_endpoint: endpoint };
    const client = { client_id: clientId };
    try {
      const answer = await oauth.introspectionRequest(server, client, oauth.ClientSecretBasic(this.#secret), token, {
        [oauth.customFetch]: this.#fetch,
        // The document's reader has let http through to this machine alone.
        [oauth.allowInsecureRequests]: true,
        additionalParameters: { token_type_hint: 'access_token' },
      });
      // A signed response would need keys, and none are configured.
      if (!/^application\/json\b/i.test(answer.headers.get('content-type') ?? ''))
        throw new Error(`status ${answer.status}, and the body is not JSON`);
      return await oauth.processIntrospectionResponse(server, client, answer);
    } catch (error) {
      if (error instanceof SallyportError) throw error;
      throw new SallyportError('introspection_failed', `unusable response of ${endpoint}: ${reasonOf(error)}`);
    }
  }

  /** RFC 7662 section 4: the token's times and audience are checked too, not only that it is active. */
  #read(response: OAuth.IntrospectionResponse): Meaning | null {
    const { active, exp, nbf, aud } = response;
    const now = this.#now();
    if (active !== true) return null;
    if ((exp !== undefined && !(exp * 1000 > now)) || (nbf !== undefined && !(nbf * 1000 <= now + 10_000))) return null;
    const { audiences } = this.#policy;
    const list = Array.isArray(aud) ? aud : [aud];
    if (audiences.length > 0 && !list.some((one) => typeof one === 'string' && audiences.includes(one))) return null;
    const claims = response as unknown as Readonly<Record<string, unknown>>;
    return { auth: readClaims(claims), validUntil: exp === undefined ? Number.POSITIVE_INFINITY : exp * 1000 };
  }
}

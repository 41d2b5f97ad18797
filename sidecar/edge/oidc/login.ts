// A login redirects the browser to the provider with a state, a nonce and a PKCE challenge. They are bound to a sealed
// cookie for this attempt. So two tabs do not interfere, and a browser cannot finish a login that another one began
// (RFC 9700 section 4.7). A state works once.

import { createHash, randomBytes } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import type { Fields } from '../../exchange/message.ts';
import { cookieNames, cookieOf } from '../credentials.ts';
import type { Seal } from '../seal.ts';
import type { LoginSecrets, OidcProvider, Tokens } from './provider.ts';
import type { OidcPlan } from './schema.ts';
import { type CookieAttributes, printCookie } from './session-cookie.ts';
import type { SessionMemory } from './session-memory.ts';

/** Tabs that log in at once. With more, the oldest attempt is dropped, so that the cookies still fit into a head. */
const maxAttempts = 16;
/** The cookies of all attempts: some eight with a path of 2 KB each. A session takes up to 19,000 bytes beside them. */
const maxAttemptBytes = 28_000;
const maxReturn = 2048;

interface Attempt extends LoginSecrets {
  readonly returnTo: string;
  readonly until: number;
}

/** A completed login. */
export interface Finished {
  readonly tokens: Tokens;
  readonly returnTo: string;
  /** `Set-Cookie` values that delete the attempt's cookie. */
  readonly cookies: readonly string[];
}

/** The logins of one policy. Nothing is kept here: an attempt is in its cookie, and spent states are in the memory. */
export class Logins {
  readonly #policy: OidcPlan;
  readonly #provider: OidcProvider;
  readonly #seal: Seal;
  /** The prefix of the names of all attempts' cookies. */
  readonly cookiePrefix: string;
  readonly #attributes: CookieAttributes;
  readonly #memory: SessionMemory;
  readonly #now: () => number;

  constructor(
    policy: OidcPlan,
    provider: OidcProvider,
    seal: Seal,
    cookiePrefix: string,
    attributes: CookieAttributes,
    memory: SessionMemory,
    now: () => number,
  ) {
    this.#policy = policy;
    this.#provider = provider;
    this.#seal = seal;
    this.cookiePrefix = cookiePrefix;
    // The callback is a navigation from the provider's site, so the browser would not send a Strict cookie.
    this.#attributes = { ...attributes, sameSite: attributes.sameSite === 'None' ? 'None' : 'Lax' };
    this.#memory = memory;
    this.#now = now;
  }

  /** The URL to redirect the browser to, and the cookies to set. @throws SallyportError `oidc_provider_*`. */
  async begin(exchange: Exchange): Promise<{ location: string; cookies: readonly string[] }> {
    const secret = (): string => randomBytes(32).toString('base64url');
    const attempt: Attempt = {
      ...{ state: secret(), nonce: secret(), verifier: secret() },
      returnTo: this.#returnTo(exchange),
      until: this.#now() + this.#policy.loginMs,
    };
    const location = await this.#provider.loginUrl(attempt);
    const cookie = printCookie(
      this.#cookieFor(attempt.state),
      this.#seal.close(JSON.stringify(attempt)),
      this.#policy.loginMs,
      this.#attributes,
    );
    return { location, cookies: [cookie, ...this.#forgetOldest(exchange.fields, cookie.length)] };
  }

  /**
   * Completes the login of a callback.
   * @throws SallyportError `oidc_state_invalid` if this browser did not begin the login, or it was completed before;
   * else as `OidcProvider.redeem`, or as `SessionMemory` if that is unavailable.
   */
  async finish(exchange: Exchange, brought: URLSearchParams): Promise<Finished> {
    const state = brought.getAll('state');
    if (state.length !== 1 || !/^[A-Za-z0-9_-]{43}$/.test(state[0]!))
      throw new SallyportError('oidc_state_invalid', 'the callback has no valid state');
    const name = this.#cookieFor(state[0]!);
    const attempt = this.#read(cookieOf(exchange.fields, name));
    if (attempt === undefined || attempt.state !== state[0])
      throw new SallyportError(
        'oidc_state_invalid',
        'the callback is for a login that this browser did not begin, or began too long ago',
      );
    const key = `${this.cookiePrefix} ${attempt.state}`;
    if (!(await this.#memory.spend(key, attempt.until)))
      throw new SallyportError('oidc_state_invalid', 'the callback of this login was used before');
    const tokens = await this.#provider.redeem(brought, attempt);
    return { tokens, returnTo: attempt.returnTo, cookies: [printCookie(name, '', 0, this.#attributes)] };
  }

  #read(sealed: string | undefined): Attempt | undefined {
    const text = sealed === undefined ? undefined : this.#seal.open(sealed);
    if (text === undefined) return undefined;
    const attempt = JSON.parse(text) as Attempt;
    return attempt.until > this.#now() ? attempt : undefined;
  }

  #cookieFor(state: string): string {
    return `${this.cookiePrefix}${createHash('sha256').update(state).digest('base64url').slice(0, 12)}`;
  }

  #forgetOldest(fields: Fields, added: number): string[] {
    // No browser has more. A client may send more, and each look-up goes through all cookies, so the rest is ignored.
    const names = cookieNames(fields)
      .filter((one) => one.startsWith(this.cookiePrefix))
      .slice(0, 4 * maxAttempts);
    const sealedOf = (name: string): string => cookieOf(fields, name) ?? '';
    const unique = [...new Set(names)];
    const total = unique.reduce((sum, name) => sum + name.length + sealedOf(name).length, added);
    if (unique.length < maxAttempts && total <= maxAttemptBytes) return [];
    let bytes = added;
    return unique
      .map((name) => ({ name, until: this.#read(sealedOf(name))?.until ?? 0 }))
      .toSorted((a, b) => b.until - a.until)
      .filter(({ name }, index) => {
        bytes += name.length + sealedOf(name).length;
        return index >= maxAttempts - 1 || bytes > maxAttemptBytes;
      })
      .map(({ name }) => printCookie(name, '', 0, this.#attributes));
  }

  /** Where to return after the login: a path of the same host, or a URL of a host that shares the cookies. */
  #returnTo({ path, authority }: Exchange): string {
    const back = safePath(path);
    const redirect = new URL(this.#policy.redirectUrl);
    const { cookieDomain } = this.#policy;
    if (cookieDomain === undefined || authority === redirect.host) return back;
    const there = URL.parse(`${redirect.protocol}//${authority}`);
    const within = there !== null && `.${there.hostname}`.endsWith(`.${cookieDomain}`) && there.host === authority;
    return within ? `${there.origin}${back}` : back;
  }
}

/**
 * The path if it can only mean a path of this host, else '/': browsers read `//host`, `/\host` and URLs as other hosts.
 */
export function safePath(path: string): string {
  return path.length <= maxReturn && /^\/(?!\/)[\x21-\x5b\x5d-\x7e]*$/.test(path) ? path : '/';
}

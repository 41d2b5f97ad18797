// A login: the browser is sent to the provider with a state, a nonce and a PKCE challenge that are bound to a sealed cookie
// of this one attempt, so that two tabs do not disturb each other, and nobody can finish a login that another browser began
// (RFC 9700 section 4.7). A state works once.

import { createHash, randomBytes } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import type { Fields } from '../../exchange/message.ts';
import { cookieNames, cookieOf } from '../credentials.ts';
import type { LoginSecrets, OidcProvider, Tokens } from './provider.ts';
import type { OidcPlan } from './schema.ts';
import { type CookieAttributes, printCookie, type Seal } from './session-cookie.ts';
import type { SessionMemory } from './session-memory.ts';

/** Tabs that log in at once; whoever opens more of them loses the oldest, and not the room that a head has. */
const maxAttempts = 16;
/** Of the cookies of all of them, with a path of 2 KB each some eight; a session has up to 19,000 beside them. */
const maxAttemptBytes = 28_000;
const maxReturn = 2048;

interface Attempt extends LoginSecrets {
  readonly returnTo: string;
  readonly until: number;
}

/** A login that is done. */
export interface Finished {
  readonly tokens: Tokens;
  readonly returnTo: string;
  /** Takes the attempt's cookie away. */
  readonly cookies: readonly string[];
}

export class Logins {
  readonly #policy: OidcPlan;
  readonly #provider: OidcProvider;
  readonly #seal: Seal;
  /** What the cookies of all attempts begin with. */
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
    // The provider sends the browser back from its own site, where a Strict cookie stays at home.
    this.#attributes = { ...attributes, sameSite: attributes.sameSite === 'None' ? 'None' : 'Lax' };
    this.#memory = memory;
    this.#now = now;
  }

  /** Where to send the browser, and what it is to remember. @throws SallyportError `oidc_provider_*`. */
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
   * Finishes the login whose answer the browser brings.
   * @throws SallyportError `oidc_state_invalid` for one that this browser did not begin, or that was finished before; else as
   * `OidcProvider.redeem`, or as `SessionMemory` where nobody can say.
   */
  async finish(exchange: Exchange, brought: URLSearchParams): Promise<Finished> {
    const state = brought.getAll('state');
    if (state.length !== 1 || !/^[A-Za-z0-9_-]{43}$/.test(state[0]!))
      throw new SallyportError('oidc_state_invalid', 'a browser comes back without a state of ours');
    const name = this.#cookieFor(state[0]!);
    const attempt = this.#read(cookieOf(exchange.fields, name));
    if (attempt === undefined || attempt.state !== state[0])
      throw new SallyportError(
        'oidc_state_invalid',
        'a browser comes back from a login that it did not begin, or began long ago',
      );
    const key = `${this.cookiePrefix} ${attempt.state}`;
    if (!(await this.#memory.spend(key, attempt.until)))
      throw new SallyportError('oidc_state_invalid', 'a browser comes back twice from the same login');
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
    // Of more than a browser ever has, the rest is a client's own doing: each is looked for among all.
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

  /** Where the browser wanted to go: a path of the same host, or of one that shares the cookies. */
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

/** The path where it can mean nothing but a path of this host: `//host`, `/\host` and URLs are read as other hosts. */
export function safePath(path: string): string {
  return path.length <= maxReturn && /^\/(?!\/)[\x21-\x5b\x5d-\x7e]*$/.test(path) ? path : '/';
}

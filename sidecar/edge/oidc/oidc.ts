// OpenID Connect for browsers. A browser without a session is redirected to log in, and returns with a session in a
// sealed cookie. The claims of its ID token authenticate the user. Programs are not redirected: they get a 401. The app
// never sees our cookies.

import { createHash } from 'node:crypto';
import { asSallyportError, type SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf, pathWithoutQuery } from '../../exchange/facts.ts';
import { addFields, changeRequest, onlyField } from '../../exchange/fields.ts';
import { emptyFields } from '../../exchange/message.ts';
import type { KeySource } from '../../policy/jwt.ts';
import type { JwtRule } from '../../policy/request-authentication.ts';
import { passClaims, type ReportUnfit } from '../claims.ts';
import { challenge, hideSessionCookies, refuseCaller, tellApp } from '../credentials.ts';
import type { ProviderFetch } from '../provider-fetch.ts';
import { Seal } from '../seal.ts';
import { Logins } from './login.ts';
import { judgeLogout, logoutPage } from './logout.ts';
import { OidcProvider } from './provider.ts';
import { Refreshes } from './refresh.ts';
import type { HeaderTest, OidcPlan } from './schema.ts';
import { type Session, Sessions } from './session.ts';
import { type CookieAttributes, prefixOf } from './session-cookie.ts';
import type { SessionMemory } from './session-memory.ts';

/** Responds in place of the app. */
export type Answer = (
  exchange: Exchange,
  status: number,
  fields: readonly (readonly [string, string])[],
  body: Buffer,
) => void;

/** What one policy's logins use. `now` is milliseconds since 1970. */
export interface OidcTools {
  readonly answer: Answer;
  readonly fetch: ProviderFetch;
  readonly keysOf: (rule: JwtRule) => KeySource;
  readonly memory: SessionMemory;
  readonly now: () => number;
  readonly report: ReportUnfit;
}

const noBody = Buffer.alloc(0);
const noStore = ['cache-control', 'no-store'] as const;

/** One policy's `oidc`. Secrets are read before: a new Secret makes a new one of these. */
export class Oidc {
  readonly #policy: OidcPlan;
  readonly #tools: OidcTools;
  readonly #callbackPath: string;
  readonly #scheme: string;
  readonly #provider: OidcProvider;
  readonly #sessions: Sessions;
  readonly #logins: Logins;
  readonly #refreshes: Refreshes;

  /** `name` is the policy's `namespace/name`; `keys` are those of its cookies, the first of them for new cookies. */
  constructor(policy: OidcPlan, name: string, clientSecret: string, keys: readonly Buffer[], tools: OidcTools) {
    const { memory, now } = tools;
    this.#policy = policy;
    this.#tools = tools;
    const { pathname, protocol } = new URL(policy.redirectUrl);
    this.#callbackPath = pathname;
    this.#scheme = protocol;
    const attributes: CookieAttributes = { domain: policy.cookieDomain, sameSite: policy.sameSite };
    const bound = `${name} ${policy.clientId}`;
    const short = createHash('sha256').update(bound).digest('base64url').slice(0, 8);
    const prefix = prefixOf(attributes);
    this.#provider = new OidcProvider(policy, clientSecret, tools.fetch, tools.keysOf, now);
    this.#sessions = new Sessions(
      policy,
      new Seal(keys, `session ${bound}`),
      `${prefix}sallyport-session-${policy.cookieName ?? short}`,
      attributes,
      memory,
      now,
    );
    this.#refreshes = new Refreshes(this.#provider, this.#sessions, keys, bound, memory);
    this.#logins = new Logins(
      policy,
      this.#provider,
      new Seal(keys, `login ${bound}`),
      `${prefix}sallyport-login-${short}-`,
      attributes,
      memory,
      now,
    );
  }

  /** True if the request is for the login itself and not for the app. */
  isOwn(exchange: Exchange): boolean {
    const path = pathWithoutQuery(exchange.path);
    return path === this.#policy.logoutPath || (path === this.#callbackPath && exchange.method === 'GET');
  }

  /**
   * Authenticates the user by their session, or responds: with a redirect to the provider, from the callback, or at a
   * logout.
   * @throws SallyportError `session_invalid` for a program without a session; a promise rejects with that or `oidc_*`.
   */
  know(exchange: Exchange): undefined | Promise<void> {
    const path = pathWithoutQuery(exchange.path);
    if (path === this.#callbackPath && exchange.method === 'GET')
      return this.#guard(exchange, this.#comeBack(exchange));
    if (path === this.#policy.logoutPath) return this.#guard(exchange, this.#leave(exchange));
    const session = this.#sessions.open(exchange);
    if (session === undefined) return this.#askForLogin(exchange);
    if (session.tokensUntil > this.#tools.now()) {
      this.#take(exchange, session);
      return undefined;
    }
    if (session.refreshToken === undefined) return this.#askForLogin(exchange);
    return this.#guard(exchange, this.#refresh(exchange, session, session.refreshToken));
  }

  #take(exchange: Exchange, session: Session): void {
    const { forwardIdTokenHeader: header, forwardAccessToken } = this.#policy;
    exchange.auth = session.auth;
    exchange.authMethod = 'oidc';
    // A request is not cut when the tokens expire if the session can be refreshed.
    exchange.tokenValidUntil = session.refreshToken === undefined ? session.tokensUntil : session.until;
    hideSessionCookies(exchange);
    if (forwardAccessToken && session.accessToken !== undefined)
      changeRequest(exchange, onlyField('authorization'), [['authorization', `Bearer ${session.accessToken}`]]);
    passClaims(exchange, session.auth.claims, this.#policy.claimToHeaders, this.#tools.report);
    if (header !== undefined)
      tellApp(exchange, header, header === 'authorization' ? `Bearer ${session.idToken}` : session.idToken);
  }

  // -- login and logout --------------------------------------------------------------------------------------------

  #askForLogin(exchange: Exchange): Promise<void> {
    if (!isNavigation(exchange) || this.#policy.denyRedirect.some((one) => matches(exchange, one)))
      throw refuseCaller(exchange, 'session_invalid', 'Login required', 'the request has no session', [
        challenge(exchange, 'Bearer'),
        ...cookieFields(this.#sessions.clear(exchange.fields)),
      ]);
    return this.#guard(exchange, this.#sendToLogin(exchange));
  }

  async #sendToLogin(exchange: Exchange): Promise<void> {
    const { location, cookies } = await this.#logins.begin(exchange);
    const stale = this.#sessions.clear(exchange.fields);
    this.#redirect(exchange, location, [...cookies, ...stale]);
  }

  async #comeBack(exchange: Exchange): Promise<void> {
    const query = exchange.path.slice(this.#callbackPath.length + 1);
    // Until the code is redeemed, anyone who has it can use it: keep it out of the access log.
    exchange.path = this.#callbackPath;
    const { tokens, returnTo, cookies } = await this.#logins.finish(exchange, new URLSearchParams(query));
    // Always a new session with a new ID, which prevents session fixation.
    const session = this.#sessions.begin(tokens);
    const set = [...this.#sessions.print(exchange, session), ...cookies];
    if (this.#policy.sameSite === 'Strict') this.#navigate(exchange, returnTo, set);
    else this.#redirect(exchange, returnTo, set);
  }

  async #leave(exchange: Exchange): Promise<void> {
    const verdict = judgeLogout(exchange, this.#scheme);
    if (verdict === 'end') return this.#logout(exchange, this.#sessions.open(exchange));
    if (exchange.finished || exchange.responded) return;
    if (verdict === 'refuse') return this.#tools.answer(exchange, 405, [['allow', 'GET, POST'], noStore], noBody);
    const { fields, body } = logoutPage(this.#policy.logoutPath);
    this.#tools.answer(exchange, 403, fields, body);
  }

  async #logout(exchange: Exchange, session: Session | undefined): Promise<void> {
    if (session === undefined) return this.#redirect(exchange, '/', this.#sessions.clear(exchange.fields));
    await this.#sessions.end(session);
    const cookies = this.#sessions.clear(exchange.fields);
    // Our session has ended, even if the provider's own cannot be ended.
    const location = await this.#provider.logoutUrl(session.idToken).catch(() => undefined);
    this.#redirect(exchange, location ?? '/', cookies);
  }

  #redirect(exchange: Exchange, location: string, cookies: readonly string[]): void {
    if (exchange.finished || exchange.responded) return;
    this.#tools.answer(exchange, 302, [['location', location], noStore, ...cookieFields(cookies)], noBody);
  }

  /**
   * A Strict cookie is not sent along redirects that began on another site, so a page of ours starts a new navigation.
   */
  #navigate(exchange: Exchange, location: string, cookies: readonly string[]): void {
    if (exchange.finished || exchange.responded) return;
    const to = location.replace(/[&"'<>]/g, (one) => `&#${one.charCodeAt(0)};`);
    const page = Buffer.from(
      `<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=${to}"><a href="${to}">Continue</a>`,
    );
    const type = ['content-type', 'text/html; charset=utf-8'] as const;
    const policy = ['content-security-policy', "default-src 'none'"] as const;
    this.#tools.answer(exchange, 200, [type, policy, noStore, ...cookieFields(cookies)], page);
  }

  // -- refresh -----------------------------------------------------------------------------------------------------

  async #refresh(exchange: Exchange, session: Session, refreshToken: string): Promise<void> {
    let refreshed: Session;
    try {
      refreshed = await this.#refreshes.of(session, refreshToken);
    } catch (error) {
      if (asSallyportError(error, 'internal', 'a session could not be refreshed').code !== 'session_invalid')
        throw error;
      return this.#askForLogin(exchange);
    }
    // A logout may have ended it meanwhile.
    if (this.#tools.memory.isEnded(refreshed.id)) return this.#askForLogin(exchange);
    const fields = cookieFields(this.#sessions.print(exchange, refreshed));
    exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, fields);
    this.#take(exchange, refreshed);
  }

  /** Gives the rejection of an asynchronous step its response. */
  #guard(exchange: Exchange, step: Promise<void>): Promise<void> {
    return step.catch((error: unknown) => {
      if (exchange.denial !== undefined) throw error;
      throw refuseLogin(exchange, asSallyportError(error, 'oidc_provider_failed', 'the login could not be served'));
    });
  }
}

const texts = {
  oidc_state_invalid: 'This login has expired or was not begun here. Please try again.',
  oidc_login_refused: 'The login was refused.',
  oidc_provider_failed: 'The login failed.',
  oidc_provider_unavailable: 'The login is currently unavailable.',
  redis_unavailable: 'The login is currently unavailable.',
  session_invalid: 'Login required',
} as const;

function refuseLogin(exchange: Exchange, error: SallyportError): SallyportError {
  const code = Object.hasOwn(texts, error.code) ? (error.code as keyof typeof texts) : 'oidc_provider_failed';
  return refuseCaller(exchange, code, texts[code], error.message);
}

function cookieFields(cookies: readonly string[]): (readonly [string, string])[] {
  return cookies.map((one) => ['set-cookie', one] as const);
}

/** True if a browser opens a page for a person: nothing else could follow a redirect to a login. */
function isNavigation(exchange: Exchange): boolean {
  if ((exchange.method !== 'GET' && exchange.method !== 'HEAD') || exchange.webSocket) return false;
  const mode = headerOf(exchange, 'sec-fetch-mode');
  if (mode !== undefined && mode !== 'navigate') return false;
  if (headerOf(exchange, 'x-requested-with') !== undefined) return false;
  return /\btext\/html\b/i.test(headerOf(exchange, 'accept') ?? '');
}

function matches(exchange: Exchange, { name, type, value, ignoreCase }: HeaderTest): boolean {
  const given = headerOf(exchange, name);
  if (given === undefined) return false;
  const [a, b] = ignoreCase ? [given.toLowerCase(), value.toLowerCase()] : [given, value];
  if (type === 'Exact') return a === b;
  if (type === 'Prefix') return a.startsWith(b);
  return type === 'Suffix' ? a.endsWith(b) : a.includes(b);
}

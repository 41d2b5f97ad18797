// A session is kept in a cookie and nowhere else, so that any replica with the same keys can open it. State on the
// server's side is in session-memory.ts.

import { randomBytes } from 'node:crypto';
import type { Exchange } from '../../exchange/exchange.ts';
import type { Fields } from '../../exchange/message.ts';
import { type RequestAuth, readClaims } from '../../policy/facts.ts';
import { Expiring } from '../expiring.ts';
import type { Seal } from '../seal.ts';
import type { Tokens } from './provider.ts';
import type { OidcPlan } from './schema.ts';
import { type CookieAttributes, clearChunks, printChunks, readChunks } from './session-cookie.ts';
import type { SessionMemory } from './session-memory.ts';
import { packSession, type StoredSession, unpackSession } from './session-text.ts';

/** An opened session: its cookie was sealed by us for this policy. */
export interface Session extends StoredSession {
  readonly auth: RequestAuth;
}

/** Sessions in cookies of one policy. */
export class Sessions {
  readonly cookieName: string;
  readonly #policy: OidcPlan;
  readonly #seal: Seal;
  readonly #attributes: CookieAttributes;
  readonly #memory: SessionMemory;
  readonly #now: () => number;
  /** Cookies that were opened before, so that most requests cost no decryption. */
  readonly #opened: Expiring<Session>;

  constructor(
    policy: OidcPlan,
    seal: Seal,
    cookieName: string,
    attributes: CookieAttributes,
    memory: SessionMemory,
    now: () => number,
  ) {
    this.#policy = policy;
    this.#seal = seal;
    this.cookieName = cookieName;
    this.#attributes = attributes;
    this.#memory = memory;
    this.#now = now;
    this.#opened = new Expiring(1000, now);
  }

  /** The request's session; undefined without a cookie that we made, or if the session has expired or was ended. */
  open({ fields }: Exchange): Session | undefined {
    const sealed = readChunks(fields, this.cookieName);
    if (sealed === undefined) return undefined;
    const session = this.#opened.get(sealed) ?? this.#unseal(sealed);
    if (session === undefined || session.until <= this.#now()) return undefined;
    return this.#memory.isEnded(session.id) ? undefined : session;
  }

  #unseal(sealed: string): Session | undefined {
    const bytes = this.#seal.openBytes(sealed);
    const stored = bytes === undefined ? undefined : unpackSession(bytes);
    if (stored === undefined) return undefined;
    const session = sessionOf(stored);
    this.#opened.set(sealed, session, session.until);
    return session;
  }

  /** A session that begins now. */
  begin(tokens: Tokens): Session {
    const refreshToken = this.#policy.refreshToken ? tokens.refreshToken : undefined;
    const tokensUntil = this.#endOf(tokens, tokens.claims!);
    const until = refreshToken === undefined ? tokensUntil : this.#now() + this.#policy.refreshMs;
    return this.#make(randomBytes(16).toString('base64url'), tokens, tokens.idToken!, refreshToken, tokensUntil, until);
  }

  /** The same session with new tokens. It still expires at the same time. */
  renew(old: Session, tokens: Tokens): Session {
    const idToken = tokens.idToken ?? old.idToken;
    const claims = tokens.claims ?? {};
    // A provider that does not rotate refresh tokens sends none.
    const refreshToken = tokens.refreshToken ?? old.refreshToken;
    return this.#make(
      old.id,
      tokens,
      idToken,
      refreshToken,
      Math.min(this.#endOf(tokens, claims), old.until),
      old.until,
    );
  }

  #make(
    id: string,
    { accessToken }: Tokens,
    idToken: string,
    refreshToken: string | undefined,
    tokensUntil: number,
    until: number,
  ): Session {
    return {
      ...{ id, idToken, refreshToken, tokensUntil, until },
      accessToken: this.#policy.forwardAccessToken ? accessToken : undefined,
      auth: authOf(idToken),
    };
  }

  /** Both tokens expire when the first of them does. */
  #endOf({ expiresMs }: Tokens, { exp }: Readonly<Record<string, unknown>>): number {
    const { defaultTokenMs } = this.#policy;
    const lasts = expiresMs ?? (defaultTokenMs > 0 ? defaultTokenMs : undefined);
    const ends = [
      ...(lasts === undefined ? [] : [this.#now() + lasts]),
      ...(typeof exp === 'number' ? [exp * 1000] : []),
    ];
    return ends.length === 0 ? this.#now() : Math.min(...ends);
  }

  /** The `Set-Cookie` values of a session. @throws SallyportError `oidc_provider_failed` if it is too long. */
  print({ fields }: Exchange, session: Session): string[] {
    const sealed = this.#seal.closeBytes(packSession(session));
    return printChunks(fields, this.cookieName, sealed, session.until - this.#now(), this.#attributes);
  }

  /** The `Set-Cookie` values that delete the session's cookies, if the browser has them. */
  clear(fields: Fields): string[] {
    return clearChunks(fields, this.cookieName, this.#attributes);
  }

  /** Ends the session in all processes. Never rejects. */
  async end({ id, until }: Session): Promise<void> {
    await this.#memory.end(id, until);
  }
}

/** The session of its stored form, which only we can have made. */
export function sessionOf(stored: StoredSession): Session {
  return { ...stored, auth: authOf(stored.idToken) };
}

/** The claims of an ID token that was verified before it was sealed. */
function authOf(idToken: string): RequestAuth {
  const payload = Buffer.from(idToken.split('.')[1]!, 'base64url').toString('utf8');
  return readClaims(JSON.parse(payload) as Readonly<Record<string, unknown>>);
}

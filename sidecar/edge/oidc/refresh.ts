// Refreshes a session once over all processes that share a memory; requests that arrive meanwhile or shortly after with
// the old cookie get the same result. A provider that sees a refresh token twice takes it for stolen and ends the login
// (RFC 9700 section 4.14.2). The result is shared sealed, so the memory sees no token.

import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { guard } from '../../../cert-agent/base/background.ts';
import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import { Seal } from '../seal.ts';
import type { OidcProvider } from './provider.ts';
import { type Session, type Sessions, sessionOf } from './session.ts';
import type { SessionMemory } from './session-memory.ts';
import { packSession, unpackSession } from './session-text.ts';

/** For this long after a refresh, requests may still arrive with the old cookie. */
const graceMs = 60_000;
/** Longer than the requests to a provider can take: endpoints, tokens and keys, 5 s each. */
const leaseMs = 20_000;
/** A request waits this long for the refresh of another process, then it is refused. */
const patienceMs = 10_000;
const pollMs = 40;

/** Stored in place of a session that the provider no longer knows. */
const refused = Buffer.from('refused');

/** The refreshes of one policy's sessions. */
export class Refreshes {
  readonly #provider: OidcProvider;
  readonly #sessions: Sessions;
  readonly #keys: readonly Buffer[];
  readonly #bound: string;
  readonly #memory: SessionMemory;
  /** The refreshes of this process in flight: later requests wait for the same one. */
  readonly #underWay = new Map<string, Promise<Session>>();

  /** `keys` are those of the session cookies; `bound` is the text that the cookies are bound to. */
  constructor(
    provider: OidcProvider,
    sessions: Sessions,
    keys: readonly Buffer[],
    bound: string,
    memory: SessionMemory,
  ) {
    this.#provider = provider;
    this.#sessions = sessions;
    this.#keys = keys;
    this.#bound = bound;
    this.#memory = memory;
  }

  /**
   * The session with new tokens.
   * @throws SallyportError `session_invalid` if the provider no longer knows it, else `oidc_provider_*` or the memory's
   * error.
   */
  of(session: Session, refreshToken: string): Promise<Session> {
    const key = `${this.#bound} ${session.id} ${session.tokensUntil}`;
    let refreshing = this.#underWay.get(key);
    if (refreshing === undefined) {
      refreshing = this.#once(key, session, refreshToken).finally(() => this.#underWay.delete(key));
      this.#underWay.set(key, refreshing);
    }
    return refreshing;
  }

  async #once(key: string, session: Session, refreshToken: string): Promise<Session> {
    const owner = randomBytes(12).toString('base64url');
    // Bound to this refresh, so that the result of another session does not open.
    const seal = new Seal(this.#keys, `refresh ${key}`);
    const giveUpAt = performance.now() + patienceMs;
    for (;;) {
      const claim = await this.#memory.claim(key, owner, leaseMs);
      if (claim === 'mine') return this.#redeem(key, owner, seal, session, refreshToken);
      if (claim !== 'busy') return read(seal, claim.answer);
      if (performance.now() > giveUpAt)
        throw new SallyportError('oidc_provider_unavailable', 'another process did not refresh this session in time');
      await pause(pollMs);
    }
  }

  async #redeem(key: string, owner: string, seal: Seal, session: Session, refreshToken: string): Promise<Session> {
    try {
      const renewed = await this.#renew(session, refreshToken);
      this.#publish(key, owner, seal.closeBytes(packSession(renewed)));
      return renewed;
    } catch (error) {
      const isOver = asSallyportError(error, 'internal', 'a session could not be refreshed').code === 'session_invalid';
      // If the provider was down, the next request tries again.
      this.#publish(key, owner, isOver ? seal.closeBytes(refused) : undefined);
      throw error;
    }
  }

  async #renew(session: Session, refreshToken: string): Promise<Session> {
    const tokens = await this.#provider.refresh(refreshToken);
    const subject = tokens.claims?.['sub'];
    // OpenID Connect Core section 12.2: a session does not become another user's.
    if (subject !== undefined && subject !== session.auth.subject)
      throw new SallyportError(
        'oidc_provider_failed',
        'the provider responded to a refresh with the tokens of another user',
      );
    return this.#sessions.renew(session, tokens);
  }

  /**
   * Stores the result for the others in the background, with retries while the claim lasts. The request does not wait.
   */
  #publish(key: string, owner: string, answer: string | undefined): void {
    const until = performance.now() + leaseMs;
    guard('oidc_refresh', async () => {
      for (;;) {
        try {
          return await this.#memory.settle(key, owner, answer, graceMs);
        } catch (error) {
          if (performance.now() > until) throw error;
          await pause(10 * pollMs);
        }
      }
    });
  }
}

/** @throws SallyportError `session_invalid`, also for a result that was sealed with unknown keys. */
function read(seal: Seal, answer: string): Session {
  const opened = seal.openBytes(answer);
  const stored = opened === undefined || opened.equals(refused) ? undefined : unpackSession(opened);
  if (stored === undefined)
    throw new SallyportError('session_invalid', 'the provider rejected the refresh token in another process');
  return sessionOf(stored);
}

// A refresh of a session: once over all processes that share a memory, whoever comes meanwhile or a little later with the old
// cookie. A provider that sees a refresh token twice takes it for stolen and ends the login (RFC 9700 section 4.14.2). What came
// of it is told to the others sealed: who only keeps it sees no token.

import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { guard } from '../../../cert-agent/base/background.ts';
import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { OidcProvider } from './provider.ts';
import { type Session, type Sessions, sessionOf } from './session.ts';
import { Seal } from './session-cookie.ts';
import type { SessionMemory } from './session-memory.ts';
import { packSession, unpackSession } from './session-text.ts';

/** Requests that were under way when a session was refreshed come with the old cookie for this long. */
const graceMs = 60_000;
/** Longer than a provider can take that is asked for its endpoints, its tokens and its keys: 5 s each. */
const leaseMs = 20_000;
/** Whoever waits for another's refresh longer than this is told to come again. */
const patienceMs = 10_000;
const pollMs = 40;

/** In the place of a session: the provider knows it no longer. */
const refused = Buffer.from('refused');

export class Refreshes {
  readonly #provider: OidcProvider;
  readonly #sessions: Sessions;
  readonly #keys: readonly Buffer[];
  readonly #bound: string;
  readonly #memory: SessionMemory;
  /** Of this process: whoever comes meanwhile waits for the same. */
  readonly #underWay = new Map<string, Promise<Session>>();

  /** `keys` are those of the sessions' cookies; `bound` is what these are bound to. */
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
   * @throws SallyportError `session_invalid` when the provider knows it no longer, else `oidc_provider_*` or what the memory
   * rejects with.
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
    // Of this refresh alone: nobody can put another session's answer in its place.
    const seal = new Seal(this.#keys, `refresh ${key}`);
    const giveUpAt = performance.now() + patienceMs;
    for (;;) {
      const claim = await this.#memory.claim(key, owner, leaseMs);
      if (claim === 'mine') return this.#redeem(key, owner, seal, session, refreshToken);
      if (claim !== 'busy') return read(seal, claim.answer);
      if (performance.now() > giveUpAt)
        throw new SallyportError('oidc_provider_unavailable', 'another process has not refreshed this session in time');
      await pause(pollMs);
    }
  }

  async #redeem(key: string, owner: string, seal: Seal, session: Session, refreshToken: string): Promise<Session> {
    try {
      const renewed = await this.#renew(session, refreshToken);
      this.#tell(key, owner, seal.closeBytes(packSession(renewed)));
      return renewed;
    } catch (error) {
      const isOver = asSallyportError(error, 'internal', 'a session could not be refreshed').code === 'session_invalid';
      // A provider that was down is asked again by the next request.
      this.#tell(key, owner, isOver ? seal.closeBytes(refused) : undefined);
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
        'the provider refreshes a session with the tokens of another user',
      );
    return this.#sessions.renew(session, tokens);
  }

  /** Tells the others. Who has done it waits for nobody: their request is served, and goes on trying while the right lasts. */
  #tell(key: string, owner: string, answer: string | undefined): void {
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

/** @throws SallyportError `session_invalid`, also for an answer that was sealed with keys that we do not have. */
function read(seal: Seal, answer: string): Session {
  const opened = seal.openBytes(answer);
  const stored = opened === undefined || opened.equals(refused) ? undefined : unpackSession(opened);
  if (stored === undefined) throw new SallyportError('session_invalid', 'another process has found the session over');
  return sessionOf(stored);
}

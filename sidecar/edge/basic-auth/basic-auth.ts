// Basic authentication (RFC 7617): checks a user and a password against an htpasswd file with `{SHA}`, `$apr1$` or
// bcrypt. bcrypt is slow on purpose and in JavaScript it blocks its thread. It runs in a separate thread, so guesses
// can fill that thread's queue but not block the event loop. Results are cached for a minute.

import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { isSafeField } from '../../exchange/message.ts';
import { takeOut } from '../../exchange/token-places.ts';
import { networkOf } from '../../policy/ip.ts';
import { ConcurrencyLimit } from '../concurrency-limit.ts';
import { challenge, refuseCaller, tellApp } from '../credentials.ts';
import { isApr1 } from './apr1.ts';
import type { BcryptThread } from './bcrypt-thread.ts';
import type { BasicPlan } from './schema.ts';

/** A result is cached this long. A changed file is a new policy, with an empty cache. */
const rememberMs = 60_000;
const maxRemembered = 10_000;
/** bcrypt reads 72 bytes of a password and silently ignores the rest. htpasswd accepts 255. */
const maxPasswordBytes = { bcrypt: 72, apr1: 255 } as const;
/** Places in the queue for one client: a client that guesses must not lock the others out. */
const maxOfOneClient = 8;
/** Above 2^14 rounds one guess takes a second of a core. */
const maxCost = 14;

type Stored =
  | { readonly kind: 'sha'; readonly digest: Buffer }
  | { readonly kind: 'bcrypt' | 'apr1'; readonly hash: string };

/** By user name. Never logged. */
export type Users = ReadonlyMap<string, Stored>;

/** The users of an htpasswd file. @throws SallyportError `config_invalid`, without any hash in its message. */
export function readHtpasswd(text: string, secret: string): Users {
  const users = new Map<string, Stored>();
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/\r$/, '');
    if (line.trim() === '' || line.startsWith('#')) continue;
    const colon = line.indexOf(':');
    const user = line.slice(0, Math.max(colon, 0));
    const fail = (why: string): SallyportError =>
      new SallyportError('config_invalid', `line ${index + 1} of .htpasswd in Secret '${secret}': ${why}`);
    if (user === '' || !isSafeField('x-user', user)) throw fail('it does not begin with a user and a colon');
    if (users.has(user)) throw fail(`'${user}' is listed twice`);
    const stored = readStored(line.slice(colon + 1));
    if (stored === undefined)
      throw fail(
        `the password of '${user}' is neither {SHA}, $apr1$ nor bcrypt with a cost of at most ${maxCost} (htpasswd -B)`,
      );
    users.set(user, stored);
  }
  if (users.size === 0)
    throw new SallyportError('config_invalid', `there is no user in .htpasswd of Secret '${secret}'`);
  return users;
}

function readStored(text: string): Stored | undefined {
  if (text.startsWith('{SHA}')) {
    const digest = Buffer.from(text.slice('{SHA}'.length), 'base64');
    return digest.length === 20 ? { kind: 'sha', digest } : undefined;
  }
  if (isApr1(text)) return { kind: 'apr1', hash: text };
  const bcrypt = /^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/.exec(text);
  if (bcrypt === null || Number(bcrypt[1]) < 4 || Number(bcrypt[1]) > maxCost) return undefined;
  return { kind: 'bcrypt', hash: text };
}

/** Warnings about passwords that are stored with a weak hash. */
export function weakPasswords(users: Users): string[] {
  const weak = [...users].filter(([, { kind }]) => kind === 'apr1').map(([user]) => user);
  if (weak.length === 0) return [];
  const more = weak.length === 1 ? '' : ` and ${weak.length - 1} more`;
  return [
    `the password of '${weak[0]}'${more} is stored as MD5 ($apr1$), which is fast to guess: use htpasswd -B for bcrypt`,
  ];
}

/** `user:password` of an Authorization field; undefined if the field holds anything else. */
export function readBasic(value: string | undefined): { user: string; password: string } | undefined {
  const match = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(value ?? '');
  if (match === null) return undefined;
  const text = Buffer.from(match[1]!, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  return colon < 1 ? undefined : { user: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** The users of one policy. Passwords are never kept: the cache has keyed hashes. */
export class BasicAuth {
  readonly #policy: BasicPlan;
  readonly #users: Users;
  readonly #thread: BcryptThread;
  readonly #now: () => number;
  /** The cache's entries are useless without this key, which never leaves the process. */
  readonly #key = randomBytes(32);
  /** The cached results: whether a pair of user and password is right, and until when that holds. */
  readonly #known = new Map<string, { readonly right: boolean; readonly until: number }>();
  readonly #asking = new Map<string, Promise<boolean>>();
  readonly #ofClients = new ConcurrencyLimit({ maxInFlight: maxOfOneClient, per: 'client' });
  /** An unknown user's password is compared with this one, so that the time does not reveal which users exist. */
  readonly #standIn: Stored | undefined;

  constructor(policy: BasicPlan, users: Users, thread: BcryptThread, now: () => number) {
    this.#policy = policy;
    this.#users = users;
    this.#thread = thread;
    this.#now = now;
    this.#standIn = [...users.values()].find(({ kind }) => kind !== 'sha');
  }

  /**
   * @throws SallyportError `basic_auth_missing`, `basic_auth_wrong`, `overloaded`; its promise rejects with the same.
   */
  know(exchange: Exchange): undefined | Promise<void> {
    const given = headerOf(exchange, 'authorization');
    const pair = readBasic(given);
    if (pair === undefined)
      throw refuseCaller(
        exchange,
        'basic_auth_missing',
        'User authentication failed. Missing username and password.',
        given === undefined ? 'the request has no user and password' : 'Authorization holds no user and password',
        [challenge(exchange, 'Basic')],
      );
    const verdict = this.#check(pair.user, pair.password, networkOf(exchange.clientIp));
    if (typeof verdict === 'boolean') {
      this.#take(exchange, pair.user, verdict);
      return undefined;
    }
    return verdict.then(
      (right) => this.#take(exchange, pair.user, right),
      (error: unknown) => {
        const why = error instanceof SallyportError ? error.message : 'the password could not be compared';
        throw refuseCaller(exchange, 'overloaded', 'too many passwords at once', why);
      },
    );
  }

  #take(exchange: Exchange, user: string, right: boolean): void {
    if (!right)
      throw refuseCaller(
        exchange,
        'basic_auth_wrong',
        'User authentication failed. Invalid username/password combination.',
        'unknown user or wrong password',
        [challenge(exchange, 'Basic')],
      );
    exchange.clientId = user;
    exchange.authMethod = 'basic';
    if (this.#policy.sanitize) takeOut(exchange, { kind: 'header', name: 'authorization' });
    if (this.#policy.forwardUsernameHeader !== undefined) tellApp(exchange, this.#policy.forwardUsernameHeader, user);
  }

  #check(user: string, password: string, client: string): boolean | Promise<boolean> {
    const stored = this.#users.get(user);
    const against = stored ?? this.#standIn;
    if (against === undefined || against.kind === 'sha') {
      if (stored?.kind !== 'sha') return false;
      return timingSafeEqual(createHash('sha1').update(password).digest(), stored.digest);
    }
    if (Buffer.byteLength(password) > maxPasswordBytes[against.kind] || password.includes('\0')) return false;
    const key = createHmac('sha256', this.#key).update(`${user}\0${password}`).digest('base64');
    const known = this.#known.get(key);
    if (known !== undefined && this.#now() < known.until) return known.right;
    const before = this.#asking.get(key);
    if (before !== undefined) return before;
    if (!this.#ofClients.enter(client))
      return Promise.reject(
        new SallyportError('overloaded', `${maxOfOneClient} passwords of one client are waiting for comparison`),
      );
    const asking = this.#ask(key, password, against.hash, stored !== undefined).finally(() =>
      this.#ofClients.leave(client),
    );
    this.#asking.set(key, asking);
    return asking;
  }

  async #ask(key: string, password: string, hash: string, exists: boolean): Promise<boolean> {
    try {
      const right = (await this.#thread.compare(password, hash)) && exists;
      this.#known.delete(key);
      this.#known.set(key, { right, until: this.#now() + rememberMs });
      for (const oldest of this.#known.keys()) {
        if (this.#known.size <= maxRemembered) break;
        this.#known.delete(oldest);
      }
      return right;
    } finally {
      this.#asking.delete(key);
    }
  }
}

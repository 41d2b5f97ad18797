// The parts of a SecurityPolicy by which callers are known: API key, then user and password, then session, then
// token. All that are set up must hold, as in Envoy's chain of filters.
//
// A session and a token together: with `oidc` and `jwt` a browser's session stands for the token, and the claims are those of
// its ID token. A request that brings a token as well has it verified, and the token's claims are its. With
// `passThroughAuthHeader` a token needs no session.

import type { ZodType } from 'zod';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { answerOwn } from '../exchange/answer.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { compileAuthentication, type KeySource, type TokenObserver } from '../policy/jwt.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import type { SecretRef } from '../schema/policy-fields.ts';
import { compileApiKeys, readApiKeys } from './api-key/api-key.ts';
import type { ApiKeyPlan } from './api-key/schema.ts';
import { BasicAuth, readHtpasswd, weakPasswords } from './basic-auth/basic-auth.ts';
import { bcryptThread } from './basic-auth/bcrypt-thread.ts';
import type { BasicPlan } from './basic-auth/schema.ts';
import type { GuardHooks, Guarding, Site } from './capability.ts';
import { createClaimReport } from './claims.ts';
import { hideSessionCookies, refuseCaller, secretText } from './credentials.ts';
import { sessionsAtFirst, sessionsOfFirst } from './oidc/first.ts';
import { Oidc } from './oidc/oidc.ts';
import { RedisSessions } from './oidc/redis-sessions.ts';
import type { OidcPlan } from './oidc/schema.ts';
import { minSecretBytes } from './oidc/session-cookie.ts';
import { LocalSessions, type SessionMemory } from './oidc/session-memory.ts';
import { createProviderFetch, type ProviderFetch } from './provider-fetch.ts';
import { compileStillKnown, type Known } from './still-known.ts';
import { Bearer } from './token/bearer.ts';
import { Introspection } from './token/introspection.ts';
import type { IntrospectionPlan, JwtPlan } from './token/schema.ts';
import { vouchFor } from './vouch.ts';

type Step = (exchange: Exchange) => undefined | void | Promise<void>;

interface Shared {
  readonly memory: SessionMemory;
  /** Hears of each claim that cannot be passed on; it may hear the same again. */
  report(message: string): void;
  keysOf(rule: JwtRule): KeySource;
  readonly observe?: TokenObserver;
  /** How providers are asked. */
  readonly fetch?: ProviderFetch;
  readonly now?: () => number;
}

interface Plans {
  readonly jwt?: JwtPlan;
  readonly oidc?: OidcPlan;
  readonly introspection?: IntrospectionPlan;
  readonly apiKeyAuth?: ApiKeyPlan;
  readonly basicAuth?: BasicPlan;
}

const field = (name: string, schema: () => Promise<ZodType>) => ({ kind: 'SecurityPolicy' as const, name, schema });

/** The parts of a SecurityPolicy that have no folder of their own yet. */
export const security: Guarding<unknown, Shared> = {
  name: 'security',
  guards: 'callers',
  perPolicy: true,
  always: true,
  files: ['sessionKeys'],
  fields: [
    field('apiKeyAuth', async () => (await import('./api-key/schema.ts')).apiKeyAuth),
    field('basicAuth', async () => (await import('./basic-auth/schema.ts')).basicAuth),
    field('oidc', async () => (await import('./oidc/schema.ts')).oidc),
    field('jwt', async () => (await import('./token/schema.ts')).jwt),
    field('introspection', async () => (await import('./token/schema.ts')).introspection),
  ],
  ownHeaders(plan) {
    const {
      claimToHeaders = [],
      providers = [],
      ...one
    } = plan as Partial<ApiKeyPlan & BasicPlan & OidcPlan & JwtPlan>;
    const claims = [...claimToHeaders, ...providers.flatMap(({ rule }) => rule.outputClaimToHeaders)];
    const names = [one.forwardClientIdHeader, one.forwardUsernameHeader, one.forwardIdTokenHeader];
    return [...names.flatMap((name) => name ?? []), ...claims.map(({ header }) => header)].filter(
      (name) => name !== 'authorization',
    );
  },
  secretParams(plan) {
    const { extractFrom = [], providers = [] } = plan as Partial<ApiKeyPlan & JwtPlan>;
    return [...extractFrom.flatMap(({ params }) => params), ...providers.flatMap(({ rule }) => rule.fromParams)];
  },
  secretPaths: (plan, name) => (name === 'oidc' ? [new URL((plan as OidcPlan).redirectUrl).pathname] : []),
  async share({ log, workers, redis, keysOf, observeToken, onClose }) {
    const { first } = workers;
    const own = first === undefined ? sessionsOfFirst(workers) : await sessionsAtFirst(first);
    const shared = redis === undefined ? undefined : new RedisSessions(redis);
    // Several gateways are one through Redis, and so are their workers; without it the first worker remembers for all.
    await shared?.start();
    if (shared !== undefined) onClose(() => shared.close());
    return { memory: shared ?? own, report: createClaimReport(log), keysOf, observe: observeToken };
  },
  shareDry: ({ keysOf }) => ({ memory: new LocalSessions(), report() {}, keysOf }),
  compile(planned, at) {
    const plans: Plans = Object.fromEntries(planned.map(({ field: name, plan }) => [name, plan]));
    return { ...compileSecurity(plans, at), rewrite: hideSessionCookies };
  },
};

/** @throws SallyportError `config_invalid` when a Secret is missing, or does not hold what it must. */
function compileSecurity(plans: Plans, at: Site<Shared>): GuardHooks {
  const { now = Date.now, fetch = createProviderFetch(), memory, keysOf, observe } = at.shared;
  const report = (message: string): void => at.shared.report(`${at.name}: ${message}`);
  const textOf = (ref: SecretRef, key: string, part: string): string => secretText(at, ref.name, key, part);
  const steps: Step[] = [];
  const credentials = new Map<string, string>();
  const { apiKeyAuth, basicAuth, oidc: oidcPolicy, jwt, introspection: introspectionPolicy } = plans;
  if (apiKeyAuth !== undefined) {
    const keys = readApiKeys(apiKeyAuth.credentials.map(({ name }) => [name, at.secret(name, 'apiKeyAuth')] as const));
    for (const one of keys.warnings) at.warn(one);
    for (const [key, client] of keys.clients) credentials.set(client, key);
    steps.push(compileApiKeys(apiKeyAuth, keys));
  }
  if (basicAuth !== undefined) {
    const users = readHtpasswd(textOf(basicAuth.users, '.htpasswd', 'basicAuth'), basicAuth.users.name);
    for (const one of weakPasswords(users)) at.warn(one);
    // Who has both a key and a password goes by the password: it was looked at last.
    credentials.clear();
    for (const [user, stored] of users)
      credentials.set(user, stored.kind === 'sha' ? stored.digest.toString('base64') : stored.hash);
    const basic = new BasicAuth(basicAuth, users, bcryptThread(), now);
    steps.push((exchange) => basic.know(exchange));
  }
  const authentication =
    jwt === undefined
      ? undefined
      : compileAuthentication([{ jwtRules: jwt.providers.map(({ rule }) => rule) }], keysOf, observe);
  const introspection =
    introspectionPolicy === undefined
      ? undefined
      : new Introspection(
          introspectionPolicy,
          textOf(introspectionPolicy.clientSecret, 'client-secret', 'introspection'),
          fetch,
          now,
        );
  const bearer =
    authentication === undefined && introspection === undefined
      ? undefined
      : new Bearer({
          ...{ jwt, authentication, introspection, report },
          sessionForwards: oidcPolicy?.forwardAccessToken === true,
          sessionRules: standingFor(oidcPolicy, jwt).map(({ rule }) => rule),
        });
  if (oidcPolicy !== undefined) {
    const secret = textOf(oidcPolicy.clientSecret, 'client-secret', 'oidc');
    const keys = sessionKeysOf(oidcPolicy, at, secret, textOf);
    const oidc = new Oidc(oidcPolicy, at.policy, secret, keys, {
      answer: answerOwn,
      fetch,
      keysOf,
      memory,
      now,
      report,
    });
    steps.push(sessionStep(oidc, oidcPolicy, jwt, bearer));
  }
  if (bearer !== undefined) steps.push((exchange) => bearer.know(exchange));
  if (oidcPolicy !== undefined) steps.push(requireSomebody);

  const known: Known = (clientId) => credentials.get(clientId);
  return {
    authenticate: (exchange) => runFrom(steps, 0, exchange),
    jwtRules: jwt?.providers.map(({ rule }) => rule) ?? [],
    guard: { known, stillHolds: compileStillKnown(plans, known) },
  };
}

function isAnswered({ responded, finished }: Exchange): boolean {
  return responded || finished;
}

/** One step after the other, in the same turn where none waits; an exchange that was answered goes no further. */
function runFrom(steps: readonly Step[], from: number, exchange: Exchange): undefined | Promise<void> {
  for (let i = from; i < steps.length; i++) {
    const waits = steps[i]!(exchange);
    if (waits instanceof Promise)
      return waits.then(() => (isAnswered(exchange) ? undefined : runFrom(steps, i + 1, exchange)));
    if (isAnswered(exchange)) return undefined;
  }
  return undefined;
}

/** Fails closed: where users log in, nobody goes on whom neither a session nor a token has made known. */
function requireSomebody(exchange: Exchange): void {
  if (exchange.auth === undefined)
    throw refuseCaller(exchange, 'session_invalid', 'Login required', 'it is not known whose it is');
}

/** A JWT provider of the same issuer that takes tokens for this client would take the ID token. */
function standingFor(oidc: OidcPlan | undefined, jwt: JwtPlan | undefined): JwtPlan['providers'] {
  return (jwt?.providers ?? []).filter(
    ({ rule: { issuer, audiences } }) =>
      issuer === oidc?.issuer && (audiences.length === 0 || audiences.includes(oidc.clientId)),
  );
}

/** The step that knows a session, and says who vouches for its claims. */
function sessionStep(oidc: Oidc, policy: OidcPlan, jwt: JwtPlan | undefined, bearer: Bearer | undefined): Step {
  const providers = Object.freeze(['oidc', ...standingFor(policy, jwt).map(({ name }) => name)]);
  const vouch = ({ auth }: Exchange): void => {
    if (auth !== undefined) vouchFor(auth, providers);
  };
  return function knowSession(exchange) {
    if (policy.passThroughAuthHeader && !oidc.isOwn(exchange) && bearer?.isPresent(exchange) === true) {
      hideSessionCookies(exchange);
      return undefined;
    }
    const waits = oidc.know(exchange);
    if (waits !== undefined) return waits.then(() => vouch(exchange));
    vouch(exchange);
    return undefined;
  };
}

/** Of the policy's own Secret, else the process's, else derived from what all replicas know anyway. */
function sessionKeysOf(
  { sessionKeys }: OidcPlan,
  { name, files }: Site<unknown>,
  clientSecret: string,
  textOf: (ref: SecretRef, key: string, part: string) => string,
): readonly Buffer[] {
  const split = (text: string): string[] => text.split(/\s+/).filter(Boolean);
  const own = sessionKeys === undefined ? undefined : split(textOf(sessionKeys, 'session-keys', 'oidc'));
  const ofProcess = files('sessionKeys')?.['sessionKeys'];
  const given = own ?? (ofProcess === undefined ? undefined : split(ofProcess));
  // Whoever has named a file wants its keys, and not those that a client secret gives.
  if (own === undefined && given?.length === 0)
    throw new SallyportError(
      'config_invalid',
      `${name}: the file of 'sessionKeys' in gateway.yaml is not there, or empty`,
      { hint: 'make one with: openssl rand -base64 48' },
    );
  const keys = given?.map((one) => Buffer.from(one, 'utf8')) ?? [];
  for (const key of keys)
    if (key.length < minSecretBytes)
      throw new SallyportError(
        'config_invalid',
        `${name}: a session key has ${key.length} bytes, and ${minSecretBytes} are needed`,
        { hint: 'make one with: openssl rand -base64 48' },
      );
  return keys.length === 0 ? [Buffer.from(clientSecret, 'utf8')] : keys;
}

// Authenticates users of browsers by a session, and redirects them to log in without one.

import { answerOwn } from '../../exchange/answer.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import type { KeySource } from '../../policy/jwt.ts';
import type { JwtRule } from '../../policy/request-authentication.ts';
import type { Guarding, PlanWarning, Site } from '../capability.ts';
import { createClaimReport, type ReportUnfit } from '../claims.ts';
import { hideSessionCookies, refuseCaller, secretText } from '../credentials.ts';
import { createProviderFetch, type ProviderFetch } from '../provider-fetch.ts';
import { bringsToken, introspectsBeside, providersBeside, standingFor } from '../session-and-token.ts';
import { isFor } from '../still-known.ts';
import { vouchFor } from '../vouch.ts';
import { sessionsAtFirst, sessionsOfFirst } from './first.ts';
import { Oidc } from './oidc.ts';
import { RedisSessions } from './redis-sessions.ts';
import type { OidcPlan } from './schema.ts';
import { sessionKeysOf } from './session-keys.ts';
import { LocalSessions, type SessionMemory } from './session-memory.ts';
import { doubtsOf, whyLost } from './way-back.ts';

/** What logins use. `now` is milliseconds since 1970. */
export interface LoginTools {
  /** Shared by all processes with the same sessions. */
  readonly memory: SessionMemory;
  readonly report: ReportUnfit;
  readonly fetch: ProviderFetch;
  keysOf(rule: JwtRule): KeySource;
  now(): number;
}

const warnings = ({ unusedCookieName }: OidcPlan): readonly PlanWarning[] =>
  unusedCookieName === undefined
    ? []
    : [
        {
          path: ['cookieNames', 'accessToken'],
          message: "all tokens are in one encrypted cookie, which 'idToken' names",
        },
      ];

/** A token is passed through only where something verifies it. */
const mismatches = ({ passThroughAuthHeader }: OidcPlan, others: object): readonly PlanWarning[] =>
  passThroughAuthHeader && !('jwt' in others) && !('introspection' in others)
    ? [{ path: ['passThroughAuthHeader'], message: "has no effect without 'jwt' or 'introspection'" }]
    : [];

export const oidc: Guarding<OidcPlan, LoginTools> = {
  name: 'oidc',
  guards: 'callers',
  perPolicy: true,
  // A browser sends session cookies to every route of a host, and no app may see them.
  always: true,
  files: ['sessionKeys'],
  fields: [
    {
      ...{ kind: 'SecurityPolicy', name: 'oidc', warnings, mismatches },
      schema: async () => (await import('./schema.ts')).oidc,
    },
  ],
  ownHeaders: ({ forwardIdTokenHeader, claimToHeaders }) =>
    [
      ...(forwardIdTokenHeader === undefined ? [] : [forwardIdTokenHeader]),
      ...claimToHeaders.map(({ header }) => header),
    ]
      // `Authorization` is read before it is removed; the step that sets it replaces it.
      .filter((name) => name !== 'authorization'),
  secretParams: () => [],
  // The provider redirects browsers to it with a code.
  secretPaths: ({ redirectUrl }) => [new URL(redirectUrl).pathname],
  async share({ log, workers, redis, keysOf, onClose }) {
    const { first } = workers;
    const own = first === undefined ? sessionsOfFirst(workers) : await sessionsAtFirst(first);
    const tools = { report: createClaimReport(log), fetch: createProviderFetch(), keysOf, now: Date.now };
    // Without Redis the first worker keeps the state for all. Redis keeps it for all gateways and all their workers.
    if (redis === undefined) return { ...tools, memory: own };
    const memory = new RedisSessions(redis);
    await memory.start();
    onClose(() => memory.close());
    return { ...tools, memory };
  },
  shareDry: ({ keysOf }) => ({
    ...{ memory: new LocalSessions(), report() {}, fetch: createProviderFetch(), keysOf },
    now: Date.now,
  }),
  doubts: doubtsOf,
  review: whyLost,
  compile([planned], at) {
    if (planned === undefined)
      return { rewrite: hideSessionCookies, guard: { known: undefined, stillHolds: () => true } };
    const { plan } = planned;
    const takesTokens = providersBeside(at).length > 0 || introspectsBeside(at);
    return {
      authenticate: knowSession(plan, at),
      authenticated: requireUser,
      rewrite: hideSessionCookies,
      guard: {
        known: undefined,
        stillHolds({ auth, authMethod }) {
          if (auth === undefined) return false;
          if (authMethod === 'oidc') return auth.issuer === plan.issuer && isFor(auth, [plan.clientId]);
          // A token may replace a session; the guard of `token` decides about it.
          return takesTokens;
        },
      },
    };
  },
};

/** The step that authenticates a user by a session, and records which providers vouch for the claims. */
function knowSession(plan: OidcPlan, at: Site<LoginTools>): (exchange: Exchange) => undefined | Promise<void> {
  const secret = secretText(at, plan.clientSecret.name, 'client-secret', 'oidc');
  const { report, ...tools } = at.shared;
  const oidcLogin = new Oidc(plan, at.policy, secret, sessionKeysOf(plan, at, secret), {
    ...tools,
    answer: answerOwn,
    report: (message) => report(`${at.name}: ${message}`),
  });
  const tokens = providersBeside(at);
  const introspects = introspectsBeside(at);
  const vouching = Object.freeze(['oidc', ...standingFor(plan, tokens).map(({ name }) => name)]);
  const vouch = ({ auth }: Exchange): void => {
    if (auth !== undefined) vouchFor(auth, vouching);
  };
  return function knowBySession(exchange) {
    if (plan.passThroughAuthHeader && !oidcLogin.isOwn(exchange) && bringsToken(exchange, tokens, introspects)) {
      hideSessionCookies(exchange);
      return undefined;
    }
    const waits = oidcLogin.know(exchange);
    if (waits !== undefined) return waits.then(() => vouch(exchange));
    vouch(exchange);
    return undefined;
  };
}

/** Fails closed: refuses a request that neither a session nor a token has authenticated. */
function requireUser(exchange: Exchange): void {
  if (exchange.auth === undefined)
    throw refuseCaller(exchange, 'session_invalid', 'Login required', 'the request has neither a session nor a token');
}

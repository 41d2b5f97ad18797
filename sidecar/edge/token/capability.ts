// Authenticates callers by bearer tokens: verifies JWTs with the keys of their providers, and introspects others.

import type { Exchange } from '../../exchange/exchange.ts';
import { compileAuthentication, type KeySource, type TokenObserver } from '../../policy/jwt.ts';
import type { JwtRule } from '../../policy/request-authentication.ts';
import type { Guarding, Planned } from '../capability.ts';
import { createClaimReport, type ReportUnfit } from '../claims.ts';
import { secretText } from '../credentials.ts';
import { createProviderFetch, type ProviderFetch } from '../provider-fetch.ts';
import { type Login, loginBeside, standingFor } from '../session-and-token.ts';
import { isFor } from '../still-known.ts';
import { Bearer } from './bearer.ts';
import { Introspection } from './introspection.ts';
import type { IntrospectionPlan, JwtPlan } from './schema.ts';

/** What verifying uses. `now` is milliseconds since 1970. */
export interface TokenTools {
  readonly report: ReportUnfit;
  readonly fetch: ProviderFetch;
  readonly observe?: TokenObserver;
  keysOf(rule: JwtRule): KeySource;
  now(): number;
}

export const token: Guarding<JwtPlan | IntrospectionPlan, TokenTools> = {
  name: 'token',
  guards: 'callers',
  perPolicy: true,
  fields: [
    { kind: 'SecurityPolicy', name: 'jwt', schema: async () => (await import('./schema.ts')).jwt },
    { kind: 'SecurityPolicy', name: 'introspection', schema: async () => (await import('./schema.ts')).introspection },
  ],
  ownHeaders: (plan) =>
    rulesIn(plan)
      .flatMap(({ outputClaimToHeaders }) => outputClaimToHeaders.map(({ header }) => header))
      // `Authorization` is read before it is removed; the step that sets it replaces it.
      .filter((name) => name !== 'authorization'),
  secretParams: (plan) => rulesIn(plan).flatMap(({ fromParams }) => fromParams),
  share: ({ log, keysOf, observeToken }) => ({
    ...{ report: createClaimReport(log), fetch: createProviderFetch(), observe: observeToken, keysOf },
    now: Date.now,
  }),
  shareDry: ({ keysOf }) => ({ report() {}, fetch: createProviderFetch(), keysOf, now: Date.now }),
  compile(plans, at) {
    if (plans.length === 0) return undefined;
    const { jwt, introspection } = partsOf(plans);
    const { report, fetch, observe, keysOf, now } = at.shared;
    const login = loginBeside(at);
    const jwtRules = jwt?.providers.map(({ rule }) => rule) ?? [];
    const [namespace = '', name = ''] = at.policy.split('/');
    const bearer = new Bearer({
      jwt,
      authentication: compileAuthentication([{ namespace, name, jwtRules }], keysOf, observe),
      introspection:
        introspection === undefined
          ? undefined
          : new Introspection(
              introspection,
              secretText(at, introspection.clientSecret.name, 'client-secret', 'introspection'),
              fetch,
              now,
            ),
      report: (message) => report(`${at.name}: ${message}`),
      sessionForwards: login?.forwardAccessToken === true,
      sessionRules: standingFor(login, jwt?.providers ?? []).map(({ rule }) => rule),
    });
    return {
      authenticate: (exchange) => bearer.know(exchange),
      jwtRules,
      guard: { known: undefined, stillHolds: (exchange) => wouldTake(exchange, jwt, introspection, login) },
    };
  },
};

interface Parts {
  readonly jwt: JwtPlan | undefined;
  readonly introspection: IntrospectionPlan | undefined;
}

function partsOf(plans: readonly Planned<JwtPlan | IntrospectionPlan>[]): Parts {
  const of = (wanted: string): unknown => plans.find(({ field }) => field === wanted)?.plan;
  return { jwt: of('jwt') as JwtPlan | undefined, introspection: of('introspection') as IntrospectionPlan | undefined };
}

function rulesIn(plan: JwtPlan | IntrospectionPlan): readonly JwtRule[] {
  return 'providers' in plan ? plan.providers.map(({ rule }) => rule) : [];
}

/** True if this policy would accept the token of the caller's claims. For a session the guard of `oidc` decides. */
function wouldTake(
  { auth, authMethod }: Exchange,
  jwt: JwtPlan | undefined,
  introspection: IntrospectionPlan | undefined,
  login: Login | undefined,
): boolean {
  if (auth === undefined) return jwt?.optional === true && login === undefined;
  if (authMethod === 'oidc') return login !== undefined;
  if (authMethod === 'introspection') return introspection !== undefined && isFor(auth, introspection.audiences);
  return jwt?.providers.some(({ rule }) => rule.issuer === auth.issuer && isFor(auth, rule.audiences)) === true;
}

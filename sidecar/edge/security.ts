// One SecurityPolicy made ready to serve: who is calling (API key, then user and password, then session, then token: all that
// are set up must hold, as in Envoy's chain of filters), and may he pass. Compiled when the configuration is; a policy whose
// Secrets are not there or not usable is not compiled at all, and its targets stay closed.
//
// A session and a token together: with `oidc` and `jwt` a browser's session stands for the token, and the claims are those of
// its ID token. A request that brings a token as well has it verified, and the token's claims are its. With
// `passThroughAuthHeader` a token needs no session.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Connection } from '../connection.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import { compileAuthentication, type KeySource, type TokenObserver } from '../policy/jwt.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import type { SecretRef } from '../schema/policy-fields.ts';
import { compileApiKeys, readApiKeys } from './api-key/api-key.ts';
import { compileEdgeAuthorization, vouchFor } from './authorization/authorization.ts';
import { BasicAuth, readHtpasswd, weakPasswords } from './basic-auth/basic-auth.ts';
import { bcryptThread } from './basic-auth/bcrypt-thread.ts';
import { hideSessionCookies, refuseCaller } from './credentials.ts';
import { type Answer, Oidc } from './oidc/oidc.ts';
import type { OidcPlan } from './oidc/schema.ts';
import { minSecretBytes } from './oidc/session-cookie.ts';
import { LocalSessions, type SessionMemory } from './oidc/session-memory.ts';
import { ownHeadersOf, secretParamsOf, secretPathsOf, unevaluatedParts } from './policy-parts.ts';
import { createProviderFetch, type ProviderFetch } from './provider-fetch.ts';
import type { SecurityPolicy } from './security-policy.ts';
import { compileStillKnown, type Known, knownBy, type StillKnows } from './still-known.ts';
import { Bearer } from './token/bearer.ts';
import type { ReportUnfit } from './token/claims.ts';
import { Introspection } from './token/introspection.ts';
import type { JwtPlan } from './token/schema.ts';

/** What a policy needs of the process that serves it. */
export interface SecurityTools {
  /** A Secret's data, decoded; undefined where there is none of this name. */
  resolveSecret(namespace: string, name: string): Readonly<Record<string, string>> | undefined;
  /** `Jwks.sourceOf` of tokens/jwks.ts. */
  keysOf(rule: JwtRule): KeySource;
  /** `answerOwn` of respond.ts. */
  readonly answer: Answer;
  /** The keys of session cookies for policies that name none; the first encrypts. At least 32 bytes each. */
  readonly sessionKeys?: readonly Buffer[];
  /** What outlives a configuration; one for all processes that know the same sessions. */
  readonly memory?: SessionMemory;
  readonly observe?: TokenObserver;
  /** Hears of each claim that cannot be passed on; it may hear the same again. */
  readonly report?: ReportUnfit;
  /** How providers are asked. */
  readonly fetch?: ProviderFetch;
  readonly now?: () => number;
}

export interface EdgeSecurity {
  /** Headers, in lower case, that only we may set. `authenticate` drops them from every request. */
  readonly ownHeaders: ReadonlySet<string>;
  /** Parameters of a query in which a credential may stand: none of them is for the record. */
  readonly secretParams: readonly string[];
  /** Paths whose query is a credential as a whole. */
  readonly secretPaths: readonly string[];
  /** What is compared with the next policy, for those who are in. */
  readonly known: Known;
  /** Asked of an exchange in flight that came in under another policy. */
  readonly knows: StillKnows;
  /** The rules whose keys are asked for: for `Jwks.keepOnly`. */
  readonly jwtRules: readonly JwtRule[];
  /** What an operator should hear of the Secrets. */
  readonly warnings: readonly string[];
  /**
   * Fills in `auth`, `clientId`, `authMethod` and `tokenValidUntil`, and takes credentials out of the request. It may answer
   * itself, a redirect to a login: `exchange.responded` is set then, and nothing follows.
   * @throws SallyportError with `exchange.denial` set; a promise, where it gives one, rejects with the same.
   */
  authenticate(exchange: Exchange, connection: Connection): undefined | Promise<void>;
  /** May he pass? Asked again for an exchange in flight, it gives the same for the same caller. @throws SallyportError `policy_denied`. */
  authorize(exchange: Exchange, connection: Connection): void;
}

type Step = (exchange: Exchange) => undefined | void | Promise<void>;

/** @throws SallyportError `config_invalid` when a Secret is missing, or does not hold what it must. */
export function compileSecurity(policy: SecurityPolicy, tools: SecurityTools): EdgeSecurity {
  const { now = Date.now, fetch = createProviderFetch(), report = () => {} } = tools;
  const of = `${policy.namespace}/${policy.name}`;
  const [forgotten] = unevaluatedParts(policy);
  if (forgotten !== undefined)
    throw new SallyportError('config_invalid', `SecurityPolicy ${of}: nothing here evaluates '${forgotten}'`);
  const warnings: string[] = [];
  const secretOf = ({ name }: SecretRef, part: string): Readonly<Record<string, string>> => {
    const namespace = namespaceOf(policy, part);
    const secret = tools.resolveSecret(namespace, name);
    if (secret === undefined)
      throw new SallyportError(
        'config_invalid',
        `SecurityPolicy ${of}: there is no Secret '${name}' in namespace '${namespace}'`,
      );
    return secret;
  };
  const textOf = (ref: SecretRef, key: string, part: string): string => {
    const value = secretOf(ref, part)[key]?.replace(/\r?\n$/, '');
    if (value === undefined || value === '')
      throw new SallyportError('config_invalid', `SecurityPolicy ${of}: Secret '${ref.name}' has no '${key}'`);
    return value;
  };

  const steps: Step[] = [];
  const credentials = new Map<string, string>();
  const { apiKeyAuth, basicAuth, oidc: oidcPolicy, jwt, introspection: introspectionPolicy } = policy;
  if (apiKeyAuth !== undefined) {
    const keys = readApiKeys(apiKeyAuth.credentials.map((ref) => [ref.name, secretOf(ref, 'apiKeyAuth')] as const));
    warnings.push(...keys.warnings.map((one) => `SecurityPolicy ${of}: ${one}`));
    for (const [key, client] of keys.clients) credentials.set(client, key);
    steps.push(compileApiKeys(apiKeyAuth, keys));
  }
  if (basicAuth !== undefined) {
    const users = readHtpasswd(textOf(basicAuth.users, '.htpasswd', 'basicAuth'), basicAuth.users.name);
    warnings.push(...weakPasswords(users).map((one) => `SecurityPolicy ${of}: ${one}`));
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
      : compileAuthentication([documentOf(policy)], (rule) => tools.keysOf(rule), tools.observe);
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
    const keys = sessionKeysOf(oidcPolicy, tools, secret, of, textOf);
    const oidc = new Oidc(oidcPolicy, of, secret, keys, {
      answer: tools.answer,
      fetch,
      keysOf: (rule) => tools.keysOf(rule),
      memory: tools.memory ?? new LocalSessions(now),
      now,
      report,
    });
    steps.push(sessionStep(oidc, oidcPolicy, jwt, bearer));
  }
  if (bearer !== undefined) steps.push((exchange) => bearer.know(exchange));
  if (oidcPolicy !== undefined) steps.push(requireSomebody);

  const ownHeaders = ownHeadersOf(policy);
  const known = knownBy(
    policy,
    (clientId) => credentials.get(clientId),
    (name, part) => tools.resolveSecret(namespaceOf(policy, part), name),
  );
  const authorizeAtEdge =
    policy.authorization === undefined ? undefined : compileEdgeAuthorization(policy.authorization, of);
  return Object.freeze({
    ownHeaders,
    secretParams: secretParamsOf(policy),
    secretPaths: secretPathsOf(policy),
    known,
    knows: compileStillKnown(policy, known),
    jwtRules: jwt?.providers.map(({ rule }) => rule) ?? [],
    warnings,
    authenticate(exchange: Exchange): undefined | Promise<void> {
      if (ownHeaders.size > 0) changeRequest(exchange, ownHeaders, []);
      return runFrom(steps, 0, exchange);
    },
    authorize(exchange: Exchange, connection: Connection): void {
      authorizeAtEdge?.(exchange, connection);
    },
  });
}

/** Where the Secrets and backends of a part are. */
export function namespaceOf({ namespace, namespaces }: SecurityPolicy, part: string): string {
  return namespaces?.[part] ?? namespace;
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
function standingFor(oidc: OidcPlan | undefined, jwt: SecurityPolicy['jwt']): JwtPlan['providers'] {
  return (jwt?.providers ?? []).filter(
    ({ rule: { issuer, audiences } }) =>
      issuer === oidc?.issuer && (audiences.length === 0 || audiences.includes(oidc.clientId)),
  );
}

/** The step that knows a session, and says who vouches for its claims. */
function sessionStep(oidc: Oidc, policy: OidcPlan, jwt: SecurityPolicy['jwt'], bearer: Bearer | undefined): Step {
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

function documentOf({ name, namespace, jwt, file, line }: SecurityPolicy) {
  return { name, namespace, jwtRules: jwt!.providers.map(({ rule }) => rule), file, line };
}

/** Of the policy's own Secret, else the process's, else derived from what all replicas know anyway. */
function sessionKeysOf(
  { sessionKeys }: OidcPlan,
  tools: SecurityTools,
  clientSecret: string,
  of: string,
  textOf: (ref: SecretRef, key: string, part: string) => string,
): readonly Buffer[] {
  const own =
    sessionKeys === undefined ? undefined : textOf(sessionKeys, 'session-keys', 'oidc').split(/\s+/).filter(Boolean);
  // Whoever has named a file wants its keys, and not those that a client secret gives.
  if (own === undefined && tools.sessionKeys?.length === 0)
    throw new SallyportError(
      'config_invalid',
      `SecurityPolicy ${of}: the file of 'sessionKeys' in gateway.yaml is not there, or empty`,
      { hint: 'make one with: openssl rand -base64 48' },
    );
  const keys = own?.map((one) => Buffer.from(one, 'utf8')) ?? tools.sessionKeys ?? [];
  for (const key of keys)
    if (key.length < minSecretBytes)
      throw new SallyportError(
        'config_invalid',
        `SecurityPolicy ${of}: a session key has ${key.length} bytes, and ${minSecretBytes} are needed`,
        { hint: 'make one with: openssl rand -base64 48' },
      );
  return keys.length === 0 ? [Buffer.from(clientSecret, 'utf8')] : keys;
}

// What a running gateway has beside a sidecar: policies compiled, and what they remember from one generation to the next -
// sessions, verified tokens, buckets of limits, the connection to Redis. A policy that did not change is not made anew.

import { hash } from 'node:crypto';
import type { Registry } from 'prom-client';
import { formatProblem } from '../cert-agent/base/errors.ts';
import type { Log } from '../cert-agent/base/log.ts';
import { type Failure, withFailures } from './config/gateway-failures.ts';
import { compileGatewayPorts } from './config/gateway-generation.ts';
import { type GatewayPlan, planGateway, statusOf } from './config/gateway-plan.ts';
import type { GatewayConfig } from './config/gateway-read.ts';
import type { GatewayTools, LimitedBy } from './config/gateway-rule.ts';
import type { RedisSettings } from './config/gateway-settings.ts';
import type { PortPlan } from './config/generation.ts';
import type { Configuration } from './config/watch.ts';
import type { EdgeGuard, EdgeLimits } from './edge.ts';
import type { Authorizer, Destination, Exchange } from './exchange.ts';
import { ConcurrencyLimit, type ConcurrencyPlan } from './filters/concurrency.ts';
import { enterExchange, limitExchange } from './filters/limit-exchange.ts';
import { dropCopies } from './filters/mirror.ts';
import { SessionMemory } from './filters/oidc-session.ts';
import { compileRateLimits } from './filters/rate-limit.ts';
import { type SharedLimits, startSharedLimits } from './filters/redis-limits.ts';
import { compileSecurity, type EdgeSecurity, namespaceOf } from './filters/security.ts';
import type { SecurityPolicy } from './filters/security-policy.ts';
import { LocalLimits } from './filters/token-bucket.ts';
import { type GatewayCounts, registerGatewayMetrics } from './observe/gateway-metrics.ts';
import type { TokenObserver } from './policy/jwt.ts';
import type { JwtRule } from './policy/request-authentication.ts';
import { answerOwn } from './respond.ts';
import { certificatesOf, type ShownCertificate, worriesOf } from './routing/certificates.ts';
import { complaintsOf, type StatusList } from './routing/status.ts';
import { createAuthorizer } from './upstream/authorizer.ts';
import type { Jwks } from './upstream/jwks.ts';

interface Parts {
  readonly jwks: Jwks;
  /** Absent where nothing is served. */
  readonly log: Log | undefined;
  readonly observe: TokenObserver;
}

export interface GatewayOptions extends Parts {
  readonly log: Log;
  readonly redis: RedisSettings | undefined;
  readonly registry: Registry;
}

interface Kept<T> {
  readonly value: T;
  /** The last generation that asked for it. */
  generation: number;
}

/** Starts what a gateway needs. Redis may be away: limits are local until it comes. */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const { redis, log, registry } = options;
  const shared = redis === undefined ? undefined : await startSharedLimits({ ...redis, log });
  const gateway = new RunningGateway(options, shared);
  registerGatewayMetrics(registry, () => gateway.counts());
  return gateway;
}

export class RunningGateway implements GatewayTools {
  readonly #parts: Parts;
  readonly #shared: SharedLimits | undefined;
  readonly #local = new LocalLimits();
  readonly #memory = new SessionMemory();
  readonly #unfitClaims = new Set<string>();
  readonly #guards = new Map<string, Kept<{ readonly guard: EdgeGuard; readonly security: EdgeSecurity }>>();
  readonly #inFlight = new Map<string, Kept<ConcurrencyLimit>>();
  #config: GatewayConfig | undefined = undefined;
  #plan: GatewayPlan | undefined = undefined;
  #generation = 0;
  #failures: readonly Failure[] = [];
  /** What was not as it should be in the last generation. */
  #said: ReadonlySet<string> = new Set();
  #sessionKeys: readonly Buffer[] = [];
  /** The certificates that listeners show. */
  #shown: readonly ShownCertificate[] = [];

  constructor(parts: Parts, shared: SharedLimits | undefined) {
    this.#parts = parts;
    this.#shared = shared;
  }

  /** Looks at a generation's documents: what is attached to what, and which pools that needs. */
  plan(configuration: Configuration, now: number): GatewayPlan {
    const config = configuration.gateway!;
    this.#plan = planGateway(configuration, now, this.#plan);
    this.#shown = certificatesOf(this.#plan.attachments);
    this.#begin(config);
    return this.#plan;
  }

  /** The ports of the generation that was planned last, with the pools that it asked for. */
  compile(configuration: Configuration, pools: ReadonlyMap<string, Destination>): readonly PortPlan[] {
    const { ports, failures } = compileGatewayPorts(configuration, this.#plan!, pools, this);
    this.#failures = failures;
    for (const kept of [this.#guards, this.#inFlight])
      for (const [key, one] of kept) if (one.generation !== this.#generation) kept.delete(key);
    this.#sayWorries(Date.now());
    return ports;
  }

  /** The rules whose keys are wanted. */
  jwtRules(): readonly JwtRule[] {
    return [...this.#guards.values()].flatMap(({ value }) => value.security.jwtRules);
  }

  /** The statuses of all documents. */
  status(now: number): StatusList | undefined {
    return this.#plan === undefined
      ? undefined
      : withFailures(statusOf(this.#plan, this.#config!, now), this.#failures);
  }

  /** What is worth a word before anything is served. */
  warnings(): readonly string[] {
    return [...this.#config!.documents.warnings.map(formatProblem), ...this.#plan!.losses];
  }

  /** What has come since the last generation: a name that was mistyped must not be found by an attacker first. */
  #sayWorries(now: number): void {
    const config = this.#config!;
    const complaints = complaintsOf(this.status(now)!, placesIn(config));
    const isPolicy = ({ code }: { readonly code: string }): boolean => code === 'policy_not_attached';
    // What may stand open comes first: of a long list the end is only counted.
    const worries = [
      ...complaints.filter(isPolicy),
      ...config.documents.warnings.map((one) => ({ code: 'document_warning', message: formatProblem(one) })),
      ...this.#plan!.losses.map((message) => ({ code: 'policy_displaced', message })),
      ...worriesOf(this.#shown, now),
      ...complaints.filter((one) => !isPolicy(one)),
    ];
    const fresh = worries.filter(({ message }) => !this.#said.has(message));
    for (const { code, message } of fresh.slice(0, mostSaid)) this.#parts.log?.warn({ code }, message);
    if (fresh.length > mostSaid)
      this.#parts.log?.warn(
        { code: 'document_condition', hint: "see 'sallyport gateway status'" },
        `and ${fresh.length - mostSaid} more`,
      );
    this.#said = new Set(worries.map(({ message }) => message));
  }

  #begin(config: GatewayConfig): void {
    this.#generation++;
    this.#config = config;
    this.#sessionKeys = (config.sessionKeys ?? '')
      .split(/\s+/)
      .filter(Boolean)
      .map((one) => Buffer.from(one, 'utf8'));
  }

  guardOf(policy: SecurityPolicy): EdgeGuard {
    const namespaces = new Set([policy.namespace, ...Object.values(policy.namespaces ?? {})]);
    const secrets = this.#config!.documents.secrets.filter(({ namespace }) => namespaces.has(namespace));
    const text = JSON.stringify([
      policy,
      this.#sessionKeys.map((one) => one.toString('base64')),
      secretsOf(policy, secrets),
    ]);
    const key = hash('sha256', text);
    const known = this.#guards.get(key);
    if (known !== undefined) {
      known.generation = this.#generation;
      return known.value.guard;
    }
    const security = compileSecurity(policy, {
      resolveSecret: (namespace, name) =>
        this.#config!.documents.secrets.find((one) => one.namespace === namespace && one.name === name)?.spec.data,
      keysOf: (rule) => this.#parts.jwks.sourceOf(rule),
      answer: answerOwn,
      memory: this.#memory,
      observe: this.#parts.observe,
      report: (message) => this.#reportClaim(`SecurityPolicy ${policy.namespace}/${policy.name}: ${message}`),
      ...(this.#config!.sessionKeys === undefined ? {} : { sessionKeys: this.#sessionKeys }),
    });
    for (const warning of security.warnings) this.#parts.log?.warn({ code: 'policy_warning' }, warning);
    const guard: EdgeGuard = Object.freeze({
      known: security.known,
      knows: (exchange: Exchange, before: EdgeGuard | undefined) => security.knows(exchange, before?.known),
      authenticate: security.authenticate.bind(security),
      authorize: security.authorize.bind(security),
    });
    this.#guards.set(key, { value: { guard, security }, generation: this.#generation });
    return guard;
  }

  /** Whoever sends such tokens sends many: each is said once, and so many are remembered. */
  #reportClaim(message: string): void {
    if (this.#unfitClaims.has(message) || this.#unfitClaims.size >= mostUnfit) return;
    this.#unfitClaims.add(message);
    this.#parts.log?.warn({ code: 'claim_not_passed' }, message);
  }

  limitsOf({ rule, policy, informal }: LimitedBy): EdgeLimits | undefined {
    const own = informal.map(({ limit, periodMs, burst }, index) => ({
      ...{ id: `${rule} filter[${index}]`, scope: 'local' as const, selectors: [], cost: 1, acrossRoutes: false },
      ...{ requests: limit, periodMs, burst },
    }));
    const rules = [...(policy?.rateLimit?.rules ?? []), ...own];
    const inFlight = policy?.concurrency === undefined ? undefined : this.#inFlightOf(rule, policy.concurrency);
    const limits =
      rules.length === 0 ? undefined : compileRateLimits({ rules }, { local: this.#local, redis: this.#shared });
    if (limits === undefined && inFlight === undefined) return undefined;
    const enter = (exchange: Exchange): undefined => inFlight && enterExchange(exchange, inFlight, rule);
    if (limits === undefined) return { take: enter };
    if (inFlight === undefined) return { take: (exchange) => limitExchange(exchange, limits, rule) };
    // Who is refused for his rate is not in.
    return {
      take: (exchange) => limitExchange(exchange, limits, rule)?.then(() => enter(exchange)) ?? enter(exchange),
    };
  }

  /** Requests in flight are those of all listeners of a rule, and of one generation as of the next. */
  #inFlightOf(rule: string, plan: ConcurrencyPlan): ConcurrencyLimit {
    const key = `${rule} ${plan.per} ${plan.maxInFlight}`;
    const known = this.#inFlight.get(key);
    const value = known?.value ?? new ConcurrencyLimit(plan);
    this.#inFlight.set(key, { value, generation: this.#generation });
    return value;
  }

  authorizerOf(policy: SecurityPolicy, destination: Destination): Authorizer {
    const { namespace, name, extAuth } = policy;
    const { kind, backendRef, path, headersToExtAuth, headersToBackend, timeoutMs } = extAuth!;
    return createAuthorizer(
      {
        name: `${namespace}/${name}`,
        authority: `${backendRef.name}.${backendRef.namespace ?? namespaceOf(policy, 'extAuth')}:${backendRef.port ?? 80}`,
        timeoutMs,
        statusOnError: 403,
        http:
          kind === 'grpc'
            ? undefined
            : {
                pathPrefix: path,
                includeRequestHeadersInCheck: headersToExtAuth,
                includeAdditionalHeadersInCheck: {},
                headersToUpstreamOnAllow: headersToBackend,
                headersToDownstreamOnAllow: [],
                headersToDownstreamOnDeny: [],
              },
      },
      destination,
    );
  }

  counts(): GatewayCounts {
    return {
      limits: this.#local.facts(),
      redis: this.#shared?.facts() ?? null,
      certificates: this.#shown.map(({ listener, notAfter }) => ({ listener, notAfter: notAfter / 1000 })),
    };
  }

  close(): void {
    dropCopies();
    this.#shared?.close();
  }
}

/** There are as many as policies name claims. */
const mostUnfit = 1000;

/** A list without end helps nobody. */
const mostSaid = 50;

/** Where each document that has a status stands, by kind, namespace and name. */
function placesIn({
  documents,
  securityPolicies,
  trafficPolicies,
  broken,
}: GatewayConfig): ReadonlyMap<string, string> {
  const { gateways, classes, routes, backendTls, refused } = documents;
  const all = [
    ...[...gateways, ...classes, ...routes, ...backendTls, ...refused, ...broken],
    ...securityPolicies.map((one) => ({ ...one, kind: 'SecurityPolicy' })),
    ...trafficPolicies.map((one) => ({ ...one, kind: 'BackendTrafficPolicy' })),
  ];
  return new Map(
    all.map(({ kind, namespace, name, file, line }) => [`${kind} ${namespace}/${name}`, `${file}:${line}`]),
  );
}

/** What of the Secrets a policy is made of: when they change, it is made anew. */
function secretsOf(
  policy: SecurityPolicy,
  secrets: readonly { readonly name: string; readonly spec: { readonly data: object } }[],
): object {
  const text = JSON.stringify(policy);
  return secrets.filter(({ name }) => text.includes(JSON.stringify(name))).map(({ name, spec }) => [name, spec.data]);
}

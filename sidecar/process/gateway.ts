// What a running gateway has beside a sidecar: policies compiled, and what they remember from one generation to the next -
// sessions, verified tokens, buckets of limits, the connection to Redis. A policy that did not change is not made anew.

import type { Registry } from 'prom-client';
import { formatProblem } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { type Failure, withFailures } from '../compile/failures.ts';
import { type GatewayPlan, type Owners, ownersIn, planGateway, statusOf } from '../compile/gateway-plan.ts';
import { compileGatewayPorts } from '../compile/gateway-ports.ts';
import type { GatewayTools } from '../compile/gateway-rule.ts';
import { reviewDoubts } from '../compile/reviews.ts';
import type { PortPlan } from '../compile/sidecar-ports.ts';
import type { GatewayConfig } from '../config/gateway-config.ts';
import type { RedisSettings } from '../config/settings.ts';
import type { Configuration } from '../config/watch.ts';
import { capabilities } from '../edge/capabilities.ts';
import type { AnyCapability, EdgeProcess, EdgeWorkers, Hooks } from '../edge/capability.ts';
import { startRedisLink } from '../edge/redis-link.ts';
import type { Destination } from '../exchange/upstream.ts';
import type { TokenObserver } from '../policy/jwt.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import { certificatesOf, type ShownCertificate, worriesOf } from '../routing/certificates.ts';
import { complaintsOf, type StatusList } from '../routing/status.ts';
import type { Jwks } from '../tokens/jwks.ts';
import { registerGatewayMetrics } from './gateway-metrics.ts';
import { FirstState } from './shared-state.ts';
import type { WorkerLink } from './worker-link.ts';

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
  /** How many processes this gateway is. */
  readonly workers: number;
  /** In a worker that is not the first: the way to the first. */
  readonly link: WorkerLink | undefined;
  /** In the first worker: tells the others. */
  tellAll(of: string, message: unknown): void;
}

interface Kept<T> {
  readonly value: T;
  /** The last generation that asked for it. */
  generation: number;
}

/** What one capability sees of the workers of this gateway. */
function workersFor(name: string, { workers, link, tellAll }: GatewayOptions, state: FirstState): EdgeWorkers {
  return {
    count: workers,
    serve: (part) => state.serve(name, part),
    tellAll: (message) => tellAll(name, message),
    first: link?.of(name),
  };
}

/** What capabilities make once for a process, by their names. */
async function shareAll(
  table: readonly AnyCapability[],
  processFor: (name: string) => EdgeProcess,
): Promise<ReadonlyMap<string, unknown>> {
  const made = table.map(async ({ name, share }) => [name, await share?.(processFor(name))] as const);
  return new Map(await Promise.all(made));
}

/** Starts what a gateway needs. Redis may be away: limits are local until it comes, and logins wait. */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const { log, registry } = options;
  const state = new FirstState();
  const of = (name: string): EdgeWorkers => workersFor(name, options, state);
  const redis = options.redis === undefined ? undefined : await startRedisLink({ ...options.redis, log });
  const closing: (() => void)[] = [];
  const made = await shareAll(capabilities, (name) => ({
    ...{ registry, log, workers: of(name), redis },
    keysOf: (rule) => options.jwks.sourceOf(rule),
    observeToken: options.observe,
    onClose: (close) => closing.push(close),
  }));
  const gateway = new RunningGateway(options, made);
  gateway.first = options.link === undefined ? state : undefined;
  for (const close of closing) gateway.onClose(close);
  gateway.onClose(() => redis?.close());
  registerGatewayMetrics(registry, () => gateway.shown);
  return gateway;
}

export class RunningGateway implements GatewayTools {
  readonly #parts: Parts;
  /** By capability. */
  readonly #made: ReadonlyMap<string, unknown>;
  /** In the first worker: what it answers the others. */
  first: FirstState | undefined = undefined;
  readonly #closing: (() => void)[] = [];
  readonly #hooks = new Map<string, Kept<Hooks | undefined>>();
  #config: GatewayConfig | undefined = undefined;
  #plan: GatewayPlan | undefined = undefined;
  #generation = 0;
  #failures: readonly Failure[] = [];
  /** What was not as it should be in the last generation. */
  #said: ReadonlySet<string> = new Set();
  /** The certificates that listeners show. */
  #shown: readonly ShownCertificate[] = [];

  /** `made` is what capabilities share in this process, by their names. */
  constructor(parts: Parts, made: ReadonlyMap<string, unknown>) {
    this.#parts = parts;
    this.#made = made;
  }

  /**
   * Looks at a generation's documents: what is attached to what, and which pools that needs. `owners` is who has what at the first
   * worker, in another; by default as in the last generation.
   */
  plan(configuration: Configuration, now: number, owners?: Owners): GatewayPlan {
    const config = configuration.gateway!;
    this.#plan = planGateway(configuration, now, this.#plan, owners);
    this.#shown = certificatesOf(this.#plan.attachments);
    this.#begin(config);
    return this.#plan;
  }

  /** Who has what in the generation that was planned last. */
  owners(): Owners {
    return ownersIn(this.#plan!);
  }

  /** The ports of the generation that was planned last, with the pools that it asked for. */
  compile(configuration: Configuration, pools: ReadonlyMap<string, Destination>): readonly PortPlan[] {
    const { ports, failures } = compileGatewayPorts(configuration, this.#plan!, pools, this);
    this.#failures = failures;
    for (const [key, one] of this.#hooks) if (one.generation !== this.#generation) this.#hooks.delete(key);
    this.#sayWorries(Date.now());
    return ports;
  }

  /** The rules whose keys are wanted. */
  jwtRules(): readonly JwtRule[] {
    return [...this.#hooks.values()].flatMap(({ value }) => value?.jwtRules ?? []);
  }

  /** The statuses of all documents. */
  status(now: number): StatusList | undefined {
    return this.#plan === undefined
      ? undefined
      : withFailures(statusOf(this.#plan, this.#config!, now), this.#failures);
  }

  /** What is worth a word before anything is served. */
  warnings(): readonly string[] {
    return [
      ...this.#config!.documents.warnings.map(formatProblem),
      ...this.#plan!.losses,
      ...reviewDoubts(this.#plan!),
    ];
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
      ...reviewDoubts(this.#plan!).map((message) => ({ code: 'policy_warning', message })),
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
  }

  sharedOf(capability: string): unknown {
    return this.#made.get(capability);
  }

  kept(key: string, make: () => Hooks | undefined): Hooks | undefined {
    const value = this.#hooks.has(key) ? this.#hooks.get(key)!.value : make();
    this.#hooks.set(key, { value, generation: this.#generation });
    return value;
  }

  warn(message: string): void {
    this.#parts.log?.warn({ code: 'policy_warning' }, message);
  }

  /** The certificates that listeners show. */
  get shown(): readonly ShownCertificate[] {
    return this.#shown;
  }

  onClose(close: () => void): void {
    this.#closing.push(close);
  }

  close(): void {
    for (const close of this.#closing) close();
  }
}

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

// What a gateway has and a sidecar has not: compiled policies, and their state from one generation to the next
// (sessions, verified tokens, rate-limit buckets, the connection to Redis). A policy that did not change is not
// compiled again.

import type { Page } from '../../cert-agent/base/admin.ts';
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
import type { AnyCapability, Hooks } from '../edge/capability.ts';
import { startRedisLink } from '../edge/redis-link.ts';
import type { Destination } from '../exchange/upstream.ts';
import type { TokenObserver } from '../policy/jwt.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import { certificatesOf, type ShownCertificate, worriesOf } from '../routing/certificates.ts';
import { complaintsOf, type StatusList } from '../routing/status.ts';
import type { Jwks } from '../tokens/jwks.ts';
import { registerGatewayMetrics } from './gateway-metrics.ts';
import { type ShareOptions, shareAll } from './share.ts';
import type { FirstState } from './shared-state.ts';

interface Parts {
  readonly jwks: Jwks;
  /** Absent in a dry run. */
  readonly log: Log | undefined;
  readonly observe: TokenObserver;
}

/** What a gateway is started with. */
export interface GatewayOptions extends ShareOptions {
  readonly redis: RedisSettings | undefined;
}

interface Kept<T> {
  readonly value: T;
  /** The last generation that used it. */
  generation: number;
}

/** Starts a gateway. Redis may be away: until it comes, limits are local and logins wait. */
export async function startGateway(
  options: GatewayOptions,
  table: readonly AnyCapability[] = capabilities,
): Promise<RunningGateway> {
  const { log, registry } = options;
  const redis = options.redis === undefined ? undefined : await startRedisLink({ ...options.redis, log });
  const shares = await shareAll(table, options, redis);
  const gateway = new RunningGateway(options, shares.made, table);
  gateway.first = shares.first;
  gateway.onClose(() => shares.close());
  gateway.onClose(() => redis?.close());
  registerGatewayMetrics(registry, () => gateway.shown);
  return gateway;
}

/** A gateway's state beside that of a sidecar. */
export class RunningGateway implements GatewayTools {
  readonly #parts: Parts;
  /** By capability. */
  readonly #made: ReadonlyMap<string, unknown>;
  /** In the first worker: its answers to the others. */
  first: FirstState | undefined = undefined;
  readonly #table: readonly AnyCapability[];
  readonly #closing: (() => void)[] = [];
  readonly #hooks = new Map<string, Kept<Hooks | undefined>>();
  #config: GatewayConfig | undefined = undefined;
  #plan: GatewayPlan | undefined = undefined;
  #generation = 0;
  #failures: readonly Failure[] = [];
  /** The warnings of the last generation. */
  #said: ReadonlySet<string> = new Set();
  /** What the capabilities of this generation have warned of. */
  readonly #warned = new Set<string>();
  /** The certificates that listeners present. */
  #shown: readonly ShownCertificate[] = [];

  /** `made` is what capabilities share in this process, by capability name. */
  constructor(parts: Parts, made: ReadonlyMap<string, unknown>, table: readonly AnyCapability[] = capabilities) {
    this.#table = table;
    this.#parts = parts;
    this.#made = made;
  }

  /**
   * Plans a generation: what is attached to what, and the pools that this needs. `owners` gives the first worker's
   * owners to another worker; by default they are those of the last generation.
   */
  plan(configuration: Configuration, now: number, owners?: Owners): GatewayPlan {
    const config = configuration.gateway!;
    this.#plan = planGateway(configuration, now, this.#plan, owners, this.#table);
    this.#shown = certificatesOf(this.#plan.attachments);
    this.#begin(config);
    return this.#plan;
  }

  /** The owners of routes, listeners and targets in the last plan. */
  owners(): Owners {
    return ownersIn(this.#plan!);
  }

  /** Compiles the ports of the last plan, with the pools that it asked for. */
  compile(configuration: Configuration, pools: ReadonlyMap<string, Destination>): readonly PortPlan[] {
    const { ports, failures } = compileGatewayPorts(configuration, this.#plan!, pools, this, this.#table);
    this.#failures = failures;
    for (const [key, { value, generation }] of this.#hooks) {
      if (generation === this.#generation) continue;
      this.#hooks.delete(key);
      value?.dropped?.();
    }
    this.#sayWorries(Date.now());
    return ports;
  }

  /** The rules whose keys must be fetched. */
  jwtRules(): readonly JwtRule[] {
    return [...this.#hooks.values()].flatMap(({ value }) => value?.jwtRules ?? []);
  }

  /** The statuses of all documents. */
  status(now: number): StatusList | undefined {
    return this.#plan === undefined
      ? undefined
      : withFailures(statusOf(this.#plan, this.#config!, now), this.#failures);
  }

  /** Warnings before anything is served. */
  warnings(): readonly string[] {
    return [
      ...this.#config!.documents.warnings.map(formatProblem),
      ...this.#warned,
      ...this.#plan!.losses,
      ...reviewDoubts(this.#plan!, this.#table),
    ];
  }

  /** Logs what is new since the last generation: the operator must find a mistyped name before an attacker does. */
  #sayWorries(now: number): void {
    const config = this.#config!;
    const complaints = complaintsOf(this.status(now)!, placesIn(config));
    const isPolicy = ({ code }: { readonly code: string }): boolean => code === 'policy_not_attached';
    // What may be open to all comes first: the end of a long list is only counted.
    const worries = [
      ...complaints.filter(isPolicy),
      ...config.documents.warnings.map((one) => ({ code: 'document_warning', message: formatProblem(one) })),
      ...reviewDoubts(this.#plan!, this.#table).map((message) => ({ code: 'policy_warning', message })),
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
    this.#warned.clear();
    this.#config = config;
  }

  /** What a capability created at the start; undefined if it shares nothing. */
  sharedOf(capability: string): unknown {
    return this.#made.get(capability);
  }

  /** The hooks of the last generation under the same key, else new ones. A key must have all that they depend on. */
  kept(key: string, make: () => Hooks | undefined): Hooks | undefined {
    const value = this.#hooks.has(key) ? this.#hooks.get(key)!.value : make();
    this.#hooks.set(key, { value, generation: this.#generation });
    return value;
  }

  /** For operators: logged, and shown as long as this generation is in force. */
  warn(message: string): void {
    this.#warned.add(message);
    this.#parts.log?.warn({ code: 'policy_warning' }, message);
  }

  /** Pages of the admin port that capabilities have. */
  pages(): readonly Page[] {
    return this.#table.flatMap(({ name, pages }) => pages?.(this.#made.get(name)) ?? []);
  }

  /** The certificates that listeners present. */
  get shown(): readonly ShownCertificate[] {
    return this.#shown;
  }

  /** Called once, in the order of registration. */
  onClose(close: () => void): void {
    this.#closing.push(close);
  }

  /** Call it after the last request. */
  close(): void {
    for (const close of this.#closing) close();
  }
}

/** How many warnings are logged; the rest is counted. */
const mostSaid = 50;

/** The file and line of each document that has a status, by kind, namespace and name. */
function placesIn({
  documents,
  securityPolicies,
  trafficPolicies,
  ownPolicies,
  broken,
}: GatewayConfig): ReadonlyMap<string, string> {
  const { gateways, classes, routes, backendTls, refused } = documents;
  const all = [
    ...[...gateways, ...classes, ...routes, ...backendTls, ...refused, ...ownPolicies, ...broken],
    ...securityPolicies.map((one) => ({ ...one, kind: 'SecurityPolicy' })),
    ...trafficPolicies.map((one) => ({ ...one, kind: 'BackendTrafficPolicy' })),
  ];
  return new Map(
    all.map(({ kind, namespace, name, file, line }) => [`${kind} ${namespace}/${name}`, `${file}:${line}`]),
  );
}

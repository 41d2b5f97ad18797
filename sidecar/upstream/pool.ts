// One upstream: its endpoints, and which of them gets a request. One endpoint for each current address of its names.
// An endpoint that cannot be reached is skipped, one that fails often is ejected, one that disappears is drained.

import { isIP } from 'node:net';
import { type Address, formatAddress } from '../../cert-agent/base/address.ts';
import { every } from '../../cert-agent/base/background.ts';
import { type Clock, systemClock } from '../../cert-agent/base/clock.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type {
  BareConnection,
  Choice,
  Destination,
  HashSource,
  RetryPolicy,
  UpstreamConnection,
} from '../exchange/upstream.ts';
import type { UpstreamFacts } from '../observe/merge-workers.ts';
import { type Balancer, createBalancer } from './balance.ts';
import { Breaker } from './breaker.ts';
import { Deadlines } from './deadlines.ts';
import { Endpoint, type EndpointOptions, type EndpointOwner } from './endpoint.ts';
import { HealthCheck } from './health.ts';
import { Outliers } from './outlier.ts';
import type { Resolver } from './resolve.ts';
import type { TrafficPlan } from './traffic.ts';

/** What an upstream is made of. The caller owns `resolver`. */
export interface PoolOptions extends EndpointOptions {
  readonly endpoints: readonly Address[];
  /** Whether it is contacted before the first request, and reported as missing until it has answered. */
  readonly awaited: boolean;
  readonly resolver: Resolver;
  readonly traffic?: TrafficPlan | undefined;
  readonly log?: Log | undefined;
  readonly clock?: Clock;
  /** From 0 to 1, for tests. */
  readonly random?: () => number;
}

/** Failures that waiting does not cure. */
const wrong: ReadonlySet<string> = new Set(['upstream_identity', 'upstream_tls']);

/**
 * Refreshes its endpoints by itself, once a second and when an address changes. Close it when no rule names it any
 * more.
 */
export class Pool implements Destination, EndpointOwner {
  readonly hashBy: HashSource | undefined;
  readonly report: ((address: string, outcome: number | SallyportError) => void) | undefined;
  readonly #options: PoolOptions;
  readonly #clock: Clock;
  readonly #breaker: Breaker;
  readonly #balancer: Balancer<Endpoint>;
  readonly #outliers: Outliers | undefined;
  readonly #deadlines: Deadlines;
  readonly #checks = new Map<Endpoint, HealthCheck>();
  readonly #byAddress = new Map<string, Endpoint>();
  /** Former endpoints that have connections in use. */
  readonly #leaving = new Set<Endpoint>();
  #all: readonly Endpoint[] = [];
  /** The usable endpoints. */
  #fit: readonly Endpoint[] = [];
  /** The resolver's version that they were built from. */
  #seen = -1;
  /** performance.now() until which some of them are avoided after a failed dial. */
  #restUntil = 0;
  readonly #stop: () => void;
  #turn = 0;
  #closed = false;
  /** Why there has been no answer yet; undefined after the first answer. */
  #unanswered: string | undefined;
  #greeting = false;

  constructor(options: PoolOptions) {
    const { traffic = {}, clock = systemClock, name, limits, random } = options;
    this.#options = options;
    this.#clock = clock;
    this.#breaker = new Breaker(name, limits, traffic.connections);
    this.#balancer = createBalancer<Endpoint>(traffic.balance, random);
    this.#outliers = traffic.outlier && new Outliers(traffic.outlier, () => clock.monotonic());
    this.#deadlines = new Deadlines(clock);
    this.hashBy = traffic.balance !== undefined && 'hash' in traffic.balance ? traffic.balance.hash : undefined;
    this.report =
      this.#outliers === undefined
        ? undefined
        : (address, outcome) => this.#note(this.#byAddress.get(address), outcome);
    this.#unanswered = options.awaited ? 'not contacted yet' : undefined;
    for (const endpoint of options.endpoints) if ('host' in endpoint) options.resolver.watch(endpoint.host);
    this.#stop = every('pool', 1000, () => this.tick());
    this.#refresh();
    this.#greet();
  }

  // -- what it reports ---------------------------------------------------------------------------------------------

  /** Connections that exist, including idle ones. */
  get size(): number {
    return this.#breaker.connections;
  }

  /** Of current endpoints only. */
  get idle(): number {
    return this.#all.reduce((sum, { idle }) => sum + idle, 0);
  }

  /** Requests in flight or waiting, also at endpoints that are leaving. */
  get inFlight(): number {
    let sum = 0;
    for (const { inFlight } of this.#all) sum += inFlight;
    for (const { inFlight } of this.#leaving) sum += inFlight;
    return sum;
  }

  /** The first endpoint name that has never resolved, if there is one. */
  waitingFor(): string | undefined {
    for (const endpoint of this.#options.endpoints) {
      if ('host' in endpoint && this.#options.resolver.addressesOf(endpoint.host).length === 0)
        return `the name ${endpoint.host} of upstream ${this.#options.name}`;
    }
    return undefined;
  }

  /** Why this peer has never answered since we know of it; undefined after its first answer. */
  unanswered(): string | undefined {
    return this.#unanswered === undefined ? undefined : `upstream ${this.#options.name}: ${this.#unanswered}`;
  }

  /** For the admin page: everything but its name. */
  describe(): Omit<UpstreamFacts, 'name'> {
    const now = this.#clock.monotonic();
    return {
      connections: this.size,
      idle: this.idle,
      pending: this.#breaker.pending,
      waitingFor: this.waitingFor() ?? null,
      endpoints: this.#all.map(({ address, size, inFlight, conduct: { ejectedUntil }, healthy, problem }) => ({
        ...{ address, connections: size, inFlight, healthy: healthy ?? null, lastProblem: problem?.message ?? null },
        ejectedUntil:
          ejectedUntil === undefined ? null : new Date(this.#clock.now() + ejectedUntil - now).toISOString(),
      })),
      ejections: this.#outliers?.ejections ?? 0,
      overflows: { ...this.#breaker.overflows },
    };
  }

  // -- connections -------------------------------------------------------------------------------------------------

  /**
   * A connection for one request: at once where one is kept, else a promise. `fresh` refuses kept ones; `upgrades` is
   * for WebSockets. The caller releases or destroys it. @throws SallyportError `upstream_*` or `overloaded`.
   */
  acquire(fresh: boolean, upgrades: boolean, choice?: Choice): UpstreamConnection | Promise<UpstreamConnection> {
    if (this.#seen !== this.#options.resolver.version) this.#refresh();
    if (this.#breaker.plan.maxRequests !== undefined) this.#breaker.checkRequests(this.inFlight);
    const endpoint = this.#choose(choice);
    const got = endpoint.acquire(fresh, upgrades, choice);
    if (!(got instanceof Promise)) return got;
    return this.#orElsewhere(got, endpoint, choice, (one) => one.acquire(fresh, upgrades, choice));
  }

  /** A bare connection, for TCP. */
  async dialSocket(choice?: Choice): Promise<BareConnection> {
    if (this.#seen !== this.#options.resolver.version) this.#refresh();
    this.#breaker.checkStream();
    const endpoint = this.#choose(choice);
    const connection = await this.#orElsewhere(endpoint.dialSocket(), endpoint, choice, (one) => one.dialSocket());
    this.report?.(connection.address, 200);
    return connection;
  }

  /** Tries each endpoint once, and throws the last error. */
  async #orElsewhere<T>(
    first: Promise<T>,
    endpoint: Endpoint,
    choice: Choice | undefined,
    attempt: (endpoint: Endpoint) => T | Promise<T>,
  ): Promise<T> {
    const tried = [endpoint];
    let got: T | Promise<T> = first;
    for (;;) {
      try {
        return await got;
      } catch (error) {
        if (!(error instanceof SallyportError) || !error.code.startsWith('upstream_')) throw error;
        const next = this.#chooseOf(this.#fit, choice, tried);
        if (next === undefined || choice?.over === true) throw error;
        tried.push(next);
        got = attempt(next);
      }
    }
  }

  /** @throws SallyportError `upstream_unresolved` or `upstream_unhealthy` if there is none. */
  #choose(choice: Choice | undefined): Endpoint {
    const fit = this.#fit;
    if (fit.length === 1) return fit[0]!;
    if (fit.length === 0) throw this.#unusable();
    const isPlain = choice === undefined || choice.avoid.length === 0;
    if (isPlain && this.#restUntil === 0) return this.#balancer.pick(fit, choice?.hash);
    return this.#chooseOf(fit, choice, noneTried) ?? this.#balancer.pick(fit, choice?.hash);
  }

  /** Among the untried ones: first those that answer, then those that failed lately, then those to be avoided. */
  #chooseOf(fit: readonly Endpoint[], choice: Choice | undefined, tried: readonly Endpoint[]): Endpoint | undefined {
    const now = performance.now();
    const left = fit.filter((one) => !tried.includes(one));
    const wanted = choice === undefined ? left : left.filter(({ address }) => !choice.avoid.includes(address));
    const awake = wanted.filter(({ restUntil }) => restUntil <= now);
    const best = [awake, wanted, left].find((list) => list.length > 0);
    return best && this.#balancer.pick(best, choice?.hash);
  }

  /** Why no endpoint can get a request. */
  #unusable(): SallyportError {
    const { name } = this.#options;
    if (this.#all.length === 0)
      return new SallyportError('upstream_unresolved', `no endpoint of ${name} has an address yet`, {
        hint: "see 'waiting for the name' in the log",
      });
    return new SallyportError('upstream_unhealthy', `${name} has no healthy endpoint (0 of ${this.#all.length})`, {
      hint: 'GET /upstreams on the admin port says which are ejected or unhealthy',
    });
  }

  /** False if the budget is used up. Each true needs a `giveRetryBack`. */
  takeRetry(budget: RetryPolicy['budget']): boolean {
    return this.#breaker.takeRetry(this.inFlight, budget);
  }

  /** The retry is over, whatever came of it. */
  giveRetryBack(): void {
    this.#breaker.retries--;
  }

  // -- what endpoints report ---------------------------------------------------------------------------------------

  /** An endpoint was reached: the upstream exists. */
  connected(): void {
    this.#unanswered = undefined;
  }

  /** Looks the name up again, counts it for outlier detection, and logs a wrong identity once. */
  unreachable(endpoint: Endpoint, error: SallyportError): void {
    this.#restUntil = Math.max(this.#restUntil, endpoint.restUntil);
    if (endpoint.host !== undefined) this.#options.resolver.refresh(endpoint.host);
    this.#note(endpoint, error);
    // Others may serve its requests, so this could go unnoticed. A missing endpoint comes back; a wrong identity does
    // not.
    if (!wrong.has(error.code) || endpoint.toldProblem === error.message) return;
    endpoint.toldProblem = error.message;
    const { name, log } = this.#options;
    log?.warn(
      { code: error.code, upstream: name, address: endpoint.address, hint: error.hint },
      `${endpoint.address} of ${name} gets no requests: ${error.message}`,
    );
  }

  /** Requests that wait at any endpoint may have the place. */
  freed(): void {
    for (const one of this.#all) one.serveQueue();
  }

  #note(endpoint: Endpoint | undefined, outcome: number | SallyportError): void {
    if (endpoint === undefined || this.#outliers === undefined) return;
    const conducts = this.#all.map(({ conduct }) => conduct);
    if (!this.#outliers.note(endpoint.conduct, outcome, conducts)) return;
    this.#sort();
    const { name, log } = this.#options;
    const why = typeof outcome === 'number' ? `status ${outcome}` : outcome.message;
    log?.warn(
      { code: 'endpoint_ejected', upstream: name, address: endpoint.address, times: endpoint.conduct.times },
      `${endpoint.address} of ${name} is ejected for a while after repeated failures: ${why}`,
    );
  }

  /** The result of an active health check. */
  #checked(endpoint: Endpoint, well: boolean): void {
    const { conduct, address } = endpoint;
    const wasEjected = conduct.ejectedUntil !== undefined;
    // Envoy's `successful_active_health_check_uneject_host`.
    if (well && wasEjected) this.#outliers?.restore(conduct);
    if (endpoint.healthy === well && !(well && wasEjected)) return;
    const wasKnown = endpoint.healthy !== undefined;
    endpoint.healthy = well;
    this.#sort();
    const { name, log } = this.#options;
    if (!well)
      log?.warn(
        { code: 'endpoint_unhealthy', upstream: name, address },
        `${address} of ${name} fails its health check`,
      );
    else if (wasKnown)
      log?.info({ code: 'endpoint_healthy', upstream: name, address }, `${address} of ${name} is healthy again`);
  }

  /** Finds the usable endpoints; if they are too few, the checks are more likely to be wrong, and all are used. */
  #sort(): void {
    const fit = this.#all.filter(({ conduct, healthy }) => conduct.ejectedUntil === undefined && healthy !== false);
    const panics = (100 * fit.length) / this.#all.length < (this.#options.traffic?.panicPercent ?? 0);
    this.#fit = panics ? this.#all : fit;
  }

  // -- endpoints ---------------------------------------------------------------------------------------------------

  /** Updates the endpoints to the current addresses. */
  #refresh(): void {
    if (this.#closed) return;
    const { resolver } = this.#options;
    this.#seen = resolver.version;
    const wanted = this.#addresses();
    const lost = [...this.#byAddress].filter(([address]) => !wanted.has(address));
    // Only another upstream's names have changed. Building a balancing table is expensive: 10 ms for 20 endpoints
    // (measured).
    if (lost.length === 0 && wanted.size === this.#byAddress.size) return;
    for (const [, endpoint] of lost) this.#lose(endpoint);
    for (const [address, [place, host]] of wanted) {
      if (this.#byAddress.has(address)) continue;
      const endpoint = new Endpoint(place, host, this.#options, this.#breaker, this);
      this.#byAddress.set(address, endpoint);
      this.#startCheck(endpoint);
    }
    this.#all = [...this.#byAddress.values()];
    this.#balancer.changed(this.#all);
    this.#sort();
    // Only now do other endpoints exist for the requests that waited for a former one.
    for (const one of this.#leaving) one.turnAway();
  }

  #lose(endpoint: Endpoint): void {
    this.#byAddress.delete(endpoint.address);
    this.#checks.get(endpoint)?.close();
    this.#checks.delete(endpoint);
    this.#leaving.add(endpoint);
    endpoint.leave();
  }

  #startCheck(endpoint: Endpoint): void {
    const plan = this.#options.traffic?.health;
    if (plan === undefined) return;
    const report = (one: Endpoint, well: boolean): void => this.#checked(one, well);
    this.#checks.set(endpoint, new HealthCheck(plan, endpoint, this.#deadlines, report));
  }

  /** By the address as written; an address of two names is one endpoint. */
  #addresses(): Map<string, [place: Address, host: string | undefined]> {
    const found = new Map<string, [Address, string | undefined]>();
    for (const endpoint of this.#options.endpoints) {
      if ('path' in endpoint) {
        found.set(formatAddress(endpoint), [endpoint, undefined]);
        continue;
      }
      const host = isIP(endpoint.host) === 0 ? endpoint.host : undefined;
      for (const one of this.#options.resolver.addressesOf(endpoint.host)) {
        const place = { host: one, port: endpoint.port };
        found.set(formatAddress(place), [place, host]);
      }
    }
    return found;
  }

  // -- periodically ------------------------------------------------------------------------------------------------

  /**
   * Until it has answered once, a peer is contacted without waiting for a request: the readiness page can then name
   * missing peers, and the connection serves the first request.
   */
  #greet(): void {
    if (this.#unanswered === undefined || this.#greeting) return;
    this.#greeting = true;
    void this.#callAny()
      .catch((error: unknown) => {
        if (this.#unanswered !== undefined) this.#unanswered = reasonOf(error);
      })
      .finally(() => {
        this.#greeting = false;
      });
  }

  async #callAny(): Promise<void> {
    const all = this.#all;
    let failure = this.#unusable();
    const first = this.#turn++;
    for (let i = 0; i < all.length && !this.#closed; i++) {
      try {
        return await all[(first + i) % all.length]!.greet();
      } catch (error) {
        if (error instanceof SallyportError) failure = error;
      }
    }
    throw failure;
  }

  /** Once a second. */
  tick(): void {
    if (this.#seen !== this.#options.resolver.version) this.#refresh();
    this.#greet();
    const now = performance.now();
    if (this.#restUntil <= now) this.#restUntil = 0;
    for (const one of this.#all) one.tick(now);
    for (const one of this.#leaving) {
      one.tick(now);
      if (one.size === 0) this.#leaving.delete(one);
    }
    if (this.#outliers?.sweep(this.#all.map(({ conduct }) => conduct)) === true) this.#sort();
  }

  /** Connections made before now are not reused: our SVID or our trust has changed. Those in use continue. */
  renew(): void {
    for (const one of this.#all) one.renew();
    for (const one of this.#checks.values()) one.renew();
    this.#greet();
  }

  /** Closes idle connections; those in use close when they are returned. */
  close(): void {
    this.#closed = true;
    this.#unanswered = undefined;
    this.#stop();
    for (const endpoint of this.#options.endpoints)
      if ('host' in endpoint) this.#options.resolver.forget(endpoint.host);
    for (const one of this.#checks.values()) one.close();
    for (const one of this.#all) one.leave();
  }
}

const noneTried: readonly Endpoint[] = [];

// The sidecar's wiring: identity, configuration, ports, pages, and how it leaves. Every process starts in any order, so
// what is missing is waited for and said, never an exit.

import type { Registry } from 'prom-client';
import { type AdminServer, startAdmin } from '../../cert-agent/base/admin.ts';
import { every } from '../../cert-agent/base/background.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { createRegistry } from '../../cert-agent/base/metrics.ts';
import { absolutePath } from '../../cert-agent/base/write.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { compileDocuments, type Judgement } from '../compile/policies.ts';
import { compilePorts, planPools, trafficOf } from '../compile/sidecar-ports.ts';
import type { Reading } from '../config/read.ts';
import type { Settings } from '../config/settings.ts';
import { withoutKeys, withoutSecrets } from '../config/shown.ts';
import { type Configuration, type ConfigurationWatch, watchConfiguration } from '../config/watch.ts';
import { ConnectionTable, type DrainReport } from '../connection.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { heldBytes } from '../exchange/held-bytes.ts';
import { Denials, type Why } from '../observe/denials.ts';
import { Shadow } from '../observe/dry-run.ts';
import { watchExposure } from '../observe/exposure.ts';
import { Learned } from '../observe/learned.ts';
import { LogFile } from '../observe/log-file.ts';
import {
  type Facts,
  sumDenials,
  sumLearned,
  sumMetrics,
  sumSecurity,
  sumShadow,
  sumUpstreams,
} from '../observe/merge-workers.ts';
import { TrafficMetrics } from '../observe/metrics.ts';
import { adminPages, healthPages, type PageSources, type Readiness } from '../observe/pages.ts';
import { SecurityReport } from '../observe/plaintext-report.ts';
import { createPeerCheck } from '../peer.ts';
import { displacedMtls } from '../policy/mtls.ts';
import { isAttached } from '../policy/policy.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import type { ProxyTools } from '../proxy.ts';
import { Jwks } from '../tokens/jwks.ts';
import { registerTransactionTokens } from '../tokens/metrics.ts';
import { createTokenSigner } from '../tokens/sign.ts';
import { Pools } from '../upstream/pools.ts';
import { AppHealth } from '../upstream/probe.ts';
import { Resolver } from '../upstream/resolve.ts';
import { leave } from './drain.ts';
import type { RunningGateway } from './gateway.ts';
import { type IdentitySource, startIdentity } from './identity.ts';
import { Ports } from './ports.ts';
import { OpenJudge } from './rejudge.ts';
import type { FirstState } from './shared-state.ts';
import type { WorkerLink } from './worker-link.ts';
import { shareOf } from './worker-settings.ts';
import { Workers } from './workers.ts';

export interface SidecarOptions {
  readonly configFile: string;
  /** What the file must be of; either where it is left out. */
  readonly component?: 'sidecar' | 'gateway';
  readonly log: Log;
  readonly version: string;
  /** Which of several workers this is, and of how many; default the only one. */
  readonly index?: number;
  readonly count?: number;
  /** The way to the first worker, in another. */
  readonly link?: WorkerLink;
  /** How the configuration is read; default in a process of its own. */
  readonly read?: (file: string) => Promise<Reading>;
  /** Told whenever it changes. */
  onReadiness?(readiness: Readiness): void;
}

export interface Sidecar {
  readiness(): Readiness;
  /** SIGHUP: look at every file now. */
  reload(): void;
  /** SIGUSR1 and SIGHUP: open the access log anew, since it may have been renamed. */
  reopen(): void;
  /**
   * Finishes what is in flight, then closes. Resolves with what became of it. Patiently, as at SIGTERM, it waits for callers that
   * do not know yet (`drainMinimum`), and for the app, which gets the same signal.
   */
  drain(patiently?: boolean): Promise<DrainReport>;
  /** As drain, but the process and its pages go on. */
  leave(patiently?: boolean): Promise<DrainReport>;
  /** Why this process refused a request; undefined when it did not, or too long ago. */
  why(decision: string): Why | undefined;
  /** What this process alone knows. */
  facts(): Promise<Facts>;
}

/**
 * Starts a sidecar.
 * @throws SallyportError `config_invalid`, `config_unreadable`, `port_in_use` or `listen_failed`: what no waiting mends.
 */
export async function startSidecar(options: SidecarOptions): Promise<Sidecar> {
  const { log, index = 1, count = 1 } = options;
  const configFile = absolutePath(options.configFile);
  const watch = await watchConfiguration(configFile, log, (whole) => shareOf(whole, index, count), options.read);
  const { settings } = watch.configuration.current();
  const component = settings.gateway === undefined ? 'sidecar' : 'gateway';
  if (options.component !== undefined && options.component !== component)
    throw new SallyportError('usage', `${configFile} is of a ${component}`, { hint: `run 'sallyport ${component}'` });
  const registry = createRegistry();
  const source = await startIdentity(settings, registry, log);
  const sidecar = new RunningSidecar(watch, source, registry, settings, { ...options, configFile });
  try {
    await sidecar.start();
  } catch (error) {
    await sidecar.drain();
    throw error;
  }
  return sidecar;
}

const upstreamPatienceMs = 60_000;

class RunningSidecar implements Sidecar {
  readonly #watch: ConfigurationWatch;
  readonly #source: IdentitySource;
  readonly #registry: Registry;
  readonly #log: Log;
  readonly #options: SidecarOptions;
  readonly #shared: boolean;
  #workers: Workers | undefined = undefined;
  readonly #table = new ConnectionTable((connection) => this.#judge.some([connection]));
  readonly #judge: OpenJudge;
  readonly #security = new SecurityReport();
  readonly #denials = new Denials();
  readonly #shadow = new Shadow();
  readonly #appHealth: AppHealth;
  readonly #jwks: Jwks;
  /** Present where gateway.yaml was given. */
  #gateway: RunningGateway | undefined = undefined;
  /** What the first worker of a gateway knows for all, once there is something to know. */
  readonly #started = Promise.withResolvers<FirstState>();
  /** The newest documents made ready; undefined before the first. */
  #judgement: Judgement | undefined = undefined;
  /** The policies on trial, as text. */
  #trial = '';
  /** The generation that the ports have. */
  #inForce = 0;
  #applying: Promise<void> = Promise.resolve();
  readonly #resolver: Resolver;
  readonly #pools: Pools;
  readonly #tools: ProxyTools;
  readonly #file: LogFile;
  readonly #ports: Ports;
  readonly #servers: AdminServer[] = [];
  readonly #stops: (() => void)[] = [];
  readonly #settings: Settings;
  #draining = false;
  #closingOutbound = false;
  #leaving: Promise<DrainReport> | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;
  #wasReady = false;
  #wasEverReady = false;
  readonly #startedAt = performance.now();
  #announced = '';

  constructor(
    watch: ConfigurationWatch,
    source: IdentitySource,
    registry: Registry,
    settings: Settings,
    options: SidecarOptions,
  ) {
    const { log, version, configFile, index = 1, count = 1 } = options;
    this.#watch = watch;
    this.#source = source;
    this.#registry = registry;
    this.#settings = settings;
    this.#log = log;
    this.#options = options;
    this.#shared = count > 1;
    if (index === 1 && count > 1)
      this.#workers = new Workers({ configFile, version, index, count }, log, () => this.#announce(), {
        answer: async (worker, ask) => (await this.#started.promise).answer(worker, ask),
        gone: (worker) => this.#gateway?.first?.gone(worker),
      });
    this.#resolver = new Resolver(log);
    this.#jwks = new Jwks(log);
    this.#appHealth = new AppHealth(() => watch.configuration.current().settings, log);
    const metrics = new TrafficMetrics(registry, settings.trustDomain, settings.workload, version);
    metrics.heldBytes = heldBytes;
    registerTransactionTokens(registry);
    metrics.shadow = () => this.#shadow.counts();
    metrics.jwks = () => this.#jwks.facts();
    this.#pools = new Pools(source.identity, this.#resolver, (tls) => metrics.countHandshake('dialed', tls), log);
    this.#file = new LogFile(
      settings.accessLog,
      {
        dropped: () => {
          metrics.logDropped++;
        },
        changed: (trouble) => this.#noteLog(trouble),
        reopenFailed: (why) =>
          log.error(
            { code: 'access_log_reopen_failed' },
            `the access log cannot be opened anew, the old file goes on: ${why}`,
          ),
        reopened: () => log.info({ code: 'access_log_reopened' }, `${settings.accessLog} is opened anew`),
      },
      count > 1,
    );
    this.#tools = {
      metrics,
      log: this.#file,
      checkPeer: createPeerCheck(source.identity),
      security: this.#security,
      denials: this.#denials,
      sign: createTokenSigner(source.identity),
      learned: settings.learn === undefined ? undefined : new Learned(settings.learn, log),
      shadow: this.#shadow,
      draining: (direction) => (direction === 'outbound' ? this.#closingOutbound : this.#draining),
      makeRoom: (bytes) => this.#table.makeRoom(bytes),
    };
    this.#judge = new OpenJudge(() => this.#tools, log);
    this.#ports = new Ports({
      ...{ table: this.#table, tools: this.#tools, log, shared: this.#shared },
      identity: source.identity,
      tls: settings.tls,
      downstreamTls: { ...settings.tls, ...settings.gateway?.downstreamTls },
      draining: () => this.#draining,
    });
  }

  async start(): Promise<void> {
    const { configuration } = this.#watch;
    await this.#startGateway();
    const begun = this.#apply(configuration.current(), true);
    this.#applying = begun;
    // One after the other: a newer generation must not be overtaken by one that takes longer.
    const follow = (next: Configuration): void => {
      this.#applying = this.#applying
        .then(() => this.#apply(next))
        .then(() => this.#afterChange())
        .catch((error: unknown) => this.#log.error({ code: 'internal' }, reasonOf(error)));
    };
    this.#stops.push(configuration.onChange(follow));
    this.#options.link?.onInForce(() => follow(configuration.current()));
    await begun;
    await this.#startPages();
    this.#stops.push(this.#identity.onChange(() => void this.#afterChange()));
    if ((this.#options.index ?? 1) === 1)
      this.#stops.push(watchExposure(() => configuration.current().settings.inbound, this.#registry, this.#log));
    this.#stops.push(every('readiness', 250, () => this.#announce()));
    this.#announce();
  }

  /** While the record cannot be written nothing new is served: see observe/log-file.ts. */
  #noteLog(trouble: string | undefined): void {
    if (trouble === undefined) this.#log.info({ code: 'access_log_recovered' }, 'the access log is written again');
    else
      this.#log.error(
        { code: 'access_log_failed' },
        `the access log ${this.#settings.accessLog} cannot be written (${trouble}): refusals wait, new connections are refused`,
      );
    this.#announce();
  }

  /** What only a gateway needs is loaded by gateways only. */
  async #startGateway(): Promise<void> {
    const { gateway } = this.#settings;
    if (gateway === undefined) return;
    const { startGateway } = await import('./gateway.ts');
    this.#gateway = await startGateway({
      jwks: this.#jwks,
      log: this.#log,
      redis: gateway.redis,
      registry: this.#registry,
      workers: this.#options.count ?? 1,
      link: this.#options.link,
      tellAll: (of, message) => this.#workers?.tellAll(of, message),
      observe: (issuer, outcome) => this.#tools.metrics.countToken(issuer, outcome),
    });
    if (this.#gateway.first !== undefined) this.#started.resolve(this.#gateway.first);
    this.#stops.push(() => this.#gateway?.close());
  }

  readiness(): Readiness {
    const waitingFor: string[] = [];
    if (this.#draining) waitingFor.push('the end: it is draining');
    const identity = this.#source.waitingFor();
    if (identity !== undefined) waitingFor.push(identity);
    if (this.#inForce === 0 && this.#options.link !== undefined)
      waitingFor.push('the first worker to have the same documents in force');
    waitingFor.push(...this.#ports.waitingFor());
    if (this.#file.trouble !== undefined)
      waitingFor.push(`the access log, which cannot be written (${this.#file.trouble})`);
    for (const [, pool] of this.#pools.entries()) {
      const missing = pool.waitingFor() ?? (this.#awaitsUpstreams() ? pool.unanswered() : undefined);
      if (missing !== undefined) waitingFor.push(missing);
    }
    waitingFor.push(...(this.#workers?.waitingFor() ?? []));
    return { ready: waitingFor.length === 0, waitingFor: [...new Set(waitingFor)] };
  }

  /**
   * Peers are waited for at the start only, and not for ever: two that wait for each other behind something that sends to
   * the ready alone would never begin, and one that fails later must not take us down with it.
   */
  #awaitsUpstreams(): boolean {
    return !this.#wasEverReady && performance.now() - this.#startedAt < upstreamPatienceMs;
  }

  reopen(): void {
    this.#file.reopen();
    this.#workers?.reopen();
  }

  reload(): void {
    this.#watch.reload();
    this.#source.reload();
    this.#workers?.reload();
  }

  async drain(patiently = false): Promise<DrainReport> {
    const report = await this.leave(patiently);
    this.#closing ??= this.#close();
    await this.#closing;
    return report;
  }

  /** Once, and not ready from then on. */
  leave(patiently = false): Promise<DrainReport> {
    this.#leaving ??= this.#climbDown(patiently);
    return this.#leaving;
  }

  #climbDown(patiently: boolean): Promise<DrainReport> {
    this.#draining = true;
    this.#announce();
    return leave({
      ...{ table: this.#table, ports: this.#ports, log: this.#log },
      limits: this.#watch.configuration.current().settings.limits,
      patiently,
      closingOutbound: () => {
        this.#closingOutbound = true;
      },
      others: (withinMs) => this.#workers?.leave(withinMs, patiently) ?? Promise.resolve([]),
    });
  }

  get #identity(): Live<Identity | undefined> {
    return this.#source.identity;
  }

  /**
   * Puts a generation in force: pools, then the rules of each port, then ports that came or went. A worker of a gateway that is not
   * the first waits until the first has done so, and is called again then: if it decided by itself, from the files that it finds
   * when it starts, it could give to somebody else what the first has in force.
   */
  async #apply(configuration: Configuration, atStart = false): Promise<void> {
    if (configuration !== this.#watch.configuration.current()) return;
    const link = this.#gateway === undefined ? undefined : this.#options.link;
    const owners = link?.ownersFor(configuration.digest);
    if (link !== undefined && owners === undefined) return;
    const { settings, documents } = configuration;
    const { metrics } = this.#tools;
    const keys = {
      sourceOf: (rule: JwtRule) => this.#jwks.sourceOf(rule),
      observe: (issuer: string, outcome: string) => metrics.countToken(issuer, outcome),
    };
    this.#warnOfUnknownProviders(configuration);
    for (const message of displacedMtls(documents.peerAuthentications, settings))
      this.#log.warn({ code: 'policy_displaced' }, message);
    const trial = onTrial(documents);
    if (trial !== this.#trial) this.#shadow.restart();
    this.#trial = trial;
    this.#judgement = await compileDocuments(documents, settings, keys, this.#judgement, this.#connectedPeers());
    this.#warnOfUnusedRules(configuration);
    const plan = this.#gateway?.plan(configuration, Date.now(), owners);
    const pools = this.#pools.reconcile([...planPools(settings, documents.destinationRules), ...(plan?.pools ?? [])]);
    const plans = [
      ...compilePorts(configuration, this.#judgement, pools),
      ...(this.#gateway?.compile(configuration, pools) ?? []),
    ];
    const ofMesh = documents.requestAuthentications.flatMap(({ jwtRules }) => jwtRules);
    this.#jwks.keepOnly([...ofMesh, ...(this.#gateway?.jwtRules() ?? [])]);
    await this.#ports.apply(plans, atStart);
    this.#inForce = configuration.generation;
    const { digest } = configuration;
    if (this.#gateway !== undefined && digest !== undefined)
      this.#workers?.follow({ what: 'inForce', digest, owners: this.#gateway.owners() });
  }

  /** Their CUSTOM policies refuse whatever they match, which somebody should know before it does. */
  #warnOfUnknownProviders({ settings, documents }: Configuration): void {
    const known = new Set(settings.extensionProviders.map(({ name }) => name));
    for (const policy of documents.authorizationPolicies) {
      const { namespace, name, provider, dryRun } = policy;
      if (provider === undefined || dryRun || known.has(provider) || !isAttached(policy, settings)) continue;
      this.#log.warn(
        { code: 'provider_unknown', policy: `${namespace}/${name}`, hint: "name it under 'extensionProviders'" },
        `there is no extension provider '${provider}': ${namespace}/${name} refuses whatever it matches`,
      );
    }
  }

  /** A limit that limits nobody is not what somebody meant. */
  #warnOfUnusedRules({ settings, documents }: Configuration): void {
    for (const { rule, why } of trafficOf(settings, documents.destinationRules).unused)
      this.#log.warn(
        { code: 'destination_rule_unused', rule: `${rule.namespace}/${rule.name}`, file: rule.file, line: rule.line },
        `DestinationRule ${rule.namespace}/${rule.name} changes nothing here: ${why}`,
      );
  }

  /** Who is connected, each once. */
  #connectedPeers(): Set<string> {
    return new Set([...this.#table].map(({ peer }) => peer?.id.uri ?? ''));
  }

  /** What waited may be possible now, and what is open may be refused. */
  async #afterChange(): Promise<void> {
    this.#judge.all([...this.#table]);
    await this.#ports.bindWaiting();
  }

  /** Says once what it waits for, and once when it is ready. */
  #announce(): void {
    const { ready, waitingFor } = this.readiness();
    const text = waitingFor.join('; ');
    if (ready !== this.#wasReady || text !== this.#announced) this.#options.onReadiness?.({ ready, waitingFor });
    if (ready && !this.#wasReady) this.#log.info({ code: 'ready' }, 'ready');
    else if (!ready && text !== this.#announced)
      this.#log.info(
        { code: this.#draining ? 'draining' : 'waiting', waitingFor },
        this.#draining ? 'draining' : `waiting for ${text}`,
      );
    this.#wasReady = ready;
    this.#wasEverReady ||= ready;
    this.#announced = text;
  }

  async #startPages(): Promise<void> {
    const { health, admin } = this.#settings;
    const sources = this.#sources();
    if (health !== undefined) {
      this.#servers.push(
        await startAdmin({
          listen: health,
          title: 'Sallyport sidecar: health',
          pages: healthPages(sources),
          anyHost: true,
        }),
      );
    }
    if (admin !== undefined) {
      this.#servers.push(
        await startAdmin({ listen: admin, title: 'Sallyport sidecar: admin', pages: adminPages(sources) }),
      );
    }
  }

  #sources(): PageSources {
    const { configuration } = this.#watch;
    return {
      metrics: async () => (this.#workers === undefined ? this.#registry.metrics() : sumMetrics(await this.#all())),
      metricsType: this.#registry.contentType,
      trustDomain: this.#settings.trustDomain,
      readiness: () => this.readiness(),
      identity: () => this.#identity.current(),
      lastProblem: () => this.#watch.lastProblem() ?? this.#source.lastProblem(),
      settings: () => withoutSecrets(configuration.current().settings),
      policies: () => [...configuration.current().documents.authorizationPolicies],
      peerAuthentications: () =>
        configuration.current().documents.peerAuthentications.map(({ portLevel, ...rest }) => ({
          ...rest,
          portLevelMtls: Object.fromEntries(portLevel),
        })),
      requestAuthentications: () => ({
        documents: configuration.current().documents.requestAuthentications.map(withoutKeys),
        keys: this.#jwks.facts(),
      }),
      why: async (decision) => this.why(decision) ?? this.#workers?.why(decision),
      denials: async () => sumDenials(await this.#all()),
      learned: async () => ({
        learning: this.#tools.learned !== undefined,
        workload: this.#settings.workload,
        edges: sumLearned(await this.#all()),
      }),
      shadow: async () => ({
        onTrial: configuration
          .current()
          .documents.authorizationPolicies.filter(({ dryRun }) => dryRun)
          .map(({ namespace, name }) => `${namespace}/${name}`),
        ...sumShadow(await this.#all()),
      }),
      gatewayStatus: () => this.#gateway?.status(Date.now()),
      drain: () => this.leave(true),
      strictReport: async () => sumSecurity(await this.#all()),
      state: () => ({
        configFile: this.#options.configFile,
        generation: this.#inForce,
        configurationFailures: this.#watch.failures(),
        identityFailures: this.#source.failures(),
        agent: this.#source.status(),
        connections: this.#table.size,
        workers: this.#options.count ?? 1,
        workerRestarts: this.#workers?.restarts ?? 0,
        ports: this.#ports.describe(),
      }),
      connections: async () =>
        (await this.#all()).flatMap(({ connections }, worker) =>
          this.#shared ? connections.map((one) => ({ worker: worker + 1, ...one })) : connections,
        ),
      upstreams: async () => sumUpstreams(await this.#all()),
      appHealth: (port) => this.#appHealth.ask(port),
    };
  }

  why(decision: string): Why | undefined {
    return this.#denials.why(decision);
  }

  async facts(): Promise<Facts> {
    return {
      learned: this.#tools.learned?.list() ?? [],
      shadow: this.#shadow.facts(),
      denials: this.#denials.list(),
      metrics: await this.#registry.getMetricsAsJSON(),
      connections: [...this.#table].map((one) => one.describe()),
      upstreams: this.#pools.entries().map(([name, pool]) => ({ name, ...pool.describe() })),
      strictReport: this.#ports.rules().flatMap(([key, rules]) => this.#security.describe(key, rules) ?? []),
    };
  }

  /** What every worker knows, the first first. */
  async #all(): Promise<Facts[]> {
    const [own, others] = await Promise.all([this.facts(), this.#workers?.facts() ?? []]);
    return [own, ...others];
  }

  async #close(): Promise<void> {
    this.#workers?.close();
    for (const stop of this.#stops) stop();
    this.#watch.close();
    this.#table.close();
    this.#pools.close();
    this.#resolver.close();
    await this.#source.close();
    await Promise.all(this.#servers.map((one) => one.close()));
    this.#tools.learned?.close();
    await this.#file.close();
  }
}

/** What is on trial, as text: when it changes, what was seen before says nothing. */
function onTrial({ authorizationPolicies }: IstioDocuments): string {
  return JSON.stringify(authorizationPolicies.filter(({ dryRun }) => dryRun));
}

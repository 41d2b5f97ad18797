// The sidecar's wiring: identity, configuration, ports, pages, and how it leaves. Processes start in any order: what is
// missing is waited for and reported, and never ends the process.

import type { Registry } from 'prom-client';
import { type AdminServer, startAdmin } from '../../cert-agent/base/admin.ts';
import { every } from '../../cert-agent/base/background.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { createRegistry } from '../../cert-agent/base/metrics.ts';
import { sparseLogOf } from '../../cert-agent/base/sparse-log.ts';
import { absolutePath } from '../../cert-agent/base/write.ts';
import type { Snapshot } from '../cluster/store.ts';
import type { Reading } from '../config/read.ts';
import type { Settings } from '../config/settings.ts';
import { type ConfigurationWatch, watchConfiguration } from '../config/watch.ts';
import { ConnectionTable, type DrainReport } from '../connection.ts';
import type { AnyCapability } from '../edge/capability.ts';
import { heldBytes } from '../exchange/held-bytes.ts';
import type { Why } from '../observe/denial-lines.ts';
import { Denials } from '../observe/denials.ts';
import { Shadow } from '../observe/dry-run.ts';
import { watchExposure } from '../observe/exposure.ts';
import { Learned } from '../observe/learned.ts';
import { LogFile } from '../observe/log-file.ts';
import type { Facts } from '../observe/merge-workers.ts';
import { TrafficMetrics } from '../observe/metrics.ts';
import { adminPages, draining, healthPages, type Readiness } from '../observe/pages.ts';
import { SecurityReport } from '../observe/plaintext-report.ts';
import { createPeerCheck } from '../peer.ts';
import { proveLentReads } from '../protocol/lent-reads.ts';
import type { ProxyTools } from '../proxy.ts';
import { Jwks } from '../tokens/jwks.ts';
import { TransactionTokenCounts } from '../tokens/metrics.ts';
import { createTokenSigner } from '../tokens/sign.ts';
import { Pools } from '../upstream/pools.ts';
import { AppHealth } from '../upstream/probe.ts';
import { Resolver } from '../upstream/resolve.ts';
import { Generations } from './apply.ts';
import { leave } from './drain.ts';
import type { RunningGateway } from './gateway.ts';
import { type IdentitySource, startIdentity } from './identity.ts';
import { createPageSources, type FactParts, ownFacts } from './page-sources.ts';
import { Ports } from './ports.ts';
import { OpenJudge } from './rejudge.ts';
import type { ShareOptions } from './share.ts';
import type { FirstState } from './shared-state.ts';
import type { SidecarEdge } from './sidecar-edge.ts';
import type { WorkerLink } from './worker-link.ts';
import { shareOf } from './worker-settings.ts';
import { Workers } from './workers.ts';

/** How a process of a sidecar or gateway is started. */
export interface SidecarOptions {
  readonly configFile: string;
  /** What the file must configure; by default either. */
  readonly component?: 'sidecar' | 'gateway';
  readonly log: Log;
  readonly version: string;
  /** The number of this worker, from 1, and of all workers; by default there is one. */
  readonly index?: number;
  readonly count?: number;
  /** In a worker that is not the first: the link to the first. */
  readonly link?: WorkerLink;
  /** Reads the configuration; by default in a separate process. */
  readonly read?: (file: string, objects?: Snapshot) => Promise<Reading>;
  /** Default those of this build. */
  readonly capabilities?: readonly AnyCapability[];
  /**
   * True under `sallyport exec`, whose app has our standard output, gets the signals, and ends before we do: access-log
   * lines for stdout go to stderr, and only the first worker listens to signals.
   */
  readonly wrapping?: boolean;
  /** Ends this process as SIGTERM does: for `POST /quitquitquit`, which is there only with it. */
  quit?(): void;
  /** Called at each change. */
  onReadiness?(readiness: Readiness): void;
}

/** A running process. */
export interface Sidecar {
  readiness(): Readiness;
  /** SIGHUP: looks at every file now. */
  reload(): void;
  /** SIGUSR1 and SIGHUP: reopens the access log, which may have been renamed. */
  reopen(): void;
  /**
   * Finishes what is in flight, then closes. Resolves with the number that finished and what was cut. With `patiently`,
   * as at SIGTERM, it also waits for callers that do not know yet (`drainMinimum`), and for the app, which gets the
   * same signal. With `app`, which settles when the app has ended, outbound stays open until then, however long it takes.
   */
  drain(patiently?: boolean, app?: Promise<void>): Promise<DrainReport>;
  /** As drain, but the process and its pages stay. */
  leave(patiently?: boolean, app?: Promise<void>): Promise<DrainReport>;
  /** Why this process refused a request; undefined if it did not, or too long ago. */
  why(decision: string): Why | undefined;
  /** The facts of this process alone. */
  facts(): Promise<Facts>;
}

/**
 * Starts a sidecar.
 * @throws SallyportError `config_invalid`, `config_unreadable`, `port_in_use` or `listen_failed`: waiting does
 * not help.
 */
export async function startSidecar(options: SidecarOptions): Promise<Sidecar> {
  const { log, index = 1, count = 1 } = options;
  const configFile = absolutePath(options.configFile);
  const adapt = async (whole: Settings): Promise<Settings> => {
    // What a sidecar cannot serve is refused with the file, before anything is in force.
    if (whole.capabilities !== undefined)
      (await import('./sidecar-edge.ts')).checkSidecarEdge(whole, options.capabilities);
    if (whole.gateway?.kubernetes !== undefined && count > 1)
      throw new SallyportError('config_invalid', "with 'documents: { kubernetes: ... }' a gateway has one worker", {
        hint: 'run more replicas in place of --workers',
      });
    return shareOf(whole, index, count);
  };
  const watch = await watchConfiguration(configFile, log, adapt, options.read);
  const { settings } = watch.configuration.current();
  const component = settings.gateway === undefined ? 'sidecar' : 'gateway';
  if (options.component !== undefined && options.component !== component) {
    watch.close();
    throw new SallyportError('usage', `${configFile} configures a ${component}, not a ${options.component}`, {
      hint: `run 'sallyport ${component}'`,
    });
  }
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

/** How long readiness waits for upstreams after the start, milliseconds. */
const upstreamPatienceMs = 60_000;

class RunningSidecar implements Sidecar {
  readonly #watch: ConfigurationWatch;
  readonly #source: IdentitySource;
  readonly #registry: Registry;
  readonly #log: Log;
  readonly #options: SidecarOptions;
  /** The settings at the start: for those that cannot change in a running process. */
  readonly #settings: Settings;
  readonly #resolver: Resolver;
  readonly #jwks: Jwks;
  readonly #appHealth: AppHealth;
  readonly #pools: Pools;
  readonly #file: LogFile;
  readonly #tools: ProxyTools;
  readonly #table = new ConnectionTable((connection) => this.#judge.some([connection]));
  readonly #judge: OpenJudge;
  readonly #ports: Ports;
  /** In the first of several workers: the others. */
  #workers: Workers | undefined = undefined;
  /** In a gateway. */
  #gateway: RunningGateway | undefined = undefined;
  /** In a sidecar whose sidecar.yaml sets a field of a capability, from then on. */
  #edge: SidecarEdge | undefined = undefined;
  /** Undefined until the start reaches it. */
  #generations: Generations | undefined = undefined;
  /** In the first worker of a gateway: the state that all workers share. Pending until the gateway has started. */
  readonly #firstState = Promise.withResolvers<FirstState>();
  readonly #servers: AdminServer[] = [];
  readonly #stops: (() => void)[] = [];
  /** Gives the lease up, in a gateway that writes statuses. */
  #stopStatuses: (() => Promise<void>) | undefined = undefined;
  #draining = false;
  #closingOutbound = false;
  #leaving: Promise<DrainReport> | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;
  readonly #startedAt = performance.now();
  #wasReady = false;
  #wasEverReady = false;
  /** What was last logged that the process waits for. */
  #announced = '';

  constructor(
    watch: ConfigurationWatch,
    source: IdentitySource,
    registry: Registry,
    settings: Settings,
    options: SidecarOptions,
  ) {
    const { log, version, configFile, index = 1, count = 1, wrapping = false } = options;
    this.#watch = watch;
    this.#source = source;
    this.#registry = registry;
    this.#settings = settings;
    this.#log = log;
    this.#options = options;
    if (index === 1 && count > 1)
      this.#workers = new Workers({ configFile, version, index, count, wrapping }, log, () => this.#announce(), {
        answer: async (worker, ask) => (await this.#firstState.promise).answer(worker, ask),
        gone: (worker) => (this.#gateway?.first ?? this.#edge?.first)?.gone(worker),
      });
    this.#resolver = new Resolver(log);
    this.#jwks = new Jwks(log);
    this.#appHealth = new AppHealth(() => watch.configuration.current().settings, log);
    const shadow = new Shadow();
    const metrics = new TrafficMetrics(registry, settings.trustDomain, settings.workload, version);
    metrics.heldBytes = heldBytes;
    metrics.onFolded = (message) => sparseLogOf(log)('metrics_folded', message);
    const transactionTokens = new TransactionTokenCounts();
    transactionTokens.register(registry);
    metrics.shadow = () => shadow.counts();
    metrics.jwks = () => this.#jwks.facts();
    this.#pools = new Pools(source.identity, this.#resolver, (tls) => metrics.countHandshake('dialed', tls), log);
    this.#file = this.#openAccessLog(metrics, count > 1 || wrapping, wrapping ? 2 : 1);
    this.#tools = {
      ...{ metrics, shadow, transactionTokens, log: this.#file },
      checkPeer: createPeerCheck(source.identity),
      security: new SecurityReport(),
      denials: new Denials(),
      say: sparseLogOf(log),
      sign: createTokenSigner(source.identity),
      learned: settings.learn === undefined ? undefined : new Learned(settings.learn, log),
      draining: (direction) => (direction === 'outbound' ? this.#closingOutbound : this.#draining),
      makeRoom: (bytes) => this.#table.makeRoom(bytes),
    };
    this.#judge = new OpenJudge(() => this.#tools, log);
    source.settleBy(() => this.#judge.settled());
    this.#ports = new Ports({
      ...{ table: this.#table, tools: this.#tools, log, shared: count > 1 },
      identity: source.identity,
      tls: settings.tls,
      downstreamTls: { ...settings.tls, ...settings.gateway?.downstreamTls },
      draining: () => this.#draining,
    });
  }

  /**
   * Resolves once the first generation is in force and the pages are served; what is missing is waited for after that.
   */
  async start(): Promise<void> {
    const { configuration } = this.#watch;
    const proof = proveLentReads();
    this.#gateway = await this.#startGateway();
    if (!(await proof)) this.#options.log.info('sockets are read as usual, which takes more CPU time');
    const generations = this.#createGenerations();
    this.#generations = generations;
    const begun = generations.begin();
    this.#stops.push(configuration.onChange((next) => generations.follow(next)));
    this.#options.link?.onInForce(() => generations.follow(configuration.current()));
    await begun;
    await this.#startPages();
    await this.#startStatuses();
    this.#stops.push(this.#source.identity.onChange(() => void this.#afterChange()));
    if ((this.#options.index ?? 1) === 1)
      this.#stops.push(watchExposure(() => configuration.current().settings.inbound, this.#registry, this.#log));
    this.#stops.push(every('readiness', 250, () => this.#announce()));
    this.#announce();
  }

  readiness(): Readiness {
    const waitingFor: string[] = [];
    if (this.#draining) waitingFor.push(draining);
    const identity = this.#source.waitingFor();
    if (identity !== undefined) waitingFor.push(identity);
    if ((this.#generations?.inForce ?? 0) === 0 && this.#options.link !== undefined)
      waitingFor.push('the first worker to have the same documents in force');
    const documents = this.#watch.waitingFor(this.#generations?.inForce ?? 0);
    if (documents !== undefined) waitingFor.push(documents);
    waitingFor.push(...this.#ports.waitingFor());
    if (this.#file.trouble !== undefined)
      waitingFor.push(`the access log, which cannot be written (${this.#file.trouble})`);
    const serving = waitingFor.length === 0 && (this.#workers?.serving ?? true);
    for (const [, pool] of this.#pools.entries()) {
      const missing = pool.waitingFor() ?? (this.#awaitsUpstreams() ? pool.unanswered() : undefined);
      if (missing !== undefined) waitingFor.push(missing);
    }
    waitingFor.push(...(this.#workers?.waitingFor() ?? []));
    return { ready: waitingFor.length === 0, serving, waitingFor: [...new Set(waitingFor)] };
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

  async drain(patiently = false, app?: Promise<void>): Promise<DrainReport> {
    const report = await this.leave(patiently, app);
    this.#closing ??= this.#close();
    await this.#closing;
    return report;
  }

  leave(patiently = false, app?: Promise<void>): Promise<DrainReport> {
    this.#leaving ??= this.#beginLeaving(patiently, app);
    return this.#leaving;
  }

  why(decision: string): Why | undefined {
    return this.#tools.denials.why(decision);
  }

  facts(): Promise<Facts> {
    return ownFacts(this.#factParts());
  }

  /** While the record cannot be written, nothing new is served: see observe/log-file.ts. */
  #openAccessLog(metrics: TrafficMetrics, shared: boolean, standard: 1 | 2): LogFile {
    const { accessLog } = this.#settings;
    const log = this.#log;
    return new LogFile(
      accessLog,
      {
        dropped: () => {
          metrics.logDropped++;
        },
        changed: (trouble) => {
          if (trouble === undefined) log.info({ code: 'access_log_recovered' }, 'the access log is written again');
          else
            log.error(
              { code: 'access_log_failed' },
              `cannot write the access log ${accessLog} (${trouble}): refusals wait, new connections are refused`,
            );
          this.#announce();
        },
        reopenFailed: (why) =>
          log.error(
            { code: 'access_log_reopen_failed' },
            `cannot reopen the access log, the old file stays in use: ${why}`,
          ),
        reopened: () => log.info({ code: 'access_log_reopened' }, `reopened ${accessLog}`),
      },
      shared,
      standard,
    );
  }

  /** The gateway's code is loaded by gateways only. */
  async #startGateway(): Promise<RunningGateway | undefined> {
    const { gateway: settings } = this.#settings;
    if (settings === undefined) return undefined;
    const { startGateway } = await import('./gateway.ts');
    const options = { ...this.#shareOptions(), redis: settings.redis };
    const gateway = await startGateway(options, this.#options.capabilities);
    if (gateway.first !== undefined) this.#firstState.resolve(gateway.first);
    this.#stops.push(() => gateway.close());
    const { store } = this.#watch;
    if (store !== undefined) (await import('./cluster-metrics.ts')).registerClusterMetrics(this.#registry, store);
    return gateway;
  }

  /** The code of capabilities is loaded by sidecars that have a use for it only. */
  async #startEdge(): Promise<SidecarEdge> {
    if (this.#edge !== undefined) return this.#edge;
    const { startSidecarEdge } = await import('./sidecar-edge.ts');
    const edge = await startSidecarEdge(this.#shareOptions(), this.#options.capabilities);
    this.#edge = edge;
    if (edge.first !== undefined) this.#firstState.resolve(edge.first);
    this.#stops.push(() => edge.close());
    return edge;
  }

  #shareOptions(): ShareOptions {
    return {
      jwks: this.#jwks,
      log: this.#log,
      registry: this.#registry,
      workers: this.#options.count ?? 1,
      link: this.#options.link,
      sign: this.#tools.sign,
      tellAll: (of, message) => this.#workers?.tellAll(of, message),
      observe: (issuer, outcome) => this.#tools.metrics.countToken(issuer, outcome),
    };
  }

  /** The statuses of documents, written where they come from. */
  async #startStatuses(): Promise<void> {
    const { store } = this.#watch;
    const lease = this.#settings.gateway?.kubernetes?.lease;
    if (store === undefined || lease === undefined) return;
    const { writeStatuses } = await import('./cluster-statuses.ts');
    const inForce = (): number => this.#generations?.inForce ?? 0;
    this.#stopStatuses = writeStatuses({
      ...{ store, lease, log: this.#log, generation: inForce },
      statuses: () => (this.#watch.waitingFor(inForce()) === undefined ? this.#gateway?.status(Date.now()) : undefined),
    });
  }

  #createGenerations(): Generations {
    const { metrics, shadow } = this.#tools;
    return new Generations({
      ...{ log: this.#log, jwks: this.#jwks, table: this.#table, pools: this.#pools, ports: this.#ports, shadow },
      ...{ gateway: this.#gateway, workers: this.#workers, link: this.#options.link },
      observeToken: (issuer, outcome) => metrics.countToken(issuer, outcome),
      edge: () => this.#startEdge(),
      current: () => this.#watch.configuration.current(),
      applied: () => this.#afterChange(),
    });
  }

  async #startPages(): Promise<void> {
    const { health, admin } = this.#settings;
    const sources = createPageSources({
      ...this.#factParts(),
      ...{ watch: this.#watch, source: this.#source, jwks: this.#jwks, appHealth: this.#appHealth },
      ...{ gateway: this.#gateway, workers: this.#workers },
      configFile: this.#options.configFile,
      version: this.#options.version,
      workerCount: this.#options.count ?? 1,
      readiness: () => this.readiness(),
      inForce: () => this.#generations?.inForce ?? 0,
      leave: () => this.leave(true),
      quit: this.#options.quit,
    });
    if (health !== undefined) {
      this.#servers.push(
        await startAdmin({
          listen: health,
          title: `Sallyport ${this.#gateway === undefined ? 'sidecar' : 'gateway'}: health`,
          pages: healthPages(sources),
          anyHost: true,
        }),
      );
    }
    if (admin !== undefined) {
      this.#servers.push(
        await startAdmin({
          listen: admin,
          title: `Sallyport ${this.#gateway === undefined ? 'sidecar' : 'gateway'}: admin`,
          pages: [...adminPages(sources), ...((this.#gateway ?? this.#edge)?.pages() ?? [])],
        }),
      );
    }
  }

  #factParts(): FactParts {
    return {
      registry: this.#registry,
      tools: this.#tools,
      table: this.#table,
      pools: this.#pools,
      ports: this.#ports,
    };
  }

  /**
   * Readiness waits for upstreams at the start only, and for a limited time. Two services that wait for each other,
   * behind something that sends traffic to ready ones only, would never start; and an upstream that fails later must
   * not take this service down with it.
   */
  #awaitsUpstreams(): boolean {
    return !this.#wasEverReady && performance.now() - this.#startedAt < upstreamPatienceMs;
  }

  /** A new identity or configuration may bind waiting ports, and may revoke what is open. */
  async #afterChange(): Promise<void> {
    const issuer = this.#source.identity.current()?.svid.chain[1];
    if (issuer !== undefined) this.#table.retireAllBut(issuer);
    this.#judge.all([...this.#table]);
    await this.#ports.bindWaiting();
    // Not at the next turn of its timer: an app may be waiting.
    this.#announce();
  }

  /** Logs each change of what the process waits for, and when it becomes ready. */
  #announce(): void {
    const readiness = this.readiness();
    const { ready, waitingFor } = readiness;
    const text = waitingFor.join('; ');
    if (ready !== this.#wasReady || text !== this.#announced) this.#options.onReadiness?.(readiness);
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

  #beginLeaving(patiently: boolean, app: Promise<void> | undefined): Promise<DrainReport> {
    this.#draining = true;
    this.#announce();
    return leave({
      ...{ table: this.#table, ports: this.#ports, log: this.#log },
      limits: this.#watch.configuration.current().settings.limits,
      ...{ patiently, app },
      closingOutbound: () => {
        this.#closingOutbound = true;
      },
      others: (withinMs) => this.#workers?.leave(withinMs, patiently, app) ?? Promise.resolve([]),
    });
  }

  async #close(): Promise<void> {
    await this.#stopStatuses?.();
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

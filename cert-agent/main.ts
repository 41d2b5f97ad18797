// Wires the agent: what `sallyport agent` runs, and what the sidecar runs inside itself (`identity: { ca: ... }`).

import { Counter, Gauge, type Registry } from 'prom-client';
import type { Address } from './base/address.ts';
import { type AdminServer, type Page, startAdmin } from './base/admin.ts';
import { type Clock, formatTime, systemClock } from './base/clock.ts';
import { reasonOf, SallyportError } from './base/errors.ts';
import type { Live } from './base/live.ts';
import type { Log } from './base/log.ts';
import { createRegistry } from './base/metrics.ts';
import { createCaClient } from './fetch.ts';
import { formatPem } from './identity/bundle.ts';
import { makeOutDir } from './identity/generation.ts';
import type { Identity } from './identity/identity.ts';
import { parseTrustDomain } from './identity/spiffe-id.ts';
import { Keep, trustOf } from './keep.ts';
import { type AgentStatus, Rotation } from './rotate.ts';
import type { Random } from './schedule.ts';

export interface AgentOptions {
  /** `https://host:port`. */
  readonly caUrl: string;
  readonly caBundleFile: string;
  /** Needed without a valid SVID on disk. */
  readonly tokenFile?: string;
  readonly outDir: string;
  /** Default: as the roots of the CA bundle say. */
  readonly trustDomain?: string;
  /** Default: what the CA gives. */
  readonly ttlMs?: number;
  readonly log: Log;
  readonly clock?: Clock;
  readonly random?: Random;
  /** Gets the agent's metrics. */
  readonly registry?: Registry;
}

export interface Agent {
  /** Undefined while there is no valid SVID: at first, and when one expired without a successor. */
  readonly identity: Live<Identity | undefined>;
  status(): AgentStatus;
  /** Asks the CA for a new SVID and the bundle at once. */
  renewNow(): void;
  close(): Promise<void>;
}

/**
 * Starts the agent. What is not there yet (CA, bundle, token) is waited for; only what can never become right throws.
 * @throws SallyportError `config_invalid` or `spiffe_id_invalid` for the options, `config_unreadable` when the directory
 * cannot be made.
 */
export function startAgent(options: AgentOptions): Agent {
  const caUrl = parseCaUrl(options.caUrl);
  const trustDomain = options.trustDomain === undefined ? undefined : parseTrustDomain(options.trustDomain);
  const { caBundleFile, outDir, log, clock = systemClock, random = Math.random } = options;
  try {
    makeOutDir(outDir);
  } catch (error) {
    throw new SallyportError('config_unreadable', `${outDir} cannot be used: ${reasonOf(error)}`, { cause: error });
  }
  const keep = new Keep({ outDir, caBundleFile, trustDomain, log, clock });
  const client = createCaClient({ url: caUrl, clock });
  const rotation = new Rotation({ ...options, caUrl, client, keep, clock, random });
  if (options.registry !== undefined) registerMetrics(options.registry, rotation);
  return {
    identity: rotation.identity,
    status: () => rotation.status(),
    renewNow: () => rotation.renewNow(),
    close: () => rotation.close(),
  };
}

export interface RunOptions extends Omit<AgentOptions, 'registry'> {
  /** Where state and metrics are answered; nowhere when absent. */
  readonly admin?: Address;
}

/** Runs the agent as a process of its own, until SIGTERM or SIGINT. SIGHUP renews. */
export async function runAgent(options: RunOptions): Promise<void> {
  const { log } = options;
  const registry = createRegistry();
  const agent = startAgent({ ...options, registry });
  let admin: AdminServer | undefined;
  // Timers of the clock let a process end; this one is held here until somebody ends it.
  const alive = setInterval(() => {}, 2 ** 30);
  const onHangup = (): void => agent.renewNow();
  process.on('SIGHUP', onHangup);
  const ended = untilSignal(['SIGTERM', 'SIGINT']);
  try {
    if (options.admin !== undefined) {
      const pages = agentPages(agent, registry);
      admin = await startAdmin({ listen: options.admin, title: 'sallyport agent', pages });
    }
    log.info(
      { code: 'agent_started', ca: options.caUrl, outDir: options.outDir, admin: admin?.address },
      'the agent runs',
    );
    const signal = await ended;
    log.info({ code: 'agent_stopping', signal }, `stopping on ${signal}`);
  } finally {
    process.off('SIGHUP', onHangup);
    await agent.close();
    await admin?.close();
    clearInterval(alive);
  }
}

/** The agent's pages, for its own admin port. */
export function agentPages(agent: Agent, registry: Registry): Page[] {
  return [
    {
      method: 'GET',
      path: '/healthz/ready',
      sentence: '200 with a valid SVID, else 503 and what is missing',
      answer: () => {
        const { waitingFor } = agent.status();
        return waitingFor === undefined ? { body: 'ready\n' } : { status: 503, body: `waiting for ${waitingFor}\n` };
      },
    },
    {
      method: 'GET',
      path: '/status',
      sentence: 'state, SVID, next renewal and the last error',
      answer: () => ({ body: readableStatus(agent.status()) }),
    },
    { method: 'GET', path: '/certs', sentence: 'our chain and the bundle', answer: () => ({ body: certsOf(agent) }) },
    {
      method: 'POST',
      path: '/renew',
      sentence: 'asks the CA for a new SVID now',
      answer: () => {
        agent.renewNow();
        return { status: 202, body: 'renewing\n' };
      },
    },
    {
      method: 'GET',
      path: '/stats/prometheus',
      sentence: 'metrics',
      answer: async () => ({ type: registry.contentType, body: await registry.metrics() }),
    },
  ];
}

function parseCaUrl(text: string): URL {
  const url = URL.parse(text);
  const plain =
    url !== null && url.protocol === 'https:' && url.username === '' && url.pathname === '/' && url.search === '';
  if (plain) return url;
  throw new SallyportError('config_invalid', `'${text}' is not the address of a CA`, {
    hint: 'write it as https://host:port',
  });
}

function certsOf(agent: Agent): object {
  const identity = agent.identity.current();
  if (identity === undefined) throw new SallyportError('not_ready', `waiting for ${agent.status().waitingFor}`);
  return {
    trustDomain: identity.svid.id.trustDomain,
    chainPem: identity.svid.chainPem,
    bundlePem: formatPem(trustOf(identity).bundle.roots),
  };
}

/** The status with its times as people read them. */
function readableStatus(status: AgentStatus): object {
  const time = (ms: number | undefined): string | undefined => (ms === undefined ? undefined : formatTime(ms));
  const { lastError } = status;
  return {
    ...status,
    notBefore: time(status.notBefore),
    notAfter: time(status.notAfter),
    nextRenewal: time(status.nextRenewal),
    refreshedAt: time(status.refreshedAt),
    lastError: lastError === undefined ? undefined : { ...lastError, time: formatTime(lastError.time) },
  };
}

/** Linkerd's names where Linkerd has one; the values are read from the status when somebody scrapes. */
function registerMetrics(registry: Registry, rotation: Rotation): void {
  const registers = [registry];
  const gauge = (name: string, help: string, read: (status: AgentStatus) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect: function collect() {
        this.set(read(rotation.status()));
      },
    });
  };
  const counter = (name: string, help: string, read: (status: AgentStatus) => number): void => {
    new Counter({
      name,
      help,
      registers,
      collect: function collect() {
        this.reset();
        this.inc(read(rotation.status()));
      },
    });
  };
  gauge(
    'identity_cert_expiration_timestamp_seconds',
    'When our SVID expires; 0 without one',
    (now) => (now.notAfter ?? 0) / 1000,
  );
  counter('identity_cert_refresh_count', 'SVIDs received from the CA', (now) => now.renewals);
  gauge('sallyport_agent_bundle_sequence', 'Sequence of the bundle in use', (now) => now.bundleSequence ?? 0);
  gauge('sallyport_agent_denied_sequence', 'Sequence of the deny-list in use', (now) => now.deniedSequence ?? 0);
  gauge(
    'sallyport_agent_refreshed_timestamp_seconds',
    'When bundle and deny-list were last the CA’s own',
    (now) => (now.refreshedAt ?? 0) / 1000,
  );
  new Counter({
    name: 'sallyport_agent_failures_total',
    help: 'Attempts at the CA that failed, by what was asked for and by error code',
    labelNames: ['step', 'code'],
    registers,
    collect() {
      this.reset();
      const { svidFailures, bundleFailures } = rotation.status();
      for (const [code, count] of Object.entries(svidFailures)) this.inc({ step: 'svid', code }, count);
      for (const [code, count] of Object.entries(bundleFailures)) this.inc({ step: 'bundle', code }, count);
    },
  });
}

function untilSignal(signals: readonly NodeJS.Signals[]): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of signals) process.once(signal, () => resolve(signal));
  });
}

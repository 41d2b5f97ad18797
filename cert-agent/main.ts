// Wires the agent. `sallyport agent` runs it, and a sidecar with `identity: { ca: ... }` runs it inside its process.

import type { Registry } from 'prom-client';
import { Keep } from './agent/keep.ts';
import { agentPages, registerMetrics } from './agent/pages.ts';
import type { Random } from './agent/schedule.ts';
import type { Address } from './base/address.ts';
import { type AdminServer, startAdmin } from './base/admin.ts';
import { reportBackgroundTo } from './base/background.ts';
import { type Clock, systemClock } from './base/clock.ts';
import { reasonOf, SallyportError } from './base/errors.ts';
import type { Live } from './base/live.ts';
import type { Log } from './base/log.ts';
import { createRegistry } from './base/metrics.ts';
import { createNotify } from './base/notify.ts';
import { absolutePath } from './base/write.ts';
import { createCaClient } from './fetch.ts';
import { makeOutDir } from './identity/generation.ts';
import type { Identity } from './identity/identity.ts';
import { parseTrustDomain } from './identity/spiffe-id.ts';
import { type AgentStatus, Rotation } from './rotate.ts';

/** Paths may be relative to the working directory at the start. `random` gives numbers in [0, 1). */
export interface AgentOptions {
  /** `https://host:port`. */
  readonly caUrl: string;
  readonly caBundleFile: string;
  /** Required without a valid SVID on disk. */
  readonly tokenFile?: string;
  /** A projected service-account token of Kubernetes, in place of a join token. */
  readonly kubernetesTokenFile?: string;
  readonly outDir: string;
  /** Default: the trust domain of the roots in the CA bundle. */
  readonly trustDomain?: string;
  /** Default: the CA's default. */
  readonly ttlMs?: number;
  readonly log: Log;
  readonly clock?: Clock;
  readonly random?: Random;
  /** Where the agent registers its metrics. */
  readonly registry?: Registry;
  /**
   * Resolves once this process has ended what the newest identity does not allow: then the CA is told. Default: at
   * once.
   */
  settled?(): Promise<void>;
}

/** A running agent. It goes on without a CA, with the SVID that it has, until that expires. */
export interface Agent {
  /** Undefined while there is no valid SVID: at first, and after one expired without a successor. */
  readonly identity: Live<Identity | undefined>;
  /** For the state page. Times are milliseconds since 1970; contains no secret. */
  status(): AgentStatus;
  /** Requests a new SVID and the bundle from the CA at once. */
  renewNow(): void;
  /** Stops, and resolves when nothing is written to disk any more. */
  close(): Promise<void>;
}

/**
 * Starts the agent. It waits for a CA, bundle or token that does not exist yet; only what can never become right
 * throws.
 * @throws SallyportError `config_invalid` or `spiffe_id_invalid` for the options, `config_unreadable` when the
 * directory cannot be created.
 */
export function startAgent(options: AgentOptions): Agent {
  const caUrl = parseCaUrl(options.caUrl);
  const trustDomain = options.trustDomain === undefined ? undefined : parseTrustDomain(options.trustDomain);
  const { log, clock = systemClock, random = Math.random } = options;
  const [caBundleFile, outDir] = [absolutePath(options.caBundleFile), absolutePath(options.outDir)];
  const pathOf = (file: string | undefined): string | undefined =>
    file === undefined ? undefined : absolutePath(file);
  const tokenFile = pathOf(options.tokenFile);
  const kubernetesTokenFile = pathOf(options.kubernetesTokenFile);
  try {
    makeOutDir(outDir);
  } catch (error) {
    throw new SallyportError('config_unreadable', `${outDir} cannot be used: ${reasonOf(error)}`, { cause: error });
  }
  const keep = new Keep({ outDir, caBundleFile, trustDomain, log, clock });
  const client = createCaClient({ url: caUrl, clock });
  const files = { caBundleFile, tokenFile, kubernetesTokenFile, outDir };
  const rotation = new Rotation({ ...options, ...files, caUrl, client, keep, clock, random });
  if (options.registry !== undefined) registerMetrics(options.registry, () => rotation.status());
  return {
    identity: rotation.identity,
    status: () => rotation.status(),
    renewNow: () => rotation.renewNow(),
    close: () => rotation.close(),
  };
}

/** The agent as a process of its own has its own registry. */
export interface RunOptions extends Omit<AgentOptions, 'registry'> {
  /** The admin address with state and metrics; no admin port if absent. */
  readonly admin?: Address;
}

/** Runs the agent as a process of its own, until SIGTERM or SIGINT. SIGHUP renews. */
export async function runAgent(options: RunOptions): Promise<void> {
  const { log } = options;
  reportBackgroundTo(log);
  const registry = createRegistry();
  const notify = createNotify(process.env, (why) => log.warn({ code: 'notify_failed' }, why));
  const agent = startAgent({ ...options, registry });
  let admin: AdminServer | undefined;
  // The clock's timers do not keep a process alive; this keeps it running until a signal.
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
      'the agent is running',
    );
    const sayReady = (): void => {
      const { waitingFor } = agent.status();
      if (agent.identity.current() !== undefined) notify.ready();
      else if (waitingFor !== undefined) notify.waiting([waitingFor]);
    };
    sayReady();
    agent.identity.onChange(sayReady);
    const signal = await ended;
    notify.stopping();
    log.info({ code: 'agent_stopping', signal }, `stopping on ${signal}`);
  } finally {
    process.off('SIGHUP', onHangup);
    await agent.close();
    await admin?.close();
    clearInterval(alive);
  }
}

function parseCaUrl(text: string): URL {
  const url = URL.parse(text);
  const plain =
    url !== null && url.protocol === 'https:' && url.username === '' && url.pathname === '/' && url.search === '';
  if (plain) return url;
  throw new SallyportError('config_invalid', `'${text}' is not the URL of a CA`, {
    hint: 'write it as https://host:port',
  });
}

function untilSignal(signals: readonly NodeJS.Signals[]): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of signals) process.once(signal, () => resolve(signal));
  });
}

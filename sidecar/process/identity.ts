// The source of the sidecar's identity: files that another process renews, or an agent inside this process.

import type { Registry } from 'prom-client';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { federate } from '../../cert-agent/identity/federated.ts';
import { watchIdentityFiles } from '../../cert-agent/identity/files.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { reportUse } from '../../cert-agent/identity/report-use.ts';
import type { Settings } from '../config/settings.ts';

/** The source of the identity, and its state. */
export interface IdentitySource {
  /** Undefined while there is no valid SVID. */
  readonly identity: Live<Identity | undefined>;
  /** What there is no identity for want of, as in 'waiting for ...'; undefined while there is one. */
  waitingFor(): string | undefined;
  /** How often a set of files was rejected, or a request of the agent failed. */
  failures(): number;
  /** Undefined if the newest set was accepted, or the last requests succeeded. */
  lastProblem(): SallyportError | undefined;
  /** The agent's status; null without an agent. */
  status(): object | null;
  /** Reads the files now; with an agent, asks the CA for a new SVID. */
  reload(): void;
  /** What must have happened after a change before the CA is told that it is in use. */
  settleBy(settled: () => Promise<void>): void;
  close(): Promise<void>;
}

/**
 * Starts the source in `settings.identity` and watches the bundles of other trust domains. Problems are reported, not
 * thrown.
 */
export async function startIdentity(settings: Settings, registry: Registry, log: Log): Promise<IdentitySource> {
  const own = await startOwn(settings, registry, log);
  if (Object.keys(settings.federatedBundles).length === 0) return own;
  const federation = federate(own.identity, settings.federatedBundles, log);
  return {
    ...own,
    identity: federation.identity,
    waitingFor: () => own.waitingFor() ?? federation.waitingFor(),
    async close() {
      federation.close();
      await own.close();
    },
  };
}

async function startOwn(settings: Settings, registry: Registry, log: Log): Promise<IdentitySource> {
  const { files, ca } = settings.identity;
  let settled = async (): Promise<void> => {};
  const settleBy = (by: () => Promise<void>): void => {
    settled = by;
  };
  if (files !== undefined) {
    const watch = watchIdentityFiles({ ...files, trustDomain: settings.trustDomain }, { log });
    const stopReports = reportUse(watch.identity, files.svid, () => settled());
    return {
      ...bound(watch),
      settleBy,
      status: () => null,
      async close() {
        stopReports();
        watch.close();
      },
    };
  }
  if (ca === undefined) throw new TypeError('settings.identity has neither files nor ca');
  // Loaded only if needed: with files there is no CA.
  const { startAgent } = await import('../../cert-agent/main.ts');
  const agent = startAgent({
    caUrl: ca.url,
    caBundleFile: ca.bundle,
    outDir: ca.outDir,
    trustDomain: settings.trustDomain,
    log,
    registry,
    settled: () => settled(),
    ...(ca.tokenFile === undefined ? {} : { tokenFile: ca.tokenFile }),
    ...(ca.kubernetesTokenFile === undefined ? {} : { kubernetesTokenFile: ca.kubernetesTokenFile }),
    ...(ca.ttl === undefined ? {} : { ttlMs: ca.ttl }),
  });
  const sum = (counts: Readonly<Record<string, number>>): number =>
    Object.values(counts).reduce((all, one) => all + one, 0);
  return {
    settleBy,
    identity: agent.identity,
    waitingFor: () => agent.status().waitingFor,
    failures: () => sum(agent.status().svidFailures) + sum(agent.status().bundleFailures),
    lastProblem() {
      const { lastError } = agent.status();
      return lastError === undefined
        ? undefined
        : new SallyportError(
            lastError.code,
            lastError.message,
            lastError.hint === undefined ? {} : { hint: lastError.hint },
          );
    },
    status: () => agent.status(),
    reload: () => agent.renewNow(),
    close: () => agent.close(),
  };
}

function bound(watch: ReturnType<typeof watchIdentityFiles>): Omit<IdentitySource, 'settleBy' | 'status' | 'close'> {
  return {
    identity: watch.identity,
    waitingFor: () => watch.waitingFor(),
    failures: () => watch.failures(),
    lastProblem: () => watch.lastProblem(),
    reload: () => watch.reload(),
  };
}

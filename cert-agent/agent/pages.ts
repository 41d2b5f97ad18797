// The agent's admin pages and metrics.

import type { Page } from '../base/admin.ts';
import { formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import type { Live } from '../base/live.ts';
import { Counter, Gauge, type Registry } from '../base/prometheus.ts';
import { formatPem } from '../identity/bundle.ts';
import type { Identity } from '../identity/identity.ts';
import type { AgentStatus } from '../rotate.ts';
import { trustOf } from './keep.ts';

/** What the pages show, and what an operator may request. */
export interface Shown {
  readonly identity: Live<Identity | undefined>;
  status(): AgentStatus;
  /** Requests a new SVID and the bundle from the CA at once. */
  renewNow(): void;
}

/** The agent's pages, for its own admin port. */
export function agentPages(agent: Shown, registry: Registry): Page[] {
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
      sentence: 'requests a new SVID from the CA now',
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

function certsOf(agent: Shown): object {
  const identity = agent.identity.current();
  if (identity === undefined) throw new SallyportError('not_ready', `waiting for ${agent.status().waitingFor}`);
  return {
    trustDomain: identity.svid.id.trustDomain,
    chainPem: identity.svid.chainPem,
    bundlePem: formatPem(trustOf(identity).bundle.roots),
  };
}

/** The status with readable times. */
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

/** Linkerd's names where there is one. The values are read from the status at scrape. */
export function registerMetrics(registry: Registry, status: () => AgentStatus): void {
  const registers = [registry];
  const gauge = (name: string, help: string, read: (now: AgentStatus) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect: function collect() {
        this.set(read(status()));
      },
    });
  };
  const counter = (name: string, help: string, read: (now: AgentStatus) => number): void => {
    new Counter({
      name,
      help,
      registers,
      collect: function collect() {
        this.reset();
        this.inc(read(status()));
      },
    });
  };
  gauge(
    'identity_cert_expiration_timestamp_seconds',
    'Expiry of our SVID; 0 without one.',
    (now) => (now.notAfter ?? 0) / 1000,
  );
  counter('identity_cert_refresh_count', 'SVIDs received from the CA.', (now) => now.renewals);
  gauge(
    'sallyport_agent_bundle_sequence',
    'Sequence of the bundle in use; 0 without one.',
    (now) => now.bundleSequence ?? 0,
  );
  gauge(
    'sallyport_agent_denied_sequence',
    'Sequence of the deny list in use; 0 without one.',
    (now) => now.deniedSequence ?? 0,
  );
  gauge(
    'sallyport_agent_refreshed_timestamp_seconds',
    'When bundle and deny list were last confirmed by the CA; 0 before.',
    (now) => (now.refreshedAt ?? 0) / 1000,
  );
  new Counter({
    name: 'sallyport_agent_failures_total',
    help: 'Failed requests to the CA, by step (svid, or bundle with the deny list) and error code.',
    labelNames: ['step', 'code'],
    registers,
    collect() {
      this.reset();
      const { svidFailures, bundleFailures } = status();
      for (const [code, count] of Object.entries(svidFailures)) this.inc({ step: 'svid', code }, count);
      for (const [code, count] of Object.entries(bundleFailures)) this.inc({ step: 'bundle', code }, count);
    },
  });
}

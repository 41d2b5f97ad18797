// The CA's metrics, `sallyport_ca_...`. Gauges are read from the store at scrape.

import { X509Certificate } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import type { Code } from '../base/errors.ts';
import { createRegistry } from '../base/metrics.ts';
import { Counter, Gauge, Histogram, type Registry } from '../base/prometheus.ts';
import { fingerprintOf } from '../identity/verify.ts';
import type { Agents } from './agents.ts';
import type { Authority } from './authority.ts';
import type { Ledger } from './ledger/ledger.ts';
import type { Store } from './store/store.ts';

/**
 * The counters: each call counts one event. Gauges are read at scrape, so they need `watch` and `watchRunning` first.
 */
export interface CaMetrics {
  readonly registry: Registry;
  issued(again: boolean): void;
  renewed(): void;
  refused(code: Code): void;
  connectionDropped(): void;
  tokenCreated(): void;
  revoked(): void;
  storeCommit(ms: number, calls: number): void;
  /** Registers the gauges, once there is a store to read them from. */
  watch(store: Store, authority: Authority, clock: Clock): void;
  /** Registers those of the agents and of the ledger. */
  watchRunning(parts: Running): void;
}

/** What exists only once the CA runs. */
export interface Running {
  readonly agents: Pick<Agents, 'connected'>;
  readonly ledger: Pick<Ledger, 'head'>;
  readonly store: Pick<Store, 'ledgerEnd'>;
}

/** The time spans of `sallyport_ca_identities_expiring`. */
const spans: Readonly<Record<string, number>> = { '10m': 600_000, '1h': 3_600_000, '24h': 86_400_000 };

/** Counters at once. Gauges once `watch` and `watchRunning` are called. */
export function createCaMetrics(): CaMetrics {
  const registry = createRegistry();
  const counter = (name: string, help: string, labelNames: string[] = []): Counter =>
    new Counter({ name: `sallyport_ca_${name}`, help, labelNames, registers: [registry] });
  const issued = counter('issued_total', 'Certificates issued for a join token or a service-account token.');
  const repeated = counter('repeated_total', 'Certificates returned again to the key that a token is bound to.');
  const renewed = counter('renewed_total', 'Certificates issued for an SVID, valid or lately expired.');
  const refused = counter('refused_total', 'Requests refused, by error code.', ['code']);
  const dropped = counter(
    'connections_dropped_total',
    'Connections closed or refused because too many were open, or because one sent too many requests at once.',
  );
  const tokens = counter('tokens_created_total', 'Join tokens created.');
  const revoked = counter('revoked_total', 'Serials and IDs denied by an operator.');
  const calls = counter('store_calls_total', 'Calls to the store.');
  const commits = new Histogram({
    name: 'sallyport_ca_store_commit_seconds',
    help: 'Time from sending a group of calls to the store until it is on disk.',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2],
    registers: [registry],
  });
  return {
    registry,
    issued: (again) => (again ? repeated : issued).inc(),
    renewed: () => renewed.inc(),
    refused: (code) => refused.inc({ code }),
    connectionDropped: () => dropped.inc(),
    tokenCreated: () => tokens.inc(),
    revoked: () => revoked.inc(),
    storeCommit(ms, count) {
      commits.observe(ms / 1000);
      calls.inc(count);
    },
    watch(store, authority, clock) {
      watchIdentities(registry, store, clock);
      watchCertificates(registry, authority);
    },
    watchRunning: (parts) => watchRunning(registry, parts),
  };
}

function watchRunning(registry: Registry, { agents, ledger, store }: Running): void {
  const gauge = (name: string, help: string, read: () => number | Promise<number>): void => {
    new Gauge({
      ...{ name: `sallyport_ca_${name}`, help, registers: [registry] },
      async collect() {
        this.set(await read());
      },
    });
  };
  gauge('agents_connected', 'Agents with a stream to the CA.', () => agents.connected().length);
  gauge('ledger_records', 'The number of the last record of the ledger.', () =>
    store.ledgerEnd().then(
      ({ sequence }) => sequence,
      () => Number.NaN,
    ),
  );
  gauge(
    'ledger_signed_records',
    'The number of the last record that a signed head covers.',
    () => ledger.head.current()?.sequence ?? Number.NaN,
  );
}

function watchCertificates(registry: Registry, authority: Authority): void {
  new Gauge({
    name: 'sallyport_ca_intermediate_not_after_seconds',
    help: 'Expiry of the intermediate, seconds since 1970.',
    registers: [registry],
    collect() {
      this.set(authority.notAfter / 1000);
    },
  });
  new Gauge({
    name: 'sallyport_ca_root_not_after_seconds',
    help: 'Expiry of each root in the bundle, seconds since 1970.',
    labelNames: ['fingerprint'],
    registers: [registry],
    collect() {
      this.reset();
      for (const root of authority.bundle.current().roots)
        this.set({ fingerprint: fingerprintOf(root) }, new X509Certificate(root).validToDate.getTime() / 1000);
    },
  });
}

function watchIdentities(registry: Registry, store: Store, clock: Clock): void {
  const within = Object.entries(spans);
  // If the store does not respond, the metric has no value rather than zero.
  const count = (now: number) =>
    store
      .countIdentities(
        now,
        within.map(([, span]) => now + span),
      )
      .catch(() => undefined);
  new Gauge({
    name: 'sallyport_ca_identities',
    help: 'SPIFFE IDs with a valid certificate.',
    registers: [registry],
    async collect() {
      this.set((await count(clock.now()))?.total ?? Number.NaN);
    },
  });
  new Gauge({
    name: 'sallyport_ca_identities_expiring',
    help: 'SPIFFE IDs whose last certificate expires within the span: they stopped renewing, or are about to renew.',
    labelNames: ['within'],
    registers: [registry],
    async collect() {
      const found = await count(clock.now());
      for (const [index, [name]] of within.entries()) this.set({ within: name }, found?.ending[index] ?? Number.NaN);
    },
  });
}

// The pages of a running sidecar: the health port for everyone, the admin port for this machine. Pages read the Live
// values on request and hold nothing.

import type { Page } from '../../cert-agent/base/admin.ts';
import { formatTime } from '../../cert-agent/base/clock.ts';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { formatDenyList } from '../../cert-agent/identity/denied.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';

/** In `waitingFor`: the process is leaving, and waits for nothing. */
export const draining = 'draining';

/** Is it ready, and if not, what is it waiting for? */
export interface Readiness {
  readonly ready: boolean;
  /** Whether its own part is ready: identity, configuration and ports. Only upstreams may be missing. */
  readonly serving: boolean;
  readonly waitingFor: readonly string[];
}

/** Everything the pages show, read on request. */
export interface PageSources {
  /** In Prometheus' text format. Those who ask at the same time get the same Buffer. */
  metrics(): Promise<Buffer>;
  readonly metricsType: string;
  readiness(): Readiness;
  /** What of a ready process is not as it should be: sentences. */
  worries(): readonly string[];
  identity(): Identity | undefined;
  readonly trustDomain: string;
  /** Of the whole process: generation, failures, numbers of connections and workers, ports. */
  state(): object;
  /** Of all workers, as are the denials, the learned edges, the trials and the upstreams. */
  connections(): Promise<object[]>;
  policies(): object[];
  peerAuthentications(): object[];
  requestAuthentications(): object;
  /** Why a request was refused, by its ID; undefined for one that is unknown or forgotten. */
  why(id: string): Promise<object | undefined>;
  denials(): Promise<object[]>;
  learned(): Promise<object>;
  /** What policies on trial would have refused. */
  shadow(): Promise<object>;
  /** For each inbound port, who still uses plaintext. */
  strictReport(): Promise<object[]>;
  /** Without secrets. */
  settings(): object;
  upstreams(): Promise<object[]>;
  /** At a gateway: the statuses of its documents. */
  gatewayStatus(): object | undefined;
  /** Why the newest configuration, or else the newest identity, was rejected; undefined if neither was. */
  lastProblem(): SallyportError | undefined;
  /** Drains as at SIGTERM, except that the process and its pages stay; resolves with the fate of what was open. */
  drain(): Promise<object>;
  /** Ends the process as SIGTERM does. Absent in a process whose owner does not want that. */
  readonly quit: (() => void) | undefined;
  /** The health status of the app of a port, by a named check, or of the first app; undefined if there is none. */
  appHealth(page?: number | string): Promise<number> | undefined;
}

/** For probes and Prometheus, on all addresses, read-only. */
export function healthPages(sources: PageSources): Page[] {
  return [
    {
      method: 'GET',
      path: '/healthz/ready',
      sentence: '200 when ready, with what is out of date; else 503 and what it is waiting for',
      answer() {
        const { ready, waitingFor } = sources.readiness();
        return {
          status: ready ? 200 : 503,
          body: `${(ready ? ['ready', ...sources.worries()] : waitingFor.map(lineOf)).join('\n')}\n`,
        };
      },
    },
    metricsPage(sources),
    {
      method: 'GET',
      path: '/app-health',
      sentence: 'whether the first app is healthy: a status without a body',
      answer: () => askApp(sources, undefined),
    },
    {
      method: 'GET',
      path: '/app-health/*',
      sentence: 'the same for the app of one port, by the port number that policies see, or by a check of appProbes',
      answer: ({ url }) => askApp(sources, url.pathname.slice('/app-health/'.length)),
    },
  ];
}

/** For the operator, on loopback. */
export function adminPages(sources: PageSources): Page[] {
  const json = (path: string, sentence: string, read: () => object | Promise<object>): Page => ({
    method: 'GET',
    path,
    sentence,
    answer: async () => ({ body: await read() }),
  });
  return [
    json('/state', 'readiness, generation of the configuration, and why the last change was refused', () => ({
      ...sources.readiness(),
      ...sources.state(),
      lastProblem: describeProblem(sources.lastProblem()),
    })),
    json('/certs', 'our SVID, the trust bundle and the deny list; never a key', () => describeIdentity(sources)),
    json('/connections', 'every open connection, with its peer', () => sources.connections()),
    json('/policies', 'the policies in force', () => sources.policies()),
    json('/peer-authentications', 'the PeerAuthentication documents in force', () => sources.peerAuthentications()),
    json('/strict-report', 'per inbound port: its mTLS mode, and who still uses plaintext', () =>
      sources.strictReport(),
    ),
    {
      method: 'GET',
      path: '/why/*',
      sentence:
        'why a request was refused, by its decision id: what was considered, what failed, what would let it pass',
      async answer({ url }) {
        const id = url.pathname.slice('/why/'.length);
        const why = await sources.why(id);
        if (why !== undefined) return { body: why };
        throw new SallyportError('not_found', `no refusal with the id ${id} is known`, {
          hint: "the last thousand refusals by policies are kept, and some of connections and of the app's own requests; of others the access log has the code and the reason, and the places in 'validation' for a RequestValidation; for allowed requests it names the rule",
        });
      },
    },
    json(
      '/denials',
      'the last refusals by policies, of connections, and of the app’s own requests, the newest first',
      () => sources.denials(),
    ),
    json('/learned', 'in learn mode: who called what', () => sources.learned()),
    json('/shadow-report', 'what the dry-run policies would change', () => sources.shadow()),
    json('/request-authentications', 'the RequestAuthentication documents in force, and the state of their keys', () =>
      sources.requestAuthentications(),
    ),
    json('/gateway-status', 'at a gateway: the status of each Gateway, listener, route and policy, as a List', () => {
      const status = sources.gatewayStatus();
      if (status !== undefined) return status;
      throw new SallyportError('not_found', 'this process is not a gateway');
    }),
    json('/upstreams', 'upstreams, their pools and what they wait for', () => sources.upstreams()),
    json('/config', 'the settings in force', () => sources.settings()),
    {
      method: 'POST',
      path: '/drain',
      sentence:
        'drains: not ready, no new connections; responds once everything has finished or was cut, with what was cut',
      answer: async () => ({ body: await sources.drain() }),
    },
    ...quitPage(sources),
    metricsPage(sources),
  ];
}

/** For a job whose last act is to end the sidecar beside it: Istio's page of that name. */
function quitPage({ quit }: PageSources): Page[] {
  if (quit === undefined) return [];
  return [
    {
      method: 'POST',
      path: '/quitquitquit',
      sentence: 'drains as at SIGTERM and ends the process; under sallyport exec, once the app has ended',
      answer() {
        // Draining may end with closing this connection.
        setImmediate(quit);
        return { body: 'draining\n' };
      },
    },
  ];
}

/** Other workers add their number: `draining (worker 2)`. */
function lineOf(reason: string): string {
  return reason.startsWith(draining) ? reason : `waiting for ${reason}`;
}

function metricsPage(sources: PageSources): Page {
  return {
    method: 'GET',
    path: '/stats/prometheus',
    sentence: "Istio's standard metrics and our own",
    answer: async () => ({ type: sources.metricsType, body: await sources.metrics() }),
  };
}

function describeIdentity(sources: PageSources): object {
  const identity = sources.identity();
  if (identity === undefined) return { trustDomain: sources.trustDomain, chainPem: null, bundlePem: null };
  const { svid, bundles, denied } = identity;
  const bundle = bundles.get(sources.trustDomain);
  return {
    trustDomain: sources.trustDomain,
    id: svid.id.uri,
    serial: svid.serial,
    notBefore: formatTime(svid.notBefore),
    notAfter: formatTime(svid.notAfter),
    chainPem: svid.chainPem,
    bundlePem: bundle === undefined ? null : formatPem(bundle.roots),
    bundleSequence: bundle?.sequence ?? null,
    denied: formatDenyList(denied),
  };
}

function describeProblem(problem: SallyportError | undefined): object | null {
  if (problem === undefined) return null;
  return {
    code: problem.code,
    message: problem.message,
    hint: problem.hint ?? null,
    problems: problem.problems.map(formatProblem),
  };
}

/** Only the status is returned: a body could tell a stranger about the app's internals. */
async function askApp(sources: PageSources, port: string | undefined): Promise<{ status: number; body: string }> {
  const isPort = port === undefined || /^(?:0|[1-9]\d{0,4})$/.test(port);
  const status = sources.appHealth(isPort && port !== undefined ? Number(port) : port);
  if (status === undefined)
    throw new SallyportError(
      'not_found',
      port === undefined ? "no 'appHealth' is set" : 'no app of this port may be checked',
      {
        hint: "set 'appHealth: /healthz' in an entry of 'inbound' in sidecar.yaml",
      },
    );
  return { status: await status, body: '' };
}

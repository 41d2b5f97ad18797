// Checks our own app's health for probes that reach the health port and not the app: by GET, by gRPC's own health
// service, or by a connection. Nothing of the probe reaches the app, and only a status is returned.

import { type Address, formatAddress } from '../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { addFields } from '../exchange/fields.ts';
import type { Limits } from '../exchange/limits.ts';
import { emptyFields } from '../exchange/message.ts';
import type { Destination } from '../exchange/upstream.ts';
import { grpcFields, grpcStatusOf } from '../protocol/grpc.ts';
import { Http1Client } from '../protocol/http1/client.ts';
import { Http2Client } from '../protocol/http2/client.ts';
import { ask, type Question } from './ask.ts';
import { dialPlain } from './dial.ts';

/** How an app is checked. */
export type AppCheck = { readonly timeoutMs: number } & (
  | { readonly kind: 'http'; readonly path: string; readonly headers?: readonly (readonly [string, string])[] }
  | { readonly kind: 'grpc'; readonly service: string }
  | { readonly kind: 'tcp' }
);

/** An app, as its inbound port's settings define it. */
export interface ProbedApp {
  readonly app: Address;
  readonly protocol: 'http' | 'http2' | 'grpc' | 'tcp';
  /** The port that policies and probes know it by. */
  readonly policyPort: number;
  /** Absent if probes may not have it checked. */
  readonly appHealth?: AppCheck | undefined;
}

/** A check that has a name: one of a container's probes in Kubernetes, `web/readyz`. */
export interface NamedProbe {
  readonly app: Address;
  readonly protocol: 'http' | 'http2' | 'grpc' | 'tcp';
  readonly check: AppCheck;
}

type AskedApp = Pick<ProbedApp, 'app' | 'protocol'>;

interface ProbeSettings {
  readonly inbound: readonly ProbedApp[];
  readonly appProbes?: Readonly<Record<string, NamedProbe>>;
  readonly limits: Limits;
}

/** The result: a status for the probe, and a sentence for the operator. */
interface Finding {
  readonly status: number;
  readonly why: string;
}

/** The status if there is no response, or a wrong one. */
const unavailable = 503;

/** The apps of a sidecar that may be checked. */
export class AppHealth {
  readonly #settings: () => ProbeSettings;
  readonly #log: Log;
  readonly #asking = new Map<AppCheck, Promise<number>>();
  readonly #wasWell = new Map<number | string, boolean>();

  /** `settings` returns those in force. */
  constructor(settings: () => ProbeSettings, log: Log) {
    this.#settings = settings;
    this.#log = log;
  }

  /**
   * The status of the app of a port, or of a named check; without either, of the first app that can be checked;
   * undefined if there is none. Any client may ask, so simultaneous probes share one check.
   */
  ask(page: number | string | undefined): Promise<number> | undefined {
    const { inbound, appProbes = {} } = this.#settings();
    if (typeof page === 'string') {
      const named = Object.hasOwn(appProbes, page) ? appProbes[page] : undefined;
      return named === undefined ? undefined : this.#ask(named, named.check, page);
    }
    const found = inbound.find(
      ({ appHealth, policyPort }) => appHealth !== undefined && (page === undefined || page === policyPort),
    );
    return found?.appHealth === undefined ? undefined : this.#ask(found, found.appHealth, found.policyPort);
  }

  #ask(app: AskedApp, check: AppCheck, name: number | string): Promise<number> {
    let asking = this.#asking.get(check);
    if (asking === undefined) {
      asking = this.#find(app, check, name).finally(() => this.#asking.delete(check));
      this.#asking.set(check, asking);
    }
    return asking;
  }

  async #find(app: AskedApp, check: AppCheck, name: number | string): Promise<number> {
    let found: Finding;
    try {
      found = await probe(app, check, this.#settings().limits);
    } catch (error) {
      found = { status: unavailable, why: reasonOf(error) };
    }
    this.#note(name, found);
    return found.status;
  }

  /** The probe gets a status; its reason is logged, once. */
  #note(port: number | string, { status, why }: Finding): void {
    const isWell = status < 400;
    const wasWell = this.#wasWell.get(port);
    this.#wasWell.set(port, isWell);
    const of = typeof port === 'number' ? `the app of port ${port}` : `the app, by ${port},`;
    if (isWell === wasWell || (isWell && wasWell === undefined)) return;
    if (isWell) this.#log.info({ code: 'app_healthy', port }, `${of} is healthy`);
    else this.#log.warn({ code: 'app_unhealthy', port }, `${of} is not healthy: ${why}`);
  }
}

/** @throws SallyportError `upstream_*` if the app does not respond, or not in time. */
async function probe({ app, protocol }: AskedApp, check: AppCheck, limits: Limits): Promise<Finding> {
  const { kind, timeoutMs } = check;
  if (kind === 'tcp') {
    (await dialPlain(app, timeoutMs, [])).socket.destroy();
    return { status: 200, why: 'it accepts connections' };
  }
  const authority = 'path' in app ? 'localhost' : formatAddress(app);
  if (kind === 'http') {
    const { headers = [] } = check;
    const isHost = ([name]: readonly [string, string]): boolean => name.toLowerCase() === 'host';
    const question = {
      method: 'GET',
      path: check.path,
      authority: headers.find(isHost)?.[1] ?? authority,
      fields: addFields(
        emptyFields,
        headers.filter((one) => !isHost(one)),
      ),
      body: undefined,
      headOnly: true,
    };
    const { status } = await askOnce(app, protocol === 'http2' || protocol === 'grpc', question, timeoutMs, limits);
    // As for a kubelet, below 400 is good. Redirects are not followed.
    const isRedirect = status >= 300 && status < 400;
    return { status: isRedirect ? 200 : status, why: `it answered ${status}` };
  }
  const { checkPath, decodeHealth, encodeHealth } = await import('../protocol/grpc-health.ts');
  const question = {
    method: 'POST',
    path: checkPath,
    authority,
    fields: grpcFields,
    body: encodeHealth(check.service),
  };
  const { status, fields, trailers, body } = await askOnce(app, true, question, timeoutMs, limits);
  const grpcStatus = grpcStatusOf(trailers) ?? grpcStatusOf(fields);
  if (status !== 200 || grpcStatus !== 0)
    throw new SallyportError(
      'upstream_protocol',
      `grpc.health.v1 answered ${status} with grpc-status ${grpcStatus ?? 'missing'}`,
    );
  const serving = decodeHealth(body);
  return { status: serving === 'SERVING' ? 200 : unavailable, why: `grpc.health.v1 reports ${serving}` };
}

/** One request on a connection of its own, so that it works even if all others are busy; closed afterwards. */
async function askOnce(
  app: Address,
  http2: boolean,
  question: Question,
  timeoutMs: number,
  { headBytes, headFields }: Limits,
): ReturnType<typeof ask> {
  let close: (() => void) | undefined;
  let isOver = false;
  const destination: Destination = {
    async acquire() {
      const { socket } = await dialPlain(app, timeoutMs, []);
      close = () => socket.destroy();
      if (isOver) close();
      const options = { secure: false, peer: undefined, address: formatAddress(app), headBytes, headFields, idleMs: 0 };
      const owner = { released() {}, quiet() {}, gone() {} };
      return http2 ? new Http2Client(socket, owner, options).take() : new Http1Client(socket, owner, options);
    },
    dialSocket: () => Promise.reject(new TypeError('a probe uses HTTP')),
  };
  try {
    return await ask(destination, question, timeoutMs);
  } finally {
    isOver = true;
    close?.();
  }
}

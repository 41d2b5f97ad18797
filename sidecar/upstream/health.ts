// Active health checks of an endpoint, at intervals, over the same dial as requests but on a connection of their own,
// so that they run even if all others are busy. Envoy's rule: a wrong status counts at once, no response counts when
// repeated, and the first result decides alone.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { emptyFields } from '../exchange/message.ts';
import type { Destination, UpstreamConnection } from '../exchange/upstream.ts';
import { Http1Client } from '../protocol/http1/client.ts';
import { Http2Client } from '../protocol/http2/client.ts';
import { ask } from './ask.ts';
import type { Deadline, Deadlines } from './deadlines.ts';
import type { Endpoint } from './endpoint.ts';
import type { HealthCheckPlan } from './traffic.ts';

type Verdict = 'well' | 'unwell' | 'silent';

/** Begins at once, and goes on until `close`. */
export class HealthCheck {
  readonly #plan: HealthCheckPlan;
  readonly #endpoint: Endpoint;
  readonly #deadlines: Deadlines;
  readonly #told: (endpoint: Endpoint, well: boolean) => void;
  #client: Http1Client | Http2Client | undefined = undefined;
  /** The connection of the check in progress. */
  #asking: UpstreamConnection | undefined = undefined;
  #next: Deadline | undefined = undefined;
  #isClosed = false;
  #wells = 0;
  #failures = 0;

  /** `told` gets each verdict. */
  constructor(
    plan: HealthCheckPlan,
    endpoint: Endpoint,
    deadlines: Deadlines,
    told: (endpoint: Endpoint, well: boolean) => void,
  ) {
    this.#plan = plan;
    this.#endpoint = endpoint;
    this.#deadlines = deadlines;
    this.#told = told;
    void this.#check();
  }

  /** The next check uses a new connection: our SVID or our trust has changed. */
  renew(): void {
    const client = this.#client;
    this.#client = undefined;
    if (client instanceof Http2Client) client.retire();
    else client?.destroy();
  }

  /** Checks no more. The endpoint keeps its last state. */
  close(): void {
    this.#isClosed = true;
    this.#deadlines.drop(this.#next);
    this.#asking?.destroy();
    this.renew();
  }

  async #check(): Promise<void> {
    const verdict = await this.#ask();
    if (this.#isClosed) return;
    this.#next = this.#deadlines.set(this.#plan.intervalMs, () => void this.#check());
    this.#note(verdict);
  }

  #note(verdict: Verdict): void {
    const { healthyThreshold, unhealthyThreshold } = this.#plan;
    const isFirst = this.#endpoint.healthy === undefined;
    if (verdict === 'well') {
      this.#failures = 0;
      if (++this.#wells >= healthyThreshold || isFirst) this.#told(this.#endpoint, true);
      return;
    }
    this.#wells = 0;
    if (++this.#failures >= unhealthyThreshold || isFirst || verdict === 'unwell') this.#told(this.#endpoint, false);
  }

  async #ask(): Promise<Verdict> {
    const { type, path, method, host, expectedStatuses, timeoutMs } = this.#plan;
    try {
      if (type === 'tcp') {
        await this.#endpoint.touch(timeoutMs);
        return 'well';
      }
      const question = {
        ...{ method, path, authority: host ?? this.#endpoint.address },
        fields: emptyFields,
        body: undefined,
      };
      const { status } = await ask(this.#destination, question, timeoutMs);
      return expectedStatuses.includes(status) ? 'well' : 'unwell';
    } catch {
      return 'silent';
    } finally {
      this.#asking = undefined;
    }
  }

  readonly #destination: Destination = {
    acquire: async () => {
      const upstream = await this.#connect();
      // Closed meanwhile: the check is not needed any more.
      if (this.#isClosed) {
        upstream.destroy();
        throw new SallyportError('upstream_closed', 'the check is over');
      }
      this.#asking = upstream;
      return upstream;
    },
    dialSocket: () => Promise.reject(new TypeError('a health check uses HTTP')),
  };

  /** The connection that is kept for checks, or a new one. */
  async #connect(): Promise<UpstreamConnection> {
    const kept = this.#client;
    if (kept instanceof Http2Client && kept.hasRoom) return kept.take();
    if (kept instanceof Http1Client && kept.usableUntil > performance.now()) {
      this.#client = undefined;
      return kept;
    }
    this.renew();
    const client = await this.#endpoint.connectApart({
      released: (one) => {
        if (this.#isClosed || this.#client !== undefined) one.destroy();
        else this.#client = one;
      },
      quiet: (one) => {
        if (this.#isClosed || this.#client !== one) one.retire();
      },
      gone: (one) => {
        if (this.#client === one) this.#client = undefined;
      },
    });
    if (client instanceof Http1Client) return client;
    if (!this.#isClosed) this.#client = client;
    return client.take();
  }
}

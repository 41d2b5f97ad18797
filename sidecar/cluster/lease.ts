// A Lease decides which of several gateways writes statuses: all serve. As in client-go, another's lease has expired when
// it did not change for its duration by our own clock, and our own counts a third shorter than others wait.

import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { every } from '../../cert-agent/base/background.ts';
import { asSallyportError, type Code, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { ApiClient } from './client.ts';
import { treeOf } from './objects.ts';

export interface LeaseOptions {
  readonly client: ApiClient;
  readonly namespace: string;
  readonly name: string;
  readonly log: Log;
  readonly times?: LeaseTimes;
}

/** Milliseconds. */
export interface LeaseTimes {
  readonly durationMs: number;
  readonly renewMs: number;
  /** For so long the API server may not know our roles yet. */
  readonly rolesMs: number;
}

const usual: LeaseTimes = { durationMs: 15_000, renewMs: 4000, rolesMs: 10_000 };

/** Tries to hold the lease until it is closed. */
export class Lease {
  readonly #options: LeaseOptions;
  readonly #times: LeaseTimes;
  readonly #holder = `${hostname()}_${randomBytes(4).toString('hex')}`;
  readonly #stop: () => void;
  #turning: Promise<void>;
  #isClosed = false;
  /** performance.now() until which we hold it. */
  #heldUntil = 0;
  #wasHeld = false;
  /** What another's lease was when it last changed, and when we saw that. */
  #other: { readonly version: string; readonly at: number } | undefined = undefined;
  #problems = new Set<string>();
  /** performance.now() at the first try that was forbidden, of those in a row. */
  #forbiddenSince: number | undefined = undefined;

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#times = options.times ?? usual;
    this.#turning = this.#turn();
    this.#stop = every('lease', this.#times.renewMs, () => {
      this.#turning = this.#turning.then(() => (this.#isClosed ? undefined : this.#turn()));
      return this.#turning;
    });
  }

  /** True while no other can hold it. */
  isHeld(): boolean {
    return performance.now() < this.#heldUntil;
  }

  /** Gives it up, so that another need not wait. */
  async close(): Promise<void> {
    this.#stop();
    this.#isClosed = true;
    // One under way would take it again.
    await this.#turning;
    if (!this.isHeld()) return;
    this.#heldUntil = 0;
    await this.#try(() => '').catch(() => {});
  }

  async #turn(): Promise<void> {
    const begunAt = performance.now();
    try {
      const isOurs = await this.#try(() => this.#holder);
      // Counted from before the request: the others count from when they saw its result.
      this.#heldUntil = isOurs ? begunAt + (this.#times.durationMs * 2) / 3 : 0;
      [this.#problems, this.#forbiddenSince] = [new Set(), undefined];
    } catch (error) {
      this.#say(asSallyportError(error, 'internal', 'the lease cannot be held'));
    }
    const isHeld = this.isHeld();
    if (isHeld !== this.#wasHeld)
      this.#options.log.info(
        { code: isHeld ? 'leader' : 'follower' },
        isHeld ? 'this gateway writes the statuses' : 'another gateway writes the statuses, or none',
      );
    this.#wasHeld = isHeld;
  }

  /**
   * One line for each problem until the lease can be tried again. Roles take a moment to be known: what is forbidden is
   * told if it still is after that, and the verbs that are granted one after the other are one problem.
   */
  #say({ code, message, hint }: SallyportError): void {
    const isForbidden = code === 'kubernetes_forbidden';
    if (isForbidden) this.#forbiddenSince ??= performance.now();
    if (isForbidden && performance.now() - this.#forbiddenSince! < this.#times.rolesMs) return;
    const what = isForbidden ? code : message;
    if (!this.#problems.has(what)) this.#options.log.error({ code, hint }, message);
    this.#problems.add(what);
  }

  /** Writes the lease if it is ours or has expired; true if it is ours now. @throws SallyportError `kubernetes_*`. */
  async #try(holder: () => string): Promise<boolean> {
    const { client, namespace, name } = this.#options;
    const collection = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
    const found = await client.ask('GET', `${collection}/${name}`);
    const now = new Date().toISOString().replace('Z', '000Z');
    const spec = {
      holderIdentity: holder(),
      leaseDurationSeconds: Math.max(1, Math.round(this.#times.durationMs / 1000)),
      renewTime: now,
    };
    const head = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease' };
    if (found.status === 404) {
      const lease = {
        ...head,
        metadata: { name, namespace },
        spec: { ...spec, acquireTime: now, leaseTransitions: 0 },
      };
      const { status } = await client.ask('POST', collection, { body: lease, type: 'application/json' });
      return this.#took(status, 'create');
    }
    if (found.status !== 200) return this.#took(found.status, 'get');
    const { metadata, spec: before } = treeOf(found.value);
    const { resourceVersion } = treeOf(metadata);
    const { holderIdentity, acquireTime = now, leaseTransitions } = treeOf(before);
    if (typeof resourceVersion !== 'string')
      throw new SallyportError(
        'kubernetes_invalid',
        `the API server's answer about Lease ${namespace}/${name} is not valid`,
      );
    const isOurs = holderIdentity === this.#holder;
    if (!isOurs && holderIdentity && !this.#hasExpired(resourceVersion)) return false;
    const transitions = typeof leaseTransitions === 'number' ? leaseTransitions : 0;
    const lease = {
      ...head,
      metadata: { name, namespace, resourceVersion },
      spec: {
        ...spec,
        acquireTime: isOurs ? acquireTime : now,
        leaseTransitions: isOurs ? transitions : transitions + 1,
      },
    };
    const { status } = await client.ask('PUT', `${collection}/${name}`, { body: lease, type: 'application/json' });
    return this.#took(status, 'update');
  }

  /** Each renewal is another version. */
  #hasExpired(version: string): boolean {
    if (this.#other?.version !== version) this.#other = { version, at: performance.now() };
    return performance.now() - this.#other.at > this.#times.durationMs;
  }

  #took(status: number, verb: string): boolean {
    if (status === 200 || status === 201) return true;
    // Another was faster.
    if (status === 409) return false;
    const { namespace, name } = this.#options;
    const code: Code = status === 403 ? 'kubernetes_forbidden' : 'kubernetes_unavailable';
    const what = `${verb} Lease ${namespace}/${name}`;
    throw new SallyportError(
      code,
      status === 403 ? `the API server forbids us to ${what}` : `the API server answered ${status} to ${what}`,
      { hint: 'until then no gateway writes statuses' },
    );
  }
}

// Writes the statuses that a gateway has computed into the objects that it follows. What is already written is not
// written again, so that another look costs no request.

import { setImmediate as nextTurn } from 'node:timers/promises';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { parsed } from './client.ts';
import { classesOf, closedStatus } from './closed-status.ts';
import { pathOf } from './kinds.ts';
import { refusalOf } from './list.ts';
import { changeOf } from './merge-status.ts';
import type { KeptObject } from './objects.ts';
import type { ClusterStore } from './store.ts';

/** A status as it is to be. */
export interface WantedStatus {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string; readonly generation: number };
  readonly status: unknown;
}

/** The field manager of server-side apply. */
const manager = 'sallyport';

/** Writes into one store's objects. */
export class StatusWriter {
  readonly #store: ClusterStore;
  readonly #controllerName: string;
  readonly #log: Log;
  #said = new Set<string>();
  #conflicts = 0;

  constructor(store: ClusterStore, controllerName: string, log: Log) {
    this.#store = store;
    this.#controllerName = controllerName;
    this.#log = log;
  }

  /**
   * Writes what differs, one after the other, while `mayWrite`. False if it should be called again soon: others wrote at
   * the same time. Failures are logged.
   */
  async write(wanted: readonly WantedStatus[], mayWrite: () => boolean): Promise<boolean> {
    this.#conflicts = 0;
    const failures = new Set<string>();
    const done = new Set<string>();
    const closed = this.#store.closedDocuments();
    const isClosed: ReadonlySet<string | undefined> = new Set(closed.map(({ object }) => object.namespace));
    for (const one of wanted) {
      const place = this.#store.placeOf(one.kind);
      if (place === undefined || place.kind.isForeign === true) continue;
      const { name, namespace: space } = one.metadata;
      const namespace = place.kind.isClusterWide === true ? undefined : space;
      done.add(`${one.kind} ${namespace}/${name}`);
      const object = this.#store.find(one.kind, namespace, name);
      // A closed namespace may be in force for a moment more.
      if (object === undefined || isClosed.has(namespace)) continue;
      if (!mayWrite()) return false;
      await this.#writeOne(object, one.status, failures);
    }
    const classes = classesOf(this.#store.snapshot() ?? [], this.#controllerName);
    for (const one of closed) {
      // There may be many large ones.
      await nextTurn();
      const status = closedStatus(one, this.#controllerName, classes, Date.now());
      if (status === undefined) continue;
      if (!mayWrite()) return false;
      await this.#writeOne(one.object, status, failures);
    }
    // What is no longer for us must not say that it is.
    for (const { kind, namespace, name } of this.#store.snapshot() ?? []) {
      if (isClosed.has(namespace)) continue;
      if (done.has(`${kind} ${namespace}/${name}`)) continue;
      const object = this.#store.find(kind, namespace, name);
      if (object?.status?.includes(this.#controllerName) !== true) continue;
      if (!mayWrite()) return false;
      await this.#writeOne(object, undefined, failures);
    }
    this.#said = failures;
    return this.#conflicts === 0;
  }

  async #writeOne(object: KeptObject, wanted: unknown, failures: Set<string>): Promise<void> {
    const { kind, namespace, name, resourceVersion, status } = object;
    const change = changeOf(status === undefined ? undefined : parsed(status), wanted, {
      ...{ controllerName: this.#controllerName, namespace },
      follows: (one) => this.#store.follows(one),
    });
    if (change === undefined) return;
    const place = this.#store.placeOf(kind)!;
    const path = `${pathOf(place.kind, place.version, namespace)}/${encodeURIComponent(name)}/status`;
    try {
      const answer =
        'apply' in change
          ? await this.#store.client.ask('PATCH', `${path}?fieldManager=${manager}&force=true`, {
              type: 'application/apply-patch+yaml',
              body: {
                apiVersion: `${place.kind.group}/${place.version}`,
                ...{ kind, metadata: namespace === undefined ? { name } : { name, namespace }, status: change.apply },
              },
            })
          : await this.#store.client.ask('PATCH', `${path}?fieldManager=${manager}`, {
              type: 'application/merge-patch+json',
              body: { metadata: { resourceVersion }, status: change.replace },
            });
      // Another writer was faster, or it is gone: the next look sees what is there then.
      if (answer.status === 409) this.#conflicts++;
      if (answer.status === 200 || answer.status === 409) return;
      const asked = { kind: place.kind, version: place.version, namespace };
      this.#say(refusalOf(answer, asked, 'patch the status of').error, failures);
    } catch (error) {
      if (!(error instanceof SallyportError)) throw error;
      this.#say(error, failures);
    }
  }

  /** One line for all objects of a kind, until it works. */
  #say({ code, message, hint }: SallyportError, failures: Set<string>): void {
    if (!this.#said.has(message) && !failures.has(message)) this.#log.error({ code, hint }, message);
    failures.add(message);
  }
}

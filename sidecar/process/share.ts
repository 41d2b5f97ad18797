// Creates what capabilities share in one process: connections, counters, tables. The first worker keeps the state that
// all workers share.

import type { Registry } from 'prom-client';
import type { Log } from '../../cert-agent/base/log.ts';
import type { AnyCapability, EdgeProcess } from '../edge/capability.ts';
import { createOnward } from '../onward.ts';
import type { TokenObserver } from '../policy/jwt.ts';
import type { Jwks } from '../tokens/jwks.ts';
import type { SignTransactionToken } from '../tokens/sign.ts';
import { FirstState } from './shared-state.ts';
import type { WorkerLink } from './worker-link.ts';

/** What capabilities get of their process. None of it is theirs to close. */
export interface ShareOptions {
  readonly jwks: Jwks;
  readonly log: Log;
  readonly observe: TokenObserver;
  readonly registry: Registry;
  /** The number of processes. */
  readonly workers: number;
  /** In a worker that is not the first: the link to the first. */
  readonly link: WorkerLink | undefined;
  readonly sign: SignTransactionToken;
  /** In the first worker: sends a message to the others. */
  tellAll(of: string, message: unknown): void;
}

/** What the capabilities of one process share. Call `close` after the last request. */
export interface Shares {
  /** By capability. */
  readonly made: ReadonlyMap<string, unknown>;
  /** In the first worker: the state that answers the others. */
  readonly first: FirstState | undefined;
  close(): void;
}

/** Lets each capability create what it shares. */
export async function shareAll(
  table: readonly AnyCapability[],
  { jwks, log, observe, registry, workers, link, sign, tellAll }: ShareOptions,
  redis?: EdgeProcess['redis'],
): Promise<Shares> {
  const state = new FirstState();
  const closing: (() => void)[] = [];
  const onward = createOnward(sign);
  const made = await Promise.all(
    table.map(async ({ name, share }) => {
      const process: EdgeProcess = {
        ...{ registry, log, redis },
        workers: {
          count: workers,
          serve: (part) => state.serve(name, part),
          tellAll: (message) => tellAll(name, message),
          first: link?.of(name),
        },
        onward,
        keysOf: (rule) => jwks.sourceOf(rule),
        observeToken: observe,
        onClose: (close) => closing.push(close),
      };
      return [name, await share?.(process)] as const;
    }),
  );
  return {
    made: new Map(made),
    first: link === undefined ? state : undefined,
    close() {
      for (const close of closing) close();
    },
  };
}

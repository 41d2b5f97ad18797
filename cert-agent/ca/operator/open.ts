// The way to a CA for a command: through its socket while it runs, else on its store. Speaking to a socket needs next
// to nothing; what a store needs is imported only when there is nobody to speak to.

import { setTimeout as sleep } from 'node:timers/promises';
import { SallyportError } from '../../base/errors.ts';
import { socketFileOf } from '../directory.ts';
import type { Operator } from './operator.ts';
import { answersAt, connectOperator } from './socket.ts';

export interface OpenOperator {
  readonly operator: Operator;
  /** Lets go of what was opened; the caller's to call. */
  close(): Promise<void>;
}

/**
 * With `socket`, the CA that listens there. With `dir`, the CA that runs on it, or its store, which is then held so
 * that no CA starts meanwhile and two never write.
 * @throws SallyportError `ca_missing`, or `ca_running` when a CA holds the store and does not answer on `ca.sock` within 5 s.
 */
export async function openOperator(at: { dir: string } | { socket: string }): Promise<OpenOperator> {
  if ('socket' in at) return throughSocket(at.socket);
  const socket = socketFileOf(at.dir);
  if (await answersAt(socket)) return throughSocket(socket);
  const { openStopped } = await import('./open-stopped.ts');
  return whenFree(
    () => openStopped(at.dir),
    async () => ((await answersAt(socket)) ? throughSocket(socket) : undefined),
  );
}

/** A CA needs less than a second to start, and a command less to do its work. */
const patienceMs = 5000;
const againMs = 100;

/**
 * What `open` gives. While another process holds the store it is tried again for 5 s: a CA that is starting will answer
 * on its socket, a command will be done. `instead` is asked between, and what it gives ends the wait.
 * @throws what `open` throws.
 */
export async function whenFree<T>(open: () => Promise<T>, instead: () => Promise<T | undefined>): Promise<T> {
  const end = performance.now() + patienceMs;
  for (;;) {
    try {
      return await open();
    } catch (error) {
      if (!(error instanceof SallyportError) || error.code !== 'ca_running' || performance.now() > end) throw error;
    }
    const other = await instead();
    if (other !== undefined) return other;
    await sleep(againMs);
  }
}

function throughSocket(socket: string): OpenOperator {
  return { operator: connectOperator(socket), close: async () => {} };
}

// Opens a CA for a command: through its socket while it runs, else on its store. The store's modules are imported only
// when no CA responds, so that a command on a running CA starts fast.

import { setTimeout as sleep } from 'node:timers/promises';
import { SallyportError } from '../../base/errors.ts';
import { socketFileOf } from '../directory.ts';
import type { Operator } from './operator.ts';
import { answersAt, connectOperator } from './socket.ts';

/** An operator, on a socket or on the store of a stopped CA. Holds that store until it is closed. */
export interface OpenOperator {
  readonly operator: Operator;
  /** Closes it. The caller must call this. */
  close(): Promise<void>;
}

/**
 * With `socket`, the CA that listens there. With `dir`, the CA that runs on it, or its store. The store is then locked,
 * so that no CA starts meanwhile and there is only one writer.
 * @throws SallyportError `ca_missing`, or `ca_running` when a CA holds the store and does not respond on `ca.sock`
 * within 5 s.
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

/** A CA starts in less than a second, and a command takes even less. */
const patienceMs = 5000;
const againMs = 100;

/**
 * Calls `open`, and retries for 5 s while another process holds the store: a CA that is starting will soon respond on
 * its socket, and a command will finish. Between the attempts it calls `instead`, whose result ends the wait.
 * @throws as `open` does.
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

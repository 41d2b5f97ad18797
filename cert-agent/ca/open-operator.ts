// The way to a CA for a command: through its socket while it runs, else on its store. Speaking to a socket needs next
// to nothing; what a store needs is imported only when there is nobody to speak to.

import { socketFileOf } from './directory.ts';
import type { Operator } from './operator.ts';
import { answersAt, connectOperator } from './operator-socket.ts';

export interface OpenOperator {
  readonly operator: Operator;
  /** Lets go of what was opened; the caller's to call. */
  close(): Promise<void>;
}

/**
 * With `socket`, the CA that listens there. With `dir`, the CA that runs on it, or its store, which is then held so
 * that no CA starts meanwhile and two never write.
 * @throws SallyportError `ca_missing`, or `ca_running` when a CA holds the store and does not answer on `ca.sock`.
 */
export async function openOperator(at: { dir: string } | { socket: string }): Promise<OpenOperator> {
  if ('socket' in at) return throughSocket(at.socket);
  const socket = socketFileOf(at.dir);
  if (await answersAt(socket)) return throughSocket(socket);
  const { openStopped } = await import('./open-stopped.ts');
  return openStopped(at.dir);
}

function throughSocket(socket: string): OpenOperator {
  return { operator: connectOperator(socket), close: async () => {} };
}

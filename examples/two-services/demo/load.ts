// Constant, counted load through both sidecars.

import { Agent } from 'node:http';
import { ask } from './ask.ts';

/** Enough to have requests in flight at every moment, few enough for a busy machine. */
const clients = 4;

export interface Load {
  /** Ends the load and resolves to its counts. May be called again. */
  stop(): Promise<{ readonly requests: number; readonly failures: readonly string[] }>;
}

/** Clients that call `orders` through the sidecar at `port`, each again as soon as it has its response. */
export function startLoad(port: number): Load {
  const agent = new Agent({ keepAlive: true });
  const failures: string[] = [];
  let requests = 0;
  let running = true;

  async function askOnAndOn(): Promise<void> {
    while (running) {
      const failure = await ask({ port, host: 'orders', agent }).then(
        ({ status, body }) => (status === 200 ? undefined : `${status} ${body.trim()}`),
        (error: unknown) => String(error),
      );
      requests++;
      if (failure !== undefined) failures.push(failure);
    }
  }

  const all = Promise.all(Array.from({ length: clients }, askOnAndOn));
  return {
    async stop() {
      running = false;
      await all;
      agent.destroy();
      return { requests, failures };
    },
  };
}

// Constant load through both sidecars, counted.

import { Agent } from 'node:http';
import { ask } from './ask.ts';

/** Enough to have requests in flight at every moment, little enough for a busy machine. */
const clients = 4;

export interface Load {
  /** Ends it, and gives what it came to; a second time too. */
  stop(): Promise<{ readonly requests: number; readonly failures: readonly string[] }>;
}

/** Clients that ask `orders` by way of the sidecar at `port`, each again as soon as it has its answer. */
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

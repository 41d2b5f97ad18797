// Load in HTTP/2 by prior knowledge, with Node's own client: plain requests, or unary calls as gRPC makes them.

import { once } from 'node:events';
import { type ClientHttp2Session, connect } from 'node:http2';
import type { LoadSet } from './load.ts';
import { usualPath } from './load-http1.ts';

/** Requests, `inFlight` at once on `connections` connections. */
export interface Http2Job {
  readonly kind: 'http2';
  readonly port: number;
  readonly inFlight: number;
  readonly connections: number;
  readonly grpc: boolean;
}

const message = Buffer.concat([Buffer.from([0, 0, 0, 0, 100]), Buffer.alloc(100, 'm')]);
const plain = { ':method': 'GET', ':path': usualPath, ':authority': 'orders', 'user-agent': 'perf/1' };
const unary = {
  ...{ ':method': 'POST', ':path': '/v1/orders/Get', ':authority': 'orders', 'user-agent': 'perf/1' },
  ...{ 'content-type': 'application/grpc', te: 'trailers' },
};

export function openHttp2({ port, inFlight, connections, grpc }: Http2Job): Promise<LoadSet> {
  const dial = (): ClientHttp2Session => connect(`http://127.0.0.1:${port}`);
  return openStreams({ inFlight, connections, dial, ask: (session) => ask(session, grpc) });
}

/** Requests as streams, `inFlight` at once on `connections` sessions. `ask` gets the number of earlier requests. */
export async function openStreams(job: {
  readonly inFlight: number;
  readonly connections: number;
  dial(): ClientHttp2Session;
  ask(session: ClientHttp2Session, n: number): Promise<void>;
}): Promise<LoadSet> {
  const sessions = await Promise.all(
    Array.from({ length: job.connections }, async () => {
      const session = job.dial();
      await once(session, 'remoteSettings');
      return session;
    }),
  );
  let asked = 0;
  return {
    async run(count, done) {
      const last = asked + count;
      const askInTurn = async (session: ClientHttp2Session): Promise<void> => {
        while (asked < last) {
          const begun = performance.now();
          await job.ask(session, asked++);
          done(performance.now() - begun);
        }
      };
      await Promise.all(Array.from({ length: job.inFlight }, (_, i) => askInTurn(sessions[i % sessions.length]!)));
    },
    close() {
      for (const session of sessions) session.destroy();
    },
  };
}

function ask(session: ClientHttp2Session, grpc: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream = session.request(grpc ? unary : plain, { endStream: !grpc });
    if (grpc) stream.end(message);
    let good = false;
    stream.on('response', (fields) => {
      good = fields[':status'] === 200 && !grpc;
    });
    stream.on('trailers', (fields) => {
      good = fields['grpc-status'] === '0';
    });
    stream.on('error', reject);
    stream.on('end', () => (good ? resolve() : reject(new Error('unexpected response'))));
    stream.resume();
  });
}

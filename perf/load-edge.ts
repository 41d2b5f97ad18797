// Load of an edge: HTTPS, requests over many routes, with a user's token where one is to be verified.

import { connect as connectTls, createSecureContext } from 'node:tls';
import { onAnswer } from './load-http1.ts';

/** `count` requests, `inFlight` at once, each on its own TLS connection; to one of `routes` routes after the other. */
export interface EdgeJob {
  readonly kind: 'edge';
  readonly port: number;
  readonly count: number;
  readonly inFlight: number;
  readonly routes: number;
  /** Sent in turn as `Authorization: Bearer`; none where it is empty. */
  readonly tokens: readonly string[];
  readonly caPem: string;
}

/** The path of a route. */
export function routePath(index: number): string {
  return `/team-${index % 32}/service-${index}`;
}

export async function runEdge({ port, count, inFlight, routes, tokens, caPem }: EdgeJob): Promise<Float64Array> {
  const latencies = new Float64Array(count);
  const secureContext = createSecureContext({ ca: caPem, minVersion: 'TLSv1.3' });
  let sent = 0;
  let done = 0;
  const request = (n: number): Buffer => {
    const token = tokens.length === 0 ? '' : `Authorization: Bearer ${tokens[n % tokens.length]}\r\n`;
    // Far from one another: what was asked before is not what is asked next.
    const path = routePath((n * 7919) % routes);
    return Buffer.from(
      `GET ${path}/items/7?full=1 HTTP/1.1\r\nHost: api.perf.test\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n${token}\r\n`,
    );
  };
  const made = Array.from({ length: Math.min(count, Math.max(routes, tokens.length, 1)) }, (_, n) => request(n));
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port, secureContext, servername: 'api.perf.test' };
      const socket = connectTls({ ...options, checkServerIdentity: () => undefined });
      let begun = 0;
      const next = (): void => {
        if (sent >= count) {
          socket.destroy();
          resolve();
          return;
        }
        begun = performance.now();
        socket.write(made[sent++ % made.length]!);
      };
      socket.setNoDelay(true);
      socket.on('secureConnect', next);
      socket.on('error', reject);
      onAnswer(socket, () => {
        latencies[done++] = performance.now() - begun;
        next();
      });
    });
  await Promise.all(Array.from({ length: inFlight }, one));
  return latencies;
}

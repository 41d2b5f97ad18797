// Load of an edge: HTTPS, requests over many routes, with a user's token where one is to be verified.

import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { onAnswer } from './load-http1.ts';
import { runStreams } from './load-http2.ts';

/**
 * `count` requests, `inFlight` at once, to one of `routes` routes after the other: each on its own TLS connection, or in
 * HTTP/2 as streams of `connections`, as a browser or another proxy would send them.
 */
export interface EdgeJob {
  readonly kind: 'edge';
  readonly port: number;
  readonly count: number;
  readonly inFlight: number;
  readonly connections: number | undefined;
  readonly routes: number;
  /** Sent in turn as `Authorization: Bearer`; none where it is empty. */
  readonly tokens: readonly string[];
  readonly caPem: string;
}

/** The path of a route. */
export function routePath(index: number): string {
  return `/team-${index % 32}/service-${index}`;
}

export function runEdge(job: EdgeJob): Promise<Float64Array> {
  return job.connections === undefined ? runHttp1(job) : runHttp2(job, job.connections);
}

/** Far from one another: what was asked before is not what is asked next. */
function pathOf(n: number, routes: number): string {
  return `${routePath((n * 7919) % routes)}/items/7?full=1`;
}

async function runHttp1({ port, count, inFlight, routes, tokens, caPem }: EdgeJob): Promise<Float64Array> {
  const latencies = new Float64Array(count);
  const secureContext = createSecureContext({ ca: caPem, minVersion: 'TLSv1.3' });
  let sent = 0;
  let done = 0;
  const request = (n: number): Buffer => {
    const token = tokens.length === 0 ? '' : `Authorization: Bearer ${tokens[n % tokens.length]}\r\n`;
    return Buffer.from(
      `GET ${pathOf(n, routes)} HTTP/1.1\r\nHost: api.perf.test\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n${token}\r\n`,
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

function runHttp2({ port, count, inFlight, routes, caPem }: EdgeJob, connections: number): Promise<Float64Array> {
  const options = { ca: caPem, servername: 'api.perf.test', checkServerIdentity: () => undefined };
  const dial = (): ClientHttp2Session => connectHttp2(`https://127.0.0.1:${port}`, options);
  return runStreams({ count, inFlight, connections, dial, ask: (session, n) => ask(session, pathOf(n, routes)) });
}

function ask(session: ClientHttp2Session, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ...{ ':method': 'GET', ':path': path, ':authority': 'api.perf.test', 'user-agent': 'perf/1' },
      ...{ accept: 'application/json', 'accept-encoding': 'gzip', cookie: 'session=0123456789abcdef' },
    });
    let status: number | undefined;
    stream.on('response', (fields) => {
      status = fields[':status'];
    });
    stream.on('error', reject);
    stream.on('end', () => (status === 200 ? resolve() : reject(new Error(`status ${status}`))));
    stream.resume();
  });
}

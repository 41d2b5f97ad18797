// Load for a gateway: HTTPS requests over many routes, with a user's token if one is to be verified.

import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect as connectTls, createSecureContext } from 'node:tls';
import type { LoadSet } from './load.ts';
import { askInTurn, askOn, failLoudly } from './load-http1.ts';
import { openStreams } from './load-http2.ts';

/**
 * Requests to `routes` routes in turn, `inFlight` at once. Each is on its own TLS connection, or in HTTP/2 a stream on
 * one of `connections` connections, as from a browser or another proxy.
 */
export interface EdgeJob {
  readonly kind: 'edge';
  readonly port: number;
  readonly inFlight: number;
  readonly connections: number | undefined;
  readonly routes: number;
  /** Sent in turn as `Authorization: Bearer`; empty for none. */
  readonly tokens: readonly string[];
  readonly caPem: string;
}

/** The path of a route. */
export function routePath(index: number): string {
  return `/team-${index % 32}/service-${index}`;
}

export function openEdge(job: EdgeJob): Promise<LoadSet> {
  return job.connections === undefined ? openHttp1(job) : openHttp2(job, job.connections);
}

/** Spreads consecutive requests over distant routes. */
function pathOf(n: number, routes: number): string {
  return `${routePath((n * 7919) % routes)}/items/7?full=1`;
}

async function openHttp1({ port, inFlight, routes, tokens, caPem }: EdgeJob): Promise<LoadSet> {
  const secureContext = createSecureContext({ ca: caPem, minVersion: 'TLSv1.3' });
  const request = (n: number): Buffer => {
    const token = tokens.length === 0 ? '' : `Authorization: Bearer ${tokens[n % tokens.length]}\r\n`;
    return Buffer.from(
      `GET ${pathOf(n, routes)} HTTP/1.1\r\nHost: api.perf.test\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n${token}\r\n`,
    );
  };
  // Built in advance: the cost of the load must not depend on what it sends.
  const made = Array.from({ length: Math.max(routes, tokens.length) }, (_, n) => request(n));
  const sockets = await Promise.all(
    Array.from({ length: inFlight }, async () => {
      const options = { host: '127.0.0.1', port, secureContext, servername: 'api.perf.test' };
      const socket = connectTls({ ...options, checkServerIdentity: () => undefined });
      socket.setNoDelay(true);
      await once(socket, 'secureConnect');
      return failLoudly(socket);
    }),
  );
  return askInTurn(sockets, sockets.map(askOn), (n) => made[n % made.length]!);
}

function openHttp2({ port, inFlight, routes, caPem }: EdgeJob, connections: number): Promise<LoadSet> {
  const options = { ca: caPem, servername: 'api.perf.test', checkServerIdentity: () => undefined };
  const dial = (): ClientHttp2Session => connectHttp2(`https://127.0.0.1:${port}`, options);
  return openStreams({ inFlight, connections, dial, ask: (session, n) => ask(session, pathOf(n, routes)) });
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

// The load, as a process of its own: one job, given as JSON, its result printed as JSON. The same for every proxy.

import { connect, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext } from 'node:tls';

/** `http`: `count` requests, `inFlight` connections. `handshake`: `count` connections with one request each. `tcp`: bytes. */
export type Job =
  | { readonly kind: 'http'; readonly port: number; readonly count: number; readonly inFlight: number }
  | {
      readonly kind: 'handshake';
      readonly port: number;
      readonly count: number;
      readonly inFlight: number;
      readonly certPem: string;
      readonly keyPem: string;
      readonly caPem: string;
    }
  | { readonly kind: 'tcp'; readonly port: number; readonly bytes: number };

export interface LoadResult {
  readonly seconds: number;
  /** Milliseconds; of HTTP jobs only. */
  readonly p50: number;
  readonly p99: number;
}

const request = Buffer.from(
  'GET /v1/orders/7?full=1 HTTP/1.1\r\nHost: orders\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n',
);

const job = JSON.parse(process.argv[2] ?? '') as Job;
const latencies = job.kind === 'http' ? new Float64Array(job.count) : new Float64Array(0);
const started = performance.now();
if (job.kind === 'http') await runHttp(job.port, job.count, job.inFlight);
else if (job.kind === 'handshake') await runHandshakes(job);
else await runTcp(job.port, job.bytes);
const seconds = (performance.now() - started) / 1000;
latencies.sort();
const result: LoadResult = {
  seconds,
  p50: latencies[Math.floor(latencies.length * 0.5)] ?? 0,
  p99: latencies[Math.floor(latencies.length * 0.99)] ?? 0,
};
process.stdout.write(`${JSON.stringify(result)}\n`);

async function runHttp(port: number, count: number, inFlight: number): Promise<void> {
  let sent = 0;
  let done = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true });
      let begun = 0;
      const next = (): void => {
        if (sent >= count) {
          socket.destroy();
          resolve();
          return;
        }
        sent++;
        begun = performance.now();
        socket.write(request);
      };
      socket.on('connect', next);
      socket.on('error', reject);
      onAnswer(socket, () => {
        latencies[done++] = performance.now() - begun;
        next();
      });
    });
  await Promise.all(Array.from({ length: inFlight }, one));
}

/** Calls `done` at the end of each answer; anything but a 200 with a length ends the benchmark. */
function onAnswer(socket: Socket, done: () => void): void {
  let left = 0;
  let head = '';
  socket.on('data', (chunk: Buffer) => {
    let at = 0;
    while (at < chunk.length) {
      if (left === 0) {
        head += chunk.toString('latin1', at);
        const end = head.indexOf('\r\n\r\n');
        if (end === -1) return;
        const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1];
        if (!head.startsWith('HTTP/1.1 200 ') || length === undefined)
          throw new Error(`unexpected answer: ${head.slice(0, 200)}`);
        at = chunk.length - (head.length - end - 4);
        left = Number(length);
        head = '';
      }
      const taken = Math.min(left, chunk.length - at);
      left -= taken;
      at += taken;
      if (left === 0) done();
    }
  });
}

async function runHandshakes(job: Extract<Job, { kind: 'handshake' }>): Promise<void> {
  const secureContext = createSecureContext({
    cert: job.certPem,
    key: job.keyPem,
    ca: job.caPem,
    minVersion: 'TLSv1.3',
  });
  let begun = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connectTls(
        { host: '127.0.0.1', port: job.port, secureContext, checkServerIdentity: () => undefined },
        () => socket.write(request),
      );
      socket.on('error', reject);
      onAnswer(socket, () => {
        socket.destroy();
        resolve();
      });
    });
  const worker = async (): Promise<void> => {
    while (begun++ < job.count) await one();
  };
  await Promise.all(Array.from({ length: job.inFlight }, worker));
}

function runTcp(port: number, bytes: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    const piece = Buffer.alloc(64 * 1024);
    let left = bytes;
    const push = (): void => {
      while (left > 0) {
        left -= piece.length;
        if (!socket.write(piece)) {
          socket.once('drain', push);
          return;
        }
      }
      socket.end();
    };
    socket.on('connect', push);
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the stream ended without the answer of the sink')));
    // The sink speaks only when it has everything.
    socket.on('data', () => {
      resolve();
      socket.destroy();
    });
  });
}

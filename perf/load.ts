// The load, as a process of its own: one job, given as JSON, its result printed as JSON. The same for every proxy.

import { type EdgeJob, runEdge } from './load-edge.ts';
import { type Http1Job, type RateJob, runHttp1, runRate, runWebSocket, type WebSocketJob } from './load-http1.ts';
import { type Http2Job, runHttp2 } from './load-http2.ts';
import { type HandshakeJob, type IdleJob, runHandshakes, runIdle, runTcp, type TcpJob } from './load-tls.ts';

export type Job = EdgeJob | Http1Job | RateJob | WebSocketJob | Http2Job | HandshakeJob | IdleJob | TcpJob;

export interface LoadResult {
  readonly seconds: number;
  /** Milliseconds; of jobs that ask one question at a time. */
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

const job = JSON.parse(process.argv[2] ?? '') as Job;
const started = performance.now();
const latencies = (await run(job)) ?? new Float64Array(0);
const seconds = (performance.now() - started) / 1000;
latencies.sort();
const at = (part: number): number =>
  latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * part))] ?? 0;
const result: LoadResult = { seconds, p50: at(0.5), p99: at(0.99), p999: at(0.999) };
process.stdout.write(`${JSON.stringify(result)}\n`);

/** Milliseconds of each answer, where the job asks for any. */
function run(one: Job): Promise<Float64Array | undefined> {
  switch (one.kind) {
    case 'edge':
      return runEdge(one);
    case 'http':
      return runHttp1(one);
    case 'rate':
      return runRate(one);
    case 'websocket':
      return runWebSocket(one);
    case 'http2':
      return runHttp2(one);
    case 'handshake':
      return runHandshakes(one);
    case 'idle':
      return runIdle(one);
    case 'tcp':
      return runTcp(one);
  }
}

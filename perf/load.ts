// The load, as a separate process, the same for every proxy. It holds sets of open connections and drives them on
// order. Between two runs a set stays open and idle. Orders and answers go over the channel to its parent.

import { type EdgeJob, openEdge } from './load-edge.ts';
import { type Http1Job, openHttp1, openRate, openWebSocket, type RateJob, type WebSocketJob } from './load-http1.ts';
import { type Http2Job, openHttp2 } from './load-http2.ts';
import { type HandshakeJob, type IdleJob, openHandshakes, openIdle, openTcp, type TcpJob } from './load-tls.ts';

export type Job = EdgeJob | Http1Job | RateJob | WebSocketJob | Http2Job | HandshakeJob | IdleJob | TcpJob;

/** Open connections, and one kind of request to send on them. */
export interface LoadSet {
  /** Sends `count` requests and waits for every response. `done` gets the milliseconds of each. */
  run(count: number, done: (ms: number) => void): Promise<void>;
  close(): void;
}

export type Order =
  | { readonly id: number; readonly kind: 'open'; readonly job: Job }
  | { readonly id: number; readonly kind: 'run'; readonly set: number; readonly count: number; readonly warm: boolean }
  | { readonly id: number; readonly kind: 'close'; readonly set: number };

/** Milliseconds of all responses of a set, without those of warm-up runs. */
export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

export interface Answers {
  readonly open: { readonly set: number };
  readonly run: { readonly seconds: number };
  readonly close: Latency;
}

const sets: { readonly connections: LoadSet; readonly latencies: number[] }[] = [];

process.on('message', (order: Order) => {
  void obey(order).then((answer) => process.send!({ id: order.id, answer }));
});

// Its parent is gone.
process.on('disconnect', () => process.exit());

async function obey(order: Order): Promise<Answers[keyof Answers]> {
  if (order.kind === 'open') return { set: sets.push({ connections: await open(order.job), latencies: [] }) - 1 };
  const { connections, latencies } = sets[order.set]!;
  if (order.kind === 'close') {
    connections.close();
    return latencyOf(latencies);
  }
  const started = performance.now();
  await connections.run(order.count, order.warm ? () => {} : (ms) => latencies.push(ms));
  return { seconds: (performance.now() - started) / 1000 };
}

function latencyOf(latencies: readonly number[]): Latency {
  const sorted = Float64Array.from(latencies).sort();
  const at = (part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999) };
}

function open(job: Job): Promise<LoadSet> {
  switch (job.kind) {
    case 'edge':
      return openEdge(job);
    case 'http':
      return openHttp1(job);
    case 'rate':
      return openRate(job);
    case 'websocket':
      return openWebSocket(job);
    case 'http2':
      return openHttp2(job);
    case 'handshake':
      return openHandshakes(job);
    case 'idle':
      return openIdle(job);
    case 'tcp':
      return openTcp(job);
  }
}

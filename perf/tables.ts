// What is measured, table by table. Stacks take turns in each round, and the median of the rounds counts: a machine that slows
// down slows all of them.

import { measureDecisionUs } from './decision.ts';
import { type EdgeStack, makeTokens, startEdges } from './edge.ts';
import type { Job } from './load.ts';
import { measure, measureBareIdle, measureHandshake, measureIdle, runLoad } from './measure.ts';
import { measureRecordUs } from './record.ts';
import type { Site, Stack } from './stack.ts';
import type { Row, Table } from './table.ts';

export interface Plan {
  readonly rounds: number;
  readonly requests: number;
  readonly inFlight: readonly number[];
  readonly handshakes: number;
  readonly tcpBytes: number;
  readonly bigBodies: number;
  readonly idle: number;
  readonly rateSeconds: number;
  readonly loadedAfter: number;
}

export interface Bench {
  readonly stacks: readonly Stack[];
  /** Another checkout, whose `dist/` is measured too. */
  readonly before: string | undefined;
  readonly site: Site;
  readonly plan: Plan;
}

/** Every measure by its name on the command line; some give more than one table. */
export const measures: Readonly<Record<string, (bench: Bench) => Promise<Table[]>>> = {
  memory,
  'http1-cpu': http1,
  'http2-cpu': http2,
  bodies,
  websocket,
  'handshake-cpu': handshakes,
  'tcp-cpu': tcp,
  'latency-added': latency,
  'idle-connections': idle,
  decision,
  record,
  edge,
};

async function memory({ stacks, plan }: Bench): Promise<Table[]> {
  const now = (): Record<string, number> =>
    Object.fromEntries(stacks.map((one) => [one.name, Math.max(one.inbound.rssMb(), one.outbound.rssMb())]));
  const rows: Row[] = [{ label: 'idle', figures: now() }];
  let before = 0;
  for (const part of [0.1, 0.5, 1]) {
    // How ours goes on is what is to be seen; the others stand still long before.
    for (const stack of stacks) {
      const share = stack.name === 'ours' ? 1 : 0.1;
      await measure(stack, http(stack.httpPort, plan.loadedAfter * share * (part - before), 32));
    }
    before = part;
    const label = part === 1 ? 'after the load' : `after ${(plan.loadedAfter * part).toLocaleString('en')} requests`;
    rows.push({ label, figures: now() });
  }
  const title = `Resident memory, the larger of the pair; ${plan.loadedAfter.toLocaleString('en')} requests, 32 in flight`;
  return [{ name: 'memory', title, unit: 'MB', rows }];
}

const http = (port: number, count: number, inFlight: number, path?: string): Job => ({
  kind: 'http',
  port,
  count,
  inFlight,
  ...(path === undefined ? {} : { path }),
});

async function http1(bench: Bench): Promise<Table[]> {
  const { stacks, plan } = bench;
  for (const stack of stacks) await measure(stack, http(stack.httpPort, plan.requests, 32));
  const cpu: Row[] = [];
  const rate: Row[] = [];
  const p99: Row[] = [];
  for (const inFlight of plan.inFlight) {
    const count = inFlight === 1 ? plan.requests / 4 : plan.requests;
    const found = await inTurn(bench, (stack) => measure(stack, http(stack.httpPort, count, inFlight)));
    const label = `${inFlight} in flight`;
    cpu.push({ label, figures: median(found, ({ cpuUs }) => cpuUs / count) });
    rate.push({ label, figures: median(found, ({ seconds }) => count / seconds) });
    p99.push({ label, figures: median(found, (one) => one.p99) });
  }
  return [
    { name: 'http1-cpu', title: 'HTTP/1.1 services: CPU per request of the pair', unit: 'us', rows: cpu },
    { name: 'http1-rate', title: 'HTTP/1.1 services: requests', unit: 'per second', rows: rate, higherIsBetter: true },
    { name: 'http1-p99', title: 'HTTP/1.1 services at full load: 99th percentile', unit: 'ms', rows: p99 },
  ];
}

async function http2(bench: Bench): Promise<Table[]> {
  const count = bench.plan.requests / 2;
  const rows: Row[] = [];
  for (const grpc of [false, true]) {
    const found = await inTurn(bench, (stack) =>
      stack.http2Port === undefined
        ? undefined
        : measure(stack, { kind: 'http2', port: stack.http2Port, count, inFlight: 32, connections: 4, grpc }),
    );
    rows.push({ label: grpc ? 'gRPC, unary' : 'HTTP/2, 1 KB', figures: median(found, ({ cpuUs }) => cpuUs / count) });
  }
  const title = 'HTTP/2 from end to end, 32 streams on 4 connections: CPU per request of the pair';
  return [{ name: 'http2-cpu', title, unit: 'us', rows }];
}

async function bodies(bench: Bench): Promise<Table[]> {
  const { requests, bigBodies } = bench.plan;
  const rows: Row[] = [];
  for (const [label, count, path] of [
    ['1 KB', requests, undefined],
    ['1 MB', bigBodies, '/v1/orders/big'],
  ] as const) {
    const found = await inTurn(bench, (stack) => measure(stack, http(stack.httpPort, count, 16, path)));
    rows.push({ label, figures: median(found, ({ cpuUs }) => cpuUs / count) });
  }
  return [
    { name: 'bodies', title: 'Answers of two sizes, 16 in flight: CPU per request of the pair', unit: 'us', rows },
  ];
}

async function websocket(bench: Bench): Promise<Table[]> {
  const count = bench.plan.requests;
  const found = await inTurn(bench, (stack) =>
    measure(stack, { kind: 'websocket', port: stack.httpPort, count, inFlight: 32 }),
  );
  const rows = [{ label: '32 sockets', figures: median(found, ({ cpuUs }) => cpuUs / count) }];
  return [
    { name: 'websocket', title: 'WebSocket, 128 bytes and their echo: CPU per message of the pair', unit: 'us', rows },
  ];
}

async function handshakes(bench: Bench): Promise<Table[]> {
  const found = await inTurn(bench, (stack) => measureHandshake(stack, bench.site, bench.plan.handshakes));
  const rows = [{ label: 'with one request', figures: median(found, (one) => one) }];
  return [
    { name: 'handshake-cpu', title: 'Full handshake, mutual TLS 1.3: CPU of the inbound side', unit: 'us', rows },
  ];
}

async function tcp(bench: Bench): Promise<Table[]> {
  const bytes = bench.plan.tcpBytes;
  const found = await inTurn(bench, (stack) =>
    stack.tcpPort === undefined ? undefined : measure(stack, { kind: 'tcp', port: stack.tcpPort, bytes }),
  );
  const rows = [{ label: 'one stream', figures: median(found, ({ cpuUs }) => cpuUs / 1000 / (bytes / 1e9)) }];
  return [{ name: 'tcp-cpu', title: 'TCP: CPU per GB of the pair', unit: 'ms', rows }];
}

/** The same rate for all: half of what saturates the slowest. Without a proxy it is measured as well, and taken off. */
async function latency(bench: Bench): Promise<Table[]> {
  const { stacks, site, plan } = bench;
  const rates: number[] = [];
  for (const { httpPort } of stacks) {
    const { seconds } = await runLoad(http(httpPort, plan.requests, 64));
    rates.push(plan.requests / seconds);
  }
  const perSecond = Math.floor(Math.min(...rates) / 2);
  const job = (port: number): Job => ({ kind: 'rate', port, perSecond, seconds: plan.rateSeconds });
  const direct = await runLoad(job(site.app.http));
  const found = await inTurn(bench, (stack) => measure(stack, job(stack.httpPort)));
  const rows = (['p50', 'p99', 'p999'] as const).map((key): Row => {
    const all = median(found, (one) => Math.max(0, one[key] - direct[key]));
    return { label: key === 'p999' ? 'p99.9' : key, figures: all };
  });
  const title = `Latency added over no proxy, at ${perSecond} requests a second for all`;
  return [{ name: 'latency-added', title, unit: 'ms', rows }];
}

async function idle({ stacks, site, plan }: Bench): Promise<Table[]> {
  const ours = stacks.find(({ name }) => name === 'ours')!;
  const bare = await measureBareIdle(site, plan.idle);
  const kb = await measureIdle(ours.tlsPort, () => ours.inbound.rssMb(), site, plan.idle);
  const rows: Row[] = [
    { label: 'per connection', figures: { ours: kb, 'bare node:tls': bare } },
    { label: 'over bare node:tls', figures: { ours: kb - bare } },
  ];
  const title = `Memory of ${plan.idle.toLocaleString('en')} idle mutual-TLS connections`;
  return [{ name: 'idle-connections', title, unit: 'KB each', rows }];
}

/** One proxy at the edge, TLS from clients, plain to the app; gateways of one, a hundred and a thousand routes. */
async function edge({ site, plan, before }: Bench): Promise<Table[]> {
  const count = plan.requests;
  const rows: Row[] = [];
  const users = await makeTokens(200);
  for (const routes of [1, 100, 1000]) {
    const stacks = await startEdges(site, routes, users, before);
    const job = (port: number, tokens: readonly string[] = [], connections?: number): Job => ({
      ...{ kind: 'edge', port, count, inFlight: 32, connections, routes, tokens, caPem: site.caPem },
    });
    const cpu = async (stack: EdgeStack, one: Job): Promise<number> => {
      const before = stack.running.cpuUs();
      await runLoad(one);
      return (stack.running.cpuUs() - before) / count;
    };
    const row = async (
      label: string,
      portOf: (one: EdgeStack) => number | undefined,
      tokens?: readonly string[],
      connections?: number,
    ) => {
      const found = new Map<string, number[]>();
      for (let i = 0; i < plan.rounds; i++)
        for (const stack of stacks) {
          const port = portOf(stack);
          if (port !== undefined)
            found.set(stack.name, [...(found.get(stack.name) ?? []), await cpu(stack, job(port, tokens, connections))]);
        }
      rows.push({ label, figures: median(found, (one) => one) });
    };
    try {
      for (const stack of stacks) await runLoad(job(stack.port));
      await row(`${routes.toLocaleString('en')} routes`, ({ port }) => port);
      if (routes === 1000) {
        // Nobody else here verifies tokens: against their plain routing.
        await row('1,000 routes, 200 users with tokens', ({ tokenPort, port }) => tokenPort ?? port, users.tokens);
        await row('1,000 routes, a limit for each client', ({ limitPort }) => limitPort);
        await row('1,000 routes, HTTP/2: 32 streams on 4 connections', ({ port }) => port, [], 4);
      }
    } finally {
      await Promise.all(stacks.map(({ running }) => running.stop()));
    }
  }
  const title = 'At the edge, HTTPS in and HTTP/1.1 to the app, 32 in flight: CPU per request';
  return [{ name: 'edge-cpu', title, unit: 'us', rows }];
}

async function decision(): Promise<Table[]> {
  const rows: Row[] = [];
  for (const rules of [100, 1000, 10_000])
    rows.push({ label: `${rules.toLocaleString('en')} rules`, figures: { ours: await measureDecisionUs(rules) } });
  return [{ name: 'decision', title: 'One decision; ten rules concern the peer', unit: 'us', rows }];
}

async function record(): Promise<Table[]> {
  const { line, metrics } = measureRecordUs();
  const rows = [
    { label: 'access-log line', figures: { ours: line } },
    { label: 'metrics', figures: { ours: metrics } },
  ];
  return [{ name: 'record', title: 'What access log and metrics cost a request', unit: 'us', rows }];
}

async function inTurn<T>(
  { stacks, plan }: Bench,
  run: (stack: Stack) => Promise<T> | undefined,
): Promise<Map<string, T[]>> {
  const found = new Map<string, T[]>();
  for (let i = 0; i < plan.rounds; i++)
    for (const stack of stacks) {
      const one = await run(stack);
      if (one !== undefined) found.set(stack.name, [...(found.get(stack.name) ?? []), one]);
    }
  return found;
}

function median<T>(found: ReadonlyMap<string, readonly T[]>, value: (one: T) => number): Record<string, number> {
  return Object.fromEntries([...found].map(([name, list]) => [name, middle(list.map(value))]));
}

function middle(list: readonly number[]): number {
  const sorted = list.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

// CPU time of the proxies for each request, message, handshake or byte, in slices.

import { type Bench, withStacks } from './bench.ts';
import type { CpuAccount } from './cpu.ts';
import { type EdgeStack, makeTokens, withEdges } from './edge.ts';
import type { Job } from './load.ts';
import { tcpPieceBytes } from './load-tls.ts';
import { type MachineUse, mergeUse } from './machine.ts';
import { runInSlices, type Series } from './slices.ts';
import type { Stack } from './stack.ts';
import { median } from './statistics.ts';
import { type Row, rowOf, type Table } from './table.ts';

/** A row measured in slices, on stacks of type S. */
interface SlicedRow<S> {
  readonly label: string;
  /** Requests in a slice. */
  readonly size: number;
  /** Requests before the first slice; by default the plan's number. */
  readonly warm?: number;
  /** The load; undefined if the stack does not support it. */
  job(stack: S): Job | undefined;
}

/** The measurements of one stack in one row. */
interface Seen {
  /** The slices of each start. */
  readonly cpuNs: (readonly number[])[];
  readonly seconds: number[];
  /** Of each start. */
  readonly p99: number[];
  lostNs: number;
}

/** The measurements of a row, over all starts. */
class SeenRow {
  readonly size: number;
  readonly label: string;
  readonly stacks = new Map<string, Seen>();
  readonly machine: MachineUse[] = [];

  constructor({ label, size }: { readonly label: string; readonly size: number }) {
    this.label = label;
    this.size = size;
  }

  add(name: string, { cpuNs, seconds, latency, lostNs }: Series): void {
    const seen = this.stacks.get(name) ?? { cpuNs: [], seconds: [], p99: [], lostNs: 0 };
    seen.cpuNs.push(cpuNs);
    seen.seconds.push(...seconds);
    seen.p99.push(latency.p99);
    seen.lostNs += lostNs;
    this.stacks.set(name, seen);
  }

  /** The row of CPU time; `figure` converts a slice's nanoseconds to the table's unit. */
  cpu(figure: (ns: number) => number): Row {
    const series = new Map(
      [...this.stacks].map(([name, { cpuNs }]) => [name, cpuNs.map((start) => start.map(figure))]),
    );
    const lost = [...this.stacks].flatMap(([name, { cpuNs, lostNs }]) => {
      const percent = (lostNs / cpuNs.flat().reduce((sum, one) => sum + one, 0)) * 100;
      return percent > lostPercent ? [`${percent.toFixed(1)} % of ${name} in threads that ended`] : [];
    });
    return rowOf(this.label, series, mergeUse(this.machine), lost);
  }

  medians(value: (seen: Seen) => readonly number[]): Row {
    const figures = Object.fromEntries([...this.stacks].map(([name, seen]) => [name, median(value(seen))]));
    return { label: this.label, figures, machine: mergeUse(this.machine) };
  }
}

/** Rounding to ticks alone makes up to 40 ms of it, 1 % of a stack's CPU time in the shortest rows. */
const lostPercent = 2;

interface Runner<S> {
  /** Shown as progress. */
  readonly name: string;
  readonly rows: readonly SlicedRow<S>[];
  /** Whose CPU time counts. */
  cpu(stack: S): readonly CpuAccount[];
  withAll(use: (stacks: readonly S[]) => Promise<void>): Promise<void>;
}

/** Runs every row on the same stacks, once for each start in the plan. */
async function sliceRows<S extends { readonly name: string }>(bench: Bench, run: Runner<S>): Promise<SeenRow[]> {
  const { starts, rounds, warm } = bench.plan;
  const seen = run.rows.map((row) => new SeenRow(row));
  for (let start = 0; start < starts; start++)
    await run.withAll(async (stacks) => {
      for (const [index, row] of run.rows.entries()) {
        bench.progress.title(`${run.name}, ${row.label}${starts === 1 ? '' : `, start ${start + 1} of ${starts}`}`);
        const lanes = stacks.flatMap((stack) => {
          const job = row.job(stack);
          return job === undefined ? [] : [{ name: stack.name, job, cpu: run.cpu(stack) }];
        });
        const { series, machine } = await runInSlices(lanes, {
          ...{ size: row.size, rounds, warm: row.warm ?? warm },
          onRound: (round) => bench.progress.detail(`: round ${round + 1} of ${rounds}`),
        });
        for (const [name, one] of series) seen[index]!.add(name, one);
        seen[index]!.machine.push(machine);
      }
    });
  return seen;
}

/** Rows on pairs; the CPU time of both sides counts. */
function slicePairs(bench: Bench, name: string, rows: readonly SlicedRow<Stack>[]): Promise<SeenRow[]> {
  return sliceRows(bench, {
    ...{ name, rows },
    cpu: ({ inbound, outbound }) => [inbound.cpu, outbound.cpu],
    withAll: (use) => withStacks(bench, use),
  });
}

/** Microseconds per request. */
function usEach(row: SeenRow): Row {
  return row.cpu((ns) => ns / 1000 / row.size);
}

/**
 * This many requests take 60 to 250 ms: long compared with the switch, short compared with disturbances by other
 * processes. For the same number of requests, more and shorter slices give a narrower interval.
 */
function sliceFor(inFlight: number): number {
  return inFlight === 1 ? 700 : inFlight < 256 ? 1000 : 2000;
}

const http = (port: number, inFlight: number, path?: string): Job => ({
  ...{ kind: 'http', port, inFlight },
  ...(path === undefined ? {} : { path }),
});

/** HTTP/1.1 in, HTTP/1.1 out, with 1 to 512 requests in flight. */
export async function http1(bench: Bench): Promise<Table[]> {
  const rows = bench.plan.inFlight.map((inFlight) => ({
    label: `${inFlight} in flight`,
    size: sliceFor(inFlight),
    job: ({ httpPort }: Stack) => http(httpPort, inFlight),
  }));
  const seen = await slicePairs(bench, 'http1-cpu', rows);
  const rate = seen.map((row) => row.medians(({ seconds }) => seconds.map((one) => row.size / one)));
  const p99 = seen.map((row) => row.medians((one) => one.p99));
  return [
    {
      name: 'http1-cpu',
      title: 'HTTP/1.1 services: CPU per request of the pair',
      unit: 'us',
      rows: seen.map(usEach),
    },
    { name: 'http1-rate', title: 'HTTP/1.1 services: requests', unit: 'per second', rows: rate, higherIsBetter: true },
    { name: 'http1-p99', title: 'HTTP/1.1 services at full load: 99th percentile', unit: 'ms', rows: p99 },
  ];
}

/** HTTP/2 in, on the hop and to the app. */
export async function http2(bench: Bench): Promise<Table[]> {
  const rows = [false, true].map((grpc) => ({
    label: grpc ? 'gRPC, unary' : 'HTTP/2, 1 KB',
    size: sliceFor(32),
    job: ({ http2Port: port }: Stack): Job | undefined =>
      port === undefined ? undefined : { kind: 'http2', port, inFlight: 32, connections: 4, grpc },
  }));
  const seen = await slicePairs(bench, 'http2-cpu', rows);
  const title = 'HTTP/2 from end to end, 32 streams on 4 connections: CPU per request of the pair';
  return [{ name: 'http2-cpu', title, unit: 'us', rows: seen.map(usEach) }];
}

/** Responses of 1 KB and of 1 MB. */
export async function bodies(bench: Bench): Promise<Table[]> {
  const rows = [
    { label: '1 KB', size: sliceFor(16), job: ({ httpPort }: Stack) => http(httpPort, 16) },
    { label: '1 MB', size: 32, warm: 200, job: ({ httpPort }: Stack) => http(httpPort, 16, '/v1/orders/big') },
  ];
  const seen = await slicePairs(bench, 'bodies', rows);
  const title = 'Answers of two sizes, 16 in flight: CPU per request of the pair';
  return [{ name: 'bodies', title, unit: 'us', rows: seen.map(usEach) }];
}

/** WebSocket messages and their echoes. */
export async function websocket(bench: Bench): Promise<Table[]> {
  const job = ({ httpPort: port }: Stack): Job => ({ kind: 'websocket', port, inFlight: 32 });
  const seen = await slicePairs(bench, 'websocket', [{ label: '32 sockets', size: sliceFor(32), job }]);
  const title = 'WebSocket, 128 bytes and their echo: CPU per message of the pair';
  return [{ name: 'websocket', title, unit: 'us', rows: seen.map(usEach) }];
}

/** New connections at the inbound side, each with one request. */
export async function handshakes(bench: Bench): Promise<Table[]> {
  const { chainPem: certPem, keyPem } = bench.site.client;
  const shown = { certPem, keyPem, caPem: bench.site.caPem };
  const job = ({ tlsPort: port }: Stack): Job => ({ kind: 'handshake', port, inFlight: 8, ...shown });
  const seen = await sliceRows(bench, {
    name: 'handshake-cpu',
    rows: [{ label: 'with one request', size: 100, warm: 400, job }],
    cpu: ({ inbound }: Stack) => [inbound.cpu],
    withAll: (use) => withStacks(bench, use),
  });
  const title = 'Full handshake, mutual TLS 1.3: CPU of the inbound side';
  return [{ name: 'handshake-cpu', title, unit: 'us', rows: seen.map(usEach) }];
}

/** Bytes on one stream; a request is a piece of 1 MiB. */
export async function tcp(bench: Bench): Promise<Table[]> {
  const size = 64;
  const job = ({ tcpPort: port }: Stack): Job | undefined => (port === undefined ? undefined : { kind: 'tcp', port });
  const seen = await slicePairs(bench, 'tcp-cpu', [{ label: 'one stream', size, warm: 256, job }]);
  const rows = seen.map((row) => row.cpu((ns) => ns / 1e6 / ((size * tcpPieceBytes) / 1e9)));
  return [{ name: 'tcp-cpu', title: 'TCP: CPU per GB of the pair', unit: 'ms', rows }];
}

/** One proxy at the edge, TLS from clients, plain to the app, with one, a hundred and a thousand routes. */
export async function edge(bench: Bench): Promise<Table[]> {
  const users = await makeTokens(200);
  const { caPem } = bench.site;
  const found: Row[] = [];
  for (const routes of [1, 100, 1000]) {
    const label = `${routes.toLocaleString('en')} routes`;
    const row = (
      more: string,
      portOf: (stack: EdgeStack) => number | undefined,
      tokens: readonly string[] = [],
      connections?: number,
    ): SlicedRow<EdgeStack> => ({
      label: `${label}${more}`,
      size: sliceFor(32),
      job(stack) {
        const port = portOf(stack);
        return port === undefined
          ? undefined
          : { kind: 'edge', port, inFlight: 32, connections, routes, tokens, caPem };
      },
    });
    const plain = row('', ({ port }) => port);
    const rows = [
      plain,
      // No peer here verifies tokens: this row compares with their plain routing.
      row(', 200 users with tokens', ({ tokenPort, port }) => tokenPort ?? port, users.tokens),
      row(', a limit for each client', ({ limitPort }) => limitPort),
      row(', HTTP/2: 32 streams on 4 connections', ({ port }) => port, [], 4),
    ];
    const seen = await sliceRows(bench, {
      name: 'edge',
      rows: routes === 1000 ? rows : [plain],
      cpu: ({ running }: EdgeStack) => [running.cpu],
      withAll: (use) => withEdges(bench, routes, users, use),
    });
    found.push(...seen.map(usEach));
  }
  const title = 'At the edge, HTTPS in and HTTP/1.1 to the app, 32 in flight: CPU per request';
  return [{ name: 'edge-cpu', title, unit: 'us', rows: found }];
}

// `npm run perf`: our built pair and the peers that are installed here, in one run, on the same work, in turn (A B A B) so
// that a machine that gets slower gets slower for all. Prints ratios; never a test.

import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createAuthority, createCredential } from '../test/fixtures/pki.ts';
import { measureDecisionUs } from './decision.ts';
import { startHaproxy } from './haproxy.ts';
import { type HttpFigures, measureHandshake, measureHttp, measureTcp } from './measure.ts';
import { startNginx } from './nginx.ts';
import { startOurs } from './ours.ts';
import { isInstalled } from './process.ts';
import type { Site, Stack } from './stack.ts';

const help = `Measures the built dist/ beside nginx and HAProxy.

  npm run perf                                    everything, some five minutes
  npm run perf -- --quick                         under a minute
  npm run perf -- --only http1-cpu-us-per-request --json figures.json

Options: --quick, --only MEASURE, --json FILE, --help
Measures: http1-cpu-us-per-request, handshake-cpu-us, tcp-cpu-ms-per-gb, rss-mb-idle, rss-mb-loaded, decision-us
`;

/** One figure. `ratio` is ours / theirs: below 1 we are cheaper. */
interface Row {
  readonly measure: string;
  readonly inFlight?: number;
  readonly ours: number;
  readonly peer?: string;
  readonly theirs?: number;
  readonly ratio?: number;
}

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean' },
    only: { type: 'string' },
    json: { type: 'string' },
    help: { type: 'boolean' },
  },
});
const quick = options.quick === true;
const plan = quick
  ? { rounds: 2, requests: 15_000, inFlight: [32], handshakes: 400, tcpBytes: 128 * 2 ** 20, loadedAfter: 30_000 }
  : {
      rounds: 5,
      requests: 40_000,
      inFlight: [1, 8, 32, 256],
      handshakes: 1500,
      tcpBytes: 2 ** 30,
      loadedAfter: 100_000,
    };

/** What the issue asks for: ours / peer at most, or an absolute bound. */
const reach: Readonly<Record<string, { readonly ratio?: number; readonly most?: number; readonly inFlight?: number }>> =
  {
    'http1-cpu-us-per-request': { ratio: 1.5, inFlight: 32 },
    'handshake-cpu-us': { ratio: 1.2 },
    'tcp-cpu-ms-per-gb': { ratio: 1.3 },
    'decision-us': { most: 2 },
    'rss-mb-loaded': { most: 100 },
  };

const rows: Row[] = [];
const wants = (measure: string): boolean => options.only === undefined || options.only === measure;

if (options.help === true) process.stdout.write(help);
else if (process.platform !== 'linux') process.stderr.write('perf reads CPU times from /proc and runs on Linux only\n');
else await main();

async function main(): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'sallyport-perf-'));
  const app = spawn(process.execPath, [fileURLToPath(new URL('./app.ts', import.meta.url))], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const stacks: Stack[] = [];
  try {
    const site = await prepare(dir, app);
    stacks.push(await startOurs(site));
    for (const [command, start] of [
      ['nginx', startNginx],
      ['haproxy', startHaproxy],
    ] as const) {
      if (isInstalled(command)) stacks.push(await start(site));
      else
        process.stderr.write(`${command} is not installed here and is left out (Debian: apt-get install ${command})\n`);
    }
    await measureAll(stacks, site);
    print();
    if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`);
  } finally {
    await Promise.all(stacks.flatMap(({ inbound, outbound }) => [inbound.stop(), outbound.stop()]));
    app.kill();
    rmSync(dir, { recursive: true, force: true });
  }
}

async function prepare(dir: string, app: ReturnType<typeof spawn>): Promise<Site> {
  const authority = await createAuthority('perf.test');
  const client = await createCredential(authority, 'spiffe://perf.test/ns/shop/sa/client', {
    dns: ['client.perf.test'],
  });
  const server = await createCredential(authority, 'spiffe://perf.test/ns/shop/sa/server', {
    dns: ['orders.perf.test'],
  });
  const own = createHash('sha1').update(client.chain[0]!).digest('hex');
  const others = Array.from({ length: 99 }, () => randomBytes(20).toString('hex'));
  const ports = await new Promise<Site['app']>((resolve) =>
    app.stdout!.once('data', (text: Buffer) => resolve(JSON.parse(text.toString()) as Site['app'])),
  );
  return {
    dir,
    app: ports,
    client,
    server,
    caPem: authority.bundlePem,
    allowed: [...others.slice(0, 50), own, ...others.slice(50)],
  };
}

async function measureAll(stacks: readonly Stack[], site: Site): Promise<void> {
  const memory = (): [string, number][] =>
    stacks.map((one) => [one.name, Math.max(one.inbound.rssMb(), one.outbound.rssMb())]);
  if (wants('rss-mb-idle')) compare('rss-mb-idle', memory());
  // The first load of all: what a process holds is also what it held for 256 connections an hour ago.
  if (wants('rss-mb-loaded')) {
    for (const stack of stacks) await measureHttp(stack, plan.loadedAfter, 32);
    compare('rss-mb-loaded', memory());
  }
  if (wants('http1-cpu-us-per-request')) await measureHttps(stacks);
  if (wants('handshake-cpu-us'))
    compare('handshake-cpu-us', await inTurn(stacks, (stack) => measureHandshake(stack, site, plan.handshakes)));
  if (wants('tcp-cpu-ms-per-gb'))
    compare('tcp-cpu-ms-per-gb', await inTurn(stacks, (stack) => measureTcp(stack, plan.tcpBytes)));
  if (wants('decision-us')) rows.push({ measure: 'decision-us', ours: round(await measureDecisionUs(1000)) });
}

async function measureHttps(stacks: readonly Stack[]): Promise<void> {
  for (const stack of stacks) await measureHttp(stack, plan.requests, 32);
  for (const inFlight of plan.inFlight) {
    const count = inFlight === 1 ? plan.requests / 4 : plan.requests;
    const figures = new Map<string, HttpFigures[]>(stacks.map((one) => [one.name, []]));
    for (let i = 0; i < plan.rounds; i++)
      for (const stack of stacks) figures.get(stack.name)!.push(await measureHttp(stack, count, inFlight));
    const middle = (key: keyof HttpFigures): [string, number][] =>
      [...figures].map(([name, list]) => [name, median(list.map((one) => one[key]))]);
    compare('http1-cpu-us-per-request', middle('cpuUs'), inFlight);
    compare('http1-requests-per-second', middle('requestsPerSecond'), inFlight);
    compare('http1-p50-ms', middle('p50'), inFlight);
    compare('http1-p99-ms', middle('p99'), inFlight);
  }
}

async function inTurn(
  stacks: readonly Stack[],
  measure: (stack: Stack) => Promise<number | undefined>,
): Promise<[string, number][]> {
  const found = new Map<string, number[]>();
  for (let i = 0; i < plan.rounds; i++) {
    for (const stack of stacks) {
      const figure = await measure(stack);
      if (figure !== undefined) found.set(stack.name, [...(found.get(stack.name) ?? []), figure]);
    }
  }
  return [...found].map(([name, list]) => [name, median(list)]);
}

function compare(measure: string, figures: readonly [string, number][], inFlight?: number): void {
  const ours = figures.find(([name]) => name === 'ours')![1];
  const base = { measure, ...(inFlight === undefined ? {} : { inFlight }), ours: round(ours) };
  const peers = figures.filter(([name]) => name !== 'ours');
  if (peers.length === 0) rows.push(base);
  for (const [peer, theirs] of peers) rows.push({ ...base, peer, theirs: round(theirs), ratio: round(ours / theirs) });
}

function print(): void {
  const cells = rows.map((row) =>
    [row.measure, row.inFlight ?? '', row.ours, row.peer ?? '', row.theirs ?? '', row.ratio ?? '', verdict(row)].map(
      String,
    ),
  );
  const head = ['measure', 'in flight', 'ours', 'peer', 'theirs', 'ratio', 'reach'];
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]!.length)));
  for (const row of [head, ...cells])
    process.stdout.write(
      `${row
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join('  ')
        .trimEnd()}\n`,
    );
}

function verdict(row: Row): string {
  const wanted = reach[row.measure];
  if (wanted === undefined || (wanted.inFlight !== undefined && wanted.inFlight !== row.inFlight)) return '';
  if (wanted.most !== undefined)
    return row.ours <= wanted.most ? `<= ${wanted.most} holds` : `<= ${wanted.most} missed`;
  if (row.peer !== 'nginx' || row.ratio === undefined) return '';
  return row.ratio <= wanted.ratio! ? `<= ${wanted.ratio} holds` : `<= ${wanted.ratio} missed`;
}

function median(list: readonly number[]): number {
  const sorted = list.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

function round(value: number): number {
  return Number(value.toPrecision(3));
}

// `npm run perf`: our built pair and the peers that are installed here, in one run, on the same work, in turn (A B A B) so
// that a machine that gets slower gets slower for all. Prints ratios; never a test.

import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createAuthority, createCredential } from '../test/fixtures/pki.ts';
import { startEnvoy } from './envoy.ts';
import { startHaproxy } from './haproxy.ts';
import { startNginx } from './nginx.ts';
import { startOurs } from './ours.ts';
import { isInstalled } from './process.ts';
import type { Site, Stack } from './stack.ts';
import { formatMarkdown, formatSvg, formatText, type Table } from './table.ts';
import { measures, type Plan } from './tables.ts';

const help = `Measures the built dist/ beside nginx, HAProxy and Envoy, those of them that are installed.

  npm run perf                                    everything, some twenty minutes
  npm run perf -- --quick                         a few minutes, coarser
  npm run perf -- --only http1-cpu,decision       some of it
  npm run perf -- --out results                   each table as Markdown, JSON and SVG as well
  npm run perf -- --before ../earlier             and another checkout's dist/, in turns with ours

Options: --quick, --only MEASURE[,MEASURE], --out DIR, --before DIR, --help
Measures: ${Object.keys(measures).join(', ')}
`;

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean' },
    only: { type: 'string' },
    out: { type: 'string' },
    before: { type: 'string' },
    help: { type: 'boolean' },
  },
});

const quickly: Plan = {
  ...{ rounds: 2, requests: 15_000, inFlight: [32], handshakes: 400, tcpBytes: 128 * 2 ** 20 },
  ...{ bigBodies: 100, idle: 1000, rateSeconds: 3, loadedAfter: 60_000 },
};
const wholly: Plan = {
  ...{ rounds: 5, requests: 40_000, inFlight: [1, 8, 32, 256, 512], handshakes: 1500, tcpBytes: 2 ** 30 },
  ...{ bigBodies: 500, idle: 10_000, rateSeconds: 8, loadedAfter: 1_000_000 },
};

if (options.help === true) process.stdout.write(help);
else if (process.platform !== 'linux') process.stderr.write('perf reads CPU times from /proc and runs on Linux only\n');
else await main(chosen());

/** The measures that were asked for; one that does not exist is said. */
function chosen(): string[] {
  const asked = options.only?.split(',') ?? Object.keys(measures);
  const unknown = asked.filter((one) => !(one in measures));
  if (unknown.length === 0) return asked;
  process.stderr.write(`there is no measure ${unknown.join(', ')}: ${Object.keys(measures).join(', ')}\n`);
  process.exit(2);
}

async function main(names: readonly string[]): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'sallyport-perf-'));
  const app = spawn(process.execPath, [fileURLToPath(new URL('./app.ts', import.meta.url))], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const stacks: Stack[] = [];
  try {
    const site = await prepare(dir, app);
    stacks.push(await startOurs(site));
    if (options.before !== undefined) stacks.push(await startOurs(site, 'before', resolve(options.before)));
    for (const [command, start] of [
      ['nginx', startNginx],
      ['haproxy', startHaproxy],
      ['envoy', startEnvoy],
    ] as const) {
      if (isInstalled(command)) stacks.push(await start(site));
      else process.stderr.write(`${command} is not installed here and is left out\n`);
    }
    for (const name of names)
      for (const table of await measures[name]!({
        stacks,
        site,
        plan: options.quick === true ? quickly : wholly,
        before: options.before,
      })) {
        process.stdout.write(`${formatText(table)}\n`);
        if (options.out !== undefined) write(options.out, table);
      }
  } finally {
    await Promise.all(stacks.flatMap(({ inbound, outbound }) => [inbound.stop(), outbound.stop()]));
    app.kill();
    rmSync(dir, { recursive: true, force: true });
  }
}

function write(directory: string, table: Table): void {
  mkdirSync(directory, { recursive: true });
  const at = (extension: string): string => join(directory, `${table.name}.${extension}`);
  writeFileSync(at('md'), formatMarkdown(table));
  writeFileSync(at('json'), `${JSON.stringify(table, null, 2)}\n`);
  writeFileSync(at('svg'), formatSvg(table));
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

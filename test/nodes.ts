// The suites that hang on what a Node shows of a handshake, under each Node that we say we run on: the pinned one, the
// one that `npm i node@24` gives (24.21 hides what a client presented where a context has `ca`), and the newest 26.
//
//   npm run test:nodes
//
// The binaries are kept in node_modules/.cache. A Node that cannot be had fails the run: what was not tried is not
// proven.

import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const suites = [
  ...['test/identity/*.test.ts', 'test/protocol/*.test.ts'],
  ...['test/proxy/{peers,federation,resumption}.test.ts'],
  ...['test/attacks/{our-verdict-on-a-chain-is-complete,tls-12-is-not-renegotiated}.test.ts'],
];
/** What npm calls a Node for this machine. */
const packageName = `node-${process.platform}-${process.arch}`;

interface Counts {
  readonly total: number;
  readonly pass: number;
  readonly fail: number;
}

/** Stable versions of Node 26 that npm has, the newest one. @throws Error where npm does not answer. */
function newest26(): string {
  const asked = spawnSync('npm', ['view', 'node', 'versions', '--json'], { encoding: 'utf8', cwd: root });
  if (asked.status !== 0) throw new Error(`npm does not say which versions of Node there are: ${asked.stderr.trim()}`);
  const versions = (JSON.parse(asked.stdout) as string[]).filter((one) => /^26\.\d+\.\d+$/.test(one));
  const newest = versions.toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
  if (newest === undefined) throw new Error('npm has no Node 26');
  return newest;
}

/** The path of that Node, which is fetched where it is not here yet. @throws Error where it cannot be had. */
function binaryOf(version: string): string {
  if (version === process.versions.node) return process.execPath;
  const directory = join(root, 'node_modules', '.cache', 'nodes', version);
  const binary = join(directory, 'node_modules', packageName, 'bin', 'node');
  if (!existsSync(binary)) {
    mkdirSync(directory, { recursive: true });
    const options = ['--no-save', '--no-audit', '--no-fund', '--loglevel=error', '--prefix', directory];
    const done = spawnSync('npm', ['install', ...options, `${packageName}@${version}`], {
      encoding: 'utf8',
      cwd: directory,
    });
    if (done.status !== 0) throw new Error(`Node ${version} cannot be fetched: ${done.stderr.trim()}`);
  }
  const said = spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout?.trim();
  if (said !== `v${version}`) throw new Error(`${binary} is ${said ?? 'nothing'}, not v${version}`);
  return binary;
}

/** Runs the suites under one Node; tap runs each test with the Node that it runs under itself. */
function runUnder(version: string): Counts {
  const files = suites.flatMap((pattern) => globSync(pattern, { cwd: root })).toSorted();
  const tap = join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs');
  const { stdout, status } = spawnSync(binaryOf(version), [tap, 'run', '--reporter=tap', ...files], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const summary = [...stdout.matchAll(/^# (\{ total: \d+.*\})$/gm)].at(-1)?.[1] ?? '';
  const number = (name: string): number => Number(new RegExp(`\\b${name}: (\\d+)`).exec(summary)?.[1] ?? 0);
  const counts = { total: number('total'), pass: number('pass'), fail: number('fail') };
  const isGood = status === 0 && counts.pass > 0 && counts.fail === 0;
  console.log(`Node ${version}: ${counts.pass} passed, ${counts.fail} failed, in ${files.length} files`);
  if (!isGood)
    console.log(
      stdout
        .split('\n')
        .filter((line) => /^\s*not ok/.test(line))
        .join('\n'),
    );
  // A run that ended without a failure of its own, but not well, is one failure.
  return isGood || counts.fail > 0 ? counts : { ...counts, total: counts.total + 1, fail: 1 };
}

const all: Counts[] = [];
for (const find of [() => '24.20.0', () => '24.21.0', newest26]) {
  try {
    all.push(runUnder(find()));
  } catch (error) {
    console.log(error instanceof Error ? error.message : error);
    all.push({ total: 1, pass: 0, fail: 1 });
  }
}
const sum = (name: keyof Counts): number => all.reduce((so, one) => so + one[name], 0);
console.log(`# { total: ${sum('total')}, pass: ${sum('pass')}, fail: ${sum('fail')} }`);
process.exitCode = sum('fail') === 0 ? 0 : 1;

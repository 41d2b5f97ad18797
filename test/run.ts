// Runs the tests: one line for each file, and at the end the first failed assertion of each file that failed. The
// complete TAP is kept in .tap/last.tap.
//
//   npm test
//   npm test -- test/proxy/*.test.ts
//   npm run test:quick
//
// Exit codes: 0 all passed, 1 a test failed, 2 nothing was run.

import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const kept = join(root, '.tap');
/** Seconds of each file in the last complete run. */
const timesFile = join(kept, 'seconds.json');
const linesOfFailure = 24;

/** Tests without processes and timers. */
const quick = [
  ...['base', 'compile', 'config', 'documents', 'exchange', 'policy', 'protocol', 'routing', 'schema', 'tokens'],
];

interface Failure {
  readonly file: string;
  readonly lines: readonly string[];
}

interface Result {
  readonly failures: readonly Failure[];
  readonly seconds: Readonly<Record<string, number>>;
  /** The last line with the sums, as tap prints it. */
  readonly summary: string | undefined;
}

/** Paths from the root. Without arguments all. */
function filesOf(args: readonly string[]): string[] {
  const isQuick = args.includes('--quick');
  const given = args.filter((one) => one !== '--quick').map((one) => relative(root, one));
  const patterns = given.length > 0 ? given : isQuick ? quick.map((one) => `test/${one}/**/*.test.ts`) : undefined;
  return globSync(patterns ?? ['test/**/*.test.ts'], { cwd: root }).toSorted();
}

function readTimes(): Readonly<Record<string, number>> {
  try {
    return JSON.parse(readFileSync(timesFile, 'utf8')) as Record<string, number>;
  } catch {
    return {};
  }
}

/** Prints a line for each file as it ends. */
async function follow(child: ChildProcess, count: number): Promise<Result> {
  const tap = createWriteStream(join(kept, 'last.tap'));
  const failures: Failure[] = [];
  const seconds: Record<string, number> = {};
  let summary: string | undefined;
  let done = 0;
  let first: string[] | undefined;
  for await (const line of createInterface({ input: child.stdout! })) {
    tap.write(`${line}\n`);
    // The innermost assertion comes before the tests around it.
    if (first === undefined ? /^ *not ok (?!.*# (?:TODO|SKIP))/.test(line) : first.length < linesOfFailure)
      first = [...(first ?? []), line];
    if (/^# \{ total: \d+/.test(line)) summary = line;
    const ended = /^(not )?ok \d+ - (\S+)(?: # (?:time=([\d.]+)ms|(.*)))?$/.exec(line);
    if (ended === null) continue;
    const [, failed, file = '', ms, why] = ended;
    if (ms !== undefined) seconds[file] = Number(ms) / 1000;
    const time = ms === undefined ? (why ?? '') : `${(Number(ms) / 1000).toFixed(1)} s`;
    console.log(`${failed === undefined ? '    ok' : 'not ok'} ${`${++done}/${count}`.padStart(7)} ${file} ${time}`);
    if (failed !== undefined) failures.push({ file, lines: first ?? [line] });
    first = undefined;
  }
  await new Promise((resolve) => tap.end(resolve));
  return { failures, seconds, summary };
}

/** How long it takes, by the last run of the same files. */
function announce(files: readonly string[], times: Readonly<Record<string, number>>): void {
  const known = files.flatMap((file) => times[file] ?? []);
  const sum = known.reduce((a, b) => a + b, 0);
  // Three files run at once: see jobs in .taprc.
  const minutes = Math.ceil(((sum / known.length) * (files.length / 3)) / 60);
  const span = known.length === 0 ? 'all of them take ten to twenty minutes' : `about ${minutes} min, as last time`;
  console.log(`${files.length} files (${span}); the complete output is written to .tap/last.tap`);
}

const files = filesOf(process.argv.slice(2));
if (files.length === 0) {
  console.error('no test file matches; for example: npm test -- test/proxy/*.test.ts');
  process.exit(2);
}
mkdirSync(kept, { recursive: true });
const times = readTimes();
announce(files, times);
const tapProgram = join(root, 'node_modules', '.bin', 'tap');
// A process group of its own, so that nothing of it is left behind.
const child = spawn(tapProgram, ['run', '--reporter=tap', ...files], {
  cwd: root,
  stdio: ['ignore', 'pipe', 'inherit'],
  detached: true,
});
const endAll = (): void => {
  try {
    process.kill(-child.pid!, 'SIGKILL');
  } catch {
    // All of them have ended.
  }
};
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => {
    endAll();
    process.exit(1);
  });
const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
const { failures, seconds, summary } = await follow(child, files.length);
const code = await ended;
endAll();
writeFileSync(timesFile, `${JSON.stringify({ ...times, ...seconds }, undefined, 1)}\n`);
for (const { file, lines } of failures) console.log(`\n${file}\n${lines.join('\n')}`);
if (failures.length > 0)
  console.log(`\n${failures.length} of ${files.length} files failed: ${failures.map(({ file }) => file).join(' ')}`);
console.log(summary ?? 'the test runner printed no summary');
process.exit(code === 0 && failures.length === 0 && summary !== undefined ? 0 : 1);

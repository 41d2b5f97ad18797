// Runs the tests: one line for each file, and at the end the first failed assertion of each file that failed. The
// complete TAP is kept in .tap/last.tap.
//
//   npm test
//   npm test -- test/proxy/*.test.ts
//   npm run test:quick
//
// Files of one directory share a process (test/run-files.ts). After a file that failed, the rest of its group gets
// a new one.
//
// Exit codes: 0 all passed, 1 a test failed, 2 nothing was run.

import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const given = parseArgs({
  allowPositionals: true,
  options: { quick: { type: 'boolean', default: false }, results: { type: 'string', default: join(root, '.tap') } },
});
/** Where the results are kept; `--results` for tests of this program. */
const kept = given.values.results;
/** Seconds of each file in its last run. */
const timesFile = join(kept, 'seconds.json');
const runFiles = join(root, 'test', 'run-files.ts');
const compileCache = join(root, 'node_modules', '.cache', 'node');
const linesOfFailure = 24;
/** More than the cores of a small machine, because tests also wait. */
const jobs = 4;
const filesOfGroup = 10;
/** After this silence of a process, longer than the time limit of a file, it hangs and is killed. */
const silenceMs = 330_000;

/** Tests without processes and timers. */
const quick = [
  ...['base', 'compile', 'config', 'documents', 'exchange', 'policy', 'protocol', 'routing', 'schema', 'tokens'],
];

/** What takes longest: each has a process of its own. These start first when nothing is known from an earlier run. */
const slow = [
  ...['examples/two-services', 'examples/gateway', 'journeys/issuer-and-root-rotate-under-load', 'cli/policy'],
  ...['process/exec', 'attacks/the-ledger-shows-every-edit', 'attacks/no-background-job-ends-the-process'],
  ...['attacks/all-workers-serve-the-same', 'cli/gateway', 'ca/backup/backup', 'edge/cache/redis', 'readme', 'package'],
  ...['journeys/a-ca-is-backed-up-while-it-runs-and-restored', 'journeys/ordinary-clients-verify-names'],
  ...['journeys/everything-stopped-for-longer-than-a-leafs-life-starts-again', 'gateway/in-force', 'cli/openapi'],
  ...['journeys/a-ca-killed-at-any-moment-forgets-nothing', 'policy/transaction-token', 'config/bad-input'],
].map((name) => `test/${name}.test.ts`);

/** Seconds that a file takes when nothing is known about it. */
const [slowSeconds, usualSeconds] = [30, 2];

interface Counts {
  total: number;
  pass: number;
  fail?: number;
  todo?: number;
  skip?: number;
}

interface Result {
  readonly file: string;
  readonly ok: boolean;
  /** Seconds, or why it was skipped or has failed. */
  readonly time: number | string;
  readonly counts: Counts;
  readonly lines: readonly string[];
}

/** Paths from the root. Without arguments all. */
function readFiles(): string[] {
  const named = given.positionals.map((one) => relative(root, one));
  const ofKind = given.values.quick ? quick.map((one) => `test/${one}/**/*.test.ts`) : ['test/**/*.test.ts'];
  return globSync(named.length > 0 ? named : ofKind, { cwd: root }).toSorted();
}

function readTimes(): Readonly<Record<string, number>> {
  try {
    return JSON.parse(readFileSync(timesFile, 'utf8')) as Record<string, number>;
  } catch {
    return {};
  }
}

/** Files of one directory, always the same ones together; those that take longest come first. */
function groupsOf(files: readonly string[], secondsOf: (file: string) => number): string[][] {
  const byDirectory = Map.groupBy(files, (file) =>
    slow.includes(file) ? file : file.split('/').slice(0, 2).join('/'),
  );
  const groups = [...byDirectory.values()].flatMap((inOne) => {
    const count = Math.ceil(inOne.length / filesOfGroup);
    return Array.from({ length: count }, (_, index) => inOne.filter((_, at) => at % count === index));
  });
  const sum = (group: readonly string[]): number => group.reduce((sum, file) => sum + secondsOf(file), 0);
  return groups.toSorted((a, b) => sum(b) - sum(a));
}

const running = new Set<ChildProcess>();

/** Ends a test process and what it has started and left. */
function end(child: ChildProcess): void {
  running.delete(child);
  try {
    process.kill(-child.pid!, 'SIGKILL');
  } catch {
    // All of them have ended.
  }
}

/** Runs one process, and reports each file as it ends. Resolves with the files that did not get their turn. */
async function runGroup(
  job: number,
  files: readonly string[],
  report: (result: Result) => void,
): Promise<readonly string[]> {
  const child = spawn(process.execPath, [runFiles, ...files], {
    cwd: root,
    // A process group of its own, so that nothing of it is left behind.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: {
      NODE_COMPILE_CACHE: compileCache,
      ...process.env,
      TAP: '1',
      TAP_JOB_ID: String(job),
      TAP_JOBS: String(jobs),
    },
  });
  running.add(child);
  const patience = setTimeout(() => end(child), silenceMs);
  let printed: string[] = [];
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    process.stderr.write(text);
    printed.push(...text.trimEnd().split('\n'));
  });
  const ended = new Promise<string | undefined>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => {
      end(child);
      resolve(code === 0 ? undefined : `the process ended with ${signal ?? code}`);
    });
  });
  let lines: string[] = [];
  let last: { ok: boolean; time: number | string } | undefined;
  let done = 0;
  let failed = false;
  for await (const line of createInterface({ input: child.stdout! })) {
    patience.refresh();
    lines.push(line);
    const result = /^(not )?ok \d+ - \S+ # (?:time=([\d.]+)ms|(.*))$/.exec(line);
    if (result !== null)
      last = { ok: result[1] === undefined, time: result[2] ? Number(result[2]) / 1000 : result[3]! };
    const counts = /^# (\{ total: .*\})$/.exec(line)?.[1];
    if (counts === undefined || last === undefined) continue;
    failed ||= !last.ok;
    report({ file: files[done++]!, ...last, counts: readCounts(counts, last), lines });
    [lines, printed, last] = [[], [], undefined];
  }
  const why = await ended;
  clearTimeout(patience);
  if (!failed && (why !== undefined || done < files.length)) {
    // An error after the last file's end is counted as that of the last file.
    const file = files[Math.min(done++, files.length - 1)]!;
    const time = why ?? 'the process ended too early';
    report({
      file,
      ok: false,
      time,
      counts: { total: 1, pass: 0, fail: 1 },
      lines: [...lines, `# ${time}`, ...printed],
    });
  }
  return files.slice(done);
}

function readCounts(text: string, { time }: { time: number | string }): Counts {
  const counts = JSON.parse(text.replace(/(\w+):/g, '"$1":')) as Counts;
  return typeof time === 'string' && counts.total === 0 ? { total: 1, pass: 0, skip: 1 } : counts;
}

/** The innermost assertion that failed, which comes before the tests around it. */
function firstFailure(lines: readonly string[]): readonly string[] {
  const at = lines.findIndex((line) => /^ *not ok (?!.*# (?:TODO|SKIP))/.test(line));
  return at < 0 ? lines.slice(-linesOfFailure) : lines.slice(at, at + linesOfFailure);
}

const files = readFiles();
if (files.length === 0) {
  console.error('no test file matches; for example: npm test -- test/proxy/*.test.ts');
  process.exit(2);
}
mkdirSync(kept, { recursive: true });
const times: Record<string, number> = { ...readTimes() };
const groups = groupsOf(files, (file) => times[file] ?? (slow.includes(file) ? slowSeconds : usualSeconds));
announce();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => {
    for (const child of running) end(child);
    process.exit(1);
  });

const tap = createWriteStream(join(kept, 'last.tap'));
const sums = { total: 0, pass: 0, fail: 0, todo: 0, skip: 0 };
const failures: Result[] = [];
const done = new Set<string>();
await Promise.all(Array.from({ length: jobs }, (_, job) => work(job)));
await new Promise((resolve) => tap.end(resolve));
writeFileSync(timesFile, `${JSON.stringify(times, undefined, 1)}\n`);
for (const { file, lines } of failures) console.log(`\n${file}\n${firstFailure(lines).join('\n')}`);
if (failures.length > 0)
  console.log(`\n${failures.length} of ${files.length} files failed: ${failures.map(({ file }) => file).join(' ')}`);
const named = Object.entries(sums).filter(([name, value]) => value > 0 || name === 'total' || name === 'pass');
console.log(`# { ${named.map(([name, value]) => `${name}: ${value}`).join(', ')} }`);
process.exit(failures.length === 0 && done.size === files.length ? 0 : 1);

async function work(job: number): Promise<void> {
  for (let group = groups.shift(); group !== undefined; group = groups.shift()) {
    const rest = await runGroup(job, group, report);
    if (rest.length > 0) groups.unshift([...rest]);
  }
}

function report(result: Result): void {
  const { file, ok, time, counts, lines } = result;
  tap.write(`${lines.join('\n')}\n`);
  for (const name of ['total', 'pass', 'fail', 'todo', 'skip'] as const) sums[name] += counts[name] ?? 0;
  if (typeof time === 'number') times[file] = time;
  if (!ok) failures.push(result);
  const number = `${done.add(file).size}/${files.length}`.padStart(7);
  console.log(
    `${ok ? '    ok' : 'not ok'} ${number} ${file} ${typeof time === 'number' ? `${time.toFixed(1)} s` : time}`,
  );
}

/** How long it takes: by the last run, or by one on two cores. */
function announce(): void {
  const known = files.flatMap((file) => times[file] ?? []);
  const seconds = (known.reduce((a, b) => a + b, 0) / known.length) * (files.length / jobs);
  const last =
    seconds < 60 ? `about ${Math.ceil(seconds)} s, as last time` : `about ${Math.ceil(seconds / 60)} min, as last time`;
  const first = files.length > 100 ? 'about 9 min on two cores' : 'all of them take about 9 min on two cores';
  console.log(
    `${files.length} files (${known.length === 0 ? first : last}); the complete output is written to .tap/last.tap`,
  );
}

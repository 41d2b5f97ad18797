// The program that runs the tests: nothing that failed passes, and nothing that was started is left.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { startProcess, tempDir, until } from './fixtures/process.ts';

const program = fileURLToPath(new URL('run.ts', import.meta.url));
const fixture = JSON.stringify(new URL('fixtures/process.ts', import.meta.url).href);

/** Runs test files with these texts, by name. */
function start(t: Test, texts: Readonly<Record<string, string>>) {
  const dir = tempDir(t);
  const files = Object.entries(texts).map(([name, text]) => {
    writeFileSync(join(dir, `${name}.test.ts`), `import t from 'tap';\n${text}`);
    return join(dir, `${name}.test.ts`);
  });
  return startProcess(t, process.execPath, [program, '--results', dir, ...files]);
}

const passes = `t.test('it', async (t) => t.pass());`;

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

t.test('all pass', async (t) => {
  const run = start(t, { a: passes, b: passes, c: `t.plan(0, 'no such tool');` });
  t.equal(await run.exited, 0, run.stderr());
  t.match(run.stdout(), /^ +ok +1\/3 \S+a\.test\.ts [\d.]+ s$/m);
  t.match(run.stdout(), /^ +ok +3\/3 \S+c\.test\.ts SKIP no such tool$/m);
  t.match(run.stdout(), /^# \{ total: 3, pass: 2, skip: 1 \}$/m);
});

const failing: readonly (readonly [name: string, text: string, reason: RegExp])[] = [
  ['an assertion', `t.test('it', async (t) => t.equal(1, 2));`, /not ok 1 - should be equal[\s\S]*lineNumber: 2/],
  ['an error outside of every test', `throw new Error('outside');`, /not ok 1 - outside/],
  [
    'an error in a callback',
    `t.test('it', () => new Promise(() => { setTimeout(() => { throw new Error('in a timer'); }); }));`,
    /not ok 1 - in a timer/,
  ],
  [
    'a promise that nobody waits for',
    `t.test('it', () => new Promise(() => { void Promise.reject(new Error('unseen')); }));`,
    /not ok 1 - unseen/,
  ],
  ['a module that does not exist', `import './nothing.ts';`, /Cannot find module/],
  ['an exit without an error', `t.test('it', async () => process.exit(0));`, /test unfinished/],
  ['an exit before the first test', 'process.exit(0);', /test unfinished/],
  ['a crash', `t.test('it', async () => process.kill(process.pid, 'SIGSEGV'));`, /the process ended with SIGSEGV/],
  ['a test that waits for nothing', `t.test('it', () => new Promise(() => {}));`, /test unfinished/],
  ['a missing assertion', `t.test('it', async (t) => t.plan(1));`, /test unfinished|count of 0 != plan of 1/],
];
for (const [name, text, reason] of failing)
  t.test(`${name} fails its file, and no other`, async (t) => {
    const run = start(t, { a: passes, b: text, c: passes });
    t.equal(await run.exited, 1);
    t.match(run.stdout(), reason);
    t.match(run.stdout(), /^ +ok +1\/3 \S+a\.test\.ts/m);
    t.match(run.stdout(), /^not ok +2\/3 \S+b\.test\.ts/m);
    t.match(run.stdout(), /^ +ok +3\/3 \S+c\.test\.ts/m);
    t.match(run.stdout(), /^1 of 3 files failed: \S+b\.test\.ts$/m);
  });

t.test('an error after the end of the last test', async (t) => {
  const late = `t.test('it', async (t) => { t.pass(); setTimeout(() => { throw new Error('late'); }, 50).ref(); });`;
  const run = start(t, { a: late });
  t.equal(await run.exited, 1);
  t.match(run.stdout(), /^not ok \d+ - late$/m);
});

t.test('nothing to run', async (t) => {
  const run = startProcess(t, process.execPath, [program, '--results', tempDir(t), 'test/nothing.test.ts']);
  t.equal(await run.exited, 2);
});

/** Prints the process ID of a process that would run for an hour. */
const startsOne = `const { startProcess } = await import(${fixture});
const child = startProcess({ teardown() {} }, 'sleep', ['3600']);
console.error('started', child.process.pid, 'in', process.pid);`;

t.test('a test that is killed leaves no process behind', async (t) => {
  const test = startProcess(t, process.execPath, ['--input-type=module', '--eval', startsOne]);
  const [, pid] = await test.waitFor(/started (\d+)/);
  t.ok(isAlive(Number(pid)));
  test.process.kill('SIGKILL');
  await until(() => !isAlive(Number(pid)), 'the end of the process');
});

t.test('tests whose runner is killed end too', async (t) => {
  const run = start(t, { a: `t.test('it', async () => { ${startsOne}; await new Promise(() => {}); });` });
  const [, pid, test] = await run.waitFor(/started (\d+) in (\d+)/);
  t.ok(isAlive(Number(pid)) && isAlive(Number(test)));
  run.process.kill('SIGKILL');
  await until(() => !isAlive(Number(pid)) && !isAlive(Number(test)), 'the end of both processes');
});

t.test('what a test did not end is ended after it', async (t) => {
  const run = start(t, {
    a: `${startsOne}\n${passes}\nchild.process.unref();\nfor (const one of ['stdin', 'stdout', 'stderr']) child.process[one].unref();`,
  });
  const [, pid] = await run.waitFor(/started (\d+)/);
  t.equal(await run.exited, 0, run.stdout());
  await until(() => !isAlive(Number(pid)), 'the end of the process');
});

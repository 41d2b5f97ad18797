// The demo as a process, and its README as a reader takes it: every command, in order, on free ports.

import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, globSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { nextCommands } from '../../examples/two-services/demo/next.ts';
import { findPorts, withPorts } from '../../examples/two-services/demo/ports.ts';
import { type Child, type Owner, startProcess, tempDir, until } from '../fixtures/process.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const example = join(root, 'examples', 'two-services');

const steps = [
  'the page of web, whose app asks orders',
  'allowed: GET, by Host',
  'allowed: GET, as with http_proxy',
  'allowed: GET, by the port of the upstream',
  'the same with a forbidden method: DELETE',
  'why, asked by the operator',
  'reports: a valid certificate, no rule',
  'no certificate',
  "web's name, certified by another CA",
  'a policy is added: reports may read',
  'reports is revoked',
  'both certificates rotate under load',
];

const missing = ['bash', 'curl'].filter((name) => spawnSync(name, ['--version']).status !== 0);
const skip = missing.length === 0 ? false : `there is no ${missing.join(' and no ')} here`;

// Each has processes and ports of its own.
t.jobs = 3;

t.test('the demo does what it should, and --keep leaves it running until the printed command', { skip }, async (t) => {
  const tmp = tempDir(t);
  const demo = startDemo(t, tmp, '--keep');
  t.equal(await demo.exited, 0, demo.stdout() + demo.stderr());
  const lines = demo.stdout().split('\n');
  for (const name of steps) {
    t.match(
      lines.find((line) => line.startsWith(`ok      ${name}  `)),
      /expected .+ got ./,
      name,
    );
  }
  t.equal(lines.filter((line) => /^(ok|FAILED) /.test(line)).length, steps.length, 'and no other step');
  t.match(demo.stdout(), / 0 failed of \d{2,}, /);
  const next = lines.filter((line) => /^ {2}(curl|http_proxy|npx)\b/.test(line));
  t.equal(next.length, 8);
  next.push(...nextCommands.map(([command]) => command).filter((command) => !command.startsWith('npm run demo')));
  for (const line of next) t.match(await runShell(t, line), { code: 0 }, line);
  t.match(await runShell(t, lines.find((line) => line.startsWith('  kill ')) ?? 'false'), { code: 0 });
  for (const pid of pidsIn(demo)) await until(() => !isRunning(pid), `process ${pid} to end`);
  t.same(demoDirsIn(tmp), []);
});

t.test('Ctrl-C leaves nothing behind', async (t) => {
  const tmp = tempDir(t);
  const demo = startDemo(t, tmp);
  await demo.waitFor(/started the CA/);
  t.equal(await demo.stop('SIGINT'), 130);
  t.same(pidsIn(demo).filter(isRunning), []);
  t.same(demoDirsIn(tmp), []);
});

t.test('the commands of the README do what it says', { skip }, async (t) => {
  const ports = await findPorts();
  const copy = join(tempDir(t), 'examples', 'two-services');
  mkdirSync(copy, { recursive: true });
  cpSync(join(example, 'policies'), join(copy, 'policies'), { recursive: true });
  for (const name of globSync('*.{ts,yaml}', { cwd: example })) {
    writeFileSync(join(copy, name), withPorts(readFileSync(join(example, name), 'utf8'), ports));
  }
  const blocks = readBlocks(withPorts(readFileSync(join(example, 'README.md'), 'utf8'), ports));
  const script = blocks.map(({ commands }, index) => `echo; echo '@@ ${index}'\n${commands}`).join('\n');
  // A reader looks at what went wrong; here every command has to go well.
  const { code, output } = await runShell(
    t,
    `trap 'kill $(jobs -p) 2>&- || true' EXIT; set -e\n${script}`,
    join(copy, '../..'),
  );
  t.equal(code, 0, output);
  for (const [index, { commands, expected }] of blocks.entries()) {
    const printed = output.split(`@@ ${index}\n`)[1]?.split('@@ ')[0] ?? '';
    for (const line of expected) t.match(printed, patternOf(line), `after ${commands}`);
  }
  t.same(readdirSync(copy).includes('run'), false, 'and its last command removes what the others made');
});

interface Block {
  readonly commands: string;
  /** Lines that it prints, in which `...` stands for anything. */
  readonly expected: readonly string[];
}

/** The `sh` blocks of a page, each with the `text` block that may follow it. */
function readBlocks(page: string): Block[] {
  return [...page.matchAll(/^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/gms)].map(([, commands, expected]) => ({
    commands: commands ?? '',
    expected: (expected ?? '').split('\n').filter(Boolean),
  }));
}

function patternOf(line: string): RegExp {
  return new RegExp(line.replace(/[^\w ]/g, '\\$&').replaceAll('\\.\\.\\.', '.+'));
}

function startDemo(t: Owner, tmp: string, ...args: string[]): Child {
  const demo = startProcess(t, process.execPath, [join(example, 'demo.ts'), ...args], { env: { TMPDIR: tmp } });
  t.teardown(() => {
    for (const pid of pidsIn(demo).filter(isRunning)) process.kill(pid, 'SIGKILL');
  });
  return demo;
}

/** Runs `script` in bash, where `npx` finds this clone's own commands without asking npm. */
async function runShell(t: Owner, script: string, cwd = root): Promise<{ code: number | null; output: string }> {
  const bin = tempDir(t);
  const npx = `#!/bin/sh\n[ "$1" = node ] && shift && exec '${process.execPath}' "$@"\n[ "$1" = sallyport ] && shift && exec '${process.execPath}' '${root}/sidecar/bin.mjs' "$@"\nexit 127\n`;
  writeFileSync(join(bin, 'npx'), npx);
  chmodSync(join(bin, 'npx'), 0o755);
  const env = { PATH: `${bin}:${process.env['PATH']}` };
  const shell = startProcess(t, 'bash', ['-c', script], { cwd, env });
  const code = await shell.exited;
  return { code, output: shell.stdout() + shell.stderr() };
}

function pidsIn(demo: Child): number[] {
  return [...demo.stdout().matchAll(/\(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

function demoDirsIn(directory: string): string[] {
  return readdirSync(directory).filter((name) => name.startsWith('sallyport-demo-'));
}

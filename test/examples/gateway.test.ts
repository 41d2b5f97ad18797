// Defence in depth as its README shows it: the tour with its layers one by one, and the commands beside it. And the
// gateway that the README of the whole shows first.

import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { startProcess, tempDir, until } from '../fixtures/process.ts';
import { patternOf, readBlocks, runBlocks } from '../fixtures/shell.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const example = join(root, 'examples', 'gateway');
const skip = spawnSync('bash', ['--version']).status === 0 ? false : 'there is no bash here';

t.jobs = 2;

t.test('the tour: each layer refuses what it is responsible for', { skip }, async (t) => {
  const blocks = readBlocks(readFileSync(join(example, 'README.md'), 'utf8'));
  t.equal(blocks.length, 2);
  const { code, output, printed } = await runBlocks(t, blocks, root);
  t.equal(code, 0, output);
  for (const [index, { expected }] of blocks.entries())
    for (const line of expected) t.match(printed[index], patternOf(line));
  const steps = printed[0]!.split('\n').filter((line) => /^(ok|FAILED) /.test(line));
  const said = blocks[0]!.expected.filter((line) => line.startsWith('ok '));
  t.equal(steps.length, said.length, 'no other step does');
});

t.test('Ctrl-C leaves nothing behind', async (t) => {
  const tmp = tempDir(t);
  const tour = startProcess(t, process.execPath, [join(example, 'tour.ts')], { env: { TMPDIR: tmp } });
  await tour.waitFor(/started the CA/);
  const pids = [...tour.stdout().matchAll(/\(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
  t.equal(await tour.stop('SIGINT'), 130);
  for (const pid of pids) await until(() => !isRunning(pid), `process ${pid} to end`);
  t.same(
    readdirSync(tmp).filter((name) => name.startsWith('sallyport-gateway-')),
    [],
  );
});

t.test('the gateway of the README and of GATEWAY.md is valid, and its routes have a backend', async (t) => {
  const readme = ['README.md', 'GATEWAY.md'].map((name) => readFileSync(join(root, name), 'utf8')).join('\n');
  const dir = tempDir(t);
  mkdirSync(join(dir, 'gateway'));
  const files = [...readme.matchAll(/^```yaml\n# (gateway\S*\.yaml)\n(.*?)^```/gms)];
  t.same(
    files.map(([, name]) => name),
    ['gateway.yaml', 'gateway/public-api.yaml', 'gateway/users.yaml', 'gateway/users.yaml', 'gateway/limits.yaml'],
  );
  const file = join(dir, 'gateway.yaml');
  // The second file of users stands in place of the first.
  for (const [index, count] of [
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 5],
  ] as const) {
    for (const [, name, text] of files.slice(0, index + 1)) writeFileSync(join(dir, name!), text!);
    const checked = await runCommand(t, ['gateway', '--config', file, '--check']);
    t.match(checked, {
      code: 0,
      stderr: new RegExp(`${count} documents with a status, all accepted and resolved`),
    });
  }
});

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

// From a clone to the first allowed request of one's own service, by the commands that README.md prints: the packages are
// fetched, the demo runs, and then the CA, the policy and two sidecars are made. `node perf/first-request.ts`; it needs the
// network, and the ports that README.md uses.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { firstRequest } from '../test/fixtures/first-request.ts';

const most = { commands: 12, seconds: 180 };

const root = fileURLToPath(new URL('..', import.meta.url));
const { commands, files, script } = firstRequest();
const place = mkdtempSync(join(tmpdir(), 'sallyport-first-'));
const clone = join(place, 'sallyport');
const begun = performance.now();
const steps: [name: string, seconds: number][] = [];

function step(name: string, command: string, cwd: string): string {
  const at = performance.now();
  const { status, stdout, stderr } = spawnSync('bash', ['-c', command], { cwd, encoding: 'utf8', maxBuffer: 2 ** 28 });
  steps.push([name, Math.round((performance.now() - at) / 100) / 10]);
  if (status !== 0) throw new Error(`${name} ended with ${status}:\n${stdout}${stderr}`);
  return stdout;
}

try {
  step('git clone', `git clone --quiet '${root}' '${clone}'`, place);
  step(commands[1]!, commands[1]!, clone);
  const printed = step('the first request', `trap 'kill $(jobs -p)' EXIT\n${script}`, clone);
  if (!printed.endsWith('two orders\n')) throw new Error(`the request was not allowed:\n${printed}`);
} finally {
  rmSync(place, { recursive: true, force: true });
}
const seconds = Math.round((performance.now() - begun) / 1000);
for (const [name, took] of steps) console.log(`${String(took).padStart(6)} s  ${name}`);
console.log(
  `${seconds} s, ${commands.length} commands and ${files.length} files (goal: ${most.seconds} s, ${most.commands})`,
);
process.exitCode = seconds < most.seconds && commands.length <= most.commands ? 0 : 1;

// From a clone to the first allowed request of one's own service, by the commands that README.md prints: the packages are
// fetched, the demo runs, and then the CA, the policy and two sidecars are made. `node perf/first-request.ts`; it needs the
// network, and the ports that README.md uses.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
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

/** What the command printed. Whatever it has left running ends with it: npx leaves its children behind. */
async function step(name: string, command: string, cwd: string): Promise<string> {
  const at = performance.now();
  const file = join(place, 'printed');
  const output = openSync(file, 'w');
  const shell = spawn('bash', ['-c', command], { cwd, detached: true, stdio: ['ignore', output, output] });
  const [code] = (await once(shell, 'exit')) as [number | null];
  closeSync(output);
  steps.push([name, Math.round((performance.now() - at) / 100) / 10]);
  try {
    process.kill(-shell.pid!, 'SIGKILL');
  } catch {
    // Nothing was left.
  }
  const printed = readFileSync(file, 'utf8');
  if (code !== 0) throw new Error(`${name} ended with ${code}:\n${printed}`);
  return printed;
}

try {
  await step('git clone', `git clone --quiet '${root}' '${clone}'`, place);
  await step(commands[1]!, commands[1]!, clone);
  const printed = await step('the first request', script, clone);
  if (!/^two orders$/m.test(printed)) throw new Error(`the request was not allowed:\n${printed}`);
} finally {
  rmSync(place, { recursive: true, force: true });
}
const seconds = Math.round((performance.now() - begun) / 1000);
for (const [name, took] of steps) console.log(`${String(took).padStart(6)} s  ${name}`);
console.log(
  `${seconds} s, ${commands.length} commands and ${files.length} files (goal: ${most.seconds} s, ${most.commands})`,
);
process.exitCode = seconds < most.seconds && commands.length <= most.commands ? 0 : 1;

// Certificates of a minute on every side, for as long as one likes: no 403, no 503, and no connection used past the end
// of a certificate behind it. Run by hand; Go peers take part where Go is installed.
//
//   node test/soak/rotation.ts [MINUTES, default 20] [LIFE in seconds, default 60]

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Owner } from '../fixtures/process.ts';
import { tempDir } from '../fixtures/process.ts';
import { faultsOf, runRotation } from '../fixtures/rotation.ts';

const [minutes = 20, life = 60] = process.argv.slice(2).map(Number);
const undo: (() => unknown)[] = [];
const owner: Owner = { teardown: (run) => undo.push(run) };
const program = join(tempDir(owner), 'peer');
const source = fileURLToPath(new URL('./peer.go', import.meta.url));
const built = spawnSync('go', ['build', '-o', program, source], { stdio: ['ignore', 'ignore', 'inherit'] });
if (built.status !== 0) process.stdout.write('without Go peers: there is no Go here\n');
const report = await runRotation(owner, {
  lifeMs: life * 1000,
  forMs: minutes * 60_000,
  ...(built.status === 0 ? { goPeer: program } : {}),
});
for (const [name, counts] of Object.entries(report.counts))
  process.stdout.write(`${name}: ${JSON.stringify(counts)}\n`);
const faults = faultsOf(report);
process.stdout.write(
  `${report.rotations} rotations; ${faults.length === 0 ? 'nothing went wrong' : faults.slice(0, 50).join('\n')}\n`,
);
for (const run of undo.toReversed()) await run();
process.exit(faults.length === 0 ? 0 : 1);

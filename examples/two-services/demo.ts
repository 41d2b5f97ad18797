// `npm run demo`: starts the CA, agents, two sidecars, two small services and a gateway, makes the tour, and exits
// with 0 only if every step did what it should. `--keep` leaves everything running.

import { parseArgs } from 'node:util';
import { sayNext, sayStillRunning } from './demo/next.ts';
import { say, sayOutcome } from './demo/print.ts';
import type { Step } from './demo/step.ts';
import { tourOf } from './demo/tour.ts';
import { note } from './demo/tour-log.ts';
import { endWorld, makeWorld, pageOf, startWorld, type World } from './demo/world.ts';

const keep = wantsToKeep();
if (keep === undefined) {
  say('usage: npm run demo [-- --keep]');
  process.exitCode = 2;
} else await demo(keep);

async function demo(keep: boolean): Promise<void> {
  const world = await makeWorld();
  endOnSignals(world);
  const failed = await demonstrate(world);
  // A signal came, and its handler ends the demo.
  if (world.processes.ended) return;
  process.exitCode = failed === 0 ? 0 : 1;
  if (failed === 0 && keep) return sayStillRunning(world);
  await endWorld(world, { keepFiles: failed !== 0 });
  if (failed === 0) sayNext();
  else say(`The logs of all processes are kept: ${world.directory}/run/*.log`);
}

/** Starts everything, makes the tour, and resolves to the number of failed steps. */
async function demonstrate(world: World): Promise<number> {
  const start = performance.now();
  try {
    const parts = await startWorld(world);
    say(`        ready after ${seconds(start)}; to watch in a browser: ${pageOf(world)}\n`);
    const steps = tourOf(world, parts);
    const failed = await runAll(steps, world);
    const verdict = failed === 0 ? 'Every step did what it should' : `${failed} of ${steps.length} steps FAILED`;
    if (world.processes.ended) return failed;
    note(world.directory, { type: 'end', verdict: `${verdict}.` });
    say(`\n${verdict}, ${seconds(start)} in all.`);
    return failed;
  } catch (error) {
    if (!world.processes.ended) say(`FAILED  the start: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

async function runAll(steps: readonly Step[], world: World): Promise<number> {
  let failed = 0;
  note(world.directory, { type: 'plan', steps });
  for (const [step, { name, expected, run }] of steps.entries()) {
    note(world.directory, { type: 'run', step });
    const [got, ok] = await run().catch((error: Error) => [error.message, false] as const);
    if (world.processes.ended) break;
    note(world.directory, { type: 'outcome', step, got, ok });
    sayOutcome({ name, expected, got, ok });
    if (!ok) failed++;
  }
  return failed;
}

function seconds(start: number): string {
  return `${((performance.now() - start) / 1000).toFixed(1)} s`;
}

/** However the demo ends, no process and no file stays behind. */
function endOnSignals(world: World): void {
  const codes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };
  for (const [signal, code] of Object.entries(codes)) {
    process.once(signal, () => void endWorld(world).finally(() => process.exit(code)));
  }
}

/** Undefined if the arguments are invalid. */
function wantsToKeep(): boolean | undefined {
  try {
    return parseArgs({ options: { keep: { type: 'boolean', default: false } } }).values.keep;
  } catch {
    return undefined;
  }
}

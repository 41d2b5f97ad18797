// Runs test files one after another in this process, each as a subtest of its name: they share what a process costs,
// half a second for loading the modules alone. Started by test/run.ts, with a channel.
//
// It stops after the first file that failed: what a failed test leaves behind must not fail the next file.

import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Test } from 'tap';
import { useOnlyPart } from '../examples/two-services/demo/ports.ts';

const timeoutMs = 300_000;

// tap names the directories of tests after the arguments, and a long list makes too long a name.
const files = process.argv.splice(2);

/** What `import t from 'tap'` gives to each file, by the file's URL. */
const tests = new Map<string, Test>();
const scheme = 'tap-of:';
const key = 'sallyport.tests';
const errors = new URL('fixtures/errors-of-tests.ts', import.meta.url).href;
Object.assign(globalThis, { [Symbol.for(key)]: tests });

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'async-hook-domain') return { url: errors, shortCircuit: true };
    const file = context.parentURL;
    if (specifier !== 'tap' || file === undefined || !tests.has(file)) return next(specifier, context);
    return { url: `${scheme}${file}`, format: 'module', shortCircuit: true };
  },
  load(url, context, next) {
    if (!url.startsWith(scheme)) return next(url, context);
    const file = JSON.stringify(url.slice(scheme.length));
    return {
      format: 'module',
      source: `export default globalThis[Symbol.for(${JSON.stringify(key)})].get(${file});`,
      shortCircuit: true,
    };
  },
});

// After the hooks above are in place.
const { default: root } = await import('tap');

// The variables are those of tap.
useOnlyPart(Number(process.env['TAP_JOB_ID'] ?? 0), Number(process.env['TAP_JOBS'] ?? 1));

// test/run.ts is gone, for example killed: everything that was started for it ends.
process.once('disconnect', () => process.kill(-process.pid, 'SIGKILL'));
process.channel?.unref();

const directory = fileURLToPath(new URL('..', import.meta.url));
// The time limit is that of each file.
root.setTimeout(0);
for (const file of files) {
  const { href } = pathToFileURL(join(directory, file));
  await root.test(file, { timeout: timeoutMs, at: null, stack: '' }, async (t) => {
    tests.set(href, t);
    await import(href);
  });
  const test = tests.get(href);
  root.comment(test?.counts.toJSON() ?? { total: 1, fail: 1 });
  if (test?.passing() !== true) process.exit(1);
}

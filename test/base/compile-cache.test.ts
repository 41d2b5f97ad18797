// The processes that we start use our compile cache.

import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { withCompileCache } from '../../cert-agent/base/compile-cache.ts';
import { startProcess, tempDir } from '../fixtures/process.ts';

const readApart = new URL('../../sidecar/config/read-apart.ts', import.meta.url).href;
const root = fileURLToPath(new URL('../..', import.meta.url));

/** How many modules the cache of a process has that reads a configuration in another. */
async function cachedBy(t: Test, start: string): Promise<number> {
  const dir = tempDir(t);
  const cache = join(dir, 'cache');
  mkdirSync(cache);
  const file = join(dir, 'sidecar.yaml');
  writeFileSync(file, 'trustDomain: demo.test\n');
  const script = `import { enableCompileCache } from 'node:module';
${start}
const { readApart } = await import('${readApart}');
await readApart('${file}').catch(({ message }) => console.log(message));`;
  const child = startProcess(t, process.execPath, ['--input-type=module', '-e', script, cache], {
    cwd: root,
    env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: undefined },
  });
  t.equal(await child.exited, 0, child.stderr());
  t.match(child.stdout(), /workload: is missing/);
  return readdirSync(cache, { recursive: true, withFileTypes: true }).filter((one) => one.isFile()).length;
}

t.test('the process that reads a configuration has the cache of the one that starts it', async (t) => {
  t.ok((await cachedBy(t, 'enableCompileCache(process.argv[1]);')) > 100, 'with the modules of both');
  t.equal(await cachedBy(t, ''), 0, 'and none where there is none');
});

t.test('an environment stays as it is in a process without a cache', async (t) => {
  const env = { A: 'b' };
  const kept = withCompileCache(env);
  t.equal(kept['A'], 'b');
  t.equal('NODE_COMPILE_CACHE' in env, false, 'it is not changed in place');
});

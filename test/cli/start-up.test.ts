// What a command loads, and so how long it takes to begin: the version needs no command, and a check of a policy nothing
// of the gateway.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Owner, startProcess, tempDir } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));
const hook = fileURLToPath(new URL('../fixtures/loaded-modules.mjs', import.meta.url));
const root = fileURLToPath(new URL('../../', import.meta.url));

/** Paths from the root of the modules that a command loads. */
async function loadedBy(t: Owner, args: readonly string[]): Promise<string[]> {
  const list = join(tempDir(t), 'loaded.txt');
  const child = startProcess(t, process.execPath, ['--import', hook, bin, ...args], { env: { LOADED_MODULES: list } });
  const code = await child.exited;
  if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}: ${child.stderr()}`);
  const urls = readFileSync(list, 'utf8')
    .split('\n')
    .filter((url) => url.startsWith('file:'));
  return urls.map((url) => fileURLToPath(url).replace(root, ''));
}

t.test('--version', async (t) => {
  const loaded = await loadedBy(t, ['--version']);
  t.strictSame(loaded.filter((path) => path.startsWith('sidecar/cli/')).toSorted(), [
    'sidecar/cli/terminal.ts',
    'sidecar/cli/version.ts',
  ]);
  t.ok(loaded.length < 25, `${loaded.length} modules`);
});

t.test('check of one policy', async (t) => {
  const file = join(tempDir(t), 'p.yaml');
  writeFileSync(
    file,
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: b }\nspec: { rules: [{}] }\n',
  );
  const loaded = await loadedBy(t, ['check', file]);
  const others = loaded.filter((path) =>
    /^sidecar\/(?:edge\/[^/]+\/|documents\/(?:gateway-api\/read|envoy-gateway)|process|protocol)|node_modules\/(?:ajv|undici|jose|pino|prom-client|@bufbuild)\//.test(
      path,
    ),
  );
  t.strictSame(others, []);
  t.ok(loaded.length < 260, `${loaded.length} modules`);
});

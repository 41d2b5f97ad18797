// Commands where a shell gives them little: no home, one that cannot be written, a locale without UTF-8, 40 columns.

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { allowAll } from '../fixtures/mesh.ts';
import { runSallyport, startProcess, tempDir } from '../fixtures/process.ts';

const bin = fileURLToPath(new URL('../../sidecar/bin.mjs', import.meta.url));

t.test('what is printed is the same without a home, and in any locale', async (t) => {
  const dir = tempDir(t);
  const policy = join(dir, 'policy.yaml');
  writeFileSync(policy, `# a name in UTF-8: \u00e9\u4e16\n${allowAll}`);
  const home = join(dir, 'home');
  mkdirSync(home);
  chmodSync(home, 0o555);
  const surroundings = [{ HOME: undefined }, { HOME: home }, { LANG: 'C', LC_ALL: 'C' }, { LANG: '', LC_ALL: 'POSIX' }];
  for (const args of [['--help'], ['explain', 'sidecar.inbound'], ['check', policy], ['schema', 'HTTPRoute']]) {
    const usual = await runSallyport(t, args);
    t.match(usual, { code: 0 }, args.join(' '));
    for (const env of surroundings) t.strictSame(await runSallyport(t, args, { env }), usual, JSON.stringify(env));
  }
  for (const [index, env] of surroundings.entries()) {
    const args = ['ca', 'init', '--trust-domain', 'demo.test', '--dir', join(dir, `ca${index}`)];
    t.match(await runSallyport(t, args, { env }), { code: 0 }, `${args.join(' ')} ${JSON.stringify(env)}`);
  }
});

const noScript = spawnSync('script', ['--version']).status !== 0;

t.test('a terminal of 40 columns', { skip: noScript ? 'there is no script here' : false }, async (t) => {
  for (const args of ['explain sidecar.inbound', 'explain', 'explain errors', 'explain HTTPRoute.spec.rules']) {
    const command = `stty cols 40; '${process.execPath}' '${bin}' ${args}`;
    const child = startProcess(t, 'script', ['-qec', command, '/dev/null'], { env: { COLUMNS: '40' } });
    child.process.stdin?.end();
    t.equal(await child.exited, 0, args);
    const lines = child.stdout().replaceAll('\r', '').split('\n');
    t.ok(lines.length > 5, `${args}: ${lines.length} lines`);
    // One long word has a line of its own, which the terminal breaks.
    t.strictSame(
      lines.filter((line) => line.length > 40 && !/^\s*\S+(?:\s+\S+)?$/.test(line)),
      [],
      args,
    );
  }
});

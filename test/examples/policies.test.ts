// The gallery of policies does what its README and its requests say, through the command that a reader would use.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { runFixtures } from '../../sidecar/analyze/fixtures.ts';

const root = fileURLToPath(new URL('../../examples/policies/', import.meta.url));
const readme = readFileSync(`${root}README.md`, 'utf8');
const folders = readdirSync(root, { withFileTypes: true })
  .filter((one) => one.isDirectory())
  .map(({ name }) => name);

for (const name of folders) {
  t.test(name, async (t) => {
    const { results, coverage } = await runFixtures([`${root}${name}/requests.yaml`], {});
    for (const one of results) t.ok(one.passed, `${one.name}${one.passed ? '' : `: ${one.difference}`}`);
    t.strictSame(
      coverage.filter(({ matched }) => matched === 0),
      [],
      'every rule is shown at work',
    );
    t.ok(readme.includes(`](${name}/policy.yaml)`), 'the README shows it');
  });
}

t.test('the policy tests pass as a reader runs them', async (t) => {
  const { NODE_OPTIONS: _, ...env } = process.env;
  const cli = fileURLToPath(new URL('../../sidecar/cli.ts', import.meta.url));
  const files = folders.map((name) => `${root}${name}/requests.yaml`);
  const out = execFileSync(process.execPath, [cli, 'policy', 'test', ...files], { env, encoding: 'utf8' });
  t.match(out, /^\d+ passed, 0 failed; (\d+) of \1 rules matched a request$/m);
});

// The alerts are valid, and ask for metrics and labels that exist.

import { spawnSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('../../', import.meta.url));
const file = join(root, 'examples/observability/alerts.yaml');

interface Rules {
  readonly groups: readonly { readonly rules: readonly { readonly alert: string; readonly expr: string }[] }[];
}

t.test('each alert asks for metrics that the source registers', async (t) => {
  const source = globSync('{sidecar,cert-agent}/**/*.ts', { cwd: root })
    .map((one) => readFileSync(join(root, one), 'utf8'))
    .join('\n');
  const { groups } = parse(readFileSync(file, 'utf8')) as Rules;
  const alerts = groups.flatMap(({ rules }) => rules);
  t.ok(alerts.length > 10);
  for (const { alert, expr } of alerts) {
    const names = expr.match(/\b(?:sallyport|identity|istio)_[a-z_]+/g) ?? [];
    t.ok(names.length > 0, alert);
    for (const name of names) {
      const own = name.replace(/_bucket$/, '');
      // The CA's counters are written without their common beginning.
      t.ok(
        source.includes(`'${own}'`) || source.includes(`'${own.replace('sallyport_ca_', '')}'`),
        `${alert}: ${name}`,
      );
    }
  }
});

const hasPromtool = spawnSync('promtool', ['--version']).status === 0;
t.test('promtool accepts them', { skip: hasPromtool ? false : 'there is no promtool here' }, async (t) => {
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'rules', file], { encoding: 'utf8' });
  t.equal(status, 0, stdout + stderr);
});

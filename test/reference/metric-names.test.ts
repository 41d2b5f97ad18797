// Names and help texts of metrics by the rules of Prometheus, which promtool checks as well where it is there.

import { spawnSync } from 'node:child_process';
import t from 'tap';
import { metricEntries } from '../../sidecar/reference/metrics.ts';

/** Names that others chose, and that dashboards expect: of Istio, of its former node agent, and of Node itself. */
const others = /^(?:istio|identity_cert|nodejs|process)_/;

const metrics = (await metricEntries()).map(({ name, description, facts }) => {
  const labels = facts.find(([label]) => label === 'labels')?.[1].split(', ') ?? [];
  return { name, help: description, type: facts.find(([label]) => label === 'type')![1], labels };
});

t.test('each has a help text', async (t) => {
  for (const { name, help } of metrics) if (!others.test(name)) t.match(help, /^[A-Z].*\.$/, `${name}: ${help}`);
});

t.test('names say what is counted, in base units', async (t) => {
  for (const { name, type, labels } of metrics) {
    t.match(name, /^[a-z][a-z0-9]*(?:_[a-z0-9]+)*$/, `${name}: lower case, with underscores`);
    t.notOk(labels.includes('le') || labels.includes('quantile'), `${name}: labels that mean something else`);
    if (others.test(name)) continue;
    t.equal(name.endsWith('_total'), type === 'counter', `${name} is a ${type}`);
    t.notMatch(name, /_(?:bucket|sum|count|counter|gauge|histogram|summary)$/, name);
    t.notMatch(
      name,
      /_(?:ms|millis|milliseconds|us|ns|minutes|hours|days|secs?|kb|mb|kilobytes|megabytes|percent)\b/,
      name,
    );
  }
});

const noPromtool = spawnSync('promtool', ['--version']).status !== 0;

t.test('promtool accepts them', { skip: noPromtool ? 'there is no promtool here' : false }, async (t) => {
  const text = metrics
    .filter(({ name }) => !others.test(name))
    .map(({ name, help, type }) => {
      const samples =
        type === 'histogram' ? [`${name}_bucket{le="+Inf"} 0`, `${name}_sum 0`, `${name}_count 0`] : [`${name} 0`];
      return [`# HELP ${name} ${help.replaceAll('\n', ' ')}`, `# TYPE ${name} ${type}`, ...samples, ''].join('\n');
    })
    .join('');
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  t.equal(status, 0, stdout + stderr);
});

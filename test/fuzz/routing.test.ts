// The table of routes with hostile hosts and paths: the result is a rule or none, at a bounded cost.

import assert from 'node:assert/strict';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import type { EdgeRule } from '../../sidecar/exchange/exchange.ts';
import { hostMatches, hostOf, intersectHosts, patternsFor } from '../../sidecar/routing/hosts.ts';
import { compileTable, type TableEntry } from '../../sidecar/routing/table.ts';
import { pretend } from '../fixtures/edge.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';

const entry = (name: string, more: Partial<TableEntry>): TableEntry => ({
  ...{
    hosts: ['*'],
    path: { type: 'PathPrefix', value: '/' },
    method: undefined,
    headers: [],
    queryParams: [],
    order: 1,
  },
  rule: { name } as EdgeRule,
  ...more,
});
const long = `/${'a/'.repeat(511)}b`;
const table = compileTable([
  {
    name: 'all',
    hostname: undefined,
    entries: [
      entry('root', {}),
      entry('a', { path: { type: 'PathPrefix', value: '/a' } }),
      entry('ab', { path: { type: 'Exact', value: '/a/b' } }),
      entry('long', { path: { type: 'PathPrefix', value: long } }),
      entry('host', { hosts: ['*.a.test'], path: { type: 'PathPrefix', value: '/a' } }),
    ],
  },
  { name: 'own', hostname: 'own.test', entries: [] },
]);

const text = (random: Random, ...seeds: string[]): string =>
  mutate(random, Buffer.from(random.pick(seeds))).toString('latin1');

fuzz(
  t,
  'a rule, for any client',
  (random) => ({
    authority: text(random, 'a.test', 'x.a.test:80', '[::1]:80', 'own.test.', ''),
    path: `/${text(random, 'a/b?c', 'a', '', 'a/a/a/a', '%2f/..//')}`,
  }),
  ({ authority, path }) => {
    const { listener, rule } = table.find(pretend({ authority, path, method: 'GET' }));
    const host = hostOf(authority);
    assert.equal(listener, host === 'own.test' ? 'own' : 'all');
    const bare = path.split('?')[0]!;
    const under = bare === '/a' || bare.startsWith('/a/');
    const expected = bare === '/a/b' ? 'ab' : under ? 'a' : 'root';
    if (listener === 'own') assert.equal(rule, undefined);
    // The length of a name bounds the search.
    else if (host.length <= 253 && hostMatches('*.a.test', host) && under) assert.equal(rule?.name, 'host');
    else assert.equal(rule?.name, expected);
  },
);

fuzz(
  t,
  'what two patterns have in common is what both match',
  (random) => {
    const labels = ['a', 'b', 'test', '*'];
    const name = (): string =>
      Array.from({ length: 1 + random.below(4) }, (_, i) => random.pick(i === 0 ? labels : labels.slice(0, 3))).join(
        '.',
      );
    return { a: name(), b: name(), host: name().replace('*', 'x') };
  },
  ({ a, b, host }) => {
    const both = intersectHosts(a === '*' ? undefined : a, b === '*' ? undefined : b);
    const wanted = hostMatches(a, host) && hostMatches(b, host);
    assert.equal(both !== undefined && hostMatches(both, host), wanted);
    assert.equal(patternsFor(host).includes(a), hostMatches(a, host));
  },
);

t.test('paths and hosts of 60 KB are routed quickly', async (t) => {
  const slow = (work: () => unknown): number => {
    const started = performance.now();
    for (let i = 0; i < 20; i++) work();
    return (performance.now() - started) / 20;
  };
  const paths = ['/'.repeat(60_000), '/a'.repeat(30_000), `/${'a'.repeat(60_000)}`, `/a/${'?'.repeat(60_000)}`, long];
  for (const path of paths) {
    const ms = slow(() => table.find(pretend({ authority: 'a', path, method: 'GET' })));
    t.ok(ms < 20, `${ms.toFixed(3)} ms for ${path.slice(0, 20)}...`);
  }
  const hosts = [
    'a.'.repeat(30_000),
    '.'.repeat(60_000),
    'a'.repeat(60_000),
    `${':'.repeat(60_000)}`,
    '[::1]'.repeat(12_000),
  ];
  for (const authority of hosts) {
    const ms = slow(() => table.find(pretend({ authority, path: '/', method: 'GET' })));
    t.ok(ms < 20, `${ms.toFixed(3)} ms for ${authority.slice(0, 20)}...`);
  }
});

t.test('made-up hosts do not grow memory', async (t) => {
  const own = compileTable([{ name: 'l', hostname: undefined, entries: [entry('root', {})] }]);
  const before = usedMb();
  for (let i = 0; i < 20_000; i++) {
    // Like a codec creates them: slices of a head of 16 KB.
    const head = `GET / HTTP/1.1\r\nHost: invented-host-number-${i}.test\r\nX: ${'x'.repeat(16_000)}\r\n`;
    const authority = head.slice(22, head.indexOf('\r\n', 22));
    assert.equal(own.find(pretend({ authority, path: '/', method: 'GET' })).rule?.name, 'root');
  }
  const grown = usedMb() - before;
  // A thousand hosts are cached; together with the heads that they are slices of, they would take 16 MB.
  t.ok(grown < 4, `${grown.toFixed(1)} MB more after 20,000 hosts`);
  t.equal(own.listenerFor('a'), 'l', 'the table is still referenced');
});

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** The memory still in use, in MB. */
function usedMb(): number {
  collect();
  return process.memoryUsage().heapUsed / 2 ** 20;
}

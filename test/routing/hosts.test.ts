// Host names: which match which, what two have in common, which listener a Host selects.

import t from 'tap';
import { hostMatches, hostOf, intersectHosts, patternsFor } from '../../sidecar/routing/hosts.ts';
import { compileTable } from '../../sidecar/routing/table.ts';

const intersections: [string | undefined, string | undefined, string | undefined][] = [
  [undefined, undefined, '*'],
  [undefined, 'a.test', 'a.test'],
  ['a.test', undefined, 'a.test'],
  ['a.test', 'a.test', 'a.test'],
  ['a.test', 'b.test', undefined],
  ['*.a.test', 'x.a.test', 'x.a.test'],
  ['x.a.test', '*.a.test', 'x.a.test'],
  ['*.a.test', 'y.x.a.test', 'y.x.a.test'],
  ['*.a.test', 'a.test', undefined],
  ['*.a.test', 'xa.test', undefined],
  ['*.a.test', '*.a.test', '*.a.test'],
  ['*.a.test', '*.x.a.test', '*.x.a.test'],
  ['*.x.a.test', '*.a.test', '*.x.a.test'],
  ['*.a.test', '*.b.test', undefined],
  ['*.a.test', '*.xa.test', undefined],
  ['*.a.test', '*.test', '*.a.test'],
];

for (const [a, b, expected] of intersections)
  t.test(`${a} and ${b}`, async (t) => {
    t.equal(intersectHosts(a, b), expected);
    t.equal(intersectHosts(b, a), expected, 'in both directions');
  });

const table = compileTable(
  ['*.example.com', 'www.example.com', '*.deep.example.com', undefined].map((hostname) => ({
    name: hostname ?? 'any',
    hostname,
    entries: [],
  })),
);

const listeners: [string, string][] = [
  ['www.example.com', 'www.example.com'],
  ['WWW.Example.COM', 'www.example.com'],
  ['www.example.com.', 'www.example.com'],
  ['www.example.com:8080', 'www.example.com'],
  ['www.example.com.:8080', 'www.example.com'],
  ['a.example.com', '*.example.com'],
  ['a.b.example.com', '*.example.com'],
  ['a.www.example.com', '*.example.com'],
  ['a.deep.example.com', '*.deep.example.com'],
  ['a.b.deep.example.com', '*.deep.example.com'],
  ['deep.example.com', '*.example.com'],
  ['example.com', 'any'],
  ['.example.com', 'any'],
  ['aexample.com', 'any'],
  ['example.com.evil', 'any'],
  ['[::1]', 'any'],
  ['[::1]:443', 'any'],
  ['127.0.0.1:443', 'any'],
  ['', 'any'],
  [`${'a'.repeat(60_000)}.example.com`, 'any'],
  [`${'a.'.repeat(30_000)}example.com`, 'any'],
];

for (const [host, expected] of listeners)
  t.test(`${host.slice(0, 40)} means ${expected}`, async (t) => {
    t.equal(table.listenerFor(host), expected);
    const name = hostOf(host);
    if (name.length > 253) return;
    // The patterns are exactly those that match.
    for (const pattern of ['*.example.com', 'www.example.com', '*.deep.example.com', '*'])
      t.equal(patternsFor(name).includes(pattern), hostMatches(pattern, name), pattern);
  });

t.test('without a catch-all listener, an unknown host selects none', async (t) => {
  const only = compileTable([{ name: 'a', hostname: 'a.test', entries: [] }]);
  t.equal(only.listenerFor('b.test'), undefined);
  t.equal(only.listenerFor(undefined), undefined);
});

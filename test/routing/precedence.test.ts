// Which of many rules gets a request: the table against a second, simplest implementation of the standard's order - all
// matches of all routes, those that match, sorted, the first.

import t from 'tap';
import type { EdgeRule, Exchange } from '../../sidecar/exchange/exchange.ts';
import { compileValues } from '../../sidecar/routing/match.ts';
import { compileTable, type ListenerEntries, type TableEntry } from '../../sidecar/routing/table.ts';
import { pretend } from '../fixtures/edge.ts';
import { createRandom, type Random } from '../fixtures/random.ts';

interface Pair {
  readonly name: string;
  readonly value: string;
}

interface Match {
  readonly host: string;
  readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression';
  readonly path: string;
  readonly method: string | undefined;
  readonly headers: readonly Pair[];
  readonly query: readonly Pair[];
  readonly order: number;
  readonly name: string;
}

interface Listener {
  readonly name: string;
  readonly hostname: string | undefined;
  readonly matches: readonly Match[];
}

interface Request {
  readonly host: string;
  readonly path: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string>>;
}

const hosts = ['a.test', 'x.a.test', 'y.x.a.test', 'b.test', '*.a.test', '*.x.a.test', '*.test', '*'];
const paths = ['/', '/a', '/a/', '/a/b', '/a/b/', '/a/b/c', '/ab', '/b'];
// Of different lengths, since the order of regular expressions of one length is undefined.
const patterns = ['/a.*', '/[ab]/.*', '/a/(b|c)?/?', '.*'];
const methods = ['GET', 'POST'];

function makeListeners(random: Random): Listener[] {
  const maybe = <T>(value: T): T | undefined => (random.below(3) === 0 ? value : undefined);
  const pairs = (names: readonly string[]): Pair[] =>
    names.flatMap((name) => maybe({ name, value: random.pick(['1', '2']) }) ?? []);
  let order = 0;
  const names = new Set(
    Array.from({ length: 1 + random.below(3) }, () => random.pick([...hosts.slice(4), 'x.a.test'])),
  );
  return [...names].map((hostname, index) => ({
    name: `listener${index}`,
    hostname: hostname === '*' ? undefined : hostname,
    matches: Array.from({ length: random.below(12) }, () => {
      const type = random.pick(['Exact', 'PathPrefix', 'PathPrefix', 'RegularExpression'] as const);
      const host = random.pick(hosts);
      order++;
      return {
        host,
        type,
        path: type === 'RegularExpression' ? random.pick(patterns) : random.pick(paths),
        method: maybe(random.pick(methods)),
        headers: pairs(['x-a', 'x-b']),
        query: pairs(['q', 'r']),
        order,
        name: `${index}/${order}`,
      };
    }),
  }));
}

function makeRequest(random: Random): Request {
  const some = (names: readonly string[]): Record<string, string> =>
    Object.fromEntries(names.flatMap((name) => (random.below(2) === 0 ? [[name, random.pick(['1', '2'])]] : [])));
  return {
    host: random.pick(['a.test', 'x.a.test', 'y.x.a.test', 'z.y.x.a.test', 'b.test', 'test', 'other']),
    path: random.pick([...paths, '/a/b/c/d', '/a/c', '/abc', '/b/']),
    method: random.pick(methods),
    headers: some(['x-a', 'x-b']),
    query: some(['q', 'r']),
  };
}

function hostFits(pattern: string, host: string): boolean {
  return new RegExp(
    `^${pattern
      .replaceAll('.', '\\.')
      .replace(/^\*(?=\\)/, '.+')
      .replace(/^\*$/, '.*')}$`,
  ).test(host);
}

/** The standard's order of host names: those without a star first, then the longer. */
function compareHosts(a: string, b: string): number {
  return Number(a.startsWith('*')) - Number(b.startsWith('*')) || b.length - a.length;
}

function pathFits({ type, path }: Match, asked: string): boolean {
  if (type === 'Exact') return path === asked;
  if (type === 'RegularExpression') return new RegExp(`^(?:${path})$`).test(asked);
  const prefix = path.replace(/\/$/, '');
  return asked === prefix || asked.startsWith(`${prefix}/`);
}

const rank = { Exact: 0, RegularExpression: 1, PathPrefix: 2 };
const length = ({ type, path }: Match): number => (type === 'PathPrefix' ? path.replace(/\/$/, '') : path).length;

function findNaively(
  listeners: readonly Listener[],
  { host, path, method, headers, query }: Request,
): [string?, string?] {
  const [listener] = listeners
    .filter(({ hostname = '*' }) => hostFits(hostname, host))
    .toSorted((a, b) => compareHosts(a.hostname ?? '*', b.hostname ?? '*'));
  const [found] = (listener?.matches ?? [])
    .filter(
      (one) =>
        hostFits(one.host, host) &&
        pathFits(one, path) &&
        (one.method === undefined || one.method === method) &&
        one.headers.every(({ name, value }) => headers[name] === value) &&
        one.query.every(({ name, value }) => query[name] === value),
    )
    .toSorted(
      (a, b) =>
        compareHosts(a.host, b.host) ||
        rank[a.type] - rank[b.type] ||
        length(b) - length(a) ||
        Number(b.method !== undefined) - Number(a.method !== undefined) ||
        b.headers.length - a.headers.length ||
        b.query.length - a.query.length ||
        a.order - b.order,
    );
  return [listener?.name, found?.name];
}

const values = (list: readonly Pair[], fold: boolean): TableEntry['headers'] =>
  compileValues(
    list.map((one) => ({ type: 'Exact', ...one })),
    fold,
  );

function entriesOf({ name, hostname, matches }: Listener): ListenerEntries {
  return {
    name,
    hostname,
    entries: matches.map((one) => ({
      hosts: [one.host],
      path: { type: one.type, value: one.path },
      method: one.method,
      headers: values(one.headers, true),
      queryParams: values(one.query, false),
      order: one.order,
      rule: { name: one.name } as EdgeRule,
    })),
  };
}

function exchangeOf({ host, path, method, headers, query }: Request): Exchange {
  const text = new URLSearchParams(query).toString();
  return pretend({ authority: host, method, path: text === '' ? path : `${path}?${text}` }, headers);
}

const random = createRandom();

t.test(`the table finds the first rule in the standard's order (SEED=${random.seed})`, async (t) => {
  let found = 0;
  for (let set = 0; set < 300; set++) {
    const listeners = makeListeners(random);
    const table = compileTable(listeners.map(entriesOf));
    for (let i = 0; i < 60; i++) {
      const request = makeRequest(random);
      const { listener, rule } = table.find(exchangeOf(request));
      const expected = findNaively(listeners, request);
      if (expected[1] !== undefined) found++;
      if (listener === expected[0] && rule?.name === expected[1]) continue;
      t.strictSame([listener, rule?.name], expected, JSON.stringify({ listeners, request }));
      return;
    }
  }
  t.ok(found > 2000, `${found} of 18,000 requests had a rule`);
});

/** One listener, one request, several matches of which the first must be found. */
const orders: Readonly<Record<string, readonly Partial<Match>[]>> = {
  'an exact host before a wildcard': [
    { host: 'x.a.test', path: '/' },
    { host: '*.a.test', type: 'Exact', path: '/a/b' },
  ],
  'a longer wildcard before a shorter': [
    { host: '*.a.test', path: '/' },
    { host: '*.test', type: 'Exact', path: '/a/b' },
  ],
  'an exact path before a prefix': [
    { type: 'Exact', path: '/a/b' },
    { path: '/a/b', method: 'GET' },
  ],
  'an exact path before a regular expression': [
    { type: 'Exact', path: '/a/b' },
    { type: 'RegularExpression', path: '/a/b', method: 'GET' },
  ],
  'a longer prefix before a method': [{ path: '/a/b' }, { path: '/a', method: 'GET' }],
  'a method before headers': [
    { path: '/a', method: 'GET' },
    { path: '/a', headers: [{ name: 'x-a', value: '1' }] },
  ],
  'more headers before parameters': [
    { path: '/a', headers: [{ name: 'x-a', value: '1' }] },
    { path: '/a', query: [{ name: 'q', value: '1' }] },
  ],
  'more parameters before age': [
    { path: '/a', query: [{ name: 'q', value: '1' }], order: 2 },
    { path: '/a', order: 1 },
  ],
  'the older of two that are the same': [
    { path: '/a', order: 1 },
    { path: '/a', order: 2 },
  ],
};

for (const [name, matches] of Object.entries(orders)) {
  t.test(name, async (t) => {
    for (const list of [matches, matches.toReversed()]) {
      const full = list.map((one, index) => ({
        ...{
          host: '*',
          type: 'PathPrefix' as const,
          path: '/',
          method: undefined,
          headers: [],
          query: [],
          order: index + 10,
        },
        ...one,
        name: one === matches[0] ? 'first' : 'second',
      }));
      const table = compileTable([entriesOf({ name: 'l', hostname: undefined, matches: full })]);
      const { rule } = table.find(
        exchangeOf({ host: 'x.a.test', path: '/a/b', method: 'GET', headers: { 'x-a': '1' }, query: { q: '1' } }),
      );
      t.equal(rule?.name, 'first');
    }
  });
}

t.test('gRPC: a match on the service precedes one on the method alone', async (t) => {
  const entry = (name: string, path: TableEntry['path'], grpcMethod?: string): TableEntry => ({
    ...{ hosts: ['*'], path, method: undefined, headers: [], queryParams: [], order: 1, grpcMethod },
    rule: { name } as EdgeRule,
  });
  const table = compileTable([
    {
      name: 'l',
      hostname: undefined,
      entries: [
        entry('any', { type: 'PathPrefix', value: '/' }),
        entry('method', { type: 'PathPrefix', value: '/' }, 'Get'),
        entry('service', { type: 'PathPrefix', value: '/a.B' }),
        entry('both', { type: 'Exact', value: '/a.B/Put' }),
      ],
    },
  ]);
  const cases: [string, string][] = [
    ['/a.B/Get', 'service'],
    ['/a.B/Put', 'both'],
    ['/a.C/Get', 'method'],
    ['/a.C/Get?x=/Get', 'method'],
    ['/a.C/Put', 'any'],
    ['/a.BC/Get', 'method'],
    ['/Get', 'any'],
    ['//Get', 'any'],
    ['/a/b/Get', 'any'],
    ['/a/xGet', 'any'],
  ];
  for (const [path, expected] of cases)
    t.equal(table.find(pretend({ authority: 'a', path, method: 'POST' })).rule?.name, expected, path);
});

t.test("the standard's rules for values apply", async (t) => {
  const of = (match: Partial<TableEntry>): TableEntry => ({
    ...{
      hosts: ['*'],
      path: { type: 'PathPrefix', value: '/' },
      method: undefined,
      headers: [],
      queryParams: [],
      order: 1,
    },
    rule: { name: 'r' } as EdgeRule,
    ...match,
  });
  const header = (value: string, type: 'Exact' | 'RegularExpression' = 'Exact'): Partial<TableEntry> => ({
    headers: compileValues([{ type, name: 'X-A', value }], true),
  });
  const query = (value: string, type: 'Exact' | 'RegularExpression' = 'Exact'): Partial<TableEntry> => ({
    queryParams: compileValues([{ type, name: 'q', value }], false),
  });
  const path = (type: 'Exact' | 'PathPrefix', value: string): Partial<TableEntry> => ({ path: { type, value } });
  const cases: [string, Partial<TableEntry>, { path?: string; headers?: Record<string, string> }, boolean][] = [
    ['header names fold', header('1'), { headers: { 'x-A': '1' } }, true],
    ['header values do not', header('a'), { headers: { 'x-a': 'A' } }, false],
    ['a pattern matches the whole value', header('a', 'RegularExpression'), { headers: { 'x-a': 'ba' } }, false],
    ['a pattern', header('.*a', 'RegularExpression'), { headers: { 'x-a': 'ba' } }, true],
    ['no header', header('.*', 'RegularExpression'), {}, false],
    ['a parameter', query('1'), { path: '/?q=1' }, true],
    ['of a repeated parameter the first', query('1'), { path: '/?q=2&q=1' }, false],
    ['the first, if it matches', query('1'), { path: '/?q=1&q=2' }, true],
    ['parameter names do not fold', query('1'), { path: '/?Q=1' }, false],
    ['an escaped value is decoded', query('a b'), { path: '/?q=a%20b' }, true],
    ['a pattern of a parameter', query('[0-9]+', 'RegularExpression'), { path: '/?x=y&q=12' }, true],
    ['no parameter', query('1'), {}, false],
    ['a prefix matches whole segments', path('PathPrefix', '/abc'), { path: '/abcd' }, false],
    ['a prefix and more', path('PathPrefix', '/abc'), { path: '/abc/d' }, true],
    ['a prefix that ends in a slash', path('PathPrefix', '/abc/'), { path: '/abc' }, true],
    ['a prefix with a slash behind it', path('PathPrefix', '/abc'), { path: '/abc/' }, true],
    ['paths do not fold', path('PathPrefix', '/abc'), { path: '/ABC' }, false],
    ['exact is exact', path('Exact', '/abc'), { path: '/abc/' }, false],
    ['the query is no part of the path', path('Exact', '/abc'), { path: '/abc?d' }, true],
    ['OPTIONS *', path('PathPrefix', '/'), { path: '*' }, false],
  ];
  for (const [name, match, { path: asked = '/', headers = {} }, expected] of cases) {
    const table = compileTable([{ name: 'l', hostname: undefined, entries: [of(match)] }]);
    t.equal(
      table.find(pretend({ authority: 'a', path: asked, method: 'GET' }, headers)).rule !== undefined,
      expected,
      name,
    );
  }
});

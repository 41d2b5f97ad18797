// HTTPCache as hooks, without sockets: what becomes of a request, by its plan, the request and what is stored; what the
// client is told; and what ends with a policy.

import t from 'tap';
import { Caches } from '../../../sidecar/edge/cache/caches.ts';
import { cache } from '../../../sidecar/edge/cache/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import type { Onward } from '../../../sidecar/exchange/onward.ts';
import { answerReply, refuse } from '../../../sidecar/respond.ts';
import {
  type Answered,
  type Asked,
  createExchange,
  hooksOf,
  phasesOf,
  planOf,
  respondWith,
  serve,
} from '../../fixtures/exchange.ts';

/** A cache for one plan, and a backend that answers each fetch with what the request is asked with, or later. */
async function setUp(written: object = {}, workers = 1) {
  const fetches: Exchange[] = [];
  let answer: Answered | Error | 'later' = 'later';
  const onward: Onward = {
    forward(exchange) {
      fetches.push(exchange);
      if (answer instanceof Error) refuse(exchange, answer);
      else if (answer !== 'later') respondWith(exchange, answer);
    },
    answer: answerReply,
    refuse,
  };
  const caches = new Caches(onward, workers, () => {});
  const warnings: string[] = [];
  const plan = await planOf(cache, 'HTTPCache', written);
  const compile = () => hooksOf(cache, { HTTPCache: plan }, { shared: caches, warnings })!;
  const hooks = compile();
  return {
    ...{ fetches, caches, warnings, hooks, compile },
    /** Resolves with the outcome in the log, and what the client got. */
    async ask(asked: Asked, says: Answered | Error = {}) {
      answer = says;
      const { exchange, client, backend } = await serve(hooks, asked, says instanceof Error ? {} : says);
      const outcome = exchange.noted?.find(({ name }) => name === 'cache')?.text;
      return { outcome, client, passed: backend !== undefined, status: client.headers['cache-status'], exchange };
    },
  };
}

const fresh = (more: Record<string, string> = {}): Answered => ({
  headers: { 'cache-control': 'max-age=60', ...more },
});
const get: Asked = {};
const withHeaders = (headers: Record<string, string>): Asked => ({ headers });
const method = (name: string): Asked => ({ known: { method: name } });

type Turn = readonly [asked: Asked, says: Answered, outcome: string];

/** What becomes of each request of a row, in order. */
const rows: readonly (readonly [why: string, plan: object, turns: readonly Turn[]])[] = [
  [
    'stated freshness is stored and served',
    {},
    [
      [get, fresh(), 'miss'],
      [get, fresh(), 'hit'],
    ],
  ],
  [
    'nothing stated, nothing stored',
    {},
    [
      [get, {}, 'miss'],
      [get, {}, 'miss'],
    ],
  ],
  [
    'a guess, where it is permitted',
    { heuristicFreshness: true },
    [
      [get, { headers: { 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT' } }, 'miss'],
      [get, {}, 'hit'],
    ],
  ],
  [
    'HEAD is served by what a GET has stored',
    {},
    [
      [get, fresh(), 'miss'],
      [method('HEAD'), fresh(), 'hit'],
    ],
  ],
  [
    'a POST passes, and what it changes is fetched anew',
    {},
    [
      [get, fresh(), 'miss'],
      [method('POST'), {}, 'bypass'],
      [get, fresh(), 'miss'],
    ],
  ],
  [
    'what the client wants anew, it gets',
    {},
    [
      [get, fresh(), 'miss'],
      [withHeaders({ 'cache-control': 'no-cache' }), fresh(), 'miss'],
    ],
  ],
  [
    'unless its directives are ignored',
    { clientDirectives: 'Ignore' },
    [
      [get, fresh(), 'miss'],
      [withHeaders({ 'cache-control': 'no-cache' }), fresh(), 'hit'],
    ],
  ],
  [
    'a caller with an identity shares nothing',
    {},
    [
      [withHeaders({ cookie: 'a=b' }), fresh(), 'miss'],
      [get, fresh(), 'miss'],
      [withHeaders({ cookie: 'a=b' }), fresh(), 'miss'],
    ],
  ],
  [
    'unless the backend permits it',
    {},
    [
      [withHeaders({ cookie: 'a=b' }), { headers: { 'cache-control': 'public, max-age=60' } }, 'miss'],
      [get, fresh(), 'hit'],
    ],
  ],
  [
    'or the policy',
    { unsafeShareIdentities: true },
    [
      [withHeaders({ cookie: 'a=b' }), fresh(), 'miss'],
      [withHeaders({ cookie: 'c=d' }), fresh(), 'hit'],
    ],
  ],
  [
    'a header that identifies by the policy',
    { identityHeaders: ['X-Badge'] },
    [
      [withHeaders({ 'x-badge': '1' }), fresh(), 'miss'],
      [get, fresh(), 'miss'],
    ],
  ],
  [
    'a header of the key',
    { keyHeaders: ['X-Shelf'] },
    [
      [withHeaders({ 'x-shelf': '1' }), fresh(), 'miss'],
      [withHeaders({ 'x-shelf': '2' }), fresh(), 'miss'],
      [withHeaders({ 'x-shelf': '1' }), fresh(), 'hit'],
    ],
  ],
  [
    'variants',
    {},
    [
      [withHeaders({ 'x-kind': 'a' }), fresh({ vary: 'X-Kind' }), 'miss'],
      [withHeaders({ 'x-kind': 'b' }), fresh({ vary: 'X-Kind' }), 'miss'],
      [withHeaders({ 'x-kind': 'a' }), {}, 'hit'],
    ],
  ],
  [
    'a body larger than maxEntry',
    { maxEntry: 8 },
    [
      [get, { ...fresh(), body: 'nine char' }, 'miss'],
      [get, { ...fresh(), body: 'eight ch' }, 'miss'],
      [get, {}, 'hit'],
    ],
  ],
  [
    'a header that changes the path for some apps',
    {},
    [
      [get, fresh(), 'miss'],
      [withHeaders({ 'x-original-url': '/admin' }), {}, 'bypass'],
    ],
  ],
  [
    'another scheme, host or path is another response',
    {},
    [
      [get, fresh(), 'miss'],
      [{ known: { scheme: 'http' } }, fresh(), 'miss'],
      [{ known: { authority: 'other.test' } }, fresh(), 'miss'],
      [{ known: { path: '/?q=1' } }, fresh(), 'miss'],
      [{ known: { path: '/?q=1' } }, fresh(), 'hit'],
    ],
  ],
];

for (const [why, plan, turns] of rows)
  t.test(why, async (t) => {
    const { ask } = await setUp(plan);
    for (const [index, [asked, says, outcome]] of turns.entries())
      t.equal((await ask(asked, says)).outcome, outcome, `request ${index + 1}`);
  });

t.test('what the client gets', async (t) => {
  const { ask, fetches } = await setUp({ name: 'edge' });
  const miss = await ask(get, { ...fresh({ etag: '"1"' }), body: 'stored' });
  t.match(miss, { client: { status: 200, body: 'stored' }, passed: false });
  t.match(miss.status, /^edge; fwd=uri-miss; fwd-status=200; stored; ttl=(?:60|59)$/);
  const hit = await ask(get);
  t.match(hit, { client: { status: 200, body: 'stored', headers: { etag: '"1"', age: /^\d$/ } }, passed: false });
  t.match(hit.status, /^edge; hit; ttl=(?:60|59)$/);
  t.match(hit.exchange, { details: 'cache_hit', decision: '-' });
  t.match((await ask(withHeaders({ 'if-none-match': '"1"' }))).client, { status: 304, body: '' });
  const part = (await ask(withHeaders({ range: 'bytes=0-1' }))).client;
  t.match(part, { status: 206, body: 'st', headers: { 'content-range': 'bytes 0-1/6' } });
  t.equal(fetches.length, 1, 'one request to the backend');
  const posted = await ask(method('POST'), { body: 'posted' });
  t.match(posted, { passed: true, client: { body: 'posted' }, status: 'edge; fwd=method; fwd-status=200' });
});

t.test('Cache-Status says why a response is not stored', async (t) => {
  const rows: readonly (readonly [detail: string, asked: Asked, says: Answered, plan?: object])[] = [
    ['freshness', get, {}],
    ['no-store', get, fresh({ 'cache-control': 'no-store' })],
    ['private', get, fresh({ 'cache-control': 'private' })],
    ['unreadable', get, fresh({ 'cache-control': 'max-age=1, "' })],
    ['identity', withHeaders({ cookie: 'a=b' }), fresh()],
    ['set-cookie', get, fresh({ 'set-cookie': 'a=b' })],
    ['vary', get, fresh({ vary: '*' })],
    ['status', get, { ...fresh(), status: 206 }],
    ['client-no-store', withHeaders({ 'cache-control': 'no-store' }), fresh()],
    ['too-large', get, { ...fresh(), body: 'x'.repeat(2000) }, { maxEntry: '1Ki' }],
  ];
  for (const [detail, asked, says, plan] of rows) {
    const { status } = await (await setUp({ name: 'edge', ...plan })).ask(asked, says);
    t.match(status, new RegExp(`^edge; fwd=uri-miss; fwd-status=20[06]; detail=${detail}$`), detail);
  }
});

t.test('what is stored only, where the client wants no more', async (t) => {
  const { ask, fetches } = await setUp();
  const only = withHeaders({ 'cache-control': 'only-if-cached' });
  t.match(await ask(only), { outcome: 'refused', client: { status: 504, code: 'not_cached' } });
  t.equal(fetches.length, 0);
  await ask(get, fresh());
  t.match(await ask(only), { outcome: 'hit' });
});

t.test('a backend that is away', async (t) => {
  for (const [staleWhenDisconnected, outcome, status] of [
    ['1m', 'stale', 200],
    ['0s', 'miss', 500],
  ] as const) {
    const { ask } = await setUp({ staleWhenDisconnected });
    const says = { ...fresh({ age: '61' }), body: 'old' };
    t.match(await ask(get, { ...says, headers: { ...says.headers, etag: '"1"' } }), { outcome: 'miss' });
    const away = await ask(get, new Error('no connection'));
    t.match(away, { outcome, client: { status } }, `for ${staleWhenDisconnected}`);
  }
});

t.test('requests for one response read along', async (t) => {
  const { fetches, hooks } = await setUp();
  const exchanges = Array.from({ length: 3 }, () => createExchange());
  const phases = phasesOf(hooks);
  const over = exchanges.map(async ({ exchange, connection }) => {
    exchange.phases = phases;
    for (const step of phases.serve) await step(exchange, connection);
  });
  t.equal(fetches.length, 1);
  respondWith(fetches[0]!, fresh());
  await Promise.all(over);
  t.equal(fetches.length, 1);
  t.strictSame(
    exchanges.map(({ exchange, sent }) => [sent.bodies.join(''), exchange.noted?.[0]?.text]),
    [
      ['ok', 'miss'],
      ['ok', 'collapsed'],
      ['ok', 'collapsed'],
    ],
  );
});

t.test('what is purged is fetched anew', async (t) => {
  const { ask, caches } = await setUp({ tagHeader: 'X-Tags' });
  const says = fresh({ 'x-tags': 'red, blue' });
  for (const purge of [{ tag: 'blue' }, { url: 'https://shop.test/' }, { prefix: 'https://shop.test' }]) {
    t.equal((await ask(get, says)).outcome, 'miss');
    t.equal((await ask(get, says)).outcome, 'hit');
    caches.purgeHere(purge);
  }
  t.equal((await ask(get, says)).outcome, 'miss');
  caches.purgeHere({ tag: 'green' });
  t.equal((await ask(get, says)).outcome, 'hit');
});

t.test('a cache outlives a generation that keeps its policy, and no longer', async (t) => {
  const { ask, hooks, compile, fetches } = await setUp();
  await ask(get, fresh());
  const next = compile();
  hooks.dropped?.();
  t.equal((await ask(get)).outcome, 'hit', 'the next generation uses it');
  next.dropped?.();
  t.equal(fetches.length, 1);
  await serve(compile(), get);
  t.equal(fetches.length, 2, 'the one after that begins empty');
});

t.test('warnings, and a dry run', async (t) => {
  t.strictSame((await setUp({ store: 'Redis' })).warnings, [
    "'store: Redis' needs 'redis' in gateway.yaml; responses are kept in memory only",
  ]);
  t.match((await setUp({ memory: '2Mi', maxEntry: '1Mi' }, 2)).warnings, [
    /^'maxEntry' is more than half of the memory of one worker \(1048576 bytes\)/,
  ]);
  t.strictSame((await setUp({ memory: '2Mi', maxEntry: '1Mi' })).warnings, []);
  const plan = await planOf(cache, 'HTTPCache', {});
  t.equal(hooksOf(cache, { HTTPCache: plan }, { shared: undefined }), undefined, 'nothing to store in');
});

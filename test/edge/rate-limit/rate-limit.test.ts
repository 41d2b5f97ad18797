// Rules of rate limits: which requests they count, what responses hold, how several decide together, what survives a
// reload.

import t from 'tap';
import { LocalLimits } from '../../../sidecar/edge/rate-limit/local.ts';
import { compileRateLimits, type Verdict } from '../../../sidecar/edge/rate-limit/rate-limit.ts';
import type { LimitSelector } from '../../../sidecar/edge/rate-limit/schema.ts';
import type { SharedAnswer, SharedBucket } from '../../../sidecar/edge/rate-limit/script.ts';
import type { SharedLimits } from '../../../sidecar/edge/rate-limit/shared.ts';
import { type Asking, anything, facts, perHeader, rule } from '../../fixtures/limits.ts';

/** Limits on a clock that the test moves. */
function setUp(...rules: ReturnType<typeof rule>[]) {
  const clock = { now: 5000 };
  const local = new LocalLimits();
  const limits = compileRateLimits({ rules }, { local, now: () => clock.now });
  return { clock, local, ask: (asking?: Asking) => limits.check(facts(asking)) as Verdict };
}

const fieldsOf = (verdict: Verdict): Record<string, string> => Object.fromEntries(verdict.headers);

t.test('a limit counts down, refuses with a Retry-After, and admits requests as tokens return', async (t) => {
  const { ask, clock, local } = setUp(rule({ requests: 3, periodMs: 60_000 }));
  const expected = [
    ['2', '20'],
    ['1', '40'],
    ['0', '60'],
  ];
  for (const [remaining, reset] of expected) {
    const verdict = ask();
    t.match(verdict, { allowed: true, retryAfterS: 0, details: '', rule: 'shop/web local rule 1' });
    t.strictSame(verdict.headers, [
      ['RateLimit-Limit', '3'],
      ['RateLimit-Remaining', remaining],
      ['RateLimit-Reset', reset],
    ]);
  }
  clock.now += 500;
  const refused = ask();
  t.match(refused, { allowed: false, retryAfterS: 20, details: 'local_rate_limited', rule: 'shop/web local rule 1' });
  t.strictSame(refused.headers, [
    ['RateLimit-Limit', '3'],
    ['RateLimit-Remaining', '0'],
    ['RateLimit-Reset', '20'],
    ['Retry-After', '20'],
  ]);
  clock.now += 19_500;
  t.equal(ask().allowed, true);
  t.equal(ask().allowed, false);
  t.match(local.facts(), { allowed: 4, limited: 2, buckets: 1 });
});

t.test('a wait below a second is rounded up to a second, which is enough', async (t) => {
  const { ask, clock } = setUp(rule({ requests: 100 }));
  for (let i = 0; i < 100; i++) ask();
  t.equal(ask().retryAfterS, 1);
  clock.now += 1000;
  t.equal(ask().allowed, true);
});

t.test('a burst is allowed on top, and the fields do not count it', async (t) => {
  const { ask, clock } = setUp(rule({ requests: 100, periodMs: 60_000, burst: 20 }));
  t.match(fieldsOf(ask()), { 'RateLimit-Limit': '100', 'RateLimit-Remaining': '100', 'RateLimit-Reset': '0' });
  for (let i = 1; i < 120; i++) t.equal(ask().allowed, true);
  t.equal(ask().allowed, false);
  clock.now += 60_000;
  for (let i = 0; i < 100; i++) t.equal(ask().allowed, true);
  t.equal(ask().allowed, false, 'in a period only the tokens of the limit return, not the burst');
});

t.test('a limit of 0 requests refuses all', async (t) => {
  const { ask, clock } = setUp(rule({ requests: 0, periodMs: 60_000 }));
  t.match(ask(), { allowed: false, retryAfterS: 60 });
  clock.now += 1e9;
  t.match(ask(), { allowed: false });
});

t.test('a request costs as many tokens as configured', async (t) => {
  const { ask, clock } = setUp(rule({ requests: 10, cost: 4 }));
  t.match(fieldsOf(ask()), { 'RateLimit-Remaining': '4' }, 'a multiple of the cost');
  t.equal(ask().allowed, true);
  t.equal(ask().allowed, false);
  clock.now += 200;
  t.equal(ask().allowed, true);
});

t.test('a request that no rule applies to passes, without headers', async (t) => {
  const { ask, local } = setUp(rule({ selectors: [perHeader('x-user')] }));
  for (let i = 0; i < 100; i++) t.strictSame(ask().headers, []);
  t.match(local.facts(), { buckets: 0, allowed: 0 });
});

t.test('each route has its bucket, unless the rule is shared by all', async (t) => {
  const alone = setUp(rule({ requests: 1 }));
  t.equal(alone.ask({ route: 'a' }).allowed, true);
  t.equal(alone.ask({ route: 'b' }).allowed, true);
  t.equal(alone.ask({ route: 'a' }).allowed, false);
  const together = setUp(rule({ requests: 1, acrossRoutes: true }));
  t.equal(together.ask({ route: 'a' }).allowed, true);
  t.equal(together.ask({ route: 'b' }).allowed, false);
});

t.test('several rules: all must have tokens, and none counts a refused request', async (t) => {
  const each = rule({ id: 'each', requests: 2, periodMs: 60_000, selectors: [perHeader('x-user')] });
  const all = rule({ id: 'all', requests: 5, periodMs: 1000 });
  for (const [name, rules] of [
    ['in this order', [each, all]],
    ['and in that', [all, each]],
  ] as const) {
    const { ask, clock } = setUp(...rules);
    const ann = { headers: { 'x-user': 'ann' } };
    t.match(
      fieldsOf(ask(ann)),
      { 'RateLimit-Limit': '2', 'RateLimit-Remaining': '1' },
      `${name}: the one with the fewest tokens left`,
    );
    t.equal(ask(ann).allowed, true);
    for (let i = 0; i < 50; i++) t.match(ask(ann), { allowed: false, rule: 'each', retryAfterS: 30 });
    t.equal(ask({ headers: { 'x-user': 'bob' } }).allowed, true, `${name}: ann's refused requests cost bob nothing`);
    t.equal(ask({ headers: { 'x-user': 'eve' } }).allowed, true);
    t.equal(ask().allowed, true);
    t.match(ask({ headers: { 'x-user': 'joe' } }), { allowed: false, rule: 'all', retryAfterS: 1 });
    t.match(ask(ann), { allowed: false, rule: 'each' }, `${name}: of two that refuse, the longer wait`);
    clock.now += 1000;
    t.equal(ask({ headers: { 'x-user': 'joe' } }).allowed, true);
  }
});

/** `same` shares the first one's bucket, `other` has its own, and the rule does not apply to `none`. */
type Case = [name: string, selectors: LimitSelector[], first: Asking, then: [Asking, 'same' | 'other' | 'none'][]];

const named = (name: string, type: 'Exact' | 'RegularExpression' | 'Distinct', value = '', invert = false) => [
  { name, type, value, invert },
];
const long = 'x'.repeat(1000);

const cases: Case[] = [
  [
    'a header',
    [perHeader('x-user')],
    { headers: { 'x-user': 'ann' } },
    [
      [{ headers: { 'x-user': 'ann' }, path: '/other' }, 'same'],
      [{ headers: { 'x-user': 'bob' } }, 'other'],
      [{ headers: { 'x-user': '' } }, 'other'],
      [{}, 'none'],
    ],
  ],
  [
    'two lists of values never give the same key',
    [{ ...anything, headers: [...named('a', 'Distinct'), ...named('b', 'Distinct')] }],
    { headers: { a: '1', b: '2:3' } },
    [
      [{ headers: { a: '12:2', b: '3' } }, 'other'],
      [{ headers: { a: '1', b: '2:3' } }, 'same'],
      [{ headers: { a: '12', b: '3' } }, 'other'],
    ],
  ],
  [
    'a long value is replaced by its hash',
    [perHeader('x')],
    { headers: { x: `${long}a` } },
    [
      [{ headers: { x: `${long}a` } }, 'same'],
      [{ headers: { x: `${long}b` } }, 'other'],
    ],
  ],
  [
    'an exact header',
    [{ ...anything, headers: named('x-tier', 'Exact', 'free') }],
    { headers: { 'x-tier': 'free' } },
    [
      [{ headers: { 'x-tier': 'free' }, clientIp: '192.0.2.9' }, 'same'],
      [{ headers: { 'x-tier': 'paid' } }, 'none'],
      [{}, 'none'],
    ],
  ],
  [
    'everybody but',
    [{ ...anything, headers: [...named('x-user', 'Distinct'), ...named('x-user', 'Exact', 'admin', true)] }],
    { headers: { 'x-user': 'ann' } },
    [
      [{ headers: { 'x-user': 'admin' } }, 'none'],
      [{ headers: { 'x-user': 'bob' } }, 'other'],
    ],
  ],
  [
    'an inverted header that is absent',
    [{ ...anything, headers: named('x-user', 'Exact', 'admin', true) }],
    {},
    [[{ headers: { 'x-user': 'admin' } }, 'none']],
  ],
  [
    'an expression matches the whole value',
    [{ ...anything, headers: named('x', 'RegularExpression', 'a+b') }],
    { headers: { x: 'aab' } },
    [
      [{ headers: { x: 'ab' } }, 'same'],
      [{ headers: { x: 'abc' } }, 'none'],
      [{ headers: { x: 'xab' } }, 'none'],
    ],
  ],
  [
    'selectors of one rule all hold',
    [
      {
        ...anything,
        methods: [
          { value: 'POST', invert: false },
          { value: 'PUT', invert: false },
        ],
      },
      perHeader('x-user'),
    ],
    { method: 'POST', headers: { 'x-user': 'ann' } },
    [
      [{ method: 'PUT', headers: { 'x-user': 'ann' } }, 'same'],
      [{ method: 'GET', headers: { 'x-user': 'ann' } }, 'none'],
      [{ method: 'PUT' }, 'none'],
    ],
  ],
  [
    'a path prefix consists of whole segments',
    [{ ...anything, path: { type: 'PathPrefix', value: '/api/', invert: false } }],
    { path: '/api/a' },
    [
      [{ path: '/api' }, 'same'],
      [{ path: '/apis' }, 'none'],
      [{ path: '/' }, 'none'],
    ],
  ],
  [
    'the prefix of all paths',
    [{ ...anything, path: { type: 'PathPrefix', value: '/', invert: false } }],
    {},
    [[{ path: '/a/b' }, 'same']],
  ],
  [
    'all paths but one',
    [{ ...anything, path: { type: 'Exact', value: '/healthz', invert: true } }],
    { path: '/' },
    [[{ path: '/healthz' }, 'none']],
  ],
  [
    'a path by expression',
    [{ ...anything, path: { type: 'RegularExpression', value: '/v[0-9]+/.*', invert: false } }],
    { path: '/v1/a' },
    [[{ path: '/va/a' }, 'none']],
  ],
  [
    'a query parameter, decoded, the first of its name',
    [{ ...anything, queryParams: named('key', 'Distinct') }],
    { query: 'a=1&key=x%20y' },
    [
      [{ query: 'key=x+y&key=z' }, 'same'],
      [{ query: 'key=z' }, 'other'],
      [{ query: 'a=1' }, 'none'],
      [{}, 'none'],
    ],
  ],
  [
    'a block of addresses as one',
    [{ ...anything, sourceCIDR: { type: 'Exact', value: '10.0.0.0/8' } }],
    { clientIp: '10.1.1.1' },
    [
      [{ clientIp: '10.2.2.2' }, 'same'],
      [{ clientIp: '11.1.1.1' }, 'none'],
    ],
  ],
  [
    'each address of a block',
    [{ ...anything, sourceCIDR: { type: 'Distinct', value: '0.0.0.0/0' } }],
    { clientIp: '10.1.1.1' },
    [
      [{ clientIp: '10.1.1.1' }, 'same'],
      [{ clientIp: '::ffff:10.1.1.1' }, 'same'],
      [{ clientIp: '10.1.1.2' }, 'other'],
      [{ clientIp: '2001:db8::1' }, 'none'],
    ],
  ],
  [
    'a client with one address of an IPv6 network has all of it',
    [{ ...anything, sourceCIDR: { type: 'Distinct', value: '::/0' } }],
    { clientIp: '2001:db8:0:1::1' },
    [
      [{ clientIp: '2001:db8:0:1:ffff::2' }, 'same'],
      [{ clientIp: '2001:db8:0:2::1' }, 'other'],
    ],
  ],
  [
    'an unknown address is limited, too',
    [{ ...anything, sourceCIDR: { type: 'Distinct', value: '10.0.0.0/8' } }],
    { clientIp: '' },
    [
      [{ clientIp: '' }, 'same'],
      [{ clientIp: '10.0.0.1' }, 'other'],
    ],
  ],
  [
    'a claim',
    [{ ...anything, jwtClaims: named('sub', 'Distinct') }],
    { claims: { sub: 'ann' } },
    [
      [{ claims: { sub: 'ann', iat: 1 } }, 'same'],
      [{ claims: { sub: 'bob' } }, 'other'],
      [{ claims: {} }, 'none'],
      [{}, 'none'],
    ],
  ],
  [
    'a claim in a claim, and one with dots in its name',
    [{ ...anything, jwtClaims: [...named('org.id', 'Distinct'), ...named('https://a.test/tier', 'Exact', 'free')] }],
    { claims: { org: { id: 7 }, 'https://a.test/tier': 'free' } },
    [
      [{ claims: { org: { id: 7 }, 'https://a.test/tier': ['paid', 'free'] } }, 'same'],
      [{ claims: { org: { id: 8 }, 'https://a.test/tier': 'free' } }, 'other'],
      [{ claims: { org: 'id', 'https://a.test/tier': 'free' } }, 'none'],
      [{ claims: { org: { id: 7 }, 'https://a.test/tier': 'paid' } }, 'none'],
      [{ claims: { org: { id: 7 } } }, 'none'],
    ],
  ],
  [
    'a property of Object is not a claim',
    [{ ...anything, jwtClaims: named('constructor.name', 'Distinct') }],
    { claims: { constructor: { name: 1 } } },
    [[{ claims: {} }, 'none']],
  ],
  [
    'a client by its credential',
    [{ ...anything, clientId: { type: 'Distinct', value: '' } }],
    { clientId: 'one' },
    [
      [{ clientId: 'two' }, 'other'],
      [{ clientId: 'one' }, 'same'],
      [{}, 'none'],
    ],
  ],
  [
    'a workload by its certificate',
    [{ ...anything, principal: { type: 'Exact', value: 'spiffe://demo.test/ns/shop/sa/web' } }],
    { principal: 'spiffe://demo.test/ns/shop/sa/web' },
    [
      [{ principal: 'spiffe://demo.test/ns/shop/sa/other' }, 'none'],
      [{}, 'none'],
    ],
  ],
];

for (const [name, selectors, first, then] of cases)
  t.test(`which requests a rule counts together: ${name}`, async (t) => {
    for (const [asking, expected] of then) {
      const { ask } = setUp(rule({ requests: 1, selectors }));
      t.equal(ask(first).rule, 'shop/web local rule 1', 'the first is counted');
      const second = ask(asking);
      const found = !second.allowed ? 'same' : second.rule === '' ? 'none' : 'other';
      t.equal(found, expected, JSON.stringify(asking));
    }
  });

t.test('an unchanged rule keeps its buckets across a reload', async (t) => {
  const local = new LocalLimits();
  const tools = { local, now: () => 5000 };
  const ask = (requests: number): boolean =>
    (compileRateLimits({ rules: [rule({ requests })] }, tools).check(facts()) as Verdict).allowed;
  t.equal(ask(1), true);
  t.equal(ask(1), false, 'compiled again, the same rule');
  t.equal(ask(2), true, 'another limit begins with a full bucket');
  t.equal(ask(1), false);
});

t.test('a Global limit without Redis is refused', async (t) => {
  t.throws(() => compileRateLimits({ rules: [rule({ scope: 'shared' })] }, { local: new LocalLimits() }), {
    code: 'config_invalid',
    message: 'the limit shop/web local rule 1 is Global, but no Redis is configured',
  });
});

/** A Redis that answers as the test says. */
function fakeRedis(answer: (buckets: readonly SharedBucket[]) => Promise<SharedAnswer | undefined> | undefined) {
  const asked: (readonly SharedBucket[])[] = [];
  const redis: SharedLimits & { ready: boolean } = {
    ready: true,
    take(buckets) {
      asked.push(buckets);
      return answer(buckets);
    },
    facts: () => ({}) as ReturnType<SharedLimits['facts']>,
  };
  return { redis, asked };
}

const shared = (changes = {}) => rule({ id: 'shared', scope: 'shared', requests: 10, periodMs: 10_000, ...changes });

t.test('Redis decides about all shared rules in one command', async (t) => {
  const { redis, asked } = fakeRedis(async () => ({ allowed: true, usedMs: [4000, 200] }));
  const rules = [shared({ id: 'one' }), rule({ id: 'local', requests: 20 }), shared({ id: 'two', requests: 100 })];
  const local = new LocalLimits();
  const limits = compileRateLimits({ rules }, { local, redis, now: () => 5000 });
  const verdict = await limits.check(facts());
  t.match(asked, [
    [
      { takeMs: 1000, spanMs: 10_000 },
      { takeMs: 100, spanMs: 10_000 },
    ],
  ]);
  t.match(verdict, { allowed: true, rule: 'one' });
  t.match(fieldsOf(verdict), { 'RateLimit-Limit': '10', 'RateLimit-Remaining': '6', 'RateLimit-Reset': '4' });
});

t.test('after Redis has refused, requests are refused without it until tokens return', async (t) => {
  const clock = { now: 5000 };
  const { redis, asked } = fakeRedis(async () => ({ allowed: false, usedMs: [9500] }));
  const local = new LocalLimits();
  const rules = [shared(), rule({ id: 'local', requests: 5, periodMs: 60_000 })];
  const limits = compileRateLimits({ rules }, { local, redis, now: () => clock.now });
  for (let i = 0; i < 50; i++)
    t.match(await limits.check(facts()), {
      allowed: false,
      rule: 'shared',
      retryAfterS: 1,
      details: 'request_rate_limited',
    });
  t.equal(asked.length, 1, 'one command for fifty requests');
  clock.now += 501;
  await limits.check(facts());
  t.equal(asked.length, 2);
  t.match(local.facts(), { limited: 51, allowed: 0 });
  const other = compileRateLimits({ rules: [rules[1]!] }, { local, now: () => clock.now });
  for (let i = 0; i < 5; i++) t.match(other.check(facts()), { allowed: true }, 'refused requests were not counted');
});

t.test('Redis unavailable: the process decides at once, from the last known state', async (t) => {
  const clock = { now: 5000 };
  let away = false;
  const { redis } = fakeRedis(() => (away ? undefined : Promise.resolve({ allowed: true, usedMs: [8000] })));
  const local = new LocalLimits();
  const limits = compileRateLimits({ rules: [shared()] }, { local, redis, now: () => clock.now });
  t.match(await limits.check(facts()), { allowed: true });
  away = true;
  redis.ready = false;
  const verdicts = Array.from({ length: 3 }, () => limits.check(facts()));
  t.ok(
    verdicts.every((one) => !(one instanceof Promise)),
    'no request waits',
  );
  t.match(verdicts, [
    { allowed: true },
    { allowed: true },
    { allowed: false, details: 'local_rate_limited', rule: 'shared', retryAfterS: 1 },
  ]);
});

t.test('Redis does not reply: the process decides, and local rules count once', async (t) => {
  const { redis } = fakeRedis(async () => undefined);
  const rules = [shared({ requests: 2 }), rule({ id: 'local', requests: 3, periodMs: 60_000 })];
  const limits = compileRateLimits({ rules }, { local: new LocalLimits(), redis, now: () => 5000 });
  const allowed = await Promise.all(Array.from({ length: 5 }, () => limits.check(facts())));
  t.strictSame(
    allowed.map((one) => one.allowed),
    [true, true, false, false, false],
  );
});

t.test('Redis still distinguishes keys when the table is full', async (t) => {
  const { redis } = fakeRedis(async ([bucket]) => ({ allowed: true, usedMs: [bucket!.spanMs] }));
  const rules = [shared({ selectors: [perHeader('x')] })];
  const limits = compileRateLimits({ rules }, { local: new LocalLimits(2), redis, now: () => 5000 });
  for (const x of ['a', 'b', 'c', 'd']) t.equal((await limits.check(facts({ headers: { x } }))).allowed, true, x);
  t.equal((await limits.check(facts({ headers: { x: 'a' } }))).allowed, false);
});

// The hooks of rate limits: which rules count a request, what its response holds, and what outlives a configuration.

import { Registry } from 'prom-client';
import t from 'tap';
import type { EdgeProcess, EdgeWorkers, FirstWorker } from '../../../sidecar/edge/capability.ts';
import { rateLimit } from '../../../sidecar/edge/rate-limit/capability.ts';
import { LocalLimits } from '../../../sidecar/edge/rate-limit/local.ts';
import type { RateLimitPlan } from '../../../sidecar/edge/rate-limit/schema.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { parseIp } from '../../../sidecar/policy/ip.ts';
import { type Asked, type Headers, hooksOf, type Plans, planOf, serve } from '../../fixtures/exchange.ts';

const local = (...rules: object[]) => planOf(rateLimit, 'rateLimit', { local: { rules } });
const global = (...rules: object[]) => planOf(rateLimit, 'rateLimit', { global: { rules } });
const filter = (...rules: object[]) => planOf(rateLimit, 'RequestRateLimit', { rules });

/** So many an hour: nothing comes back while a test runs. */
const hourly = (requests: number, more: object = {}) => ({ limit: { requests, unit: 'Hour' }, ...more });

const createShared = () => ({ local: new LocalLimits(), redis: undefined, leases: undefined });
const hooks = (plans: Plans, shared: unknown = createShared(), name = 'httproute/shop/r/rule/0') =>
  hooksOf(rateLimit, plans, { shared, name });

const selecting = (selector: object) => hourly(1, { clientSelectors: [selector] });
const distinct = (kind: string) => selecting({ [kind]: { type: 'Distinct' } });
const client = (uri: string) => ({ connection: { client: { uri } as never } });

const pairs: [name: string, rule: object, first: Asked, second: Asked, isRefused: boolean][] = [
  ['all requests count', hourly(1), {}, {}, true],
  ['a burst is allowed on top', hourly(1, { burst: 1 }), {}, {}, false],
  [
    'a header that matches',
    selecting({ headers: [{ name: 'X-A', value: '1' }] }),
    { headers: { 'x-a': '1' } },
    { headers: { 'x-a': '1' } },
    true,
  ],
  [
    'a header that does not match',
    selecting({ headers: [{ name: 'X-A', value: '1' }] }),
    { headers: { 'x-a': '1' } },
    { headers: { 'x-a': '2' } },
    false,
  ],
  [
    'each value of a header',
    selecting({ headers: [{ name: 'x-a', type: 'Distinct' }] }),
    { headers: { 'x-a': '1' } },
    { headers: { 'x-a': '2' } },
    false,
  ],
  [
    'a path, without its query',
    selecting({ path: { type: 'Exact', value: '/a' } }),
    { known: { path: '/a?q=1' } },
    { known: { path: '/a?q=2' } },
    true,
  ],
  [
    'another path',
    selecting({ path: { type: 'Exact', value: '/a' } }),
    { known: { path: '/a' } },
    { known: { path: '/ab' } },
    false,
  ],
  [
    'a method',
    selecting({ methods: [{ value: 'POST' }] }),
    { known: { method: 'POST' } },
    { known: { method: 'GET' } },
    false,
  ],
  [
    'each value of a query parameter',
    selecting({ queryParams: [{ name: 'q', type: 'Distinct' }] }),
    { known: { path: '/?q=a' } },
    { known: { path: '/?q=b' } },
    false,
  ],
  ['each client by its key', distinct('clientId'), { known: { clientId: 'a' } }, { known: { clientId: 'a' } }, true],
  ['another client', distinct('clientId'), { known: { clientId: 'a' } }, { known: { clientId: 'b' } }, false],
  ['each certificate', distinct('principal'), client('spiffe://a'), client('spiffe://a'), true],
  ['another certificate', distinct('principal'), client('spiffe://a'), client('spiffe://b'), false],
  [
    'each subject of a token',
    selecting({ jwtClaims: [{ name: 'sub', type: 'Distinct' }] }),
    claims('a'),
    claims('a'),
    true,
  ],
  ['another subject', selecting({ jwtClaims: [{ name: 'sub', type: 'Distinct' }] }), claims('a'), claims('b'), false],
  [
    'each address of a block',
    selecting({ sourceCIDR: { type: 'Distinct', value: '192.0.2.0/24' } }),
    ip('192.0.2.1'),
    ip('192.0.2.2'),
    false,
  ],
  [
    'one address of a block',
    selecting({ sourceCIDR: { value: '192.0.2.0/24' } }),
    ip('192.0.2.1'),
    ip('192.0.2.2'),
    true,
  ],
];

function claims(sub: string): Asked {
  return { known: { auth: { claims: { sub } } as unknown as NonNullable<Exchange['auth']> } };
}

function ip(text: string): Asked {
  return { known: { clientIp: parseIp(text) } };
}

for (const [name, rule, first, second, isRefused] of pairs)
  t.test(name, async (t) => {
    const compiled = hooks({ rateLimit: await local(rule) });
    t.ok((await serve(compiled, first)).backend, 'the first passes');
    const { backend, client: got } = await serve(compiled, second);
    t.equal(backend === undefined, isRefused);
    t.equal(got.code, isRefused ? 'rate_limited' : undefined);
  });

t.test('the fields of the response', async (t) => {
  const compiled = hooks({ rateLimit: await local(hourly(2)) });
  const headers = async (): Promise<Headers> => (await serve(compiled)).client.headers;
  t.match(await headers(), { 'ratelimit-limit': '2', 'ratelimit-remaining': '1' });
  t.match(await headers(), { 'ratelimit-limit': '2', 'ratelimit-remaining': '0' });
  const { client: refused, exchange } = await serve(compiled);
  t.match(refused, { status: 429, body: 'rate limited', code: 'rate_limited' });
  t.match(refused.headers, {
    ...{ 'ratelimit-remaining': '0', 'retry-after': /^1[78]\d\d$/, 'x-envoy-ratelimited': 'true' },
    'content-type': 'text/plain; charset=utf-8',
  });
  t.match(exchange, { decision: 'deny', details: 'local_rate_limited', flag: 'RL' });
});

t.test('rules of the policy and of the filter both count', async (t) => {
  const shared = createShared();
  const plans: Plans = {
    rateLimit: await local(hourly(3)),
    RequestRateLimit: await filter({ limit: 1, period: '1h' }),
  };
  const compiled = hooks(plans, shared);
  t.ok((await serve(compiled)).backend);
  const { exchange } = await serve(compiled);
  t.match(exchange.failure!.message, 'httproute/shop/r/rule/0 filter[0]', 'the exceeded limit is named');
  t.match(shared.local.facts(), { allowed: 1, limited: 1, buckets: 2 });
  const policyOnly = hooks({ rateLimit: await local(hourly(3)) }, shared);
  t.match((await serve(policyOnly)).client.headers, { 'ratelimit-remaining': '1' }, 'no rule counts a refused request');
});

t.test('an inherited rule counts in the bucket of its parent', async (t) => {
  const shared = createShared();
  const parent = (await local(hourly(1))) as RateLimitPlan;
  const merged = (await local(hourly(5), hourly(1))) as RateLimitPlan;
  const child = rateLimit.inherited!(merged, parent, 'shop/parent') as RateLimitPlan;
  t.strictSame(
    child.rules.map(({ of }) => of),
    [undefined, 'shop/parent'],
  );
  const acrossRoutes = { rules: [{ ...parent.rules[0]!, of: 'shop/parent', acrossRoutes: true }] };
  const ofChild = { rules: child.rules.map((one) => ({ ...one, acrossRoutes: true })) };
  t.ok((await serve(hooks({ rateLimit: acrossRoutes }, shared))).backend);
  const { exchange } = await serve(hooks({ rateLimit: ofChild }, shared, 'httproute/shop/r/rule/1'));
  t.match(exchange.failure!.message, 'shop/parent local rule 1');
});

t.test('which policies inherit the rules of a policy', async (t) => {
  const below = (await local(hourly(1))) as RateLimitPlan;
  const rows: [string, unknown, boolean][] = [
    ['the same', await local(hourly(1)), true],
    ['with one more', await local(hourly(9), hourly(1)), true],
    ['a larger limit in its place', await local(hourly(2)), false],
    ['the same of another scope', await global(hourly(1)), false],
  ];
  for (const [name, above, isKept] of rows) t.equal(rateLimit.keeps!(below, above as RateLimitPlan), isKept, name);
});

t.test('buckets survive a reload; a changed rule begins with full ones, and each route has its own', async (t) => {
  const shared = createShared();
  const passes = async (rule: object, name?: string) =>
    (await serve(hooks({ rateLimit: await local(rule) }, shared, name))).backend !== undefined;
  t.equal(await passes(hourly(1)), true);
  t.equal(await passes(hourly(1)), false, 'compiled again');
  t.equal(await passes(hourly(1), 'httproute/shop/r/rule/1'), true, 'another route');
  t.equal(await passes(hourly(2)), true, 'another rule');
  t.equal(await passes(hourly(3, { shared: true })), true);
});

t.test('a global limit needs Redis, which a dry run does not use', async (t) => {
  const plan = { rateLimit: await global(hourly(1)) };
  t.throws(() => hooks(plan), { code: 'config_invalid', hint: /redis/ });
  t.throws(() => hooks(plan, rateLimit.shareDry!({ hasRedis: false } as never)), { code: 'config_invalid' });
  t.ok(hooks(plan, rateLimit.shareDry!({ hasRedis: true } as never))!.limit);
});

t.test('Redis decides asynchronously; while it is unavailable the process decides', async (t) => {
  const asked: unknown[] = [];
  const answers = [Promise.resolve({ allowed: false, usedMs: [7_200_000] }), undefined];
  const redis = {
    ready: true,
    take: (buckets: unknown) => {
      asked.push(buckets);
      return answers.shift();
    },
  };
  const compiled = hooks({ rateLimit: await global(hourly(1)) }, { ...createShared(), redis });
  const { exchange } = await serve(compiled);
  t.match(exchange, { details: 'request_rate_limited', failure: { code: 'rate_limited' } });
  t.equal(asked.length, 1);
  const alone = hooks({ rateLimit: await global(hourly(1)) }, { ...createShared(), redis });
  t.ok((await serve(alone)).backend);
  t.match((await serve(alone)).exchange, { failure: { code: 'rate_limited' } });
});

/** What a process shares that has these workers. */
async function share(workers: Partial<EdgeWorkers>) {
  const registry = new Registry();
  const made = await rateLimit.share!({
    registry,
    redis: undefined,
    workers: { count: 2, serve() {}, ...workers },
  } as EdgeProcess);
  return { registry, shared: made };
}

t.test('another worker borrows its tokens from the first, and both count in metrics', async (t) => {
  let answer: (worker: number, question: unknown) => unknown = () => undefined;
  const { shared: ofFirst, registry } = await share({ serve: (part) => (answer = part.answer), first: undefined });
  const first = { ask: async (question: unknown) => answer(1, question), tell() {} } as unknown as FirstWorker;
  const { shared: ofOther } = await share({ first });
  const plans = { rateLimit: await local(hourly(1)) };
  t.ok((await serve(hooks(plans, ofOther))).backend);
  t.match((await serve(hooks(plans, ofFirst))).client, { status: 429 });
  t.match((await serve(hooks(plans, ofOther))).client, { status: 429 });
  t.match(await registry.metrics(), 'sallyport_rate_limit_decisions_total{outcome="limited"} 1');
  const { shared: alone } = await share({ first: { ask: async () => undefined, tell() {} } as unknown as FirstWorker });
  t.match(
    (await serve(hooks(plans, alone))).client,
    { status: 429 },
    'fails closed if the first worker does not respond',
  );
});

t.test('without a plan there are no hooks', async (t) => {
  t.equal(hooks({}), undefined);
});

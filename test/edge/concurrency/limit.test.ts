// How many requests are in flight, per route and per client. Refused requests do not count.

import t from 'tap';
import { refusalOf } from '../../../sidecar/edge/concurrency/limit.ts';
import { ConcurrencyLimit } from '../../../sidecar/edge/concurrency-limit.ts';

t.test('the limit of a route', async (t) => {
  const limit = new ConcurrencyLimit({ maxInFlight: 2, per: 'route' });
  t.strictSame(
    ['a', 'b', 'c'].map((key) => limit.enter(key)),
    [true, true, false],
  );
  limit.leave('b');
  t.equal(limit.enter('c'), true);
  t.strictSame(limit.facts(), { inFlight: 2, keys: 1, refused: 1 });
  t.match(refusalOf(limit.plan, 'shop/web/0'), {
    code: 'concurrency_limited',
    message: '2 requests of the route shop/web/0 are in flight (limit concurrency.maxInFlight)',
    row: { status: 429, grpc: 8, flag: 'RL' },
  });
});

t.test('the limit of each client', async (t) => {
  const limit = new ConcurrencyLimit({ maxInFlight: 1, per: 'client' });
  t.strictSame(
    ['a', 'b', 'a'].map((key) => limit.enter(key)),
    [true, true, false],
  );
  limit.leave('a');
  t.equal(limit.enter('a'), true);
  limit.leave('a');
  limit.leave('b');
  t.strictSame(
    limit.facts(),
    { inFlight: 0, keys: 0, refused: 1 },
    'only clients with requests in flight are remembered',
  );
  t.throws(() => limit.leave('a'), { name: 'TypeError' });
  t.match(refusalOf(limit.plan, 'r').message, /^1 requests of one client r/);
});

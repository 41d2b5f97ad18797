// The choice of an endpoint: evenly, or by hash, in which case few texts move when an endpoint comes or goes.

import t from 'tap';
import { createBalancer } from '../../sidecar/upstream/balance.ts';
import { createMaglev, createRing, type HashTable, hashText } from '../../sidecar/upstream/hash-table.ts';
import type { BalancePlan } from '../../sidecar/upstream/traffic.ts';
import { createRandom } from '../fixtures/random.ts';

const endpoint = (address: string, inFlight = 0) => ({ address, inFlight });
const ten = Array.from({ length: 10 }, (_, i) => `10.0.0.${i + 1}:8080`);
const texts = Array.from({ length: 5000 }, (_, i) => `user-${i}`);
const any = (): boolean => true;
const sizes = { ring: 1024, maglev: 65_537 };
const makers: Record<string, (names: readonly string[]) => HashTable> = {
  ring: (names) => createRing(names, sizes.ring),
  maglev: (names) => createMaglev(names, sizes.maglev),
};

function placesOf(names: readonly string[], table: HashTable): string[] {
  return texts.map((text) => names[table.find(text, any)!]!);
}

t.test('the simple algorithms', async (t) => {
  const random = createRandom(1).next;
  const count = (plan: BalancePlan, of = [endpoint('a'), endpoint('b'), endpoint('c')]): Record<string, number> => {
    const balancer = createBalancer<(typeof of)[0]>(plan, random);
    balancer.changed(of);
    const counts: Record<string, number> = {};
    for (let i = 0; i < 3000; i++) {
      const { address } = balancer.pick(of, undefined);
      counts[address] = (counts[address] ?? 0) + 1;
    }
    return counts;
  };
  t.same(count({ by: 'roundRobin' }), { a: 1000, b: 1000, c: 1000 }, 'in turn');
  for (const by of ['random', 'leastRequest'] as const)
    for (const one of Object.values(count({ by }))) t.ok(one > 900 && one < 1100, `${by}: ${one} of 3000`);
  const busy = count({ by: 'leastRequest' }, [endpoint('a', 9), endpoint('b', 1), endpoint('c', 9)]);
  t.ok(
    busy['b']! > 1900 && busy['b']! < 2100,
    'of two random endpoints the one with less load: two thirds of the time',
  );
  t.same(count({ by: 'leastRequest' }, [endpoint('a', 1), endpoint('b')]), { b: 3000 }, 'of two always the idle one');
});

for (const [name, make] of Object.entries(makers)) {
  t.test(`hash: ${name}`, async (t) => {
    const before = placesOf(ten, make(ten));
    t.same(placesOf(ten, make(ten)), before, 'the same each time');
    const turned = ten.toReversed();
    t.same(placesOf(turned, make(turned)), before, 'whatever the order of the addresses');
    for (const one of ten) {
      const share = before.filter((place) => place === one).length / texts.length;
      t.ok(share > 0.05 && share < 0.17, `${one} has ${share} of the texts`);
    }
    for (const gone of ten) {
      const nine = ten.filter((one) => one !== gone);
      const after = placesOf(nine, make(nine));
      const moved = texts.filter((_, i) => after[i] !== before[i]).length;
      t.ok(moved < texts.length * 0.2, `${moved} of ${texts.length} texts move when ${gone} is removed`);
    }
    const table = make(ten);
    const without = texts.map((text) => ten[table.find(text, (member) => member !== 3)!]!);
    t.notOk(without.includes(ten[3]!), 'an unusable endpoint is not chosen');
    t.ok(
      texts.every((_, i) => before[i] === ten[3] || without[i] === before[i]),
      'no other text moves for it',
    );
    t.equal(make([]).find('x', any), undefined, 'of no endpoints none is chosen');
    t.equal(
      table.find('x', () => false),
      undefined,
    );
  });
}

t.test('the balancer selects by hash', async (t) => {
  const all = ten.map((address) => endpoint(address));
  const hash = { headers: ['x-user'] };
  const balancer = createBalancer<(typeof all)[0]>({ by: 'ringHash', hash, size: 1024 }, createRandom(2).next);
  balancer.changed(all);
  const first = balancer.pick(all, 'anna');
  for (let i = 0; i < 20; i++) t.equal(balancer.pick(all, 'anna'), first);
  const others = all.filter((one) => one !== first);
  const second = balancer.pick(others, 'anna');
  t.not(second, first);
  t.equal(balancer.pick(others, 'anna'), second, 'the next on the ring, each time');
  const drawn = new Set(Array.from({ length: 200 }, () => balancer.pick(all, undefined)));
  t.equal(drawn.size, 10, 'without a text it is random');
});

t.test('hashes spread texts that are almost equal', async (t) => {
  const buckets = Array(16).fill(0) as number[];
  for (const text of texts) buckets[hashText(text) >>> 28]!++;
  for (const one of buckets) t.ok(one > 230 && one < 400, String(one));
});

// Names are looked up off the path: at most two at once, the last good result kept, again soon after a failed dial.

import t from 'tap';
import { Resolver } from '../../sidecar/upstream/resolve.ts';
import { logTo } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

/** A name server whose results the test sets. */
function createNames(): {
  asked: string[];
  lookup(name: string): Promise<readonly string[]>;
  answer(name: string, addresses: readonly string[] | Error): void;
  waiting(): string[];
} {
  const asked: string[] = [];
  const open = new Map<string, (addresses: readonly string[] | Error) => void>();
  return {
    asked,
    lookup(name) {
      asked.push(name);
      return new Promise((resolve, reject) =>
        open.set(name, (answer) => (answer instanceof Error ? reject(answer) : resolve(answer))),
      );
    },
    answer(name, addresses) {
      open.get(name)!(addresses);
      open.delete(name);
    },
    waiting: () => [...open.keys()],
  };
}

t.test('names are resolved', async (t) => {
  const names = createNames();
  const lines: Record<string, unknown>[] = [];
  const resolver = new Resolver(logTo(lines), names.lookup);
  t.teardown(() => resolver.close());
  for (const name of ['a', 'b', 'c', '10.0.0.1', '::1']) resolver.watch(name);
  t.same(names.waiting(), ['a', 'b'], 'two at once, and literal addresses not at all');
  t.same(resolver.addressesOf('10.0.0.1'), ['10.0.0.1']);
  t.same(resolver.addressesOf('::1'), ['::1']);
  t.same(resolver.addressesOf('a'), [], 'nothing is known yet');
  names.answer('a', ['10.0.0.2', 'fd00::2']);
  await until(() => names.waiting().includes('c'), 'the third');
  t.same(resolver.addressesOf('a'), ['10.0.0.2', 'fd00::2'], 'both families, in the order of the system');
  names.answer('b', new Error('SERVFAIL'));
  names.answer('c', ['10.0.0.3']);
  await until(() => lines.length === 1, 'the line about b');
  t.match(lines, [{ code: 'waiting', host: 'b', reason: 'SERVFAIL', msg: 'waiting for the name b' }]);

  await t.test('a name that never resolved is looked up every second, and logged once', async (t) => {
    await until(() => names.waiting().includes('b'), 'the second time', 3000);
    names.answer('b', new Error('SERVFAIL'));
    await until(() => names.waiting().includes('b'), 'the third time', 3000);
    t.equal(lines.length, 1);
    names.answer('b', ['10.0.0.4']);
    await until(() => lines.length === 2, 'the good news');
    t.match(lines[1], { code: 'name_resolved', host: 'b' });
    t.same(resolver.addressesOf('b'), ['10.0.0.4']);
  });

  await t.test('after a failed dial a name is looked up soon, and once', async (t) => {
    const before = names.asked.filter((one) => one === 'a').length;
    for (let i = 0; i < 100; i++) resolver.refresh('a');
    await until(() => names.waiting().includes('a'), 'the lookup', 3000);
    for (let i = 0; i < 100; i++) resolver.refresh('a');
    t.equal(names.asked.filter((one) => one === 'a').length, before + 1);
    names.answer('a', new Error('gone'));
    await until(() => lines.length === 3, 'the line about a');
    t.match(lines[2], { msg: 'a does not resolve any more; its last addresses are kept' });
    t.same(resolver.addressesOf('a'), ['10.0.0.2', 'fd00::2']);
  });

  await t.test('a name that is no longer dialled is dropped', async (t) => {
    resolver.watch('c');
    resolver.forget('c');
    t.same(resolver.addressesOf('c'), ['10.0.0.3'], 'one of its two users is left');
    resolver.forget('c');
    t.same(resolver.addressesOf('c'), []);
  });
});

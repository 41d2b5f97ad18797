// Bounds of what is kept: tables, without an API server.

import t from 'tap';
import { type Bounds, Budget, boundsOf, Ledger } from '../../sidecar/cluster/budget.ts';
import { gatewayKinds } from '../../sidecar/cluster/kinds.ts';
import { type KeptObject, keep, weightOf } from '../../sidecar/cluster/objects.ts';

const bounds: Bounds = { namespaceBytes: 100, totalBytes: 400 };
const object = (weight: number, namespace = 'shop', name = 'a'): KeptObject => ({
  ...{ kind: 'HTTPRoute', namespace, name, text: 'x', weight, resourceVersion: '1', status: undefined },
});
const isKept = ({ isOver }: KeptObject): boolean => isOver !== true;

t.test('lists of several kinds at once do not add up to more than the bound', async (t) => {
  const ledger = new Ledger();
  const kinds = Array.from({ length: 10 }, () => new Budget(bounds, ledger));
  const lists = kinds.map((one) => new Budget(bounds, ledger, one));
  t.equal(lists.filter((one) => isKept(one.add(object(60)))).length, 1);
  for (const one of lists) one.count();
  t.equal(ledger.of('shop'), 60);
  t.equal(ledger.total, 60);
});

t.test('a list that has what is there needs nothing more, whoever else lists', async (t) => {
  const ledger = new Ledger();
  const kinds = [new Budget(bounds, ledger), new Budget(bounds, ledger)];
  for (const one of kinds) t.ok(isKept(one.add(object(50))));
  const lists = kinds.map((one) => new Budget(bounds, ledger, one));
  for (const one of lists) t.ok(isKept(one.add(object(50))));
  t.equal(ledger.of('shop'), 100);
  lists[0]!.drop();
  lists[1]!.count();
  t.equal(ledger.of('shop'), 100);
});

t.test('events of what a list under way has already do not count twice', async (t) => {
  const ledger = new Ledger();
  const kind = new Budget(bounds, ledger);
  const list = new Budget(bounds, ledger, kind);
  for (const name of ['a', 'b']) t.ok(isKept(list.add(object(50, 'shop', name))));
  for (const name of ['a', 'b']) t.ok(isKept(kind.add(object(50, 'shop', name))));
  t.equal(ledger.of('shop'), 100);
  kind.remove(object(50, 'shop', 'a'));
  t.equal(ledger.of('shop'), 100, 'the list still has it');
  list.drop();
  t.equal(ledger.of('shop'), 50);
  kind.remove(object(50, 'shop', 'b'));
  t.equal(ledger.total, 0);
});

t.test('a list that another one displaced counts no more', async (t) => {
  const ledger = new Ledger();
  const kind = new Budget(bounds, ledger);
  const first = new Budget(bounds, ledger, kind);
  first.add(object(30));
  const second = new Budget(bounds, ledger, kind);
  first.add(object(40, 'shop', 'b'));
  first.drop();
  t.equal(ledger.total, 0);
  second.add(object(20));
  second.count();
  t.equal(ledger.of('shop'), 20);
});

t.test('a list that is not taken leaves nothing', async (t) => {
  const ledger = new Ledger();
  const list = new Budget(bounds, ledger, new Budget(bounds, ledger));
  list.add(object(70));
  t.equal(ledger.of('shop'), 70, 'while it is under way');
  list.drop();
  t.equal(ledger.total, 0);
});

t.test('a list with less frees the rest once it is taken', async (t) => {
  const ledger = new Ledger();
  const kind = new Budget(bounds, ledger);
  kind.add(object(90));
  const list = new Budget(bounds, ledger, kind);
  list.add(object(20));
  t.equal(ledger.of('shop'), 90);
  list.count();
  t.equal(ledger.of('shop'), 20);
  list.add(object(30), object(20));
  t.equal(ledger.of('shop'), 30);
  list.remove(object(30));
  t.equal(ledger.total, 0);
});

const megabyte = 1024 * 1024;
const eight: Bounds = { namespaceBytes: 8 * megabyte, totalBytes: 8 * megabyte };

t.test('the last quarter is for namespaces with little, and beyond it the largest gives way', async (t) => {
  const ledger = new Ledger();
  const budget = new Budget(eight, ledger);
  t.ok(isKept(budget.add(object(3 * megabyte, 'a'))));
  t.ok(isKept(budget.add(object(2.5 * megabyte, 'b'))));
  for (const name of ['c', 'd']) t.ok(isKept(budget.add(object(megabyte, name))));
  t.notOk(isKept(budget.add(object(3 * megabyte, 'e'))), 'no namespace has more');
  t.ok(isKept(budget.add(object(3 * megabyte, 'a'), object(3 * megabyte, 'a'))), 'what does not grow stays');
  t.strictSame(budget.exceeded, new Set(['e']));
  let asked = 0;
  ledger.onGiveWay = () => asked++;
  t.ok(isKept(budget.add(object(megabyte, 'f'))));
  t.equal(asked, 1);
  t.ok(ledger.gaveWay('a'));
  t.equal(ledger.total, 5.5 * megabyte, 'what is about to be forgotten counts no more');
  t.notOk(isKept(budget.add(object(1, 'a', 'other'))), 'it gets nothing more');
  t.notOk(isKept(budget.giveUp(object(3 * megabyte, 'a'))));
  t.equal(ledger.of('a'), 0);
  t.ok(isKept(budget.add(object(2 * megabyte, 'g'))), 'those with little have the last quarter');
  t.notOk(ledger.gaveWay('b'));
  t.ok(isKept(budget.add(object(2 * megabyte, 'h'))));
  t.ok(ledger.gaveWay('b'), 'and the next one');
});

/** Megabytes of namespaces, as `letBack` takes them. */
const sizes = (of: Readonly<Record<string, number>>): Map<string, number> =>
  new Map(Object.entries(of).map(([name, size]) => [name, size * megabyte]));

t.test('a namespace that gave way is back once it fits, by what it has then', async (t) => {
  const ledger = new Ledger();
  const budget = new Budget(eight, ledger);
  for (const [name, size] of [
    ['a', 4],
    ['b', 2],
    ['c', 2],
  ] as const)
    budget.add(object(size * megabyte, name));
  t.ok(ledger.gaveWay('a'));
  const left = budget.giveUp(object(4 * megabyte, 'a'));
  t.equal(left.weight, 4 * megabyte, 'what it would have is known');
  ledger.letBack(sizes({ a: 4, b: 2, c: 2 }), eight);
  t.ok(ledger.gaveWay('a'));
  t.notOk(isKept(budget.add(object(3 * megabyte, 'a'), left)), 'less of it is not kept before that');
  ledger.letBack(sizes({ a: 4, b: 0.5, c: 1 }), eight);
  t.notOk(ledger.gaveWay('a'), 'there is room');
  ledger.letBack(sizes({ a: 4, b: 2, c: 3 }), eight);
  t.ok(ledger.gaveWay('a'));
  ledger.letBack(sizes({ a: 0.25, b: 3, c: 3 }), eight);
  t.notOk(ledger.gaveWay('a'), 'it has little');
  ledger.letBack(sizes({ a: 4, b: 2, c: 3 }), eight);
  ledger.letBack(sizes({ b: 3, c: 4 }), eight);
  t.notOk(ledger.gaveWay('a'), 'there is nothing of it any more');
});

t.test('who came first does not decide which namespaces have room', async (t) => {
  const ledger = new Ledger();
  let asked = 0;
  ledger.onGiveWay = () => asked++;
  const budget = new Budget(eight, ledger);
  for (const [name, size] of [
    ['small', 3],
    ['other', 1.5],
    ['grows', 2.5],
  ] as const)
    t.ok(isKept(budget.add(object(size * megabyte, name))));
  t.ok(ledger.gaveWay('small'), 'it was the largest at that moment');
  ledger.letBack(sizes({ small: 3, other: 1.5, grows: 3.5 }), eight);
  t.notOk(ledger.gaveWay('small'));
  t.ok(ledger.gaveWay('grows'));
  t.equal(asked, 2);
  ledger.letBack(sizes({ small: 3, other: 1.5, grows: 3.5 }), eight);
  t.equal(asked, 2, 'the same sizes have the same answer');
  ledger.letBack(sizes({ small: 3, other: 1.5, grows: 3 }), eight);
  t.ok(ledger.gaveWay('grows'), 'of two that are equal, the one that is in force stays');
  ledger.letBack(sizes({ '': 4, small: 3, other: 1.5, grows: 0.5 }), eight);
  t.strictSame([ledger.gaveWay('small'), ledger.gaveWay('grows')], [true, false], 'beside what all need');
});

t.test('of a namespace beyond its own bound nothing is kept', async (t) => {
  const ledger = new Ledger();
  const bounds = { namespaceBytes: 2 * megabyte, totalBytes: 8 * megabyte };
  const asked: string[] = [];
  ledger.onGiveWay = () => asked.push('again');
  ledger.letBack(sizes({ x: 2.25, y: 2.25, z: 2.25, victim: 1.9 }), bounds);
  t.strictSame(
    ['x', 'y', 'z', 'victim'].map((one) => ledger.gaveWay(one)),
    [true, true, true, false],
  );
  t.strictSame(asked, ['again'], 'what they have is dropped');
  ledger.letBack(sizes({ x: 1.9, y: 2.25, z: 2.25, victim: 1.9 }), bounds);
  t.notOk(ledger.gaveWay('x'), 'it is back once it has less');
});

t.test('what has no namespace never gives way', async (t) => {
  const ledger = new Ledger();
  const budget = new Budget(eight, ledger);
  budget.add(object(5 * megabyte, ''));
  budget.add(object(megabyte, 'a'));
  t.notOk(isKept(budget.add(object(2 * megabyte, 'b'))));
  t.ok(isKept(budget.add(object(2.5 * megabyte, '', 'more'))));
  t.ok(ledger.gaveWay('a'));
});

t.test('bounds follow from the heap', async (t) => {
  t.strictSame(boundsOf(512 * megabyte), { totalBytes: 64 * megabyte, namespaceBytes: 16 * megabyte });
  t.strictSame(boundsOf(64 * 1024 * megabyte), { totalBytes: 256 * megabyte, namespaceBytes: 32 * megabyte });
});

t.test('small values weigh more than their text, and ordinary documents do not', async (t) => {
  const [kind] = gatewayKinds([], 'a.test', 'v1').filter((one) => one.kind === 'HTTPRoute');
  const weightOfSpec = (spec: unknown): { readonly text: number; readonly weight: number } => {
    const metadata = { name: 'a', namespace: 'shop', resourceVersion: '1' };
    const { text, weight } = keep({ metadata, spec }, { kind: kind!, version: 'v1', namespace: undefined });
    return { text: text.length, weight };
  };
  const parentRefs = [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'public' }];
  const backendRefs = [{ group: '', kind: 'Service', name: 'user-service', port: 8080, weight: 1 }];
  const rules = [{ matches: [{ path: { type: 'PathPrefix', value: '/users' } }], backendRefs }];
  const usual = weightOfSpec({ parentRefs, hostnames: ['www.example.com'], rules });
  t.equal(usual.weight, usual.text);
  const dense = weightOfSpec(Array.from({ length: 1000 }, () => ({})));
  t.ok(dense.weight > 15 * dense.text, `${dense.weight} of ${dense.text}`);
  t.equal(weightOf('', 'x'.repeat(50), 0), 50, 'a status counts');
});

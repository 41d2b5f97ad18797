// Our entries of a status beside those of others: tables.

import t from 'tap';
import { changeOf as changeFor, type Owner, type StatusChange } from '../../sidecar/cluster/merge-status.ts';

const ours = 'sallyport.dev/gateway-controller';
const all: Owner = { controllerName: ours, namespace: 'shop', follows: () => true };
/** One of several gateways, for the documents of namespace shop. */
const shard: Owner = { ...all, follows: (namespace) => namespace === 'shop' };
const changeOf = (current: unknown, wanted: unknown, owner = all): StatusChange | undefined =>
  changeFor(current, wanted, owner);
const condition = (status: string, at: string, reason = 'Accepted'): object => ({
  ...{ type: 'Accepted', status, reason, message: '', observedGeneration: 1, lastTransitionTime: at },
});
const parent = (name: string, conditions: object[], controllerName = ours, more = {}): object => ({
  ...{ parentRef: { name, ...more }, controllerName, conditions },
});
const [early, late] = ['2026-01-01T00:00:00Z', '2026-02-02T00:00:00Z'];
const theirs = parent('envoy', [condition('True', early)], 'gateway.envoyproxy.io/c');

t.test('the entries of others stay as they are', async (t) => {
  const mine = parent('g', [condition('True', late)]);
  t.strictSame(changeOf({ parents: [theirs] }, { parents: [mine] }), { replace: { parents: [theirs, mine] } });
  t.strictSame(changeOf(undefined, { parents: [mine] }), { replace: { parents: [mine] } });
  t.strictSame(changeOf({ parents: [mine, theirs] }, undefined), { replace: { parents: [theirs] } });
});

t.test('entries of Gateways in namespaces that are not followed are another gateway of ours', async (t) => {
  const mine = parent('g', [condition('True', early)]);
  const sibling = parent('h', [condition('True', early)], ours, { namespace: 'edge' });
  t.equal(changeOf({ parents: [mine, sibling] }, { parents: [mine] }, shard), undefined, 'nothing differs');
  t.strictSame(changeOf({ parents: [sibling, mine] }, { parents: [parent('g', [condition('False', late)])] }, shard), {
    replace: { parents: [sibling, parent('g', [condition('False', late)])] },
  });
  t.strictSame(changeOf({ parents: [sibling, mine] }, undefined, shard), { replace: { parents: [sibling] } });
  t.equal(changeOf({ parents: [sibling] }, undefined, shard), undefined);
  t.equal(changeOf({ parents: [sibling] }, { parents: [sibling] }, shard), undefined, 'nor is one added again');
  const ancestor = (name: string, namespace: string): object => ({
    ...{ ancestorRef: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name, namespace } },
    ...{ controllerName: ours, conditions: [] },
  });
  const [own, other] = [ancestor('g', 'shop'), ancestor('h', 'edge')];
  t.equal(changeOf({ ancestors: [own, other] }, { ancestors: [own] }, shard), undefined);
  t.strictSame(changeOf({ ancestors: [own, other] }, { ancestors: [] }, shard), { replace: { ancestors: [other] } });
});

t.test('a Gateway that is gone: the gateway that follows its namespace removes its entry', async (t) => {
  const gone = parent('gone', [condition('True', early)]);
  const far = parent('gone', [condition('True', early)], ours, { namespace: 'edge' });
  t.strictSame(changeOf({ parents: [gone, far] }, undefined, shard), { replace: { parents: [far] } });
  t.strictSame(changeOf({ parents: [gone, far] }, { parents: [] }), { replace: { parents: [] } });
});

t.test('an entry stays where it is', async (t) => {
  const [first, second] = ['a', 'b'].map((name) => parent(name, [condition('True', early)]));
  t.equal(changeOf({ parents: [second, theirs, first] }, { parents: [first, second] }), undefined);
  const third = parent('c', [condition('True', early)]);
  t.strictSame(changeOf({ parents: [second, theirs, first] }, { parents: [third, first] }), {
    replace: { parents: [theirs, first, third] },
  });
  t.strictSame(changeOf({ parents: [first, first] }, { parents: [first] }), { replace: { parents: [first] } });
});

t.test('a state that is the same keeps its time, and is not written', async (t) => {
  const before = { parents: [theirs, parent('g', [condition('True', early)])] };
  t.equal(changeOf(before, { parents: [parent('g', [condition('True', late)])] }), undefined);
  t.match(changeOf(before, { parents: [parent('g', [condition('True', late, 'Other')])] }), {
    replace: { parents: [theirs, { conditions: [{ reason: 'Other', lastTransitionTime: early }] }] },
  });
  t.match(changeOf(before, { parents: [parent('g', [condition('False', late)])] }), {
    replace: { parents: [theirs, { conditions: [{ status: 'False', lastTransitionTime: late }] }] },
  });
});

t.test('a full list of others gets nothing more', async (t) => {
  const full = Array.from({ length: 32 }, () => theirs);
  t.equal(changeOf({ parents: full }, { parents: [parent('g', [condition('True', late)])] }), undefined);
  const ancestors = Array.from({ length: 15 }, () => ({
    ancestorRef: { name: 'x' },
    controllerName: 'x',
    conditions: [],
  }));
  const two = ['a', 'b'].map((name) => ({ ancestorRef: { name }, controllerName: ours, conditions: [] }));
  const change = changeOf({ ancestors }, { ancestors: two }) as { replace: { ancestors: object[] } };
  t.equal(change.replace.ancestors.length, 16);
});

t.test('conditions of a Gateway are applied, beside those of others', async (t) => {
  const other = { ...condition('True', early), type: 'example.test/Other' };
  const before = { conditions: [other, condition('True', early)], listeners: [], addresses: [{ value: '10.0.0.1' }] };
  const wanted = { conditions: [condition('True', late)], listeners: [], addresses: [{ value: '0.0.0.0' }] };
  t.equal(changeOf(before, wanted), undefined);
  t.strictSame(changeOf(before, { ...wanted, conditions: [condition('False', late)] }), {
    apply: { conditions: [condition('False', late)], listeners: [] },
  });
  t.ok(changeOf({ ...before, listeners: [{ name: 'gone', conditions: [] }] }, wanted));
});

t.test('statuses of any shape', async (t) => {
  for (const odd of [null, 7, 'x', [], { parents: 'x' }, { parents: [null, 7] }, { conditions: {} }])
    t.doesNotThrow(() => {
      changeOf(odd, { parents: [] });
      changeOf(odd, { conditions: [] });
      changeOf(odd, undefined);
    });
});

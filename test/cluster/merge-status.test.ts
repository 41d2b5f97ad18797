// Our entries of a status beside those of others: tables.

import t from 'tap';
import { changeOf } from '../../sidecar/cluster/merge-status.ts';

const ours = 'sallyport.dev/gateway-controller';
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
  t.strictSame(changeOf({ parents: [theirs] }, { parents: [mine] }, ours), { replace: { parents: [theirs, mine] } });
  t.strictSame(changeOf(undefined, { parents: [mine] }, ours), { replace: { parents: [mine] } });
  t.strictSame(changeOf({ parents: [mine, theirs] }, undefined, ours), { replace: { parents: [theirs] } });
});

t.test('a state that is the same keeps its time, and is not written', async (t) => {
  const before = { parents: [theirs, parent('g', [condition('True', early)])] };
  t.equal(changeOf(before, { parents: [parent('g', [condition('True', late)])] }, ours), undefined);
  t.match(changeOf(before, { parents: [parent('g', [condition('True', late, 'Other')])] }, ours), {
    replace: { parents: [theirs, { conditions: [{ reason: 'Other', lastTransitionTime: early }] }] },
  });
  t.match(changeOf(before, { parents: [parent('g', [condition('False', late)])] }, ours), {
    replace: { parents: [theirs, { conditions: [{ status: 'False', lastTransitionTime: late }] }] },
  });
});

t.test('a full list of others gets nothing more', async (t) => {
  const full = Array.from({ length: 32 }, () => theirs);
  t.equal(changeOf({ parents: full }, { parents: [parent('g', [condition('True', late)])] }, ours), undefined);
  const ancestors = Array.from({ length: 15 }, () => ({
    ancestorRef: { name: 'x' },
    controllerName: 'x',
    conditions: [],
  }));
  const two = ['a', 'b'].map((name) => ({ ancestorRef: { name }, controllerName: ours, conditions: [] }));
  const change = changeOf({ ancestors }, { ancestors: two }, ours) as { replace: { ancestors: object[] } };
  t.equal(change.replace.ancestors.length, 16);
});

t.test('conditions of a Gateway are applied, beside those of others', async (t) => {
  const other = { ...condition('True', early), type: 'example.test/Other' };
  const before = { conditions: [other, condition('True', early)], listeners: [], addresses: [{ value: '10.0.0.1' }] };
  const wanted = { conditions: [condition('True', late)], listeners: [], addresses: [{ value: '0.0.0.0' }] };
  t.equal(changeOf(before, wanted, ours), undefined);
  t.strictSame(changeOf(before, { ...wanted, conditions: [condition('False', late)] }, ours), {
    apply: { conditions: [condition('False', late)], listeners: [] },
  });
  t.ok(changeOf({ ...before, listeners: [{ name: 'gone', conditions: [] }] }, wanted, ours));
});

t.test('statuses of any shape', async (t) => {
  for (const odd of [null, 7, 'x', [], { parents: 'x' }, { parents: [null, 7] }, { conditions: {} }])
    t.doesNotThrow(() => {
      changeOf(odd, { parents: [] }, ours);
      changeOf(odd, { conditions: [] }, ours);
      changeOf(odd, undefined, ours);
    });
});

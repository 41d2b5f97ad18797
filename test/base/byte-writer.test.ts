// Text in bytes that are used again, and what is left of it.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { ByteWriter } from '../../cert-agent/base/byte-writer.ts';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

t.test('a view is of what was written last, whatever its length', async (t) => {
  const writer = new ByteWriter();
  for (const text of ['one', 'four', 'two', '', 'x'.repeat(67), 'y'.repeat(3), 'z'.repeat(9000), 'end']) {
    t.equal(writer.clear().raw(text).view().toString('latin1'), text);
    t.equal(writer.clear().add(Buffer.from(text)).view().toString('latin1'), text);
  }
});

t.test('what is wiped is gone', async (t) => {
  const writer = new ByteWriter();
  const view = writer.raw('a secret').view();
  writer.wipe();
  t.same(view, Buffer.alloc(8));
  t.equal(writer.length, 0);
});

t.test('bytes that were given away are not kept', async (t) => {
  const writer = new ByteWriter();
  writer.raw('ab').view();
  const given = new WeakRef(writer.clear().raw('a secret').view().buffer);
  writer.giveAway();
  // What a WeakRef has given out in a turn stays until its end.
  await new Promise(setImmediate);
  collect();
  t.equal(given.deref(), undefined);
  t.equal(writer.raw('b').view().toString('latin1'), 'b');
});

// IDs are UUIDs of version 4, each different, with every free bit random.

import t from 'tap';
import { newRequestId } from '../../sidecar/exchange/request-id.ts';

t.test('version and variant stand where RFC 9562 has them, and no ID comes twice', async (t) => {
  const ids = Array.from({ length: 5000 }, newRequestId);
  for (const id of ids)
    if (!/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id)) t.fail(id);
  t.equal(new Set(ids).size, ids.length);
});

t.test('every digit but those two takes every value', async (t) => {
  const seen = Array.from({ length: 36 }, () => new Set<string>());
  for (let i = 0; i < 2000; i++) for (const [at, one] of [...newRequestId()].entries()) seen[at]!.add(one);
  const sizes = seen.map((one) => one.size);
  const expected = Array.from({ length: 36 }, (_, at) => ([8, 13, 14, 18, 23].includes(at) ? 1 : at === 19 ? 4 : 16));
  t.strictSame(sizes, expected);
});

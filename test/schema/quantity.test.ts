// Sizes as Kubernetes writes them.

import t from 'tap';
import { quantity } from '../../sidecar/schema/quantity.ts';

for (const [written, bytes] of [
  ...([
    [1, 1],
    ['1', 1],
    ['10k', 10_000],
    ['1M', 1_000_000],
    ['2G', 2_000_000_000],
  ] as const),
  ...([
    ['1Ki', 1024],
    ['64Mi', 67_108_864],
    ['2Gi', 2_147_483_648],
    [2_147_483_648, 2_147_483_648],
  ] as const),
] as const)
  t.test(`${written}`, async (t) => {
    t.equal(quantity.parse(written), bytes);
  });

for (const written of [
  0,
  -1,
  1.5,
  '',
  '0',
  '01',
  '1.5Mi',
  '1K',
  '1ki',
  '1 Mi',
  'Mi',
  '3Gi',
  '1Ti',
  '1e3',
  '-1',
  2 ** 53,
])
  t.test(`'${written}' is refused`, async (t) => {
    const { error } = quantity.safeParse(written);
    t.equal(error?.issues[0]?.message, `'${written}' is not a size up to 2Gi: write 10Mi, 500Ki or a number of bytes`);
  });

t.test('no number at all', async (t) => {
  for (const written of [null, true, ['1Mi'], { bytes: 1 }]) t.equal(quantity.safeParse(written).success, false);
});

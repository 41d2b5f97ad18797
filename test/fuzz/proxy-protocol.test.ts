// The PROXY preface under hostile bytes: a result for any bytes, the same however they are cut, and it consumes only
// its own bytes.

import assert from 'node:assert/strict';
import t from 'tap';
import { readPreface } from '../../sidecar/protocol/proxy-protocol.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';

const v2 = (hex: string): Buffer => Buffer.from(`0d0a0d0a000d0a515549540a${hex}`, 'hex');
const seeds = [
  Buffer.from('PROXY TCP4 192.0.2.7 203.0.113.1 40000 443\r\nGET / HTTP/1.1\r\n'),
  Buffer.from('PROXY TCP6 2001:db8::9 2001:db8::1 40000 443\r\n'),
  Buffer.from('PROXY UNKNOWN\r\n'),
  v2('2111000cc0000209cb0071019c4001bb474554'),
  v2('21210024200100000000000000000000000000092001000000000000000000000000000199c401bb'),
  v2('21110013c0000209cb0071019c4001bb0400020707ea000101'),
  v2('20000000'),
];

t.test('the seeds parse as expected', async (t) => {
  t.strictSame(seeds.map(readPreface), [
    { length: 44, place: { remote: '192.0.2.7:40000', local: '203.0.113.1:443' } },
    { length: 46, place: { remote: '[2001:db8::9]:40000', local: '[2001:db8::1]:443' } },
    { length: 15, place: undefined },
    { length: 28, place: { remote: '192.0.2.9:40000', local: '203.0.113.1:443' } },
    { length: 52, place: { remote: '[2001::9]:39364', local: '[2001::1]:443' } },
    { wrong: 'its fields are longer than the preface' },
    { length: 16, place: undefined },
  ]);
});

fuzz(
  t,
  'bytes changed, put in, taken out',
  (random) => mutate(random, random.pick(seeds)),
  (bytes, random) => {
    const whole = readPreface(bytes);
    if (typeof whole === 'object' && 'length' in whole) {
      assert.ok(whole.length >= 15 && whole.length <= bytes.length);
      for (const place of Object.values(whole.place ?? {}))
        assert.match(place, /^(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.]+\]):\d{1,5}$/);
      assert.deepEqual(readPreface(bytes.subarray(0, whole.length)), whole, 'the bytes that follow are ignored');
    }
    const part = readPreface(bytes.subarray(0, random.below(bytes.length + 1)));
    // A result stays the same, however many bytes follow.
    if (part !== 'more') assert.deepEqual(part, whole);
  },
);

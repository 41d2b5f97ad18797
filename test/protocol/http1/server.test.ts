// The request codec on in-memory streams: every vector as one buffer, and split at every byte with the same result.

import t from 'tap';
import { limits, readRequests, requestVectors } from '../../fixtures/codec.ts';

for (const { name, bytes, verdict } of requestVectors) {
  t.test(name, async (t) => {
    const buffer = Buffer.from(bytes, 'latin1');
    t.strictSame(await readRequests([buffer]), [verdict], 'as one buffer');
    for (let at = 1; at < buffer.length; at++) {
      t.strictSame(await readRequests([buffer.subarray(0, at), buffer.subarray(at)]), [verdict], `split at byte ${at}`);
    }
    t.strictSame(await readRequests(Array.from(buffer, (byte) => Buffer.of(byte))), [verdict], 'byte by byte');
  });
}

t.test('a head over the limit is 431, whether or not its end has arrived', async (t) => {
  const long = `GET / HTTP/1.1\r\nHost: a\r\nX-A: ${'a'.repeat(limits.headBytes)}`;
  t.strictSame(await readRequests([Buffer.from(long)]), ['head_too_large']);
  t.strictSame(await readRequests([Buffer.from(`${long}\r\n\r\n`)]), ['head_too_large']);
});

t.test('more fields than the limit are 431', async (t) => {
  const fields = Array.from({ length: limits.headFields }, (_, i) => `X-${i}: 1\r\n`).join('');
  t.strictSame(await readRequests([Buffer.from(`GET / HTTP/1.1\r\nHost: a\r\n${fields}\r\n`)]), [
    'head_too_many_fields',
  ]);
});

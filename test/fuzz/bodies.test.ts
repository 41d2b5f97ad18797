// Bodies from strangers: what the strict readers accept is what a plain reader reads, and nothing throws.

import assert from 'node:assert/strict';
import t from 'tap';
import { readContentType } from '../../sidecar/edge/content.ts';
import { readJson } from '../../sidecar/edge/json.ts';
import { readMultipart } from '../../sidecar/edge/multipart.ts';
import { readPairs } from '../../sidecar/edge/validation/written.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';

const mutated = (seeds: readonly string[]) => (random: Random) => mutate(random, Buffer.from(random.pick(seeds)));

fuzz(
  t,
  'JSON that is accepted has one meaning',
  mutated([
    '{"a":1,"b":[true,null,-1.5e3],"c":{"a":"\\u00e9\\ud83d\\ude00","\\u0061":2}}',
    '[[[]],{},"x\\"y"]',
    '"\\\\"',
    '12345678901234567890',
  ]),
  (bytes) => {
    const read = readJson(bytes);
    if ('fault' in read) return;
    assert.deepEqual(read.value, JSON.parse(bytes.toString()));
    // Written again and read again: no key was lost.
    const again = readJson(Buffer.from(JSON.stringify(read.value)));
    assert.deepEqual('value' in again ? again.value : again, read.value);
    JSON.stringify(read.value, (key, value: unknown) => {
      assert.ok(key.isWellFormed() && (typeof value !== 'string' || value.isWellFormed()));
      return value;
    });
  },
);

const part = (name: string, value: string): string =>
  `--b\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;

fuzz(
  t,
  'parts of a form are slices of it, in their order',
  mutated([`${part('a', '1')}${part('b', 'x\r\n--c')}--b--\r\n`, '--b--', `${part('f', '\0\r\n\r\n')}--b--`]),
  (bytes) => {
    const parts = readMultipart(bytes, 'b') ?? [];
    let at = 0;
    for (const { body, name } of parts) {
      assert.equal(typeof name, 'string');
      assert.ok(!body.includes('\r\n--b'), 'no part holds a boundary');
      const start = body.byteOffset - bytes.byteOffset;
      assert.ok(body.length === 0 || start > at);
      at = start;
    }
  },
);

fuzz(
  t,
  'pairs and types',
  mutated(['a=1&b=%20+%2B&c&=d&a=2', 'application/json; charset="utf-8"; a=b', 'multipart/form-data; boundary=x']),
  (bytes) => {
    const text = bytes.toString('latin1');
    for (const [name, raw] of readPairs(text) ?? []) assert.ok(typeof name === 'string' && !raw.includes('&'));
    const type = readContentType(text);
    if (type !== undefined) assert.match(type.type, /^[^/\s;,]+\/[^/\s;,]+$/);
  },
);

// The strict reader of JSON: what two readers could understand differently is refused, by a code of its own.

import t from 'tap';
import { maxDepth, readJson } from '../../sidecar/edge/json.ts';

const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
const sizes = (length: number): string => `{${Array.from({ length }, (_, i) => `"k${i}":${i}`).join()}}`;

const valid: readonly string[] = [
  ...['null', '0', '-0', '""', '[]', '{}', ' {"a" : [1 , 2.5e3, true, "x"]}\n', '"\\ud83d\\ude00"', '"\\u0000"'],
  ...['{"a":{"a":1},"b":[{"a":1},{"a":2}]}', '["a","a"]', '{"a":"a","b":"a"}', '{"__proto__":1,"constructor":2}'],
  ...['123456789012345678', '1e308', '0e-400', '0.0000', sizes(100), nested(maxDepth), '{"a\\"b":1,"a":2}', '"\\\\"'],
];
for (const text of valid)
  t.test(`valid: ${text.slice(0, 40)}`, async (t) => {
    const read = readJson(Buffer.from(text));
    t.strictSame('value' in read ? [read.value] : read, [JSON.parse(text)]);
  });

t.test('numbers that a double cannot hold are reported', async (t) => {
  for (const text of ['9007199254740993', '-123456789012345678', '1.00000000000000000000001', '0.123456789012345678'])
    t.match(readJson(Buffer.from(text)), { inexact: [text] }, text);
  for (const text of ['9007199254740992', '9223372036854774784', '1e23', '1E+2', '0.10000000000000001', '100.0e-2'])
    t.notOk('inexact' in readJson(Buffer.from(text)), text);
});

const refused: readonly (readonly [fault: string, text: string | Buffer, why: string])[] = [
  ['json_syntax', '', 'nothing'],
  ['json_syntax', '\ufeff{}', 'a byte order mark'],
  ['json_syntax', '{"a":1}{"a":2}', 'two values'],
  ['json_syntax', "{'a':1}", 'single quotes'],
  ['json_syntax', '{"a":NaN}', 'not a number'],
  ['json_syntax', '01', 'a leading zero'],
  ['json_syntax', '[1,]', 'a trailing comma'],
  ['json_syntax', '/**/1', 'a comment'],
  ['json_syntax', '"\t"', 'a control character'],
  ['json_not_utf8', Buffer.from('{"a":"\xff"}', 'latin1'), 'a byte that UTF-8 never has'],
  ['json_not_utf8', Buffer.from([0x22, 0xc0, 0xaf, 0x22]), 'an overlong form'],
  ['json_not_utf8', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]), 'a surrogate in bytes'],
  ['json_not_utf8', Buffer.from('\ufeff{}', 'utf16le'), 'UTF-16 with its mark'],
  ['json_syntax', Buffer.from('{}', 'utf16le'), 'UTF-16 without'],
  ['json_too_deep', nested(maxDepth + 1), 'one level too deep'],
  ['json_too_deep', nested(100_000), 'a hundred thousand levels'],
  ['json_too_deep', `${'{"a":'.repeat(1000)}1${'}'.repeat(1000)}`, 'a thousand objects'],
  ['json_duplicate_key', '{"a":1,"a":2}', 'a key twice'],
  ['json_duplicate_key', '{"a":1,"\\u0061":2}', 'a key twice, once escaped'],
  ['json_duplicate_key', '{"a":{"b":[{"c":1,"c":1}]}}', 'deep inside'],
  ['json_duplicate_key', '{"a":{"x":1},"a":2}', 'after an object'],
  ['json_duplicate_key', `${sizes(50).slice(0, -1)},"k7":1}`, 'among many'],
  ['json_duplicate_key', '{"__proto__":1,"__proto__":2}', 'a special name'],
  ['json_lone_surrogate', '"\\ud800"', 'the first half'],
  ['json_lone_surrogate', '"\\udc00\\ud800"', 'halves in the wrong order'],
  ['json_lone_surrogate', '{"\\udfff":1}', 'in a key'],
  ['json_number_out_of_range', '1e309', 'an overflow'],
  ['json_number_out_of_range', '[-1e1000000000]', 'a number that fills the memory of exact decimals'],
  ['json_number_out_of_range', '1e-400', 'a number that becomes zero'],
  ['json_number_out_of_range', '9'.repeat(10_000), 'ten thousand digits'],
  ['json_number_out_of_range', `0.${'1'.repeat(100)}`, 'a hundred decimals'],
];
for (const [fault, text, why] of refused)
  t.test(`refused: ${why}`, async (t) => {
    t.strictSame(readJson(Buffer.from(text as string)), { fault });
  });

t.test('parsing time is linear in the length', async (t) => {
  const texts = [
    '"'.padEnd(2_000_000, '\\\\').slice(0, 1_999_999).concat('"'),
    `[${'"",'.repeat(500_000)}1]`,
    sizes(100_000),
  ];
  for (const text of texts) {
    const before = process.cpuUsage();
    readJson(Buffer.from(text));
    // Microseconds of CPU time: linear takes a tenth of a second, quadratic many minutes.
    t.ok(process.cpuUsage(before).user < 10_000_000, text.slice(0, 10));
  }
});

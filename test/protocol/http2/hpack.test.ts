// HPACK against the published examples (RFC 7541 appendix C), against itself, and against invalid input.

import t from 'tap';
import { HpackDecoder, isTooLarge } from '../../../sidecar/protocol/http2/hpack-decode.ts';
import { HpackEncoder } from '../../../sidecar/protocol/http2/hpack-encode.ts';

const list = (decoder: HpackDecoder, hex: string): string[] => {
  const { fields, malformed } = decoder.decode(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
  if (malformed !== undefined) throw new Error(malformed);
  return fields.names.map(({ lower }, i) => `${lower}: ${fields.values[i]}`);
};

const first = [':method: GET', ':scheme: http', ':path: /', ':authority: www.example.com'];
const third = [':method: GET', ':scheme: https', ':path: /index.html', ':authority: www.example.com'];
const requests = [first, [...first, 'cache-control: no-cache'], [...third, 'custom-key: custom-value']];

/**
 * Appendix C: name, blocks of one connection, their fields. `3fe101` before the responses sets the table to 256 bytes.
 */
const published: readonly (readonly [
  name: string,
  blocks: readonly string[],
  fields: readonly (readonly string[])[],
])[] = [
  ['C.2.1', ['400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'], [['custom-key: custom-header']]],
  ['C.2.2', ['040c 2f73 616d 706c 652f 7061 7468'], [[':path: /sample/path']]],
  ['C.2.3', ['1008 7061 7373 776f 7264 0673 6563 7265 74'], [['password: secret']]],
  ['C.2.4', ['82'], [[':method: GET']]],
  [
    'C.3',
    [
      '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '8286 84be 5808 6e6f 2d63 6163 6865',
      '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    ],
    requests,
  ],
  [
    'C.4',
    [
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ],
    requests,
  ],
  [
    'C.6',
    [
      '3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
      '4883 640e ffc1 c0bf',
      '88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07',
    ],
    [
      [
        ':status: 302',
        'cache-control: private',
        'date: Mon, 21 Oct 2013 20:13:21 GMT',
        'location: https://www.example.com',
      ],
      [
        ':status: 307',
        'cache-control: private',
        'date: Mon, 21 Oct 2013 20:13:21 GMT',
        'location: https://www.example.com',
      ],
      [
        ':status: 200',
        'cache-control: private',
        'date: Mon, 21 Oct 2013 20:13:22 GMT',
        'location: https://www.example.com',
        'content-encoding: gzip',
        'set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1',
      ],
    ],
  ],
];

for (const [name, blocks, fields] of published) {
  t.test(`the example of appendix ${name}`, async (t) => {
    const decoder = new HpackDecoder(10_000, 100);
    t.same(
      blocks.map((block) => list(decoder, block)),
      fields,
    );
  });
}

t.test('encoded fields are decoded unchanged, over many blocks and evictions', async (t) => {
  const encoder = new HpackEncoder();
  const decoder = new HpackDecoder(100_000, 100);
  let seed = 7;
  const below = (end: number): number => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed % end;
  };
  let bytes = 0;
  let same = 0;
  for (let round = 0; round < 2000; round++) {
    if (round % 500 === 250) encoder.setLimit(below(4096));
    if (round % 500 === 400) encoder.setLimit(4096);
    const fields = Array.from({ length: 1 + below(12) }, (): [string, string] => {
      const name = [':path', 'x-a', 'x-b', 'accept', 'cookie', 'content-length', `x-${below(30)}`][below(7)]!;
      return [name, 'v'.repeat(below(3) * below(120)) + String(below(20))];
    });
    encoder.begin();
    for (const [lower, value] of fields) encoder.add({ lower }, value);
    const block = Buffer.from(encoder.bytes.subarray(0, encoder.length));
    bytes += block.length;
    const read = list(decoder, block.toString('hex'));
    if (JSON.stringify(read) === JSON.stringify(fields.map(([name, value]) => `${name}: ${value}`))) same++;
    else t.same(read, fields);
  }
  t.equal(same, 2000);
  t.ok(bytes > 0);
});

t.test('a repeated head takes one byte per field', async (t) => {
  const encoder = new HpackEncoder();
  const head = [
    [':method', 'GET'],
    [':path', '/orders'],
    [':authority', 'orders'],
    ['user-agent', 'curl/8'],
    ['x-tenant', 'a'],
  ] as const;
  const write = (): number => {
    encoder.begin();
    for (const [lower, value] of head) encoder.add({ lower }, value);
    return encoder.length;
  };
  t.ok(write() > 30);
  t.equal(write(), head.length);
});

t.test('secret fields are marked never-indexed', async (t) => {
  const encoder = new HpackEncoder();
  for (const lower of ['authorization', 'cookie', 'set-cookie']) {
    encoder.begin();
    encoder.add({ lower }, 'secret');
    t.equal(encoder.bytes[0]! & 0xf0, 0x10, lower);
    encoder.begin();
    encoder.add({ lower }, 'secret');
    t.ok(encoder.length > 6, 'the fields are written again each time');
  }
});

const broken: readonly (readonly [name: string, hex: string, why: RegExp])[] = [
  ['index 0', '80', /index 0/],
  ['an index beyond the table', 'be', /no field has the index 62/],
  ['a number without an end', 'ffffffffffffff01', /a number that is too long/],
  ['a truncated number', 'ff', /in the middle of a number/],
  ['a truncated string', '400a61', /in the middle of a string/],
  ['a table larger than ours', '3fe23f', /the table size \d+ exceeds the limit of 4096 bytes/],
  ['a change of size after a field', '8220', /in the middle of a block/],
  ['the end symbol in a string', '0085ffffffff ff', /end symbol|broken code/],
  ['padding that is not all ones', '0081 00 8100', /broken code/],
  ['more than seven bits of padding', '0082 1fff 8100', /broken code/],
];

for (const [name, hex, why] of broken) {
  t.test(`broken: ${name}`, async (t) => {
    const decoder = new HpackDecoder(10_000, 100);
    t.throws(() => decoder.decode(Buffer.from(hex.replaceAll(' ', ''), 'hex')), {
      code: 'http2_compression',
      message: why,
    });
  });
}

t.test('malformed fields are reported, and the table stays consistent', async (t) => {
  const literal = (name: string, value: string): string =>
    [0x40, name.length, ...Buffer.from(name), value.length, ...Buffer.from(value, 'latin1')]
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('');
  for (const [name, value] of [
    ['X-A', '1'],
    ['', '1'],
    ['a b', '1'],
    [':unknown', '1'],
    ['a', '1\r\nb: 2'],
    ['a', '\0'],
    ['a', ' b'],
    ['a', 'b\t'],
  ] as const) {
    const decoder = new HpackDecoder(10_000, 100);
    t.ok(decoder.decode(Buffer.from(literal(name, value), 'hex')).malformed, JSON.stringify([name, value]));
    t.same(list(decoder, literal('b', '2')), ['b: 2']);
    t.same(list(decoder, 'be'), ['b: 2'], 'the newest entry has the right index');
  }
  const small = new HpackDecoder(100, 2);
  const { malformed } = small.decode(Buffer.from(literal('a', 'x'.repeat(80)), 'hex'));
  t.ok(malformed !== undefined && isTooLarge(malformed));
  t.ok(isTooLarge(small.decode(Buffer.from('828684', 'hex')).malformed ?? ''), 'more fields than the limit');
});

// The formats: what each accepts and refuses, and that no text takes long.

import t from 'tap';
import { formats, numberFormats } from '../../../sidecar/edge/validation/formats.ts';

const rows: Readonly<Record<string, readonly [valid: readonly string[], invalid: readonly string[]]>> = {
  date: [
    ['2024-02-29', '2000-02-29'],
    ['2023-02-29', '1900-02-29', '2024-13-01', '2024-04-31', '24-01-01', '2024-1-1', '٢٠٢٤-01-01'],
  ],
  time: [
    ['08:30:06.283185Z', '23:59:60Z', '22:59:60-01:00', '08:30:06+01:00', '00:29:60+00:30'],
    ['08:30:06', '24:00:00Z', '22:59:60Z', '08:30:06+24:00', '8:30:06Z'],
  ],
  'date-time': [
    ['1963-06-19T08:30:06.283185Z', '1990-12-31T15:59:60-08:00', '1963-06-19t08:30:06z'],
    ['1963-06-19', '1990-02-31T15:59:59Z', '06/19/1963 08:30:06 PST', '1963-06-19T08:30:06', '2013-350T01:01:01Z'],
  ],
  duration: [
    ['P4DT12H30M5S', 'P1Y', 'PT36H', 'P2W', 'P1M2D'],
    ['P', 'PT', 'P1D2H', '4DT12H', 'P1YT', 'P1Y2W', 'P2S'],
  ],
  email: [
    ['joe@example.test', '"joe bloggs"@example.test', 'joe@[127.0.0.1]', 'joe@[IPv6:::1]', '~te~st@example.test'],
    [
      'joe',
      '.joe@example.test',
      'joe.@example.test',
      'j..e@example.test',
      'joe@',
      '@a.test',
      'joe@[300.0.0.1]',
      'a b@c.test',
    ],
  ],
  'idn-email': [['실례@실례.테스트'], ['2962', 'a b@c']],
  hostname: [
    ['www.example.test', 'xn--4gbwdl.xn--wgbh1c', 'a'],
    ['-a.test', 'a-.test', 'a_b.test', '', 'a..b', `${'a'.repeat(64)}.test`, 'a.'],
  ],
  'idn-hostname': [['실례.테스트'], ['a b', '', 'a/b', 'a@b']],
  ipv4: [['192.168.0.1'], ['256.0.0.1', '127.0.0', '01.2.3.4', '0x7f000001', '1.2.3.4/24']],
  ipv6: [
    ['::1', '::ffff:192.168.0.1'],
    ['12345::', '::1%eth0', '1:2', '1::2::3'],
  ],
  uri: [
    ['http://foo.bar/?baz=qux#quux', 'urn:a:b', 'ldap://[2001:db8::7]/c=GB?one', 'mailto:a@b.test', 'tel:+1-816'],
    [
      '//foo.bar',
      '/abc',
      '\\\\WINDOWS',
      'http:// shouldfail',
      ':// x',
      'bar,baz:a b',
      'https://[@example.org/test',
      'http://a/%zz',
      'http://a#b#c',
      'http://a:b/',
    ],
  ],
  'uri-reference': [
    ['/abc', '//a/b', 'abc', '#f', '', 'http://a'],
    ['\\\\W', '#fra\\g', 'a b'],
  ],
  iri: [['http://ƒøø.ßår/?∂éœ=πîx#πîüx'], ['/abc', 'http://2001:0db8:85a3::7334']],
  'iri-reference': [
    ['/âππ', 'âππ'],
    ['\\\\W', '#ƒr\\g'],
  ],
  'uri-template': [
    ['http://a/{term:1}/{term}', 'a'],
    ['http://a/{term:1}/{term', 'a}b', '{}'],
  ],
  uuid: [
    ['2EB8AA08-aa98-11ea-b4aa-73b441d16380'],
    ['2eb8aa08-aa98-11ea-b4aa-73b441d1638', '2eb8aa08aa9811eab4aa73b441d16380'],
  ],
  'json-pointer': [
    ['', '/foo/0', '/a~1b~0c'],
    ['foo', '/a~', '#/a'],
  ],
  'relative-json-pointer': [
    ['0', '1/0', '0#', '2/a/b'],
    ['-1', '01', '0##', '/a'],
  ],
  regex: [
    ['^a+$', '\\d{3}'],
    ['^(abc]', '(?=a)', 'a{1001}'],
  ],
  byte: [
    ['aGVsbG8=', ''],
    ['aGVsbG8', 'a*b=', 'a==='],
  ],
  binary: [['anything'], []],
  password: [['anything'], []],
};

for (const [name, format] of Object.entries(formats))
  t.test(name, async (t) => {
    const [valid, invalid] = rows[name]!;
    for (const text of valid) t.equal(format(text), true, text);
    for (const text of invalid) t.equal(format(text), false, text);
    for (const piece of ['a', '1', '.', ':', '/', '{', '%20', '@', 'a.', '-', '"', '[', 'a:']) {
      const started = performance.now();
      format(`http://${piece.repeat(200_000)}!`);
      format(piece.repeat(200_000));
      t.ok(performance.now() - started < 1000, `200,000 times '${piece}'`);
    }
  });

t.test('the formats of numbers', async (t) => {
  t.strictSame([2147483647, 2147483648, 1.5].map(numberFormats['int32']!), [true, false, false]);
  t.strictSame([2 ** 53, 1e30, 1.5].map(numberFormats['int64']!), [true, false, false]);
});

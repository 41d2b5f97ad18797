// The first message of a TLS client under hostile bytes: the result is a name, 'more' or 'none', however the bytes are
// cut, and the result for a part never contradicts the result for the whole.

import assert from 'node:assert/strict';
import t from 'tap';
import { type HelloRead, readClientHello } from '../../sidecar/protocol/client-hello.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';
import { helloOf } from '../fixtures/tls-app.ts';

const [named, nameless, two, quantum] = await Promise.all([
  helloOf({ servername: 'Shop.Example.com', ALPNProtocols: ['h2', 'http/1.1'] }),
  helloOf({}),
  helloOf({ servername: 'a.test', maxVersion: 'TLSv1.2' }),
  helloOf({ servername: 'a.b-c.test', ecdhCurve: 'X25519MLKEM768:X25519' }),
]);
const seeds = [named, nameless, two, quantum];

/** The same message in records of `size` bytes. */
function inRecords(bytes: Buffer, size: number): Buffer {
  const body = bytes.subarray(5);
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; at += size) {
    const part = body.subarray(at, at + size);
    parts.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part);
  }
  return Buffer.concat(parts);
}

const nameOf = (read: HelloRead): string | undefined => (typeof read === 'string' ? undefined : read.serverName);

t.test('ClientHellos of real clients are read', async (t) => {
  t.strictSame(readClientHello(named), { serverName: 'shop.example.com', alpn: ['h2', 'http/1.1'] });
  t.strictSame(readClientHello(nameless), { serverName: undefined, alpn: [] });
  t.strictSame(readClientHello(two), { serverName: 'a.test', alpn: [] });
  t.strictSame(readClientHello(quantum), { serverName: 'a.b-c.test', alpn: [] });
});

t.test('a ClientHello is read in any number of records, and cut anywhere', async (t) => {
  for (const seed of seeds) {
    const expected = readClientHello(seed);
    for (const size of [1, 3, 100, 1000]) {
      const cut = inRecords(seed, size);
      t.strictSame(readClientHello(cut), expected, `records of ${size}`);
      const ends = new Set(
        Array.from({ length: Math.ceil(cut.length / 7) }, (_, end) => readClientHello(cut.subarray(0, end * 7))),
      );
      t.strictSame([...ends], ['more'], `a part of records of ${size} is not yet one`);
    }
    t.strictSame(
      readClientHello(Buffer.concat([seed, Buffer.from('more')])),
      expected,
      'what follows is not looked at',
    );
  }
});

const vectors: [name: string, bytes: Buffer, expected: HelloRead][] = [
  ['nothing', Buffer.alloc(0), 'more'],
  ['HTTP', Buffer.from('GET / HTTP/1.1\r\n'), 'none'],
  ['SSH', Buffer.from('SSH-2.0-x\r\n'), 'none'],
  ['an alert', Buffer.from([21, 3, 1, 0, 2, 1, 0]), 'none'],
  ['a record of no bytes', Buffer.from([22, 3, 1, 0, 0]), 'none'],
  ['a record that is too long', Buffer.from([22, 3, 1, 255, 255]), 'none'],
  ['a ServerHello', Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0]), 'none'],
  ['a message that is too long', Buffer.from([22, 3, 1, 0, 4, 1, 255, 255, 255]), 'none'],
  ['an empty hello', Buffer.from([22, 3, 1, 0, 4, 1, 0, 0, 0]), 'none'],
  ['SSL 2', Buffer.from([128, 46, 1, 3, 1]), 'none'],
];

for (const [name, bytes, expected] of vectors)
  t.test(name, async (t) => t.strictSame(readClientHello(bytes), expected));

t.test('a server name is a host name, in lower case', async (t) => {
  const at = named.indexOf('Shop.Example.com');
  const withName = (text: string): HelloRead => {
    const bytes = Buffer.from(named);
    bytes.write(text.padEnd(16, 'x').slice(0, 16), at, 'latin1');
    return readClientHello(bytes);
  };
  t.match(withName('SHOP.example.COM'), { serverName: 'shop.example.com' });
  for (const bad of [
    'shop example.com',
    'shop\0example.com',
    'shop.example.co.',
    '.hop.example.com',
    '*.op.example.com',
    'sh/p.example.com',
    'sh\u00fcp.example.cm',
  ])
    t.equal(withName(bad), 'none', JSON.stringify(bad));
});

/** A hello with these extensions, each with its type. */
function helloWith(...extensions: readonly (readonly [type: number, body: Buffer])[]): Buffer {
  const written = extensions.map(([type, body]) => {
    const head = Buffer.alloc(4);
    head.writeUInt16BE(type);
    head.writeUInt16BE(body.length, 2);
    return Buffer.concat([head, body]);
  });
  const list = Buffer.concat(written);
  const size = Buffer.from([list.length >> 8, list.length & 255]);
  // Version, random, no session, one suite, one compression.
  const body = Buffer.concat([Buffer.from([3, 3]), Buffer.alloc(32), Buffer.from([0, 0, 2, 19, 1, 1, 0]), size, list]);
  const whole = Buffer.concat([Buffer.from([1, 0, body.length >> 8, body.length & 255]), body]);
  return Buffer.concat([Buffer.from([22, 3, 1, whole.length >> 8, whole.length & 255]), whole]);
}

const protocols = (...names: readonly string[]): Buffer => {
  const list = Buffer.concat(names.map((one) => Buffer.from([one.length, ...Buffer.from(one)])));
  return Buffer.concat([Buffer.from([list.length >> 8, list.length & 255]), list]);
};
const host = (name: string): Buffer =>
  Buffer.concat([Buffer.from([0, name.length + 3, 0, 0, name.length]), Buffer.from(name)]);

t.test('the offers are read in any order of extensions, and no extension may appear twice', async (t) => {
  const both: HelloRead = { serverName: 'a.test', alpn: ['istio', 'h2'] };
  const [name, alpn] = [[0, host('a.test')] as const, [16, protocols('istio', 'h2')] as const];
  t.strictSame(readClientHello(helloWith(name, alpn)), both);
  t.strictSame(readClientHello(helloWith(alpn, [43, Buffer.from([2, 3, 4])], name)), both);
  t.strictSame(readClientHello(helloWith([16, protocols('x'.repeat(255))])), {
    serverName: undefined,
    alpn: ['x'.repeat(255)],
  });
  for (const [why, bytes] of [
    ['two lists of protocols', helloWith(alpn, [16, protocols('h2')])],
    ['two names', helloWith(name, [0, host('b.test')])],
    ['an empty list', helloWith([16, Buffer.from([0, 0])])],
    ['an empty name', helloWith([16, Buffer.from([0, 4, 0, 2, 104, 50])])],
    ['a name past the end', helloWith([16, Buffer.from([0, 3, 3, 104, 50])])],
    ['a list that is longer than its extension', helloWith([16, Buffer.from([0, 9, 2, 104, 50])])],
    ['bytes behind the list', helloWith([16, Buffer.from([0, 3, 2, 104, 50, 0])])],
  ] as const)
    t.equal(readClientHello(bytes), 'none', why);
});

const change = (random: Random): Buffer => {
  const seed = random.pick(seeds);
  const bytes = random.below(3) === 0 ? inRecords(seed, 1 + random.below(300)) : Buffer.from(seed);
  if (random.below(2) === 0) return mutate(random, bytes);
  bytes[random.below(bytes.length)] = random.below(256);
  return bytes.subarray(0, random.below(4) === 0 ? random.below(bytes.length) : bytes.length);
};

fuzz(t, 'bytes changed, put in, taken out', change, (bytes, random) => {
  const whole = readClientHello(bytes);
  const name = nameOf(whole);
  if (name !== undefined) assert.match(name, /^[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?$/);
  const part = readClientHello(bytes.subarray(0, random.below(bytes.length + 1)));
  // A result stays the same, however many bytes follow.
  if (part !== 'more') assert.deepEqual(part, whole);
});

t.test('reading byte by byte costs little', async (t) => {
  const long = inRecords(quantum, 1);
  const started = performance.now();
  for (let end = 0; end <= long.length; end += 6) readClientHello(long.subarray(0, end));
  t.ok(performance.now() - started < 2000, `${Math.round(performance.now() - started)} ms for ${long.length} bytes`);
});

// The first message of a TLS client, as strangers may send it: a name, 'more' or 'none', whatever the bytes and however they
// are cut; and what is said of a part never contradicts what is said of the whole.

import assert from 'node:assert/strict';
import { createServer, type Socket } from 'node:net';
import { connect } from 'node:tls';
import t from 'tap';
import { type HelloRead, readClientHello } from '../../sidecar/protocol/client-hello.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';

/** What this Node sends first. */
function helloOf(options: object): Promise<Buffer> {
  return new Promise((resolve) => {
    const server = createServer((socket: Socket) => {
      socket.on('error', () => {});
      socket.once('data', (bytes: Buffer) => {
        socket.destroy();
        server.close();
        resolve(bytes);
      });
    });
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      connect({ host: '127.0.0.1', port, ...options }).on('error', () => {});
    });
  });
}

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

t.test('what clients send', async (t) => {
  t.strictSame(readClientHello(named), { serverName: 'shop.example.com' });
  t.strictSame(readClientHello(nameless), { serverName: undefined });
  t.strictSame(readClientHello(two), { serverName: 'a.test' });
  t.strictSame(readClientHello(quantum), { serverName: 'a.b-c.test' });
});

t.test('in as many records as one likes, and cut anywhere', async (t) => {
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

t.test('a name is a host name, in lower case', async (t) => {
  const at = named.indexOf('Shop.Example.com');
  const withName = (text: string): HelloRead => {
    const bytes = Buffer.from(named);
    bytes.write(text.padEnd(16, 'x').slice(0, 16), at, 'latin1');
    return readClientHello(bytes);
  };
  t.strictSame(withName('SHOP.example.COM'), { serverName: 'shop.example.com' });
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
  // What is once said stands, however much comes behind it.
  if (part !== 'more') assert.deepEqual(part, whole);
});

t.test('a byte at a time costs little', async (t) => {
  const long = inRecords(quantum, 1);
  const started = performance.now();
  for (let end = 0; end <= long.length; end += 6) readClientHello(long.subarray(0, end));
  t.ok(performance.now() - started < 2000, `${Math.round(performance.now() - started)} ms for ${long.length} bytes`);
});

// Reads into one buffer for all connections: what arrives is lent for one call, in order, and nobody else sees it.

import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import t, { type Test } from 'tap';
import { keepLent, LentReads, proveLentReads } from '../../sidecar/protocol/lent-reads.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

/** Two ends of a connection. */
async function openPair(t: Test): Promise<{ readonly near: Socket; readonly far: Socket }> {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const far = connect((server.address() as { port: number }).port, '127.0.0.1');
  const [near] = await accepted;
  t.teardown(() => {
    near.destroy();
    far.destroy();
    server.close();
  });
  return { near, far };
}

/** What arrives, as text, and each piece that was lent. */
class Reader {
  readonly lent: Buffer[] = [];
  readonly reads: LentReads;
  text = '';

  constructor(socket: Socket, also?: () => void) {
    this.reads = new LentReads(socket, (chunk, isLent) => {
      if (isLent) this.lent.push(chunk);
      this.text += chunk.toString('latin1');
      also?.();
    });
    socket.resume();
  }
}

t.test('this Node passes the test at start', async (t) => {
  t.equal(await proveLentReads(), true);
  t.equal(await proveLentReads(), true, 'and is asked once');
});

t.test('bytes are lent, and are gone after the call', async (t) => {
  const { near, far } = await openPair(t);
  const reader = new Reader(near);
  far.write('a secret');
  await until(() => reader.text !== '', 'what was sent');
  t.equal(reader.text, 'a secret');
  t.same(reader.lent, [Buffer.alloc(8)]);
  far.end('more');
  await once(near, 'end');
  t.equal(reader.text, 'a secretmore');
  t.equal(near.bytesRead, 12);
});

t.test('more than the buffer holds comes in pieces', async (t) => {
  const { near, far } = await openPair(t);
  const reader = new Reader(near);
  const sent = Buffer.alloc(1_000_000, 'abcdefghijk').toString('latin1');
  far.end(sent);
  await once(near, 'end');
  t.ok(reader.text === sent);
  t.ok(reader.lent.length > 10);
});

t.test('what came before is read first, in order', async (t) => {
  const { near, far } = await openPair(t);
  await new Promise((resolve) => far.write('one ', resolve));
  near.unshift(Buffer.from('zero '));
  const reader = new Reader(near);
  far.write('two');
  await until(() => reader.text.endsWith('two'), 'what was sent');
  t.equal(reader.text, 'zero one two');
});

t.test('a paused socket gives nothing, and goes on where it was', async (t) => {
  const { near, far } = await openPair(t);
  const reader = new Reader(near, () => {
    if (reader.text === 'one') near.pause();
  });
  far.write('one');
  await until(() => reader.text === 'one', 'what was sent');
  await new Promise((resolve) => far.write('two', resolve));
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  t.equal(reader.text, 'one');
  near.resume();
  await until(() => reader.text === 'onetwo', 'what was sent');
  far.write('three');
  await until(() => reader.text === 'onetwothree', 'what was sent');
  t.equal(reader.lent.length, 2, 'what waited has bytes of its own, and reads are lent again');
});

t.test('a paused socket is read until its own buffer is full, and no further', async (t) => {
  const { near, far } = await openPair(t);
  const reader = new Reader(near);
  near.pause();
  far.write(Buffer.alloc(20_000_000, 'abc'));
  await until(() => near.readableLength >= near.readableHighWaterMark, 'its buffer');
  const { bytesRead } = near;
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
  t.equal(near.bytesRead, bytesRead);
  t.ok(near.readableLength < near.readableHighWaterMark + 65_536, `${near.readableLength} bytes`);
  t.equal(reader.text, '');
});

for (const before of ['', 'something that waits'])
  t.test(`a paused socket notices a reset, with '${before}' before it`, async (t) => {
    const { near, far } = await openPair(t);
    const reader = new Reader(near, () => near.pause());
    far.write('one');
    await until(() => reader.text === 'one', 'what was sent');
    await new Promise((resolve) => far.write(before, resolve));
    near.on('error', () => {});
    far.resetAndDestroy();
    await until(() => near.closed, 'the reset');
    t.ok(near.destroyed);
  });

t.test('what is kept has memory of its own', async (t) => {
  const kept = keepLent(Buffer.from('x'));
  t.equal(kept.buffer.byteLength, 1);
  t.equal(kept.toString(), 'x');
});

t.test('after its end another listener gets the rest', async (t) => {
  const { near, far } = await openPair(t);
  const reader = new Reader(near);
  far.write('one');
  await until(() => reader.text === 'one', 'what was sent');
  reader.reads.stop();
  const rest: Buffer[] = [];
  near.on('data', (chunk: Buffer) => rest.push(chunk));
  far.write('two');
  await until(() => rest.length === 1, 'what was sent');
  far.end('three');
  await once(near, 'end');
  t.equal(Buffer.concat(rest).toString(), 'twothree', 'as bytes of its own');
  t.equal(reader.text, 'one');
});

t.test('two connections in turns have their own bytes', async (t) => {
  const pairs = [await openPair(t), await openPair(t)];
  const readers = pairs.map(({ near }) => new Reader(near));
  for (const round of ['1', '2', '3']) {
    for (const [i, { far }] of pairs.entries()) far.write(`${i}:${round} `);
    await until(() => readers.every(({ text }) => text.includes(`:${round}`)), 'what was sent');
  }
  t.same(
    readers.map(({ text }) => text),
    ['0:1 0:2 0:3 ', '1:1 1:2 1:3 '],
  );
});

t.test('TLS records that came with the one that paused it wait in order', async (t) => {
  const own = await createCredential(await createAuthority('demo.test'), 'spiffe://demo.test/ns/shop/sa/web');
  const server = createTlsServer({ cert: own.chainPem, key: own.keyPem }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'secureConnection') as Promise<[Socket]>;
  const far = connectTls({ port: (server.address() as { port: number }).port, rejectUnauthorized: false });
  const [near] = await accepted;
  t.teardown(() => {
    far.destroy();
    server.close();
  });
  const reader = new Reader(near, () => {
    if (reader.text.length <= 16_384) near.pause();
  });
  const sent = Buffer.alloc(200_000, 'abcdefghijk').toString('latin1');
  far.end(sent);
  await until(() => near.isPaused(), 'the first record');
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  t.equal(reader.lent.length, 1);
  t.ok(reader.text.length <= 16_384, `${reader.text.length} bytes of one record`);
  near.resume();
  await once(near, 'end');
  t.ok(reader.text === sent);
});

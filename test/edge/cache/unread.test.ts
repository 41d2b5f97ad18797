// Responses whose clients leave, or read slowly or not at all: nothing of them stays in memory uncounted, no request to
// the backend stays open, and what is complete stays stored.

import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { connect as connect2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { type CachedWorld, saying, startCached } from '../../fixtures/cached.ts';
import { type Owner, until } from '../../fixtures/process.ts';

const minute = { 'cache-control': 'max-age=60' };

/** A request on a socket that its caller reads. */
function ask(t: Owner, { gateway }: CachedWorld, path: string): Socket {
  const socket = connect(gateway.port('default/g:80'), '127.0.0.1');
  socket.on('error', () => {});
  t.teardown(() => socket.destroy());
  socket.write(`GET ${path} HTTP/1.1\r\nHost: a.test\r\n\r\n`);
  return socket;
}

/** A client that leaves with the first piece. */
async function leave(t: Owner, world: CachedWorld, path: string): Promise<void> {
  const socket = ask(t, world, path);
  await once(socket, 'data');
  socket.destroy();
  await once(socket, 'close');
}

/** An app that writes `first` to each request and then waits; its open answers. */
function beginning(world: CachedWorld, first: Buffer | string): Set<ServerResponse> {
  const open = new Set<ServerResponse>();
  world.say((_, answer) => {
    open.add(answer);
    answer.on('close', () => open.delete(answer));
    answer.writeHead(200, minute);
    answer.write(first);
  });
  return open;
}

const nothingHeld = () => until(() => heldBytes() < 100_000, 'no held bytes');

t.test('a response that turns out too large ends with its last client', async (t) => {
  const world = await startCached(t, '', '', 'limits: { heldBytes: 4194304 }\n');
  const open = beginning(world, Buffer.alloc(300_000));
  for (let i = 0; i < 20; i++) await leave(t, world, `/${i}`);
  t.equal(open.size, 20, 'the response could still be stored');
  for (const answer of open) answer.end(Buffer.alloc(20_000_000));
  await until(() => open.size === 0, 'no request at the backend');
  await nothingHeld();
  world.say(saying('fine', minute));
  t.equal((await world.get('/other', {}, { method: 'POST', body: 'x' })).status, 200);
});

t.test('a response that was fetched in the background ends when it turns out too large', async (t) => {
  const world = await startCached(t);
  const stale = { 'cache-control': 'max-age=0, stale-while-revalidate=60' };
  world.say(saying('small', stale));
  await world.get('/');
  let isClosed = false;
  world.say((_, answer) => {
    answer.on('close', () => {
      isClosed = true;
    });
    answer.writeHead(200, stale).end(Buffer.alloc(20_000_000));
  });
  t.equal(String((await world.get('/')).body), 'small');
  await until(() => isClosed, 'no request at the backend');
  await nothingHeld();
});

t.test('a purged response ends with its last client', async (t) => {
  const world = await startCached(t);
  const open = beginning(world, 'x');
  await leave(t, world, '/p');
  t.equal(open.size, 1);
  await world.purge({ url: 'http://a.test/p' });
  await until(() => open.size === 0, 'no request at the backend');
});

t.test('a response that could be stored has a time limit to be complete', async (t) => {
  const world = await startCached(t, '', '', 'limits: { streamIdle: 1s }\n');
  const open = beginning(world, 'x');
  const timer = setInterval(() => {
    for (const answer of open) answer.write('x');
  }, 100);
  t.teardown(() => clearInterval(timer));
  for (let i = 0; i < 3; i++) await leave(t, world, `/${i}`);
  t.equal(open.size, 3);
  await until(() => open.size === 0, 'no request at the backend');
});

t.test('an incomplete response evicts few complete ones, and the oldest incomplete one makes room', async (t) => {
  const world = await startCached(t, 'memory: 2Mi\nmaxEntry: 1000Ki');
  world.say(saying('x', minute));
  for (let i = 0; i < 30; i++) await world.get(`/k${i}`);
  const open = beginning(world, Buffer.alloc(900_000));
  for (let i = 0; i < 3; i++) await leave(t, world, `/slow${i}`);
  await until(() => open.size === 1, 'the last of the three');
  world.say(saying(Buffer.alloc(500_000), minute));
  await world.get('/n');
  t.match((await world.get('/n')).headers['cache-status'], /; hit; /);
  t.equal(open.size, 0);
  for (let i = 0; i < 30; i++) t.match((await world.get(`/k${i}`)).headers['cache-status'], /; hit; /);
});

t.test('a response that is evicted while it arrives continues for its client', async (t) => {
  const world = await startCached(t, 'memory: 2Mi\nmaxEntry: 1000Ki');
  const open = beginning(world, Buffer.alloc(900_000, 1));
  const first = world.get('/first');
  await until(() => open.size === 1, 'the request');
  const [answer] = open;
  world.say(saying(Buffer.alloc(500_000), minute));
  await world.get('/second');
  answer!.end(Buffer.alloc(900_000, 2));
  const { body, cut } = await first;
  t.equal(cut, false);
  t.equal(body.equals(Buffer.concat([Buffer.alloc(900_000, 1), Buffer.alloc(900_000, 2)])), true);
  t.match((await world.get('/second')).headers['cache-status'], /; hit; /);
  await nothingHeld();
});

t.test('a response for slow readers is counted until they have left, stored or not', async (t) => {
  const world = await startCached(t, 'memory: 4Mi', '', 'limits: { heldBytes: 16777216 }\n');
  const body = Buffer.alloc(1_000_000, 65);
  world.say(saying(body, minute));
  const session = connect2(`http://127.0.0.1:${world.gateway.port('default/g:80')}`, {
    settings: { initialWindowSize: 0 },
  });
  t.teardown(() => session.destroy());
  session.on('error', () => {});
  let [served, most, isFull] = [0, 0, false];
  for (let i = 0; i < 40; i++) {
    const stream = session.request({ ':path': `/${i}`, ':authority': 'a.test' });
    stream.on('error', () => {});
    const [head] = (await once(stream, 'response')) as [{ ':status': number }];
    if (head[':status'] === 200) {
      served++;
      // A reader that takes nothing for a second may be cut to make room for the next.
      stream.once('close', () => served--);
    } else isFull ||= head[':status'] === 503;
    most = Math.max(most, served);
  }
  // Four are counted by the store, and 16 beside it.
  t.ok(most <= 20, `as many at once as the limits hold: ${most}`);
  t.ok(isFull, 'memory is full');
  session.destroy();
  await nothingHeld();
});

t.test('a stored response is in memory once for all its readers, and one piece of it waits for each', async (t) => {
  const world = await startCached(t, '', '', 'limits: { heldBytes: 16777216 }\n');
  const body = Buffer.alloc(1_000_000, 65);
  world.say(saying(body, minute));
  await world.get('/pin');
  const session = connect2(`http://127.0.0.1:${world.gateway.port('default/g:80')}`, {
    settings: { initialWindowSize: 0 },
  });
  t.teardown(() => session.destroy());
  session.on('error', () => {});
  const streams = Array.from({ length: 95 }, () => session.request({ ':path': '/pin', ':authority': 'a.test' }));
  for (const stream of streams) stream.on('error', () => {});
  await Promise.all(streams.map((stream) => once(stream, 'response')));
  const most = 95 * 65_536;
  t.ok(heldBytes() <= most + 100_000, `${heldBytes()} bytes`);
  t.equal((await world.get('/pin')).body.equals(body), true);
  t.strictSame((await world.purge({ url: 'http://a.test/pin' })).body, { removed: 1 });
  t.ok(heldBytes() >= 1_000_000 && heldBytes() <= most + 1_100_000, `${heldBytes()} bytes with what is purged`);
  let read = 0;
  const [first, ...others] = streams;
  first!.on('data', ({ length }: Buffer) => {
    read += length;
  });
  session.settings({ initialWindowSize: 4_000_000 });
  await once(first!, 'end');
  t.equal(read, body.length);
  for (const stream of others) stream.destroy();
  await nothingHeld();
});

t.test('a body of tiny pieces is merged for its readers and for the store', async (t) => {
  const world = await startCached(t);
  let end = (): void => {};
  world.say((_, answer) => {
    answer.socket!.write(
      `HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(50_000)}`,
    );
    end = () => answer.socket!.write('0\r\n\r\n');
  });
  let heard = 0;
  const first = world.get(
    '/c',
    {},
    {
      heard(piece) {
        heard += piece.length;
      },
    },
  );
  await until(() => heard === 50_000, 'all of it');
  const second = ask(t, world, '/c');
  let text = '';
  second.setEncoding('latin1').on('data', (piece) => {
    text += piece;
  });
  await until(() => text.split('x').length > 50_000, 'all of it again');
  t.ok(text.split('\r\n').length < 200, 'in larger pieces');
  end();
  t.equal(String((await first).body), 'x'.repeat(50_000));
  await until(() => text.endsWith('\r\n0\r\n\r\n'), 'the end');
  t.equal(String((await world.get('/c')).body), 'x'.repeat(50_000));
  t.equal(world.asked.length, 1);
});

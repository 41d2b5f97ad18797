// Clients that read one response together that turns out to be too large to be stored: each gets all of it if it reads
// on, one that does not is cut, and little of it is in memory at any time.

import { connect as connect2 } from 'node:http2';
import t from 'tap';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { type Answer, type CachedWorld, saying, startCached } from '../../fixtures/cached.ts';
import { type Owner, until } from '../../fixtures/process.ts';

const minute = { 'cache-control': 'max-age=60' };
const piece = Buffer.alloc(100_000, 'x');

/** A response of unknown length, as fast as it is taken; after the first piece, once `go` resolves. */
const sending =
  (pieces: number, go = Promise.resolve()): Answer =>
  (_, answer) => {
    answer.writeHead(200, minute);
    answer.write(piece);
    let sent = 1;
    const more = (): void => {
      while (sent < pieces) {
        sent++;
        if (!answer.write(piece)) return void answer.once('drain', more);
      }
      answer.end();
    };
    void go.then(more);
  };

interface Slow {
  readonly bytes: () => number;
  readonly end: Promise<{ readonly bytes: number; readonly isCut: boolean }>;
}

/** A client that takes a window of 64 KB every `ms` milliseconds; one window and no more without `ms`. */
function readSlowly(t: Owner, { gateway }: CachedWorld, path: string, ms?: number): Slow {
  const session = connect2(`http://127.0.0.1:${gateway.port('default/g:80')}`);
  t.teardown(() => session.destroy());
  session.on('error', () => {});
  const stream = session.request({ ':path': path, ':authority': 'a.test' });
  let bytes = 0;
  const end = new Promise<Awaited<Slow['end']>>((resolve) => {
    stream.on('error', () => {});
    stream.on('close', () => resolve({ bytes, isCut: stream.rstCode !== 0 }));
  });
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    stream.pause();
    if (ms !== undefined) setTimeout(() => stream.resume(), ms).unref();
  });
  return { bytes: () => bytes, end };
}

t.test('a client that reads more slowly than another gets the whole response, and memory stays small', async (t) => {
  const world = await startCached(t, 'maxEntry: 256Ki');
  const { promise, resolve: go } = Promise.withResolvers<void>();
  world.say(sending(30, promise));
  const slow = [readSlowly(t, world, '/', 2), readSlowly(t, world, '/', 3)];
  let most = 0;
  let heard = 0;
  const reading = world.get(
    '/',
    {},
    {
      heard(piece) {
        heard += piece.length;
        most = Math.max(most, heldBytes());
      },
    },
  );
  await until(() => heard === piece.length && slow.every(({ bytes }) => bytes() > 0), 'all to read');
  go();
  const fast = await reading;
  t.strictSame([fast.body.length, fast.cut], [3_000_000, false]);
  for (const { end } of slow) t.strictSame(await end, { bytes: 3_000_000, isCut: false });
  t.ok(most < 2_000_000, `${most} bytes`);
  await until(() => heldBytes() < 100_000, 'no held bytes');
});

t.test('readers that stop reading are cut together, and stop no other', async (t) => {
  const world = await startCached(t);
  const { promise, resolve: go } = Promise.withResolvers<void>();
  world.say(sending(100, promise));
  const stopped = Array.from({ length: 5 }, () => readSlowly(t, world, '/'));
  let isReading = false;
  const reading = world.get('/', {}, { heard: () => (isReading = true) });
  await until(() => isReading && stopped.every(({ bytes }) => bytes() > 0), 'all to read');
  go();
  const fast = await reading;
  t.strictSame([fast.body.length, fast.cut], [10_000_000, false]);
  t.equal(world.asked.length, 1);
  const records = await world.gateway.records(6);
  t.equal(records.filter(({ reason }) => /others wait for the same response/.test(String(reason))).length, 5);
  await until(() => heldBytes() < 100_000, 'no held bytes');
});

t.test('after a response that was too large, each client fetches for itself until it is small again', async (t) => {
  const world = await startCached(t);
  world.say(sending(30));
  await world.get('/');
  const before = world.asked.length;
  const all = await Promise.all(Array.from({ length: 3 }, () => world.get('/')));
  for (const { body, cut } of all) t.strictSame([body.length, cut], [3_000_000, false]);
  t.equal(world.asked.length - before, 3);
  world.say(saying('small', minute));
  await world.get('/');
  t.match((await world.get('/')).headers['cache-status'], /; hit; /);
});

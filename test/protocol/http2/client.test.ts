// The client side of HTTP/2 on an in-memory socket, where frames can be made to cross on the way.

import type { Socket } from 'node:net';
import t from 'tap';
import { type Call, emptyFields, type Reply } from '../../../sidecar/exchange/message.ts';
import type { UpstreamConnection, UpstreamEvents } from '../../../sidecar/exchange/upstream.ts';
import { Http2Client } from '../../../sidecar/protocol/http2/client.ts';
import { FakeSocket } from '../../fixtures/codec.ts';
import { block, frame, settings } from '../../fixtures/http2-raw.ts';

const call: Call = {
  method: 'GET',
  path: '/',
  authority: 'orders',
  fields: emptyFields,
  hopFields: undefined,
  clientCert: undefined,
  requestId: undefined,
  framing: 0,
  webSocket: false,
  expectContinue: false,
};

/** One request, and its outcome. */
function start(client: Http2Client): { stream: UpstreamConnection; said: string[] } {
  const said: string[] = [];
  const events: UpstreamEvents = {
    upstreamInformational: (reply) => said.push(`interim ${reply.status}`),
    upstreamReply: (reply: Reply, whole) => said.push(`reply ${reply.status} ${whole ?? '...'}`),
    upstreamData: (chunk) => said.push(`data ${chunk}`) > 0,
    upstreamEnd: (trailers) => said.push(`end ${trailers.names.map((one) => one.lower)}`),
    upstreamDrained: () => {},
    upstreamFailed: (error) => said.push(`failed ${error.code}`),
  };
  const stream = client.take();
  stream.send(call, undefined, events);
  return { stream, said };
}

const status = (stream: number, code: string, flags = 5): Buffer => frame(1, flags, stream, block([[':status', code]]));

function makeClient(): { client: Http2Client; socket: FakeSocket; quiet: () => number; gone: () => number } {
  const socket = new FakeSocket();
  let [quiet, gone] = [0, 0];
  const owner = { quiet: () => quiet++, gone: () => gone++ };
  const client = new Http2Client(socket as unknown as Socket, owner, {
    ...{ secure: true, peer: undefined, address: '127.0.0.1:1', headBytes: 61_440, headFields: 100 },
  });
  socket.emit('data', settings);
  return { client, socket, quiet: () => quiet, gone: () => gone };
}

t.test('responses that cross our reset affect no other stream', async (t) => {
  const { client, socket, gone } = makeClient();
  const [first, second] = [start(client), start(client)];
  first.stream.destroy();
  socket.emit('data', Buffer.concat([status(1, '200', 4), frame(0, 1, 1, [1]), status(3, '204')]));
  t.same(first.said, []);
  t.same(second.said, ['reply 204 ']);
  t.equal(gone(), 0);
});

t.test('a response in one piece is passed on in one piece, and one in pieces in pieces', async (t) => {
  const { client, socket, quiet } = makeClient();
  const [whole, parts] = [start(client), start(client)];
  const head = (stream: number): Buffer =>
    frame(
      1,
      4,
      stream,
      block([
        [':status', '200'],
        ['content-length', '2'],
      ]),
    );
  socket.emit('data', Buffer.concat([head(1), frame(0, 1, 1, [104, 105])]));
  t.same(whole.said, ['reply 200 hi']);
  t.equal(quiet(), 0);
  socket.emit('data', head(3));
  socket.emit('data', frame(0, 0, 3, [104]));
  socket.emit('data', frame(0, 1, 3, [105]));
  t.same(parts.said, ['reply 200 ...', 'data h', 'data i', 'end ']);
  t.equal(quiet(), 1);
});

t.test('interim responses and trailers', async (t) => {
  const { client, socket } = makeClient();
  const { said } = start(client);
  socket.emit(
    'data',
    Buffer.concat([
      status(1, '103', 4),
      status(1, '200', 4),
      frame(0, 0, 1, [104]),
      frame(1, 5, 1, block([['x-sum', '1']])),
    ]),
  );
  t.same(said, ['interim 103', 'reply 200 ...', 'data h', 'end x-sum']);
});

const wrong: readonly (readonly [name: string, bytes: Buffer, said: readonly string[]])[] = [
  ['no :status', frame(1, 5, 1, block([['x-a', '1']])), ['failed upstream_protocol']],
  ['status 101', status(1, '101'), ['failed upstream_protocol']],
  ['an interim response that ends', status(1, '100'), ['failed upstream_protocol']],
  [
    'connection',
    frame(
      1,
      5,
      1,
      block([
        [':status', '200'],
        ['connection', 'close'],
      ]),
    ),
    ['failed upstream_protocol'],
  ],
  ['a reset', frame(3, 0, 1, [0, 0, 0, 2]), ['failed upstream_reset']],
  ['a refusal to process it', frame(3, 0, 1, [0, 0, 0, 7]), ['failed upstream_refused_stream']],
  ['GOAWAY before it', frame(7, 0, 0, Array(8).fill(0)), ['failed upstream_refused_stream']],
  [
    'a break-off',
    Buffer.concat([status(1, '200', 4), frame(3, 0, 1, [0, 0, 0, 2])]),
    ['reply 200 ...', 'failed upstream_cut'],
  ],
  [
    'fewer bytes than declared',
    Buffer.concat([
      frame(
        1,
        4,
        1,
        block([
          [':status', '200'],
          ['content-length', '3'],
        ]),
      ),
      frame(0, 1, 1, [1]),
    ]),
    ['failed upstream_protocol'],
  ],
  ['a response to a stream that never existed', status(9, '200'), ['failed upstream_protocol']],
];

for (const [name, bytes, expected] of wrong) {
  t.test(`wrong: ${name}`, async (t) => {
    const { client, socket } = makeClient();
    const { said } = start(client);
    socket.emit('data', bytes);
    t.same(said, expected);
    t.equal(client.http2.size, 0);
  });
}

t.test('a connection that closes ends every response on it', async (t) => {
  const { client, socket, gone } = makeClient();
  const [first, second] = [start(client), start(client)];
  socket.emit('data', status(1, '204'));
  socket.emit('close');
  t.same(first.said, ['reply 204 ']);
  t.same(second.said, ['failed upstream_closed']);
  t.equal(gone(), 1);
  t.notOk(client.hasRoom);
  const late = start(client);
  await new Promise((resolve) => queueMicrotask(() => resolve(undefined)));
  t.same(late.said, ['failed upstream_closed']);
});

t.test('an accepted stream is served although the connection is retired meanwhile', async (t) => {
  const { client, socket } = makeClient();
  const said: string[] = [];
  const taken = client.take();
  client.retire();
  t.notOk(client.hasRoom);
  t.notOk(socket.writableEnded);
  taken.send(call, undefined, {
    ...{ upstreamInformational: () => {}, upstreamData: () => true, upstreamEnd: () => {}, upstreamDrained: () => {} },
    upstreamReply: (reply) => said.push(String(reply.status)),
    upstreamFailed: (error) => said.push(error.code),
  });
  socket.emit('data', status(1, '204'));
  t.same(said, ['204']);
  t.ok(socket.writableEnded, 'the connection closes afterwards');
  const unused = makeClient();
  const other = unused.client.take();
  unused.client.retire();
  other.destroy();
  t.ok(unused.socket.writableEnded);
});

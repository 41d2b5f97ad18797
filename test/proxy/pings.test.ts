// PINGs of peers that measure their bandwidth: grpc-go and grpc-java send one for each round trip in which DATA
// arrives, which on one machine is a thousand a second and more (grpc-java#8260). None of these is a flood; PINGs
// without such DATA are.

import { createServer, type Socket } from 'node:net';
import { connect } from 'node:tls';
import t from 'tap';
import { type Frame, frame, framesOf, get, hello, preface, settings } from '../fixtures/http2-raw.ts';
import { startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import type { Owner } from '../fixtures/process.ts';

const [data, headers, reset, ping, goaway] = [0, 1, 3, 6, 7];
const [ack, endHeaders] = [1, 4];
/** More than the budget at once of a peer that sends useless PINGs. */
const rounds = 1500;

/** Reports each frame received on a socket. */
function onFrames(socket: Socket, skip: number, take: (one: Frame) => void): void {
  let held = Buffer.alloc(0);
  let left = skip;
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    held = Buffer.concat([held, chunk.subarray(Math.min(left, chunk.length))]);
    left -= Math.min(left, chunk.length);
    const frames = framesOf(held);
    held = held.subarray(frames.reduce((size, { payload }) => size + 9 + payload.length, 0));
    for (const one of frames) take(one);
  });
}

/** Sends a PING when DATA arrives and none is under way, at most `pings` of them. */
function estimator(socket: Socket, pings = 1): (one: Frame) => void {
  let underWay = 0;
  return (one) => {
    if (one.type === data && underWay === 0) {
      underWay = pings;
      socket.write(Buffer.concat(Array.from({ length: pings }, () => frame(ping, 0, 0, [2, 4, 16, 16, 9, 14, 7, 7]))));
    } else if (one.type === ping && one.flags === ack) underWay--;
  };
}

/** An app that echoes each byte, and measures as well. */
async function startApp(t: Owner): Promise<{ port: number; cut(): boolean }> {
  let cut = false;
  const server = createServer({ noDelay: true }, (socket) => {
    const measure = estimator(socket);
    socket.write(settings);
    onFrames(socket, preface.length, (one) => {
      // `:status: 200` of the static table.
      if (one.type === headers) socket.write(frame(headers, endHeaders, one.stream, [0x88]));
      if (one.type === goaway) cut = true;
      if (one.type !== data) return measure(one);
      socket.write(frame(data, 0, one.stream, one.payload));
      measure(one);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const address = server.address();
  return { port: typeof address === 'object' && address !== null ? address.port : 0, cut: () => cut };
}

/** Sends a byte, waits for its echo, and repeats. Resolves with the number of echoes when the connection is over. */
async function echo(t: Owner, pings: number): Promise<{ got: number; code: number | undefined; appCut: boolean }> {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port, protocol: 'http2' });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const socket = connect({
    ...{ host: '127.0.0.1', port: mesh.inPort, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
    ...{ cert: peer.chainPem, key: peer.keyPem, ALPNProtocols: ['h2'] },
  });
  socket.setNoDelay(true);
  let got = 0;
  let code: number | undefined;
  const byte = frame(data, 0, 1, [7]);
  socket.once('secureConnect', () => {
    const measure = estimator(socket, pings);
    onFrames(socket, 0, (one) => {
      if (one.type === goaway) code = one.payload.readUInt32BE(4);
      // If the app is cut, this is what we see of it here.
      if (one.type === reset) socket.destroy();
      measure(one);
      if (one.type !== data) return;
      if (++got === rounds) socket.destroy();
      else socket.write(byte);
    });
    socket.write(Buffer.concat([hello, frame(headers, endHeaders, 1, get({ ':method': 'POST' })), byte]));
  });
  await new Promise((resolve) => socket.once('close', resolve));
  return { got, code, appCut: app.cut() };
}

t.test('one PING per round trip with DATA is not a flood, neither from a peer nor from an app', async (t) => {
  t.strictSame(await echo(t, 1), { got: rounds, code: undefined, appCut: false });
});

t.test('several PINGs per round trip are a flood', async (t) => {
  const { got, code } = await echo(t, 4);
  t.equal(code, 11, 'ENHANCE_YOUR_CALM');
  t.ok(got < rounds, `after ${got}`);
});

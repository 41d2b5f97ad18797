// Invalid HTTP/2, frame by frame against a running sidecar: what the standard requires for each, and the known floods.
// Other clients are unaffected.

import t from 'tap';
import { block, type Frame, frame, get, hello, preface, settings, speak } from '../fixtures/http2-raw.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createCredential } from '../fixtures/pki.ts';

const data = 0;
const headers = 1;
const reset = 3;
const goaway = 7;
const [protocolError, flowControl, streamClosed, frameSize, compression, calm] = [1, 3, 5, 6, 9, 11];
const endHeaders = 4;
const whole = 5;

const u32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const request = (stream: number, changes: Readonly<Record<string, string | undefined>> = {}, flags = whole): Buffer =>
  frame(headers, flags, stream, get(changes));
const many = (count: number, make: (index: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, index) => make(index)));

t.test('attacks', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    // An app that reads no more of its request.
    if (soFar.includes('POST /stuck ')) socket.pause();
    else if (soFar.endsWith('\r\n\r\n')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const send = (bytes: Buffer, done?: (frames: readonly Frame[]) => boolean): Promise<readonly Frame[]> =>
    speak(mesh.inPort, mesh.authority, peer, bytes, done);

  /** Bytes that end the connection, and GOAWAY's code. */
  const connectionErrors: readonly (readonly [name: string, bytes: Buffer, code: number])[] = [
    ['no preface', Buffer.from('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'), protocolError],
    ['another frame than SETTINGS first', Buffer.concat([preface, frame(6, 0, 0, Array(8).fill(0))]), protocolError],
    ['a frame of 20,000 bytes', Buffer.concat([hello, frame(data, 0, 1, Buffer.alloc(20_000))]), frameSize],
    ['PING of seven bytes', Buffer.concat([hello, frame(6, 0, 0, Array(7).fill(0))]), frameSize],
    ['PING on a stream', Buffer.concat([hello, frame(6, 0, 1, Array(8).fill(0))]), protocolError],
    ['SETTINGS of five bytes', Buffer.concat([hello, frame(4, 0, 0, Array(5).fill(0))]), frameSize],
    ['SETTINGS on a stream', Buffer.concat([hello, frame(4, 0, 1)]), protocolError],
    ['an acknowledgement with bytes', Buffer.concat([hello, frame(4, 1, 0, Array(6).fill(0))]), frameSize],
    ['a window of 2^31', Buffer.concat([hello, frame(4, 0, 0, [0, 4, ...u32(2 ** 31)])]), flowControl],
    ['frames of one byte', Buffer.concat([hello, frame(4, 0, 0, [0, 5, ...u32(1)])]), protocolError],
    [
      'SETTINGS_ENABLE_PUSH that is neither 0 nor 1',
      Buffer.concat([hello, frame(4, 0, 0, [0, 2, ...u32(2)])]),
      protocolError,
    ],
    ['PUSH_PROMISE', Buffer.concat([hello, frame(5, 4, 1, [0, 0, 0, 2])]), protocolError],
    ['HEADERS on stream 0', Buffer.concat([hello, request(0)]), protocolError],
    ['HEADERS on an even stream', Buffer.concat([hello, request(2)]), protocolError],
    ['HEADERS on a closed stream', Buffer.concat([hello, request(3), request(1)]), streamClosed],
    ['DATA on a stream that was never opened', Buffer.concat([hello, frame(data, 1, 1, [1])]), protocolError],
    ['RST_STREAM of a stream that was never opened', Buffer.concat([hello, frame(reset, 0, 1, u32(8))]), protocolError],
    ['CONTINUATION without HEADERS', Buffer.concat([hello, frame(9, 4, 1, get())]), protocolError],
    [
      'a block that is interrupted',
      Buffer.concat([hello, request(1, {}, 1), frame(6, 0, 0, Array(8).fill(0))]),
      protocolError,
    ],
    ['padding longer than its frame', Buffer.concat([hello, frame(headers, 8 | whole, 1, [200, 1])]), protocolError],
    [
      'a block that cannot be read',
      Buffer.concat([hello, frame(headers, whole, 1, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]),
      compression,
    ],
    ['WINDOW_UPDATE of 0', Buffer.concat([hello, frame(8, 0, 0, u32(0))]), protocolError],
    ['a window that overflows', Buffer.concat([hello, frame(8, 0, 0, u32(2 ** 31 - 1))]), flowControl],
    [
      'more DATA than its window',
      Buffer.concat([
        hello,
        request(1, { ':method': 'POST', ':path': '/stuck' }, endHeaders),
        many(1000, () => frame(data, 0, 1, Buffer.alloc(16_384))),
      ]),
      flowControl,
    ],
    ['a flood of PING', Buffer.concat([hello, many(3000, () => frame(6, 0, 0, Array(8).fill(0)))]), calm],
    ['a flood of SETTINGS', Buffer.concat([hello, many(3000, () => settings)]), calm],
    ['a flood of PRIORITY', Buffer.concat([hello, many(3000, () => frame(2, 0, 9, [0, 0, 0, 0, 1]))]), calm],
    ['a flood of unknown frames', Buffer.concat([hello, many(3000, () => frame(77, 0, 0))]), calm],
    [
      'a flood of empty DATA',
      Buffer.concat([hello, request(1, { ':method': 'POST' }, endHeaders), many(3000, () => frame(data, 0, 1))]),
      calm,
    ],
    [
      'rapid reset (CVE-2023-44487)',
      Buffer.concat([
        hello,
        many(10_000, (i) =>
          Buffer.concat([request(2 * i + 1, { ':method': 'POST' }, endHeaders), frame(reset, 0, 2 * i + 1, u32(8))]),
        ),
      ]),
      calm,
    ],
    [
      'a block in tiny pieces (CONTINUATION flood)',
      Buffer.concat([hello, request(1, {}, 0), many(3000, () => frame(9, 0, 1, [0]))]),
      calm,
    ],
    [
      'a block without an end',
      Buffer.concat([hello, request(1, {}, 0), many(20, () => frame(9, 0, 1, Buffer.alloc(16_000)))]),
      calm,
    ],
  ];
  for (const [name, bytes, code] of connectionErrors) {
    await t.test(name, async (t) => {
      const said = (await send(bytes)).find((one) => one.type === goaway);
      t.equal(said?.payload.readUInt32BE(4), code);
    });
  }

  /** Frames that end only their stream: RST_STREAM's code. */
  const ofStream = (bytes: Buffer): Buffer => Buffer.concat([hello, bytes]);
  const streamErrors: readonly (readonly [name: string, bytes: Buffer, code: number])[] = [
    ['no :method', ofStream(request(1, { ':method': undefined })), protocolError],
    ['no :path', ofStream(request(1, { ':path': undefined })), protocolError],
    ['no :scheme', ofStream(request(1, { ':scheme': undefined })), protocolError],
    ['an empty :path', ofStream(request(1, { ':path': '' })), protocolError],
    ['a field name in upper case', ofStream(request(1, { 'X-A': '1' })), protocolError],
    ['an unknown pseudo-header', ofStream(request(1, { ':colour': 'red' })), protocolError],
    [':status in a request', ofStream(request(1, { ':status': '200' })), protocolError],
    ['a line end in a value', ofStream(request(1, { 'x-a': '1\r\nx-b: 2' })), protocolError],
    ['connection', ofStream(request(1, { connection: 'close' })), protocolError],
    ['transfer-encoding', ofStream(request(1, { 'transfer-encoding': 'chunked' })), protocolError],
    ['upgrade', ofStream(request(1, { upgrade: 'h2c' })), protocolError],
    ['te: gzip', ofStream(request(1, { te: 'gzip' })), protocolError],
    [
      'a pseudo-header after a field',
      ofStream(
        frame(headers, whole, 1, Buffer.concat([get({ ':path': undefined, 'x-a': '1' }), block([[':path', '/']])])),
      ),
      protocolError,
    ],
    [
      'two :path',
      ofStream(frame(headers, whole, 1, Buffer.concat([block([[':path', '/admin']]), get()]))),
      protocolError,
    ],
    [
      'a body shorter than its Content-Length',
      ofStream(
        Buffer.concat([request(1, { ':method': 'POST', 'content-length': '5' }, endHeaders), frame(data, 1, 1, [1])]),
      ),
      protocolError,
    ],
    [
      'a body longer than its Content-Length',
      ofStream(
        Buffer.concat([
          request(1, { ':method': 'POST', 'content-length': '1' }, endHeaders),
          frame(data, 1, 1, [1, 2]),
        ]),
      ),
      protocolError,
    ],
    [
      'a window that overflows',
      ofStream(Buffer.concat([request(1, { ':method': 'POST' }, endHeaders), frame(8, 0, 1, u32(2 ** 31 - 1))])),
      flowControl,
    ],
    ['DATA after the end', ofStream(Buffer.concat([request(1), frame(data, 1, 1, [1])])), streamClosed],
  ];
  for (const [name, bytes, code] of streamErrors) {
    await t.test(name, async (t) => {
      const isReset = (one: Frame): boolean => one.type === reset && one.stream === 1;
      // The connection still works: another stream is served on it.
      const frames = await send(
        Buffer.concat([bytes, request(3)]),
        (all) => all.some(isReset) && all.some((one) => one.type === data && one.stream === 3),
      );
      t.equal(frames.find(isReset)?.payload.readUInt32BE(0), code);
      t.ok(frames.some((one) => one.type === data && one.stream === 3 && one.payload.toString() === 'ok'));
    });
  }

  /** Valid requests that get a refusal as their response. */
  const refusals: readonly (readonly [name: string, changes: Readonly<Record<string, string>>, status: string])[] = [
    ['a method in lower case', { ':method': 'get' }, '400'],
    ['CONNECT', { ':method': 'CONNECT' }, '501'],
    ['Host and :authority that differ', { host: 'admin' }, '400'],
    ['an authority with user info', { ':authority': 'a@orders' }, '400'],
    ['a broken escape in the path', { ':path': '/%zz' }, '400'],
    [
      'a header list larger than the limit',
      {
        'x-a': 'a'.repeat(15_000),
        'x-b': 'b'.repeat(15_000),
        'x-c': 'c'.repeat(15_000),
        'x-d': 'd'.repeat(15_000),
        'x-e': 'e'.repeat(15_000),
      },
      '431',
    ],
  ];
  for (const [name, changes, status] of refusals) {
    await t.test(name, async (t) => {
      const { ':method': method } = changes;
      const fields = get(method === 'CONNECT' ? { ...changes, ':scheme': undefined, ':path': undefined } : changes);
      const parts: Buffer[] = [];
      for (let at = 0; at < fields.length || at === 0; at += 16_000) {
        const last = at + 16_000 >= fields.length ? endHeaders : 0;
        parts.push(frame(at === 0 ? headers : 9, (at === 0 ? 1 : 0) | last, 1, fields.subarray(at, at + 16_000)));
      }
      const before = backend.received.reduce((sum, bytes) => sum + bytes.length, 0);
      const frames = await send(Buffer.concat([hello, ...parts]), (all) => all.some((one) => one.type === headers));
      const head = frames.find((one) => one.type === headers)!.payload;
      const known = head[0] === 0x8c ? '400' : head.toString('latin1').slice(0, 8);
      t.ok(known.includes(status), `${JSON.stringify(known)} says ${status}`);
      t.equal(
        backend.received.reduce((sum, bytes) => sum + bytes.length, 0),
        before,
        'the app sees nothing of it',
      );
    });
  }

  await t.test('other clients are unaffected', async (t) => {
    const asked = await askAsPeer(mesh.inPort, mesh.authority, peer, 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n', {
      done: /ok$/,
    });
    t.match(asked.text, /200 OK/);
  });
});

t.test('a response whose peer opens no window is not kept forever', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: backend.port, limits: '{ streamIdle: 300ms }' });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const closed = frame(4, 0, 0, [0, 4, ...u32(0)]);
  const isReset = (one: Frame): boolean => one.type === reset && one.stream === 1;
  const frames = await speak(mesh.inPort, mesh.authority, peer, Buffer.concat([preface, closed, request(1)]), (all) =>
    all.some(isReset),
  );
  t.ok(frames.some((one) => one.type === headers));
  t.notOk(frames.some((one) => one.type === data && one.payload.length > 0));
  t.equal(frames.find(isReset)?.payload.readUInt32BE(0), 8);
});

// An upstream that sends too much, or errors: bytes after its response are dropped, and its faults are its own (502,
// UPE), never a client's 400, nor a silent cut if the response had not begun.

import type { Socket } from 'node:net';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import { block, frame, framesOf, preface, settings } from '../fixtures/http2-raw.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';

const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: orders\r\n\r\n`;
const evil = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil';

/** A response in two pieces, the second with extra bytes. */
const surplus: readonly (readonly [name: string, first: string, last: string])[] = [
  ['a body of a length', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non', `e${evil}`],
  ['chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\non', `e\r\n0\r\n\r\n${evil}`],
  [
    'chunks and trailers',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n',
    `0\r\nx-a: 1\r\n\r\n${evil}`,
  ],
  ['a response at once', '', `HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none${evil}`],
  ['a response without a body', '', `HTTP/1.1 204 No Content\r\n\r\n${evil}`],
  ['a part of a response', 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non', 'eHTTP/1.1 200 OK\r\nContent-'],
];

for (const [name, first, last] of surplus) {
  t.test(`surplus bytes are not the response to the next request: ${name}`, async (t) => {
    let app: Socket | undefined;
    const ask = await startFor(t, (socket, soFar, connection) => {
      if (soFar.includes('/two')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood');
      else if (connection > 0) socket.destroy();
      else {
        app = socket;
        socket.write(first === '' ? last : first);
      }
    });
    // The rest is not sent before the first piece has gone through.
    const text = await ask(get('/one') + get('/two'), /good$|evil/, /on/, () => first !== '' && app?.write(last));
    t.notMatch(text, /evil/);
    t.match(text, /^HTTP\/1\.1 20[04] [\s\S]*HTTP\/1\.1 200 OK[\s\S]*good$/);
  });
}

type Frames = (stream: number) => Buffer;
const head =
  (fields: readonly (readonly [string, string])[] = []): Frames =>
  (stream) =>
    frame(1, 4, stream, block([[':status', '200'], ...fields]));
const data =
  (text: string, flags = 0): Frames =>
  (stream) =>
    frame(0, flags, stream, Buffer.from(text));
const trailers =
  (fields: readonly (readonly [string, string])[], flags = 5): Frames =>
  (stream) =>
    frame(1, flags, stream, block(fields));

/** Frames of an upstream, and whether its response's head is valid. */
const faults: readonly (readonly [name: string, head: Frames, rest: Frames])[] = [
  ['trailers with a pseudo-header', head(), trailers([[':status', '200']])],
  ['trailers in capitals', head(), trailers([['X-A', '1']])],
  ['trailers that do not end the stream', head(), trailers([['x-a', '1']], 4)],
  ['a body longer than declared', head([['content-length', '1']]), data('xyz', 1)],
  ['a body shorter than declared', head([['content-length', '5']]), data('xyz', 1)],
  ['a frame of 20,000 bytes', head(), (id) => frame(0, 1, id, Buffer.alloc(20_000))],
  ['a block that cannot be read', head(), (id) => frame(1, 5, id, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
  ['SETTINGS of five bytes', head(), () => frame(4, 0, 0, Buffer.alloc(5))],
  ['DATA on a stream that was never opened', head(), () => frame(0, 1, 999, [1])],
];

for (const [name, first, rest] of faults) {
  t.test(`a fault of an upstream in HTTP/2: ${name}`, async (t) => {
    let [app, stream, path]: [Socket | undefined, number, string] = [undefined, 0, ''];
    const answer: Answer = (socket, soFar) => {
      const asked = framesOf(Buffer.from(soFar, 'latin1').subarray(preface.length)).filter(({ type }) => type === 1);
      if (asked.length === 0 || (socket === app && asked.at(-1)!.stream === stream)) return;
      [app, stream] = [socket, asked.at(-1)!.stream];
      socket.write(Buffer.concat([settings, first(stream), ...(path === '/early' ? [rest(stream)] : [])]));
    };
    const ask = await startFor(t, answer, 'http2');
    path = '/early';
    t.match(
      await ask(get(path), /before headers$/),
      /^HTTP\/1\.1 502 [\s\S]*upstream connect error or disconnect\/reset before headers$/,
    );
    path = '/late';
    const late = await ask(get(path), /before headers$/, /200 OK[\s\S]*\r\n\r\n/, () => app?.write(rest(stream)));
    t.match(late, /^HTTP\/1\.1 200 /);
    t.notMatch(late, /\r\n0\r\n\r\n$|xyz/, 'a response that has begun cannot look complete');
    t.match(await ask.mesh.records('orders', 2), [
      { path: '/early', response_code: 502, response_flags: 'UPE', code: 'upstream_protocol' },
      { path: '/late', response_code: 200, response_flags: 'UPE', code: 'upstream_answer_malformed' },
    ]);
  });
}

type Answer = Parameters<typeof startBackend>[1];

/**
 * Starts a sidecar in front of `answer`, and returns a function that sends a request: it gives what was received until
 * `done`, or the end; once `seen` was received, `then` is called.
 */
async function startFor(t: Test, answer: Answer, protocol: 'http' | 'http2' = 'http') {
  const backend = await startBackend(t, answer);
  const mesh = await startMesh(t, { app: backend.port, protocol });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const ask = (bytes: string, done: RegExp, seen?: RegExp, then?: () => unknown): Promise<string> =>
    new Promise((resolve) => {
      let [text, hasSeen] = ['', false];
      const socket = connect({
        ...{ host: '127.0.0.1', port: mesh.inPort, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
        ...{ cert: peer.chainPem, key: peer.keyPem },
      });
      socket.write(bytes);
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
        if (!hasSeen && seen?.test(text) === true) {
          hasSeen = true;
          then?.();
        }
        if (done.test(text)) socket.destroy();
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(text));
    });
  return Object.assign(ask, { mesh });
}

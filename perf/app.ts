// The app behind every proxy, as a separate process. It responds at once in HTTP/1.1 (1 KB, 1 MB, or an echo after an
// upgrade) and in HTTP/2 (with trailers for gRPC). It also has a TCP sink that acknowledges each MiB with a byte, and a
// UDP sink for HAProxy's log. Prints its ports as JSON.

import { createSocket } from 'node:dgram';
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tcpPieceBytes } from './load-tls.ts';

const small = Buffer.alloc(1024, 'a');
const answer = (body: Buffer): Buffer =>
  Buffer.concat([
    Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n`),
    body,
  ]);
const smallAnswer = answer(small);
const bigAnswer = answer(Buffer.alloc(1024 * 1024, 'a'));
// The accept value does not match the request: neither the load nor any proxy here checks it.
const switched = Buffer.from(
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n',
);

const http = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  // Requests of this benchmark have no body, so each ends with its empty line.
  socket.on('data', function answerAll(chunk) {
    for (let at = chunk.indexOf('\r\n\r\n'), from = 0; at !== -1; from = at + 4, at = chunk.indexOf('\r\n\r\n', from)) {
      const target = chunk.toString('latin1', from, from + 24);
      if (target.includes('/ws ')) return echo(socket, answerAll);
      socket.write(target.includes('/big ') ? bigAnswer : smallAnswer);
    }
  });
});

function echo(socket: Socket, before: (chunk: NonSharedBuffer) => void): void {
  socket.off('data', before);
  socket.on('data', (chunk) => socket.write(chunk));
  socket.write(switched);
}

const message = Buffer.concat([Buffer.from([0, 0, 0, 0, 100]), Buffer.alloc(100, 'm')]);
const http2 = createHttp2Server({ settings: { maxConcurrentStreams: 1000 } });
http2.on('stream', (stream: ServerHttp2Stream, fields) => {
  stream.on('error', () => {});
  if (fields['content-type'] !== 'application/grpc') {
    stream.respond({ ':status': 200, 'content-type': 'text/plain', 'content-length': small.length });
    stream.end(small);
    return;
  }
  stream.resume();
  stream.on('end', () => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(message);
  });
});

const sink = createServer({ noDelay: true }, (socket) => {
  let taken = 0;
  socket.on('error', () => socket.destroy());
  socket.on('data', ({ length }) => {
    taken += length;
    if (taken < tcpPieceBytes) return;
    socket.write(Buffer.alloc(Math.floor(taken / tcpPieceBytes)));
    taken %= tcpPieceBytes;
  });
});

const log = createSocket('udp4');

await Promise.all([
  listen(http),
  listen(http2),
  listen(sink),
  new Promise<void>((resolve) => log.bind(0, '127.0.0.1', resolve)),
]);
process.stdout.write(
  `${JSON.stringify({ http: portOf(http), http2: portOf(http2), tcp: portOf(sink), log: log.address().port })}\n`,
);

function listen(server: { listen(port: number, host: string, done: () => void): unknown }): Promise<void> {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
}

function portOf(server: Pick<Server, 'address'>): number {
  return (server.address() as AddressInfo).port;
}

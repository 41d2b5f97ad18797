// What stands behind every proxy: an HTTP service that answers at once, a TCP sink that says 'ok' at the end, and a UDP
// sink for HAProxy's log. A process of its own; prints its ports as JSON.

import { createSocket } from 'node:dgram';
import { type AddressInfo, createServer, type Server } from 'node:net';

const body = Buffer.alloc(1024, 'a');
const answer = Buffer.concat([
  Buffer.from(`HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n`),
  body,
]);

const http = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  // Requests of this benchmark have no body, so each ends with its empty line.
  socket.on('data', (chunk) => {
    for (let at = chunk.indexOf('\r\n\r\n'); at !== -1; at = chunk.indexOf('\r\n\r\n', at + 4)) socket.write(answer);
  });
});

const sink = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  socket.on('data', () => {});
  socket.on('end', () => socket.end('ok'));
});

const log = createSocket('udp4');

await Promise.all([listen(http), listen(sink), new Promise<void>((resolve) => log.bind(0, '127.0.0.1', resolve))]);
process.stdout.write(`${JSON.stringify({ http: portOf(http), tcp: portOf(sink), log: log.address().port })}\n`);

function listen(server: Server): Promise<void> {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

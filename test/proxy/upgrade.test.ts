// WebSocket is the only protocol that a connection may switch to, and only after the app's own 101. Every other
// upgrade, h2c above all, is dropped: policy cannot see a connection that leaves HTTP/1.1.

import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';

const key = 'dGhlIHNhbXBsZSBub25jZQ==';
const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');

t.test('a WebSocket upgrade', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    if (/^GET \/refused /.test(soFar)) socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n');
    else if (soFar.endsWith('\r\n\r\n'))
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\nfirst`,
      );
    else if (soFar.endsWith('ping')) socket.end('pong');
  });
  const mesh = await startMesh(t, { app: backend.port });
  const head = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`;

  t.test('the connection is a tunnel after the 101, both ways', async (t) => {
    const got = await new Promise<string>((resolve) => {
      let text = '';
      const socket = connect({ port: mesh.outPort, host: '127.0.0.1', allowHalfOpen: true }, () =>
        socket.write(head('/ws')),
      );
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
        if (text.endsWith('first')) socket.write('ping');
      });
      socket.on('end', () => {
        socket.end();
        resolve(text);
      });
    });
    t.match(
      got,
      /^HTTP\/1\.1 101 Switching Protocols\r\nSec-WebSocket-Accept: [^\r]+\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirstpong$/,
    );
    t.match(backend.received[0]!.toString('latin1'), /\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping$/);
    const [record] = await mesh.records('orders', 1);
    t.match(record, { response_code: 101, bytes_received: 4, bytes_sent: 9, decision: 'allow' });
  });

  t.test('the connection stays HTTP when the app refuses', async (t) => {
    const got = await exchangeBytes(mesh.outPort, head('/refused'), /\r\n\r\n$/);
    t.match(got, /^HTTP\/1\.1 400 /);
  });
});

t.test('attacks', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: backend.port });
  const requests: Record<string, string> = {
    'h2c with its settings':
      'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n',
    'h2c behind websocket': 'Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n',
    'websocket without Connection': 'Upgrade: websocket\r\n',
    'TLS/1.0': 'Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n',
  };
  for (const [name, fields] of Object.entries(requests)) {
    t.test(`${name} is served as HTTP/1.1, without the upgrade`, async (t) => {
      const got = await exchangeBytes(mesh.outPort, `GET / HTTP/1.1\r\nHost: orders\r\n${fields}\r\n`, /ok$/);
      t.match(got, /^HTTP\/1\.1 200 OK\r\n/);
      t.notMatch(backend.received.at(-1)!.toString('latin1'), /upgrade|settings|h2c/i);
    });
  }

  t.test('a WebSocket upgrade with a body is not an upgrade', async (t) => {
    await exchangeBytes(
      mesh.outPort,
      'GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc',
      /ok$/,
    );
    t.notMatch(backend.received.at(-1)!.toString('latin1'), /upgrade/i);
  });
});

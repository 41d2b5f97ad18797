// Slow, huge and too many: each is stopped at its limit, with a response if possible, and other clients are unaffected.

import { connect } from 'node:net';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

t.test('heads are limited', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, {
    app: backend.port,
    limits: '{ head: 300ms, headBytes: 2048, headFields: 20, clientIdle: 400ms }',
  });

  t.test('a head that is too large', async (t) => {
    const got = await exchangeBytes(mesh.outPort, `GET / HTTP/1.1\r\nHost: orders\r\nX-A: ${'a'.repeat(3000)}\r\n\r\n`);
    t.match(got, /^HTTP\/1\.1 431 /);
    t.match((await mesh.records('web', 1)).at(-1), {
      code: 'head_too_large',
      reason: 'the request head is larger than 2048 bytes (limit headBytes)',
    });
  });

  t.test('a head that is too slow', async (t) => {
    const got = await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: ord');
    t.match(got, /^HTTP\/1\.1 408 /);
  });

  t.test('a silent connection is closed without a response', async (t) => {
    t.equal(await exchangeBytes(mesh.outPort, ''), '');
  });

  t.test('an idle client is closed', async (t) => {
    const started = performance.now();
    const got = await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n');
    t.match(got, /200 OK/);
    t.ok(performance.now() - started >= 300);
  });
});

t.test('connections over the cap are refused, and those below it continue', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port, limits: '{ connections: 3 }' });
  const held = Array.from({ length: 3 }, () => connect(mesh.outPort, '127.0.0.1'));
  await until(() => held.every((one) => !one.connecting), 'the connections');
  await until(
    async () =>
      ((await (await fetch(`http://127.0.0.1:${mesh.outAdmin}/connections`)).json()) as unknown[]).length === 3,
    'the table',
  );
  t.equal(await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n'), '');
  held[0]!.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n');
  t.match(
    await new Promise((resolve) => held[0]!.once('data', (chunk: Buffer) => resolve(chunk.toString()))),
    /200 OK/,
  );
  for (const one of held) one.destroy();
});

t.test('a large body costs no memory: a slow reader slows its sender', async (t) => {
  const size = 64 * 1024 * 1024;
  let sent = 0;
  const backend = await startBackend(t, (socket) => {
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`);
    const piece = Buffer.alloc(64 * 1024);
    const push = (): void => {
      while (sent < size) {
        sent += piece.length;
        if (!socket.write(piece)) {
          socket.once('drain', push);
          return;
        }
      }
    };
    push();
  });
  const mesh = await startMesh(t, { app: backend.port });
  const client = connect(mesh.outPort, '127.0.0.1', () => client.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'));
  await new Promise((resolve) => client.once('readable', resolve));
  let last = -1;
  await until(async () => {
    const before = last;
    last = sent;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return sent === before;
  }, 'the sender to stop');
  t.ok(sent < 24 * 1024 * 1024, `the app was paused after ${sent} bytes`);
  let received = 0;
  client.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  await until(() => received > size, 'the whole body');
  client.destroy();
});

t.test('pipelined requests of a client that does not read are not served endlessly', async (t) => {
  const backend = await startBackend(t, (socket) =>
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n${'a'.repeat(60_000)}`),
  );
  const mesh = await startMesh(t, { app: backend.port });
  const client = connect(mesh.outPort, '127.0.0.1');
  client.on('error', () => {});
  client.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'.repeat(5000));
  const served = async (): Promise<number> => {
    const list = (await (await fetch(`http://127.0.0.1:${mesh.outAdmin}/connections`)).json()) as {
      requests: number;
    }[];
    return list[0]?.requests ?? 0;
  };
  let last = -1;
  await until(async () => {
    const before = last;
    last = await served();
    await new Promise((resolve) => setTimeout(resolve, 150));
    return last > 0 && last === before;
  }, 'the serving to stop');
  t.ok(last < 500, `${last} of 5000 were served`);
  client.destroy();
});

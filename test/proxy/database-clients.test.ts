// Clients of databases on a port that is meant for HTTP: the log says what they speak, and what to change.

import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { allowAll, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

t.test('a Redis client and a PostgreSQL client', async (t) => {
  const backend = await startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const mesh = await startMesh(t, { app: backend.port, policy: allowAll });
  const send = (bytes: Buffer): Promise<string> => {
    const socket = connect(mesh.outPort, '127.0.0.1');
    socket.write(bytes);
    return text(socket);
  };
  const told = (protocol: string) =>
    until(
      () => mesh.lines.find((one) => String(one['msg']).includes(`speaks ${protocol} `)),
      `a line about ${protocol}`,
    );
  t.match(await send(Buffer.from('*1\r\n$4\r\nPING\r\n\r\n')), /^HTTP\/1\.1 400 /);
  t.match(await told('Redis'), { code: 'protocol_mismatch', msg: /set 'protocol: tcp' on this outbound port$/ });
  await send(Buffer.from('0000000804d2162f0d0a0d0a', 'hex'));
  t.match(await told('PostgreSQL'), { code: 'protocol_mismatch' });
  await send(Buffer.from('nonsense\r\n\r\n'));
  t.equal(mesh.lines.filter((one) => one['code'] === 'protocol_mismatch').length, 2, 'other nonsense is only refused');
});

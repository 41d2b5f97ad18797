// TCP through two sidecars: bytes are bytes, a half-close is a half-close, policy is evaluated once per connection.

import { connect } from 'node:net';
import t from 'tap';
import { allowAll, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

t.test('half-close, server-first and large streams', async (t) => {
  const backend = await startBackend(t, () => {});
  backend.server.on('connection', (socket) => {
    socket.write('220 ready\n');
    let size = 0;
    socket.on('data', (chunk: Buffer) => {
      size += chunk.length;
    });
    socket.on('end', () => socket.end(`got ${size}`));
  });
  const mesh = await startMesh(t, { app: backend.port, protocol: 'tcp' });
  const size = 8 * 1024 * 1024;
  const got = await new Promise<string>((resolve, reject) => {
    let text = '';
    const socket = connect({ port: mesh.outPort, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
    });
    socket.on('end', () => resolve(text));
    socket.on('error', reject);
    socket.end(Buffer.alloc(size));
  });
  t.equal(got, `220 ready\ngot ${size}`);
  const [record] = await mesh.records('orders', 1);
  t.match(record, {
    method: null,
    protocol: null,
    response_code: 0,
    bytes_received: size,
    bytes_sent: got.length,
    decision: 'allow',
    peer_id: 'spiffe://demo.test/ns/shop/sa/web',
  });
  const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
  t.match(metrics, new RegExp(`istio_tcp_received_bytes_total\\{reporter="destination"[^}]*\\} ${size}`));
});

t.test('an idle stream ends', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, protocol: 'tcp', limits: '{ tcpIdle: 200ms }' });
  const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write('x'));
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('close', resolve));
  // Both sides have the same limit; the first to check ends it for both.
  const records = [...(await mesh.records('web', 1)), ...(await mesh.records('orders', 1))];
  t.ok(
    records.some(
      (one) => one['connection_termination_details'] === 'tcp_idle_timeout' && /200 ms/.test(String(one['reason'])),
    ),
  );
});

t.test('a refused stream carries no byte', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, {
    app: backend.port,
    protocol: 'tcp',
    policy: allowAll.replace('rules: [{}]', 'rules: [{ to: [{ operation: { methods: [GET] } }] }]'),
  });
  const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write('x'));
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('close', resolve));
  t.equal(backend.received.length, 0);
  const [record] = await mesh.records('orders', 1);
  t.match(record, {
    decision: 'deny',
    policy: 'none',
    connection_termination_details: 'rbac_access_denied_matched_policy[none]',
  });
});

t.test('a policy change ends streams that it no longer admits', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => socket.write(soFar));
  const mesh = await startMesh(t, { app: backend.port, protocol: 'tcp' });
  const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write('x'));
  socket.on('error', () => {});
  socket.resume();
  const closed = new Promise<boolean>((resolve) => socket.once('close', resolve));
  await until(() => backend.received.length === 1 && backend.received[0]!.length > 0, 'the stream to flow');
  await mesh.setPolicy(allowAll.replace('action: ALLOW', 'action: DENY'));
  await closed;
  const [record] = await mesh.records('orders', 1);
  t.match(record, {
    decision: 'deny',
    connection_termination_details: 'rbac_access_denied_matched_policy[ns[shop]-policy[allow-all]-rule[0]]',
    code: 'policy_denied',
  });
});

// Refusals beside policies are in the list, too: connections without an identity, and requests of the app that lead
// nowhere. Neither displaces the other, nor a refusal by a policy.

import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { Denials } from '../../sidecar/observe/denials.ts';
import { OtherRefusals } from '../../sidecar/observe/other-refusals.ts';
import { runCommand } from '../fixtures/command.ts';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const one = { code: 'tls_handshake_failed', reason: 'no certificate', from: '10.0.0.1', what: 'connection to :15006' };

t.test('equal ones are one line with a count', async (t) => {
  const refusals = new OtherRefusals();
  refusals.note(one);
  refusals.note({ ...one, from: '10.0.0.2' });
  refusals.note(one);
  t.match(
    refusals.list(false).map(({ from, request, isRequest }) => [from, request, isRequest]),
    [
      ['10.0.0.2', 'connection to :15006', false],
      ['10.0.0.1', 'connection to :15006 (2 times)', false],
    ],
  );
  const [, last] = refusals.list(false);
  t.match(refusals.why(last!.id), { code: one.code, reason: one.reason, request: { principal: '10.0.0.1' } });
  t.equal(refusals.why('unknown'), undefined);
});

t.test('a flood is bounded, and displaces nothing else', async (t) => {
  const denials = new Denials();
  const { code, message } = new SallyportError('no_route', 'no upstream');
  denials.outbound.note({ code, reason: message, from: '', what: 'GET api.test' });
  for (let i = 0; i < 500; i++) denials.connections.note({ ...one, from: `10.0.${i >> 8}.${i & 255}` });
  denials.connections.note({ ...one, reason: 'x'.repeat(100_000) });
  const all = denials.list();
  t.equal(all.length, 101);
  t.equal(all.filter(({ request }) => request === 'GET api.test').length, 1);
  t.ok(JSON.stringify(all.map(({ id }) => denials.why(id))).length < 100_000);
});

t.test('denials and why show refused connections and requests of the app', async (t) => {
  const app = await startBackend(t, (socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: app.port });
  t.match(
    await exchangeBytes(
      mesh.outPort,
      'GET /a?token=s3cret HTTP/1.1\r\nHost: nowhere.test\r\nConnection: close\r\n\r\n',
    ),
    /^HTTP\/1\.1 404 /,
  );
  const outAdmin = ['--admin', `127.0.0.1:${mesh.outAdmin}`];
  const listed = await runCommand(t, ['denials', ...outAdmin]);
  t.match(listed, { code: 0, stdout: /no_route +- +GET nowhere\.test/ });
  t.notMatch(listed.stdout, /s3cret/);
  const why = await runCommand(t, ['why', '--last', ...outAdmin]);
  t.match(why, { code: 0, stdout: /GET nowhere\.test from the app was refused \[no_route\][\s\S]*explain no_route/ });

  const stranger = connectTls({ host: '127.0.0.1', port: mesh.inPort, rejectUnauthorized: false });
  stranger.on('error', () => {}).resume();
  const plain = connect(mesh.inPort, '127.0.0.1').on('error', () => {});
  plain.end('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  t.teardown(() => [stranger, plain].map((socket) => socket.destroy()));
  const inAdmin = ['--admin', `127.0.0.1:${mesh.inAdmin}`];
  const lines = await until(async () => {
    const found = await fetch(`http://127.0.0.1:${mesh.inAdmin}/denials`).then((answer) => answer.json());
    return (
      (found as { id: string }[]).length >= 2 &&
      (found as { id: string; code: string; from: string; request: string }[])
    );
  }, 'both connections');
  for (const { from, request } of lines) t.match([from, request], [/^127\.0\.0\.1$/, /^connection to inbound :\d+$/]);
  const ofPlain = lines.find(({ code }) => code === 'tls_handshake_failed')!;
  const ofFirst = await runCommand(t, ['why', ofPlain.id, ...inAdmin]);
  t.match(ofFirst, {
    code: 0,
    stdout: /connection to inbound :\d+ from 127\.0\.0\.1 was refused \[tls_handshake_failed\]/,
  });
  t.match(ofFirst.stdout, /explain tls_handshake_failed/);
});

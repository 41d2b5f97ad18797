// A handshake that a renewal of our SVID overtakes: its connection rests on the old certificate, and is retired.

import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import t from 'tap';
import { type Mesh, startBackend, startMesh, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/orders';
const closes = /\r\nConnection: close\r\n/i;
const request = 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n';

function openTcp(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => resolve(socket));
    socket.once('error', reject);
  });
}

/** Completes the handshake on `raw` as `web`. */
function shakeHands({ web }: Mesh, raw: Socket): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const options = { cert: web.chainPem, key: web.keyPem, rejectUnauthorized: false };
    const socket = connectTls({ socket: raw, ...options }, () => resolve(socket));
    socket.once('error', reject);
  });
}

/** The head of the response to one request. Rejects if the connection ends before it. */
function ask(socket: TLSSocket): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const finish = (act: () => void): void => {
      socket.off('data', read).off('error', fail).off('close', close);
      act();
    };
    const fail = (error: Error): void => finish(() => reject(error));
    const close = (): void => fail(new Error(`closed after '${text}'`));
    const read = (chunk: Buffer): void => {
      text += chunk.toString('latin1');
      if (text.includes('\r\n\r\n')) finish(() => resolve(text));
    };
    socket.on('data', read).on('error', fail).on('close', close);
    socket.write(request);
  });
}

t.test('a connection that shows a certificate of the old issuer is retired, whenever its handshake ends', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const mesh = await startMesh(t, { app: backend.port });
  const early = await openTcp(mesh.inPort);
  t.teardown(() => early.destroy());
  // Accepted in order: once a later connection has a response, the sidecar has the early one.
  const known = await shakeHands(mesh, await openTcp(mesh.inPort));
  t.match(await ask(known), /^HTTP\/1\.1 200 /);

  const next = await createAuthority('demo.test');
  writeFileSync(join(mesh.dir, 'bundle.pem'), mesh.authority.bundlePem + next.bundlePem);
  const renewed = await createCredential(next, id);
  writeCredential(mesh.dir, 'orders', renewed);
  const serialOf = (socket: TLSSocket): string => socket.getPeerX509Certificate()?.serialNumber ?? '';
  const before = serialOf(known);
  const fresh = await until(async () => {
    const socket = await shakeHands(mesh, await openTcp(mesh.inPort));
    if (serialOf(socket) !== before) return socket;
    socket.destroy();
    return undefined;
  }, 'the new certificate');
  t.teardown(() => fresh.destroy());

  const late = await shakeHands(mesh, early);
  t.equal(serialOf(late), before, 'it began under the old certificate');
  // An idle one may close without a response.
  const isOver = async (socket: TLSSocket): Promise<boolean> => socket.destroyed || closes.test(await ask(socket));
  await until(() => isOver(known), 'the end of the one opened before the renewal');
  await until(() => isOver(late), 'the end of the one whose handshake ended after it');
  t.notMatch(await ask(fresh), closes, 'one with the new certificate stays');
});

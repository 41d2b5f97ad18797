// Kinds 3 and 4, every port: a client that opens connections to a health port, an admin port or the CA's operator
// socket and sends nothing, half a request, or reads no response, holds few of them, and keeps no other client's probe
// away.

import { type AddressInfo, createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { Address } from '../../cert-agent/base/address.ts';
import { startAdmin } from '../../cert-agent/base/admin.ts';
import { request } from '../../cert-agent/base/http.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { writeSidecars } from '../fixtures/sidecar-process.ts';

const flood = 300;
/** More than the cap, and far fewer than the flood. */
const most = 100;

/**
 * Opens `flood` connections, sends `text` on each, and resolves once all are open or closed again. Counts those that
 * stay.
 */
async function hold(t: Owner, to: Address, text: string): Promise<{ open(): number }> {
  const sockets: Socket[] = [];
  for (let i = 0; i < flood; i++) {
    const socket = 'path' in to ? createConnection(to.path) : createConnection(to.port, to.host);
    t.teardown(() => socket.destroy());
    socket.on('error', () => {});
    socket.on('connect', () => socket.write(text));
    // An unread connection shows no end either: only these are left unread.
    if (text.endsWith('\r\n\r\n')) socket.pause();
    sockets.push(socket);
    await new Promise<void>((resolve) => {
      socket.once('connect', () => resolve());
      socket.once('close', () => resolve());
    });
  }
  return { open: () => sockets.filter((one) => !one.destroyed).length };
}

function statusOf(to: Address, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const options = 'path' in to ? { socketPath: to.path } : { host: to.host, port: to.port };
    const asked = request({ ...options, path, agent: false, timeout: 5000 }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    asked.once('error', reject);
    asked.once('timeout', () => asked.destroy(new Error('no answer')));
    asked.end();
  });
}

const silent = '';
const half = 'GET /healthz/ready HTTP/1.1\r\nHost: localh';

t.test('the health port of a sidecar and the operator socket of a CA', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const files = await writeSidecars(t, ca);
  const sidecar = files.start('web');
  await sidecar.waitFor(/waiting for a join token/);
  const health = { host: '127.0.0.1', port: Number(new URL(files.health.web).port) };
  const operator = { path: join(ca.directory, 'ca.sock') };
  for (const [name, to, path, status] of [
    ['health', health, '/healthz/ready', 503],
    ['operator', operator, '/v1/tokens', 200],
  ] as const) {
    for (const text of [silent, half]) {
      const held = await hold(t, to, text);
      await until(() => held.open() <= most, `${name}: fewer than ${most} open connections`);
      t.equal(await statusOf(to, path), status, `${name}: a probe is answered beside ${flood} that send '${text}'`);
    }
  }
  t.equal(await sidecar.stop(), 0);
});

t.test('connections that read no response are closed', async (t) => {
  const page = {
    method: 'GET',
    path: '/big',
    sentence: 'much',
    answer: () => ({ body: 'x'.repeat(8 << 20) }),
  } as const;
  const admin = await startAdmin({ listen: { host: '127.0.0.1', port: 0 }, title: 'test', pages: [page] });
  t.teardown(() => admin.close());
  const to = { host: '127.0.0.1', port: (admin.address as unknown as AddressInfo).port };
  const sockets: Socket[] = [];
  for (let i = 0; i < most; i++) {
    const socket = createConnection(to.port, to.host);
    t.teardown(() => socket.destroy());
    socket.on('error', () => {});
    socket.write('GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n');
    // The first bytes of the response, and no more.
    await new Promise<void>((resolve) => socket.once('readable', resolve).once('close', resolve));
    sockets.push(socket);
  }
  t.equal(await statusOf(to, '/'), 200, 'the newest is accepted');
  // Reading on shows which of them were closed.
  for (const socket of sockets) socket.resume();
  await until(
    () => sockets.filter((one) => one.destroyed || one.readableEnded).length >= most - 64,
    'the oldest are closed',
  );
});

t.test('connections that request slow pages again and again are capped', async (t) => {
  const slow = {
    method: 'GET',
    path: '/slow',
    sentence: 'slow',
    answer: () => new Promise<{ body: string }>((resolve) => setTimeout(() => resolve({ body: 'done' }), 300)),
  } as const;
  const admin = await startAdmin({ listen: { host: '127.0.0.1', port: 0 }, title: 'test', pages: [slow] });
  t.teardown(() => admin.close());
  const to = { host: '127.0.0.1', port: (admin.address as unknown as AddressInfo).port };
  const ask = 'GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n';
  let isOver = false;
  const hold = (): void => {
    if (isOver) return;
    const socket = createConnection({ ...to, ...(process.platform === 'linux' ? { localAddress: '127.0.0.3' } : {}) });
    t.teardown(() => socket.destroy());
    socket.on('error', () => {}).on('data', () => socket.write(ask));
    socket.on('connect', () => socket.write(ask)).on('close', () => setImmediate(hold));
  };
  for (let i = 0; i < most; i++) hold();
  for (let i = 0; i < 20; i++) t.equal(await statusOf(to, '/'), 200, 'a probe is answered');
  isOver = true;
});

t.test('a slow page is not cut off as idle', async (t) => {
  let finish = (): void => {};
  const page = {
    method: 'GET',
    path: '/slow',
    sentence: 'slow',
    answer: () =>
      new Promise<{ body: string }>((resolve) => {
        finish = () => resolve({ body: 'done' });
      }),
  } as const;
  const admin = await startAdmin({ listen: { host: '127.0.0.1', port: 0 }, title: 'test', pages: [page] });
  t.teardown(() => admin.close());
  const to = { host: '127.0.0.1', port: (admin.address as unknown as AddressInfo).port };
  const asked = statusOf(to, '/slow');
  const held = await hold(t, to, silent);
  await until(() => held.open() <= most, 'the flood is cut');
  finish();
  t.equal(await asked, 200, 'the connection that waits for us is still open');
});

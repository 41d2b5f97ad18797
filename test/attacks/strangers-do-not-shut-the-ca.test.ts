// Any client may connect to the CA, and none may take its connections from the others: a client without an SVID makes
// room, no address has more than its share, and it is logged and counted.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import type { CaOptions } from '../../cert-agent/ca/main.ts';
import { ask, newKey, startTestCa, svidOf, type TestCa } from '../fixtures/ca.ts';

interface Svid {
  readonly cert: string;
  readonly key: string;
}

async function start(t: Test, limits: CaOptions['limits']) {
  const ca = await startTestCa(t, { limits: limits ?? {} });
  const rootPem = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const status = async (svid?: Svid) =>
    (await ask(ca.address.port, rootPem, { path: '/healthz', ...(svid === undefined ? {} : { svid }) })).status;
  return { ca, rootPem, status };
}

async function enrolled(ca: TestCa, rootPem: string): Promise<Svid> {
  const key = await newKey();
  const { token } = await ca.operator.createToken('spiffe://demo.test/ns/shop/sa/web', 60_000);
  return svidOf(await ask(ca.address.port, rootPem, { path: '/v1/svid', body: { csr: key.csr, token } }), key);
}

const get = 'GET /healthz HTTP/1.1\r\nhost: ca\r\n\r\n';

/** A connection that stays open as long as the CA lets it. `say` returns the next response, '' if there is none. */
async function hold(t: Test, { address: { port } }: TestCa, options: object = {}) {
  const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options });
  t.teardown(() => socket.destroy());
  let isClosed = false;
  let heard = (_text: string): void => {};
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      isClosed = true;
      heard('');
      resolve();
    });
  });
  socket.on('error', () => {});
  socket.setEncoding('utf8').on('data', (text: string) => heard(text));
  await Promise.race([closed, new Promise((resolve) => socket.once('secureConnect', resolve))]);
  return {
    closed,
    isClosed: () => isClosed,
    write: (text: string) => socket.write(text),
    say: (text = get) =>
      new Promise<string>((resolve) => {
        heard = resolve;
        if (isClosed) resolve('');
        else socket.write(text);
      }),
  };
}

const dropsIn = (ca: TestCa) =>
  ca.logged.map((line) => JSON.parse(line)).filter((one: { code?: string }) => one.code === 'ca_overloaded');

t.test('the stranger that has been idle longest makes room for the next; an SVID keeps its connection', async (t) => {
  const { ca, rootPem, status } = await start(t, { connections: 6, connectionsPerAddress: 7 });
  const svid = await enrolled(ca, rootPem);
  const member = await hold(t, ca, svid);
  t.match(await member.say(), /^HTTP\/1\.1 200 [\s\S]*keep-alive: timeout=65\r\n/i);
  const strangers = [];
  for (let count = 0; count < 5; count++) {
    const one = await hold(t, ca);
    t.match(await one.say(), /^HTTP\/1\.1 200 [\s\S]*keep-alive: timeout=14\r\n/i);
    strangers.push(one);
  }
  t.match(await strangers[0]!.say(), /^HTTP\/1\.1 200 /, 'the second is idle longest now');
  t.equal(await status(), 200);
  await strangers[1]!.closed;
  t.notOk(strangers[0]!.isClosed());
  t.match(await member.say(), /^HTTP\/1\.1 200 /);
  t.match(dropsIn(ca), [
    { level: 'warn', msg: /^\d are open: closed the connection without an SVID that was idle longest/ },
  ]);
  const metrics = await ask(ca.address.port, rootPem, { path: '/metrics' });
  t.match(metrics.text, /^sallyport_ca_connections_dropped_total [1-9]/m);
});

t.test('a request whose body does not come makes room as well', async (t) => {
  const { ca, status } = await start(t, { connections: 2, connectionsPerAddress: 2 });
  const slow = [await hold(t, ca), await hold(t, ca)];
  for (const one of slow) one.write('POST /v1/svid HTTP/1.1\r\nhost: ca\r\ncontent-length: 9\r\n\r\n{');
  t.equal(await status(), 200);
  await slow[0]!.closed;
});

t.test('one address has no more than a quarter, with or without an SVID', async (t) => {
  const { ca, rootPem } = await start(t, { connections: 8 });
  const svid = await enrolled(ca, rootPem);
  const elsewhere = { localAddress: '127.0.0.2' };
  const others = [await hold(t, ca, elsewhere), await hold(t, ca, elsewhere)];
  for (const one of others) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  const members = [await hold(t, ca, svid), await hold(t, ca, svid)];
  for (const one of members) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  const third = await hold(t, ca, svid);
  t.equal(await third.say(), '', 'refused');
  for (const one of [...members, ...others]) t.match(await one.say(), /^HTTP\/1\.1 200 /, 'those that are open stay');
  t.match(dropsIn(ca).at(-1), {
    msg: '2 connections are open from 127.0.0.1: refused the connection from 127.0.0.1',
  });
  const next = await hold(t, ca, elsewhere);
  t.match(await next.say(), /^HTTP\/1\.1 200 /, 'an address makes room for itself');
  await others[0]!.closed;
});

t.test('a stranger is not kept as long as an SVID', async (t) => {
  const { ca, rootPem } = await start(t, { strangerIdleMs: 100 });
  const svid = await enrolled(ca, rootPem);
  const [member, stranger] = [await hold(t, ca, svid), await hold(t, ca)];
  t.match(await member.say(), /^HTTP\/1\.1 200 /);
  t.match(await stranger.say(), /^HTTP\/1\.1 200 /);
  await stranger.closed;
  t.match(await member.say(), /^HTTP\/1\.1 200 /);
});

t.test('a certificate that is not of the CA makes no one known', async (t) => {
  const { ca, status } = await start(t, { connections: 2, connectionsPerAddress: 2 });
  const other = await start(t, {});
  const svid = await enrolled(other.ca, other.rootPem);
  const strangers = [await hold(t, ca, svid), await hold(t, ca, svid)];
  for (const one of strangers) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  t.equal(await status(), 200);
  await strangers[0]!.closed;
});

t.test('a closed connection takes no place', async (t) => {
  const { ca, rootPem, status } = await start(t, { connections: 16, connectionsPerAddress: 16 });
  const svid = await enrolled(ca, rootPem);
  for (let count = 0; count < 48; count++) t.equal(await status(svid), 200);
});

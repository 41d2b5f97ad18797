// Any client may connect to the CA, and none may take its connections from the others: a client without an SVID makes
// room, no address has more than its share, and it is logged and counted.

import { readFileSync } from 'node:fs';
import { connect as connectTcp, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import t, { type Test } from 'tap';
import type { CaOptions } from '../../cert-agent/ca/main.ts';
import { ask, newKey, startTestCa, svidOf, type TestCa } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { until } from '../fixtures/process.ts';

interface Svid {
  readonly cert: string;
  readonly key: string;
}

async function start(t: Test, limits: CaOptions['limits'], more: Partial<CaOptions> = {}) {
  const ca = await startTestCa(t, { limits: limits ?? {}, ...more });
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

t.test('the unknown client that has been idle longest makes room; an SVID keeps its connection', async (t) => {
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
  t.match(await strangers[0]!.say(), /^HTTP\/1\.1 200 /, 'the second is now idle longest');
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

t.test('a request whose body does not arrive makes room as well', async (t) => {
  const { ca, status } = await start(t, { connections: 2, connectionsPerAddress: 2 });
  const slow = [await hold(t, ca), await hold(t, ca)];
  for (const one of slow) one.write('POST /v1/svid HTTP/1.1\r\nhost: ca\r\ncontent-length: 9\r\n\r\n{');
  t.equal(await status(), 200);
  await slow[0]!.closed;
});

t.test('one address gets at most a quarter of the connections, with or without an SVID', async (t) => {
  const { ca, rootPem } = await start(t, { connections: 8 });
  const svid = await enrolled(ca, rootPem);
  const elsewhere = { localAddress: '127.0.0.2' };
  const others = [await hold(t, ca, elsewhere), await hold(t, ca, elsewhere)];
  for (const one of others) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  const members = [await hold(t, ca, svid), await hold(t, ca, svid)];
  for (const one of members) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  const third = await hold(t, ca, svid);
  t.equal(await third.say(), '', 'refused');
  for (const one of [...members, ...others]) t.match(await one.say(), /^HTTP\/1\.1 200 /, 'open connections stay open');
  t.match(dropsIn(ca).at(-1), {
    msg: '2 connections are open from 127.0.0.1: refused the connection from 127.0.0.1',
  });
  const next = await hold(t, ca, elsewhere);
  t.match(await next.say(), /^HTTP\/1\.1 200 /, 'an address makes room for itself');
  await others[0]!.closed;
});

t.test('a client without an SVID keeps an idle connection for less time than one with an SVID', async (t) => {
  const { ca, rootPem } = await start(t, { strangerIdleMs: 100 });
  const svid = await enrolled(ca, rootPem);
  const [member, stranger] = [await hold(t, ca, svid), await hold(t, ca)];
  t.match(await member.say(), /^HTTP\/1\.1 200 /);
  t.match(await stranger.say(), /^HTTP\/1\.1 200 /);
  await stranger.closed;
  t.match(await member.say(), /^HTTP\/1\.1 200 /);
});

t.test('a certificate that the CA did not issue does not make a client known', async (t) => {
  const { ca, status } = await start(t, { connections: 2, connectionsPerAddress: 2 });
  const other = await start(t, {});
  const svid = await enrolled(other.ca, other.rootPem);
  const strangers = [await hold(t, ca, svid), await hold(t, ca, svid)];
  for (const one of strangers) t.match(await one.say(), /^HTTP\/1\.1 200 /);
  t.equal(await status(), 200);
  await strangers[0]!.closed;
});

t.test('a denied or expired SVID keeps no connection', async (t) => {
  const clock = new ManualClock(Date.now());
  const { ca, rootPem } = await start(t, { connections: 4, connectionsPerAddress: 5 }, { clock });
  const now = () => clock.now();
  const ok = async () => (await ask(ca.address.port, rootPem, { path: '/healthz', now: now() })).status;
  const all = [];
  for (let count = 0; count < 4; count++) {
    const one = await hold(t, ca, await enrolled(ca, rootPem));
    t.match(await one.say(), /^HTTP\/1\.1 200 /);
    all.push(one);
  }
  await t.rejects(ok(), 'all are known');
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/web', 'stolen');
  await until(() => ok().catch(() => false), 'room in place of a denied client');
  await all[0]!.closed;
});

t.test('an expired SVID does not make a client known, although it can be renewed', async (t) => {
  const clock = new ManualClock(Date.now());
  const { ca, rootPem } = await start(t, { connections: 2, connectionsPerAddress: 3 }, { clock });
  const svid = await enrolled(ca, rootPem);
  const valid = await hold(t, ca, svid);
  t.match(await valid.say(), /keep-alive: timeout=65/i);
  clock.advance(2 * 3_600_000);
  await ca.upkeep();
  const expired = await hold(t, ca, svid);
  t.match(await expired.say(), /keep-alive: timeout=14/i);
  const next = await hold(t, ca);
  t.match(await next.say(), /^HTTP\/1\.1 200 /);
  await expired.closed;
  await hold(t, ca, svid);
  await next.closed;
});

t.test('a closed connection frees its place', async (t) => {
  const { ca, rootPem, status } = await start(t, { connections: 16, connectionsPerAddress: 16 });
  const svid = await enrolled(ca, rootPem);
  for (let count = 0; count < 48; count++) t.equal(await status(svid), 200);
});

/** Asks to leave HTTP on a connection that it never ends, not even once the CA has. */
async function askHalfOpen(t: Test, port: number, path: string, svid: Svid | 'none' | 'plaintext') {
  const raw = connectTcp({ host: '127.0.0.1', port, allowHalfOpen: true });
  t.teardown(() => raw.destroy());
  const tls = { socket: raw, rejectUnauthorized: false, allowHalfOpen: true };
  const socket: Socket = svid === 'plaintext' ? raw : connect({ ...tls, ...(svid === 'none' ? {} : svid) });
  let text = '';
  const state = { isClosed: false, isEnded: false };
  for (const one of [raw, socket]) one.on('error', () => {}).once('close', () => (state.isClosed = true));
  socket.setEncoding('utf8').on('data', (piece: string) => (text += piece));
  socket.once('end', () => (state.isEnded = true));
  socket.write(`GET ${path} HTTP/1.1\r\nhost: ca\r\nconnection: upgrade\r\nupgrade: sallyport-watch/1\r\n\r\n`);
  await until(() => text.startsWith('HTTP/1.1 ') || state.isClosed, 'a response');
  return {
    raw,
    status: text.split(' ')[1],
    state,
    /** The system says so only to a client that writes. */
    async isGone() {
      socket.write('\n');
      return state.isClosed;
    },
  };
}

t.test('a client that is refused an upgrade and does not close makes room at once, and is closed soon', async (t) => {
  const { ca, status } = await start(t, { connections: 4, connectionsPerAddress: 5 });
  const all = [];
  for (let count = 0; count < 4; count++) all.push(await askHalfOpen(t, ca.address.port, '/v1/watch', 'none'));
  for (const one of all) t.equal(one.status, '403');
  t.equal(await status(), 200, 'the connection is closed at once');
  for (const one of all) await until(() => one.isGone(), 'the end of the connection');
});

t.test('the plaintext port behaves the same, and the process survives a reset meanwhile', async (t) => {
  const ca = await startTestCa(t, {
    ocsp: { host: '127.0.0.1', port: 0 },
    limits: { connections: 4, connectionsPerAddress: 5 },
  });
  const { port } = ca.ocspAddress!;
  for (let count = 0; count < 20; count++) {
    const one = connectTcp({ host: '127.0.0.1', port });
    one.on('error', () => {});
    await new Promise((resolve) => one.once('connect', resolve));
    one.write('GET /x HTTP/1.1\r\nhost: ca\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n', () => one.resetAndDestroy());
  }
  const all = [];
  for (let count = 0; count < 4; count++) all.push(await askHalfOpen(t, port, '/v1/watch', 'plaintext'));
  for (const one of all) t.equal(one.status, '404');
  const next = await askHalfOpen(t, port, '/v1/watch', 'plaintext');
  t.equal(next.status, '404', 'the connection is closed at once');
  for (const one of [...all, next]) await until(() => one.isGone(), 'the end of the connection');
});

t.test('streams above the limit of one identity are closed, although their client does not close them', async (t) => {
  const { ca, rootPem } = await start(t, { connections: 80, connectionsPerAddress: 80 });
  const svid = await enrolled(ca, rootPem);
  const all = [];
  for (let count = 0; count < 67; count++) all.push(await askHalfOpen(t, ca.address.port, '/v1/watch', svid));
  for (const one of all) t.equal(one.status, '101');
  for (const one of all.slice(0, 3)) await until(() => one.isGone(), 'the end of the stream');
  t.strictSame(
    all.slice(3).filter(({ state }) => state.isClosed || state.isEnded),
    [],
  );
});

t.test('a client that sends several requests before a response is disconnected', async (t) => {
  const { ca, status } = await start(t, {});
  const few = await hold(t, ca);
  few.write(get.repeat(8));
  t.match(await few.say(''), /^HTTP\/1\.1 200/);
  t.notOk(few.isClosed());
  const many = await hold(t, ca);
  many.write(get.replace('healthz', 'v1/ledger/1').repeat(500));
  await many.closed;
  t.equal(await status(), 200);
  t.match(
    await (await ask(ca.address.port, readFileSync(join(ca.dir, 'bundle.pem'), 'utf8'), { path: '/metrics' })).text,
    /^sallyport_ca_connections_dropped_total 1$/m,
  );
});

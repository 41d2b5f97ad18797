// Kinds 3 and 4, the health port: clients that ask for the metrics and read nothing hold one text together, few
// responses, and keep neither a probe nor another address's scrape away.

import { randomBytes } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { Registry } from 'prom-client';
import t from 'tap';
import { type Page, startAdmin } from '../../cert-agent/base/admin.ts';
import { request } from '../../cert-agent/base/http.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import { shareText } from '../../cert-agent/base/metrics-text.ts';
import { startServer } from '../../cert-agent/ca/server.ts';
import { packMetrics } from '../../sidecar/observe/merge-metrics.ts';
import { createPageSources, type PageParts } from '../../sidecar/process/page-sources.ts';
import { type Owner, until } from '../fixtures/process.ts';

/** More than the kernel takes for a connection that is not read. */
const long = 16 << 20;
const askers = 60;

async function serve(t: Owner, metrics: () => Promise<Buffer>): Promise<number> {
  const page: Page = {
    ...{ method: 'GET', path: '/stats/prometheus', sentence: 'much' },
    answer: async () => ({ body: await metrics() }),
  };
  const listen = { host: '127.0.0.1', port: 0 };
  const admin = await startAdmin({ listen, title: 'test', pages: [page], anyHost: true });
  t.teardown(() => admin.close());
  return (admin.address as { readonly port: number }).port;
}

/** Sends a scrape and reads its first bytes only: resolves with the status, 0 for a connection that was closed. */
function askAndStop(t: Owner, port: number, more = ''): Promise<{ status: number; socket: Socket }> {
  const socket = createConnection(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  socket.write(`GET /stats/prometheus HTTP/1.1\r\nHost: x\r\n${more}\r\n`);
  return new Promise((resolve) => {
    socket.once('close', () => resolve({ status: 0, socket }));
    socket.once('readable', () => resolve({ status: Number(String(socket.read(12) ?? '').slice(9)), socket }));
  });
}

async function flood(t: Owner, port: number, more?: string): Promise<{ counts: object; sockets: Socket[] }> {
  const all = await Promise.all(Array.from({ length: askers }, () => askAndStop(t, port, more)));
  const counts: Record<number, number> = {};
  for (const { status } of all) counts[status] = (counts[status] ?? 0) + 1;
  return { counts, sockets: all.map(({ socket }) => socket) };
}

function read(port: number, path: string, localAddress: string): Promise<{ status: number; size: number }> {
  return new Promise((resolve, reject) => {
    const asked = request({ ...{ host: '127.0.0.1', port, path, localAddress, agent: false } }, (response) => {
      let size = 0;
      response.on('data', (part: Buffer) => {
        size += part.length;
      });
      response.once('end', () => resolve({ status: response.statusCode ?? 0, size }));
      response.once('error', reject);
    });
    asked.once('error', reject);
    asked.end();
  });
}

t.test('one text is in the making, for all who ask', async (t) => {
  let made = 0;
  let isBad = false;
  const ask = shareText(async () => {
    made++;
    await new Promise(setImmediate);
    if (isBad) throw new Error('bad');
    return Buffer.alloc(long);
  });
  const texts = new Set(await Promise.all(Array.from({ length: askers }, ask)));
  t.strictSame([texts.size, made], [1, 1]);
  t.equal(await ask(), [...texts][0], 'a long one is kept');
  isBad = true;
  await until(async () => (await ask().catch(() => undefined)) === undefined, 'it is forgotten after a second');
  isBad = false;
  t.equal((await ask()).length, long, 'a failure is not kept');

  made = 0;
  const short = shareText(async () => Buffer.from(String(++made)));
  t.strictSame([String(await short()), String(await short())], ['1', '2'], 'a short one is made anew');
});

t.test('the pages of a sidecar share it, with the workers asked once', async (t) => {
  const registry = new Registry();
  let asked = 0;
  const workers = {
    async facts() {
      asked++;
      return [{ metrics: await packMetrics(registry) }];
    },
  };
  const parts = {
    ...{ registry, workers, table: new Set(), pools: { entries: () => [] }, ports: { rules: () => [] }, source: {} },
    tools: { shadow: { facts: () => ({}) }, denials: { list: () => [] } },
    watch: { configuration: { current: () => ({ settings: { trustDomain: 'demo.test' } }) } },
  };
  for (const [of, count] of [
    [workers, 1],
    [undefined, 0],
  ] as const) {
    asked = 0;
    const { metrics } = createPageSources({ ...parts, workers: of } as unknown as PageParts);
    const texts = new Set(await Promise.all(Array.from({ length: askers }, () => metrics())));
    t.strictSame([texts.size, asked], [1, count]);
  }
});

t.test('few of those who read nothing are answered, the others 503 at once', async (t) => {
  const text = randomBytes(long);
  const port = await serve(t, async () => text);
  const { counts, sockets } = await flood(t, port);
  t.strictSame(counts, { 200: 16, 503: askers - 16 });
  t.match(await read(port, '/', '127.0.0.1'), { status: 200 }, 'a probe is answered');
  t.match(await read(port, '/stats/prometheus', '127.0.0.1'), { status: 503 });
  t.strictSame(await read(port, '/stats/prometheus', '127.0.0.2'), { status: 200, size: long }, 'another address');
  for (const socket of sockets) socket.destroy();
  await until(async () => (await read(port, '/stats/prometheus', '127.0.0.1')).status === 200, 'there is room again');
});

t.test('their bytes are bounded too', async (t) => {
  const port = await serve(t, async () => Buffer.alloc(3 * long));
  const { counts } = await flood(t, port);
  t.strictSame(counts, { 200: 2, 503: askers - 2 }, '128 MiB');
});

t.test('one form in gzip for all', async (t) => {
  const text = randomBytes(long);
  const port = await serve(t, async () => text);
  const { counts } = await flood(t, port, 'Accept-Encoding: gzip\r\n');
  t.strictSame(counts, { 200: 16, 503: askers - 16 }, 'as many as of one Buffer');
});

t.test('requests that wait behind an unread response are counted, and let go with their connection', async (t) => {
  const text = randomBytes(long);
  const port = await serve(t, async () => text);
  const warnings: string[] = [];
  const warned = ({ name }: Error): number => warnings.push(name);
  process.on('warning', warned);
  t.teardown(() => process.off('warning', warned));
  const { socket } = await askAndStop(t, port, '\r\nGET /stats/prometheus HTTP/1.1\r\nHost: x\r\n'.repeat(30));
  t.match(await read(port, '/stats/prometheus', '127.0.0.1'), { status: 503 });
  socket.destroy();
  await until(async () => (await read(port, '/stats/prometheus', '127.0.0.1')).status === 200, 'there is room again');
  t.strictSame(warnings, [], 'no listener for each of them');
});

t.test("the CA's metrics: few are unread, and other requests are answered", async (t) => {
  const body = randomBytes(long);
  const server = await startServer({
    listen: { host: '127.0.0.1', port: 0 },
    svid: undefined,
    routes: [
      { method: 'GET', path: '/stats/prometheus', answer: async () => ({ body, isScrape: true }) },
      { method: 'GET', path: '/healthz', answer: async () => ({ body: 'ok' }) },
    ],
    log: createLog({ component: 'ca', level: 'silent' }),
    onRefusal: () => {},
    onDrop: () => {},
    knownBy: () => undefined,
    limits: { drainMs: 0 },
  });
  t.teardown(() => server.close());
  const { port } = server.address;
  const { counts, sockets } = await flood(t, port);
  t.strictSame(counts, { 200: 16, 503: askers - 16 });
  t.match(await read(port, '/healthz', '127.0.0.1'), { status: 200, size: 2 });
  for (const socket of sockets) socket.destroy();
  await until(async () => (await read(port, '/stats/prometheus', '127.0.0.1')).status === 200, 'there is room again');
});

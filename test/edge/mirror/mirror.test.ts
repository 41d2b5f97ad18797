// RequestMirror: a copy goes to another backend, the same in everything but our word on who asks, and the request never
// feels it.

import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import t from 'tap';
import { Copies, type Mirror } from '../../../sidecar/edge/mirror/mirror.ts';
import type { Carrier, Downstream } from '../../../sidecar/exchange/ends.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import type { Destination, UpstreamConnection, UpstreamEvents } from '../../../sidecar/exchange/upstream.ts';
import { askAs, versions } from '../../fixtures/edge-client.ts';
import { type Gateway, startTestGateway } from '../../fixtures/gateway.ts';
import { type Owner, until } from '../../fixtures/process.ts';

interface Arrived {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
  readonly complete: boolean;
}

/** A backend that notes what it gets, and answers with its name. */
async function startNoting(t: Owner, name: string): Promise<{ readonly port: number; readonly arrived: Arrived[] }> {
  const arrived: Arrived[] = [];
  const server = createServer(async (ask, answer) => {
    const parts: Buffer[] = [];
    ask.on('error', () => {});
    try {
      for await (const part of ask) parts.push(part as Buffer);
    } catch {
      // Cut off: noted as such.
    }
    const { method = '', url = '', headers, complete } = ask;
    arrived.push({ method, url, headers, body: Buffer.concat(parts).toString(), complete });
    answer.writeHead(url.startsWith('/fails') && name === 'mirror' ? 500 : 200).end(name);
  });
  return { port: await listening(t, server), arrived };
}

async function listening(t: Owner, server: Server | ReturnType<typeof createTcpServer>): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    if ('closeAllConnections' in server) server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

function startMirrored(t: Owner, app: number, mirror: number, more = ''): Promise<Gateway> {
  return startTestGateway(t, {
    listeners: ['default/g:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app}"] }, copy: { endpoints: ["127.0.0.1:${mirror}"] } }\nbackends: { default/app:80: app, default/copy:80: copy }\n`,
    documents: `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: g }
spec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec:
  parentRefs: [{ name: g }]
  rules:
  - matches: [{ path: { value: /never } }]
    filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: copy, port: 80 }, percent: 0 } }]
    backendRefs: [{ name: app, port: 80 }]
  - filters:
    - { type: RequestMirror, requestMirror: { backendRef: { name: copy, port: 80 } } }
    - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Set, value: both }], remove: [X-Gone] } }
    - { type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /v2 } } }
    backendRefs: [{ name: app, port: 80 }]
${more}`,
  });
}

const outcomes = async (gateway: Gateway): Promise<Record<string, number>> => {
  const text = await (await fetch(`http://127.0.0.1:${gateway.admin}/stats/prometheus`)).text();
  const found = text.matchAll(/^sallyport_mirrored_requests_total\{.*?outcome="(\w+)".*?\} (\d+)/gm);
  return Object.fromEntries([...found].map(([, outcome, count]) => [outcome!, Number(count)]));
};

async function* pieces(count: number, size: number): AsyncGenerator<Buffer> {
  for (let i = 0; i < count; i++) {
    yield Buffer.alloc(size, String(i % 10));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

t.test('mirrors get copies', async (t) => {
  const app = await startNoting(t, 'app');
  const mirror = await startNoting(t, 'mirror');
  const gateway = await startMirrored(t, app.port, mirror.port);
  const port = gateway.port('default/g:80');
  for (const version of versions)
    await t.test(version, async (t) => {
      const both = async (path: string): Promise<[Arrived, Arrived]> => {
        const of = ({ arrived }: typeof app): Arrived | undefined => arrived.find(({ url }) => url === path);
        return until(() => {
          const [one, other] = [of(app), of(mirror)];
          return one !== undefined && other !== undefined && ([one, other] as [Arrived, Arrived]);
        }, `both to have ${path}`);
      };
      const v = version === 'HTTP/2' ? 2 : 1;
      const headers = { 'x-gone': '1', 'x-own': '2', cookie: 'a=b' };
      const plain = await askAs(version, port, { path: `/get?v=${v}`, headers });
      t.equal(plain.body.toString(), 'app', "the client gets the app's response");
      const [get, got] = await both(`/v2/get?v=${v}`);
      t.strictSame(got, get, 'the mirror gets the head that the backend gets, rewrites included');
      t.match(got.headers, { 'x-set': 'both', 'x-own': '2', 'x-forwarded-for': '127.0.0.1' });

      await askAs(version, port, { method: 'POST', path: `/whole?v=${v}`, body: 'all at once' });
      const [post, posted] = await both(`/v2/whole?v=${v}`);
      t.strictSame(posted, post);
      t.equal(posted.body, 'all at once');

      await askAs(version, port, { method: 'PUT', path: `/long?v=${v}`, body: pieces(60, 8_000) });
      const [put, copied] = await both(`/v2/long?v=${v}`);
      t.equal(copied.body.length, 480_000);
      t.strictSame(copied, put, 'a long body, piece by piece');

      const failed = await askAs(version, port, { path: `/fails?v=${v}` });
      t.match({ status: failed.status, body: failed.body.toString() }, { status: 200, body: 'app' });
      await askAs(version, port, { path: `/never?v=${v}` });
      t.notOk(
        mirror.arrived.some(({ url }) => url.startsWith('/never')),
        'a share of zero',
      );
    });
  await until(async () => (await outcomes(gateway))['answered'] === 6 + 2, 'all to be counted');
});

t.test('a mirror that hangs, is gone, or reads nothing does not affect clients', async (t) => {
  const app = await startNoting(t, 'app');
  const sockets = new Set<Socket>();
  // It accepts, and reads nothing.
  const hanging = createTcpServer({ pauseOnConnect: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  const port = await listening(t, hanging);
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  const gateway = await startMirrored(t, app.port, port);
  const ask = gateway.port('default/g:80');
  const before = await outcomes(gateway);
  for (const version of versions) {
    const answer = await askAs(version, ask, { method: 'POST', path: '/big', body: pieces(400, 32_768) });
    t.equal(answer.body.toString(), 'app');
  }
  t.equal(app.arrived.filter(({ body }) => body.length === 400 * 32_768).length, 2, 'complete, to the app');
  await until(async () => (await outcomes(gateway))['dropped'] === (before['dropped'] ?? 0) + 2, 'both to be dropped');
  t.equal(heldBytes() < 1024 * 1024, true, 'no byte of the copies is held');
  // Gone altogether.
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => hanging.close(resolve));
  for (const version of versions)
    t.equal((await askAs(version, ask, { method: 'POST', path: '/x', body: 'y' })).body.toString(), 'app');
  await until(async () => (await outcomes(gateway))['failed'] === (before['failed'] ?? 0) + 2, 'both to have failed');
});

// -- what sockets cannot show
// ------------------------------------------------------------------------------------------

/** A mirror that notes what is sent, and takes it when it is told to. */
class Noting {
  readonly sent: { fields: string[]; whole: string | undefined; body: string[] }[] = [];
  takes = true;
  destroyed = 0;
  ended = 0;
  events: UpstreamEvents | undefined = undefined;

  get destination(): Destination {
    const connection = {
      address: '127.0.0.1:1',
      send: (call: { fields: { names: { lower: string }[] } }, whole: Buffer | undefined, events: UpstreamEvents) => {
        this.sent.push({ fields: call.fields.names.map(({ lower }) => lower), whole: whole?.toString(), body: [] });
        this.events = events;
      },
      write: (chunk: Buffer) => {
        this.sent.at(-1)!.body.push(chunk.toString());
        return this.takes;
      },
      end: () => this.ended++,
      destroy: () => this.destroyed++,
    } as unknown as UpstreamConnection;
    return { acquire: () => connection, dialSocket: () => Promise.reject(new Error('not here')) };
  }
}

function exchangeFor(mirror: Noting, share: number, more: Partial<Exchange> = {}): Exchange {
  const route = {
    name: 'mirror',
    cluster: '',
    destination: mirror.destination,
    permit: undefined,
    principal: undefined,
  };
  const exchange = {
    method: 'POST',
    path: '/',
    authority: 'a.test',
    fields: addFields(emptyFields, [
      ['txn-token', 'ours'],
      ['Txn_Token', 'a lookalike'],
      ['x', '1'],
    ]),
    framing: 0,
    downstream: {} as Downstream,
    ...more,
  } as unknown as Exchange;
  mirrorsOf.set(exchange, [{ route, share }]);
  return exchange;
}

const mirrorsOf = new WeakMap<Exchange, readonly Mirror[]>();
const copies = new Copies();

function mirrorRequest(exchange: Exchange, clientCert: string | undefined, draw?: () => number): void {
  (draw === undefined ? copies : new Copies(draw)).begin(exchange, mirrorsOf.get(exchange)!, clientCert);
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test('the mirror does not get the transaction token', async (t) => {
  const mirror = new Noting();
  mirrorRequest(exchangeFor(mirror, 1), undefined);
  await settled();
  t.strictSame(mirror.sent, [{ fields: ['x'], whole: undefined, body: [] }]);
  mirror.events!.upstreamReply({} as never, Buffer.alloc(0));
});

t.test('a share of the requests is sampled', async (t) => {
  const cases: [string, number, number, number][] = [
    ['below', 0.25, 0.24, 1],
    ['at', 0.25, 0.25, 0],
    ['all', 1, 0.999, 1],
    ['none', 0, 0, 0],
  ];
  for (const [name, share, drawn, sent] of cases) {
    const mirror = new Noting();
    mirrorRequest(exchangeFor(mirror, share), undefined, () => drawn);
    await settled();
    t.equal(mirror.sent.length, sent, name);
    mirror.events?.upstreamReply({} as never, Buffer.alloc(0));
  }
});

t.test('WebSockets and tunnels are not copied', async (t) => {
  for (const more of [{ webSocket: true }, { method: 'CONNECT' }]) {
    const mirror = new Noting();
    mirrorRequest(exchangeFor(mirror, 1, more), undefined);
    await settled();
    t.equal(mirror.sent.length, 0);
  }
});

t.test('bytes that a slow mirror does not read are buffered up to a limit, then the copy is dropped', async (t) => {
  const passed: string[] = [];
  const carrier: Carrier = {
    requestData: (chunk) => passed.push(chunk.toString()) > 0,
    requestEnd: () => passed.push('end'),
    downstreamDrained() {},
    downstreamGone: () => passed.push('gone'),
    idle() {},
  };
  const mirror = new Noting();
  const exchange = exchangeFor(mirror, 1, { framing: 'chunked', carrier });
  mirrorRequest(exchange, undefined);
  const before = heldBytes();
  t.equal(exchange.carrier!.requestData(Buffer.from('early')), true);
  t.equal(heldBytes() - before, 5, 'before there is a connection');
  await settled();
  t.strictSame(mirror.sent[0]!.body, ['early']);
  mirror.takes = false;
  exchange.carrier!.requestData(Buffer.from('one'));
  exchange.carrier!.requestData(Buffer.from('two'));
  t.strictSame(mirror.sent[0]!.body, ['early', 'one']);
  mirror.takes = true;
  mirror.events!.upstreamDrained();
  t.strictSame(mirror.sent[0]!.body, ['early', 'one', 'two']);
  mirror.takes = false;
  exchange.carrier!.requestData(Buffer.from('three'));
  exchange.carrier!.requestData(Buffer.alloc(60_000));
  exchange.carrier!.requestData(Buffer.alloc(6_000));
  t.equal(mirror.destroyed, 1);
  t.equal(heldBytes(), before);
  exchange.carrier!.requestEnd(emptyFields);
  t.equal(passed.length, 7, 'the backend has received all of it');

  const other = new Noting();
  const left = exchangeFor(other, 1, { framing: 'chunked', carrier });
  mirrorRequest(left, undefined);
  await settled();
  left.carrier!.requestData(Buffer.from('half'));
  left.carrier!.downstreamGone();
  t.equal(other.destroyed, 1, 'half a request is not sent as a complete one');
  t.equal(passed.at(-1), 'gone');
});

t.test('a connection that is ready too late for its copy carries nothing', async (t) => {
  const mirror = new Noting();
  const carrier: Carrier = { ...({} as Carrier), requestData: () => true, downstreamGone() {} };
  const exchange = exchangeFor(mirror, 1, { framing: 'chunked', carrier });
  mirrorRequest(exchange, undefined);
  exchange.carrier!.downstreamGone();
  await settled();
  t.strictSame([mirror.sent.length, mirror.destroyed], [0, 1]);
});

t.test('copies in flight are bounded', async (t) => {
  const mirror = new Noting();
  const all: UpstreamEvents[] = [];
  for (let i = 0; i < 300; i++) {
    mirrorRequest(exchangeFor(mirror, 1), undefined);
    await settled();
    if (mirror.sent.length > all.length) all.push(mirror.events!);
  }
  t.equal(all.length, 256);
  for (const events of all) events.upstreamReply({} as never, Buffer.alloc(0));
  mirrorRequest(exchangeFor(mirror, 1), undefined);
  await settled();
  t.equal(mirror.sent.length, 257, 'there is room again');
  mirror.events!.upstreamFailed({} as never);
});

t.test('a request that is answered before its body ends leaves no copy behind', async (t) => {
  const arrived = new Set<Socket>();
  const server = createServer(async (_ask, answer) => {
    await until(() => arrived.size > 0, 'the copy to have begun');
    answer.writeHead(413).end('no');
  });
  const app = await listening(t, server);
  // It waits for the rest, as long as that takes.
  const patient = createTcpServer((socket) => {
    arrived.add(socket);
    socket.on('error', () => {}).on('close', () => arrived.delete(socket));
    socket.resume();
  });
  const mirror = await listening(t, patient);
  t.teardown(() => {
    for (const socket of arrived) socket.destroy();
  });
  const gateway = await startMirrored(t, app, mirror);
  const before = (await outcomes(gateway))['dropped'] ?? 0;
  for (const version of versions) {
    async function* half(): AsyncGenerator<Buffer> {
      yield Buffer.from('the beginning');
      await new Promise(() => {});
    }
    const answer = await askAs(version, gateway.port('default/g:80'), { method: 'POST', path: '/x', body: half() });
    t.equal(answer.status, 413);
    await until(() => arrived.size === 0, 'the copy to be let go');
  }
  t.equal((await outcomes(gateway))['dropped'], before + 2);
});

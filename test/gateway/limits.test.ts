// How much, how slowly and how many at once: bodies without a length, rules that wait for the whole of it, clients that
// hold us with a byte now and then, and requests in flight.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { Connection } from '../../sidecar/connection.ts';
import { limitInFlight } from '../../sidecar/edge/concurrency/capability.ts';
import { ConcurrencyLimit } from '../../sidecar/edge/concurrency-limit.ts';
import { answerOwn } from '../../sidecar/exchange/answer.ts';
import type { Exchange, PortRules } from '../../sidecar/exchange/exchange.ts';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import { Http1Server, type ServerPath } from '../../sidecar/protocol/http1/server.ts';
import { Http2Server } from '../../sidecar/protocol/http2/server.ts';
import { Pace } from '../../sidecar/protocol/pace.ts';
import { answerReply, refuse } from '../../sidecar/respond.ts';
import { FakeSocket, limits } from '../fixtures/codec.ts';
import { askAs, type Version, versions } from '../fixtures/edge-client.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';

interface App {
  readonly port: number;
  /** Bodies that have come in full, and requests that were cut off. */
  readonly bodies: number[];
  readonly cut: string[];
  readonly begun: string[];
}

async function startApp(t: Owner, answer: (ask: IncomingMessage, answer: ServerResponse) => void): Promise<App> {
  const app = { bodies: [] as number[], cut: [] as string[], begun: [] as string[] };
  const server = createServer((ask, reply) => {
    let size = 0;
    app.begun.push(ask.url!);
    ask.on('error', () => {});
    ask.on('data', (piece: Buffer) => {
      size += piece.length;
    });
    ask.on('close', () => (ask.complete ? app.bodies.push(size) : app.cut.push(ask.url!)));
    answer(ask, reply);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, ...app };
}

const afterBody = (ask: IncomingMessage, answer: ServerResponse): void => {
  ask.on('end', () => answer.end('ok'));
};

function start(t: Owner, app: App, yaml = '', policy = ''): Promise<Gateway> {
  const attached = `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: { name: p }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
${policy.replace(/^(?=.)/gm, '  ')}`;
  return startTestGateway(t, {
    listeners: ['default/g:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { default/app:80: app }\n${yaml}`,
    documents: {
      ...(policy === '' ? {} : { 'policy.yaml': attached }),
      'all.yaml': `
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
  rules: [{ backendRefs: [{ name: app, port: 80 }] }]
`,
    },
  });
}

const key = 'default/g:80';

t.test('a body of unknown length is limited', async (t) => {
  const app = await startApp(t, (ask, answer) => {
    if (ask.url === '/early') answer.write('begun');
    ask.on('end', () => answer.end('ok'));
  });
  const gateway = await start(t, app, 'limits: { bodyBytes: 100000 }\n');
  for (const version of versions)
    await t.test(version, async (t) => {
      const body = async function* (bytes: number): AsyncGenerator<Buffer> {
        for (let left = bytes; left > 0; left -= 5_000) {
          yield Buffer.alloc(Math.min(left, 5_000), 'x');
          await new Promise((resolve) => setImmediate(resolve));
        }
      };
      const ask = (path: string, bytes: number, headers = {}): ReturnType<typeof askAs> =>
        askAs(version, gateway.port(key), { method: 'POST', path, headers, body: body(bytes) });
      t.equal((await ask('/fits', 100_000)).status, 200);
      t.equal(app.bodies.at(-1), 100_000, 'a body of the maximum length');
      const told = await ask('/told', 100_001, { 'content-length': '100001' });
      t.equal(told.status, 413);
      t.notOk(app.begun.includes('/told'), 'a request that declares too long a body does not reach the app');
      const refused = await ask('/over', 200_000);
      t.match({ status: refused.status, body: refused.body.toString() }, { status: 413, body: 'body too large' });
      await until(() => app.cut.includes('/over'), 'the app to see that it is not whole');
      t.equal((await ask('/early', 200_000)).cut, true, 'a response that has begun is cut');
      app.cut.length = 0;
      app.begun.length = 0;
    });
  const records = await gateway.records(8);
  const over = records.filter(({ path }) => path === '/over');
  t.equal(over.length, 2);
  for (const record of over)
    t.match(record, {
      ...{ response_code: 413, code: 'body_too_large', response_code_details: 'request_payload_too_large' },
      reason: 'the body has more than 100000 bytes (limit bodyBytes)',
    });
  await t.test('the HTTP/1.1 connection is closed after it', async (t) => {
    const chunk = `${(60_000).toString(16)}\r\n${'x'.repeat(60_000)}\r\n`;
    const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n';
    const heard = await exchangeBytes(
      gateway.port(key),
      `POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n${chunk}${chunk}0\r\n\r\n${smuggled}`,
    );
    t.match(heard, /^HTTP\/1\.1 413 /);
    t.match(heard, /\r\nConnection: close\r\n/);
    t.equal(heard.match(/HTTP\/1\.1 /g)?.length, 1);
    t.notOk(app.begun.includes('/smuggled'));
  });
});

t.test('requestBuffer: nothing is forwarded before the whole body has arrived', async (t) => {
  const app = await startApp(t, afterBody);
  const gateway = await start(t, app, '', 'requestBuffer: { limit: 50k }');
  for (const version of versions)
    await t.test(version, async (t) => {
      const slow = new PassThrough();
      const asked = askAs(version, gateway.port(key), { method: 'POST', path: '/slow', body: slow });
      const held = heldBytes();
      slow.write(Buffer.alloc(20_000, 'a'));
      await until(() => heldBytes() >= held + 20_000, 'the first half to be held');
      t.strictSame(app.begun, [], 'the app does not get it');
      slow.end(Buffer.alloc(20_000, 'b'));
      t.equal((await asked).body.toString(), 'ok');
      t.equal(app.bodies.at(-1), 40_000);
      t.ok(heldBytes() < 40_000);

      const long = new PassThrough();
      const refused = askAs(version, gateway.port(key), { method: 'POST', path: '/long', body: long });
      for (let i = 0; i < 6; i++) long.write(Buffer.alloc(10_000));
      t.equal((await refused).status, 413);
      t.notOk(app.begun.includes('/long'));
      t.equal((await askAs(version, gateway.port(key), { path: '/get' })).status, 200);
      app.begun.length = 0;
    });
  t.match(
    (await gateway.records(6)).filter(({ path }) => path === '/long').map(({ reason }) => reason),
    Array(2).fill('the body has more than 50000 bytes (requestBuffer of BackendTrafficPolicy default/p)'),
  );
  await t.test('a client that sends Expect: 100-continue gets its 100 from the gateway', async (t) => {
    const heard = await new Promise<string>((resolve) => {
      const socket = connect(gateway.port(key), '127.0.0.1');
      let got = '';
      socket.on('data', (piece: Buffer) => {
        got += piece.toString();
        if (got === 'HTTP/1.1 100 Continue\r\n\r\n') socket.write('2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n');
        if (got.includes('ok')) resolve(got);
      });
      socket.on('close', () => resolve(got));
      t.teardown(() => socket.destroy());
      socket.write('POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n');
    });
    t.match(heard, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
  });
  await t.test('a client that leaves in the middle leaves nothing behind', async (t) => {
    const before = heldBytes();
    const socket = connect(gateway.port(key), '127.0.0.1');
    socket.write('POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 40000\r\n\r\nhalf of it');
    await until(() => heldBytes() > before, 'it to be held');
    socket.destroy();
    await until(() => heldBytes() <= before, 'it to be gone');
    t.strictSame(app.cut, []);
  });
});

t.test('concurrency is limited', async (t) => {
  const waiting: ServerResponse[] = [];
  const app = await startApp(t, (_ask, answer) => waiting.push(answer));
  const release = (): void => {
    for (const answer of waiting.splice(0)) answer.end('ok');
  };
  await t.test("a route's requests are counted, however they end", async (t) => {
    const gateway = await start(t, app, '', 'concurrency: { maxInFlight: 2 }');
    for (const version of versions)
      await t.test(version, async (t) => {
        const port = gateway.port(key);
        const two = [askAs(version, port), askAs(version, port)];
        await until(() => waiting.length === 2, 'both to be there');
        const third = await askAs(version, port, { headers: { accept: 'application/json' } });
        t.equal(third.status, 429);
        t.match(JSON.parse(third.body.toString()), { title: 'Too Many Requests', detail: 'concurrency limited' });
        release();
        for (const one of await Promise.all(two)) t.equal(one.status, 200);
        // One that is cut by the app, and one whose client goes.
        let isOver = false;
        const cut = askAs(version, port).then(({ status }) => {
          isOver = true;
          return status;
        });
        // One that died unseen in the pool is sent once more.
        await until(() => {
          for (const answer of waiting.splice(0)) answer.destroy();
          return isOver;
        }, 'the app to have refused it');
        t.equal(await cut, 503);
        const gone = connect(port, '127.0.0.1');
        gone.write('GET / HTTP/1.1\r\nHost: a.test\r\n\r\n');
        await until(() => waiting.length === 1, 'the one that goes');
        gone.destroy();
        waiting.length = 0;
        await until(async () => {
          const again = [askAs(version, port), askAs(version, port)];
          await until(() => waiting.length === 2, 'two', 1000).catch(() => {});
          release();
          return (await Promise.all(again)).every(({ status }) => status === 200);
        }, 'room for two again');
      });
    const refused = (await gateway.records(1)).find(({ response_code: status }) => status === 429);
    t.match(refused, {
      ...{ code: 'concurrency_limited', response_flags: 'RL', decision: 'deny' },
      reason:
        /^2 requests of the route httproute\/default\/r\/rule\/0 are in flight \(limit concurrency\.maxInFlight\)$/,
    });
    await t.test('a reload that does not change the limit keeps all counts', async (t) => {
      const one = [askAs('HTTP/1.1', gateway.port(key)), askAs('HTTP/1.1', gateway.port(key))];
      await until(() => waiting.length === 2, 'both');
      await gateway.write('other.yaml', 'apiVersion: v1\nkind: Namespace\nmetadata: { name: x }\n');
      t.equal((await askAs('HTTP/1.1', gateway.port(key))).status, 429);
      release();
      await Promise.all(one);
    });
  });
  await t.test('each client has its own count', async (t) => {
    const gateway = await start(
      t,
      app,
      'gatewayTopology: { numTrustedProxies: 1 }\n',
      'concurrency: { maxInFlight: 1, per: Client }',
    );
    const from = (ip: string): ReturnType<typeof askAs> =>
      askAs('HTTP/2', gateway.port(key), { headers: { 'x-forwarded-for': ip } });
    const one = from('10.0.0.1');
    await until(() => waiting.length === 1, 'the first');
    t.equal((await from('10.0.0.1')).status, 429);
    const other = from('10.0.0.2');
    await until(() => waiting.length === 2, 'another client');
    release();
    t.strictSame([(await one).status, (await other).status], [200, 200]);
  });
});

t.test('a client that left during authorization is not counted, since it would never leave', async (t) => {
  const limit = new ConcurrencyLimit({ maxInFlight: 1, per: 'route' });
  const gone = { finished: true } as Exchange;
  const hooks = limitInFlight(limit, limit.plan, 'r');
  hooks.limit(gone);
  hooks.finished(gone);
  t.equal(limit.facts().inFlight, 0);
});

// -- too slow: with a clock of the test's own
// ----------------------------------------------------------------------------

t.test('a gateway requires 240 bytes a second by default', async (t) => {
  const yaml = `trustDomain: a.test\nworkload: { serviceAccount: a }\nidentity: { files: { svid: a, key: b, bundle: c } }\ndocuments: d\n`;
  const read = (more: string): number => parseGatewaySettings(yaml + more, 'g.yaml').limits.slowBytesPerSecond;
  t.equal(read(''), 240);
  t.equal(read('limits: { bodyBytes: 1 }'), 240);
  t.equal(read('limits: { slowBytesPerSecond: 0 }'), 0);
});

t.test('a minimum rate', async (t) => {
  interface Look {
    /** Seconds since the last look, bytes since then, and whether a client waited. */
    readonly looks: readonly (readonly [number, number, boolean])[];
    readonly slow: boolean;
  }
  const cases: Record<string, Look> = {
    'nothing within the grace period': { looks: [[4.9, 0, true]], slow: false },
    'nothing after the grace period': { looks: [[5.1, 0, true]], slow: true },
    'the client was not waiting': { looks: [[60, 0, false]], slow: false },
    'just fast enough': { looks: Array(120).fill([1, 240, true]), slow: false },
    'a little too slow': { looks: Array(120).fill([1, 220, true]), slow: true },
    'a fast start compensates for a stall': {
      looks: [
        [1, 1_000_000, true],
        [25, 0, true],
      ],
      slow: false,
    },
    'a fast start does not compensate forever': {
      looks: [
        [1, 1_000_000, true],
        [31, 0, true],
      ],
      slow: true,
    },
  };
  for (const [name, { looks, slow }] of Object.entries(cases)) {
    const pace = new Pace(0, 0);
    let [now, bytes, found] = [0, 0, false];
    for (const [seconds, more, waited] of looks) {
      now += seconds * 1000;
      bytes += more;
      found ||= pace.isSlow(now, bytes, waited, 240);
    }
    t.equal(found, slow, name);
  }
  const taken = new Pace(0, 1000);
  t.equal(taken.isTakenSlowly(4000, 3400, 2400, 240), false);
  t.equal(taken.isTakenSlowly(14_000, 3400, 2400, 240), false, 'buffered bytes have time to be sent');
  t.equal(taken.isTakenSlowly(20_000, 3400, 2400, 240), true, 'the time is limited');
});

interface Front {
  readonly port: number;
  readonly connections: Connection[];
  readonly finished: Exchange[];
}

/** A codec on a real socket, whose path is `serve`, and whose clock is moved by hand. */
async function startFront(t: Owner, version: Version, serve: (exchange: Exchange) => void): Promise<Front> {
  const rules = {
    limits: {
      ...limits,
      streamIdleMs: 1e9,
      streamStallMs: 1e9,
      clientIdleMs: 1e9,
      headMs: 1e9,
      slowBytesPerSecond: 240,
    },
  };
  const port = { key: 'front', rules: new LiveCell(rules as unknown as PortRules) };
  const front = { connections: [] as Connection[], finished: [] as Exchange[] };
  const path: ServerPath = {
    serve,
    refuse: (exchange, error) => refuse(exchange, error),
    refusalOf: () => undefined,
    finish(exchange) {
      if (!exchange.finished) front.finished.push(exchange);
      exchange.finished = true;
    },
    draining: () => false,
  };
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    const connection = new Connection(socket, port);
    front.connections.push(connection);
    connection.speaker = version === 'HTTP/2' ? new Http2Server(connection, path) : new Http1Server(connection, path);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const { socket } of front.connections) socket.destroy();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, ...front };
}

/** So many seconds, a tick at a time. */
function pass({ connections }: Front, seconds: number, from = 0): number {
  const start = performance.now() + 1e6 + from * 1000;
  for (let now = 0; now <= seconds * 1000; now += 500)
    for (const { speaker } of connections) speaker!.tick(start + now);
  return from + seconds;
}

const nobodyCarries = { requestEnd() {}, downstreamDrained() {}, downstreamGone() {}, idle() {} };

t.test('a body that arrives too slowly is refused', async (t) => {
  for (const version of versions)
    await t.test(version, async (t) => {
      let takes = true;
      const front = await startFront(t, version, (exchange) => {
        exchange.carrier = { ...nobodyCarries, requestData: () => takes };
      });
      const body = new PassThrough();
      const asked = askAs(version, front.port, { method: 'POST', body });
      body.write('a');
      await until(() => front.connections[0]?.speaker?.inFlight === 1, 'it to begin');
      pass(front, 4);
      t.equal(front.finished.length, 0, 'the grace');
      pass(front, 2, 4.5);
      const answer = await asked;
      t.match({ status: answer.status, body: answer.body.toString() }, { status: 408, body: 'body too slow' });
      t.match(front.finished[0], {
        details: 'request_body_timeout',
        failure: {
          code: 'body_too_slow',
          message: 'the request body arrived more slowly than 240 bytes a second (limit slowBytesPerSecond)',
        },
      });
      body.end();

      takes = false;
      const paused = new PassThrough();
      const kept = askAs(version, front.port, { method: 'POST', body: paused }).catch(() => undefined);
      paused.write('a');
      await until(() => front.connections[1]?.speaker?.inFlight === 1, 'the next');
      await until(() => front.connections[1]?.socket.isPaused() || version === 'HTTP/2', 'it to be paused');
      pass(front, 60);
      t.equal(front.finished.length, 1, 'a client that we have paused does not have to send');
      front.connections[1]!.socket.destroy();
      paused.end();
      await kept;

      const stream = new PassThrough();
      takes = true;
      const grpc = askAs(version, front.port, {
        method: 'POST',
        headers: { 'content-type': 'application/grpc' },
        body: stream,
      }).catch(() => undefined);
      stream.write('a');
      await until(() => front.connections[2]?.speaker?.inFlight === 1, 'the stream');
      pass(front, 60);
      t.equal(front.finished.length, 2, 'a stream of messages does not have to send either');
      front.connections[2]!.socket.destroy();
      stream.end();
      await grpc;
    });
});

t.test('a client that waits for a 100 is not slow', async (t) => {
  let begun = 0;
  const front = await startFront(t, 'HTTP/1.1', (exchange) => {
    exchange.carrier = { ...nobodyCarries, requestData: () => ++begun > 0 };
  });
  const client = connect(front.port, '127.0.0.1');
  t.teardown(() => client.destroy());
  client.write('POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
  await until(() => front.connections[0]?.speaker?.inFlight === 1, 'it to begin');
  pass(front, 60);
  t.equal(front.finished.length, 0);
  client.write('a');
  await until(() => begun === 1, 'its first byte');
  pass(front, 6, 100);
  t.match(front.finished[0]?.failure, { code: 'body_too_slow' }, 'from its first byte on it may be slow');
});

t.test('a response that is read too slowly is cut', async (t) => {
  for (const version of versions)
    await t.test(version, async (t) => {
      const long = Buffer.alloc(16 * 1024 * 1024, 'x');
      const front = await startFront(t, version, (exchange) => {
        if (exchange.path === '/wait' || exchange.target === '/wait') return;
        if (exchange.target === '/whole') return answerOwn(exchange, 200, [], long);
        const reply = { status: 200, reason: '', fields: emptyFields, hopFields: undefined, declaredLength: undefined };
        exchange.carrier = { ...nobodyCarries, requestData: () => true };
        answerReply(exchange, { ...reply, framing: 'chunked' }, undefined);
        exchange.downstream.write(long);
      });
      for (const [index, target] of ['/chunks', '/whole'].entries()) {
        const client = await startSleeper(t, version, front.port, target);
        const { socket, speaker } = await until(() => front.connections[index], 'it to be connected');
        await until(() => socket.writableLength > 0 || waits(speaker), 'it to be held up');
        // With 240 bytes a second what waits here may take its time, and 16 MB have some 19 hours of it.
        pass(front, 3600);
        t.equal(client.destroyed, false, 'it has its time');
        let from = 4000;
        while (front.finished.length <= index || !socket.destroyed) {
          from = pass(front, 20_000, from);
          if (version === 'HTTP/2' && front.finished.length > index && !waits(speaker)) break;
          if (from > 200_000) break;
        }
        t.ok(from < 200_000, `cut after ${from} s`);
        if (target === '/chunks') t.match(front.finished[index]!.failure, { code: 'reply_too_slow' });
        client.destroy();
      }
      const idle = await startSleeper(t, version, front.port, '/wait');
      await until(() => front.connections[2]?.speaker?.inFlight === 1, 'the last');
      pass(front, 600);
      t.equal(front.connections[2]!.socket.destroyed, false, 'a client that waits for its response is not slow');
      idle.destroy();
    });
});

t.test('an HTTP/2 client that opens its windows and does not read its socket is cut', async (t) => {
  class Stuck extends FakeSocket {
    bytesWritten = 0;
    override _write(chunk: Buffer): void {
      this.bytesWritten += chunk.length;
    }
  }
  const socket = new Stuck();
  const rules = {
    limits: { ...limits, clientIdleMs: 1e9, streamStallMs: 1e9, slowBytesPerSecond: 240 },
  } as unknown as PortRules;
  const connection = new Connection(socket as unknown as Socket, { key: 'x', rules: new LiveCell(rules) });
  connection.speaker = new Http2Server(connection, {} as ServerPath);
  await until(() => socket.writableLength > 0, 'our settings to wait');
  const front = { port: 0, connections: [connection], finished: [] };
  pass(front, 4);
  t.equal(socket.destroyed, false, 'the grace');
  pass(front, 4, 4.5);
  t.equal(socket.destroyed, true);
});

const waits = (speaker: Connection['speaker']): boolean =>
  speaker instanceof Http2Server && [...speaker.http2.streams()].some(({ waitingBytes }) => waitingBytes > 0);

/** A client that asks and never reads. */
async function startSleeper(t: Owner, version: Version, port: number, path: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  t.teardown(() => socket.destroy());
  socket.pause();
  if (version === 'HTTP/1.1') socket.write(`GET ${path} HTTP/1.1\r\nHost: a.test\r\n\r\n`);
  else {
    const { connect: connectHttp2 } = await import('node:http2');
    const session = connectHttp2('http://a.test', {
      createConnection: () => socket,
      settings: { initialWindowSize: 1000 },
    });
    session.on('error', () => {});
    session
      .request({ ':path': path })
      .on('error', () => {})
      .pause();
  }
  return socket;
}

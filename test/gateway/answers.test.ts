// What a gateway answers: a backend's answer as the rule changes it, security headers, coded for those who take it; and
// its own refusals, in the form that their reader wants.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { brotliDecompressSync, constants, gunzipSync } from 'node:zlib';
import t from 'tap';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import { askAs, type Heard, type Question, type Version, versions } from '../fixtures/edge-client.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

type Answer = (ask: IncomingMessage, answer: ServerResponse) => void;

/** A backend that answers by path. */
async function startApp(t: Owner, answers: Readonly<Record<string, Answer>>): Promise<number> {
  const server = createServer((ask, answer) => {
    const known = answers[new URL(ask.url!, 'http://x').pathname];
    if (known === undefined) answer.writeHead(404).end('no such page in the app');
    else known(ask, answer);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

const text = JSON.stringify(
  Array.from({ length: 300 }, (_, id) => ({ id, name: `customer ${id}`, active: id % 3 === 0 })),
);
const long = Buffer.from(text.repeat(40));

const give =
  (body: string | Buffer, headers: Record<string, string> = {}, status = 200): Answer =>
  (_ask, answer) => {
    const length = headers['content-length'] === '' ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const { 'content-length': _, ...rest } = headers;
    answer.writeHead(status, { 'content-type': 'application/json', ...rest, ...length }).end(body);
  };

const documents = (rules: string): string => `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: g }
spec:
  gatewayClassName: x
  listeners:
  - { name: http, port: 80, protocol: HTTP }
  - { name: https, port: 443, protocol: HTTPS, hostname: a.test, tls: { certificateRefs: [{ name: edge }] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec:
  parentRefs: [{ name: g }]
  rules:
${rules.replace(/^(?=.)/gm, '  ')}`;

const world = await createAuthority('world.test');
const edge = await createCredential(world, 'spiffe://world.test/edge', { dns: ['a.test'], subject: 'CN=a.test' });

interface Running {
  readonly gateway: Gateway;
  ask(version: Version, question?: Question): Promise<Heard>;
  /** Over TLS. */
  askSecurely(version: Version, question?: Question): Promise<Heard>;
}

async function start(
  t: Owner,
  app: number,
  rules: string,
  yaml = '',
  more: Record<string, string> = {},
): Promise<Running> {
  const gateway = await startTestGateway(t, {
    listeners: ['default/g:80', 'default/g:443'],
    documents: documents(rules),
    files: { 'edge.pem': edge.chainPem, 'edge.key': edge.keyPem, ...more },
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app}"] } }
backends: { default/app:80: app }
certificates: { default/edge: { certificate: edge.pem, key: edge.key } }
${yaml}`,
  });
  return {
    gateway,
    ask: (version, question) => askAs(version, gateway.port('default/g:80'), question),
    askSecurely: (version, question) =>
      askAs(version, gateway.port('default/g:443'), { ...question, tls: { ca: world.bundlePem } }),
  };
}

const toApp = '- backendRefs: [{ name: app, port: 80 }]\n';

t.test('backend responses are changed as the rule says', async (t) => {
  const app = await startApp(t, {
    '/cors': give('{}', { 'access-control-allow-origin': '*', 'access-control-max-age': '7', vary: 'X-Own' }),
    '/hop': (_ask, answer) => {
      answer.writeHead(200, { connection: 'x-frame-options, x-mine', 'x-mine': '1', 'content-length': '2' }).end('ok');
    },
    '/own': give('{}', {
      'X-Frame-Options': 'SAMEORIGIN',
      server: 'Old/1.2',
      'x-powered-by': 'Hole 3',
      'x-other': 'stays',
    }),
    '/away': (_ask, answer) => answer.writeHead(302, { location: 'http://a.test:80/x', 'content-length': '0' }).end(),
  });
  const rules = `
- matches: [{ path: { value: /cors } }]
  filters: [{ type: CORS, cors: { allowOrigins: ["https://shop.test"] } }]
  backendRefs: [{ name: app, port: 80 }]
- filters:
  - type: ResponseHeaderModifier
    responseHeaderModifier: { set: [{ name: X-Set, value: a }], add: [{ name: X-Add, value: b }], remove: [X-Other, Referrer-Policy] }
  backendRefs: [{ name: app, port: 80, filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { add: [{ name: X-Of, value: backend }] } }] }]
`;
  const { ask, askSecurely } = await start(t, app, rules, 'securityHeaders: true\n');
  for (const version of versions)
    await t.test(version, async (t) => {
      const { headers } = await ask(version, { path: '/own' });
      t.match(headers, { 'x-set': 'a', 'x-add': 'b', 'x-of': 'backend', 'x-content-type-options': 'nosniff' });
      t.equal(headers['x-frame-options'], 'SAMEORIGIN', "the backend's own values stay");
      for (const name of ['x-other', 'referrer-policy', 'server', 'x-powered-by', 'strict-transport-security'])
        t.notOk(name in headers, name);
      const secure = await askSecurely(version, { path: '/own' });
      t.equal(secure.headers['strict-transport-security'], 'max-age=31536000; includeSubDomains');

      const cors = await ask(version, { path: '/cors', headers: { origin: 'https://shop.test' } });
      t.equal(cors.headers['access-control-allow-origin'], 'https://shop.test', "one value, which is the rule's");
      t.notOk('access-control-max-age' in cors.headers);
      t.equal(cors.headers['vary'], 'X-Own, Origin');
      const stranger = await ask(version, { path: '/cors', headers: { origin: 'https://else.test' } });
      t.notOk('access-control-allow-origin' in stranger.headers, "the backend's value allows nothing");

      const hop = await ask(version, { path: '/hop' });
      t.equal(hop.headers['x-frame-options'], 'DENY', 'a backend cannot declare our fields hop-by-hop');
      t.notOk('x-mine' in hop.headers);
      t.equal((await ask(version, { path: '/away' })).headers['location'], 'http://a.test:80/x');
    });
});

t.test('HTTP is redirected to HTTPS', async (t) => {
  const app = await startApp(t, {});
  const rules = '- filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }]\n';
  const { ask, gateway } = await start(t, app, rules, 'securityHeaders: true\n');
  for (const version of versions) {
    const { status, headers } = await ask(version, { path: '/a?b=c', host: 'a.test' });
    t.equal(status, 301);
    t.equal(headers['location'], 'https://a.test/a?b=c');
    t.equal(headers['x-content-type-options'], 'nosniff', 'our own responses have the fields as well');
    t.notOk('strict-transport-security' in headers, 'RFC 6797 section 7.2');
  }
  const [record] = await gateway.records(1);
  t.match(record, { route_name: 'httproute/default/r/rule/0', upstream_cluster: null, response_code: 301 });
});

t.test('refusals have the form that the client accepts', async (t) => {
  const app = await startApp(t, {});
  const rules = `
- matches: [{ path: { value: /there } }]
  backendRefs: [{ name: app, port: 80 }]
- matches: [{ path: { value: /broken } }]
  backendRefs: [{ name: nowhere, port: 80 }]
`;
  const page = '<h1>Not here</h1><p>{{request_id}}</p>';
  const { ask, gateway } = await start(
    t,
    app,
    rules,
    'decisionHeader: true\nerrorPages: .\ngatewayTopology: { numTrustedProxies: 1 }\n',
    { '404.html': page },
  );
  const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
  const cases: [string, string | undefined, string][] = [
    ['nothing', undefined, 'text/plain; charset=utf-8'],
    ['anything', '*/*', 'text/plain; charset=utf-8'],
    ['JSON', 'application/json', 'application/problem+json'],
    ['problems', 'application/problem+json, text/html;q=0.5', 'application/problem+json'],
    ['JSON, the first of equals', 'application/json, text/plain, */*', 'application/problem+json'],
    ['a browser', browser, 'text/html; charset=utf-8'],
    ['anything but HTML', 'text/html;q=0, */*', 'text/plain; charset=utf-8'],
    ['pictures', 'image/png', 'text/plain; charset=utf-8'],
    ['an invalid weight', 'text/html;q=x, application/json;q=0.1', 'application/problem+json'],
  ];
  for (const [name, accept, type] of cases)
    await t.test(name, async (t) => {
      for (const version of versions) {
        const answer = await ask(version, { path: '/missing', headers: accept === undefined ? {} : { accept } });
        t.equal(answer.status, 404);
        t.equal(answer.headers['content-type'], type);
        t.equal(answer.headers['vary'], 'Accept');
        t.equal(Number(answer.headers['content-length']), answer.body.length);
        if (type.startsWith('text/plain')) t.equal(answer.body.toString(), 'no route');
        else if (type.startsWith('application'))
          t.strictSame(JSON.parse(answer.body.toString()), {
            ...{ type: 'about:blank', title: 'Not Found', status: 404, detail: 'no route' },
            instance: answer.headers['x-sallyport-decision'],
          });
        else t.match(answer.body.toString(), /^<h1>Not here<\/h1><p>[0-9a-f-]{36}<\/p>$/);
      }
    });
  await t.test('a request ID that contains a script is escaped', async (t) => {
    const hostile = { accept: 'text/html', 'x-request-id': '<script>"&' };
    for (const version of versions) {
      const answer = await ask(version, { path: '/missing', headers: hostile });
      t.match(answer.body.toString(), '<p>&lt;script&gt;&quot;&amp;</p>');
    }
  });
  await t.test("a backend's own 404 is passed on", async (t) => {
    for (const version of versions) {
      const answer = await ask(version, { path: '/there', headers: { accept: browser } });
      t.equal(answer.body.toString(), 'no such page in the app');
    }
  });
  await t.test('a status without a configured page, and HEAD', async (t) => {
    const refused = await ask('HTTP/1.1', { path: '/broken', headers: { accept: browser } });
    t.match(refused, { status: 500, headers: { 'content-type': 'text/plain; charset=utf-8' } });
    t.notMatch(refused.body.toString(), /nowhere|Service|default/i, 'the page shows nothing of the backend');
    const head = await ask('HTTP/1.1', { method: 'HEAD', path: '/missing', headers: { accept: 'application/json' } });
    t.equal(head.body.length, 0);
    t.equal(head.headers['content-type'], 'application/problem+json');
  });
  await t.test('a refused gRPC call gets a gRPC status', async (t) => {
    const headers = { 'content-type': 'application/grpc', accept: 'text/html', te: 'trailers' };
    const answer = await ask('HTTP/2', { method: 'POST', path: '/missing', headers, body: '' });
    t.match(answer, { status: 200, headers: { 'content-type': 'application/grpc', 'grpc-status': '12' } });
  });
  t.ok((await gateway.records(1)).every(({ code }) => code !== 'internal'));
});

/** What can be read of what has not ended yet. */
const soFar: Readonly<Record<string, (body: Buffer) => Buffer>> = {
  gzip: (body) => gunzipSync(body, { finishFlush: constants.Z_SYNC_FLUSH }),
  br: (body) => brotliDecompressSync(body, { finishFlush: constants.BROTLI_OPERATION_FLUSH }),
};

const decode: Readonly<Record<string, (body: Buffer) => Buffer>> = { gzip: gunzipSync, br: brotliDecompressSync };

t.test('compression', async (t) => {
  const etag = { etag: '"v1"', 'accept-ranges': 'bytes' };
  const app = await startApp(t, {
    '/text': give(text, etag),
    '/long': give(long, etag),
    '/chunked': give(long, { 'content-length': '' }),
    '/short': give('{"a":1}'),
    '/png': give(text, { 'content-type': 'image/png' }),
    '/svg': give(text, { 'content-type': 'image/svg+xml' }),
    '/js': give(text, { 'content-type': 'text/javascript; charset=utf-8' }),
    '/grpc-web': give(text, { 'content-type': 'application/grpc-web+json' }),
    '/coded': give(text, { 'content-encoding': 'zstd' }),
    '/digest': give(text, { 'content-digest': 'sha-256=:x:' }),
    '/no-transform': give(text, { 'cache-control': 'public, No-Transform' }),
    '/range': give(text, { 'content-range': 'bytes 0-9/10' }, 206),
    '/teapot': give(text, {}, 418),
    '/missing': give(text, {}, 404),
    '/random': give(Buffer.from(crypto.getRandomValues(new Uint8Array(8000))), { 'content-type': 'text/plain' }),
    '/varied': give(text, { vary: 'Origin, Accept-Encoding' }),
    '/events': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'text/event-stream' }).end(text);
    },
    '/empty': (_ask, answer) => answer.writeHead(204).end(),
  });
  const { ask, gateway } = await start(t, app, toApp, 'compression: true\n');
  const both = 'gzip, deflate, br, zstd';
  const cases: {
    name: string;
    path?: string;
    accept?: string;
    method?: string;
    headers?: Record<string, string>;
    coding?: string;
    vary?: false;
  }[] = [
    { name: 'the smaller one of equals', accept: both, coding: 'br' },
    { name: 'the preferred coding', accept: 'br;q=0.5, gzip;q=0.6', coding: 'gzip' },
    { name: 'an old name', accept: 'x-gzip', coding: 'gzip' },
    { name: 'any', accept: '*', coding: 'br' },
    { name: 'any coding but one', accept: 'br;q=0, *', coding: 'gzip' },
    { name: 'a weight of 0', accept: 'gzip;q=0, br;q=0.000' },
    { name: 'an invalid weight counts as 0', accept: 'gzip;q=2' },
    { name: 'identity preferred', accept: 'identity, gzip;q=0.5' },
    { name: 'a coding that we do not support', accept: 'zstd, deflate' },
    { name: 'no Accept-Encoding' },
    { name: 'an empty Accept-Encoding', accept: '' },
    { name: 'long, with its length', path: '/long', accept: 'gzip', coding: 'gzip' },
    { name: 'long, in brotli', path: '/long', accept: 'br', coding: 'br' },
    { name: 'long, in chunks', path: '/chunked', accept: both, coding: 'br' },
    { name: 'an image that is text', path: '/svg', accept: both, coding: 'br' },
    { name: 'a script', path: '/js', accept: both, coding: 'br' },
    { name: 'a 404', path: '/missing', accept: both, coding: 'br' },
    { name: 'a body that cannot be made smaller', path: '/random', accept: both },
    { name: 'too short for compression', path: '/short', accept: both, vary: false },
    { name: 'an image', path: '/png', accept: both, vary: false },
    { name: 'gRPC-Web', path: '/grpc-web', accept: both, vary: false },
    { name: 'encoded already', path: '/coded', accept: both, vary: false },
    { name: 'under a digest', path: '/digest', accept: both, vary: false },
    { name: 'no-transform from the backend', path: '/no-transform', accept: both, vary: false },
    {
      name: 'no-transform from the client',
      accept: both,
      headers: { 'cache-control': 'no-transform' },
      vary: false,
    },
    { name: 'a partial response', path: '/range', accept: both, vary: false },
    { name: 'an unknown status', path: '/teapot', accept: both, vary: false },
    { name: 'events', path: '/events', accept: both, vary: false },
    { name: 'nothing', path: '/empty', accept: both, vary: false },
    { name: 'HEAD of a response that would be encoded', method: 'HEAD', path: '/long', accept: 'gzip', coding: 'gzip' },
    { name: 'HEAD of a response that would not', method: 'HEAD', path: '/png', accept: 'gzip', vary: false },
  ];
  for (const { name, path = '/text', accept, method = 'GET', headers = {}, coding, vary } of cases)
    await t.test(name, async (t) => {
      const wishes = { ...headers, ...(accept === undefined ? {} : { 'accept-encoding': accept }) };
      const plain = await ask('HTTP/1.1', { path, method });
      for (const version of versions) {
        const answer = await ask(version, { path, method, headers: wishes });
        t.equal(answer.cut, false);
        t.equal(answer.headers['content-encoding'], coding ?? plain.headers['content-encoding'], version);
        if (vary === false) t.equal(answer.headers['vary'], undefined);
        else t.match(answer.headers['vary'], /accept-encoding/i);
        if (coding === undefined) {
          t.ok(answer.body.equals(plain.body));
          t.equal(answer.headers['content-length'], plain.headers['content-length']);
          t.equal(answer.headers['etag'], plain.headers['etag']);
          continue;
        }
        if (method !== 'HEAD') t.ok(decode[coding]!(answer.body).equals(plain.body));
        t.ok(answer.body.length < plain.body.length || method === 'HEAD');
        t.notOk('accept-ranges' in answer.headers);
        if (plain.headers['etag'] !== undefined) t.equal(answer.headers['etag'], 'W/"v1"');
        if (method === 'HEAD') t.notOk('content-length' in answer.headers);
        else if (answer.headers['content-length'] !== undefined)
          t.equal(Number(answer.headers['content-length']), answer.body.length);
      }
    });
  await t.test('a Vary that already names Accept-Encoding is not extended', async (t) => {
    t.equal((await ask('HTTP/1.1', { path: '/varied' })).headers['vary'], 'Origin, Accept-Encoding');
  });
  await t.test('HTTP/1.0 clients get the body unencoded', async (t) => {
    const { exchangeBytes } = await import('../fixtures/mesh.ts');
    const heard = await exchangeBytes(
      gateway.port('default/g:80'),
      'GET /text HTTP/1.0\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n',
    );
    t.notMatch(heard, /content-encoding/i);
  });
  const records = await gateway.records(1);
  t.ok(
    records.some(({ bytes_sent: sent, path }) => path === '/long' && (sent as number) < long.length / 2),
    'bytes_sent counts encoded bytes',
  );
});

t.test('compression delays nothing and never completes a truncated response', async (t) => {
  const waiting: (() => void)[] = [];
  let written = 0;
  let closed = 0;
  const much = randomBytes(24 * 1024 * 1024);
  /** Something waits, and nothing has moved for a while. */
  const heldUp = (): (() => boolean) => {
    let before = '';
    let same = 0;
    return () => {
      const now = `${written} ${heldBytes()}`;
      same = heldBytes() > 0 && now === before ? same + 1 : 0;
      before = now;
      return same === 10;
    };
  };
  const app = await startApp(t, {
    '/slowly': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'application/x-ndjson+json' });
      answer.write('{"first":1}\n');
      waiting.push(() => answer.end('{"second":2}\n'));
    },
    '/cut': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'text/plain' });
      answer.write(text, () => waiting.push(() => answer.destroy()));
    },
    '/cut-short': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'text/plain', 'content-length': '1000000' });
      answer.write(text, () => answer.destroy());
    },
    '/much': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'text/plain' });
      const more = (): void => {
        while (written < much.length) {
          const piece = much.subarray(written, written + 32_768);
          written += piece.length;
          if (!answer.write(piece)) return void answer.once('drain', more);
        }
        answer.end();
      };
      more();
    },
    '/endless': (_ask, answer) => {
      answer.writeHead(200, { 'content-type': 'text/plain' });
      answer.on('close', () => closed++);
      const more = (): void => {
        while (!answer.destroyed) {
          const at = written % much.length;
          written += 32_768;
          if (!answer.write(much.subarray(at, at + 32_768))) return void answer.once('drain', more);
        }
      };
      more();
    },
  });
  const { ask, gateway } = await start(t, app, toApp, 'compression: true\nlimits: { streamIdle: 2s }\n');
  for (const version of versions)
    for (const coding of ['gzip', 'br'])
      await t.test(`${version}, ${coding}`, async (t) => {
        const headers = { 'accept-encoding': coding };
        const came: Buffer[] = [];
        const slow = ask(version, { path: '/slowly', headers, heard: (piece) => came.push(piece) });
        const readable = (): boolean => soFar[coding]!(Buffer.concat(came)).includes('{"first":1}');
        await until(() => waiting.length > 0 && readable(), 'the first line, before there is a second');
        waiting.pop()!();
        const whole = await slow;
        t.equal(decode[coding]!(whole.body).toString(), '{"first":1}\n{"second":2}\n');
        t.equal(whole.cut, false);

        let begun = 0;
        const broken = ask(version, { path: '/cut', headers, heard: () => begun++ });
        await until(() => begun > 0 && waiting.length > 0, 'its beginning');
        waiting.pop()!();
        const half = await broken;
        t.equal(half.cut, true, 'a truncated response does not look complete');
        t.throws(() => decode[coding]!(half.body), 'the decoder reports it as truncated');
        t.equal((await ask(version, { path: '/cut-short', headers })).cut, true);
      });
  await t.test('a client that does not read pauses the backend, and all ends when it leaves', async (t) => {
    const { connect } = await import('node:net');
    const client = connect(gateway.port('default/g:80'), '127.0.0.1');
    client.on('error', () => {});
    client.pause();
    client.write('GET /endless HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n');
    await until(heldUp(), 'the backend to be held up');
    t.ok(written < 16 * 1024 * 1024, `${written} bytes`);
    const held = heldBytes();
    t.ok(held > 0 && held < 1024 * 1024, `${held} bytes are held`);
    client.destroy();
    await until(() => closed === 1, 'the backend to be let go');
    await until(() => heldBytes() === 0, 'nothing of it to be held');
  });
  await t.test('a client that reads again gets the whole response', async (t) => {
    written = 0;
    const client = request({
      port: gateway.port('default/g:80'),
      path: '/much',
      headers: { host: 'a.test', 'accept-encoding': 'br' },
    });
    client.end();
    const [answer] = (await once(client, 'response')) as [IncomingMessage];
    await until(heldUp(), 'the backend to be held up');
    t.ok(written < much.length, `${written} of ${much.length} bytes`);
    const parts: Buffer[] = [];
    for await (const part of answer) parts.push(part as Buffer);
    t.ok(brotliDecompressSync(Buffer.concat(parts)).equals(much));
  });
  await t.test('a client that stays and does not read is cut', async (t) => {
    const { connect } = await import('node:net');
    const client = connect(gateway.port('default/g:80'), '127.0.0.1');
    t.teardown(() => client.destroy());
    client.on('error', () => {});
    client.pause();
    client.write('GET /endless HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding: br\r\nUser-Agent: asleep\r\n\r\n');
    await until(() => closed === 2, 'the limit');
    const record = await until(
      async () => (await gateway.records(1)).find(({ user_agent: agent }) => agent === 'asleep'),
      'its record',
    );
    t.match(record, { code: 'stream_idle', response_flags: 'SI', reason: /limit streamIdle/ });
  });
});

t.test('BackendTrafficPolicy.compression applies to its own rule', async (t) => {
  const app = await startApp(t, { '/text': give(text) });
  const policy = `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: { name: p }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  compression: [{ type: Gzip }]
`;
  const { ask, gateway } = await start(t, app, toApp);
  t.notOk(
    'content-encoding' in (await ask('HTTP/2', { path: '/text', headers: { 'accept-encoding': 'br' } })).headers,
    'off by default',
  );
  await gateway.write('policy.yaml', policy);
  const headers = { 'accept-encoding': 'br, gzip' };
  t.equal((await ask('HTTP/2', { path: '/text', headers })).headers['content-encoding'], 'gzip');
});

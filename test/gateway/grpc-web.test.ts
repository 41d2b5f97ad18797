// gRPC-Web at a gateway, on real sockets: grpc-web's own client and raw requests, in front of a gRPC app.

import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:http2';
import grpcWeb from 'grpc-web';
import t from 'tap';
import { framed } from '../../sidecar/protocol/grpc.ts';
import { ask } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startGrpcApp } from '../fixtures/grpc.ts';
import { documentOf, webGateway } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';
import { installXhr } from '../fixtures/xhr.ts';

installXhr();

const target = '{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls }';
const documents =
  webGateway +
  documentOf(
    'GRPCRoute',
    'calls',
    '{ parentRefs: [{ name: g }], rules: [{ matches: [{ method: { service: shop.Orders } }], backendRefs: [{ name: a, port: 80 }] }] }',
  ) +
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: GRPCWeb\nmetadata: { name: web, namespace: shop }\nspec: { targetRefs: [${target}] }\n` +
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: pages, namespace: shop }\nspec: { targetRefs: [${target}], cors: { allowOrigins: ["https://shop.test"], allowMethods: [POST], allowHeaders: [content-type, x-grpc-web] } }\n`;

const app = await startGrpcApp(t);
const gateway = await startTestGateway(t, {
  listeners: ['shop/g:80'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { shop/a:80: a }\n`,
  documents,
});
const port = gateway.port('shop/g:80');
const url = `http://127.0.0.1:${port}`;

const descriptor = (name: string, kind: string) =>
  new grpcWeb.MethodDescriptor<string, string>(
    `/shop.Orders/${name}`,
    kind,
    String as never,
    String as never,
    (text: string) => Buffer.from(text),
    (bytes: Uint8Array) => Buffer.from(bytes).toString(),
  );

for (const format of ['text', 'binary'])
  t.test(`the grpc-web client works, ${format}`, async (t) => {
    const client = new grpcWeb.GrpcWebClientBase({ format });
    const get = descriptor('Get', 'unary');
    t.equal(await client.unaryCall(`${url}/shop.Orders/Get`, 'hello', { 'x-asked': '-by-page' }, get), 'hello-by-page');
    t.equal(await client.unaryCall(`${url}/shop.Orders/Get`, 'x'.repeat(100_000), {}, get), 'x'.repeat(100_000));
    await t.rejects(client.unaryCall(`${url}/shop.Orders/Get`, 'fail', {}, get), {
      code: 9,
      message: 'not now: 100 %',
    });
    await t.rejects(client.unaryCall(`${url}/shop.Orders/None`, 'x', {}, descriptor('None', 'unary')), { code: 12 });
    if (format === 'binary') return;
    const list = descriptor('List', 'server_streaming');
    const stream = client.serverStreaming(`${url}/shop.Orders/List`, '3', {}, list);
    const parts: number[] = [];
    stream.on('data', (part) => parts.push(part.length));
    const code = await new Promise((resolve) => stream.on('status', (status) => resolve(status.code)));
    t.equal(code, 0);
    t.equal(parts.length, 3);
  });

t.test('each message reaches the client before the next is made', async (t) => {
  // Chat echoes each message at once and ends when its client does.
  for (const version of [1, 2]) {
    const headers = { 'content-type': 'application/grpc-web' };
    const session = version === 2 ? connect(url) : undefined;
    t.teardown(() => session?.destroy());
    const stream =
      session?.request({ ':method': 'POST', ':path': '/shop.Orders/Chat', ...headers }) ??
      request(`${url}/shop.Orders/Chat`, { method: 'POST', headers });
    stream.write(framed(Buffer.from('one')));
    const [answered] = (await once(stream, 'response')) as [NodeJS.ReadableStream];
    const body = session === undefined ? answered : (stream as unknown as NodeJS.ReadableStream);
    let read = '';
    body.on('data', (piece: Buffer) => {
      read += piece.toString('latin1');
    });
    await until(() => read.endsWith('echo one'), 'the first message');
    stream.write(framed(Buffer.from('two')));
    await until(() => read.endsWith('echo two'), 'the second message');
    stream.end();
    await once(body, 'end');
    t.match(read, /grpc-status: 0\r\n/);
  }
});

t.test('a cut call is cancelled at the app', async (t) => {
  const before = app.cancelled();
  const answer = await ask(port, '/shop.Orders/Get', {
    method: 'POST',
    headers: { 'content-type': 'application/grpc-web', 'transfer-encoding': 'chunked' },
    body: '\0\0\0\0\u0005he',
  });
  t.match(answer.text, /grpc-status: 3\r\n/);
  const refused = await until(
    async () => (await gateway.records(1)).find(({ code }) => code === 'grpc_web_malformed'),
    'the record',
  );
  t.match(refused, { path: '/shop.Orders/Get', response_code: 200 });
  t.ok(app.cancelled() >= before);
});

t.test('CORS answers preflights, and calls carry its fields', async (t) => {
  const origin = 'https://shop.test';
  const preflight = await ask(port, '/shop.Orders/Get', {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type,x-grpc-web',
    },
  });
  t.match(preflight, { status: 204, headers: { 'access-control-allow-origin': origin } });
  const answer = await ask(port, '/shop.Orders/Get', {
    method: 'POST',
    headers: { origin, 'content-type': 'application/grpc-web-text' },
    body: framed(Buffer.from('fail')).toString('base64'),
  });
  t.match(answer, { status: 200, headers: { 'access-control-allow-origin': origin } });
  t.match(Buffer.from(answer.text, 'base64').toString(), /grpc-status: 9\r\n/);
});

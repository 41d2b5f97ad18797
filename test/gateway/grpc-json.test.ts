// Transcoding at a gateway, on real sockets, in front of a gRPC server: both versions of HTTP, streams, refusals, and
// what a change of policy means for a call in flight.

import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:http2';
import { connect as dial } from 'node:net';
import { create, type DescMessage, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type sendUnaryData,
} from '@grpc/grpc-js';
import t from 'tap';
import { base64Of, registry } from '../fixtures/descriptor-set.ts';
import { ask } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, webGateway } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

/** A message, without types of its own. */
type Any = Record<string, unknown>;
const Order = registry.getMessage('shop.v1.Order')!;
const Query = registry.getMessage('shop.v1.Query')!;

const codec = (type: DescMessage) => ({
  read: (bytes: Buffer): Any => fromBinary(type, bytes) as unknown as Any,
  write: (value: Any): Buffer => Buffer.from(toBinary(type, create(type, value as never))),
});
const method = (name: string, input: DescMessage, responseStream = false) => ({
  ...{ path: `/shop.v1.Orders/${name}`, requestStream: false, responseStream },
  ...{ requestSerialize: codec(input).write, requestDeserialize: codec(input).read },
  ...{ responseSerialize: codec(Order).write, responseDeserialize: codec(Order).read },
});

const open: ServerWritableStream<Any, Any>[] = [];
const server = new Server();
server.addService(
  {
    Get: method('Get', Query),
    Create: method('Create', Order),
    List: method('List', Query, true),
  } as unknown as ServiceDefinition,
  {
    Get(call: ServerUnaryCall<Any, Any>, done: sendUnaryData<Any>) {
      if (call.request['id'] === 404n) return done({ code: 5, details: 'no order 404' });
      const metadata = new Metadata();
      metadata.set('x-asked', String(call.metadata.get('x-asked')));
      call.sendMetadata(metadata);
      done(null, { id: call.request['id'], sku: `n${String(call.request['name'])}` });
    },
    Create(call: ServerUnaryCall<Any, Any>, done: sendUnaryData<Any>) {
      done(null, call.request);
    },
    List(call: ServerWritableStream<Any, Any>) {
      open.push(call);
      call.sendMetadata(new Metadata());
      call.on('error', () => {});
    },
  },
);
const app = await new Promise<number>((resolve, reject) => {
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
    error === null ? resolve(port) : reject(error),
  );
});
t.teardown(() => server.forceShutdown());

const target = '{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }';
const transcoding = (name: string, route: string, options: string): string =>
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: GRPCJSONTranscoding\nmetadata: { name: ${name}, namespace: shop }\nspec:\n  targetRefs: [${target.replace('name: r', `name: ${route}`)}]\n  services: [shop.v1.Orders]\n  protoDescriptorBin: ${base64Of()}\n  printOptions: { ${options} }\n`;
const route = (name: string, host: string): string =>
  documentOf(
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: g }], hostnames: [${host}], rules: [{ matches: [{ path: { value: /v1 } }], backendRefs: [{ name: a, port: 80 }] }] }`,
  );
const gateway = await startTestGateway(t, {
  listeners: ['shop/g:80'],
  yaml: `securityHeaders: true\nupstreams: { a: { endpoints: ["127.0.0.1:${app}"], protocol: http2 } }\nbackends: { shop/a:80: a }\n`,
  documents: {
    'all.yaml':
      webGateway +
      route('r', 'json.test') +
      route('s', 'events.test') +
      transcoding('json', 'r', 'streamNewlineDelimited: true') +
      transcoding('events', 's', 'streamSseStyleDelimited: true'),
  },
});
const port = gateway.port('shop/g:80');
const host = 'json.test';

t.test('a call in JSON is transcoded', async (t) => {
  const answer = await ask(port, '/v1/orders/9007199254740993?name=x', { headers: { host, 'x-asked': 'me' } });
  t.match(answer, {
    status: 200,
    headers: { 'content-type': 'application/json', 'x-asked': 'me', 'x-content-type-options': 'nosniff' },
  });
  t.equal(answer.text, '{"id":"9007199254740993","sku":"nx"}');
  t.equal(Number(answer.headers['content-length']), answer.text.length);
  const [record] = await gateway.records(1);
  t.match(record, {
    ...{ method: 'GET', path: '/v1/orders/9007199254740993?name=x', response_code: 200 },
    grpc_method: '/shop.v1.Orders/Get',
  });
});

t.test('bodies arrive at once and in pieces, in HTTP/1.1 and HTTP/2', async (t) => {
  const body = JSON.stringify({ sku: 'x'.repeat(200_000) });
  const framings: Record<string, string>[] = [
    { 'content-length': String(body.length) },
    { 'transfer-encoding': 'chunked' },
  ];
  for (const framing of framings)
    t.equal(
      (
        await ask(port, '/v1/orders', {
          method: 'POST',
          headers: { host, 'content-type': 'application/json', ...framing },
          body,
        })
      ).text,
      body,
    );
  const session = connect(`http://127.0.0.1:${port}`);
  t.teardown(() => session.destroy());
  const stream = session.request({
    ...{ ':method': 'POST', ':path': '/v1/orders', ':authority': host, 'content-type': 'application/json' },
  });
  stream.write(body.slice(0, 10));
  stream.end(body.slice(10));
  let text = '';
  stream.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
  });
  await once(stream, 'end');
  t.equal(text, body);
});

t.test('HEAD is answered, and the connection stays open', async (t) => {
  const answer = await ask(port, '/v1/orders/5', { method: 'HEAD', headers: { host } });
  t.match(answer, { status: 200, text: '', headers: { 'content-length': '20' } });
  t.match(await ask(port, '/v1/orders/5', { headers: { host } }), { status: 200 });
});

t.test('no body follows the response to HEAD of a stream', async (t) => {
  const socket = dial(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  let read = '';
  socket.setEncoding('latin1').on('data', (piece: string) => {
    read += piece;
  });
  for (const host of ['json.test', 'events.test']) {
    read = '';
    socket.write(`HEAD /v1/orders HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
    const call = await until(() => open.shift(), 'the call');
    await until(() => call.cancelled, 'the cancellation');
    socket.write('GET /v1/orders/5 HTTP/1.1\r\nhost: json.test\r\n\r\n');
    await until(() => read.endsWith('}'), 'the second response');
    t.match(read, /^HTTP\/1\.1 200 OK\r\n(?:[^\r]+\r\n)+\r\nHTTP\/1\.1 200 OK\r\n(?:[^\r]+\r\n)+\r\n\{"id":"5"/);
  }
});

t.test('statuses and refusals are JSON', async (t) => {
  const none = await ask(port, '/v1/orders/404', { headers: { host } });
  t.match(none, { status: 404, text: '{"code":5,"message":"no order 404","details":[]}' });
  const unknown = await ask(port, '/v1/none', { headers: { host } });
  t.match(unknown, {
    status: 404,
    text: '{"code":5,"message":"no method of the services has this path","details":[]}',
  });
  const method = await ask(port, '/v1/orders/5/sku', { headers: { host } });
  t.match(method, { status: 501, text: /"code":12/ }, 'the server has no such method');
});

t.test('each event reaches the client before the next is made, in HTTP/1.1 and HTTP/2', async (t) => {
  for (const version of [1, 2]) {
    const session = version === 2 ? connect(`http://127.0.0.1:${port}`) : undefined;
    t.teardown(() => session?.destroy());
    const stream =
      session?.request({ ':path': '/v1/orders', ':authority': 'events.test' }) ??
      request({ port, host: '127.0.0.1', path: '/v1/orders', headers: { host: 'events.test' } }).end();
    const [answered] = (await once(stream, 'response')) as [NodeJS.ReadableStream];
    const body = session === undefined ? answered : (stream as unknown as NodeJS.ReadableStream);
    let read = '';
    body.on('data', (piece: Buffer) => {
      read += piece.toString();
    });
    const call = await until(() => open.shift(), 'the call');
    for (const sku of ['a', 'b', 'c']) {
      const before = read;
      call.write({ sku });
      await until(() => read.length > before.length, `event ${sku}`);
      t.equal(read.slice(before.length), `data: {"sku":"${sku}"}\n\n`);
    }
    call.emit('error', Object.assign(new Error('full'), { code: 8, details: 'full' }));
    await once(body, 'end');
    t.match(read, /event: error\ndata: \{"code":8,"message":"full","details":\[\]\}\n\n$/);
  }
});

t.test('the app learns that a client has left', async () => {
  const asked = request({ port, host: '127.0.0.1', path: '/v1/orders', headers: { host } }).end();
  await once(asked, 'response');
  const call = await until(() => open.shift(), 'the call');
  asked.destroy();
  await until(() => call.cancelled, 'the cancellation');
});

t.test('a call in flight is evaluated again as the client sent it', async (t) => {
  const asked = request({ port, host: '127.0.0.1', path: '/v1/orders', headers: { host } }).end();
  asked.on('error', () => {});
  const [answer] = (await once(asked, 'response')) as [NodeJS.ReadableStream];
  const call = await until(() => open.shift(), 'the call');
  const policy = (methods: string): string =>
    `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: p, namespace: shop }\nspec: { targetRefs: [${target}], authorization: { defaultAction: Deny, rules: [{ name: reads, action: Allow, operation: { methods: [${methods}] }, principal: { clientCIDRs: [127.0.0.0/8] } }] } }\n`;
  await gateway.write('policy.yaml', policy('GET'));
  let read = '';
  answer.on('data', (piece: Buffer) => {
    read += piece.toString();
  });
  call.write({ sku: 'still' });
  await until(() => read !== '', 'a message under the new policy');
  t.equal(read, '{"sku":"still"}\n');
  const ended = once(answer, 'close').catch(() => {});
  answer.on('error', () => {});
  await gateway.write('policy.yaml', policy('POST'));
  await ended;
  await until(() => call.cancelled, 'the cancellation');
});

// Under a RequestValidation the app gets what was compared, and nothing else: on a gateway and on a sidecar, over real
// sockets, whatever the framing, the coding and the protocol of a message.

import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startMesh } from '../fixtures/mesh.ts';
import { serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';

const schema = '{ type: object, required: [id], additionalProperties: false, properties: { id: { type: integer } } }';
const openapi = `{ openapi: 3.1.0, paths: { "/items/{id}": { parameters: [{ in: path, name: id, required: true, schema: { type: integer } }], post: { requestBody: { required: true, content: { application/json: { schema: ${schema} } } }, responses: { 200: { content: { application/json: { schema: { type: object } } } } } } } } }`;

interface Door {
  readonly port: number;
  readonly host: string;
  records(count: number): Promise<Record<string, unknown>[]>;
}

/** Everything up to the end of the connection. */
function sendRaw(port: number, bytes: string | Buffer): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    let text = '';
    socket.setEncoding('latin1').on('data', (piece) => {
      text += piece;
    });
    socket.on('end', () => resolve(text)).on('error', reject);
  });
}

async function attack(t: Test, { port, host, records }: Door): Promise<void> {
  const post = (body: string | Buffer, more: Record<string, string> = {}, path = '/items/1'): Promise<string> =>
    sendRaw(
      port,
      Buffer.concat([
        Buffer.from(
          `POST ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${Object.entries({
            'Content-Type': 'application/json',
            'Content-Length': String(Buffer.byteLength(body as string)),
            ...more,
          })
            .filter(([, value]) => value !== '')
            .map(([name, value]) => `${name}: ${value}\r\n`)
            .join('')}\r\n`,
        ),
        Buffer.from(body as string),
      ]),
    );
  const chunked = (body: string, trailers = '') =>
    post(`${[...body].map((one) => `1\r\n${one}\r\n`).join('')}0\r\n${trailers}\r\n`, {
      'Content-Length': '',
      'Transfer-Encoding': 'chunked',
    });
  t.match(await post('{"id":1}'), /^HTTP\/1\.1 200 /);
  t.match(await chunked('{"id":1}'), /^HTTP\/1\.1 200 /);
  t.match(await chunked('{"id":1}', 'X-Sum: 1\r\n'), /^HTTP\/1\.1 200 /);
  t.match(await post(gzipSync('{"id":1}'), { 'Content-Encoding': 'gzip' }), /^HTTP\/1\.1 200 /);
  const refused: readonly (readonly [code: string, answer: Promise<string>])[] = [
    ['request_invalid', post('{"id":"x"}')],
    ['request_invalid', chunked('{"id":1,"admin":true}')],
    ['request_invalid', chunked('', 'X-Sum: 1\r\n')],
    ['request_invalid', post('{"id":1}', {}, '/items/x')],
    ['json_duplicate_key', post('{"id":1,"id":2}')],
    ['json_duplicate_key', chunked('{"id":1,"\\u0069d":2}')],
    ['json_not_utf8', post(Buffer.from('{"id":"\xff"}', 'latin1'))],
    ['content_type_unsupported', post('id=1', { 'Content-Type': 'application/x-www-form-urlencoded' })],
    ['content_type_unsupported', post('{"id":1}', { 'Content-Type': 'application/json\r\nContent-Type: text/plain' })],
    [
      'content_encoding_unsupported',
      post(gzipSync('{"id":1}'), { 'Content-Encoding': 'gzip\r\nContent-Encoding: gzip' }),
    ],
    ['body_too_large', post(gzipSync(Buffer.alloc(20_000_000)), { 'Content-Encoding': 'gzip' })],
    ['operation_unknown', post('{"id":1}', {}, '/items%2F1')],
  ];
  for (const [code, answer] of refused) {
    const text = await answer;
    t.notMatch(text, /^HTTP\/1\.1 200 /, code);
    t.match(text, `"code":"${code}"`);
  }
  t.match(await post('x'.repeat(2 ** 20 + 1)), /^HTTP\/1\.1 413 /);
  const grpc = await post('\0\0\0\0\0', { 'Content-Type': 'application/grpc' });
  t.match(grpc, /grpc-status: 3/i);
  t.match(
    await sendRaw(
      port,
      `GET /items/1 HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n`,
    ),
    /^HTTP\/1\.1 501 /,
  );
  const all = await records(19);
  const passed = all.filter(({ upstream_host: app }) => app !== null);
  t.strictSame(
    passed.map(({ response_code: status }) => status),
    [200, 200, 200, 200],
    'the app received no other message',
  );
  t.match(
    all.find(({ code }) => code === 'json_duplicate_key'),
    { decision: 'deny', validation: 'json_duplicate_key' },
  );
}

t.test('a gateway refuses a message that it cannot read', async (t) => {
  const app = await startEcho(t, 'a');
  const document = `---\napiVersion: sallyport.dev/v1alpha1\nkind: RequestValidation\nmetadata: { name: v, namespace: shop }\nspec: { targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }, openapi: ${openapi} }\n`;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': webGateway + webRoute + serviceOf('a'), 'v.yaml': document },
  });
  await attack(t, { port: gateway.port('shop/g:80'), host: 'a.test', records: gateway.records });
  const metrics = await (await fetch(`http://127.0.0.1:${gateway.admin}/stats/prometheus`)).text();
  t.match(
    metrics,
    /sallyport_validations_total\{direction="request",mode="Enforce",outcome="valid",policy="[^"]+"\} 4/,
  );
  t.match(
    metrics,
    /sallyport_validations_total\{direction="response",mode="Report",outcome="valid",policy="[^"]+"\} 4/,
  );
  await gateway.write('v.yaml', document.replace('type: integer', 'type: integr'));
  const broken = await ask(gateway.port('shop/g:80'), '/items/1', { headers: { host: 'a.test' } });
  t.equal(broken.status, 500, 'an invalid document accepts no message');
});

t.test('a sidecar refuses it at its inbound port; outbound messages are not compared', async (t) => {
  const app = await startEcho(t, 'a');
  const mesh = await startMesh(t, {
    app,
    ordersYaml: `requestValidation: { openapi: ${openapi} }\n`,
    webYaml: 'requestValidation: { schema: false_ }\n'.replace('false_', '{ not: {} }'),
  });
  await attack(t, { port: mesh.outPort, host: 'orders', records: (count) => mesh.records('orders', count) });
});

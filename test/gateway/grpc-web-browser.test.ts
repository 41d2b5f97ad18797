// gRPC-Web from a page of another origin in a real browser: the preflight, the call, and its status from the last frame.

import { createServer } from 'node:http';
import t from 'tap';
import { framed } from '../../sidecar/protocol/grpc.ts';
import { chromium, startBrowser } from '../fixtures/chromium.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startGrpcApp } from '../fixtures/grpc.ts';
import { documentOf, webGateway } from '../fixtures/plan.ts';

const skip = chromium === undefined && 'there is no chromium';

t.test('a page of another origin makes calls', { skip }, async (t) => {
  const pages = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<title>shop</title>'));
  await new Promise<void>((resolve) => pages.listen(0, '127.0.0.1', resolve));
  t.teardown(() => pages.close());
  const origin = `http://127.0.0.1:${(pages.address() as { port: number }).port}`;
  const app = await startGrpcApp(t);
  const target = '{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls }';
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { shop/a:80: a }\n`,
    documents:
      webGateway +
      documentOf(
        'GRPCRoute',
        'calls',
        '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
      ) +
      `---\napiVersion: sallyport.dev/v1alpha1\nkind: GRPCWeb\nmetadata: { name: web, namespace: shop }\nspec: { targetRefs: [${target}] }\n` +
      `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: pages, namespace: shop }\nspec: { targetRefs: [${target}], cors: { allowOrigins: ["${origin}"], allowMethods: [POST], allowHeaders: [content-type, x-grpc-web] } }\n`,
  });
  const browser = await startBrowser(t);
  await browser.open(origin);
  const call = (text: string): Promise<unknown> =>
    browser.evaluate(
      `fetch('http://127.0.0.1:${gateway.port('shop/g:80')}/shop.Orders/Get', { method: 'POST', headers: { 'content-type': 'application/grpc-web-text', 'x-grpc-web': '1' }, body: '${framed(Buffer.from(text)).toString('base64')}' }).then((one) => one.text())`,
    );
  const read = async (text: string): Promise<string> =>
    (String(await call(text)).match(/[^=]+=*/g) ?? [])
      .map((part) => Buffer.from(part, 'base64').toString('latin1'))
      .join('');
  t.match(await read('hello'), /hello[\s\S]*grpc-status: 0\r\n/);
  t.match(await read('fail'), /grpc-status: 9\r\ngrpc-message: not%20now:%20100%20%25\r\n/);
  t.strictSame(browser.complaints, []);
});

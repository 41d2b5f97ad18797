// What a running gateway says of its documents, and that it goes on with the rest: what is not valid, what is
// withdrawn, a thousand routes.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, markedRule, routeOf, webGateway } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const yamlFor = (app: number, more = ''): string =>
  `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a, others/a:80: a }\n${more}`;

t.test('a thousand routes get a status', async (t) => {
  const app = await startEcho(t, 'a');
  const routes = Array.from({ length: 1000 }, (_, i) =>
    documentOf(
      'HTTPRoute',
      `r${i}`,
      `{ parentRefs: [{ name: g }], hostnames: [h${i % 100}.test], rules: [${markedRule(`{ path: { value: /p${i} } }`, `m${i}`)}] }`,
    ),
  );
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents: webGateway + routes.join(''),
  });
  const port = gateway.port('shop/g:80');
  for (const i of [0, 1, 99, 500, 999])
    t.equal((await ask(port, `/p${i}/x`, { headers: { host: `h${i % 100}.test` } })).echo.headers['x-mark'], `m${i}`);
  t.equal((await ask(port, '/p1', { headers: { host: 'h2.test' } })).status, 404);
});

t.test('a grant is added and removed while requests are served', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents: {
      'all.yaml': webGateway + routeOf('r', '{ backendRefs: [{ name: a, namespace: others, port: 80 }] }'),
      'grant.yaml': '# not yet',
    },
  });
  const grant = documentOf(
    'ReferenceGrant',
    'others/x',
    '{ from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }], to: [{ group: "", kind: Service }] }',
  );
  const status = async (): Promise<number> =>
    (await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a' } })).status;
  t.equal(await status(), 500);
  await gateway.write('grant.yaml', grant);
  await until(async () => (await status()) === 200, 'the grant');
  await gateway.write('grant.yaml', '# withdrawn');
  await until(async () => (await status()) === 500, 'its end');
});

t.test('an invalid document is reported, and the rest is served', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app, 'limits: { urlBytes: 1000 }\n'),
    documents:
      webGateway +
      routeOf('good', markedRule('{ path: { value: /good } }', 'good')) +
      routeOf('bad', markedRule('{ path: { value: bad } }', 'bad')),
  });
  t.equal((await ask(gateway.port('shop/g:80'), '/good', { headers: { host: 'a' } })).status, 200);
  t.equal((await ask(gateway.port('shop/g:80'), '/bad', { headers: { host: 'a' } })).status, 500);
  t.equal((await ask(gateway.port('shop/g:80'), '/badly', { headers: { host: 'a' } })).status, 404);
  const long = `/good/${'x'.repeat(1000)}`;
  t.match(await ask(gateway.port('shop/g:80'), long, { headers: { host: 'a' } }), {
    status: 414,
    text: 'url too long',
  });
  const status = (await (await fetch(`http://127.0.0.1:${gateway.admin}/gateway-status`)).json()) as {
    items: {
      metadata: { name: string };
      status: { parents?: { conditions: { reason: string; message: string }[] }[] };
    }[];
  };
  const bad = status.items.find(({ metadata }) => metadata.name === 'bad')?.status.parents?.[0]?.conditions[0];
  t.equal(bad?.reason, 'UnsupportedValue');
  t.match(
    bad?.message,
    /all\.yaml:15:\d+: spec\.rules\[0\]\.matches\[0\]\.path\.value: 'bad': a path must begin with '\/'/,
  );
});

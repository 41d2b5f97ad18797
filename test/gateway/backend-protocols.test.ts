// What is spoken to a backend: what gateway.yaml says, else the Service's `appProtocol`, else what its route is for.
// `--check` says which it is and by whose word, and where two of these do not fit.

import { createServer as createHttp2 } from 'node:http2';
import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { grpcClient, Metadata, startGrpcApp } from '../fixtures/grpc.ts';
import { documentOf, type Planned, planOf, webGateway, webRoute } from '../fixtures/plan.ts';
import type { Owner } from '../fixtures/process.ts';

const service = (appProtocol?: string): string =>
  `---\napiVersion: v1\nkind: Service\nmetadata: { name: a, namespace: shop }\nspec: { ports: [{ port: 80${appProtocol === undefined ? '' : `, appProtocol: ${appProtocol}`} }] }\n`;
const grpcRoute = documentOf(
  'GRPCRoute',
  'calls',
  '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
);
const yamlFor = (port: number, more = ''): string =>
  `upstreams: { a: { endpoints: ["127.0.0.1:${port}"]${more} } }\nbackends: { shop/a:80: a }\n`;

t.test('a GRPCRoute is enough to select HTTP/2', async (t) => {
  const app = await startGrpcApp(t);
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app.port),
    documents: webGateway + grpcRoute,
  });
  const client = grpcClient(t, gateway.port('shop/g:80'));
  const answer = await new Promise<Buffer>((resolve, reject) => {
    client['Get']!(Buffer.from('hello '), new Metadata(), (error: Error | null, value: Buffer) =>
      error === null ? resolve(value) : reject(error),
    );
  });
  t.match(answer.toString(), /^hello /);
});

/** An app that speaks HTTP/2 and nothing else. */
async function startHttp2Echo(t: Owner): Promise<number> {
  const server = createHttp2((_, answer) => answer.writeHead(200, { 'x-app': 'h2' }).end('{"app":"h2","headers":{}}'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return (server.address() as { port: number }).port;
}

t.test("a Service's appProtocol is enough, and gateway.yaml takes precedence", async (t) => {
  const http2 = await startHttp2Echo(t);
  const http1 = await startEcho(t, 'h1');
  const statusOf = async (app: number, appProtocol: string | undefined, more = ''): Promise<number> => {
    const gateway = await startTestGateway(t, {
      listeners: ['shop/g:80'],
      yaml: yamlFor(app, more),
      documents: webGateway + webRoute + service(appProtocol),
    });
    const { status } = await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a' } });
    return status;
  };
  t.strictSame(
    await Promise.all([
      statusOf(http2, 'kubernetes.io/h2c'),
      statusOf(http2, 'grpc'),
      statusOf(http1, 'kubernetes.io/ws'),
      statusOf(http1, undefined),
      statusOf(http1, 'kubernetes.io/h2c', ', protocol: http'),
      statusOf(http2, 'kubernetes.io/ws', ', protocol: http2'),
      // Never in the clear what is said to be TLS.
      statusOf(http1, 'https'),
      statusOf(http1, 'kubernetes.io/wss', ', protocol: http'),
    ]),
    [200, 200, 200, 200, 200, 200, 500, 500],
  );
});

const tls = documentOf(
  'BackendTLSPolicy',
  'p',
  '{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: a.test, wellKnownCACertificates: System } }',
);
const identity = ', identity: spiffe://demo.test/a';

const grpcWeb = documentOf(
  'GRPCWeb',
  'w',
  '{ targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }] }',
).replace('gateway.networking.k8s.io/v1', 'sallyport.dev/v1alpha1');

/** What is spoken, and what does not fit. */
const cases: Readonly<Record<string, [documents: string, yaml: string, spoken: RegExp, losses?: RegExp]>> = {
  'nothing configured': [webRoute, '', /Service shop\/a:80 \(upstream 'a'\): HTTP\/1\.1 without TLS$/],
  'a GRPCRoute': [grpcRoute, '', /HTTP\/2 without TLS, for GRPCRoute shop\/calls$/],
  h2c: [webRoute + service('kubernetes.io/h2c'), '', /HTTP\/2 without TLS, by its appProtocol kubernetes\.io\/h2c$/],
  ws: [webRoute + service('kubernetes.io/ws'), '', /HTTP\/1\.1 without TLS, by its appProtocol/],
  'wss with a policy': [webRoute + service('kubernetes.io/wss') + tls, '', /HTTP\/1\.1 over TLS, by its appProtocol/],
  'https with a policy': [webRoute + service('https') + tls, '', /HTTP\/2 or HTTP\/1\.1 over TLS$/],
  'a GRPCRoute with a policy': [grpcRoute + tls, '', /HTTP\/2 over TLS, for GRPCRoute/],
  'a peer': [webRoute + service('https'), identity, /HTTP\/2 or HTTP\/1\.1 over mutual TLS$/],
  'gateway.yaml': [webRoute, ', protocol: http2', /HTTP\/2 without TLS, by 'protocol' in gateway\.yaml$/],
  'gateway.yaml against a GRPCRoute': [
    grpcRoute,
    ', protocol: http',
    /HTTP\/1\.1 without TLS, by 'protocol' in gateway\.yaml$/,
    /Service shop\/a:80: HTTP\/1\.1 by 'protocol' in gateway\.yaml, and HTTP\/2 for GRPCRoute shop\/calls: the first holds/,
  ],
  'gateway.yaml against a Service': [
    webRoute + service('kubernetes.io/h2c'),
    ', protocol: http',
    /HTTP\/1\.1/,
    /HTTP\/2 by its appProtocol kubernetes\.io\/h2c: the first holds/,
  ],
  'a Service against a GRPCRoute': [
    grpcRoute + service('kubernetes.io/ws'),
    '',
    /HTTP\/1\.1 without TLS, by its appProtocol/,
    /HTTP\/1\.1 by its appProtocol kubernetes\.io\/ws, and HTTP\/2 for GRPCRoute shop\/calls: the first holds/,
  ],
  'a translation to gRPC': [
    webRoute + grpcWeb,
    '',
    /HTTP\/1\.1 without TLS$/,
    /^GRPCWeb shop\/w calls gRPC, which needs HTTP\/2, and Service shop\/a:80 is spoken to in HTTP\/1\.1: write/,
  ],
  'a translation to gRPC over h2c': [webRoute + grpcWeb + service('kubernetes.io/h2c'), '', /HTTP\/2 without TLS/],
  'no TLS where the protocol says TLS': [
    webRoute + service('https'),
    '',
    /not at all: its appProtocol https means TLS, but neither 'identity' nor a BackendTLSPolicy says which peer to expect$/,
  ],
  ...Object.fromEntries(
    ['HTTPS', 'TLS', 'tls', 'Https'].map((word) => [
      `${word} where there is no TLS`,
      [webRoute + service(word), '', new RegExp(`not at all: its appProtocol ${word} means TLS`)] as const,
    ]),
  ),
  'tls with a policy': [webRoute + service('tls') + tls, '', /HTTP\/2 or HTTP\/1\.1 over TLS$/],
  'a UDP port beside the TCP port': [
    webRoute +
      service('https').replace(
        '[{ port: 80',
        '[{ name: h3, port: 80, protocol: UDP }, { name: web, protocol: TCP, port: 80',
      ),
    '',
    /not at all: its appProtocol https means TLS/,
  ],
};

for (const [name, [documents, more, spoken, losses]] of Object.entries(cases))
  t.test(name, async (t) => {
    const { plan }: Planned = planOf(webGateway + documents, { yaml: yamlFor(1, more) });
    t.equal(plan.spoken.length, 1);
    t.match(plan.spoken[0], spoken);
    if (losses === undefined) t.strictSame(plan.losses, []);
    else t.match(plan.losses.join('\n'), losses);
  });

t.test('an HTTPRoute and a GRPCRoute to one upstream have separate connections', async (t) => {
  const on = documentOf(
    'HTTPRoute',
    'r',
    '{ parentRefs: [{ name: g }], hostnames: [a.test], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
  );
  const { plan } = planOf(webGateway + on + grpcRoute.replace('parentRefs', 'hostnames: [b.test], parentRefs'), {
    yaml: yamlFor(1),
  });
  t.strictSame(
    plan.pools.map(({ http2 }) => http2 === true),
    [true, false],
  );
});

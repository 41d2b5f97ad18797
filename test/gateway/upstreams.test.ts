// On to what is behind the gateway: retries and timeouts of a route, endpoints that fail and are left out, TLS to a
// server that is no peer, a DestinationRule, and what runs through both access logs.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';
import t from 'tap';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { allowAll, readRecords, startOne, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

const gatewayKind =
  'apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n';

const route = (name: string, more = '', backend = 'app'): string =>
  `apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: ${name} }\nspec: { parentRefs: [{ name: edge }], rules: [{ matches: [{ path: { value: /${name} } }], backendRefs: [{ name: ${backend}, port: 80 }]${more === '' ? '' : `, ${more}`} }] }\n`;

const traffic = (name: string, spec: string): string =>
  `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { name: ${name} }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }], ${spec} }\n`;

/** An app on a port of its own; `answer` speaks. */
async function startApp(t: Owner, answer: RequestListener): Promise<number> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as { port: number }).port;
}

const get = (gateway: Gateway, path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(`http://127.0.0.1:${gateway.port('default/edge:80')}${path}`, init);

t.test('the retries and timeouts of a route apply', async (t) => {
  const asked = new Map<string, number>();
  const held: ServerResponse[] = [];
  const port = await startApp(t, (request: IncomingMessage, response) => {
    const path = request.url!;
    const count = (asked.get(path) ?? 0) + 1;
    asked.set(path, count);
    if (path.startsWith('/slow') || path.startsWith('/each')) return void held.push(response);
    response.writeHead(count < 3 ? 503 : 200, { 'x-attempt': String(request.headers['x-envoy-attempt-count']) });
    response.end('said');
  });
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${port}"] } }\nbackends: { default/app:80: app }\n`,
    documents: [
      gatewayKind,
      route('retried', 'retry: { codes: [503], attempts: 3, backoff: 5ms }'),
      route('little', 'retry: { codes: [503], attempts: 1, backoff: 5ms }'),
      route('plain'),
      route('slow', 'timeouts: { request: 200ms }'),
      route(
        'each',
        'timeouts: { request: 10s, backendRequest: 100ms }, retry: { attempts: 1, codes: [504], backoff: 5ms }',
      ),
      route('policy'),
      traffic(
        'policy',
        'retry: { numRetries: 2, retryOn: { triggers: [retriable-status-codes], httpStatusCodes: [503] } }',
      ),
    ].join('\n---\n'),
  });
  const third = await get(gateway, '/retried');
  t.equal(third.status, 200);
  t.equal(third.headers.get('x-attempt'), '3');
  t.equal((await get(gateway, '/little')).status, 503, 'the last response is passed on when the tries are used up');
  t.equal(asked.get('/little'), 2);
  t.equal((await get(gateway, '/plain')).status, 503);
  t.equal(asked.get('/plain'), 1);
  t.equal((await get(gateway, '/policy')).status, 200, 'a BackendTrafficPolicy does the same');
  t.equal((await get(gateway, '/slow')).status, 504);
  t.equal((await get(gateway, '/each')).status, 504);
  t.equal(asked.get('/each'), 2, 'a try that takes too long is made once more');
  const records = await gateway.records(6);
  t.match(
    records.find(({ path }) => path === '/slow'),
    { response_code: 504, response_flags: 'UT', response_code_details: 'upstream_response_timeout' },
  );
  const attempts = ['/retried', '/little', '/plain'].map(
    (asked) => records.find(({ path }) => path === asked)?.['upstream_request_attempt_count'],
  );
  t.same(attempts, [3, 2, 1]);
  for (const response of held) response.destroy();
});

t.test('endpoints are balanced by request, and a failing one is left out', async (t) => {
  const counts = [0, 0, 0];
  const ports = await Promise.all(
    counts.map((_, i) =>
      startApp(t, (_request, response) => {
        counts[i]!++;
        response.writeHead(i === 2 ? 500 : 200).end(String(i));
      }),
    ),
  );
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `upstreams: { app: { endpoints: [${ports.map((port) => `"127.0.0.1:${port}"`).join(', ')}] } }\nbackends: { default/app:80: app }\n`,
    documents: [
      gatewayKind,
      route('all'),
      traffic('all', 'loadBalancer: { type: RoundRobin }'),
      route('sticky'),
      traffic(
        'sticky',
        'loadBalancer: { type: ConsistentHash, consistentHash: { type: Header, header: { name: x-user } } }',
      ),
      route('checked'),
      traffic(
        'checked',
        'loadBalancer: { type: RoundRobin }, healthCheck: { passive: { consecutive5XxErrors: 2, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 50 } }',
      ),
    ].join('\n---\n'),
  });
  for (let i = 0; i < 9; i++) await (await get(gateway, '/all')).text();
  t.same(counts, [3, 3, 3]);
  const seen = new Set<string>();
  for (let i = 0; i < 6; i++) seen.add(await (await get(gateway, '/sticky', { headers: { 'x-user': 'ann' } })).text());
  t.equal(seen.size, 1, 'one user, one endpoint');
  const statuses: number[] = [];
  for (let i = 0; i < 20; i++) statuses.push((await get(gateway, '/checked')).status);
  t.equal(statuses.filter((one) => one === 500).length, 2, 'after two errors the endpoint is left out');
  const upstreams = (await (await fetch(`http://127.0.0.1:${gateway.admin}/upstreams`)).json()) as object[];
  t.match(JSON.stringify(upstreams), /"ejected/);
});

t.test('BackendTLSPolicy: the server proves its name before any request is sent', async (t) => {
  const authority = await createAuthority('partner.test');
  const other = await createAuthority('partner.test');
  const credential = await createCredential(authority, 'spiffe://partner.test/ns/x/sa/y', {
    dns: ['pay.partner.test'],
  });
  const seen: string[] = [];
  const server = createTlsServer({ cert: credential.chainPem, key: credential.keyPem }, (request, response) => {
    seen.push(request.url!);
    response.end('paid');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as { port: number };
  const policy = (hostname: string): string =>
    `apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: pay }\nspec: { targetRefs: [{ group: "", kind: Service, name: app }], validation: { hostname: ${hostname}, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } }\n`;
  const authorities = (pem: string): string =>
    JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca' }, data: { 'ca.crt': pem } });
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    // Not on loopback by its name: without a policy nothing would be sent at all.
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${port}"] }, far: { endpoints: ["far.partner.test:443"] } }\nbackends: { default/app:80: app, default/far:80: far }\n`,
    documents: {
      'routes.yaml': [gatewayKind, route('pay'), route('far', '', 'far')].join('\n---\n'),
      'tls.yaml': `${policy('pay.partner.test')}---\n${authorities(authority.bundlePem)}\n`,
    },
  });
  const good = await get(gateway, '/pay');
  t.equal(good.status, 200, await good.text());
  t.equal((await get(gateway, '/far')).status, 500, 'neither an identity nor a policy: no plaintext');
  await gateway.write('tls.yaml', `${policy('other.partner.test')}---\n${authorities(authority.bundlePem)}\n`);
  t.equal((await get(gateway, '/pay')).status, 503, 'another name');
  await gateway.write('tls.yaml', `${policy('pay.partner.test')}---\n${authorities(other.bundlePem)}\n`);
  t.equal((await get(gateway, '/pay')).status, 503, 'another CA');
  await gateway.write('tls.yaml', policy('pay.partner.test'));
  t.equal((await get(gateway, '/pay')).status, 500, 'no CA at all');
  t.same(seen, ['/pay']);
});

t.test('into the mesh: one request ID, one trace, two records; a DestinationRule applies', async (t) => {
  const held: ServerResponse[] = [];
  const seen: IncomingMessage['headers'][] = [];
  const app = await startApp(t, (request, response) => {
    seen.push(request.headers);
    if (request.url === '/orders/held') held.push(response);
    else response.end('ok');
  });
  const inPort = await freePort();
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `upstreams: { orders: { endpoints: ["127.0.0.1:${inPort}"], identity: spiffe://demo.test/ns/shop/sa/orders } }\nbackends: { default/orders:80: orders }\n`,
    documents: [
      gatewayKind,
      route('orders', '', 'orders'),
      'apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: orders }\nspec: { host: orders.default.svc.cluster.local, trafficPolicy: { connectionPool: { http: { http2MaxRequests: 1 } } } }\n',
    ].join('\n---\n'),
  });
  const { dir, authority } = gateway;
  writeCredential(dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'all.yaml'), allowAll);
  writeFileSync(
    join(dir, 'orders.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: orders }\nidentity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }\naccessLog: orders.log\ninbound: [{ port: ${inPort}, app: "127.0.0.1:${app}" }]\npolicies: policies/\n`,
  );
  await startOne(t, join(dir, 'orders.yaml'));
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const answer = await get(gateway, '/orders/1', {
    headers: { traceparent, tracestate: 'a=b', 'x-request-id': 'mine' },
  });
  t.equal(answer.status, 200, await answer.text());
  t.match(seen[0], { traceparent, tracestate: 'a=b' });
  const [edge] = await gateway.records(1);
  const [mesh] = await until(() => readRecords(join(dir, 'orders.log'), 1), 'the record of orders');
  t.equal(edge?.['request_id'], mesh?.['request_id']);
  t.not(edge?.['request_id'], 'mine');
  t.equal(seen[0]?.['x-request-id'], edge?.['request_id']);
  t.match(edge, {
    route_name: /^httproute\/default\/orders\/rule\/0/,
    upstream_cluster: 'outbound|80||orders.default.svc.cluster.local',
    client_ip: '127.0.0.1',
  });
  t.match(mesh, { peer_id: 'spiffe://demo.test/ns/edge/sa/gateway' });

  const first = get(gateway, '/orders/held');
  await until(() => held.length === 1, 'the request that holds the only place');
  const second = await get(gateway, '/orders/2');
  t.equal(second.status, 503, 'one request at a time, as the DestinationRule says');
  held[0]!.end('late');
  t.equal((await first).status, 200);
  t.match(
    (await gateway.records(3)).find(({ path }) => path === '/orders/2'),
    { response_flags: 'UO' },
  );
});

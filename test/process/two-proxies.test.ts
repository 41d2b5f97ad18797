// Two proxies in one process, with settings of their own: limits, counters, tables, caches and metrics of one are not
// the other's. What they share is the process's memory and its clock: see ARCHITECTURE.md.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import t from 'tap';
import { askAs } from '../fixtures/edge-client.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { documentOf, serviceOf, webGateway } from '../fixtures/plan.ts';
import { type Owner, until } from '../fixtures/process.ts';

/** An app that says its name, and answers `/slow` when it is told to. */
async function startNamed(t: Owner, name: string): Promise<{ readonly port: number; readonly slow: ServerResponse[] }> {
  const slow: ServerResponse[] = [];
  const server = createServer((asked: IncomingMessage, answer) => {
    if (asked.url === '/slow') slow.push(answer);
    else answer.writeHead(200, { 'cache-control': 'max-age=60', 'content-length': name.length }).end(name);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, slow };
}

const routeOf = (name: string, path: string): string =>
  documentOf(
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: ${path} } }], backendRefs: [{ name: a, port: 80 }] }] }`,
  );

const policyOf = (api: string, kind: string, route: string, spec: string): string =>
  `---\napiVersion: ${api}\nkind: ${kind}\nmetadata: { name: ${route}, namespace: shop }\n` +
  `spec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${route} }], ${spec} }\n`;

const trafficOf = (route: string, spec: string): string =>
  policyOf('gateway.envoyproxy.io/v1alpha1', 'BackendTrafficPolicy', route, spec);

/** Gateways that differ in nothing but their backend and their numbers. */
function startNumbered(t: Owner, app: number, requests: number, inFlight: number): Promise<Gateway> {
  return startTestGateway(t, {
    documents: [
      ...[webGateway, serviceOf('a'), routeOf('r', '/'), routeOf('slow', '/slow')],
      trafficOf('r', `rateLimit: { local: { rules: [{ limit: { requests: ${requests}, unit: Hour } }] } }`),
      trafficOf('slow', `concurrency: { maxInFlight: ${inFlight} }`),
      policyOf('sallyport.dev/v1alpha1', 'HTTPCache', 'r', 'maxEntry: 1Ki'),
    ].join(''),
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
  });
}

/** The samples of some metrics that are not zero, each as `name{labels} value`. */
async function samplesOf(admin: number, names: RegExp): Promise<string[]> {
  const text = await (await fetch(`http://127.0.0.1:${admin}/stats/prometheus`)).text();
  return text.split('\n').filter((line) => names.test(line) && !line.endsWith(' 0'));
}

t.test('two gateways with the same names in their documents', async (t) => {
  const apps = [await startNamed(t, 'first'), await startNamed(t, 'second')] as const;
  const few = await startNumbered(t, apps[0].port, 2, 1);
  const many = await startNumbered(t, apps[1].port, 100, 2);
  const ask = (gateway: Gateway, path: string) => askAs('HTTP/1.1', gateway.port('shop/g:80'), { path });
  const said = async (gateway: Gateway): Promise<string> => {
    const { status, headers, body } = await ask(gateway, '/');
    return `${status} ${body} ${headers['ratelimit-remaining']} of ${headers['ratelimit-limit']}`;
  };

  await t.test('limits and caches', async (t) => {
    t.equal(await said(few), '200 first 1 of 2');
    t.equal(await said(few), '200 first 0 of 2');
    t.match(await said(few), /^429 /);
    t.equal(await said(many), '200 second 99 of 100', 'neither the count nor the response of the other');
    const outcomes = async (gateway: Gateway, count: number) =>
      (await gateway.records(count)).map((record) => record['cache'] ?? record['code']);
    t.strictSame(await outcomes(few, 3), ['miss', 'hit', 'rate_limited']);
    t.strictSame(await outcomes(many, 1), ['miss']);
  });

  await t.test('requests in flight', async (t) => {
    const begun = [ask(few, '/slow')];
    await until(() => apps[0].slow.length === 1, 'the request at the first app');
    t.equal((await ask(few, '/slow')).status, 429);
    begun.push(ask(many, '/slow'), ask(many, '/slow'));
    await until(() => apps[1].slow.length === 2, 'the requests at the second app');
    t.equal((await ask(many, '/slow')).status, 429);
    for (const answer of apps.flatMap(({ slow }) => slow)) answer.end('done');
    t.strictSame(
      (await Promise.all(begun)).map(({ status }) => status),
      [200, 200, 200],
    );
  });

  await t.test('metrics', async (t) => {
    const counted = (gateway: Gateway) =>
      samplesOf(gateway.admin, /^sallyport_(?:rate_limit_decisions|cache_requests)_total\{/);
    t.strictSame((await counted(few)).toSorted(), [
      'sallyport_cache_requests_total{outcome="hit"} 1',
      'sallyport_cache_requests_total{outcome="miss"} 1',
      'sallyport_rate_limit_decisions_total{outcome="allowed"} 2',
      'sallyport_rate_limit_decisions_total{outcome="limited"} 1',
    ]);
    t.strictSame((await counted(many)).toSorted(), [
      'sallyport_cache_requests_total{outcome="miss"} 1',
      'sallyport_rate_limit_decisions_total{outcome="allowed"} 1',
    ]);
  });
});

const refusesAll = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: closed, namespace: shop }
spec: { action: DENY, rules: [{}] }
`;

t.test('two pairs of sidecars, with the same peers', async (t) => {
  const app = await startBackend(t, (socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const closed = await startMesh(t, { app: app.port, policy: refusesAll, limits: '{ connections: 1 }' });
  const open = await startMesh(t, { app: app.port, limits: '{ connections: 2 }' });
  const get = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';

  await t.test('policies, denials and metrics', async (t) => {
    t.match(await exchangeBytes(closed.outPort, get), /^HTTP\/1\.1 403 /);
    t.match(await exchangeBytes(open.outPort, get), /^HTTP\/1\.1 200 /);
    const [refused, allowed] = await Promise.all([closed.records('orders', 1), open.records('orders', 1)]);
    t.match([refused, allowed], [[{ decision: 'deny' }], [{ decision: 'allow' }]]);
    const counts = (admin: number) => samplesOf(admin, /^istio_requests_total\{/);
    for (const [mesh, code, other] of [
      [closed, 403, 200],
      [open, 200, 403],
    ] as const)
      for (const admin of [mesh.inAdmin, mesh.outAdmin]) {
        const samples = await counts(admin);
        t.equal(samples.length, 1);
        t.match(samples[0], new RegExp(`response_code="${code}".* 1$`));
        t.notMatch(samples[0], `response_code="${other}"`);
      }
    const denials = async (admin: number) => (await fetch(`http://127.0.0.1:${admin}/denials`)).text();
    t.match(await denials(closed.inAdmin), /policy_denied/);
    t.notMatch(await denials(open.inAdmin), /policy_denied/);
  });

  await t.test('connections', async (t) => {
    const sockets: Socket[] = [];
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
    });
    /** True if the connection is still there once the proxy has seen what was sent on it. */
    const stays = async (port: number): Promise<boolean> => {
      const socket = connect(port, '127.0.0.1');
      sockets.push(socket);
      let text = '';
      let over = false;
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
      });
      socket
        .on('error', () => {})
        .on('close', () => {
          over = true;
        });
      socket.write(get.replace('Connection: close\r\n', ''));
      await until(() => over || text !== '', 'a response or an end');
      return text !== '';
    };
    t.equal(await stays(closed.outPort), true);
    t.equal(await stays(closed.outPort), false, 'its limit');
    t.equal(await stays(open.outPort), true);
    t.equal(await stays(open.outPort), true, 'the limit and the count of the other');
    t.equal(await stays(open.outPort), false);
    const refusals = (admin: number) => samplesOf(admin, /^sallyport_connections_refused_total\b/);
    t.match(await refusals(closed.outAdmin), [/ 1$/]);
    t.match(await refusals(open.outAdmin), [/ 1$/]);
  });
});

// The record: one line for each exchange, whatever its outcome, with Istio's keys in Istio's order, then ours.

import { type AddressInfo, connect } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import t from 'tap';
import { traceIdOf } from '../../sidecar/access-log.ts';
import { askAs } from '../fixtures/edge-client.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

/** conventions.md section 5, in order. */
const keys = [
  ...['start_time', 'route_name', 'method', 'path', 'protocol', 'response_code', 'response_flags'],
  ...['response_code_details', 'connection_termination_details', 'bytes_received', 'bytes_sent', 'duration'],
  ...['upstream_service_time', 'x_forwarded_for', 'user_agent', 'request_id', 'trace_id', 'authority', 'upstream_host'],
  ...['upstream_cluster', 'upstream_local_address', 'downstream_local_address', 'downstream_remote_address'],
  ...['requested_server_name', 'upstream_transport_failure_reason'],
  ...[
    'decision',
    'decision_id',
    'policy',
    'shadow_policy',
    'shadow_decision',
    'audit_policy',
    'request_auth_principal',
    'upstream_request_attempt_count',
    'peer_id',
    'peer_serial',
    'tls_group',
    'tls_version',
    'tls_cipher',
  ],
  ...['tls_resumed'],
];

const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: reads, namespace: shop }
spec: { action: ALLOW, rules: [{ to: [{ operation: { methods: [GET] } }] }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: shop }
spec: { action: DENY, rules: [{ to: [{ operation: { paths: ["/admin*"] } }] }] }
`;

const trace = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

t.test('the trace ID of a valid traceparent', async (t) => {
  const id = '4bf92f3577b34da6a3ce929d0e0e4736';
  const rows: [field: string | undefined, id: string | undefined][] = [
    [trace, id],
    [`${trace.replace(/^00/, 'cc')}-later`, id],
    [trace.replace(/^00/, 'cc'), id],
    [`${trace}-later`, undefined],
    [trace.replace(/^00/, 'ff'), undefined],
    [trace.toUpperCase(), undefined],
    [trace.replace(id, '0'.repeat(32)), undefined],
    [trace.replace('00f067aa0ba902b7', '0'.repeat(16)), undefined],
    [trace.slice(1), undefined],
    [`${trace}"`, undefined],
    [`${trace}\n`, undefined],
    ['', undefined],
    [undefined, undefined],
  ];
  for (const [field, expected] of rows) t.equal(traceIdOf(field), expected, field ?? 'none');
});

t.test('both sides write records', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.includes('/slow')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf');
    else socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port, policy });
  const ask = (line: string, fields = ''): Promise<string> =>
    exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n`);
  let web = 0;
  let orders = 0;

  await t.test('an allowed request', async (t) => {
    await ask(
      'GET /a?b=c',
      `User-Agent: test/1 "quoted" \\ \u00e4\r\nX-Forwarded-For: 10.1.2.3\r\nX-Request-Id: given\r\ntraceparent: ${trace}\r\n`,
    );
    const seen = (await mesh.records('orders', ++orders)).at(-1)!;
    t.same(Object.keys(seen), keys);
    t.match(seen, {
      start_time: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/,
      method: 'GET',
      path: '/a?b=c',
      protocol: 'HTTP/2',
      response_code: 200,
      response_flags: '-',
      response_code_details: 'via_upstream',
      connection_termination_details: null,
      bytes_received: 0,
      bytes_sent: 2,
      x_forwarded_for: '10.1.2.3',
      request_id: 'given',
      trace_id: '4bf92f3577b34da6a3ce929d0e0e4736',
      authority: 'orders',
      upstream_host: `127.0.0.1:${backend.port}`,
      upstream_cluster: 'inbound|8080||',
      upstream_local_address: /^127\.0\.0\.1:\d+$/,
      upstream_transport_failure_reason: null,
      upstream_request_attempt_count: 1,
      decision: 'allow',
      decision_id: /^[0-9a-f]{8}-1-\d+-1$/,
      policy: 'ns[shop]-policy[reads]-rule[0]',
      shadow_policy: null,
      peer_id: 'spiffe://demo.test/ns/shop/sa/web',
      peer_serial: /^[0-9a-f]{32}$/,
      tls_version: 'TLSv1.3',
      tls_group: null,
      tls_resumed: false,
    });
    t.equal(seen['user_agent'], 'test/1 "quoted" \\ \u00c3\u00a4', 'hostile bytes are escaped, one character a byte');
    const sent = (await mesh.records('web', ++web)).at(-1)!;
    t.same(Object.keys(sent), keys);
    t.match(sent, {
      request_id: 'given',
      trace_id: '4bf92f3577b34da6a3ce929d0e0e4736',
      decision: 'allow',
      upstream_host: `127.0.0.1:${mesh.inPort}`,
      peer_id: 'spiffe://demo.test/ns/shop/sa/orders',
      tls_version: 'TLSv1.3',
      tls_cipher: 'TLS_AES_128_GCM_SHA256',
      tls_group: 'X25519MLKEM768',
    });
  });

  await t.test('a request that no rule allows, and one that a rule denies', async (t) => {
    await ask('DELETE /a');
    web++;
    t.match((await mesh.records('orders', ++orders)).at(-1), {
      response_code: 403,
      response_flags: '-',
      response_code_details: 'rbac_access_denied_matched_policy[none]',
      decision: 'deny',
      policy: 'none',
      upstream_host: null,
      code: 'policy_denied',
      reason: 'DELETE /a from spiffe://demo.test/ns/shop/sa/web: no ALLOW policy admits it',
    });
    await ask('GET /public/../admin');
    web++;
    t.match((await mesh.records('orders', ++orders)).at(-1), {
      path: '/admin',
      response_code_details: 'rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]',
      policy: 'ns[shop]-policy[no-admin]-rule[0]',
      reason: /ns\[shop\]-policy\[no-admin\]-rule\[0\] denies it$/,
    });
  });

  await t.test('a request ID that would end its string, on a request that is refused before evaluation', async (t) => {
    const hostile = 'a","decision":"allow","x":"';
    const head = `GET / HTTP/1.1\r\nHost: or ders\r\nX-Request-Id: ${hostile}\r\n\r\n`;
    await exchangeBytes(mesh.outPort, head, /bad request$/);
    t.match((await mesh.records('web', ++web)).at(-1), { request_id: hostile, code: 'host_invalid', decision: '-' });
  });

  await t.test('an unreadable request', async (t) => {
    await exchangeBytes(mesh.outPort, 'get / HTTP/1.1\r\nHost: orders\r\n\r\n');
    const seen = (await mesh.records('web', ++web)).at(-1)!;
    t.match(seen, { response_code: 400, response_flags: 'DPE', code: 'method_invalid', method: null, path: null });
    t.notMatch(JSON.stringify(seen), /"allow"/);
  });

  await t.test('a request to an unknown host', async (t) => {
    await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n');
    t.match((await mesh.records('web', ++web)).at(-1), {
      response_code: 404,
      response_flags: 'NR',
      response_code_details: 'route_not_found',
      authority: 'nowhere',
      decision: '-',
    });
  });

  await t.test('a client that leaves in the middle', async (t) => {
    const client = connect(mesh.outPort, '127.0.0.1', () => client.write('GET /slow HTTP/1.1\r\nHost: orders\r\n\r\n'));
    await new Promise((resolve) => client.once('data', resolve));
    client.destroy();
    t.match((await mesh.records('web', ++web)).at(-1), {
      response_code: 200,
      response_flags: 'DC',
      bytes_sent: 4,
      response_code_details: 'downstream_remote_disconnect',
    });
    t.match((await mesh.records('orders', ++orders)).at(-1), { response_flags: 'DC', decision: 'allow' });
  });

  await t.test('every decision has its own ID', async (t) => {
    const all = await until(
      async () => [...(await mesh.records('web', web)), ...(await mesh.records('orders', orders))],
      'all',
    );
    const ids = all.map((one) => one['decision_id']);
    t.equal(new Set(ids).size, ids.length);
  });
});

t.test('a gateway writes records and metrics', async (t) => {
  const authority = await createAuthority('demo.test');
  const world = await createAuthority('world.test');
  const orders = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders');
  const edge = await createCredential(world, 'spiffe://world.test/edge', { dns: ['a.test'], subject: 'CN=a.test' });
  const ann = await createCredential(world, 'spiffe://world.test/ann', {
    uris: [],
    subject: 'CN=Änn Lee, O=World',
  });
  const peer = createTlsServer(
    {
      ...{ key: orders.keyPem, cert: orders.chainPem, ca: authority.bundlePem },
      ...{ requestCert: true, minVersion: 'TLSv1.3', ALPNProtocols: ['http/1.1'] },
    },
    (socket) => {
      socket.on('error', () => {});
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
    },
  );
  await new Promise<void>((resolve) => peer.listen(0, '127.0.0.1', resolve));
  t.teardown(() => peer.close());
  const gateway = await startTestGateway(t, {
    authority,
    listeners: ['shop/g:80', 'shop/g:443'],
    files: { 'edge.pem': edge.chainPem, 'edge.key': edge.keyPem },
    yaml: `upstreams:
  orders: { endpoints: ["127.0.0.1:${(peer.address() as AddressInfo).port}"], identity: spiffe://demo.test/ns/shop/sa/orders }
backends: { shop/orders:80: orders }
certificates: { shop/edge: { certificate: edge.pem, key: edge.key } }
`,
    documents: `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: g, namespace: shop }
spec:
  gatewayClassName: x
  listeners:
  - { name: http, port: 80, protocol: HTTP }
  - { name: https, port: 443, protocol: HTTPS, hostname: a.test, tls: { certificateRefs: [{ name: edge }] } }
  tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: clients }] } } } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: clients, namespace: shop }
data:
  ca.crt: |
${world.bundlePem.replace(/^(?=.)/gm, '    ')}
---
apiVersion: v1
kind: Secret
metadata: { name: keys, namespace: shop }
stringData: { mobile: "0123456789abcdef0123456789abcdef" }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: keyed, namespace: shop }
spec:
  parentRefs: [{ name: g }]
  rules: [{ matches: [{ path: { value: /keyed } }], backendRefs: [{ name: orders, port: 80 }] }]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: keyed, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: keyed }]
  apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ params: [key] }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [{ name: g }]
  rules: [{ backendRefs: [{ name: orders, port: 80 }] }]
`,
  });
  const [plain, secure] = [gateway.port('shop/g:80'), gateway.port('shop/g:443')];
  let count = 0;
  const last = async (): Promise<Record<string, unknown>> => (await gateway.records(++count)).at(-1)!;
  const gatewayKeys = [...keys, 'client_ip', 'client_id', 'auth_method'];

  await t.test('a client with a certificate', async (t) => {
    const tls = { ca: world.bundlePem, cert: ann.chainPem, key: ann.keyPem };
    t.equal((await askAs('HTTP/2', secure, { path: '/x?y=z', tls })).status, 200);
    const seen = await last();
    t.same(Object.keys(seen), gatewayKeys);
    t.match(seen, {
      ...{ route_name: 'httproute/shop/r/rule/0', upstream_cluster: 'outbound|80||orders.shop.svc.cluster.local' },
      ...{ path: '/x?y=z', protocol: 'HTTP/2', authority: 'a.test', requested_server_name: 'a.test' },
      ...{
        x_forwarded_for: '127.0.0.1',
        client_ip: '127.0.0.1',
        client_id: 'O=World,CN=Änn Lee',
        auth_method: 'certificate',
      },
      ...{ decision: 'allow', policy: 'route[httproute/shop/r/rule/0]' },
      ...{ peer_id: 'O=World,CN=Änn Lee', peer_serial: /^[0-9a-f]{30,32}$/ },
      ...{ tls_version: 'TLSv1.3', tls_resumed: false },
    });
  });
  await t.test('a client with a key, which must not be readable by others', async (t) => {
    const key = '0123456789abcdef0123456789abcdef';
    const { status } = await askAs('HTTP/1.1', plain, { path: `/keyed?key=${key}&a=b` });
    t.equal(status, 200);
    const seen = await last();
    t.match(seen, {
      ...{ client_id: 'mobile', auth_method: 'apiKey', client_ip: '127.0.0.1', peer_id: null, tls_version: null },
      ...{ path: '/keyed?a=b', policy: 'securitypolicy[shop/keyed]' },
    });
    t.notMatch(JSON.stringify(seen), key);
    await askAs('HTTP/1.1', plain, { path: `/keyed?key=${key.replace('0', 'x')}` });
    const refused = await last();
    t.match(refused, {
      client_id: null,
      auth_method: null,
      decision: 'deny',
      response_code: 401,
      code: 'api_key_unknown',
    });
    t.notMatch(JSON.stringify(refused), key.slice(1));
  });
  await t.test('an unknown client that claims an identity', async (t) => {
    await askAs('HTTP/1.1', plain, { headers: { 'x-forwarded-for': '9.9.9.9', 'x-request-id': 'mine' } });
    const seen = await last();
    t.match(seen, {
      client_ip: '127.0.0.1',
      x_forwarded_for: '127.0.0.1',
      request_id: /^[0-9a-f-]{36}$/,
      client_id: null,
    });
    t.equal((await askAs('HTTP/1.1', plain, { path: '/keyed' })).status, 401);
    t.match(await last(), { code: 'api_key_missing' });
  });
  await t.test('requests count with the gateway as their source', async (t) => {
    const text = await (await fetch(`http://127.0.0.1:${gateway.admin}/stats/prometheus`)).text();
    const rows = text.split('\n').filter((line) => line.startsWith('istio_requests_total'));
    t.equal(rows.length, 2, rows.join('\n'));
    for (const row of rows) {
      t.match(row, 'reporter="source"');
      t.match(row, 'source_principal="spiffe://demo.test/ns/edge/sa/gateway"');
      t.match(row, 'source_workload_namespace="edge"');
      t.match(row, 'destination_principal="spiffe://demo.test/ns/shop/sa/orders"');
      t.match(row, 'destination_workload_namespace="shop"');
      t.match(row, 'destination_service="orders.shop.svc.cluster.local"');
      t.match(row, 'destination_service_name="orders"');
      t.match(row, 'destination_service_namespace="shop"');
      t.match(row, 'connection_security_policy="unknown"');
    }
    t.match(
      rows.find((row) => row.includes('response_code="200"')),
      / 3$/,
    );
    t.match(
      rows.find((row) => row.includes('response_code="401"')),
      / 2$/,
    );
  });
});

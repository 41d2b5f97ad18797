// The record: one line for each exchange, whatever happened to it, with Istio's keys in Istio's order, then ours.

import { connect } from 'node:net';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

/** conventions.md section 5, in order. */
const keys = [
  ...['start_time', 'route_name', 'method', 'path', 'protocol', 'response_code', 'response_flags'],
  ...['response_code_details', 'connection_termination_details', 'bytes_received', 'bytes_sent', 'duration'],
  ...['upstream_service_time', 'x_forwarded_for', 'user_agent', 'request_id', 'authority', 'upstream_host'],
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

t.test('records of both sides', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.includes('/slow')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf');
    else socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port, policy });
  const ask = (line: string, fields = ''): Promise<string> =>
    exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n`);
  let web = 0;
  let orders = 0;

  await t.test('allowed', async (t) => {
    await ask(
      'GET /a?b=c',
      'User-Agent: test/1 "quoted" \\ \u00e4\r\nX-Forwarded-For: 10.1.2.3\r\nX-Request-Id: given\r\n',
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
      authority: 'orders',
      upstream_host: `127.0.0.1:${backend.port}`,
      upstream_cluster: 'inbound|8080||',
      upstream_local_address: /^127\.0\.0\.1:\d+$/,
      upstream_transport_failure_reason: null,
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
      decision: 'allow',
      upstream_host: `127.0.0.1:${mesh.inPort}`,
      peer_id: 'spiffe://demo.test/ns/shop/sa/orders',
      tls_version: 'TLSv1.3',
      tls_cipher: 'TLS_AES_128_GCM_SHA256',
      tls_group: 'X25519MLKEM768',
    });
  });

  await t.test('refused by no rule, and by one', async (t) => {
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

  await t.test(
    'a request ID that would end its string, on a request that is refused before anybody looked at it',
    async (t) => {
      const hostile = 'a","decision":"allow","x":"';
      const head = `GET / HTTP/1.1\r\nHost: or ders\r\nX-Request-Id: ${hostile}\r\n\r\n`;
      await exchangeBytes(mesh.outPort, head, /bad request$/);
      t.match((await mesh.records('web', ++web)).at(-1), { request_id: hostile, code: 'host_invalid', decision: '-' });
    },
  );

  await t.test('unreadable', async (t) => {
    await exchangeBytes(mesh.outPort, 'get / HTTP/1.1\r\nHost: orders\r\n\r\n');
    const seen = (await mesh.records('web', ++web)).at(-1)!;
    t.match(seen, { response_code: 400, response_flags: 'DPE', code: 'method_invalid', method: null, path: null });
    t.notMatch(JSON.stringify(seen), /"allow"/);
  });

  await t.test('to nowhere', async (t) => {
    await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n');
    t.match((await mesh.records('web', ++web)).at(-1), {
      response_code: 404,
      response_flags: 'NR',
      response_code_details: 'route_not_found',
      authority: 'nowhere',
      decision: '-',
    });
  });

  await t.test('a client that goes away in the middle', async (t) => {
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

  await t.test('every decision has an ID of its own', async (t) => {
    const all = await until(
      async () => [...(await mesh.records('web', web)), ...(await mesh.records('orders', orders))],
      'all',
    );
    const ids = all.map((one) => one['decision_id']);
    t.equal(new Set(ids).size, ids.length);
  });
});

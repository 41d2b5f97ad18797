// Kind 2, spellings: a host, a header's name or a serial number has one spelling by the time it is routed, authorized,
// logged and forwarded, and so have the values of policies.

import { X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { isSerialDenied, normalizeSerial, parseDenyList } from '../../cert-agent/identity/denied.ts';
import { normalizeHost, normalizeHostPattern } from '../../sidecar/policy/host.ts';
import { startGrpcAuthorizer, startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { runCommand } from '../fixtures/command.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { allowAll, exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { tempDir, until } from '../fixtures/process.ts';

const deny = (rule: string): string => `${allowAll}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny, namespace: shop }
spec: { action: DENY, rules: [${rule}] }
`;

async function startScene(t: Parameters<typeof startMesh>[0], policy: string, webYaml?: string) {
  const app = await startBackend(t, (socket, soFar) => {
    if (/\r\n\r\n$/.test(soFar)) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: app.port, policy, ...(webYaml === undefined ? {} : { webYaml }) });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/caller');
  const ask = async (head: string, body = ''): Promise<number> => {
    const { text } = await askAsPeer(mesh.inPort, mesh.authority, peer, `${head}\r\nConnection: close\r\n\r\n${body}`);
    return Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]);
  };
  return { app, mesh, peer, ask };
}

t.test('a denied host is denied in every spelling', async (t) => {
  const { ask, mesh } = await startScene(
    t,
    deny('{ to: [{ operation: { hosts: ["Secret.test.", "*.inner.test.", "10.0.0.1"] } }] }'),
  );
  const denied = ['secret.test', 'secret.test.', 'SECRET.Test', 'SECRET.TEST.', 'a.inner.test', 'a.b.Inner.test.'];
  for (const host of [...denied, '10.0.0.1', '0x0a.0.0.1', '10.1', '167772161', '012.0.0.1'])
    t.equal(await ask(`GET / HTTP/1.1\r\nHost: ${host}`), 403, host);
  t.equal(await ask('GET http://secret.test./ HTTP/1.1\r\nHost: other'), 403, 'in the target');
  t.equal(await ask('GET / HTTP/1.1\r\nHost: secret.test:80'), 200, 'a port is significant, as in Istio');
  t.equal(await ask('GET / HTTP/1.1\r\nHost: other.test.'), 200);
  t.match((await mesh.records('orders', 14)).at(-1), { authority: 'other.test' }, 'logged as it was authorized');
  for (const host of ['.secret.test', 'secret..test', 'secret.test..', 'secret.test:', 'secret.test:99999', 'a%2etest'])
    t.equal(await ask(`GET / HTTP/1.1\r\nHost: ${host}`), 400, host);
});

t.test('a host with a port, and :authority, are normalized', async (t) => {
  const { ask } = await startScene(
    t,
    deny(
      '{ to: [{ operation: { hosts: ["secret.test:8080"] } }] }, { when: [{ key: "request.headers[:authority]", values: ["Other.test"] }] }',
    ),
  );
  t.equal(await ask('GET / HTTP/1.1\r\nHost: secret.test:8080'), 403);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: Secret.test.:08080'), 403);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: secret.test'), 200);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: other.test.'), 403);
});

t.test('outbound: every spelling of a name finds its upstream, and one spelling is forwarded', async (t) => {
  const { app, mesh } = await startScene(t, allowAll);
  for (const host of ['orders', 'orders.', 'ORDERS', 'Orders.Shop.SVC.', 'orders.shop.svc.:80']) {
    const answer = await exchangeBytes(mesh.outPort, `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    t.match(answer, /^HTTP\/1\.1 200 /, host);
  }
  t.strictSame(
    app.received.map((one) => /\r\nHost: ([^\r]*)/i.exec(one.toString('latin1'))?.[1]),
    ['orders', 'orders', 'orders', 'orders.shop.svc', 'orders.shop.svc:80'],
  );
});

t.test('a header that servers fold into a denied one is denied', async (t) => {
  const { ask } = await startScene(t, deny('{ when: [{ key: "request.headers[X-Role]", values: ["admin"] }] }'));
  for (const name of ['X-Role', 'x-role', 'X_Role', 'x_role', 'X.Role'])
    t.equal(await ask(`GET / HTTP/1.1\r\nHost: orders\r\n${name}: admin`), 403, name);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Role: user'), 200);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Role: user\r\nX_Role: admin'), 400, 'the app may read either');
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Other: a\r\nX_Other: b'), 200, 'no policy tests that field');
});

t.test('a header that must hold one value is refused if it is repeated', async (t) => {
  const { ask } = await startScene(t, deny('{ when: [{ key: "request.headers[x_role]", notValues: ["user"] }] }'));
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Role: user'), 200);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Role: user\r\nX_Role: admin'), 400, 'two spellings');
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders\r\nX-Role: user\r\nX-Role: admin'), 403, 'joined, as in Istio');
});

t.test('lint reports that a repeated header bypasses a denial of one value', async (t) => {
  const dir = tempDir(t);
  const rule = (when: string): string => deny(`{ when: [${when}] }`);
  const lintOf = async (text: string): Promise<string> => {
    writeFileSync(join(dir, 'policy.yaml'), text);
    return (await runCommand(t, ['policy', 'lint', dir, '--json'])).stdout;
  };
  t.match(
    await lintOf(rule('{ key: "request.headers[X-Role]", values: ["admin"] }')),
    /"code": ?"repeated_header"[^}]*a request that sends 'X-Role' twice is evaluated with both values joined by a comma/,
  );
  t.notMatch(await lintOf(rule('{ key: "request.headers[X-Role]", notValues: ["user"] }')), /repeated_header/);
  t.notMatch(await lintOf(rule('{ key: "request.headers[X-Role]", values: ["*"] }')), /repeated_header/);
});

t.test('a field that policy evaluates in the head is dropped from trailers', async (t) => {
  const { ask, app } = await startScene(t, deny('{ when: [{ key: "request.headers[x-role]", values: ["admin"] }] }'));
  const body = '1\r\na\r\n0\r\nx_role: admin\r\nX-Sum: 1\r\n\r\n';
  t.equal(await ask('POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked', body), 200);
  const arrived = app.received.at(-1)!.toString('latin1');
  t.match(arrived, /\r\n0\r\nX-Sum: 1\r\n\r\n$/);
});

t.test('a field that an authorizer receives has one spelling, and is in the head only', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (/\r\n\r\n$/.test(soFar)) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const overHttp = await startHttpAuthorizer(t, ({ headers }, response) =>
    response.writeHead(headers['x-token'] === 'good' ? 200 : 403).end(),
  );
  const overGrpc = await startGrpcAuthorizer(t, ({ request }) =>
    request?.http?.headers['x-token'] === 'good' ? { okResponse: {} } : { status: { code: 7 }, deniedResponse: {} },
  );
  const mesh = await startMesh(t, {
    app: app.port,
    ordersYaml: `extensionProviders:
  - { name: http, envoyExtAuthzHttp: { service: 127.0.0.1, port: ${overHttp.port}, includeRequestHeadersInCheck: [X-Token, x-extra-*] } }
  - { name: grpc, envoyExtAuthzGrpc: { service: 127.0.0.1, port: ${overGrpc.port} } }
`,
    policy: `${allowAll}${['http', 'grpc']
      .map(
        (name) =>
          `---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: { action: CUSTOM, provider: { name: ${name} }, rules: [{ to: [{ operation: { paths: [/${name}] } }] }] }\n`,
      )
      .join('')}`,
  });
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] }, z: { endpoints: ["127.0.0.1:${overHttp.port}"] } }\nbackends: { shop/a:80: a, shop/z:80: z }\n`,
    documents: `${documentOf('Gateway', 'g', '{ gatewayClassName: x, listeners: [{ name: a, port: 80, protocol: HTTP }] }')}
${documentOf('HTTPRoute', 'r', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }')}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: p, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  extAuth: { http: { backendRefs: [{ name: z, port: 80 }] }, headersToExtAuth: [x-token, x-extra] }
`,
  });
  const asks: readonly (readonly [string, number, string])[] = [
    ['mesh, HTTP', mesh.outPort, '/http'],
    ['mesh, gRPC', mesh.outPort, '/grpc'],
    ['gateway', gateway.port('shop/g:80'), '/'],
  ];
  for (const [where, port, path] of asks) {
    const send = async (fields: readonly string[], body = ''): Promise<string> => {
      const head = [`POST ${path} HTTP/1.1`, 'Host: orders', 'Connection: close', ...fields];
      return (await exchangeBytes(port, `${head.join('\r\n')}\r\n\r\n${body}`)).slice(9, 12);
    };
    t.equal(await send(['X-Token: good', 'Content-Length: 0']), '200', where);
    t.equal(await send(['X-Token: bad', 'Content-Length: 0']), '403', where);
    for (const other of ['X_Token', 'X.Token'])
      for (const fields of [
        ['X-Token: good', `${other}: root`],
        [`${other}: root`, 'X-Token: good'],
      ])
        t.equal(await send([...fields, 'Content-Length: 0']), '400', `${where}: ${fields}`);
    const body = '0\r\nX_Token: root\r\nx-extra-1: root\r\nX-Token: root\r\n\r\n';
    t.equal(await send(['X-Token: good', 'Transfer-Encoding: chunked'], body), '200', where);
    const { length } = overHttp.asked;
    t.equal(await send(['X_Token: good', 'Content-Length: 0']), path === '/grpc' ? '403' : '200', where);
    if (path !== '/grpc') t.equal(overHttp.asked[length]?.headers['x-token'], 'good', `${where}: it receives X_Token`);
  }
  t.notMatch(app.received.join(), /x.token: root/i);
  t.equal(
    app.received.join().match(/x-extra-1: root/gi)?.length,
    1,
    'except from the gateway, which was not configured to check it',
  );
});

t.test('serial numbers have one spelling', async (t) => {
  for (const text of ['00ab12', 'AB:12', '0xab12', ' ab12\n', '00:AB:12', 'ab12', '0ab12'])
    t.equal(normalizeSerial(text), 'ab12', text);
  for (const text of ['', 'xyz', 'ab12-', '0x', 'a'.repeat(65)]) t.equal(normalizeSerial(text), undefined, text);
  const list = (serials: string[]) =>
    parseDenyList({ sequence: 1, time: '2026-01-01T00:00:00Z', serials, ids: [] }, 'denied.json');
  t.ok(isSerialDenied(list(['AB:12']), '00AB12'));
  t.notOk(isSerialDenied(list(['AB:12']), '00AB13'));
  t.throws(() => list(['ab12', 'no serial']), {
    code: 'bundle_invalid',
    message: "denied.json is not a deny list: 'no serial' is not a serial number",
  });

  const { mesh, peer, ask } = await startScene(t, allowAll);
  t.equal(await ask('GET / HTTP/1.1\r\nHost: orders'), 200);
  const spelled = `00:${new X509Certificate(peer.chainPem).serialNumber.replace(/..(?=.)/g, '$&:')}`;
  writeFileSync(
    join(mesh.dir, 'denied.json'),
    JSON.stringify({ sequence: 2, time: new Date().toISOString(), serials: [spelled], ids: [] }),
  );
  await until(async () => Number.isNaN(await ask('GET / HTTP/1.1\r\nHost: orders')), 'the peer to be refused');
  t.pass(spelled);
});

t.test('host names have one spelling', async (t) => {
  const cases: [string, string | undefined][] = [
    ['A.test.', 'a.test'],
    ['a.test:080', 'a.test:80'],
    ['[2001:DB8:0:0::1]:80', '[2001:db8::1]:80'],
    ['[::1]', '[::1]'],
    ['127.1', '127.0.0.1'],
    ['web.1', 'web.1'],
    ['a_b', 'a_b'],
    ['a.test:65536', undefined],
    ['a..test', undefined],
    ['.', undefined],
    ['', undefined],
    ['user@a', undefined],
  ];
  for (const [text, normal] of cases) t.equal(normalizeHost(text), normal, text);
  t.equal(normalizeHostPattern('*.A.test.'), '*.a.test');
  t.equal(normalizeHostPattern('*'), '*');
  t.equal(normalizeHostPattern('a.*'), 'a.*');
});

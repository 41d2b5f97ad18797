// CUSTOM: external authorizers over HTTP and gRPC. They can refuse and change headers; they cannot allow what DENY and
// ALLOW refuse, and every failure of theirs refuses.

import t from 'tap';
import { startGrpcAuthorizer, startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { allowAll, exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import type { Owner } from '../fixtures/process.ts';

const custom = (rule: string, provider = 'ask'): string => `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ask, namespace: shop }
spec: { action: CUSTOM, provider: { name: ${provider} }, rules: [${rule}] }
---${allowAll}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: never, namespace: shop }
spec: { action: DENY, rules: [{ to: [{ operation: { paths: [/never] } }] }] }
`;

interface Started {
  readonly mesh: Mesh;
  readonly received: () => string;
  readonly arrived: () => number;
}

async function start(
  t: Owner,
  provider: string,
  policy = custom('{ to: [{ operation: { paths: [/asked*, /never] } }] }'),
  protocol: 'http' | 'tcp' = 'http',
): Promise<Started> {
  const backend = await startBackend(t, (socket, soFar) => {
    if (/\r\n\r\n$|body!$/.test(soFar)) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, {
    app: backend.port,
    protocol,
    policy,
    ordersYaml: `extensionProviders:\n  - { name: ask, ${provider} }\n`,
  });
  return {
    mesh,
    received: () => backend.received.at(-1)!.toString('latin1'),
    arrived: () => backend.received.length,
  };
}

const ask = (mesh: Mesh, line: string, fields = '', body = ''): Promise<string> =>
  exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n${body}`);

t.test('HTTP: the request to the authorizer, and what it may change', async (t) => {
  const authorizer = await startHttpAuthorizer(t, ({ headers, url }, response) => {
    if (headers['x-key'] === 'good')
      return response.writeHead(200, { 'x-user': 'ann', 'x-inside': '1', 'x-to-caller': 'yes' }).end();
    response
      .writeHead(url.includes('login') ? 302 : 401, {
        location: 'https://login.test/',
        'x-why': 'no key',
        'x-inside': '1',
      })
      .end('go away');
  });
  const { mesh, received, arrived } = await start(
    t,
    `envoyExtAuthzHttp: { service: 127.0.0.1, port: ${authorizer.port}, pathPrefix: /check, includeRequestHeadersInCheck: [x-key], includeAdditionalHeadersInCheck: { x-from: sallyport }, headersToUpstreamOnAllow: [x-user], headersToDownstreamOnAllow: [x-to-caller], headersToDownstreamOnDeny: ["x-w*"] }`,
  );
  const good = await ask(
    mesh,
    'POST /asked?a=b',
    'X-Key: good\r\nX-User: root\r\nX-Other: 1\r\nContent-Length: 5\r\n',
    'body!',
  );
  t.match(good, /^HTTP\/1\.1 200 /);
  t.match(good, /\r\nx-to-caller: yes\r\n/);
  t.match(received(), /\r\nx-user: ann\r\n/);
  t.notMatch(received(), /root|x-inside/);
  t.ok(received().endsWith('body!'));
  t.match(authorizer.asked[0], {
    method: 'POST',
    url: '/check/asked?a=b',
    headers: { host: 'orders', 'x-key': 'good', 'x-from': 'sallyport', 'x-other': undefined },
  });
  const before = arrived();
  const refused = await ask(mesh, 'GET /asked');
  t.match(refused, /^HTTP\/1\.1 401 .*\r\nx-why: no key\r\n.*\r\n\r\ngo away$/s);
  t.notMatch(refused, /x-inside/);
  t.match(await ask(mesh, 'GET /asked/login'), /^HTTP\/1\.1 302 .*\r\nlocation: https:\/\/login\.test\/\r\n/s);
  t.equal(arrived(), before, 'nothing has reached the app');
  t.match(await ask(mesh, 'GET /free'), /^HTTP\/1\.1 200 /);
  t.equal(authorizer.asked.length, 3, 'the authorizer is not asked about requests that no CUSTOM rule matches');
  t.match(
    await ask(mesh, 'GET /never', 'X-Key: good\r\n'),
    /^HTTP\/1\.1 403 .*RBAC: access denied$/s,
    'DENY still denies',
  );
  t.match(await mesh.records('orders', 5), [
    { response_code: 200, policy: 'ns[shop]-policy[allow-all]-rule[0]' },
    {
      response_code: 401,
      response_flags: 'UAEX',
      response_code_details: 'ext_authz_denied',
      policy: 'istio-ext-authz-ask-ns[shop]-policy[ask]-rule[0]',
    },
    { response_code: 302 },
    { response_code: 200 },
    { response_code: 403, code: 'policy_denied' },
  ]);
  const [, denied] = await mesh.records('orders', 2);
  const why = await fetch(`http://127.0.0.1:${mesh.inAdmin}/why/${denied!['decision_id']}`);
  t.match(await why.json(), {
    code: 'ext_authz_denied',
    explanation: {
      allowed: false,
      policy: 'istio-ext-authz-ask-ns[shop]-policy[ask]-rule[0]',
      because: /the authorizer ask refused with 401; of the other rules: no DENY rule matches, and the ALLOW rule/,
      edits: [],
    },
  });
});

t.test('HTTP: every failure of the authorizer refuses', async (t) => {
  const authorizer = await startHttpAuthorizer(t, ({ url }, response) => {
    if (url === '/asked/500') response.writeHead(500).end();
    else if (url === '/asked/dies') response.destroy();
    else if (url === '/asked/huge') response.end('x'.repeat(100_000));
    else if (url === '/asked/field') response.writeHead(200, { 'x-forwarded-client-cert': 'forged' }).end();
    else if (url !== '/asked/slow') response.end();
  });
  const { mesh, arrived } = await start(
    t,
    `envoyExtAuthzHttp: { service: 127.0.0.1, port: ${authorizer.port}, timeout: 300ms, statusOnError: "503", headersToUpstreamOnAllow: [x-forwarded-client-cert] }`,
  );
  for (const path of ['500', 'dies', 'huge', 'slow', 'field'])
    t.match(await ask(mesh, `GET /asked/${path}`), /^HTTP\/1\.1 503 /, path);
  t.equal(arrived(), 0);
  for (const record of await mesh.records('orders', 5))
    t.match(record, {
      code: 'ext_authz_failed',
      response_flags: 'UAEX',
      response_code_details: 'ext_authz_error',
      decision: 'deny',
    });
  t.match(await ask(mesh, 'GET /asked'), /^HTTP\/1\.1 200 /);
});

t.test('an unknown provider, and an unreachable one', async (t) => {
  const { mesh } = await start(
    t,
    'envoyExtAuthzHttp: { service: 127.0.0.1, port: 1, timeout: 500ms }',
    custom('{}', "'an\"other'"),
  );
  t.match(await ask(mesh, 'GET /'), /^HTTP\/1\.1 403 .*RBAC: access denied$/s);
  t.match(await mesh.records('orders', 1), [
    {
      code: 'policy_denied',
      policy: 'istio-ext-authz-an"other-ns[shop]-policy[ask]-rule[0]',
      response_code_details: 'rbac_access_denied_matched_policy[istio-ext-authz-an"other-ns[shop]-policy[ask]-rule[0]]',
    },
  ]);
  t.ok(
    mesh.lines.some(({ code, policy }) => code === 'provider_unknown' && policy === 'shop/ask'),
    'the problem was logged at load time',
  );
  await mesh.setPolicy(custom('{}'));
  t.match(await ask(mesh, 'GET /'), /^HTTP\/1\.1 403 /);
  t.match((await mesh.records('orders', 2))[1], { code: 'ext_authz_failed' });
});

t.test("gRPC: the authorizer speaks Envoy's service", async (t) => {
  const authorizer = await startGrpcAuthorizer(t, ({ request }) => {
    const { path = '' } = request?.http ?? {};
    if (path === '/asked/ok')
      return {
        status: { code: 0 },
        okResponse: {
          headers: [{ header: { key: 'X-User', value: 'ann' } }],
          headersToRemove: ['X-Secret'],
          responseHeadersToAdd: [{ header: { key: 'x-seen', value: 'by grpc' } }],
        },
      };
    if (path === '/asked/denied')
      return {
        status: { code: 7 },
        deniedResponse: {
          status: { code: 418 },
          headers: [{ header: { key: 'x-why', value: 'tea' } }],
          body: 'short and stout',
        },
      };
    if (path === '/asked/plain') return { status: { code: 16 } };
    if (path === '/asked/query')
      return { status: { code: 0 }, okResponse: { queryParametersToSet: [{ key: 'a', value: 'b' }] } };
    if (path === '/asked/inject')
      return { status: { code: 0 }, okResponse: { headers: [{ header: { key: 'a', value: 'b\r\nc: d' } }] } };
    if (path === '/asked/garbage') return Buffer.from([0xff, 0xff, 0xff]);
    if (path === '/asked/error') return 14;
    return undefined;
  });
  const { mesh, received, arrived } = await start(
    t,
    `envoyExtAuthzGrpc: { service: 127.0.0.1, port: ${authorizer.port}, timeout: 2s }`,
  );
  const ok = await ask(mesh, 'GET /asked/ok', 'X-User: root\r\nX-Secret: s\r\nX-A: 1\r\nX-A: 2\r\n');
  t.match(ok, /^HTTP\/1\.1 200 .*\r\nx-seen: by grpc\r\n/s);
  t.match(received(), /\r\nx-user: ann\r\n/);
  t.notMatch(received(), /root|x-secret/i);
  t.match(authorizer.asked[0], {
    source: { principal: 'spiffe://demo.test/ns/shop/sa/web', address: { socketAddress: { address: '127.0.0.1' } } },
    destination: { address: { socketAddress: { portValue: 8080 } } },
    request: {
      http: { method: 'GET', path: '/asked/ok', host: 'orders', headers: { 'x-a': '1,2', ':path': '/asked/ok' } },
    },
  });
  t.match(await ask(mesh, 'GET /asked/denied'), /^HTTP\/1\.1 418 .*\r\nx-why: tea\r\n.*\r\n\r\nshort and stout$/s);
  for (const path of ['plain', 'query', 'inject', 'garbage', 'error', 'slow'])
    t.match(await ask(mesh, `GET /asked/${path}`), /^HTTP\/1\.1 403 /, path);
  t.equal(arrived(), 1);
  t.strictSame(
    (await mesh.records('orders', 8)).map(({ code }) => code ?? null),
    [null, 'ext_authz_denied', 'ext_authz_denied', ...Array(5).fill('ext_authz_failed')],
  );
});

t.test('on TCP the gRPC authorizer checks the connection', async (t) => {
  let allow = true;
  const authorizer = await startGrpcAuthorizer(t, () => ({ status: { code: allow ? 0 : 7 } }));
  const { mesh } = await start(
    t,
    `envoyExtAuthzGrpc: { service: 127.0.0.1, port: ${authorizer.port} }`,
    custom('{}').replace(/---\napiVersion[^-]*name: never[\s\S]*$/, ''),
    'tcp',
  );
  const talk = (): Promise<string> => exchangeBytes(mesh.outPort, 'x\r\n\r\n', /ok$/);
  t.match(await talk(), /ok$/);
  t.match(authorizer.asked[0], { source: { principal: 'spiffe://demo.test/ns/shop/sa/web' } });
  t.notOk(authorizer.asked[0]!.request?.http);
  allow = false;
  t.equal(await talk(), '');
});

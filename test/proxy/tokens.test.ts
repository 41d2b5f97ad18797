// RequestAuthentication on a running sidecar: the response for the client, the request for the app, and what happens to
// requests in flight when their token expires or its keys go.

import { text } from 'node:stream/consumers';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { allowAll, exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { createKey, jwksOf, type SigningKey, sign, startIssuer } from '../fixtures/tokens.ts';

const requestAuthentication = (rule: string, name = 'jwt'): string => `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: ${name}, namespace: shop }
spec:
  jwtRules:
    - ${rule}
`;

/** Only clients with a token, and only clerks may write. */
const tokensOnly = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: tokens, namespace: shop }
spec:
  rules:
    - from: [{ source: { principals: [demo.test/ns/shop/sa/web], requestPrincipals: ["*"] } }]
      to: [{ operation: { methods: [GET] } }]
    - to: [{ operation: { methods: [POST] } }]
      when: [{ key: "request.auth.claims[groups]", values: [clerks] }]
    - to: [{ operation: { methods: [OPTIONS] } }]
`;

async function start(t: Owner, rule: string, policy = tokensOnly): Promise<{ mesh: Mesh; received: () => string }> {
  const backend = await startBackend(t, (socket, soFar) => {
    if (/\r\n\r\n$|body!$/.test(soFar) && !soFar.includes('/wait'))
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port, policy: `${policy}---${requestAuthentication(rule)}` });
  return { mesh, received: () => backend.received.at(-1)!.toString('latin1') };
}

const ask = (mesh: Mesh, line: string, fields = '', body = ''): Promise<string> =>
  exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n${body}`);
/** Straight to the inbound port, as a peer without our sidecar. */
function asPeer(mesh: Mesh, bytes: string): Promise<string> {
  const { chainPem: cert, keyPem: key } = mesh.web;
  const socket = connectTls({
    ...{ host: '127.0.0.1', port: mesh.inPort, cert, key, ca: mesh.authority.bundlePem },
    checkServerIdentity: () => undefined,
  });
  socket.write(bytes);
  return text(socket);
}

const bearer = (token: string): string => `Authorization: Bearer ${token}\r\n`;
const inline = (...keys: SigningKey[]): string => `{ issuer: iss.test, jwks: '${jwksOf(...keys)}' }`;

t.test('no token, good and wrong tokens, and tokens for another audience', async (t) => {
  const key = await createKey('k');
  const { mesh } = await start(t, inline(key).replace('issuer: iss.test', 'issuer: iss.test, audiences: [orders]'));
  const good = await sign(key, { iss: 'iss.test', sub: 'ann', aud: 'orders' });
  t.match(await ask(mesh, 'GET /'), /^HTTP\/1\.1 403 .*RBAC: access denied$/s);
  t.match(await ask(mesh, 'GET /', bearer(good)), /^HTTP\/1\.1 200 /);
  const expired = await ask(mesh, 'GET /a?b=c', bearer(await sign(key, { iss: 'iss.test', aud: 'orders', exp: 1 })));
  t.match(
    expired,
    /^HTTP\/1\.1 401 .*\r\nwww-authenticate: Bearer realm="https:\/\/orders\/a", error="invalid_token"\r\n.*\r\n\r\nJwt is expired$/is,
  );
  t.match(
    await ask(mesh, 'GET /', bearer(await sign(key, { iss: 'iss.test', aud: 'x' }))),
    /^HTTP\/1\.1 403 .*Audiences in Jwt are not allowed$/s,
  );
  const clerk = await sign(key, { iss: 'iss.test', sub: 'bob', aud: 'orders', groups: ['clerks'] });
  t.match(await ask(mesh, 'POST /', `${bearer(clerk)}Content-Length: 5\r\n`, 'body!'), /^HTTP\/1\.1 200 /);
  t.match(await ask(mesh, 'POST /', `${bearer(good)}Content-Length: 5\r\n`, 'body!'), /^HTTP\/1\.1 403 /);
  t.match(
    await ask(mesh, 'OPTIONS /', `${bearer('x')}Origin: http://a\r\nAccess-Control-Request-Method: GET\r\n`),
    /^HTTP\/1\.1 200 /,
    'a preflight is not checked',
  );
  t.match(await ask(mesh, 'OPTIONS /', bearer('x')), /^HTTP\/1\.1 401 /, 'any other request is');
  const records = await mesh.records('orders', 8);
  t.match(records, [
    { response_code: 403, code: 'policy_denied', request_auth_principal: null },
    { response_code: 200, request_auth_principal: 'iss.test/ann' },
    {
      response_code: 401,
      code: 'jwt_expired',
      decision: 'deny',
      response_code_details: 'jwt_authn_access_denied{Jwt_is_expired}',
    },
    { response_code: 403, code: 'jwt_audience' },
    { response_code: 200, request_auth_principal: 'iss.test/bob' },
    { response_code: 403, code: 'policy_denied' },
    { response_code: 200 },
    { response_code: 401, code: 'jwt_invalid' },
  ]);
  const grpc = await ask(
    mesh,
    'POST /a.B/C',
    `Content-Type: application/grpc\r\nContent-Length: 0\r\n${bearer('x.y.z')}`,
  );
  t.match(grpc, /^HTTP\/1\.1 200 .*\r\ngrpc-status: 16\r\ngrpc-message: Jwt header is an invalid JSON\r\n/is);
  const old = await sign(key, { iss: 'iss.test', aud: 'orders', exp: 1 });
  t.match(await ask(mesh, `GET /q?a=b&access_token=${old}`), /^HTTP\/1\.1 401 /);
  const all = await mesh.records('orders', 10);
  t.match(all[9], { path: '/q?a=b', code: 'jwt_expired' });
  const written = JSON.stringify([all, mesh.lines]);
  for (const token of [good, clerk, old]) t.notOk(written.includes(token.split('.')[2]!), 'no token is on record');
});

t.test("the app gets no token, the configured claims, and none of the client's own claims", async (t) => {
  const key = await createKey('k');
  const rule = `${inline(key).slice(0, -1)}, fromHeaders: [{ name: x-token, prefix: "t " }], fromParams: [tok], fromCookies: [sess], outputPayloadToHeader: x-payload, outputClaimToHeaders: [{ header: x-user, claim: sub }, { header: x-deep, claim: a.b }, { header: x-none, claim: nothing }, { header: x-evil, claim: evil }] }`;
  const { mesh, received } = await start(t, rule, allowAll);
  const token = await sign(key, { iss: 'iss.test', sub: 'ann', a: { b: 7 }, evil: 'a\r\nx-injected: 1' });
  const forged = 'X-User: root\r\nX-Deep: root\r\nX-None: root\r\nX-Payload: root\r\n';
  await ask(mesh, 'GET /', `${forged}X-Token: t ${token}\r\nX-Other: 1\r\n`);
  t.notMatch(received(), /x-token|root|x-none|x-evil|injected/i);
  t.match(received(), /x-other: 1\r\n/i);
  t.match(received(), /\r\nx-user: ann\r\n/);
  t.match(received(), /\r\nx-deep: 7\r\n/);
  t.equal(/\r\nx-payload: (\S+)/.exec(received())![1], token.split('.')[1]);
  await ask(mesh, `GET /a?x=1&tok=${token}&y=2`);
  t.match(received(), /^GET \/a\?x=1&y=2 /);
  await ask(mesh, `GET /a?tok=${token}`);
  t.match(received(), /^GET \/a HTTP/);
  await ask(mesh, 'GET /', `Cookie: a=b; sess=${token}; c=d\r\n`);
  t.match(received(), /\r\ncookie: a=b; c=d\r\n/i);
  await ask(mesh, 'GET /', forged);
  t.notMatch(received(), /root/, 'also without a token');
  await ask(mesh, 'GET /', `X_User: root\r\nX-Token: t ${token}\r\n`);
  t.notMatch(received(), /root/, 'nor in the spelling that CGI folds into it');
  const chunked = 'Transfer-Encoding: chunked\r\nTrailer: x-user, x_user, x-kept\r\n';
  const trailers = 'X-User: root\r\nX_User: root\r\nX-Kept: 1\r\n';
  await ask(mesh, 'POST /', `${chunked}X-Token: t ${token}\r\n`, `2\r\nhi\r\n0\r\n${trailers}\r\n`);
  await until(() => /x-kept: 1\r\n\r\n$/i.test(received()), 'the trailers');
  t.notMatch(received(), /root/, 'nor in trailers');
  await asPeer(
    mesh,
    `GET / HTTP/1.1\r\nHost: orders\r\nConnection: close, x-user, x-other\r\nX-Other: 1\r\nX-Token: t ${token}\r\n\r\n`,
  );
  t.match(received(), /\r\nx-user: ann\r\n/, 'and no client can declare ours a hop-by-hop field');
  t.notMatch(received(), /x-other/i);
});

t.test('forwardOriginalToken leaves the token in place', async (t) => {
  const key = await createKey('k');
  const { mesh, received } = await start(t, inline(key).replace('{', '{ forwardOriginalToken: true,'), allowAll);
  const token = await sign(key, { iss: 'iss.test', sub: 'ann' });
  await ask(mesh, 'GET /', bearer(token));
  t.ok(received().toLowerCase().includes(`authorization: bearer ${token.toLowerCase()}`));
});

t.test('keys must be fetched first: the request waits with its body, and a refusal does not wait', async (t) => {
  const issuer = await startIssuer(t);
  const key = await createKey('k');
  let release = (): void => {};
  issuer.pages.set('/keys', (response) => {
    release = () => response.end(jwksOf(key));
  });
  const { mesh, received } = await start(t, `{ issuer: iss.test, jwksUri: "${issuer.url}/keys" }`, allowAll);
  const token = await sign(key, { iss: 'iss.test', sub: 'ann' });
  const body = `${'x'.repeat(300_000)}body!`;
  const answer = ask(mesh, 'POST /', `${bearer(token)}Content-Length: ${body.length}\r\n`, body);
  await until(() => issuer.asked.length === 1, 'the keys to be fetched');
  release();
  t.match(await answer, /^HTTP\/1\.1 200 /);
  t.ok(received().endsWith(body), 'the whole body has arrived');
  t.match(await ask(mesh, 'GET /', bearer(token)), /^HTTP\/1\.1 200 /);
  t.equal(issuer.asked.length, 1);
  const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
  t.match(metrics, /sallyport_jwt_verifications_total\{issuer="iss\.test",outcome="verified"\} 1/);
  t.match(metrics, /sallyport_jwks_keys\{issuer="iss\.test"\} 1/);
});

t.test('while an issuer is down, only its tokens are refused', async (t) => {
  const key = await createKey('k');
  const { mesh } = await start(t, '{ issuer: iss.test, jwksUri: "http://127.0.0.1:1/keys" }', allowAll);
  const token = await sign(key, { iss: 'iss.test', sub: 'ann' });
  t.match(await ask(mesh, 'GET /', bearer(token)), /^HTTP\/1\.1 401 .*Jwks remote fetch is failed$/s);
  t.match(await ask(mesh, 'GET /'), /^HTTP\/1\.1 200 /);
  const body = 'x'.repeat(3_000_000);
  const big = await ask(mesh, 'POST /big', `${bearer(token)}Content-Length: ${body.length}\r\n`, body);
  t.match(big, /^HTTP\/1\.1 401 /, 'with a body that is not read');
  // It closes once the client has read the answer.
  const isGone = async () => {
    const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
    return /^sallyport_held_bytes 0$/m.test(metrics);
  };
  t.ok(await until(isGone, 'the connection not to be kept', 10_000));
  t.ok(
    mesh.lines.some(({ code }) => code === 'jwks_unavailable'),
    'the failure is logged',
  );
});

t.test('in flight: a token that expires, and one whose key is withdrawn', async (t) => {
  const [key, next] = await Promise.all([createKey('k'), createKey('n')]);
  const { mesh } = await start(t, inline(key));
  const soon = Math.floor(Date.now() / 1000) + 2;
  const short = ask(mesh, 'GET /wait', bearer(await sign(key, { iss: 'iss.test', sub: 'ann', exp: soon })));
  t.match(await short, /^HTTP\/1\.1 401 /);
  t.ok(Date.now() >= soon * 1000, 'not before it expires');
  const long = ask(mesh, 'GET /wait', bearer(await sign(key, { iss: 'iss.test', sub: 'ann' })));
  await until(async () => {
    const list = (await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/connections`)).json()) as { inFlight: number }[];
    return list.some(({ inFlight }) => inFlight === 1);
  }, 'the request to be in flight');
  await mesh.setPolicy(`${tokensOnly}---${requestAuthentication(inline(next))}`);
  t.match(await long, /^HTTP\/1\.1 401 /);
  t.match(await mesh.records('orders', 2), [{ code: 'jwt_expired' }, { code: 'jwt_invalid' }]);
});

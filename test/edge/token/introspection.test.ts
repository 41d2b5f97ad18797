// Opaque tokens by introspection (RFC 7662), and bearer tokens of both kinds together.

import { createServer, type ServerResponse } from 'node:http';
import t from 'tap';
import type { SallyportError } from '../../../cert-agent/base/errors.ts';
import { createProviderFetch } from '../../../sidecar/edge/provider-fetch.ts';
import { Introspection } from '../../../sidecar/edge/token/introspection.ts';
import { parseIp } from '../../../sidecar/policy/ip.ts';
import { type Passed, policyOf, pretend, startPolicy } from '../../fixtures/edge.ts';
import { json } from '../../fixtures/oidc-provider.ts';
import type { Owner } from '../../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../../fixtures/tokens.ts';

interface Endpoint {
  readonly url: string;
  readonly asked: { readonly body: string; readonly authorization: string | undefined }[];
  answer: (token: string, response: ServerResponse) => void;
}

async function startEndpoint(t: Owner): Promise<Endpoint> {
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => {
      body += text;
    });
    request.on('end', () => {
      endpoint.asked.push({ body, authorization: request.headers.authorization });
      endpoint.answer(new URLSearchParams(body).get('token') ?? '', response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  const endpoint: Endpoint = {
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}/introspect`,
    asked: [],
    answer: (_, response) => json(response, { active: false }),
  };
  return endpoint;
}

const specOf = (url: string, more = ''): string =>
  `introspection: { endpoint: "${url}", clientID: edge, clientSecret: { name: s }${more} }\n`;
const secrets = { s: { 'client-secret': 'p:w' } };
const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

t.test('a token is introspected once, and again after a minute', async (t) => {
  const endpoint = await startEndpoint(t);
  let now = Date.now();
  const edge = await startPolicy(t, specOf(endpoint.url), secrets, { now: () => now });
  let release = (): void => {};
  const waiting = new Promise<void>((resolve) => {
    release = resolve;
  });
  endpoint.answer = (_, response) =>
    void waiting.then(() => json(response, { active: true, sub: 'ann', scope: 'read write', client_id: 'app' }));
  const three = [1, 2, 3].map(() => fetch(edge.url, { headers: bearer('opaque') }));
  release();
  for (const response of await Promise.all(three)) {
    t.equal(response.status, 200);
    const app = (await response.json()) as Passed;
    t.match(app, { method: 'introspection', sub: 'ann', claims: { scope: ['read', 'write'] } });
    t.equal(app.fields['authorization'], undefined);
  }
  t.equal(endpoint.asked.length, 1);
  t.match(endpoint.asked[0], {
    body: 'token_type_hint=access_token&token=opaque',
    authorization: `Basic ${Buffer.from('edge:p%3Aw').toString('base64')}`,
  });
  now += 59_000;
  await fetch(edge.url, { headers: bearer('opaque') });
  t.equal(endpoint.asked.length, 1);
  now += 2000;
  endpoint.answer = (_, response) => json(response, { active: false });
  t.equal((await fetch(edge.url, { headers: bearer('opaque') })).status, 401, 'the token was revoked');
  t.equal(endpoint.asked.length, 2);
});

t.test('the times and audiences in the response are checked', async (t) => {
  const endpoint = await startEndpoint(t);
  const edge = await startPolicy(t, specOf(endpoint.url, ', audiences: [orders]'), secrets);
  const seconds = Math.floor(Date.now() / 1000);
  const rows: [string, unknown, number][] = [
    ['active', { active: true, aud: 'orders' }, 200],
    ['active for several', { active: true, aud: ['a', 'orders'], exp: seconds + 60 }, 200],
    ['inactive', { active: false, aud: 'orders' }, 401],
    ['for others', { active: true, aud: 'web' }, 401],
    ['without an audience', { active: true }, 401],
    ['expired', { active: true, aud: 'orders', exp: seconds - 1 }, 401],
    ['not yet', { active: true, aud: 'orders', nbf: seconds + 60 }, 401],
    ['an invalid expiry', { active: true, aud: 'orders', exp: 'soon' }, 401],
  ];
  for (const [index, [name, answer, status]] of rows.entries()) {
    endpoint.answer = (_, response) => json(response, answer);
    const response = await fetch(edge.url, { headers: bearer(`t${index}`) });
    t.equal(response.status, status, name);
    if (status === 401) {
      t.match(response.headers.get('www-authenticate'), /^Bearer realm=".*", error="invalid_token"$/, name);
      t.match(edge.refused.at(-1), { code: 'introspection_refused' }, name);
    }
  }
});

t.test('without a usable response the token is refused', async (t) => {
  const endpoint = await startEndpoint(t);
  const edge = await startPolicy(t, specOf(endpoint.url), secrets, { fetch: createProviderFetch(300) });
  const rows: [string, Endpoint['answer'], RegExp][] = [
    ['500', (_, r) => void r.writeHead(500).end(), /it responded with status 500/],
    ['401: our own secret is wrong', (_, r) => json(r, { error: 'invalid_client' }, 401), /introspect/],
    ['no JSON', (_, r) => void r.end('active'), /the body is not JSON/],
    [
      'a signed response',
      (_, r) => void r.writeHead(200, { 'content-type': 'application/token-introspection+jwt' }).end('a.b.c'),
      /the body is not JSON/,
    ],
    ['"true"', (_, r) => json(r, { active: 'true' }), /active/],
    ['silence', () => {}, /./],
    ['a cut', (_, r) => void r.socket!.destroy(), /./],
  ];
  for (const [index, [name, answer, message]] of rows.entries()) {
    endpoint.answer = answer;
    const response = await fetch(edge.url, { headers: bearer(`t${index}`) });
    t.equal(response.status, 503, name);
    t.equal(await response.text(), 'token introspection failed', name);
    t.match(edge.refused.at(-1), { code: 'introspection_failed', message }, name);
    endpoint.answer = (_, r) => json(r, { active: true });
    t.equal(
      (await fetch(edge.url, { headers: bearer(`t${index}`) })).status,
      200,
      `${name}: introspected again at once`,
    );
  }
  t.equal((await fetch(edge.url)).status, 401);
  t.match(edge.refused.at(-1), { code: 'jwt_missing', details: 'jwt_authn_access_denied{Jwt_is_missing}' });
});

t.test('JWTs and other tokens side by side', async (t) => {
  const endpoint = await startEndpoint(t);
  endpoint.answer = (_, response) => json(response, { active: true, sub: 'opaque' });
  const key = await createKey('k');
  const provider = (more: string): string => `jwt:
  providers: [{ name: corp, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' }${more} }]
`;
  const rules = `authorization:
  rules:
    - { action: Allow, operation: { paths: [/jwt] }, principal: { jwt: { provider: corp, scopes: [read] } } }
    - { action: Allow, operation: { paths: [/opaque] }, principal: { jwt: { provider: introspection, claims: [{ name: sub, values: [opaque] }] } } }
`;
  const edge = await startPolicy(t, `${specOf(endpoint.url)}${provider('')}${rules}`, secrets);
  const token = await sign(key, { iss: 'iss.test', sub: 'ann', scope: 'read write' });
  const status = async (path: string, headers: Record<string, string>): Promise<number> =>
    (await fetch(edge.url + path, { headers })).status;
  t.equal(await status('/jwt', bearer(token)), 200);
  t.equal(await status('/opaque', bearer(token)), 403);
  t.equal(await status('/opaque', bearer('x')), 200);
  t.equal(await status('/jwt', bearer('x')), 403);
  t.equal(endpoint.asked.length, 1, 'a JWT is not introspected, and a response is cached');
  t.equal(await status(`/opaque?access_token=${token}`, bearer('x')), 401, 'two tokens are ambiguous');
  t.match(edge.refused.at(-1), { code: 'jwt_invalid', message: /has two tokens/ });
  t.equal(await status('/jwt', {}), 401);
  const elsewhere = await startPolicy(
    t,
    `${specOf(endpoint.url)}${provider(', extractFrom: { headers: [{ name: x-token }] }')}`.replace(
      'jwt:\n',
      'jwt:\n  optional: true\n',
    ),
    secrets,
  );
  endpoint.answer = (_, response) => json(response, { active: false });
  t.equal(
    (await fetch(elsewhere.url, { headers: bearer(token) })).status,
    401,
    'a JWT at a place where no provider reads JWTs is introspected',
  );
});

t.test('a JWT alone: required unless optional, and what the app receives', async (t) => {
  const key = await createKey('k');
  const spec = (more: string): string => `jwt:
  optional: ${more}
  providers:
    - name: corp
      issuer: iss.test
      audiences: [orders]
      localJWKS: { type: Inline, inline: '${jwksOf(key)}' }
      extractFrom: { headers: [{ name: X-Token, valuePrefix: "t " }], cookies: [tok], params: [tok] }
      claimToHeaders: [{ header: X-User, claim: sub }]
`;
  const token = await sign(key, { iss: 'iss.test', sub: 'ann', aud: 'orders' });
  const required = await startPolicy(t, spec('false'));
  const missing = await fetch(required.url, { headers: { 'x-user': 'root', ...bearer(token) } });
  t.equal(missing.status, 401);
  t.equal(await missing.text(), 'Jwt is missing');
  const app = (await (
    await fetch(`${required.url}/?a=b`, { headers: { 'x-user': 'root', 'x-token': `t ${token}`, cookie: 'c=d' } })
  ).json()) as Passed;
  t.match(app, { path: '/?a=b', method: 'jwt', sub: 'ann', fields: { 'x-user': 'ann', cookie: 'c=d' } });
  t.equal(app.fields['x-token'], undefined);
  const expired = await sign(key, { iss: 'iss.test', aud: 'orders', exp: 1 });
  const old = await fetch(`${required.url}/?tok=${expired}&a=b`);
  t.equal(old.status, 401);
  t.equal(await old.text(), 'Jwt is expired');
  t.match(required.refused.at(-1), { code: 'jwt_expired', details: 'jwt_authn_access_denied{Jwt_is_expired}' });
  t.equal(required.paths.at(-1), '/?a=b');
  const wrong = await sign(key, { iss: 'iss.test', aud: 'web' });
  t.equal((await fetch(`${required.url}/?tok=${wrong}`)).status, 403);
  const optional = await startPolicy(t, spec('true'));
  const anonymous = (await (await fetch(optional.url, { headers: { 'x-user': 'root' } })).json()) as Passed;
  t.equal(anonymous.fields['x-user'], undefined, 'without a token, too, a client cannot set x-user');
  t.equal(
    (await fetch(`${optional.url}/?tok=${expired}`)).status,
    401,
    'an invalid token is not treated as a missing one',
  );
});

t.test(
  'a client that invents tokens does not lock out other clients, and evicts no active token from the cache',
  async (t) => {
    const asked: string[] = [];
    let release = (): void => {};
    const waiting = new Promise<void>((resolve) => {
      release = resolve;
    });
    const introspection = new Introspection(
      policyOf(specOf('http://127.0.0.1:1/introspect')).introspection!,
      's',
      async (_, { body }) => {
        const token = new URLSearchParams(String(body)).get('token')!;
        asked.push(token);
        if (token.startsWith('slow')) await waiting;
        return Response.json({ active: token === 'good', sub: 'ann' });
      },
      Date.now,
    );
    const know = async (token: string, ip: string): Promise<string | undefined> => {
      const exchange = pretend({ clientIp: parseIp(ip)!, tokenValidUntil: Number.POSITIVE_INFINITY }, bearer(token));
      await introspection.know(exchange, token);
      return exchange.auth?.subject;
    };
    const invented = Array.from({ length: 100 }, (_, i) => know(`slow-${i}`, '192.0.2.1'));
    t.equal(await know('good', '192.0.2.2'), 'ann');
    await t.rejects(know('slow-more', '192.0.2.1'), {
      code: 'introspection_failed',
      message: '64 introspections of one client are in flight',
    });
    release();
    const codes = (await Promise.allSettled(invented)).map((one) =>
      one.status === 'rejected' ? (one.reason as SallyportError).code : 'known',
    );
    t.equal(codes.filter((one) => one === 'introspection_refused').length, 64);
    t.equal(codes.filter((one) => one === 'introspection_failed').length, 36);
    for (let i = 0; i < 10_001; i += 50)
      await Promise.allSettled(Array.from({ length: 50 }, (_, j) => know(`bad-${i + j}`, '192.0.2.1')));
    asked.length = 0;
    t.equal(await know('good', '192.0.2.2'), 'ann');
    t.strictSame(asked, [], 'the active token is still cached');
  },
);

t.test('with several providers the app gets no unverified token', async (t) => {
  const [corp, partner] = await Promise.all([createKey('c'), createKey('p')]);
  const providerOf = (name: string, key: typeof corp, place: string): string =>
    `{ name: ${name}, issuer: ${name}.test, localJWKS: { inline: '${jwksOf(key)}' }, extractFrom: { ${place} }, forwardOriginalToken: true }`;
  const edge = await startPolicy(
    t,
    `jwt: { providers: [${providerOf('corp', corp, 'headers: [{ name: x-corp }], params: [corp], cookies: [corp]')}, ${providerOf('partner', partner, 'headers: [{ name: x-partner }]')}] }\n`,
  );
  const good = await sign(partner, { iss: 'partner.test', sub: 'ann' });
  const forged = await sign(partner, { iss: 'corp.test', sub: 'root' });
  const answer = await fetch(`${edge.url}/?corp=${forged}&a=1`, {
    headers: { 'x-partner': good, 'x-corp': forged, cookie: `corp=${forged}; theme=dark` },
  });
  t.equal(answer.status, 200);
  const app = (await answer.json()) as Passed;
  t.equal(app.sub, 'ann');
  t.equal(app.fields['x-partner'], good, 'the verified token is forwarded');
  t.notMatch(JSON.stringify(app), forged);
  t.match(app, { path: '/?a=1', fields: { cookie: 'theme=dark' } });
});

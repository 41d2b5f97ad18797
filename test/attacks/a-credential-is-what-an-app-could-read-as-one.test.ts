// Kind 2 and 13: with optional tokens, a token that the app sees and we do not is not verified. Each way in which
// servers are known to read a credential is tried with a forged one, beside a good one or alone, in mesh and gateway.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startPolicy } from '../fixtures/edge.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { allowAll, exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

const ours = await createKey('k');
const theirs = await createKey('k');
const good = await sign(ours, { iss: 'iss.test', sub: 'ann' });
const other = await sign(ours, { iss: 'iss.test', sub: 'bob' });
const forged = await sign(theirs, { iss: 'iss.test', sub: 'root' });

/** `forged` with white space where JSON permits it. */
function spaced(space: string): string {
  const [, payload, signature] = forged.split('.');
  return `${Buffer.from(`{${space}"alg":"ES256"}`).toString('base64url')}.${payload}.${signature}`;
}

/** `forged` with another beginning: some read the payload alone. */
function headed(header: string): string {
  return [header, ...forged.split('.').slice(1)].join('.');
}
const utf16 = Buffer.from('{"alg":"ES256"}', 'utf16le').swap16().toString('base64url');
const marked = Buffer.from('\ufeff{"alg":"ES256"}').toString('base64url');

/** What a client sends besides its request line and Host. None of it may reach an app with `forged` in it. */
const authorizationLies: Readonly<Record<string, readonly string[]>> = {
  'a second line': ['Authorization: Basic YTpi', `Authorization: Bearer ${forged}`],
  'a second line in front': [`Authorization: Bearer ${forged}`, 'Authorization: Basic YTpi'],
  'two tokens': [`Authorization: Bearer ${good}`, `Authorization: Bearer ${forged}`],
  'two in one line': [`Authorization: Bearer ${good}, Bearer ${forged}`],
  'behind another scheme': [`Authorization: Basic YTpi, Bearer ${forged}`],
  'in lower case': [`Authorization: bearer ${forged}`],
  'in capitals': [`authorization: BEARER ${forged}`],
  'behind two spaces': [`Authorization: Bearer  ${forged}`],
  'behind a tab': [`Authorization: Bearer\t${forged}`],
  'without a scheme': [`Authorization: ${forged}`],
  'under a scheme of its own': [`Authorization: JWT ${forged}`],
  'under a scheme that was invented': [`Authorization: x ${forged}`],
  'with a colon': [`Authorization: Bearer:${forged}`],
  'with an equals sign': [`Authorization: Bearer=${forged}`],
  'with white space in its header': [`Authorization: Token ${spaced('\n')}`],
  'with a blank in its header': [`Authorization: Token ${spaced(' ')}`],
  'with a header that is not JSON': [`Authorization: Token ${headed('xx')}`],
  'without its header': [`Authorization: Token ${headed('')}`],
  'with its header in UTF-16': [`Authorization: Token ${headed(utf16)}`],
  'with a byte order mark': [`Authorization: Token ${headed(marked)}`],
  'behind a scheme without a space': [`Authorization: Bearer${forged}`],
  'behind a scheme and a dash': [`Authorization: Bearer-${forged}`],
  'behind a scheme and an underscore': [`Authorization: Bearer_${forged}`],
  'behind a scheme and a plus': [`Authorization: Bearer+${forged}`],
  'without its signature': [`Authorization: x ${forged.split('.').slice(0, 2).join('.')}`],
};

const queryLies: Readonly<Record<string, string>> = {
  twice: `access_token=${good}&access_token=${forged}`,
  'in another case': `Access_Token=${forged}`,
  'as a list': `access_token[]=${forged}`,
  'as a list, escaped': `access_token%5B0%5D=${forged}`,
  escaped: `access%5ftoken=${forged}`,
  'with a dot': `access.token=${forged}`,
  'with a lone bracket': `access[token=${forged}`,
  'with an escaped bracket': `access%5Btoken=${forged}`,
  'escaped as ASP.NET has it': `%u0061ccess_token=${forged}`,
  'with a broken escape': `acc%65ss_token[%ff]=${forged}`,
  'cut at a NUL': `access_token%00=${forged}`,
  'a thousand times': `${`access_token=${good}&`.repeat(40)}access_token=${forged}`,
  'behind a semicolon': `a=1;access_token=${forged}`,
};

async function startOrders(t: Parameters<typeof startMesh>[0], rule: string) {
  const app = await startBackend(t, (socket, soFar) => {
    if (/\r\n\r\n$/.test(soFar)) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const policy = `${allowAll}---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: jwt, namespace: shop }
spec:
  jwtRules:
    - ${rule}
`;
  const mesh = await startMesh(t, { app: app.port, policy });
  return {
    app,
    ask: (line: string, fields: readonly string[] = []) =>
      exchangeBytes(
        mesh.outPort,
        `${[`${line} HTTP/1.1`, 'Host: orders', 'Connection: close', ...fields].join('\r\n')}\r\n\r\n`,
      ),
  };
}

const inline = (more = ''): string => `{ issuer: iss.test, jwks: '${jwksOf(ours)}'${more} }`;

t.test('mesh: tokens in Authorization and in the query', async (t) => {
  const { app, ask } = await startOrders(t, inline(', forwardOriginalToken: true'));
  t.match(await ask('GET /'), /^HTTP\/1\.1 200 /, 'a token is optional');
  t.match(await ask('GET /', ['Authorization: Basic YTpi']), /^HTTP\/1\.1 200 /, 'another scheme is not a token');
  t.match(await ask('GET /', [`Authorization: Bearer ${good}`]), /^HTTP\/1\.1 200 /);
  t.match(await ask('GET /', [`authorization: bearer  ${good}`]), /^HTTP\/1\.1 200 /, 'the way servers read it');
  t.match(
    await ask(`GET /?access_token=${good}`, [`Authorization: Bearer ${good}`]),
    /^HTTP\/1\.1 200 /,
    'the same one twice',
  );
  for (const [what, fields] of Object.entries(authorizationLies))
    t.match(await ask('GET /', fields), /^HTTP\/1\.1 401 /, what);
  for (const [what, query] of Object.entries(queryLies)) t.match(await ask(`GET /?${query}`), /^HTTP\/1\.1 401 /, what);
  t.match(
    await ask(`GET /?access_token=${other}`, [`Authorization: Bearer ${good}`]),
    /^HTTP\/1\.1 401 /,
    'two users, both genuine',
  );
  t.match(
    await ask('OPTIONS /', [
      `Authorization: Bearer ${forged}`,
      'Origin: https://a',
      'Access-Control-Request-Method: GET',
    ]),
    /^HTTP\/1\.1 200 /,
    'a preflight passes',
  );
  t.notMatch(app.received.join(), forged, 'no app has seen the forged token');
});

t.test('mesh: tokens in headers, cookies and parameters that a rule names', async (t) => {
  const { app, ask } = await startOrders(
    t,
    inline(', fromHeaders: [{ name: x-jwt, prefix: "Bearer " }], fromCookies: [session], fromParams: [t]'),
  );
  t.match(await ask('GET /', [`X-JWT: Bearer ${good}`]), /^HTTP\/1\.1 200 /);
  t.match(await ask('GET /', [`Cookie: a=b; session=${good}`]), /^HTTP\/1\.1 200 /);
  const lies: readonly (readonly string[])[] = [
    [`X-JWT: ${forged}`],
    [`X-JWT: ${good}`],
    [`X-JWT: bearer ${forged}`],
    [`X_JWT: Bearer ${forged}`],
    [`X-JWT: Bearer ${good}`, `X_JWT: Bearer ${forged}`],
    [`X-JWT: Bearer ${good}`, `X-JWT: Bearer ${forged}`],
    ['Cookie: a=1', `Cookie: session=${forged}`],
    [`Cookie: session=${good}; session=${forged}`],
    [`Cookie: session=${good}`, `Cookie: session=${forged}`],
    [`Cookie: session="${forged}"`],
    [`Cookie: a=1,session=${forged}`],
    [`Cookie:session =${forged}`],
    [`Cookie: SESSION=${forged}`],
    [`Cookie: session[]=${forged}`],
    [`Cookie: a=b session=${forged}`],
    [`Cookie: a=b\tsession=${forged}`],
    [`Cookie: \xc2\xa0session=${forged}`],
    [`Cookie: a=b; \xc2\xa0session=${forged}`],
    [`Cookie: session\x85=${forged}`],
    [`Cookie: s%65ssion=${forged}`],
  ];
  for (const fields of lies)
    t.match(
      await ask('GET /', fields),
      /^HTTP\/1\.1 401 /,
      fields.join(' | ').replaceAll(forged, 'FORGED').replaceAll(good, 'GOOD'),
    );
  t.notMatch(app.received.join(), forged);
});

t.test('mesh: a good token does not authenticate another token in the place of another rule', async (t) => {
  const rules = `${inline(', forwardOriginalToken: true')}
    - { issuer: other.test, jwks: '${jwksOf(theirs)}', fromHeaders: [{ name: x-other }], fromCookies: [other_tok], forwardOriginalToken: true }`;
  const { app, ask } = await startOrders(t, rules);
  const second = await sign(theirs, { iss: 'other.test', sub: 'svc' });
  t.match(await ask('GET /', [`Authorization: Bearer ${good}`, `X-Other: ${second}`]), /^HTTP\/1\.1 200 /);
  t.match(app.received.at(-1)!.toString(), second, 'a token verified by its own rule is forwarded');
  t.match(await ask('GET /', [`Authorization: Bearer ${good}`, `X-Other: ${other}`]), /^HTTP\/1\.1 200 /);
  t.notMatch(app.received.at(-1)!.toString(), other, 'a token that its rule does not accept is removed');
  for (const cookie of [`other_tok=${forged}`, `a=1, other_tok=${forged}`, `other.tok=${forged}`]) {
    t.match(await ask('GET /', [`Authorization: Bearer ${good}`, `Cookie: ${cookie}`]), /^HTTP\/1\.1 200 /);
    t.notMatch(
      app.received.at(-1)!.toString(),
      forged,
      `removed by the reading that finds it: ${cookie.split('=')[0]}`,
    );
  }
  t.match(
    await ask('GET /', [`Authorization: Bearer ${good}`, `X-Other: ${second}`, `X-Other: ${forged}`]),
    /^HTTP\/1\.1 200 /,
  );
  t.notMatch(app.received.at(-1)!.toString(), forged);
});

t.test('gateway: optional tokens', async (t) => {
  const app = await startEcho(t, 'a');
  const documents = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gw, namespace: edge }
spec: { gatewayClassName: sallyport, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: all, namespace: edge }
spec:
  parentRefs: [{ name: gw }]
  rules: [{ backendRefs: [{ name: app, port: 80 }] }]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: p, namespace: edge }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }]
  jwt: { optional: true, providers: [{ name: iss, issuer: iss.test, localJWKS: { inline: '${jwksOf(ours)}' } }] }
`;
  const gateway = await startTestGateway(t, {
    ...{ documents, listeners: ['edge/gw:80'] },
    yaml: `upstreams:\n  app: { endpoints: ["127.0.0.1:${app}"] }\nbackends: { edge/app:80: app }\n`,
  });
  const port = gateway.port('edge/gw:80');
  t.equal((await ask(port, '/')).status, 200, 'a token is optional');
  for (const [what, fields] of Object.entries(authorizationLies)) {
    const bytes = `GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${fields.join('\r\n')}\r\n\r\n`;
    t.match(await exchangeBytes(port, bytes), /^HTTP\/1\.1 401 /, what);
  }
  for (const [what, query] of Object.entries(queryLies))
    t.match(
      await exchangeBytes(port, `GET /?${query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`),
      /^HTTP\/1\.1 401 /,
      what,
    );
  const records = await gateway.records(1 + Object.keys(authorizationLies).length + Object.keys(queryLies).length);
  t.notMatch(JSON.stringify(records), forged, 'no token is on record');
});

t.test('gateway: Basic credentials and API keys', async (t) => {
  const key = 'a-key-of-sixteen-characters';
  const second = 'another-of-sixteen-characters';
  const edge = await startPolicy(
    t,
    'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }, { params: [key] }, { cookies: [key] }] }',
    { keys: { web: key, cron: second } },
  );
  const tell = (line: string, fields: readonly string[]): Promise<string> =>
    exchangeBytes(
      edge.port,
      `${line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${fields.map((one) => `${one}\r\n`).join('')}\r\n`,
    );
  t.match(await tell('GET /', [`X-Api-Key: ${key}`]), /^HTTP\/1\.1 200 /);
  const lies: [string, readonly string[]][] = [
    ['GET /', [`X-Api-Key: ${key}`, `X-Api-Key: ${second}`]],
    ['GET /', [`X-Api-Key: ${key}`, `X_Api_Key: ${second}`]],
    [`GET /?key=${second}`, [`X-Api-Key: ${key}`]],
    [`GET /?KEY=${second}&key=${key}`, []],
    [`GET /?key=${key}`, [`Cookie: key=${second}`]],
    ['GET /', [`Cookie: key=${key}; key=${second}`]],
  ];
  for (const [line, fields] of lies)
    t.match(
      await tell(line, fields),
      /^HTTP\/1\.1 401 .*Client authentication failed\.$/s,
      `${line} ${fields.join(' | ')}`,
    );
  t.ok(edge.refused.every(({ code, message }) => code === 'api_key_unknown' && !message.includes(key)));

  const basic = await startPolicy(t, 'basicAuth: { users: { name: users } }', {
    users: { '.htpasswd': 'ann:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\n' },
  });
  const asUser = (fields: readonly string[]): Promise<string> =>
    exchangeBytes(basic.port, `GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${fields.join('\r\n')}\r\n\r\n`);
  const pair = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;
  t.match(await asUser([`Authorization: ${pair('ann:admin')}`]), /^HTTP\/1\.1 200 /);
  for (const fields of [
    [`Authorization: ${pair('ann:admin')}`, `Authorization: ${pair('root:x')}`],
    [`Authorization: ${pair('ann:admin')}, ${pair('root:x')}`],
    [`Authorization: ${pair('ann:admin')}`, `Authorization: Bearer ${forged}`],
  ])
    t.match(await asUser(fields), /^HTTP\/1\.1 401 /, fields.join(' | '));
});

t.test('a target that cannot be read is logged without its query and its user', async (t) => {
  const backend = await startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const mesh = await startMesh(t, { app: backend.port, policy: allowAll });
  const targets = [
    'https://orders/a?apikey=s3cret',
    'ws://orders/a?apikey=s3cret',
    'orders/a?apikey=s3cret',
    'http://ann:s3cret@orders/a',
    'http://s3cret@orders?apikey=s3cret#s3cret',
  ];
  for (const [index, target] of targets.entries()) {
    const head = `GET ${target} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`;
    t.match(await exchangeBytes(mesh.outPort, head, /bad request$/), /^HTTP\/1\.1 400 /, target);
    const line = (await mesh.records('web', index + 1)).at(-1)!;
    t.equal(line['code'], 'head_invalid_url');
    t.notMatch(JSON.stringify(line), /s3cret/, target);
  }
});

// Kind 2 and 13: a gateway accepts no outside statement about who a client is or where a request came from, under any
// proxy's name for it, in heads and in trailers, except for fields that gateway.yaml passes by name.

import t from 'tap';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes, startBackend } from '../fixtures/mesh.ts';

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
`;

const yamlFor = (app: number, more = ''): string =>
  `upstreams:\n  app: { endpoints: ["127.0.0.1:${app}"] }\nbackends: { edge/app:80: app }\n${more}`;

const familyMembers = [
  ...[
    'X-Forwarded-Prefix',
    'X-Forwarded-Server',
    'X-Forwarded-Scheme',
    'X-Forwarded-Groups',
    'X-Forwarded-Tls-Client-Cert',
  ],
  ...['X-Forwarded-Something-New', 'X-Original-URL', 'X-Original-Method', 'X-Rewrite-URL', 'X-Real-IP', 'X-Client-IP'],
  ...[
    'X-SSL-Client-Verify',
    'X-SSL-Client-S-DN',
    'X-SSL-Client-Cert',
    'SSL-Client-Cert',
    'SSL_CLIENT_S_DN',
    'X-Client-Cert',
  ],
  ...[
    'X-WEBAUTH-USER',
    'X-WEBAUTH-ROLE',
    'X-Authenticated-User',
    'X-Authenticated-Groups',
    'Remote-User',
    'REMOTE_USER',
  ],
  ...['X-Remote-Extra-Scopes', 'X-Auth-Request-Email', 'CF-Connecting-IP', 'Cf-Access-Authenticated-User-Email'],
  ...['True-Client-IP', 'Fastly-Client-IP', 'X-Azure-ClientIP', 'X-Appengine-User-IP', 'WL-Proxy-Client-IP'],
  ...['X-Amzn-Oidc-Identity', 'X-Goog-Authenticated-User-Email', 'X-Ms-Client-Principal-Name', 'X-Consumer-Username'],
  ...[
    ...['Client-IP', 'X-Originating-IP', 'X-True-Client-IP', 'X-Auth-User', 'OIDC_CLAIM_email', 'SM_USER', 'IV-User'],
    ...['Tailscale-User-Login', 'Impersonate-User', 'X-Client-S-DN', 'X-Client-Verified', 'Fly-Client-IP'],
    ...['Akamai-Client-IP', 'X-Vercel-Forwarded-For', 'Txn.Token', 'TXN!TOKEN', 'Txn~Token', 'Txn_Token'],
    ...['X-Apigateway-Api-Userinfo', 'OAM_REMOTE_USER', 'Shib-Session-ID', 'X-Host', 'X-Forward-For', 'X-Script-Name'],
    ...['CloudFront-Viewer-Address', 'X-Proxy-User', 'Kubeflow-Userid', 'X-Scope-OrgID', 'Mellon-Email'],
    ...['X-RH-Identity', 'X-HTTP-Host-Override', 'X-Nf-Client-Connection-Ip', 'Dapr-Caller-App-Id', 'X-Auth-Roles'],
    'Proxy',
    'Forwarded',
    'Client-Cert',
    'Client-Cert-Chain',
    'X-Envoy-Peer-Metadata',
    'l5d-client-id',
    'X.Remote.User',
  ],
] as const;

t.test('fields that only proxies set are removed from heads', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, { documents, listeners: ['edge/gw:80'], yaml: yamlFor(app) });
  const headers = { ...Object.fromEntries(familyMembers.map((name) => [name, 'lie'])), 'x-mine': 'kept' };
  const { status, echo } = await ask(gateway.port('edge/gw:80'), '/', { headers });
  t.equal(status, 200);
  t.strictSame(
    echo.raw.filter((_name, index) => index % 2 === 0 && echo.raw[index + 1] === 'lie'),
    [],
  );
  t.equal(echo.headers['x-mine'], 'kept');
});

t.test('fields that authenticate, frame or modify a request are removed from trailers', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (/\r\n0\r\n[\s\S]*\r\n\r\n$/.test(soFar)) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
  });
  const gateway = await startTestGateway(t, { documents, listeners: ['edge/gw:80'], yaml: yamlFor(app.port) });
  const names = [
    ...familyMembers,
    ...['Authorization', 'Cookie', 'Set-Cookie', 'WWW-Authenticate', 'Content-Type', 'Content-Encoding', 'If-Match'],
    ...[
      'Range',
      'Cache-Control',
      'Max-Forwards',
      'Origin',
      'Accept',
      'X-Api-Key',
      'X-HTTP-Method-Override',
      'Sec-Fetch-Site',
    ],
    ...['AUTHORIZATION', 'x_api_key'],
  ];
  const trailers = names.map((name) => `${name}: lie\r\n`).join('');
  const answer = await exchangeBytes(
    gateway.port('edge/gw:80'),
    `POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n${trailers}X-Checksum: kept\r\nContent-Digest: kept\r\n\r\n`,
  );
  t.match(answer, /^HTTP\/1\.1 200 /);
  const arrived = app.received[0]!.toString('latin1');
  t.match(arrived, /\r\n0\r\nX-Checksum: kept\r\nContent-Digest: kept\r\n\r\n$/);
  t.notMatch(arrived, /: lie/);
});

t.test('a field from which a policy reads its credential is removed from trailers', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (/\r\n0\r\n[\s\S]*\r\n\r\n$/.test(soFar)) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
  });
  const policy = `---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: keys, namespace: edge }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: all }]
  apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-my-key] }], sanitize: false }
---
apiVersion: v1
kind: Secret
metadata: { name: keys, namespace: edge }
stringData: { web: a-key-of-sixteen-characters }
`;
  const gateway = await startTestGateway(t, {
    ...{ documents: documents + policy, listeners: ['edge/gw:80'], yaml: yamlFor(app.port) },
  });
  const answer = await exchangeBytes(
    gateway.port('edge/gw:80'),
    'POST / HTTP/1.1\r\nHost: a\r\nX-My-Key: a-key-of-sixteen-characters\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\nX_My_Key: forged\r\nX-Sum: 1\r\n\r\n',
  );
  t.match(answer, /^HTTP\/1\.1 200 /);
  t.match(app.received[0]!.toString('latin1'), /\r\n0\r\nX-Sum: 1\r\n\r\n$/);
});

t.test('fields that gateway.yaml names may pass, and some may not be named', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    ...{ documents, listeners: ['edge/gw:80'] },
    yaml: yamlFor(app, 'unsafeClientHeaders: [X-Forwarded-Prefix, "cf-*"]\n'),
  });
  const headers = { 'X-Forwarded-Prefix': '/a', 'CF-IPCountry': 'DE', 'X-Forwarded-Port': '1', 'X-Real-IP': '6.6.6.6' };
  const { echo } = await ask(gateway.port('edge/gw:80'), '/', { headers });
  t.match(echo.headers, { 'x-forwarded-prefix': '/a', 'cf-ipcountry': 'DE' });
  t.equal(echo.headers['x-forwarded-port'], undefined);
  t.equal(echo.headers['x-real-ip'], undefined);

  const read = (list: string): unknown =>
    parseGatewaySettings(
      `trustDomain: demo.test\nworkload: { serviceAccount: gw }\nidentity: { files: { svid: a, key: b, bundle: c } }\ndocuments: d/\nunsafeClientHeaders: ${list}\n`,
      'gateway.yaml',
    );
  const refused: [string, RegExp][] = [
    ['[X-Forwarded-For]', /gateway\.yaml:5:23: .*'x-forwarded-for' would let a client set x-forwarded-for/],
    ['["x-forwarded-*"]', /'x-forwarded-\*' would let a client set x-forwarded-for, which only the gateway sets/],
    ['["*"]', /a header's name, or the start of names and a star/],
    ['[Txn-Token]', /would let a client set txn-token/],
    ['[x-mine]', /'x-mine' passes anyway: it is not a header that proxies set/],
  ];
  for (const [list, message] of refused) {
    let said = '';
    try {
      read(list);
    } catch (error) {
      const { problems } = error as { problems: { file: string; line: number; column: number; message: string }[] };
      said = problems.map((one) => `${one.file}:${one.line}:${one.column}: ${one.message}`).join('\n');
    }
    t.match(said, message, list);
  }
});

// SecurityPolicy documents: what is read of them, and what is wrong with them, with its place.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { type ReadPolicy, readSecurityPolicy } from '../../../sidecar/documents/envoy-gateway/security-policy.ts';
import { hashApiKey } from '../../../sidecar/edge/api-key/api-key.ts';
import { type Parts, policyOf, toolsFor } from '../../fixtures/edge.ts';
import { compileSecurity } from '../../fixtures/security.ts';

const head = `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: p, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
`;

function read(text: string): ReadPolicy {
  const { documents, problems } = parseYaml(text, 'a.yaml');
  if (problems.length > 0) throw new Error(problems.map(formatProblem).join('\n'));
  return readSecurityPolicy(documents[0]!, 'a.yaml');
}

function problemsOf(text: string): string[] {
  const result = read(text);
  return 'problems' in result ? result.problems.map(formatProblem) : [];
}

t.test('what is read is plain data that survives the way between processes', async (t) => {
  const result = read(`${head}  jwt:
    providers:
      - name: corp
        issuer: https://iss.test
        audiences: [orders]
        remoteJWKS: { uri: https://iss.test/keys }
        claimToHeaders: [{ header: X-User, claim: sub }]
  oidc:
    provider: { issuer: https://op.test }
    clientID: edge
    clientSecret: { name: s }
    scopes: [email, openid]
    redirectURL: https://shop.test/oauth2/callback
    cookieNames: { accessToken: at, idToken: it }
    defaultRefreshTokenTTL: 24h
  apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [X-Key] }] }
  basicAuth: { users: { name: u } }
  introspection: { endpoint: https://op.test/i, clientID: edge, clientSecret: { name: s } }
  extAuth:
    http: { backendRefs: [{ name: authz, port: 80 }], path: /check, headersToBackend: [X-User] }
    headersToExtAuth: [Cookie]
  cors: { allowOrigins: ["https://*.shop.test"], allowMethods: [GET], maxAge: 10m }
  authorization:
    rules:
      - { name: clerks, action: Allow, principal: { jwt: { provider: corp, scopes: [read] } } }
      - { action: Deny, operation: { methods: [POST] }, principal: { clientCIDRs: [10.0.0.0/8] } }
`);
  if ('problems' in result) throw new Error(result.problems.map(formatProblem).join('\n'));
  const { value, warnings } = result;
  t.strictSame(JSON.parse(JSON.stringify(value)), value);
  t.ok(Object.isFrozen((value as Parts).authorization!.rules[0]));
  t.match(value, {
    name: 'p',
    namespace: 'shop',
    targets: [{ kind: 'HTTPRoute', name: 'r' }],
    jwt: {
      optional: false,
      providers: [{ name: 'corp', rule: { jwksUri: 'https://iss.test/keys', fromHeaders: [] } }],
    },
    oidc: {
      scopes: ['openid', 'email'],
      refreshMs: 86_400_000,
      loginMs: 600_000,
      sameSite: 'Lax',
      cookieName: 'it',
      logoutPath: '/logout',
    },
    apiKeyAuth: { sanitize: true, extractFrom: [{ headers: ['x-key'], params: [], cookies: [] }] },
    introspection: { cacheMs: 60_000, audiences: [] },
    extAuth: {
      kind: 'http',
      backendRef: { kind: 'Service', name: 'authz', port: 80 },
      path: '/check',
      headersToExtAuth: ['cookie'],
      headersToBackend: ['x-user'],
      timeoutMs: 10_000,
    },
    cors: { allowOrigins: ['https://*.shop.test'], maxAge: 600, allowCredentials: false },
    authorization: {
      defaultAction: 'Deny',
      rules: [
        { name: 'securitypolicy/shop/p/authorization/rule/clerks', jwt: { scopes: ['read'], claims: [] } },
        { name: 'securitypolicy/shop/p/authorization/rule/1', methods: ['POST'], clientCidrs: ['10.0.0.0/8'] },
      ],
    },
    file: 'a.yaml',
    line: 3,
  });
  t.strictSame(warnings.map(formatProblem), [
    "a.yaml:19:33: spec.oidc.cookieNames.accessToken: all tokens are in one encrypted cookie, which 'idToken' names",
  ]);
});

const oidc = (more: string): string =>
  `${head}  oidc: { provider: { issuer: https://op.test }, clientID: e, clientSecret: { name: s }, redirectURL: https://a.test/cb, ${more} }\n`;
const rule = (text: string): string => `${head}  authorization: { rules: [${text}] }\n`;

const wrong: [string, string, string[]][] = [
  ['an unknown key', `${head}  jwtt: {}\n`, ["a.yaml:6:3: unknown key 'jwtt' (did you mean 'jwt'?)"]],
  [
    'no target',
    head.replace(/ {2}targetRefs.*\n/, '  cors: {}\n'),
    ["a.yaml:5:3: spec: needs exactly one of 'targetRef' and 'targetRefs'"],
  ],
  [
    'a target elsewhere',
    head.replace('name: r', 'name: r, namespace: x'),
    ["a.yaml:5:89: spec.targetRefs[0].namespace: targets are always in the policy's namespace: leave it out"],
  ],
  [
    'a target of another kind',
    head.replace('HTTPRoute', 'Service'),
    ['a.yaml:5:58: spec.targetRefs[0].kind: a target must be a Gateway, an HTTPRoute or a GRPCRoute'],
  ],
  [
    'what Envoy Gateway has and this build has not',
    `${head}  targetSelectors: []\n  mergeType: Replace\n`,
    [
      "a.yaml:6:20: spec.targetSelectors: targets must be named: write 'targetRefs'",
      "a.yaml:7:14: spec.mergeType: 'mergeType' is StrategicMerge or JSONMerge",
    ],
  ],
  [
    'a provider that recomputes the route, without issuer and keys',
    `${head}  jwt: { providers: [{ name: a, recomputeRoute: true, claimToHeaders: [{ header: Host, claim: a }] }] }\n`,
    [
      'a.yaml:6:22: spec.jwt.providers[0].issuer: a provider needs an issuer',
      "a.yaml:6:82: spec.jwt.providers[0].claimToHeaders[0].header: 'Host' cannot be set: it is hop-by-hop",
      'a.yaml:6:49: spec.jwt.providers[0].recomputeRoute: the route is chosen once, before authentication, and claims do not change it',
    ],
  ],
  [
    'keys in the clear',
    `${head}  jwt: { providers: [{ name: a, issuer: i, remoteJWKS: { uri: "http://iss.test/keys" } }] }\n`,
    [
      "a.yaml:6:63: spec.jwt.providers[0].remoteJWKS.uri: 'http://iss.test/keys' would carry credentials in the clear: write https://",
    ],
  ],
  [
    'no keys',
    `${head}  jwt: { providers: [{ name: a, issuer: i }] }\n`,
    ["a.yaml:6:22: spec.jwt.providers[0]: a provider needs exactly one of 'remoteJWKS' and 'localJWKS'"],
  ],
  [
    'a password in a URL is not repeated',
    `${head}  introspection: { endpoint: "https://u:secret@op.test/", clientID: a, clientSecret: { name: s } }\n`,
    ["a.yaml:6:30: spec.introspection.endpoint: 'https://...@op.test/' holds a password: name a Secret instead"],
  ],
  [
    'a Secret elsewhere',
    `${head}  basicAuth: { users: { name: u, namespace: x } }\n`,
    ['a.yaml:6:45: spec.basicAuth.users.namespace: a Secret is taken from the namespace of its policy: leave it out'],
  ],
  [
    'a login without its redirect',
    `${head}  oidc: { provider: { issuer: https://op.test }, clientID: e, clientSecret: { name: s } }\n`,
    [
      'a.yaml:6:9: spec.oidc.redirectURL: required: the URL that the provider redirects browsers to is not guessed from the request',
    ],
  ],
  [
    'a redirect that is made of headers',
    oidc('logoutPath: /l').replace('https://a.test/cb', '"%REQ(x-forwarded-proto)%://%REQ(:authority)%/cb"'),
    ["a.yaml:6:103: spec.oidc.redirectURL: '%REQ(x-forwarded-proto)%://%REQ(:authority)%/cb' is not an https:// URL"],
  ],
  [
    'a logout at the redirect',
    oidc('logoutPath: /cb'),
    ["a.yaml:6:134: spec.oidc.logoutPath: must differ from the path of 'redirectURL'"],
  ],
  [
    'cookies of another domain',
    oidc('cookieDomain: b.test'),
    ["a.yaml:6:136: spec.oidc.cookieDomain: 'a.test' of redirectURL is not within 'b.test'"],
  ],
  [
    'tokens in the clear',
    oidc('disableTokenEncryption: true'),
    ['a.yaml:6:146: spec.oidc.disableTokenEncryption: tokens are always encrypted'],
  ],
  [
    'a header that no method reads',
    oidc('passThroughAuthHeader: true'),
    ["a.yaml:6:145: spec.oidc.passThroughAuthHeader: has no effect without 'jwt' or 'introspection'"],
  ],
  [
    'an authorizer that fails open and reads bodies',
    `${head}  extAuth: { failOpen: true, bodyToExtAuth: { maxRequestBytes: 1 }, grpc: { backendRef: { name: a, port: 1 } } }\n`,
    [
      'a.yaml:6:24: spec.extAuth.failOpen: a request is refused if the authorizer does not respond: failing open is not supported',
      'a.yaml:6:45: spec.extAuth.bodyToExtAuth: the authorizer is asked before the body is read, and gets only the head',
    ],
  ],
  [
    'an authorizer that may say anything',
    `${head}  extAuth: { http: { backendRef: { name: a, port: 80 }, headersToBackend: [x-user, "x-*"] } }\n`,
    ['a.yaml:6:84: spec.extAuth.http.headersToBackend[1]: name each header, without a star'],
  ],
  ['no authorizer', `${head}  extAuth: {}\n`, ["a.yaml:6:12: spec.extAuth: needs exactly one of 'grpc' and 'http'"]],
  [
    'every page of the world with credentials',
    `${head}  cors: { allowOrigins: ["*"], allowCredentials: true }\n`,
    ['a.yaml:6:25: spec.cors.allowOrigins: with credentials any website could act as the user: name the origins'],
  ],
  [
    'a key that is nowhere',
    `${head}  apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [a], params: [b] }] }\n`,
    ["a.yaml:6:62: spec.apiKeyAuth.extractFrom[0]: needs exactly one of 'headers', 'params' and 'cookies'"],
  ],
  [
    'a rule with an empty principal',
    rule('{ action: Allow, principal: {} }'),
    [
      "a.yaml:6:56: spec.authorization.rules[0].principal: matches no caller: set 'clientCIDRs', 'jwt', 'headers', 'clientIDs' or 'spiffeIDs'",
    ],
  ],
  [
    'a place in the world, an address that is none, another action',
    rule('{ action: Permit, principal: { clientCIDRs: [10.0.0.0/33], clientIPGeoLocations: [] } }'),
    [
      "a.yaml:6:38: spec.authorization.rules[0].action: an action is 'Allow' or 'Deny'",
      "a.yaml:6:73: spec.authorization.rules[0].principal.clientCIDRs[0]: '10.0.0.0/33' is neither an address nor a CIDR block",
      'a.yaml:6:109: spec.authorization.rules[0].principal.clientIPGeoLocations: there is no database of the locations of addresses',
    ],
  ],
  [
    'claims that no provider verifies, clients that no method authenticates',
    rule('{ action: Allow, principal: { jwt: { provider: a, scopes: [b] }, clientIDs: [c] } }'),
    [
      "a.yaml:6:75: spec.authorization.rules[0].principal.jwt.provider: 'a': this policy verifies no tokens",
      "a.yaml:6:104: spec.authorization.rules[0].principal.clientIDs: clients are identified by 'apiKeyAuth' or 'basicAuth', and this policy has neither",
    ],
  ],
  [
    'paths and identities that match nothing',
    rule('{ action: Allow, operation: { paths: [a, "/a*b", "/{x}"] }, principal: { spiffeIDs: ["*"] } }'),
    [
      "a.yaml:6:66: spec.authorization.rules[0].operation.paths[0]: 'a' matches no path: a path begins with / or *",
      "a.yaml:6:69: spec.authorization.rules[0].operation.paths[1]: '/a*b': a path has one star at most, at an end, and no query",
      "a.yaml:6:77: spec.authorization.rules[0].operation.paths[2]: '/{x}': a path has one star at most, at an end, and no query",
      "a.yaml:6:113: spec.authorization.rules[0].principal.spiffeIDs[0]: '*' is neither a SPIFFE ID nor the start of one that ends in /*",
    ],
  ],
];

for (const [name, text, expected] of wrong)
  t.test(name, async (t) => {
    t.strictSame(problemsOf(text), expected);
  });

t.test('a policy that cannot be read says what it was meant for', async (t) => {
  const group = 'gateway.networking.k8s.io';
  const rows: [string, string, unknown][] = [
    ['a list', `${head}  nonsense: 1\n`, [{ group, kind: 'HTTPRoute', name: 'r' }]],
    [
      'one',
      head.replace(
        /targetRefs.*/,
        `targetRef: { group: ${group}, kind: Gateway, name: g, sectionName: https }\n  x: 1`,
      ),
      [{ group, kind: 'Gateway', name: 'g', sectionName: 'https' }],
    ],
    [
      'a section that cannot be read means the whole',
      head.replace('name: r', 'name: r, sectionName: "?", more: 1'),
      [{ group, kind: 'HTTPRoute', name: 'r' }],
    ],
    ['none', head.replace(/targetRefs.*/, 'targetRefs: [{ kind: Pod, name: a }]'), undefined],
    ['no spec at all', head.replace(/spec:[\s\S]*/, 'spec: 1'), undefined],
  ];
  for (const [name, text, targets] of rows) {
    const result = read(text);
    t.ok('problems' in result, name);
    t.strictSame('problems' in result ? result.targets : 'read', targets, name);
  }
});

t.test('a policy is compiled only with Secrets that hold what they must', async (t) => {
  const apiKeys =
    'apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [x-key] }], forwardClientIDHeader: X-C }\n';
  const login =
    'oidc: { provider: { issuer: https://op.test }, clientID: e, clientSecret: { name: s }, sessionKeys: { name: sk }, redirectURL: https://a.test/cb }\n';
  const rows: [string, string, Record<string, Record<string, string>>, string][] = [
    ['no Secret', apiKeys, {}, "SecurityPolicy shop/p: there is no Secret 'k' in namespace 'shop'"],
    [
      'no users',
      'basicAuth: { users: { name: u } }\n',
      { u: { htpasswd: 'a:b' } },
      "SecurityPolicy shop/p: Secret 'u' has no '.htpasswd'",
    ],
    [
      'no client secret',
      login,
      { s: { 'client-secret': '\n' } },
      "SecurityPolicy shop/p: Secret 's' has no 'client-secret'",
    ],
    [
      'a short session key',
      login,
      { s: { 'client-secret': 'x' }, sk: { 'session-keys': `${'a'.repeat(40)}\nshort` } },
      'SecurityPolicy shop/p: a session key has 5 bytes, but it needs at least 32',
    ],
  ];
  for (const [name, spec, secrets, message] of rows)
    t.throws(() => compileSecurity(policyOf(spec), toolsFor(secrets)), { code: 'config_invalid', message }, name);
  const { ownHeaders, warnings } = compileSecurity(
    policyOf(apiKeys),
    toolsFor({ k: { web: hashApiKey('a-key-that-is-long-enough'), cron: 'a-key-that-is-readable' } }),
  );
  t.strictSame([...ownHeaders], ['x-c']);
  t.strictSame(warnings, [
    "SecurityPolicy shop/p: the key of client 'cron' is in plaintext in Secret 'k': write its hash, sha256:...",
  ]);
});

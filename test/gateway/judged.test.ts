// What is found before anybody asks: `gateway --check`, `gateway status` and the log of a running gateway say of
// everything that it will not be served as it was meant, and the three of them agree.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { isBad, sectionsOf } from '../../sidecar/routing/status.ts';
import { startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, webGateway as gateway, webRoute as route, serviceOf } from '../fixtures/plan.ts';
import { type Owner, tempDir, until } from '../fixtures/process.ts';

const target = 'targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]';
const policy = (spec: string, kind = 'SecurityPolicy'): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ${kind}\nmetadata: { name: p, namespace: shop }\nspec: { ${target}, ${spec} }\n`;
const secret = (name: string, data: object): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: 'shop' }, stringData: data })}\n`;
const backed = 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n';
const oidc =
  'oidc: { provider: { issuer: "https://op.test" }, clientID: c, clientSecret: { name: oidc }, redirectURL: "https://a.test/oauth2/callback" }';
const limit = (type: string): string =>
  `rateLimit: { type: ${type}, ${type.toLowerCase()}: { rules: [{ limit: { requests: 1, unit: Second } }] } }`;

/** Everything that is not as it should be, as `KIND name: type=status reason: message`, and the warnings. */
async function judge(
  t: Owner,
  documents: string,
  yaml = backed,
  files: Readonly<Record<string, string>> = {},
): Promise<string[]> {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'documents', 'all.yaml'), documents, { mode: 0o600 });
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), text, { mode: 0o600 });
  }
  writeFileSync(
    join(dir, 'gateway.yaml'),
    `trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\n${yaml}`,
  );
  const { list, warnings } = await readStatus(join(dir, 'gateway.yaml'), Date.now());
  return [
    ...list.items.flatMap((item) =>
      sectionsOf(item).flatMap(({ conditions }) =>
        conditions
          .filter(isBad)
          .map((one) => `${item.kind} ${item.metadata.name}: ${one.type}=${one.status} ${one.reason}: ${one.message}`),
      ),
    ),
    ...warnings.map((one) => one.replace(`${dir}/`, '')),
  ];
}

/** Why documents are refused as a whole. */
async function refusalOf(t: Owner, documents: string): Promise<string> {
  try {
    await judge(t, documents);
  } catch (error) {
    if (error instanceof SallyportError) return error.problems.map(formatProblem).join('\n');
  }
  return 'they are taken';
}

t.test('mistakes that show only when rules are compiled', async (t) => {
  t.same(await judge(t, gateway + route), [], 'everything is valid');
  const keys = 'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }] }';
  const invalid = /^SecurityPolicy p: Accepted=False Invalid: /;
  const cases: [name: string, said: string[], expected: RegExp][] = [
    ['a short key', await judge(t, gateway + route + policy(keys) + secret('keys', { c: 'short' })), invalid],
    ['no Secret', await judge(t, gateway + route + policy(keys)), invalid],
    [
      'passwords in an unsupported form',
      await judge(
        t,
        gateway + route + policy('basicAuth: { users: { name: users } }') + secret('users', { '.htpasswd': 'a:b' }),
      ),
      invalid,
    ],
    [
      'an authorizer that does not exist',
      await judge(t, gateway + route + policy('extAuth: { http: { backendRef: { name: gone, port: 80 } } }')),
      /^SecurityPolicy p: Accepted=False Invalid: there is no Service shop\/gone/,
    ],
    [
      'shared limits without Redis',
      await judge(t, gateway + route + policy(limit('Global'), 'BackendTrafficPolicy')),
      /^BackendTrafficPolicy p: Accepted=False Invalid: .* no Redis is configured/,
    ],
    [
      'a session key that is too short',
      await judge(
        t,
        gateway + route + policy(oidc) + secret('oidc', { 'client-secret': 'x'.repeat(32) }),
        `${backed}sessionKeys: k\n`,
        {
          k: 'short\n',
        },
      ),
      /^SecurityPolicy p: Accepted=False Invalid: .*a session key has 5 bytes/,
    ],
    [
      'missing session keys',
      await judge(
        t,
        gateway + route + policy(oidc) + secret('oidc', { 'client-secret': 'x'.repeat(32) }),
        `${backed}sessionKeys: k\n`,
      ),
      /^SecurityPolicy p: Accepted=False Invalid: .*the file of 'sessionKeys' in gateway\.yaml is missing or empty/,
    ],
    [
      'a backend in plaintext',
      await judge(t, gateway + route, 'upstreams: { a: { endpoints: ["10.1.2.3:80"] } }\nbackends: { shop/a:80: a }\n'),
      /^HTTPRoute r: BackendsAvailable=False InvalidBackend: upstream 'a' has neither 'identity' nor/,
    ],
    [
      'a Service without endpoints',
      await judge(t, gateway + route + serviceOf('a'), ''),
      /^HTTPRoute r: BackendsAvailable=False EndpointsNotFound: Service shop\/a:80 has no endpoint/,
    ],
    [
      'a missing certificate',
      (
        await judge(
          t,
          documentOf(
            'Gateway',
            'g',
            '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP }, { name: tls, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: cert }] } }] }',
          ) + route,
          `${backed}certificates: { shop/cert: { certificate: cert.pem, key: cert.key } }\n`,
        )
      ).filter((one) => one.includes('ResolvedRefs')),
      /^Gateway g: ResolvedRefs=False InvalidCertificateRef: a file that 'certificates' names for shop\/cert is missing or empty$/,
    ],
    [
      'an unread file in a subdirectory',
      await judge(t, gateway + route, backed, {
        'documents/team/policy.yaml.bak': policy('authorization: { defaultAction: Deny }'),
      }),
      /^documents\/team\/policy\.yaml\.bak:1:1: this file is not read: only files that end in \.yaml, \.yml or \.json are read$/,
    ],
    [
      'missing error pages',
      await judge(t, gateway + route, `${backed}errorPages: pages\n`),
      /^gateway\.yaml:1:1: errorPages: .* contains no page$/,
    ],
  ];
  for (const [name, said, expected] of cases) {
    t.equal(said.length, 1, name);
    t.match(said[0], expected, name);
  }
  const redis = 'redis: { url: "redis://:hunter2@localhost" }\n';
  await t.rejects(judge(t, gateway + route, backed + redis), { message: 'the URL of Redis holds a password' });
});

t.test('BackendTLSPolicy names a port by its name or its number; an unknown one closes the Service', async (t) => {
  const tls = (section: string): string =>
    `---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: b, namespace: shop }\nspec: { targetRefs: [{ group: "", kind: Service, name: a, sectionName: "${section}" }], validation: { hostname: a.test, wellKnownCACertificates: System } }\n`;
  const named =
    '---\napiVersion: v1\nkind: Service\nmetadata: { name: a, namespace: shop }\nspec: { ports: [{ name: web, port: 80 }] }\n';
  t.same(await judge(t, gateway + route + named + tls('web')), []);
  t.same(await judge(t, gateway + route + named + tls('80')), []);
  t.same(await judge(t, gateway + route + tls('80')), [], 'without the Service only the number is known');
  t.match(await judge(t, gateway + route + named + tls('https')), [
    /^HTTPRoute r: BackendsAvailable=False InvalidBackend: BackendTLSPolicy shop\/b is for port 'https' of Service shop\/a, which it does not have$/,
    /^BackendTLSPolicy b: Accepted=False TargetNotFound: BackendTLSPolicy shop\/b is for port 'https'/,
  ]);
  t.match(
    (await judge(t, gateway + route + tls('https')))[0],
    /which cannot be resolved without a document of that Service$/,
  );
});

t.test('documents with small mistakes', async (t) => {
  const said = await judge(
    t,
    `---\n# nothing\n---\n${gateway}${route}---\n---\n${policy('authorization: { defaultAktion: Deny }')}---\n`,
  );
  t.match(
    said,
    [/^SecurityPolicy p: .*unknown key 'defaultAktion' \(did you mean 'defaultAction'\?\)/],
    'the problem has a hint',
  );
  const parents = '{ parentRef: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }';
  t.match(await judge(t, gateway + documentOf('HTTPRoute', 'slip', parents)), [
    /all\.yaml:\d+:\d+: .*unknown key 'parentRef' \(did you mean 'parentRefs'\?\)/,
  ]);
  t.match(await judge(t, gateway + documentOf('HTTPRoute', 'none', '{ rules: [{}] }')), [
    /all\.yaml:\d+:\d+: this HTTPRoute names no Gateway in 'parentRefs': it is not served/,
  ]);
  t.match(
    await judge(
      t,
      gateway +
        route +
        policy('targetRef: { kind: HTTPRoute }', 'BackendTrafficPolicy')
          .replace(
            /targetRefs.*?\], /,
            'targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, namespace: shop }, ',
          )
          .replace(/, targetRef: \{ kind: HTTPRoute \}/, ''),
    ),
    [/^BackendTrafficPolicy p: Accepted=False Invalid: .*namespace/],
  );
  const elsewhere = policy('authorization: { defaultAction: Deny }');
  for (const apiVersion of ['gateway.envoyproxy.com/v1alpha1', '1'])
    t.match(await judge(t, gateway + route + elsewhere.replace(/apiVersion:.*/, `apiVersion: ${apiVersion}`)), [
      /^SecurityPolicy p: Accepted=False Invalid: .*:\d+:\d+: a SecurityPolicy belongs to group gateway\.envoyproxy\.io, not to .*what it names answers 500/,
    ]);
  const refused: [document: string, expected: RegExp][] = [
    [
      documentOf('TrafficPolicy', 'x', '{}').replace(/apiVersion:.*/, 'apiVersion: gateway.kgateway.dev/v1alpha1'),
      /kind TrafficPolicy is not served by a gateway/,
    ],
    [
      '---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurtyPolicy\nmetadata: { name: x }\n',
      /kind SecurtyPolicy is not served by a gateway \(did you mean 'SecurityPolicy'\?\)/,
    ],
    [
      '---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: { name: x }\n',
      /kind ClientTrafficPolicy is not served by a gateway \(gateway\.yaml has 'limits'/,
    ],
    ['---\napiVersion: v1\nkind: List\nitems: [null]\n', /:\d+:\d+: this document has no 'kind'/],
    [
      policy('authorization: { defaultAction: Deny }').replace('name: r }]', 'name: r }, { kind: HTTPRoute }]'),
      /targetRefs\[1\]/,
    ],
  ];
  for (const [document, expected] of refused) t.match(await refusalOf(t, gateway + route + document), expected);
});

t.test('a running gateway logs what it stopped serving, each time, and shows it', async (t) => {
  const app = await startEcho(t, 'a');
  const running = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'gateway.yaml': gateway, 'route.yaml': route, 'policy.yaml': '# none' },
  });
  const saidOf = (code: string): string[] =>
    running.lines.filter((one) => one['code'] === code).map(({ msg }) => String(msg));
  const shared = policy(limit('Global'), 'BackendTrafficPolicy');
  await running.write('policy.yaml', shared);
  await running.write('policy.yaml', '# none');
  await running.write('policy.yaml', shared);
  t.match(saidOf('policy_not_attached'), [
    /p of .*policy\.yaml:4 is not attached: Invalid/,
    /is not attached: Invalid/,
  ]);
  t.equal((await ask(running.port('shop/g:80'), '/', { headers: { host: 'a.test' } })).status, 500);
  const page = await (await fetch(`http://127.0.0.1:${running.admin}/gateway-status`)).text();
  t.match(page, /no Redis is configured/);
  await running.write('policy.yaml', '# none');
  await running.write('route.yaml', route.replace('name: g }', 'name: gone }'));
  t.match(saidOf('document_condition'), [
    /^HTTPRoute shop\/r of .*route\.yaml:\d+ \(gone\) has Accepted=False: NoMatchingParent: Gateway shop\/gone does not exist/,
  ]);
});

t.test('a request in flight whose rule becomes invalid gets what a new one gets', async (t) => {
  let arrived = false;
  const slow = await startHttpAuthorizer(t, () => {
    arrived = true;
  });
  const running = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${slow.port}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': gateway + route, 'policy.yaml': '# none' },
  });
  const answer = ask(running.port('shop/g:80'), '/', { headers: { host: 'a.test' } });
  await until(() => arrived, 'the request');
  await running.write('policy.yaml', policy('faultInjection: {}', 'BackendTrafficPolicy'));
  t.equal((await answer).status, 500);
});

// A route's SecurityPolicy with only `cors` overrides the Gateway's `jwt`. That is Envoy Gateway's order, and it is
// kept; but it is reported, by the condition Overridden and by the names of the lost parts; `mergeType` keeps both, and
// a policy with `sallyport.dev/inherit: required` cannot be lost at all.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { hashApiKey } from '../../sidecar/edge/api-key/api-key.ts';
import type { SecurityPolicy } from '../../sidecar/edge/policy.ts';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { runCommand } from '../fixtures/command.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, planOf, serviceOf } from '../fixtures/plan.ts';
import { tempDir } from '../fixtures/process.ts';

interface Of {
  readonly kind?: string;
  readonly name?: string;
  /** `Gateway edge/g/web`: kind, namespace/name, section. */
  readonly target: string;
  readonly spec: string;
  readonly annotations?: string;
}

function policy({ kind = 'SecurityPolicy', name, target, spec, annotations }: Of): string {
  const [of, path] = target.split(' ') as [string, string];
  const [namespace, to, section] = path.split('/') as [string, string, string?];
  const more = annotations === undefined ? '' : `, annotations: { ${annotations} }`;
  return `---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ${kind}
metadata: { name: ${name ?? `of-${to}${section === undefined ? '' : `-${section}`}`}, namespace: ${namespace}${more} }
spec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: ${of}, name: ${to}${section === undefined ? '' : `, sectionName: ${section}`} }], ${spec} }
`;
}

const required = 'sallyport.dev/inherit: required';
const key = (secret: string): string =>
  `apiKeyAuth: { credentialRefs: [{ name: ${secret} }], extractFrom: [{ headers: [x-api-key] }] }`;
const cors = 'cors: { allowOrigins: [https://a.test] }';
const jwt = (issuer: string): string =>
  `jwt: { providers: [{ name: ${issuer}, issuer: ${issuer}, localJWKS: { inline: '{"keys":[]}' } }] }`;
const secretOf = (namespace: string, name: string, value: string): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: ${namespace} }\nstringData: { ann: "${hashApiKey(value)}" }\n`;

const all = '{ namespaces: { from: All } }';
const gatewayDocument = documentOf(
  'Gateway',
  'edge/g',
  `{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP, allowedRoutes: ${all} }, { name: other, port: 81, protocol: HTTP, allowedRoutes: ${all} }] }`,
);
const route = (name: string): string =>
  documentOf(
    'HTTPRoute',
    `shop/${name}`,
    `{ parentRefs: [{ name: g, namespace: edge, sectionName: web }], rules: [{ name: first, matches: [{ path: { value: /${name} } }], backendRefs: [{ name: a, port: 80 }] }] }`,
  );
const world = gatewayDocument + route('r') + serviceOf('a');
const ofGateway = (spec: string, annotations?: string): string =>
  policy({ target: 'Gateway edge/g', spec, ...(annotations === undefined ? {} : { annotations }) });
const ofRoute = (spec: string): string => policy({ target: 'HTTPRoute shop/r', spec });

const place = {
  ...{ kind: 'HTTPRoute', namespace: 'shop', route: 'r', rule: 'first' },
  ...{ gatewayNamespace: 'edge', gateway: 'g', listener: 'web' },
};

/** What applies to the rule: its parts, or why it is closed; the status of each policy; and what is lost. */
function judge(documents: string) {
  const { plan, list } = planOf(world + documents);
  const held = plan.security.policyFor(place);
  const parts =
    held === undefined
      ? []
      : ['jwt', 'apiKeyAuth', 'cors', 'authorization', 'oidc', 'basicAuth'].filter((one) => one in held);
  const told = Object.fromEntries(
    list.items
      .filter(({ kind }) => kind.endsWith('Policy'))
      .map(({ metadata, status }) => [
        metadata.name,
        (
          status as { ancestors: { conditions: { type: string; status: string; message: string }[] }[] }
        ).ancestors.flatMap(({ conditions }) =>
          conditions.map((one) => `${one.type}=${one.status} ${one.message}`.trim()),
        ),
      ]),
  );
  const why = held !== undefined && 'problems' in held ? held.problems[0]!.message : undefined;
  return {
    held: held as SecurityPolicy | undefined,
    why,
    parts,
    told,
    losses: plan.losses,
    traffic: plan.traffic.policyFor(place),
  };
}

t.test('a displaced policy has a condition that names the lost parts', async (t) => {
  const { parts, told, losses } = judge(
    ofGateway(`${jwt('a')}, authorization: { defaultAction: Deny }`) + ofRoute(cors),
  );
  t.strictSame(parts, ['cors'], 'the order of Envoy Gateway');
  t.strictSame(told['of-g'], [
    'Accepted=True',
    'Overridden=True This policy is being overridden by other securityPolicies for these routes: [shop/r]',
  ]);
  t.strictSame(told['of-r'], ['Accepted=True']);
  t.strictSame(losses, [
    "SecurityPolicy shop/of-r takes the place of 'jwt', 'authorization' of SecurityPolicy edge/of-g (mergeType would keep it) for HTTPRoute shop/r",
  ]);
});

t.test("at each level: a rule's policy before its route's, a listener's before its Gateway's", async (t) => {
  const rule = policy({ target: 'HTTPRoute shop/r/first', spec: cors });
  const listener = policy({ target: 'Gateway edge/g/web', spec: cors });
  const { told, losses } = judge(ofGateway(key('k')) + listener + ofRoute(jwt('a')) + rule);
  t.match(told['of-r'], ['Accepted=True', /overridden by other securityPolicies for these route rules: \[first\]$/]);
  t.match(told['of-g'], ['Accepted=True', /for these listeners: \[web\] and these routes: \[shop\/r\]$/]);
  t.match(told['of-g-web'], ['Accepted=True', /for these routes: \[shop\/r\]$/]);
  t.match(losses.toSorted(), [
    /^SecurityPolicy edge\/of-g-web takes the place of 'apiKeyAuth' of SecurityPolicy edge\/of-g for listener web of Gateway edge\/g$/,
    /^SecurityPolicy shop\/of-r-first takes the place of 'apiKeyAuth' of SecurityPolicy edge\/of-g .*for rule first of HTTPRoute shop\/r$/,
    /^SecurityPolicy shop\/of-r-first takes the place of 'jwt' of SecurityPolicy shop\/of-r .*for rule first of HTTPRoute shop\/r$/,
  ]);
  t.strictSame(
    judge(ofGateway(cors) + policy({ target: 'Gateway edge/g/other', spec: key('k') })).told['of-g'],
    [
      'Accepted=True',
      'Overridden=True This policy is being overridden by other securityPolicies for these listeners: [other]',
    ],
    'a listener without routes',
  );
});

t.test('mergeType merges policies', async (t) => {
  for (const how of ['StrategicMerge', 'JSONMerge']) {
    const { parts, told, losses, held } = judge(
      ofGateway(`${key('k')}, ${jwt('a')}`) + ofRoute(`mergeType: ${how}, ${cors}, ${jwt('b')}`),
    );
    t.strictSame(parts, ['jwt', 'apiKeyAuth', 'cors'], how);
    t.match(held, { jwt: { providers: [{ name: 'b' }] } }, 'a list is replaced');
    t.strictSame(held?.namespaces, { apiKeyAuth: 'edge' }, 'its Secrets keep their namespace');
    t.strictSame(told['of-r'], ['Accepted=True', 'Merged=True Merged with policy edge/of-g']);
    t.strictSame(told['of-g'], ['Accepted=True'], 'it is not overridden');
    t.strictSame(losses, [
      "SecurityPolicy shop/of-r takes the place of 'jwt' of SecurityPolicy edge/of-g for HTTPRoute shop/r",
    ]);
  }
  t.match(
    judge(ofRoute(`mergeType: JSONMerge, ${cors}`)),
    { parts: ['cors'], told: { 'of-r': ['Accepted=True'] } },
    'there is nothing to merge with',
  );
  const nearest = judge(
    ofGateway(key('k')) +
      policy({ target: 'Gateway edge/g/web', spec: jwt('a') }) +
      ofRoute(`mergeType: JSONMerge, ${cors}`),
  );
  t.strictSame(nearest.parts, ['jwt', 'cors'], "merged with the listener's policy, which is nearer than the Gateway's");
});

t.test('a policy that cannot be merged as required closes its target', async (t) => {
  const cases: [string, string, RegExp][] = [
    [
      'a Gateway has no parent policy',
      ofGateway(`mergeType: JSONMerge, ${cors}`),
      /only the policy of a route is merged with another/,
    ],
    ['neither way', ofRoute('mergeType: Replace'), /'mergeType' is StrategicMerge or JSONMerge/],
    [
      'with an invalid policy',
      ofGateway('nope: 1') + ofRoute(`mergeType: JSONMerge, ${cors}`),
      /SecurityPolicy edge\/of-g is not valid/,
    ],
    [
      'a rule for a missing provider',
      ofGateway(key('k')) +
        ofRoute(
          'mergeType: JSONMerge, authorization: { rules: [{ action: Allow, principal: { jwt: { provider: a, scopes: [x] } } }] }',
        ),
      /'a': this policy verifies no tokens/,
    ],
    [
      'a policy that must be complete by itself',
      ofRoute('mergeType: JSONMerge, authorization: { rules: [{ action: Deny, principal: { clientIDs: [x] } }] }'),
      /clients are identified by 'apiKeyAuth' or 'basicAuth'/,
    ],
  ];
  for (const [name, documents, message] of cases) t.match(judge(documents).why, message, name);
  const used = ofRoute(
    'mergeType: StrategicMerge, authorization: { rules: [{ action: Allow, principal: { jwt: { provider: a, scopes: [x] } } }] }',
  );
  t.strictSame(judge(ofGateway(jwt('a')) + used).parts, ['jwt', 'authorization'], "the Gateway's provider");
});

t.test('a policy that must be inherited', async (t) => {
  const base = ofGateway(key('k'), required);
  const lost =
    /^'apiKeyAuth' of SecurityPolicy edge\/of-g would be lost, which must be inherited \(sallyport\.dev\/inherit: required\)$/;
  const around = (part: string): RegExp => new RegExp(`^'${part}' would bypass SecurityPolicy edge/of-g, `);
  const cases: [string, string, RegExp | undefined][] = [
    ['overridden by a route', ofRoute(cors), lost],
    ['overridden by a rule', policy({ target: 'HTTPRoute shop/r/first', spec: cors }), lost],
    ['overridden by a listener', policy({ target: 'Gateway edge/g/web', spec: cors }), lost],
    [
      'overridden by a policy for one listener only',
      policy({ target: 'Gateway edge/g/web', spec: cors }) + ofRoute(`mergeType: JSONMerge, ${cors}`),
      lost,
    ],
    ['overridden by another part in its place', ofRoute(`mergeType: JSONMerge, ${key('mine')}`), lost],
    ['overridden by the same name in another namespace', ofRoute(`mergeType: JSONMerge, ${key('k')}`), lost],
    [
      'overridden by another authentication method',
      ofRoute(`mergeType: JSONMerge, basicAuth: { users: { name: u } }`),
      around('basicAuth'),
    ],
    [
      'overridden by a policy on the same target that comes first',
      policy({ name: 'a-first', target: 'Gateway edge/g', spec: cors }),
      /^edge\/of-g and edge\/a-first have the same target, and edge\/of-g must be inherited \(sallyport\.dev\/inherit: required\)$/,
    ],
    ['added to', ofRoute(`mergeType: JSONMerge, ${cors}, authorization: { defaultAction: Deny }`), undefined],
    ['with no policy before it', '', undefined],
  ];
  for (const [name, documents, message] of cases) {
    const { why, told, parts } = judge(base + documents);
    if (message === undefined) {
      t.equal(why, undefined, name);
      t.ok(parts.includes('apiKeyAuth'), name);
      continue;
    }
    t.match(why, message, name);
    t.ok(
      Object.values(told)
        .flat()
        .some((one) => one.startsWith('Accepted=False') && message.test(one.slice('Accepted=False '.length))),
      name,
    );
  }
  t.match(
    judge(ofGateway('nope: 1', required) + ofRoute(cors)).why,
    /'spec' of SecurityPolicy edge\/of-g would be lost/,
    'an invalid policy',
  );
  for (const [annotation, message] of [
    ['sallyport.dev/inherit: yes', /must be 'required' or absent, not 'yes'/],
    ['sallyport.dev/inherits: required', /'sallyport\.dev\/inherits' is unknown/],
  ] as const)
    t.match(judge(ofGateway(key('k'), annotation)).why, message);
});

t.test('the limits of merging', async (t) => {
  const limit = (name: string, requests: number, more = ''): string =>
    `{ ${name === '' ? '' : `name: ${name}, `}limit: { requests: ${requests}, unit: Minute }${more} }`;
  const local = (...rules: string[]): string => `rateLimit: { type: Local, local: { rules: [${rules.join()}] } }`;
  const traffic = (target: string, spec: string, annotations?: string): string =>
    policy({ kind: 'BackendTrafficPolicy', target, spec, ...(annotations === undefined ? {} : { annotations }) });
  const rulesFor = (gateway: string, own: string, annotations?: string) => {
    const { traffic: held, losses } = judge(
      traffic('Gateway edge/g', gateway, annotations) + traffic('HTTPRoute shop/r', own),
    );
    const { rateLimit, problems, namespace, name } = held as unknown as {
      namespace: string;
      name: string;
      rateLimit?: { rules: { of?: string; id: string; requests: number }[] };
      problems?: { message: string }[];
    };
    return {
      rules: rateLimit?.rules.map(({ of, id, requests }) => `${of ?? `${namespace}/${name}`} ${id}: ${requests}`),
      why: problems?.[0]?.message,
      losses,
    };
  };
  const base = `${local(limit('a', 1, ', shared: true'), limit('b', 2))}, timeout: { http: { requestTimeout: 1s } }`;
  t.match(rulesFor(base, local(limit('c', 3))), {
    rules: ['shop/of-r local rule 1: 3'],
    losses: [
      /^BackendTrafficPolicy shop\/of-r takes the place of 'rateLimit', 'timeout' of BackendTrafficPolicy edge\/of-g/,
    ],
  });
  t.match(rulesFor(base, `mergeType: StrategicMerge, ${local(limit('b', 3), limit('', 4))}`), {
    rules: ['edge/of-g local rule 1: 1', 'shop/of-r local rule 2: 3', 'shop/of-r local rule 3: 4'],
    losses: [/takes the place of 'rateLimit' of/],
  });
  t.match(rulesFor(base, `mergeType: JSONMerge, ${local(limit('b', 3))}`).rules, ['shop/of-r local rule 1: 3']);
  t.strictSame(
    rulesFor(base, `mergeType: StrategicMerge, ${local(limit('c', 3))}`, required).losses,
    [],
    'an added limit removes nothing',
  );
  t.match(
    rulesFor(base, `mergeType: JSONMerge, ${local(limit('c', 3))}`, required).why,
    /^'rateLimit' of BackendTrafficPolicy edge\/of-g would be lost/,
  );
  t.match(
    rulesFor(
      base,
      'mergeType: StrategicMerge, rateLimit: { type: Global, global: { rules: [{ limit: { requests: 5, unit: Hour } }] } }',
    ).rules,
    ['edge/of-g local rule 1: 1', 'edge/of-g local rule 2: 2', 'shop/of-r global rule 1: 5'],
  );
});

t.test('on the wire, the nearest policy applies', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['edge/g:80', 'edge/g:81'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents:
      world +
      ['merged', 'closed'].map(route).join('') +
      secretOf('edge', 'k', 'of-the-edge-and-long') +
      secretOf('shop', 'k', 'of-the-shop-and-long') +
      policy({ target: 'Gateway edge/g', spec: key('k'), annotations: required }) +
      policy({ target: 'HTTPRoute shop/merged', spec: `mergeType: StrategicMerge, ${cors}` }) +
      policy({ target: 'HTTPRoute shop/closed', spec: cors }),
  });
  const status = async (path: string, apiKey?: string): Promise<number> =>
    (
      await ask(gateway.port('edge/g:80'), path, {
        headers: { host: 'x.test', ...(apiKey === undefined ? {} : { 'x-api-key': apiKey }) },
      })
    ).status;
  t.equal(await status('/r'), 401);
  t.equal(await status('/merged'), 401);
  t.equal(await status('/merged', 'of-the-edge-and-long'), 200, "the Gateway's Secret is from the Gateway's namespace");
  t.equal(
    await status('/merged', 'of-the-shop-and-long'),
    401,
    'and not the Secret of that name in the route’s namespace',
  );
  t.equal(await status('/closed', 'of-the-edge-and-long'), 500);
  t.match(
    gateway.lines.filter(({ code }) => code === 'policy_not_attached'),
    [{ msg: /SecurityPolicy shop\/of-closed .*'apiKeyAuth' of SecurityPolicy edge\/of-g would be lost/ }],
  );
});

t.test('--check names the lost parts, and fails if they are required', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  const config = join(dir, 'gateway.yaml');
  writeFileSync(
    config,
    'trustDomain: demo.test\nworkload: { serviceAccount: g }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\nupstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  const check = (documents: string): ReturnType<typeof runCommand> => {
    writeFileSync(join(dir, 'documents', 'all.yaml'), world + documents);
    return runCommand(t, ['gateway', '--config', config, '--check']);
  };
  t.match(await check(ofGateway(jwt('a')) + ofRoute(cors)), {
    code: 0,
    stderr: /warning: SecurityPolicy shop\/of-r takes the place of 'jwt' of SecurityPolicy edge\/of-g/,
  });
  t.match(await runCommand(t, ['gateway', 'status', '--config', config]), {
    code: 0,
    stdout: /^SecurityPolicy +edge\/of-g .*Overridden +Overridden +This policy is being overridden/m,
  });
  t.match(await check(ofGateway(jwt('a'), required) + ofRoute(cors)), {
    code: 1,
    stdout: /'jwt' of SecurityPolicy edge\/of-g would be lost/,
  });
  const filter = documentOf(
    'HTTPRoute',
    'shop/r',
    '{ parentRefs: [{ name: g, namespace: edge }], rules: [{ filters: [{ type: CORS, cors: { allowOrigins: ["https://b.test"] } }], backendRefs: [{ name: a, port: 80 }] }] }',
  );
  writeFileSync(join(dir, 'documents', 'all.yaml'), gatewayDocument + serviceOf('a') + filter + ofGateway(cors));
  t.match((await readStatus(config, 0)).warnings, [
    "the CORS filter of HTTPRoute shop/r takes the place of 'cors' of SecurityPolicy edge/of-g",
  ]);
  writeFileSync(
    join(dir, 'documents', 'all.yaml'),
    gatewayDocument + serviceOf('a') + filter + ofGateway(cors, required),
  );
  t.match(await runCommand(t, ['gateway', '--config', config, '--check']), {
    code: 1,
    stdout: /its CORS filter would take the place of 'cors' of SecurityPolicy edge\/of-g, which has to be inherited/,
  });
});

t.test(
  'PeerAuthentication: the second of two in one scope has no effect, and a nearer one may allow plaintext',
  async (t) => {
    const dir = tempDir(t);
    const peers = (name: string, namespace: string, spec: string): string =>
      `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: ${name}, namespace: ${namespace} }\nspec: ${spec}\n`;
    mkdirSync(join(dir, 'policies'));
    writeFileSync(
      join(dir, 'policies', 'all.yaml'),
      peers('default', 'istio-system', '{ mtls: { mode: STRICT } }') +
        peers('a', 'shop', '{ mtls: { mode: PERMISSIVE } }') +
        peers('b', 'shop', '{ mtls: { mode: STRICT } }') +
        peers(
          'mine',
          'shop',
          '{ selector: { matchLabels: { app: x } }, mtls: { mode: STRICT }, portLevelMtls: { 8080: { mode: DISABLE } } }',
        ),
    );
    writeFileSync(
      join(dir, 'sidecar.yaml'),
      'trustDomain: demo.test\nworkload: { serviceAccount: a, namespace: shop, labels: { app: x } }\nidentity: { files: { svid: a, key: b, bundle: c } }\ninbound: [{ port: 15006, app: "127.0.0.1:8080" }]\npolicies: policies/\n',
    );
    const { code, stderr } = await runCommand(t, ['sidecar', '--config', join(dir, 'sidecar.yaml'), '--check']);
    t.equal(code, 0);
    for (const message of [
      'PeerAuthentication shop/b has no effect: shop/a has the same scope and comes first',
      'PeerAuthentication shop/a (PERMISSIVE) takes the place of istio-system/default (STRICT)',
    ])
      t.ok(stderr.includes(`warning: ${message}`), message);
    t.notMatch(stderr, /shop\/mine/, 'the next wider document is not STRICT');
  },
);

// `sallyport check` on what kubectl and Helm print: Lists, and documents of other kinds.

import t from 'tap';
import { formatProblem } from '../../cert-agent/base/errors.ts';
import { checkDocuments } from '../../sidecar/analyze/check.ts';
import { runSallyport } from '../fixtures/process.ts';

const gateway =
  'kind: Gateway, metadata: { name: g, uid: a }, spec: { gatewayClassName: x, listeners: [{ name: a, port: 80, protocol: HTTP }] }, status: {}';
const written = (apiVersion: string, rest: string): string => `{ apiVersion: ${apiVersion}, ${rest} }`;
const good = written('gateway.networking.k8s.io/v1', gateway);
const policy = written(
  'security.istio.io/v1',
  'kind: AuthorizationPolicy, metadata: { name: p }, spec: { rules: [{}] }',
);
const security = written(
  'gateway.envoyproxy.io/v1alpha1',
  'kind: SecurityPolicy, metadata: { name: s }, spec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: g }], cors: { allowOrigins: ["*"] } }',
);
const deployment = written('apps/v1', 'kind: Deployment, metadata: { name: a }, spec: {}');

async function lookAt(text: string) {
  const report = await checkDocuments([{ file: 'a.yaml', text }]);
  return { ...report, problems: report.problems.map(formatProblem), notChecked: report.notChecked.map(formatProblem) };
}

t.test('a List of every kind is opened, and each problem has its place in it', async (t) => {
  for (const kind of ['List', 'GatewayList']) {
    const list = (...items: string[]): string =>
      `apiVersion: v1\nkind: ${kind}\nitems:${items.map((one) => `\n- ${one}`).join('')}${items.length === 0 ? ' []' : ''}\n`;
    t.match(await lookAt(list(good, policy, security)), { checked: 3, problems: [], notChecked: [] });
    t.match(await lookAt(list(good, policy.replace('rules', 'ruls'))), {
      checked: 2,
      problems: [/^a\.yaml:5:\d+: unknown key 'ruls'/],
    });
    t.match(await lookAt(list(good.replace('port: 80', 'port: 0'), security.replace('cors', 'csrs'))), {
      problems: [/^a\.yaml:4:\d+: spec\.listeners\[0\]\.port/, /^a\.yaml:5:\d+: unknown key 'csrs'/],
    });
    t.match(await lookAt(list()), { checked: 0, problems: [], notChecked: [] }, 'an empty list checks nothing');
  }
});

t.test('documents of other kinds are counted, slips are not', async (t) => {
  const other = (...documents: string[]) => lookAt(documents.join('\n---\n'));
  t.match(await other(deployment, good, written('v1', 'kind: Service, metadata: { name: a }')), {
    checked: 1,
    problems: [],
    notChecked: [
      'a.yaml:1:30: kind Deployment of group apps is not checked here',
      /^a\.yaml:5:\d+: kind Service of the core group is not checked here$/,
    ],
  });
  for (const one of [
    written('networking.k8s.io/v1', 'kind: NetworkPolicy, metadata: { name: a }'),
    written('policy.linkerd.io/v1alpha1', 'kind: HTTPRoute, metadata: { name: a }'),
    written('apisix.apache.org/v1alpha1', 'kind: BackendTrafficPolicy, metadata: { name: a }'),
    written('networking.istio.io/v1', 'kind: VirtualService, metadata: { name: a }'),
    written('gateway.networking.k8s.io/v1', 'kind: UDPRoute, metadata: { name: a }'),
    written('cert-manager.io/v1', 'kind: Certificate, metadata: { name: a }'),
  ])
    t.match(await other(one, good), { checked: 1, problems: [], notChecked: [String] }, one);
  for (const [document, message] of [
    [policy.replace('security.istio.io', 'security.istio.oi'), /:1:\d+: kind AuthorizationPolicy belongs to group/],
    [
      good.replace('gateway.networking.k8s.io/', ''),
      /belongs to group gateway\.networking\.k8s\.io, not to apiVersion 'v1'/,
    ],
    [policy.replace('AuthorizationPolicy', 'AuthorisationPolicy'), /kind AuthorisationPolicy .*did you mean/],
    ['{ metadata: { name: a } }', /it has no 'kind'/],
    ['{ kind: Gateway, metadata: { name: a } }', /kind Gateway is not supported/],
  ] as const)
    t.match(await other(document, good), { checked: 2, problems: [message], notChecked: [] }, document);
});

t.test('a path that only a gateway here refuses is warned of', async (t) => {
  const route = (path: string): string =>
    written(
      'gateway.networking.k8s.io/v1',
      `kind: HTTPRoute, metadata: { name: a }, spec: { rules: [{ filters: [{ type: URLRewrite, urlRewrite: { path: ${path} } }] }] }`,
    );
  t.match(await lookAt(route('{ type: ReplaceFullPath, replaceFullPath: a }')), {
    problems: [],
    warnings: [
      { line: 1, message: "replaceFullPath: 'a' is valid, but a gateway here refuses it", hint: "write '/a'" },
    ],
  });
  for (const path of [
    '{ type: ReplacePrefixMatch, replacePrefixMatch: "" }',
    '{ type: ReplaceFullPath, replaceFullPath: /a }',
  ])
    t.match(await lookAt(route(path)), { problems: [], warnings: [] }, path);
});

t.test(
  'the command names their kinds, refuses them under --strict, and does not pass without a document',
  async (t) => {
    const check = (input: string, ...args: string[]) => runSallyport(t, ['check', '-', ...args], { input });
    const service = written('v1', 'kind: Service, metadata: { name: a }');
    const rendered = [deployment, service, good, deployment].join('\n---\n');
    t.strictSame(await check(rendered), {
      code: 0,
      stdout: '',
      stderr: '1 document is valid; not checked: 2 apps/v1 Deployment, 1 v1 Service\n',
    });
    t.match(await check(rendered, '--strict'), { code: 1, stderr: /^<stdin>:1:\d+: kind Deployment of group apps/ });
    const virtual = written('networking.istio.io/v1', 'kind: VirtualService, metadata: { name: a }');
    const ingress = written('networking.k8s.io/v1', 'kind: Ingress, metadata: { name: a }');
    const namesake = written('example.test/v1', 'kind: Ingress, metadata: { name: a }');
    const others = [virtual, virtual, ingress, namesake, good].join('\n---\n');
    const { code, stderr } = await check(others);
    t.equal(code, 0);
    t.strictSame(
      stderr.split('\n').filter((line) => line.includes('write it')),
      [
        'warning: networking.istio.io/v1 VirtualService is not checked: write it as an HTTPRoute',
        'warning: networking.k8s.io/v1 Ingress is not checked: write it as a Gateway and an HTTPRoute',
      ],
      'once for each kind, and none for a namesake',
    );
    t.match(JSON.parse((await check(others, '--json')).stdout), {
      otherKinds: [{ kind: 'VirtualService', count: 2, hint: 'write it as an HTTPRoute' }, {}, { hint: undefined }],
    });
    t.match(JSON.parse((await check(rendered, '--json')).stdout), {
      ok: true,
      documents: 1,
      problems: [],
      notChecked: 3,
      otherKinds: [
        { apiVersion: 'apps/v1', kind: 'Deployment', count: 2 },
        { apiVersion: 'v1', kind: 'Service', count: 1 },
      ],
    });
    t.match(await check(deployment), {
      code: 2,
      stderr: / but documents of other kinds \(1 apps\/v1 Deployment\): nothing was checked \[usage\]/,
    });
  },
);

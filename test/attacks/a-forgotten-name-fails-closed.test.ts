// A way to authenticate that the rest of the proxy does not know: `hmacAuth` and each of its fields are made up.
// Streams under it are refused, its headers are ours alone, its parameters are secret, and a policy that no step
// evaluates is not served.

import { Agent, request } from 'node:http';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { parseYaml } from '../../cert-agent/base/yaml.ts';
import { planGateway } from '../../sidecar/compile/gateway-plan.ts';
import { compileGatewayPorts } from '../../sidecar/compile/gateway-ports.ts';
import { readPlaced } from '../../sidecar/config/gateway-config.ts';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import type { SecurityPolicy } from '../../sidecar/edge/policy.ts';
import { askingParts, ownHeadersOf, secretParamsOf, unevaluatedParts } from '../../sidecar/edge/policy-parts.ts';
import { startEcho } from '../fixtures/echo.ts';
import { policyOf, pretend, toolsFor } from '../fixtures/edge.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { hookTools } from '../fixtures/hooks.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';
import { documentOf, serviceOf, webGateway } from '../fixtures/plan.ts';
import { compileSecurity } from '../fixtures/security.ts';

const hmacAuth = {
  keys: { name: 'keys' },
  extractFrom: [{ headers: ['x-signature'], params: ['sig'], cookies: [] }],
  query: 'sig2',
  forwardKeyIdHeader: 'X-Key-Id',
  claimToHeaders: [{ header: 'x-key-owner', claim: 'owner' }],
  timeoutMs: 100,
};
const corsOnly = policyOf('cors: { allowOrigins: [https://a.test] }');
const madeUp = { ...corsOnly, hmacAuth } as SecurityPolicy;

t.test('an unknown part of a policy is in all four lists', async (t) => {
  t.strictSame(askingParts(corsOnly), [], 'CORS requires no credential');
  t.strictSame(askingParts(madeUp), ['hmacAuth']);
  t.strictSame(
    [...ownHeadersOf(madeUp)].toSorted(),
    ['x-key-id', 'x-key-owner'],
    'the header of the signature is not in the list',
  );
  t.strictSame([...secretParamsOf(madeUp)].toSorted(), ['sig', 'sig2']);
  t.strictSame(unevaluatedParts(madeUp), ['hmacAuth']);
  t.throws(() => compileSecurity(madeUp, toolsFor({})), {
    code: 'config_invalid',
    message: "SecurityPolicy shop/p: nothing here evaluates 'hmacAuth'",
  });
});

t.test('a new field in a known part fails closed', async (t) => {
  const policy = policyOf('basicAuth: { users: { name: u } }');
  const more = { ...policy, basicAuth: { ...policy.basicAuth!, groupsHeader: 'X-Groups', queryParam: 'pw' } };
  t.strictSame([...ownHeadersOf(more)], ['x-groups']);
  t.strictSame(secretParamsOf(more), ['pw']);
});

t.test('another authorizer has not decided about requests in flight', async (t) => {
  const asks = (name: string, timeout: string) =>
    compileSecurity(
      policyOf(`extAuth: { timeout: ${timeout}, http: { backendRef: { name: ${name}, port: 80 } } }`),
      toolsFor({}),
    );
  const { knows, known } = asks('one', '1s');
  t.equal(knows(pretend({}), undefined), false, 'no earlier policy');
  t.equal(
    knows(pretend({}), compileSecurity(corsOnly, toolsFor({})).known),
    false,
    'an earlier policy that asked no authorizer',
  );
  t.equal(knows(pretend({}), known), true, 'the same authorizer');
  t.equal(knows(pretend({}), asks('one', '2s').known), true);
  t.equal(knows(pretend({}), asks('two', '1s').known), false);
});

const listeners = '[{ name: web, port: 80, protocol: HTTP }, { name: raw, port: 81, protocol: TCP }]';
const streams =
  documentOf('Gateway', 'g', `{ gatewayClassName: x, listeners: ${listeners} }`) +
  documentOf(
    'TCPRoute',
    's',
    '{ parentRefs: [{ name: g, sectionName: raw }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
  ) +
  serviceOf('a');

/** The ports under these policies. */
function portsUnder(change: (gateway: ReturnType<typeof readPlaced>['gateway']) => object, more = '') {
  const parsed = parseYaml(streams + more, 'all.yaml');
  const read = readPlaced(
    parsed.documents.map((document) => ({ file: 'all.yaml', document })),
    ownKinds,
  );
  const gateway = {
    ...read.gateway,
    certificates: {},
    sessionKeys: undefined,
    errorPages: {},
    ...change(read.gateway),
  };
  const yaml =
    'trustDomain: demo.test\nworkload: { serviceAccount: g }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: .\n';
  const configuration = {
    ...{ generation: 1, documents: read.istio, gateway },
    settings: parseGatewaySettings(yaml, 'gateway.yaml'),
  };
  const { ports } = compileGatewayPorts(configuration, planGateway(configuration, 0), new Map(), hookTools);
  return (port: number) => ports.find(({ key }) => key === `gateway shop/g:${port}`)!.rules;
}

/** Where a stream to port 81 goes under these policies. */
function streamUnder(...documents: Parameters<typeof portsUnder>): string {
  const { destination } = portsUnder(...documents)(81).findStream!(undefined, undefined)!;
  try {
    destination.acquire(false, false);
    return 'served';
  } catch (error) {
    return error instanceof SallyportError ? `${error.code} ${error.message}` : String(error);
  }
}

t.test('a route rule under a policy with an unknown field is not served', async (t) => {
  const target = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'g' };
  const web = documentOf(
    'HTTPRoute',
    'r',
    '{ parentRefs: [{ name: g, sectionName: web }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
  );
  const ruleUnder = (policy: SecurityPolicy) =>
    portsUnder(
      () => ({ securityPolicies: [{ ...policy, targets: [target] }] }),
      web,
    )(80).edge!.find(pretend({ authority: 'a.test' })).rule!;
  t.match(ruleUnder(madeUp).broken, { code: 'rule_broken', message: /nothing here evaluates 'hmacAuth'$/ });
  t.equal(ruleUnder(corsOnly).broken, undefined, 'CORS asks no authorizer');
});

t.test('streams under a policy with an unknown field are refused', async (t) => {
  const target = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'g' };
  const refusal =
    'rule_broken SecurityPolicy shop/p applies to listener raw, but evaluates requests only: attach it to listeners for HTTP';
  t.equal(
    streamUnder(() => ({ securityPolicies: [{ ...madeUp, targets: [target] }] })),
    refusal,
  );
  t.match(
    streamUnder(() => ({ securityPolicies: [{ ...corsOnly, targets: [target] }] })),
    /^upstream_unresolved/,
    'CORS requires nothing of streams',
  );
});

t.test('a policy that cannot be read closes streams as well as requests', async (t) => {
  const broken = (kind: string, spec: string): string =>
    `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ${kind}\nmetadata: { name: b, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: g }], ${spec} }\n`;
  t.match(
    streamUnder(() => ({}), broken('SecurityPolicy', 'nope: 1')),
    /^rule_broken SecurityPolicy shop\/b/,
  );
  t.match(
    streamUnder(() => ({}), broken('BackendTrafficPolicy', 'nope: 1')),
    /^rule_broken BackendTrafficPolicy shop\/b/,
  );
});

t.test(
  "on the wire: a policy's rules about credentials apply to each route, also where the policy cannot be served",
  async (t) => {
    const app = await startEcho(t, 'a');
    const policy = (name: string, spec: string): string =>
      `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }], ${spec} }\n`;
    const keys = (param: string, header: string): string =>
      `apiKeyAuth: { credentialRefs: [{ name: gone }], extractFrom: [{ params: [${param}] }], forwardClientIDHeader: ${header} }`;
    const route = (name: string): string =>
      documentOf(
        'HTTPRoute',
        name,
        `{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: /${name} } }], backendRefs: [{ name: a, port: 80 }] }] }`,
      );
    const oidc =
      'oidc: { provider: { issuer: "https://idp.test" }, clientID: c, clientSecret: { name: gone }, redirectURL: "https://a.test/closed3/callback" }';
    const gateway = await startTestGateway(t, {
      listeners: ['shop/g:80'],
      yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
      documents:
        webGateway +
        serviceOf('a') +
        ['closed1', 'closed2', 'closed3', 'open'].map(route).join('') +
        policy('closed1', keys('secret-a', 'x-client-a')) +
        policy('closed2', `${keys('secret-b', 'x-client-b')}, nope: 1`) +
        policy('closed3', oidc),
    });
    const get = (path: string, headers: Record<string, string> = {}): Promise<string> =>
      new Promise((resolve, reject) => {
        const agent = new Agent();
        const asked = request(
          { port: gateway.port('shop/g:80'), host: '127.0.0.1', path, agent, headers },
          (answer) => {
            let text = '';
            answer
              .setEncoding('utf8')
              .on('data', (chunk) => (text += chunk))
              .on('end', () => {
                agent.destroy();
                resolve(`${answer.statusCode} ${text}`);
              });
          },
        );
        asked.on('error', reject).end();
      });
    const said = await get('/open?secret-a=1&%73ecret-b=2&access_token=3&state=4', {
      ...{ 'x-client-a': 'root', 'x-client-b': 'root', 'x-other': 'mine' },
    });
    t.match(said, /^200 /);
    t.match(said, /x-other/);
    t.notMatch(said, /x-client-[ab]/, 'an app may believe these on each route');
    t.match(await get('/closed1?secret-a=1'), /^500 /);
    t.match(await get('/closed2?secret-b=1'), /^500 /);
    t.match(await get('/nowhere?secret-a=1&q=2'), /^404 /);
    t.match(await get('/closed3/callback?code=1&state=2'), /^500 /);
    const records = await gateway.records(5);
    t.strictSame(
      records.map(({ path }) => path),
      ['/open?state=4', '/closed1', '/closed2', '/nowhere?q=2', '/closed3/callback'],
    );
  },
);

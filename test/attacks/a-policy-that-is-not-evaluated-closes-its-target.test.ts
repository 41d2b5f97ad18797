// Policies of an API server that only others evaluate, as a filter of Envoy or a rule of Istio: what they protect must not
// be open here.

import t from 'tap';
import type { Any } from '../fixtures/api-server.ts';
import { envoyGateway, object, policyIn, routeIn, served, startFilled, startWatched } from '../fixtures/watched.ts';

const istio = 'security.istio.io/v1';
const gatewayApi = 'gateway.networking.k8s.io';
const policy = (name: string, spec: object, namespace = 'shop'): Any =>
  object('AuthorizationPolicy', name, { spec }, istio, namespace);

t.test('a filter of Envoy closes the route that it names', async (t) => {
  const api = await startFilled(t);
  api.put(routeIn('shop', 'other', 'other.test'));
  const one = await startWatched(t, api);
  await served(one, 'a.test', 200);
  const targetRefs = [{ group: gatewayApi, kind: 'HTTPRoute', name: 'r' }];
  api.put(
    policyIn(
      'shop',
      'waf',
      { targetRefs, extProc: [{ backendRefs: [{ name: 'waf', port: 9000 }] }] },
      'EnvoyExtensionPolicy',
    ),
  );
  await served(one, 'a.test', 500);
  await served(one, 'other.test', 200);
  t.match(JSON.stringify(one.lines), /EnvoyExtensionPolicy.*may protect and is not evaluated here/);
  t.equal(
    api.calls.filter(({ method, path }) => method === 'PATCH' && path.includes('extensionpolicies')).length,
    0,
    'its status is its own controller’s',
  );
  api.remove('EnvoyExtensionPolicy', 'waf', 'shop');
  await served(one, 'a.test', 200);
});

t.test('a rule of Istio closes the Gateway that it names, and one for pods closes nothing', async (t) => {
  const api = await startFilled(t, [istio]);
  api.put(policy('pods', { selector: { matchLabels: { app: 'web' } }, action: 'DENY', rules: [{}] }));
  api.put(policy('namespace', {}));
  api.put(
    policy('waypoint', { targetRefs: [{ group: '', kind: 'Service', name: 'web' }], action: 'DENY', rules: [{}] }),
  );
  const one = await startWatched(t, api);
  await served(one, 'a.test', 200);
  api.put(
    policy('edge', { targetRefs: [{ group: gatewayApi, kind: 'Gateway', name: 'g' }], action: 'DENY', rules: [{}] }),
  );
  await served(one, 'a.test', 500);
  t.ok(api.groups.has(envoyGateway));
});

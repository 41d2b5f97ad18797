// A gateway that follows an API server reads what every tenant writes. A document of one tenant that cannot be read
// closes what it targets, or the tenant's own namespace: all others are served, and changes of theirs take effect.

import t from 'tap';
import type { Any } from '../fixtures/api-server.ts';
import { until } from '../fixtures/process.ts';
import {
  followStore,
  namesIn,
  object,
  policyIn,
  routeIn,
  served,
  serviceOf,
  sliceOf,
  startFilled,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const istio = 'networking.istio.io/v1';
const rule = (spec: object, namespace = 'team', name = 'dr'): Any =>
  object('DestinationRule', name, { spec }, istio, namespace);
const ref = (kind: string, name: string): object => ({ group: 'gateway.networking.k8s.io', kind, name });
const selected = { targetSelectors: [{ kind: 'HTTPRoute', matchLabels: { a: 'b' } }] };
const unclear = { targetSelectors: [{ kind: 'HTTPRoute', matchExpressions: [] }] };
const tls = (targetRefs: unknown): object => ({
  spec: { targetRefs, validation: { hostname: 'a.test', wellKnownCACertificates: 'System' } },
});

/** A document of namespace team, and what a request for its two routes gets: of Service `a`, and of Service `web`. */
const documents: Readonly<Record<string, [Any, ofA: number, ofWeb: number]>> = {
  'a DestinationRule with subsets for another host': [rule({ host: 'x', subsets: [{ name: 'v1' }] }), 200, 503],
  'a DestinationRule with subsets': [rule({ host: 'web', subsets: [{ name: 'v1' }] }), 200, 500],
  'a DestinationRule with TLS': [rule({ host: '*', trafficPolicy: { tls: { mode: 'SIMPLE' } } }), 200, 500],
  'a DestinationRule whose host is none': [rule({ host: 7 }), 200, 500],
  'a DestinationRule for others': [rule({ host: 'a.shop.svc.cluster.local', subsets: [{ name: 'v1' }] }), 200, 503],
  'selectors of a SecurityPolicy that select nothing': [policyIn('team', 'p', { ...selected, cors: {} }), 200, 503],
  'selectors of a SecurityPolicy that cannot be read': [policyIn('team', 'p', { ...unclear, cors: {} }), 500, 500],
  'selectors of a BackendTrafficPolicy': [policyIn('team', 'p', unclear, 'BackendTrafficPolicy'), 500, 500],
  'selectors of a ClientTrafficPolicy': [policyIn('team', 'p', unclear, 'ClientTrafficPolicy'), 500, 500],
  'a SecurityPolicy for a UDPRoute': [policyIn('team', 'p', { targetRefs: [ref('UDPRoute', 'x')] }), 200, 503],
  'a SecurityPolicy for a UDPRoute and a route': [
    policyIn('team', 'p', { targetRefs: [ref('UDPRoute', 'x'), ref('HTTPRoute', 'of-a')], cors: {} }),
    ...([500, 503] as const),
  ],
  'a SecurityPolicy for nothing': [policyIn('team', 'p', { cors: {} }), 500, 500],
  'a BackendTLSPolicy without targets': [object('BackendTLSPolicy', 'p', tls([]), undefined, 'team'), 200, 500],
  'a BackendTLSPolicy for another kind': [
    object('BackendTLSPolicy', 'p', tls([{ group: 'x', kind: 'ServiceImport', name: 'web' }]), undefined, 'team'),
    ...([200, 503] as const),
  ],
  'a Service with a port that is none': [
    object('Service', 'web', { spec: { ports: [{ port: 0 }] } }, 'v1', 'team'),
    ...([200, 500] as const),
  ],
};

for (const [what, [document, ofA, ofWeb]] of Object.entries(documents))
  t.test(what, async (t) => {
    const api = await startFilled(t, [istio]);
    api.put(routeIn('team', 'of-a', 'team-a.test'));
    api.put(routeIn('team', 'of-web', 'team-web.test', 'web'));
    api.put(serviceOf('web', 'team'));
    // Nothing listens there.
    api.put(sliceOf('web', ['192.0.2.1'], 'team', 9));
    api.put(document);
    const one = await startWatched(t, api);
    t.equal(await statusOf(one, 'a.test'), 200, 'others are served, from the start');
    t.equal(await statusOf(one, 'team-a.test'), ofA);
    if (ofWeb === 500) t.equal(await statusOf(one, 'team-web.test'), 500);
    api.put(routeIn('shop', 'new', 'new.test'));
    await served(one, 'new.test', 200);
    t.match(JSON.stringify(one.lines), ofA + ofWeb === 703 ? /./ : new RegExp(document.kind));
    api.remove(document.kind, document.metadata.name, 'team');
    await until(async () => (await statusOf(one, 'team-a.test')) === 200 || undefined, 'and it comes back');
  });

t.test('namespaces that fill their bounds close none that has less', async (t) => {
  const api = await startFilled(t);
  const filled = (namespace: string, bytes: number): Any =>
    policyIn(namespace, 'filler', { authorization: { rules: [{ name: 'x'.repeat(bytes) }] } });
  for (const one of ['x', 'y', 'z']) api.put(filled(one, 1_500_000));
  api.put(filled('shop', 1_100_000));
  const store = await followStore(t, api, {
    times: { totalBytes: 8_000_000, namespaceBytes: 2_000_000, proofMs: 20, reminderMs: 50 },
  });
  t.equal(store.closed().size, 0);
  api.put(routeIn('shop', 'grown', 'grown.test', 'a', { rules: [{ name: 'x'.repeat(300_000) }] }));
  api.put(filled('team', 1_200_000));
  await until(() => namesIn(store).includes('HTTPRoute grown') || undefined, 'the new route');
  const closed = [...store.closed().keys()];
  t.equal(closed.length, 1, 'one that has the most gives way');
  t.match(closed[0], /^[xyz]$/);
  api.remove('SecurityPolicy', 'filler', 'team');
  api.remove('SecurityPolicy', 'filler', closed[0] === 'x' ? 'y' : 'x');
  await until(() => store.closed().size === 0 || undefined, 'it is back by itself');
});

t.test('selectors beside the Gateway of another controller protect what they select', async (t) => {
  const api = await startFilled(t);
  api.put(object('Gateway', 'nginx', { spec: { gatewayClassName: 'nginx', listeners: [] } }));
  const route = routeIn('shop', 'private', 'private.test');
  api.put({ ...route, metadata: { ...route.metadata, labels: { tier: 'private' } } });
  const targetSelectors = [{ kind: 'HTTPRoute', matchLabels: { tier: 'private' } }];
  api.put(policyIn('shop', 'p', { targetRefs: [ref('Gateway', 'nginx')], targetSelectors, authorization: {} }));
  const one = await startWatched(t, api);
  t.equal(await statusOf(one, 'private.test'), 500);
  t.equal(await statusOf(one, 'a.test'), 200);
});

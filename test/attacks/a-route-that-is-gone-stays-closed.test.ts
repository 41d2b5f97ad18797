// A route that is deleted before its policy is never open without it, however late we hear of either.

import t from 'tap';
import type { ClusterStore } from '../../sidecar/cluster/store.ts';
import { type Any, type FakeApiServer, failure } from '../fixtures/api-server.ts';
import { type Owner, until } from '../fixtures/process.ts';
import {
  denyFor,
  followStore,
  namesIn,
  object,
  policyIn,
  routeIn,
  served,
  startFilled,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const follow = (t: Owner, api: FakeApiServer, namespaces?: readonly string[]) =>
  followStore(t, api, { namespaces, times: { proofMs: 20 } });

const gatewayRef = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'g' };

/** Route r is never in a state without its policy. Ends when both are gone. */
const neverOpen = (t: Any, store: ClusterStore) =>
  until(() => {
    const names = namesIn(store);
    const [route, policy] = ['HTTPRoute r', 'SecurityPolicy deny-r'].map((one) => names.includes(one));
    if (route && !policy) t.fail('the route is in force without its policy');
    return (!route && !policy) || undefined;
  }, 'both are gone');

for (const [what, watchOf] of [
  ['a watch whose connection is dead', undefined],
  ['a list that is forbidden', 403],
  ['a list that fails', 500],
] as const)
  t.test(`${what}: the policy of a route that is gone stays`, async (t) => {
    const api = await startFilled(t);
    api.put(denyFor('shop', 'r'));
    const store = await follow(t, api);
    await until(() => api.watches() >= 14 || undefined, 'the watches');
    let isHeld = true;
    let held = 0;
    api.intercept = ({ path, query }, response) => {
      if (!isHeld || !path.endsWith('/httproutes') || (watchOf === undefined && !query.has('watch'))) return false;
      held++;
      if (watchOf === undefined) response.writeHead(200).flushHeaders();
      else failure(response, watchOf, 'InternalError', 'no');
      return true;
    };
    api.endWatches();
    await until(() => held > 0 || undefined, 'the watch');
    api.remove('HTTPRoute', 'r', 'shop');
    api.remove('SecurityPolicy', 'deny-r', 'shop');
    await until(() => store.find('SecurityPolicy', 'shop', 'deny-r') === undefined || undefined, 'the policy is gone');
    if (watchOf !== undefined) {
      const before = held;
      await until(() => held > before + 3 || undefined, 'some more tries');
      t.ok(namesIn(store).includes('SecurityPolicy deny-r'), 'it stays while routes are not followed');
      isHeld = false;
    }
    await neverOpen(t, store);
  });

t.test(
  'without rights in one namespace, all documents stay: a policy of another one may protect its routes',
  async (t) => {
    const api = await startFilled(t);
    const ofGateway = { ...denyFor('shop', 'g'), spec: { ...denyFor('shop', 'g').spec, targetRefs: [gatewayRef] } };
    for (const one of [routeIn('team', 't', 'team.test'), denyFor('team', 't'), ofGateway]) api.put(one);
    const store = await follow(t, api, ['shop', 'team']);
    let isForbidden = true;
    let refused = 0;
    api.intercept = ({ path }, response) => {
      if (!isForbidden || !path.includes('/namespaces/team/')) return false;
      refused++;
      failure(response, 403, 'Forbidden', 'no');
      return true;
    };
    api.endWatches();
    await until(() => refused > 40 || undefined, 'nothing of the namespace is followed');
    api.remove('HTTPRoute', 't', 'team');
    api.remove('SecurityPolicy', 'deny-t', 'team');
    api.remove('SecurityPolicy', 'deny-g', 'shop');
    const before = refused;
    await until(() => refused > before + 40 || undefined, 'more tries');
    for (const name of ['HTTPRoute t', 'SecurityPolicy deny-t', 'SecurityPolicy deny-g'])
      t.ok(namesIn(store).includes(name), `${name} stays`);
    isForbidden = false;
    await until(() => {
      const [route, policy] = ['HTTPRoute t', 'SecurityPolicy deny-t'].map((one) => namesIn(store).includes(one));
      if (route && !policy) t.fail('the route is in force without its policy');
      return (!route && !policy) || undefined;
    }, 'both are gone');
  },
);

t.test('a namespace that is being deleted has no documents, in whatever order they go', async (t) => {
  const api = await startFilled(t);
  const namespace = (more: object): Any => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name: 'team', ...more },
  });
  api.put(namespace({}));
  api.put(routeIn('team', 't', 'team.test'));
  api.put(denyFor('team', 't'));
  const one = await startWatched(t, api);
  await served(one, 'team.test', 403);
  api.put(namespace({ deletionTimestamp: '2026-01-01T00:00:00Z' }));
  await served(one, 'team.test', 404);
  api.remove('SecurityPolicy', 'deny-t', 'team');
  api.put(routeIn('shop', 'later', 'later.test'));
  await served(one, 'later.test', 200);
  t.equal(await statusOf(one, 'team.test'), 404, 'the route that is left is closed');
});

t.test('a route and a Gateway that wait for a finalizer are gone', async (t) => {
  const api = await startFilled(t);
  const deleted = (one: Any): Any => ({
    ...one,
    metadata: { ...one.metadata, deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: ['example.test/f'] },
  });
  api.put(denyFor('shop', 'r'));
  const listeners = [{ name: 'http', port: 80, protocol: 'HTTP' }];
  api.put(object('Gateway', 'second', { spec: { gatewayClassName: 'sallyport', listeners } }));
  const store = await follow(t, api);
  t.ok(namesIn(store).includes('HTTPRoute r'));
  api.put(deleted(routeIn('shop', 'r', 'a.test')));
  api.put(deleted(api.get('Gateway', 'second', 'shop')));
  const names = await until(() => {
    const all = namesIn(store);
    return all.includes('HTTPRoute r') || all.includes('Gateway second') ? undefined : all;
  }, 'both are gone');
  t.ok(names.includes('SecurityPolicy deny-r'), 'a policy protects until it is gone');
});

t.test('Services that no document names, and namespaces without one, hold up nothing', async (t) => {
  const api = await startFilled(t);
  const store = await follow(t, api);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  let changes = 0;
  const change = (): void => {
    const [name, namespace] = [`busy-${changes++}`, 'team'];
    api.put({ apiVersion: 'v1', kind: 'Service', metadata: { name, namespace }, spec: { ports: [{ port: 80 }] } });
    api.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
  };
  change();
  api.put(routeIn('shop', 'later', 'later.test'));
  await until(
    () => {
      change();
      return namesIn(store).includes('HTTPRoute later') || undefined;
    },
    'the route',
    20_000,
  );
  t.ok(changes > 0);
  t.equal(store.closed().size, 0);
});

t.test('what changes all the time, in whatever lists, holds up nothing, and is in force itself', async (t) => {
  const api = await startFilled(t);
  for (const one of [routeIn('team', 't', 'team.test'), denyFor('team', 't')]) api.put(one);
  const store = await follow(t, api);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  let changes = 0;
  const change = (): void => {
    changes++;
    const spec = {
      gatewayClassName: 'sallyport',
      listeners: [{ name: 'http', port: 1000 + changes, protocol: 'HTTP' }],
    };
    api.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'team', labels: { n: `${changes}` } } });
    api.put(object('Gateway', 'busy', { spec }));
    api.put(policyIn('team', 'busy', { authorization: { rules: [{ name: `${changes}` }] } }));
    api.put(policyIn('team', 'busy', { retry: { numRetries: changes } }, 'BackendTrafficPolicy'));
    api.put(routeIn('team', 'busy', `busy-${changes}.test`));
  };
  const textOf = (kind: string): string | undefined =>
    store.snapshot()?.find((one) => one.kind === kind && one.name === 'busy')?.text;
  change();
  api.put(denyFor('shop', 'r'));
  let before: string | undefined;
  await until(() => {
    change();
    if (!namesIn(store).includes('SecurityPolicy deny-t')) t.fail('a route without its policy');
    if (!namesIn(store).includes('SecurityPolicy deny-r')) return undefined;
    before ??= textOf('HTTPRoute');
    return (before !== undefined && textOf('HTTPRoute') !== before) || undefined;
  }, 'the policy of another namespace, and a newer route');
  t.equal(store.closed().size, 0);
});

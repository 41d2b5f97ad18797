// A route that is deleted before its policy is never open without it, however late we hear of either.

import t from 'tap';
import { gatewayKinds } from '../../sidecar/cluster/kinds.ts';
import { ClusterStore } from '../../sidecar/cluster/store.ts';
import { type Any, type FakeApiServer, failure } from '../fixtures/api-server.ts';
import { logTo } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';
import {
  denyFor,
  object,
  policyIn,
  routeIn,
  served,
  startFilled,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const kinds = gatewayKinds([], 'sallyport.dev', 'v1alpha1');

async function follow(t: Owner, { url, caFile, tokenFile }: FakeApiServer, namespaces?: readonly string[]) {
  const times = { firstWaitMs: 20, longestWaitMs: 60, absentMs: 60_000, absentGuardMs: 30, proofMs: 20 };
  const store = new ClusterStore({
    ...{ server: { url, caFile, tokenFile }, kinds, namespaces, log: logTo([]), times },
  });
  t.teardown(() => store.close());
  await until(() => store.snapshot(), 'the first snapshot');
  return store;
}

const namesOf = (store: ClusterStore): string[] => (store.snapshot() ?? []).map(({ kind, name }) => `${kind} ${name}`);

/** Route r is never in a state without its policy. Ends when both are gone. */
const neverOpen = (t: Any, store: ClusterStore) =>
  until(() => {
    const names = namesOf(store);
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
      t.ok(namesOf(store).includes('SecurityPolicy deny-r'), 'it stays while routes are not followed');
      isHeld = false;
    }
    await neverOpen(t, store);
  });

t.test('without rights in one namespace, its documents stay, and those of the others change', async (t) => {
  const api = await startFilled(t);
  for (const one of [routeIn('team', 't', 'team.test'), denyFor('team', 't')]) api.put(one);
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
  api.put(denyFor('shop', 'r'));
  await until(() => namesOf(store).includes('SecurityPolicy deny-r') || undefined, 'the policy of another namespace');
  t.ok(namesOf(store).includes('HTTPRoute t') && namesOf(store).includes('SecurityPolicy deny-t'), 'both stay');
  isForbidden = false;
  await until(() => {
    const [route, policy] = ['HTTPRoute t', 'SecurityPolicy deny-t'].map((one) => namesOf(store).includes(one));
    if (route && !policy) t.fail('the route is in force without its policy');
    return (!route && !policy) || undefined;
  }, 'both are gone');
});

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
  t.ok(namesOf(store).includes('HTTPRoute r'));
  api.put(deleted(routeIn('shop', 'r', 'a.test')));
  api.put(deleted(api.get('Gateway', 'second', 'shop')));
  const names = await until(() => {
    const all = namesOf(store);
    return all.includes('HTTPRoute r') || all.includes('Gateway second') ? undefined : all;
  }, 'both are gone');
  t.ok(names.includes('SecurityPolicy deny-r'), 'a policy protects until it is gone');
});

t.test('while other policies change without end, a route that changed is closed, and the others stay', async (t) => {
  const api = await startFilled(t);
  api.put(denyFor('shop', 'r'));
  api.put(routeIn('shop', 'other', 'other.test'));
  const store = await follow(t, api);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  let changes = 0;
  const change = (): void =>
    api.put(policyIn('team', 'busy', { authorization: { defaultAction: 'Deny', rules: [{ name: `${changes++}` }] } }));
  const backendsIn = (name: string): boolean | undefined =>
    store
      .snapshot()
      ?.find((one) => one.kind === 'HTTPRoute' && one.name === name)
      ?.text.includes('backendRefs');
  await until(() => {
    change();
    api.put(routeIn('shop', 'r', `a-${changes}.test`));
    t.ok(namesOf(store).includes('HTTPRoute other') && backendsIn('other'), 'the route that does not change is served');
    return backendsIn('r') === false || undefined;
  }, 'it is closed');
  const last = routeIn('shop', 'r', 'last.test');
  api.put(last);
  await until(() => backendsIn('r') || undefined, 'and served again');
});

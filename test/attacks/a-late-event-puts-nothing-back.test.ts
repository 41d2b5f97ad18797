// Events of a watch come late, or with what was closed before: a route that is gone is not in force again, and one
// without its policy never was.

import t, { type Test } from 'tap';
import type { ClusterStore } from '../../sidecar/cluster/store.ts';
import { type Any, type ApiCall, type FakeApiServer, failure } from '../fixtures/api-server.ts';
import { until } from '../fixtures/process.ts';
import { denyFor, followStore, holdEvents, namesIn, routeIn, startFilled } from '../fixtures/watched.ts';

const follow = (t: Test, api: FakeApiServer): Promise<ClusterStore> => followStore(t, api, { times: { proofMs: 20 } });

const has = (store: ClusterStore, name: string): boolean => namesIn(store).includes(name);

/** Fails if the route is in force without its policy, until `condition`. */
const neverOpen = (t: Test, store: ClusterStore, route: string, condition: () => unknown, what: string) =>
  until(() => {
    if (has(store, `HTTPRoute ${route}`) && !has(store, `SecurityPolicy deny-${route}`))
      t.fail(`route ${route} is in force without its policy`);
    return condition() || undefined;
  }, what);

/** True after so many questions: what must not happen is looked for that long. */
const after = (count: number) => () => count-- <= 0;

t.test('events that a list has overtaken put nothing back', async (t) => {
  const api = await startFilled(t);
  const store = await follow(t, api);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const events = holdEvents(api, 'httproutes');
  await until(() => api.watches() >= 14 || undefined, 'the watches again');
  // At each moment the route has its policy.
  api.put(denyFor('shop', 'x'));
  api.put(routeIn('shop', 'x', 'x.test'));
  api.remove('HTTPRoute', 'x', 'shop');
  await until(() => has(store, 'SecurityPolicy deny-x') || undefined, 'the policy');
  api.remove('SecurityPolicy', 'deny-x', 'shop');
  await until(() => !has(store, 'SecurityPolicy deny-x') || undefined, 'the policy is gone');
  t.ok(events.held >= 2, 'both events are late');
  while (events.release()) await neverOpen(t, store, 'x', after(30), 'some proofs');
  t.notOk(has(store, 'HTTPRoute x'));
});

t.test('a policy that could not be read, and goes after its route, leaves it closed', async (t) => {
  const api = await startFilled(t);
  let deep: unknown = 1;
  for (let i = 0; i < 140; i++) deep = { a: deep };
  api.put({ ...denyFor('team', 't'), spec: { ...(denyFor('team', 't') as Any).spec, deep } });
  api.put(routeIn('team', 't', 't.test'));
  const store = await follow(t, api);
  await until(() => store.closed().has('team') || undefined, 'the namespace is closed');
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const events = holdEvents(api, 'httproutes');
  await until(() => api.watches() >= 14 || undefined, 'the watches again');
  api.remove('HTTPRoute', 't', 'team');
  api.remove('SecurityPolicy', 'deny-t', 'team');
  await neverOpen(t, store, 't', () => store.closed().size === 0, 'the namespace is open');
  await neverOpen(t, store, 't', after(30), 'some proofs');
  while (events.release());
  t.notOk(has(store, 'HTTPRoute t'));
});

const isExact = ({ path, query }: ApiCall, plural: string): boolean =>
  path.endsWith(`/${plural}`) && query.get('resourceVersionMatch') === 'Exact';

t.test('a list that is refused for a moment is asked for again at its version, and no other is', async (t) => {
  const api = await startFilled(t);
  const store = await follow(t, api);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const refused = new Set<string>();
  const versions = new Set<string | null>();
  api.intercept = (call, response) => {
    if (call.query.get('resourceVersionMatch') !== 'Exact') return false;
    versions.add(call.query.get('resourceVersion'));
    if (refused.has(call.path)) return false;
    refused.add(call.path);
    // A newer version, which a new proof would have.
    api.put({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: `c-${refused.size}`, namespace: 'team' } });
    failure(response, refused.size % 2 === 0 ? 429 : 503, 'TooManyRequests', 'later');
    return true;
  };
  api.put(denyFor('shop', 'r'));
  await until(() => has(store, 'SecurityPolicy deny-r') || undefined, 'the policy');
  t.ok(refused.size >= 10, `${refused.size} kinds`);
  t.equal(versions.size, 1, 'in one proof');
});

t.test('lists at a version that are always refused are asked for more and more seldom, and named', async (t) => {
  const api = await startFilled(t);
  const lines: Any[] = [];
  const store = await followStore(t, api, {
    lines,
    times: { proofMs: 50, longestWaitMs: 60_000, firstWaitMs: 20, reminderMs: 1000 },
  });
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  let tries = 0;
  api.intercept = (call, response) => {
    if (!isExact(call, 'services')) return false;
    tries++;
    failure(response, 504, 'Timeout', 'Too large resource version');
    return true;
  };
  api.put(denyFor('shop', 'r'));
  await until(() => lines.some(({ msg }) => /^changed documents have waited for/.test(msg)) || undefined, 'the log');
  t.match(store.worry, /^changed documents have waited for \d+ s for/);
  t.ok(store.waitsMs >= 1000);
  t.ok(tries <= 7, `${tries} tries`);
  t.notOk(has(store, 'SecurityPolicy deny-r'));
  api.intercept = undefined;
  await until(() => has(store, 'SecurityPolicy deny-r') || undefined, 'the policy');
  t.equal(store.waitsMs, 0);
});

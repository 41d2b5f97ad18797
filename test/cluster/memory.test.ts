// What lists take of a gateway's memory: its young generation does not grow for them, and an object that has not changed
// stays the one that it was.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { gatewayKinds } from '../../sidecar/cluster/kinds.ts';
import { ClusterStore } from '../../sidecar/cluster/store.ts';
import { type Any, startApiServer } from '../fixtures/api-server.ts';
import type { FollowerMemory } from '../fixtures/follower-process.ts';
import { logTo } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const route = (name: string, more: object = {}): Any => ({
  ...{ apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name, namespace: 'shop' } },
  spec: { hostnames: [`${name}.test`], ...more },
});

t.test(
  'lists leave the young generation as it is, and no garbage of the first of them',
  { timeout: 60_000 },
  async (t) => {
    const api = await startApiServer(t);
    const rules = Array.from({ length: 20 }, (_, i) => ({ matches: [{ path: { value: `/${i}` }, method: 'GET' }] }));
    for (let i = 0; i < 5000; i++) api.put(route(`route-${i}`, { rules }));
    const { url, caFile, tokenFile } = api;
    const child = fork(fileURLToPath(new URL('../fixtures/follower-process.ts', import.meta.url)), [
      'gateway',
      JSON.stringify({ url, caFile, tokenFile }),
    ]);
    t.teardown(() => child.kill());
    const [{ objects, young, grown, collections }] = (await once(child, 'message')) as [FollowerMemory];
    const megabytes = (bytes: number): number => Math.round(bytes / 1e6);
    t.equal(objects, 5000);
    t.ok(young < 40e6, `${megabytes(young)} MB`);
    t.ok(grown > young, `afterwards it may grow: ${megabytes(grown)} MB`);
    t.ok(collections > 0, 'garbage of the first lists is collected in time');
  },
);

t.test('a list of what has not changed keeps the objects', async (t) => {
  const api = await startApiServer(t);
  for (const name of ['a', 'b', 'c']) api.put(route(name));
  const { url, caFile, tokenFile } = api;
  const store = new ClusterStore({
    ...{ server: { url, caFile, tokenFile }, kinds: gatewayKinds([], 'sallyport.dev', 'v1alpha1') },
    ...{ namespaces: undefined, log: logTo([]) },
    times: { firstWaitMs: 10, longestWaitMs: 60, absentMs: 50, absentGuardMs: 50, proofMs: 10 },
  });
  t.teardown(() => store.close());
  const find = (name: string) => store.find('HTTPRoute', 'shop', name);
  await until(() => store.snapshot() !== undefined && api.watches() > 0, 'all is followed');
  t.equal(store.client.isEarly, false, 'later collections are left to V8: they take time');
  const [a, b, c] = ['a', 'b', 'c'].map(find);
  await api.stop();
  api.put(route('b', { hostnames: ['other.test'] }));
  api.put({ ...route('c'), status: { parents: [] } });
  api.compact();
  await api.start();
  await until(() => find('b')?.text.includes('other.test') === true, 'it is listed again');
  t.equal(find('a'), a, 'the same object');
  t.not(find('b'), b);
  t.not(find('c'), c, 'another status is another object');
  t.match(find('c'), { status: '{"parents":[]}', text: c!.text });
});

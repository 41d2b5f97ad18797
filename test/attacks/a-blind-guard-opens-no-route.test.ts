// Kinds that protect are judged together: while one of them is not followed, no route changes that it may protect.

import t from 'tap';
import { gatewayKinds } from '../../sidecar/cluster/kinds.ts';
import { ClusterStore } from '../../sidecar/cluster/store.ts';
import { failure, startApiServer } from '../fixtures/api-server.ts';
import { logTo } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';
import {
  denyFor,
  fill,
  routeIn,
  served,
  serviceOf,
  sliceOf,
  startFilled,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const kinds = gatewayKinds(['RequestValidation'], 'sallyport.dev', 'v1alpha1');

async function follow(t: Owner, api: Awaited<ReturnType<typeof startApiServer>>): Promise<ClusterStore> {
  const { url, caFile, tokenFile } = api;
  const times = { firstWaitMs: 20, longestWaitMs: 60, absentMs: 60_000, absentGuardMs: 30, answerMs: 2000 };
  const store = new ClusterStore({
    ...{ server: { url, caFile, tokenFile }, kinds, namespaces: undefined, log: logTo([]), times },
  });
  t.teardown(() => store.close());
  return store;
}

t.test('policies that are forbidden later: a new route waits for them, endpoints do not', async (t) => {
  const api = await startFilled(t);
  for (const each of [denyFor('shop', 'r'), routeIn('shop', 'w', 'w.test', 'web'), serviceOf('web')]) api.put(each);
  api.put(sliceOf('web', ['10.0.0.1']));
  const one = await startWatched(t, api);
  t.equal(await statusOf(one, 'a.test'), 403);
  let isForbidden = true;
  api.intercept = ({ path }, response) => {
    if (!isForbidden || !path.includes('securitypolicies')) return false;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  api.endWatches();
  await until(() => /forbids us to watch securitypolicies/.test(JSON.stringify(one.lines)) || undefined, 'the 403');
  api.put(denyFor('shop', 'new'));
  api.put(routeIn('shop', 'new', 'new.test'));
  api.put(sliceOf('web', ['10.0.0.2']));
  const upstreams = async (): Promise<string> => (await fetch(`http://127.0.0.1:${one.admin}/upstreams`)).text();
  await until(async () => (await upstreams()).includes('10.0.0.2') || undefined, 'the new endpoint');
  t.equal(await statusOf(one, 'new.test'), 404, 'the route is not served without its policy');
  t.equal(await statusOf(one, 'a.test'), 403);
  isForbidden = false;
  await served(one, 'new.test', 403);
});

t.test('a kind that protects is absent only if the API server says so itself, and twice', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  let answer: 'html' | 'status' = 'html';
  let asked = 0;
  api.intercept = ({ path }, response) => {
    if (!path.startsWith('/apis/gateway.envoyproxy.io/')) return false;
    asked++;
    if (answer === 'html') response.writeHead(404, { 'content-type': 'text/html' }).end('<h1>404</h1>');
    else failure(response, 404, 'NotFound', 'the server could not find the requested resource');
    return true;
  };
  const store = await follow(t, api);
  await until(() => asked > 12 || undefined, 'several looks');
  t.equal(store.snapshot(), undefined);
  t.match(store.waitingFor(), /securitypolicies|backendtrafficpolicies|clienttrafficpolicies/);
  answer = 'status';
  asked = 0;
  await until(() => store.snapshot(), 'the first snapshot');
  t.ok(asked >= 6, `${asked} looks for three kinds`);
});

t.test('without the kinds of Gateway API there is no state', async (t) => {
  const api = await startApiServer(t, []);
  const store = await follow(t, api);
  await until(
    () => /has no kind (?:GatewayClass|Gateway|HTTPRoute|ReferenceGrant)/.test(store.waitingFor() ?? '') || undefined,
    'why',
  );
  t.equal(store.snapshot(), undefined);
});

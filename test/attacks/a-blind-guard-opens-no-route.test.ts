// Kinds that protect are judged together: while one of them is not followed, no route changes that it may protect.

import t from 'tap';
import { gatewayKinds, protects } from '../../sidecar/cluster/kinds.ts';
import type { StoreTimes } from '../../sidecar/cluster/store.ts';
import { type FakeApiServer, failure, startApiServer } from '../fixtures/api-server.ts';
import { type Owner, until } from '../fixtures/process.ts';
import {
  denyFor,
  envoyGateway,
  fill,
  namesIn,
  policyIn,
  routeIn,
  served,
  serviceOf,
  sliceOf,
  startFilled,
  startStore,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const kinds = gatewayKinds(['RequestValidation'], 'sallyport.dev', 'v1alpha1');

const follow = (t: Owner, api: FakeApiServer, times: Partial<StoreTimes> = {}, lines: Record<string, unknown>[] = []) =>
  startStore(t, api, { kinds, times: { answerMs: 2000, ...times }, lines });

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
  const store = follow(t, api);
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
  const store = follow(t, api);
  await until(
    () => /has no kind (?:GatewayClass|Gateway|HTTPRoute|ReferenceGrant)/.test(store.waitingFor() ?? '') || undefined,
    'why',
  );
  t.equal(store.snapshot(), undefined);
});

t.test(
  'at the start the list of a kind is not found, and discovery names it: nothing is open without it',
  async (t) => {
    const api = await startFilled(t);
    api.put(denyFor('shop', 'r'));
    api.denied.add(envoyGateway);
    const store = follow(t, api);
    const lists = (): number => api.calls.filter(({ path }) => path.endsWith('/securitypolicies')).length;
    await until(() => lists() > 5 || undefined, 'several looks');
    t.equal(store.snapshot(), undefined);
    await until(
      () => /answered 404 to get \/apis\/gateway\.envoyproxy/.test(store.waitingFor() ?? '') || undefined,
      'why',
    );
    api.denied.clear();
    await until(() => store.snapshot(), 'the first snapshot');
    t.ok(namesIn(store).includes('SecurityPolicy deny-r'));
  },
);

t.test('discovery that is forbidden, that is HTML, or that contradicts the list is no proof', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  const resources = [{ name: 'securitypolicies' }];
  const versions = [{ version: 'v1alpha1' }];
  const group = { kind: 'APIGroupList', groups: [{ name: 'gateway.envoyproxy.io', versions }] };
  const list = { kind: 'APIResourceList', groupVersion: envoyGateway, resources };
  const newer = { ...list, groupVersion: 'gateway.envoyproxy.io/v1' };
  const text = (value: unknown) => JSON.stringify(value);
  const answers: readonly [apis: string | number, resources: string, RegExp][] = [
    [403, '', /forbids us to get \/apis, which must say that there is no kind \w+/],
    [503, '', /answered 503 to get \/apis/],
    ['<html>', '', /it is no APIGroupList/],
    [text({ kind: 'APIGroupList' }), '', /it is no APIGroupList/],
    [text(group), '<html>', /it is no APIResourceList/],
    [text(group), text({ ...list, groupVersion: 'other/v1' }), /it is no APIResourceList/],
    [text(group), text(list), /discovery names it, and its list is not found/],
    [
      ...([text({ ...group, groups: [{ name: 'gateway.envoyproxy.io', versions: [{ version: 'v1' }] }] })] as const),
      ...([
        text(newer),
        /kind SecurityPolicy of gateway\.envoyproxy\.io in version v1, which is not read here/,
      ] as const),
    ],
  ];
  let [apis, inGroup] = [answers[0]![0], ''];
  api.intercept = ({ path }, response) => {
    if (path === '/apis' && typeof apis === 'number') failure(response, apis, 'x', 'x');
    else if (path === '/apis') response.end(apis);
    else if (/^\/apis\/gateway\.envoyproxy\.io\/\w+$/.test(path)) response.end(inGroup);
    else return false;
    return true;
  };
  const lines: Record<string, unknown>[] = [];
  const store = follow(t, api, {}, lines);
  for (const [first, second, pattern] of answers) {
    [apis, inGroup] = [first, second];
    await until(() => lines.some(({ msg }) => pattern.test(String(msg))) || undefined, String(pattern));
    t.equal(store.snapshot(), undefined, String(pattern));
  }
  t.match(lines.find(({ code }) => code === 'kubernetes_forbidden')?.['hint'], /system:discovery/);
  api.intercept = undefined;
  await until(() => store.snapshot(), 'the first snapshot');
});

t.test('a kind that was there is gone only by discovery, and by looks that are seconds apart', async (t) => {
  const api = await startFilled(t);
  api.put(denyFor('shop', 'r'));
  const absentGuardMs = 400;
  const store = follow(t, api, { absentGuardMs });
  await until(() => store.snapshot(), 'the first snapshot');
  await until(() => api.watches() >= 12 || undefined, 'the watches');
  const looks = (): number => api.calls.filter(({ path }) => path === '/apis').length;
  api.denied.add(envoyGateway);
  api.compact();
  api.endWatches();
  const before = looks();
  await until(() => looks() > before + 8 || undefined, 'several looks');
  t.ok(namesIn(store).includes('SecurityPolicy deny-r'), 'its list and its resources are denied, and /apis names it');
  const from = performance.now();
  api.groups.delete(envoyGateway);
  await until(() => !namesIn(store).includes('SecurityPolicy deny-r') || undefined, 'the end of the kind');
  t.ok(performance.now() - from >= absentGuardMs, `after ${performance.now() - from} ms`);
  t.equal(store.placeOf('SecurityPolicy'), undefined);
  [...api.denied].map((one) => api.denied.delete(one));
  api.groups.add(envoyGateway);
  await until(() => namesIn(store).includes('SecurityPolicy deny-r') || undefined, 'and it comes back');
});

t.test('a kind that comes: its documents are in force before the routes that came after them', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  // No look comes by itself: only a change of documents makes one.
  const store = follow(t, api, { absentGuardMs: 3_600_000 });
  await until(() => store.snapshot(), 'the first snapshot');
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  api.groups.add(envoyGateway);
  api.put(policyIn('shop', 'deny-new', denyFor('shop', 'new').spec));
  let isHeld = true;
  const held: (() => void)[] = [];
  api.intercept = ({ path }, response) => {
    if (!isHeld || !path.endsWith('/securitypolicies')) return false;
    held.push(() => failure(response, 500, 'InternalError', 'x'));
    return true;
  };
  api.put(routeIn('shop', 'new', 'new.test'));
  await until(() => store.find('HTTPRoute', 'shop', 'new'), 'the route has arrived');
  await until(() => {
    t.notOk(namesIn(store).includes('HTTPRoute new'), 'the route waits for the look');
    return held.length > 0 || undefined;
  }, 'the look for policies');
  isHeld = false;
  for (const one of held) one();
  const first = await until(() => {
    const names = namesIn(store);
    return names.includes('HTTPRoute new') ? names : undefined;
  }, 'the route');
  t.ok(first.includes('SecurityPolicy deny-new'), 'the first state with the route has its policy');
});

t.test('the same by requests: the new route never answers 200', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  const one = await startWatched(t, api);
  t.equal(await statusOf(one, 'a.test'), 200);
  api.groups.add(envoyGateway);
  api.put(denyFor('shop', 'new'));
  api.put(routeIn('shop', 'new', 'new.test'));
  const seen = new Set<number | undefined>();
  await until(async () => {
    const status = await statusOf(one, 'new.test');
    seen.add(status);
    return status === 403 || undefined;
  }, 'the route with its policy');
  t.strictSame([...seen].toSorted(), [403, 404]);
});

/** What becomes of the requests for one kind. */
type Mode = 'stalled' | 'head' | 'gone';

for (const [mode, what] of [
  ['stalled', 'a watch whose connection is dead'],
  ['head', 'a watch without an answer'],
  ['gone', 'a list after 410 that takes long'],
] as const satisfies readonly (readonly [Mode, string])[])
  t.test(`${what}: a route waits for the policy that was there first`, async (t) => {
    const api = await startFilled(t);
    const store = follow(t, api, { proofMs: 20, answerMs: 30_000 });
    await until(() => store.snapshot(), 'the first snapshot');
    await until(() => api.watches() >= 14 || undefined, 'the watches');
    let isHeld = true;
    const held: (() => void)[] = [];
    const heldWatches: unknown[] = [];
    api.intercept = (call, response) => {
      if (!isHeld || !call.path.endsWith('/securitypolicies')) return false;
      const isWatch = call.query.has('watch');
      if (isWatch) heldWatches.push(response);
      if (isWatch && mode === 'gone') failure(response, 410, 'Expired', 'too old');
      else if (isWatch && mode === 'stalled') response.writeHead(200).flushHeaders();
      else if (!isWatch) held.push(() => api.answer(call, response));
      return true;
    };
    api.endWatches();
    await until(() => heldWatches.length > 0 || undefined, 'the watch that is held');
    api.put(denyFor('shop', 'new'));
    api.put(routeIn('shop', 'new', 'new.test'));
    await until(() => store.find('HTTPRoute', 'shop', 'new'), 'the route has arrived');
    await until(() => {
      t.notOk(namesIn(store).includes('HTTPRoute new'), 'the route waits for the list');
      return held.length > 0 || undefined;
    }, 'the list of policies');
    isHeld = false;
    for (const one of held) one();
    const first = await until(() => {
      const names = namesIn(store);
      return names.includes('HTTPRoute new') ? names : undefined;
    }, 'the route');
    t.ok(first.includes('SecurityPolicy deny-new'), 'the first state with the route has its policy');
  });

t.test('Gateways, namespaces, classes, Services and unknown kinds protect, too', async (t) => {
  const rest = kinds.flatMap((one) => (protects(one) ? [] : one.kind));
  const routes = ['HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute'];
  t.strictSame(rest, [...routes, 'Secret', 'ConfigMap', 'EndpointSlice']);
  for (const plural of ['gateways', 'namespaces', 'gatewayclasses', 'services']) {
    const api = await startFilled(t);
    const lines: Record<string, unknown>[] = [];
    const store = follow(t, api, { proofMs: 20 }, lines);
    await until(() => store.snapshot(), 'the first snapshot');
    await until(() => api.watches() >= 14 || undefined, 'the watches');
    let isForbidden = true;
    api.intercept = ({ path }, response) => {
      if (!isForbidden || !path.endsWith(`/${plural}`)) return false;
      failure(response, 403, 'Forbidden', 'no');
      return true;
    };
    api.endWatches();
    await until(() => JSON.stringify(lines).includes(`forbids us to watch ${plural}`) || undefined, `no ${plural}`);
    api.put(routeIn('shop', 'new', 'new.test'));
    await until(() => store.find('HTTPRoute', 'shop', 'new'), 'the route has arrived');
    t.notOk(namesIn(store).includes('HTTPRoute new'), `without ${plural} no route is new`);
    isForbidden = false;
    await until(() => namesIn(store).includes('HTTPRoute new') || undefined, 'the route');
  }
});

t.test('changes without end cost few lists, and keep out no other document', async (t) => {
  const api = await startFilled(t);
  const proofMs = 200;
  const store = follow(t, api, { proofMs });
  await until(() => store.snapshot(), 'the first snapshot');
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const lists = (): number =>
    api.calls.filter(({ path, query }) => path.endsWith('/securitypolicies') && !query.has('watch')).length;
  const [before, from] = [lists(), performance.now()];
  api.put(routeIn('shop', 'new', 'new.test'));
  let changes = 0;
  await until(() => {
    api.put(policyIn('team', 'other', { authorization: { defaultAction: 'Deny', rules: [{ name: `${changes++}` }] } }));
    return namesIn(store).includes('HTTPRoute new') || undefined;
  }, 'the route');
  const rounds = Math.ceil((performance.now() - from) / proofMs) + 1;
  // A list after which the watch begins again has the change that the next one must prove.
  t.ok(lists() - before <= 2 * rounds, `${lists() - before} lists in ${rounds} rounds of ${changes} changes`);
});

t.test('lists of data that hang hold up no document', async (t) => {
  const api = await startFilled(t);
  const store = follow(t, api, { proofMs: 20, answerMs: 600_000 });
  await until(() => store.snapshot(), 'the first snapshot');
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const data = ['secrets', 'configmaps', 'endpointslices'];
  let held = 0;
  api.intercept = ({ path, query }, response) => {
    if (!data.some((one) => path.endsWith(`/${one}`))) return false;
    if (query.has('watch')) failure(response, 410, 'Expired', 'too old');
    else {
      held++;
      response.writeHead(200).write('{');
    }
    return true;
  };
  api.endWatches();
  await until(() => held > 0 || undefined, 'a list that hangs');
  await until(() => api.watches() >= 12 || undefined, 'the watches of documents');
  api.put(routeIn('shop', 'new', 'new.test'));
  await until(() => namesIn(store).includes('HTTPRoute new') || undefined, 'the route');
});

// The store of watched objects against an API server that pages, expires, lies, sleeps, restarts and forbids.

import { writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import t from 'tap';
import { gatewayKinds, pluralOf } from '../../sidecar/cluster/kinds.ts';
import { ClusterStore, type StoreTimes, storeTimes } from '../../sidecar/cluster/store.ts';
import { type Any, type ApiCall, type FakeApiServer, failure, startApiServer } from '../fixtures/api-server.ts';
import { logTo } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';

const kinds = gatewayKinds(['RequestValidation'], 'sallyport.dev', 'v1alpha1');
/** The same, but HTTPRoutes need no proof, for which they would be listed beside their watch. */
const unproven = kinds.map((one) => (one.kind === 'HTTPRoute' ? { ...one, isData: true as const } : one));
const quick: Partial<StoreTimes> = {
  firstWaitMs: 10,
  longestWaitMs: 60,
  absentMs: 50,
  absentGuardMs: 50,
  proofMs: 10,
  answerMs: 2000,
};

interface Followed {
  readonly store: ClusterStore;
  readonly lines: Record<string, unknown>[];
  names(kind: string): string[];
  log(): string;
}

function follow(
  t: Owner,
  api: FakeApiServer,
  options: { namespaces?: string[]; times?: Partial<StoreTimes>; kinds?: typeof kinds } = {},
): Followed {
  const lines: Record<string, unknown>[] = [];
  const { url, caFile, tokenFile } = api;
  const store = new ClusterStore({
    ...{
      server: { url, caFile, tokenFile },
      kinds: options.kinds ?? kinds,
      namespaces: options.namespaces,
      log: logTo(lines),
    },
    times: { ...quick, ...options.times },
  });
  t.teardown(() => store.close());
  const names = (kind: string): string[] =>
    (store.snapshot() ?? []).flatMap((one) => (one.kind === kind ? [`${one.namespace}/${one.name}`] : [])).toSorted();
  return { store, lines, names, log: () => JSON.stringify(lines) };
}

const route = (name: string, namespace = 'shop', more: object = {}): Any => ({
  ...{ apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name, namespace }, spec: {} },
  ...more,
});
const secret = (name: string, value: string, type = 'kubernetes.io/tls', namespace = 'shop'): Any => ({
  ...{ apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace }, type },
  data: { 'tls.key': Buffer.from(value).toString('base64') },
});

/** A document that names data: what none names is not in a snapshot. */
const naming = (...names: string[]): Any => ({
  ...{ apiVersion: 'gateway.networking.k8s.io/v1', kind: 'GatewayClass', metadata: { name: 'naming' } },
  spec: names.map((name) => ({ name })),
});

/** Whether a call lists or watches a kind. */
const isList = ({ path, query }: ApiCall, plural: string): boolean =>
  path.endsWith(`/${plural}`) && !query.has('watch');
const isWatch = ({ path, query }: ApiCall, plural: string): boolean =>
  path.endsWith(`/${plural}`) && query.has('watch');
const count = (api: FakeApiServer, test: (call: ApiCall) => boolean): number => api.calls.filter(test).length;

/** Answers the first `times` calls that `test` accepts. */
function first(times: number, test: (call: ApiCall) => boolean, answer: (response: ServerResponse) => void) {
  let left = times;
  return (call: ApiCall, response: ServerResponse): boolean => {
    if (left === 0 || !test(call)) return false;
    left--;
    answer(response);
    return true;
  };
}

const newer = 'gateway.networking.k8s.io/v2';
const envoy = 'gateway.envoyproxy.io/v1alpha1';
/** Kinds without an object in these tests. */
const quietKinds = ['gatewayclasses', 'httproutes', 'referencegrants', 'securitypolicies', 'namespaces', 'secrets'];
const pluralIn = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
const isQuiet = (path: string): boolean => quietKinds.includes(pluralIn(path));

const ready = (followed: Followed) => until(() => followed.store.snapshot(), 'the first snapshot');

t.test('lists in pages and follows what comes, changes and goes', async (t) => {
  const api = await startApiServer(t);
  for (let i = 0; i < 1203; i++) api.put(route(`r${i}`));
  const followed = follow(t, api, { kinds: unproven });
  t.equal(followed.store.snapshot(), undefined, 'nothing before the first list');
  t.match(followed.store.waitingFor(), /the API server's list of \w+ and \d+ more kinds/);
  await ready(followed);
  t.equal(followed.store.waitingFor(), undefined);
  t.equal(followed.names('HTTPRoute').length, 1203);
  t.equal(
    count(api, (call) => isList(call, 'httproutes')),
    5,
    'five pages of 250',
  );
  const { text } = followed.store.find('HTTPRoute', 'shop', 'r0')!;
  t.notMatch(text, /managedFields|resourceVersion/, 'what no reader uses is not kept');
  t.match(JSON.parse(text), { apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { uid: /./ } });
  await until(() => api.watches() === 11 || undefined, 'all watches that there are');
  api.put(route('new'));
  api.put(route('r1', 'shop', { spec: { hostnames: ['a.test'] } }));
  api.remove('HTTPRoute', 'r2', 'shop');
  await until(() => followed.store.find('HTTPRoute', 'shop', 'r2') === undefined || undefined, 'the last event');
  t.equal(followed.names('HTTPRoute').length, 1203);
  t.match(followed.store.find('HTTPRoute', 'shop', 'r1')!.text, /a\.test/);
  t.equal(
    count(api, (call) => isList(call, 'httproutes')),
    5,
    'and nothing is listed again',
  );
});

t.test('items of built-in kinds get what they do not say, and Secrets that no document uses stay away', async (t) => {
  const api = await startApiServer(t);
  api.put(naming('tls', 'release'));
  api.put(secret('tls', 'k'));
  api.put(secret('unused', 'k'));
  api.put(secret('release', 'k', 'helm.sh/release.v1'));
  const followed = follow(t, api);
  await ready(followed);
  t.match(JSON.parse(followed.store.find('Secret', 'shop', 'tls')!.text), { apiVersion: 'v1', kind: 'Secret' });
  t.strictSame(followed.names('Secret'), ['shop/tls']);
});

t.test('a change of a status alone is no change', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const followed = follow(t, api);
  const before = await ready(followed);
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 0 || undefined, 'the watch');
  api.put(route('a', 'shop', { status: { parents: [] } }));
  await until(() => followed.store.find('HTTPRoute', 'shop', 'a')!.status, 'the status');
  let changes = 0;
  followed.store.onChange(() => changes++);
  t.equal(changes, 0);
  t.strictSame(
    followed.store.snapshot()!.map(({ text }) => text),
    before.map(({ text }) => text),
  );
});

t.test('only the namespaces that were named', async (t) => {
  const api = await startApiServer(t);
  for (const namespace of ['shop', 'edge', 'other']) api.put(route('r', namespace));
  const followed = follow(t, api, { namespaces: ['shop', 'edge'] });
  await ready(followed);
  t.strictSame(followed.names('HTTPRoute'), ['edge/r', 'shop/r']);
  t.equal(
    count(api, ({ path }) => path === '/api/v1/secrets'),
    0,
    'no list over all of them',
  );
  t.not(
    count(api, ({ path }) => path === '/api/v1/namespaces'),
    0,
  );
});

t.test('a watch that ends goes on from its version, and from a bookmark', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const followed = follow(t, api, { kinds: unproven });
  await ready(followed);
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 0 || undefined, 'the watch');
  for (let i = 0; i < 5; i++) api.put(secret(`s${i}`, 'k'));
  api.bookmark();
  api.endWatches();
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 1 || undefined, 'the next watch');
  const [one, two] = api.calls.filter((call) => isWatch(call, 'httproutes'));
  t.ok(Number(two!.query.get('resourceVersion')) >= Number(one!.query.get('resourceVersion')) + 5, 'from the bookmark');
  api.put(route('b'));
  await until(() => followed.names('HTTPRoute').length === 2 || undefined, 'the event');
  t.equal(
    count(api, (call) => isList(call, 'httproutes')),
    1,
  );
});

t.test(
  'the API server ends the watch of a quiet kind, which has no bookmarks either, before silence is a failure',
  async (t) => {
    const api = await startApiServer(t);
    const followed = follow(t, api, { kinds: unproven });
    await ready(followed);
    await until(() => api.watches() >= 11 || undefined, 'the watches');
    const watches = api.calls.filter(({ query }) => query.has('watch'));
    for (const { query } of watches)
      t.ok(Number(query.get('timeoutSeconds')) * 1000 < storeTimes.silenceMs - 10_000, query.get('timeoutSeconds')!);
    api.endWatches();
    await until(
      () => count(api, ({ query }) => query.has('watch')) >= 2 * watches.length || undefined,
      'the next ones',
    );
    t.ok(followed.store.facts().every(({ error }) => error === undefined));
    t.equal(
      count(api, (call) => isList(call, 'httproutes')),
      1,
      'without a list',
    );
  },
);

t.test('a quiet kind is followed over many ends of its watch', { timeout: 60_000 }, async (t) => {
  const api = await startApiServer(t, ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1', envoy]);
  // One second each, which is the shortest that can be asked for.
  const followed = follow(t, api, { times: { watchMs: 500 } });
  await ready(followed);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  const lists = count(api, ({ path, query }) => isQuiet(path) && !query.has('watch'));
  const errors = new Set<string>();
  const watchesOf = (plural: string): number => count(api, (call) => isWatch(call, plural));
  await until(() => {
    api.bookmark();
    for (const { error } of followed.store.facts()) if (error !== undefined) errors.add(error.message);
    return quietKinds.every((one) => watchesOf(one) >= 5) || undefined;
  }, 'five watches of each');
  t.strictSame([...errors], []);
  t.strictSame(followed.lines, [], 'and no line in the log');
  t.equal(
    count(api, ({ path, query }) => isQuiet(path) && !query.has('watch')),
    lists,
    'nothing is listed again',
  );
  api.put(route('a'));
  await until(() => followed.names('HTTPRoute').length === 1 || undefined, 'a change is in force');
});

/** A restart as kube-apiserver does it: a list is answered while the watch cache is still being filled. */
for (const [what, answers] of [
  ['429', [429, 429]],
  ['410', [410, 410, 410]],
  ['both', [429, 410, 410]],
] as const)
  t.test(`an API server that restarts, and refuses the first watches with ${what}`, async (t) => {
    const api = await startApiServer(t, ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1', envoy]);
    const followed = follow(t, api);
    await ready(followed);
    await until(() => api.watches() >= 14 || undefined, 'the watches');
    const left = new Map(quietKinds.map((one) => [one, [...answers] as number[]]));
    await api.stop();
    const isDown = () => followed.store.facts().filter(({ error }) => error !== undefined).length >= 14 || undefined;
    await until(isDown, 'the outage');
    // What it forgot is older than what it has.
    api.compact();
    api.intercept = ({ path, query }, response) => {
      const status = query.has('watch') ? left.get(pluralIn(path))?.shift() : undefined;
      if (status === undefined) return false;
      response.setHeader('retry-after', '1');
      failure(response, status, status === 410 ? 'Expired' : 'TooManyRequests', 'x');
      return true;
    };
    await api.start();
    const lineOf = (code: string, kind: string) =>
      followed.lines.filter((one) => one['code'] === code && one['kind'] === kind);
    for (const kind of ['SecurityPolicy', 'HTTPRoute']) {
      await until(() => lineOf('kubernetes_followed', kind).length > 0 || undefined, `${kind} is followed`);
      t.strictSame([...left.get(pluralOf(kind))!], [], 'not before the watch is open');
      t.equal(lineOf('kubernetes_unavailable', kind).length, 1, `one line for the outage of ${kind}`);
      t.equal(lineOf('kubernetes_followed', kind).length, 1, 'and one for its end');
    }
  });

for (const isLasting of [false, true])
  t.test(
    `403 of an API server that has just started ${isLasting ? 'and goes on' : 'and knows no roles yet'}`,
    async (t) => {
      const api = await startApiServer(t);
      const followed = follow(t, api, { times: isLasting ? { rolesMs: 300 } : {} });
      await ready(followed);
      await until(() => api.watches() >= 11 || undefined, 'the watches');
      await api.stop();
      await until(() => followed.store.facts().every(({ error }) => error !== undefined) || undefined, 'the outage');
      let left = isLasting ? Number.POSITIVE_INFINITY : 3;
      api.intercept = ({ path }, response) => {
        if (pluralIn(path) !== 'httproutes' || left === 0) return false;
        left--;
        failure(response, 403, 'Forbidden', 'x');
        return true;
      };
      await api.start();
      const codes = () => followed.lines.filter(({ kind }) => kind === 'HTTPRoute').map(({ code }) => code);
      await until(() => codes().length >= 2 || undefined, 'the second line');
      const second = isLasting ? 'kubernetes_forbidden' : 'kubernetes_followed';
      t.strictSame(codes(), ['kubernetes_unavailable', second]);
    },
  );

for (const status of [410, 429])
  t.test(`${status} to the first watches of a gateway that starts is no error`, async (t) => {
    const api = await startApiServer(t);
    let left = 3;
    api.intercept = (call, response) => {
      if (!isWatch(call, 'httproutes') || left === 0) return false;
      left--;
      failure(response, status, 'x', 'x');
      return true;
    };
    const followed = follow(t, api);
    await until(() => followed.lines.find(({ code }) => code === 'kubernetes_followed'), 'it is followed');
    t.match(followed.lines, [
      { code: 'kubernetes_unavailable', kind: 'HTTPRoute', level: 'info' },
      { code: 'kubernetes_followed', kind: 'HTTPRoute' },
    ]);
    t.equal(followed.lines.length, 2);
  });

t.test('one kind that gets an answer ends the waiting of all', { timeout: 120_000 }, async (t) => {
  const api = await startApiServer(t);
  const served = kinds.filter(({ kind, isBuiltIn }) => isBuiltIn || /^(?:Gateway|HTTPRoute|ReferenceGrant)/.test(kind));
  // After one failure each waits for 10 to 20 s.
  const followed = follow(t, api, { kinds: served, times: { firstWaitMs: 20_000, longestWaitMs: 20_000 } });
  await ready(followed);
  await until(() => api.watches() >= served.length || undefined, 'the watches');
  const behind = (): number => followed.store.facts().filter(({ error }) => error !== undefined).length;
  await api.stop();
  await until(() => behind() === served.length || undefined, 'the outage');
  await api.start();
  await until(() => behind() < served.length || undefined, 'the first kind');
  const from = performance.now();
  await until(() => behind() === 0 || undefined, 'all kinds');
  t.ok(performance.now() - from < 5000, `${Math.round(performance.now() - from)} ms after the first one`);
});

t.test('Retry-After is respected, and no more than the longest wait', async (t) => {
  const api = await startApiServer(t);
  const at: number[] = [];
  let after = '1';
  api.intercept = (call, response) => {
    if (!isWatch(call, 'httproutes') || at.push(performance.now()) > 2) return false;
    response.setHeader('retry-after', after);
    failure(response, 429, 'TooManyRequests', 'x');
    after = '86400';
    return true;
  };
  follow(t, api, { times: { longestWaitMs: 1500 } });
  await until(() => at.length >= 3 || undefined, 'the third watch');
  t.ok(at[1]! - at[0]! >= 990, `${Math.round(at[1]! - at[0]!)} ms`);
  t.ok(at[2]! - at[1]! >= 1490, `${Math.round(at[2]! - at[1]!)} ms`);
});

t.test('410 as an answer to a watch, to a page, and as an event: everything is listed again', async (t) => {
  const api = await startApiServer(t);
  for (let i = 0; i < 600; i++) api.put(route(`r${i}`));
  let isExpired = false;
  api.intercept = ({ path, query }) => {
    // Between the first page and the second.
    if (path.endsWith('/httproutes') && query.has('continue') && !isExpired) {
      isExpired = true;
      api.compact();
    }
    return false;
  };
  const followed = follow(t, api);
  await ready(followed);
  t.equal(followed.names('HTTPRoute').length, 600);
  t.ok(isExpired);
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 0 || undefined, 'the watch');
  api.remove('HTTPRoute', 'r0', 'shop');
  const gone = { kind: 'Status', status: 'Failure', reason: 'Expired', message: 'too old resource version', code: 410 };
  api.inject('HTTPRoute', `${JSON.stringify({ type: 'ERROR', object: gone })}\n`);
  await until(() => followed.names('HTTPRoute').length === 599 || undefined, 'the list');
  const lists = count(api, (call) => isList(call, 'httproutes'));
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  api.compact();
  api.endWatches();
  api.put(route('later'));
  await until(() => followed.store.find('HTTPRoute', 'shop', 'later'), 'the new object');
  t.ok(count(api, (call) => isList(call, 'httproutes')) > lists);
  t.notMatch(followed.log(), /kubernetes_invalid/);
});

t.test('an API server that answers 410 to every watch is not asked without a pause', async (t) => {
  const api = await startApiServer(t);
  api.intercept = (call, response) => {
    if (!isWatch(call, 'httproutes')) return false;
    failure(response, 410, 'Expired', 'too old');
    return true;
  };
  const followed = follow(t, api, { kinds: unproven, times: { firstWaitMs: 200, longestWaitMs: 5000 } });
  await ready(followed);
  const lists = (): number => count(api, (call) => isList(call, 'httproutes'));
  await until(() => followed.store.facts().find(({ kind }) => kind === 'HTTPRoute')!.error, 'the error');
  t.ok(lists() <= 4, `${lists()} lists`);
});

t.test('HTML, truncated JSON, wrong kinds, other namespaces: the last state stays, and it comes back', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const bad: [string, (response: ServerResponse) => void][] = [
    ['HTML', (response) => void response.setHeader('content-type', 'text/html').end('<html>login</html>')],
    ['no list', (response) => void response.end('{"kind":"SecretList","metadata":{"resourceVersion":"1"},"items":[]}')],
    [
      'half',
      (response) => void response.end('{"kind":"HTTPRouteList","metadata":{"resourceVersion":"1"},"items":[{"met'),
    ],
    ['no version', (response) => void response.end('{"kind":"HTTPRouteList","metadata":{},"items":[]}')],
    [
      'no items',
      (response) => void response.end('{"kind":"HTTPRouteList","metadata":{"resourceVersion":"1"},"items":7}'),
    ],
    ['null', (response) => void response.end('null')],
    [
      'a Secret among routes',
      (response) =>
        void response.end(
          '{"kind":"HTTPRouteList","metadata":{"resourceVersion":"1"},"items":[{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x","namespace":"shop","resourceVersion":"1"}}]}',
        ),
    ],
    ['500', (response) => failure(response, 500, 'InternalError', 'etcdserver: no leader')],
    ['closed', (response) => void response.destroy()],
  ];
  const followed = follow(t, api);
  await ready(followed);
  for (const [what, answer] of bad) {
    await until(() => followed.store.facts().every(({ error }) => error === undefined) || undefined, 'all is well');
    let answered = 0;
    api.intercept = first(
      2,
      (call) => isList(call, 'httproutes'),
      (response) => {
        answered++;
        answer(response);
      },
    );
    await until(() => {
      if (answered === 0) api.inject('HTTPRoute', '<html>\n');
      return answered === 2 || undefined;
    }, `${what} twice`);
    t.strictSame(followed.names('HTTPRoute'), ['shop/a'], `${what}: the last state stays`);
    await until(() => followed.store.facts().every(({ error }) => error === undefined) || undefined, 'it comes back');
  }
  t.match(followed.log(), /kubernetes_invalid/);
  t.match(followed.log(), /kubernetes_unavailable/);
  t.match(followed.log(), /the last state stays in force/);
  t.notMatch(followed.log(), /login/, 'nothing of an answer is logged');
});

t.test('events that are none, and one without an end', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const followed = follow(t, api);
  await ready(followed);
  const other = { kind: 'Secret', apiVersion: 'v1', metadata: { name: 'a', namespace: 'shop', resourceVersion: '9' } };
  const bad = [
    '{"type":"ADDED"}\n',
    `${JSON.stringify({ type: 'DELETED', object: other })}\n`,
    `${JSON.stringify({ type: 'EXPLODED', object: route('a') })}\n`,
    '{"type":"BOOKMARK","object":{}}\n',
    `{"type":"ADDED","object":"${'x'.repeat(5_000_000)}"}\n`,
    `{"type":"ADDED","object":"${'x'.repeat(18_000_000)}`,
  ];
  for (const bytes of bad) {
    const before = count(api, (call) => isList(call, 'httproutes'));
    const watches = count(api, (call) => isWatch(call, 'httproutes'));
    await until(() => api.watches() >= 11 || undefined, 'the watches');
    api.inject('HTTPRoute', bytes);
    await until(() => count(api, (call) => isList(call, 'httproutes')) > before || undefined, 'a new list');
    await until(() => count(api, (call) => isWatch(call, 'httproutes')) > watches || undefined, 'a new watch');
    t.strictSame(followed.names('HTTPRoute'), ['shop/a'], bytes.slice(0, 40));
  }
});

t.test('huge objects make the pages smaller where they are, and no others', async (t) => {
  const api = await startApiServer(t);
  const data = { big: 'x'.repeat(1_000_000) };
  api.put(naming(...Array.from({ length: 24 }, (_, i) => `c${i}`)));
  const put = (name: string, namespace: string, data: object): void =>
    api.put({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace }, data });
  for (let i = 0; i < 260; i++) put(`small${i}`, 'a-team', {});
  for (let i = 0; i < 24; i++) put(`c${i}`, 'shop', data);
  for (let i = 0; i < 1000; i++) put(`small${i}`, 'team', {});
  const kept = (): string => followed.store.find('ConfigMap', 'shop', 'c0')!.text;
  const followed = follow(t, api);
  await ready(followed);
  t.equal(followed.names('ConfigMap').length, 24);
  t.notMatch(kept(), /xxx/, 'of which only certificates and CRLs are kept');
  const pages = api.calls.filter((call) => isList(call, 'configmaps'));
  const limits = pages.map(({ query }) => query.get('limit'));
  t.strictSame(limits.slice(0, 4), ['250', '250', '62', '15']);
  t.strictSame(new Set(pages.slice(1, 4).map(({ query }) => query.get('continue'))).size, 1, 'of the same place');
  t.equal(pages.filter(({ query }) => !query.has('continue')).length, 1, 'nothing is listed again');
  t.equal(limits.at(-1), '250', 'and pages grow again');
  t.ok(limits.length < 28, `${limits.length} pages`);
});

t.test('a kind that RBAC forbids: an error that names kind and verb, and nothing of the rest is hidden', async (t) => {
  const api = await startApiServer(t);
  api.intercept = (call, response) => {
    if (!call.path.endsWith('/secrets')) return false;
    failure(response, 403, 'Forbidden', 'secrets is forbidden: User "x" cannot list resource "secrets"');
    return true;
  };
  const followed = follow(t, api, { namespaces: ['shop'] });
  const line = await until(() => followed.lines.find(({ code }) => code === 'kubernetes_forbidden'), 'the line');
  t.match(line, { msg: /forbids us to list secrets in namespace shop: nothing is served/, kind: 'Secret' });
  t.match(line['hint'], /kubectl auth can-i list secrets -n shop/);
  await until(
    () => followed.store.waitingFor()?.includes('forbids us to list secrets') || undefined,
    'what it waits for',
  );
  t.equal(followed.store.snapshot(), undefined, 'no configuration without the Secrets');
  t.equal(followed.lines.filter(({ code }) => code === 'kubernetes_forbidden').length, 1, 'logged once');
  api.intercept = undefined;
  await ready(followed);
  t.match(followed.log(), /secrets of namespace shop are followed again/);
});

t.test('a watch that is forbidden names that verb', async (t) => {
  const api = await startApiServer(t);
  api.intercept = (call, response) => {
    if (!isWatch(call, 'httproutes')) return false;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  const followed = follow(t, api, { kinds: unproven });
  await ready(followed);
  await until(() => /forbids us to watch httproutes/.test(followed.log()) || undefined, 'the line');
  t.ok(followed.store.facts().find(({ kind }) => kind === 'HTTPRoute')!.ageMs > 0);
});

for (const [status, pattern] of [
  [405, /the API server does not allow to watch securitypolicies: it has no verb watch for them/],
  [403, /the API server forbids us to watch securitypolicies/],
] as const)
  t.test(
    `a kind that can be listed and not watched (${status}) is not followed, and the error names the verb`,
    async (t) => {
      const api = await startApiServer(t, ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1', envoy]);
      let isRefused = true;
      api.intercept = (call, response) => {
        if (!isRefused || !isWatch(call, 'securitypolicies')) return false;
        failure(response, status, 'MethodNotAllowed', 'no');
        return true;
      };
      const followed = follow(t, api);
      await until(() => pattern.test(followed.store.waitingFor() ?? '') || undefined, 'what it waits for');
      const lists = (): number => count(api, (call) => isList(call, 'securitypolicies'));
      const before = lists();
      await until(() => {
        t.equal(followed.store.snapshot(), undefined, 'lists alone bring no documents into force');
        t.match(followed.store.waitingFor(), pattern, 'and end no trouble');
        return lists() > before + 4 || undefined;
      }, 'some more lists');
      t.equal(followed.lines.filter(({ msg }) => pattern.test(String(msg))).length, 1, 'one line');
      isRefused = false;
      await ready(followed);
      t.equal(followed.store.facts().find(({ kind }) => kind === 'SecurityPolicy')!.error, undefined);
    },
  );

t.test('the token is read again after its rotation', async (t) => {
  const api = await startApiServer(t);
  const followed = follow(t, api);
  await ready(followed);
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  api.token = 'second-token';
  api.endWatches();
  await until(() => /does not accept our token/.test(followed.log()) || undefined, '401');
  writeFileSync(api.tokenFile, 'second-token\n');
  api.put(route('a'));
  await until(() => followed.names('HTTPRoute').length === 1 || undefined, 'it comes back');
  t.notMatch(followed.log(), /(?:first|second)-token/);
});

t.test('an API server that restarts: the last state stays, its age is told, and no list is needed', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const followed = follow(t, api, { times: { reminderMs: 50 } });
  await ready(followed);
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  const lists = count(api, (call) => isList(call, 'httproutes'));
  await api.stop();
  await until(() => followed.lines.find(({ msg }) => /kinds are up to \d+ s old/.test(String(msg))), 'the reminder');
  t.strictSame(followed.names('HTTPRoute'), ['shop/a']);
  const ageOf = (kind: string): number => followed.store.facts().find((one) => one.kind === kind)!.ageMs;
  await until(() => ageOf('HTTPRoute') > 0 || undefined, 'the age');
  api.put(route('meanwhile'));
  await api.start();
  await until(() => followed.store.find('HTTPRoute', 'shop', 'meanwhile'), 'what happened meanwhile');
  t.equal(
    count(api, (call) => isList(call, 'httproutes')),
    lists,
  );
  await until(() => followed.store.facts().every(({ ageMs }) => ageMs === 0) || undefined, 'all is well');
});

t.test('one that sleeps: a list is given up, and a watch without a word is opened again', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  let slept = 0;
  api.intercept = (call) => isList(call, 'services') && slept++ < 1;
  const followed = follow(t, api, { times: { answerMs: 300, silenceMs: 300 } });
  await ready(followed);
  t.match(followed.log(), /did not answer in time/);
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 2 || undefined, 'another watch');
  t.strictSame(followed.names('HTTPRoute'), ['shop/a']);
});

t.test('a CRD that comes later is followed from then on, and one that seems to go keeps its objects', async (t) => {
  const api = await startApiServer(t);
  const followed = follow(t, api);
  await ready(followed);
  t.equal(followed.store.placeOf('SecurityPolicy'), undefined);
  api.groups.add('gateway.envoyproxy.io/v1alpha1');
  api.put({
    ...{ apiVersion: 'gateway.envoyproxy.io/v1alpha1', kind: 'SecurityPolicy' },
    ...{ metadata: { name: 'p', namespace: 'shop' }, spec: {} },
  });
  await until(() => followed.names('SecurityPolicy').length === 1 || undefined, 'the policy');
  await until(() => count(api, (call) => isWatch(call, 'securitypolicies')) > 0 || undefined, 'the watch');
  api.denied.add('gateway.envoyproxy.io/v1alpha1');
  api.compact();
  api.endWatches();
  await until(
    () => /answered 404 to list securitypolicies|answered 404 to watch/.test(followed.log()) || undefined,
    '404',
  );
  t.strictSame(followed.names('SecurityPolicy'), ['shop/p'], 'a policy does not go because its kind is denied');
});

t.test('an older version of a kind is followed where there is no newer one', async (t) => {
  const api = await startApiServer(t, ['gateway.networking.k8s.io/v1beta1']);
  api.put({ ...route('a'), apiVersion: 'gateway.networking.k8s.io/v1beta1' });
  const followed = follow(t, api);
  await ready(followed);
  t.equal(followed.store.placeOf('HTTPRoute')!.version, 'v1beta1');
  t.match(followed.store.find('HTTPRoute', 'shop', 'a')!.text, /v1beta1/);
});

t.test('a kind of a version that is not read counts as absent, with one line that says so', async (t) => {
  const api = await startApiServer(t, ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1', newer]);
  const isOfTcp = (path: string): boolean => path === `/apis/${newer}`;
  api.intercept = ({ path }, response) => {
    if (!isOfTcp(path)) return false;
    response.end(JSON.stringify({ kind: 'APIResourceList', groupVersion: newer, resources: [{ name: 'tcproutes' }] }));
    return true;
  };
  const followed = follow(t, api);
  await ready(followed);
  const looks = (): number => count(api, ({ path }) => isOfTcp(path));
  const before = looks();
  await until(() => looks() > before + 40 || undefined, 'more looks');
  t.match(followed.lines, [{ level: 'warn', code: 'kubernetes_invalid', kind: 'TCPRoute', hint: /version v1 or/ }]);
  t.equal(followed.lines.length, 1);
  t.equal(followed.store.unread().length, 1);
  api.groups.delete(newer);
  await until(() => followed.store.unread().length === 0 || undefined, 'it is gone');
});

t.test('everything is listed again from time to time', async (t) => {
  const api = await startApiServer(t);
  const followed = follow(t, api, { times: { resyncMs: 50, watchMs: 50 } });
  await ready(followed);
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  for (const _ of [1, 2, 3]) {
    api.endWatches();
    await until(() => api.watches() >= 11 || undefined, 'the watches');
  }
  await until(() => {
    api.endWatches();
    return count(api, (call) => isList(call, 'httproutes')) > 1 || undefined;
  }, 'a second list');
  t.pass();
});

t.test('nothing of a Secret gets into the log, whatever is wrong with it', async (t) => {
  const api = await startApiServer(t);
  const followed = follow(t, api);
  await ready(followed);
  const marker = 'very-secret-marker';
  const object = {
    ...secret('s', marker),
    metadata: { name: '', namespace: 'shop', resourceVersion: '5' },
    data: marker,
  };
  const wrong = [
    `${JSON.stringify({ type: 'ADDED', object })}\n`,
    `${JSON.stringify({ type: marker, object })}\n`,
    `{"type":"ADDED","object":{"data":"${marker}"\n`,
    `${JSON.stringify({ type: 'ERROR', object: { kind: 'Status', code: 500, message: marker } })}\n`,
  ];
  for (const bytes of wrong) {
    const watches = count(api, (call) => isWatch(call, 'secrets'));
    await until(() => api.watches() >= 11 || undefined, 'the watches');
    api.inject('Secret', bytes);
    await until(() => count(api, (call) => isWatch(call, 'secrets')) > watches || undefined, 'the next watch');
  }
  api.intercept = first(
    1,
    (call) => isList(call, 'secrets'),
    (response) => void response.end(`{"kind":"SecretList","items":[{"data":"${marker}`),
  );
  api.inject('Secret', 'x\n');
  await until(() => /it is no SecretList/.test(followed.log()) || undefined, 'the error');
  t.notMatch(followed.log(), new RegExp(`${marker}|${Buffer.from(marker).toString('base64').slice(0, 12)}`));
});

t.test('too many bytes of one namespace: its documents go, and those of others stay', async (t) => {
  const api = await startApiServer(t);
  const big = { spec: { hostnames: ['x'.repeat(900)] } };
  api.put(naming('s', 'big'));
  for (const name of ['a', 'b', 'c']) api.put(route(name, 'shop', big));
  for (const one of [route('r', 'team'), secret('s', 'k', 'Opaque', 'team'), secret('big', 'k'.repeat(3000))])
    api.put(one);
  const followed = follow(t, api, { times: { namespaceBytes: 2500, watchMs: 50, resyncMs: 60_000 } });
  await ready(followed);
  t.strictSame(followed.names('HTTPRoute'), ['team/r']);
  t.strictSame(followed.names('Secret'), ['team/s'], 'of data, only what exceeds the bound');
  t.equal(followed.log().match(/namespace shop has too many bytes of all kinds/g)?.length, 1, 'once for all kinds');
  await until(() => count(api, (call) => isWatch(call, 'httproutes')) > 0 || undefined, 'the watch');
  for (const name of ['d', 'e', 'f']) api.put(route(name, 'team', big));
  await until(() => followed.names('HTTPRoute').length === 0 || undefined, 'the same by events');
  for (const name of ['a', 'b']) api.remove('HTTPRoute', name, 'shop');
  api.remove('Secret', 'big', 'shop');
  await until(() => {
    api.endWatches();
    return followed.names('HTTPRoute').includes('shop/c') || undefined;
  }, 'less is served again');
});

t.test('too many bytes of a kind without namespaces: everything stays as it was', async (t) => {
  const api = await startApiServer(t);
  const named = (name: string, bytes: number): Any => ({ ...naming('x'.repeat(bytes)), metadata: { name } });
  for (const one of [named('ours', 100), route('a')]) api.put(one);
  const followed = follow(t, api, { times: { namespaceBytes: 2500, reminderMs: 50 } });
  await ready(followed);
  for (const one of [named('large', 3000), route('b')]) api.put(one);
  await until(() => /too many bytes/.test(followed.log()) || undefined, 'the log');
  const lists = count(api, (call) => isList(call, 'gatewayclasses'));
  await until(() => count(api, (call) => isList(call, 'gatewayclasses')) > lists + 3 || undefined, 'later looks');
  t.strictSame([followed.names('GatewayClass'), followed.names('HTTPRoute')], [['undefined/ours'], ['shop/a']]);
  api.remove('GatewayClass', 'large');
  await until(() => followed.names('HTTPRoute').length === 2 || undefined, 'it goes on');
  t.strictSame(followed.names('GatewayClass'), ['undefined/ours']);
});

t.test('the bytes of all kinds count together', async (t) => {
  const api = await startApiServer(t, ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1', envoy]);
  const metadata = { name: 'p', namespace: 'shop' };
  const policy = (bytes: number): Any => ({
    ...{ apiVersion: envoy, kind: 'SecurityPolicy', metadata, spec: { text: 'x'.repeat(bytes) } },
  });
  const long = { spec: { hostnames: ['x'.repeat(6000)] } };
  for (const one of [route('a', 'shop', long), policy(6000), route('b', 'team', long)]) api.put(one);
  const times = { namespaceBytes: 10_000, reminderMs: 100 };
  const followed = follow(t, api, { times });
  await ready(followed);
  t.strictSame(followed.names('HTTPRoute'), ['team/b'], 'each would fit alone');
  t.match(followed.log(), /namespace shop has too many bytes of all kinds \(the bound is 10000, /);
  api.put(policy(100));
  await until(
    () => followed.names('HTTPRoute').length === 2 || undefined,
    'it fits since there is less of another kind',
  );
  t.strictSame(followed.names('SecurityPolicy'), ['shop/p']);
  for (let i = 0; i < 20; i++) api.put(policy(3000 + i));
  await until(() => followed.names('SecurityPolicy').length === 1 || undefined, 'changes are not added up');
  t.strictSame(followed.names('HTTPRoute'), ['shop/a', 'team/b']);
});

t.test('a list does not hold once more what has not changed', async (t) => {
  const api = await startApiServer(t);
  api.put(route('a'));
  const followed = follow(t, api, { times: { watchMs: 50, resyncMs: 50 } });
  await ready(followed);
  const known = followed.store.find('HTTPRoute', 'shop', 'a');
  const lists = (): number => count(api, (call) => isList(call, 'httproutes'));
  const before = lists();
  await until(() => lists() > before + 2 || undefined, 'lists that are taken');
  t.equal(followed.store.find('HTTPRoute', 'shop', 'a'), known);
});

t.test('a total: a namespace with little still gets in, and one that does not grow stays', async (t) => {
  const api = await startApiServer(t);
  const big = (bytes: number): object => ({ spec: { hostnames: ['x'.repeat(bytes)] } });
  for (const name of ['a', 'b', 'c']) api.put(route(name, `big-${name}`, big(1_200_000)));
  for (const name of ['d', 'e']) api.put(route(name, `team-${name}`, big(300_000)));
  const followed = follow(t, api, { times: { totalBytes: 3_300_000, reminderMs: 100 } });
  await ready(followed);
  const there = ['big-a/a', 'big-b/b', 'team-d/d', 'team-e/e'];
  t.strictSame(followed.names('HTTPRoute'), there);
  api.put(route('a', 'big-a', big(1_190_000)));
  const textOf = () => followed.store.snapshot()?.find(({ name }) => name === 'a')?.text.length ?? 0;
  await until(() => (textOf() > 0 && textOf() < 1_195_000) || undefined, 'a change that is not larger');
  t.strictSame(followed.names('HTTPRoute'), there);
  for (const name of ['d', 'e']) api.remove('HTTPRoute', name, `team-${name}`);
  api.remove('HTTPRoute', 'b', 'big-b');
  await until(() => followed.names('HTTPRoute').includes('big-c/c') || undefined, 'what did not fit comes by itself');
});

t.test('a namespace of which data exceeds the bound is closed, whatever came first', async (t) => {
  const api = await startApiServer(t);
  api.put(naming('s'));
  for (const one of [route('a'), route('b', 'team'), secret('s', 'k'.repeat(1000))]) api.put(one);
  const followed = follow(t, api, { times: { namespaceBytes: 5000, reminderMs: 100 } });
  await ready(followed);
  t.strictSame(followed.names('HTTPRoute'), ['shop/a', 'team/b']);
  api.put(secret('s', 'k'.repeat(6000)));
  await until(() => followed.names('HTTPRoute').length === 1 || undefined, 'it is closed');
  t.strictSame(followed.names('HTTPRoute'), ['team/b']);
  t.strictSame(
    [...followed.store.closed()],
    [['shop', 'it has too many bytes of all kinds']],
    'for statuses and pages',
  );
  api.put(secret('s', 'k'.repeat(100)));
  await until(() => followed.names('HTTPRoute').length === 2 || undefined, 'and opened again');
});

t.test('what is read of Services and Namespaces is kept, and no more', async (t) => {
  const api = await startApiServer(t);
  const annotations = { 'sallyport.dev/identity': 'spiffe://a.test/b', other: 'x'.repeat(1000) };
  const spec = { ports: [{ port: 80, name: 'http', nodePort: 30_000 }], type: 'ClusterIP', selector: { app: 'a' } };
  api.put(naming('web'));
  api.put({ apiVersion: 'v1', kind: 'Service', metadata: { name: 'web', namespace: 'shop', annotations }, spec });
  api.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop', labels: { a: 'b' }, annotations } });
  const followed = follow(t, api);
  await ready(followed);
  const textOf = (kind: string, namespace: string | undefined, name: string): Any =>
    JSON.parse(followed.store.find(kind, namespace, name)!.text);
  const { metadata, spec: kept } = textOf('Service', 'shop', 'web');
  t.strictSame(metadata.annotations, { 'sallyport.dev/identity': 'spiffe://a.test/b' });
  t.strictSame(kept, { type: 'ClusterIP', ports: [{ name: 'http', port: 80 }] });
  t.strictSame(Object.keys(textOf('Namespace', undefined, 'shop').metadata).toSorted(), [
    'creationTimestamp',
    'labels',
    'name',
  ]);
});

for (const [status, lists] of [
  [504, 2],
  [400, 2],
  [503, 1],
] as const)
  t.test(`a watch that answers ${status} once`, async (t) => {
    const api = await startApiServer(t);
    const followed = follow(t, api, { kinds: unproven });
    await ready(followed);
    await until(() => api.watches() >= 10 || undefined, 'the watches');
    let isDown = true;
    api.intercept = (call, response) => {
      if (!isDown || !isWatch(call, 'httproutes')) return false;
      isDown = false;
      failure(response, status, 'Timeout', 'x');
      return true;
    };
    const watches = count(api, (call) => isWatch(call, 'httproutes'));
    api.endWatches();
    await until(() => count(api, (call) => isWatch(call, 'httproutes')) >= watches + 2 || undefined, 'the next watch');
    t.equal(
      count(api, (call) => isList(call, 'httproutes')),
      lists,
    );
  });

t.test('three refusals of watches in a row: a list brings the state', async (t) => {
  const api = await startApiServer(t);
  let isDown = false;
  api.intercept = (call, response) => {
    if (!isDown || !isWatch(call, 'httproutes')) return false;
    failure(response, 500, 'InternalError', 'x');
    return true;
  };
  const followed = follow(t, api, { kinds: unproven });
  await ready(followed);
  await until(() => api.watches() >= 10 || undefined, 'the watches');
  isDown = true;
  api.endWatches();
  api.put(route('a'));
  await until(() => followed.names('HTTPRoute').includes('shop/a') || undefined, 'the route');
});

t.test('watches that end at once, and one that sends empty lines, are no proof', async (t) => {
  const api = await startApiServer(t);
  let mode: 'end' | 'drip' | undefined = 'end';
  const dripping = new Set<ServerResponse>();
  const timer = setInterval(() => {
    for (const one of dripping) one.write('\n');
  }, 20);
  t.teardown(() => clearInterval(timer));
  api.intercept = (call, response) => {
    if (mode === undefined || !isWatch(call, 'httproutes')) return false;
    response.writeHead(200, { 'content-type': 'application/json' });
    if (mode === 'end') response.end();
    else {
      response.flushHeaders();
      dripping.add(response);
      response.once('close', () => dripping.delete(response));
    }
    return true;
  };
  const followed = follow(t, api, { times: { silenceMs: 300, firstWaitMs: 100 } });
  await ready(followed);
  api.put(route('a'));
  await until(() => followed.names('HTTPRoute').includes('shop/a') || undefined, 'a list instead');
  t.match(followed.log(), /watches of httproutes end at once/);
  mode = 'drip';
  await until(() => dripping.size > 0 || undefined, 'the watch that drips');
  await until(() => /a watch of httproutes has no events/.test(followed.log()) || undefined, 'silence');
  mode = undefined;
  api.put(route('b'));
  await until(() => followed.names('HTTPRoute').includes('shop/b') || undefined, 'the next one');
});

t.test('a version of a CRD that is dropped: the next one is followed', async (t) => {
  const api = await startApiServer(t, ['gateway.networking.k8s.io/v1beta1', 'gateway.networking.k8s.io/v1']);
  api.put(route('a'));
  const followed = follow(t, api);
  await ready(followed);
  await until(() => api.watches() >= 10 || undefined, 'the watches');
  t.equal(followed.store.placeOf('HTTPRoute')!.version, 'v1');
  api.groups.delete('gateway.networking.k8s.io/v1');
  api.put({ ...route('b'), apiVersion: 'gateway.networking.k8s.io/v1beta1' });
  api.endWatches();
  await until(() => followed.store.placeOf('HTTPRoute')!.version === 'v1beta1' || undefined, 'the version');
  // BackendTLSPolicy has no v1beta1 here: what protects is gone, so no snapshot has the route.
  await until(() => followed.store.find('HTTPRoute', 'shop', 'b'), 'its objects');
  t.strictSame(followed.names('HTTPRoute'), ['shop/a']);
});

t.test('a file of roots without a certificate: nothing is sent to whatever the system trusts', async (t) => {
  const api = await startApiServer(t);
  writeFileSync(api.caFile, '');
  const followed = follow(t, api);
  await until(() => /has no certificate/.test(followed.log()) || undefined, 'why');
  t.strictSame(api.calls, []);
  t.equal(followed.store.snapshot(), undefined);
});

t.test('an event that is too large: its object closes its namespace, and everything else is followed', async (t) => {
  const api = await startApiServer(t);
  for (const one of [route('a'), route('b', 'team')]) api.put(one);
  const followed = follow(t, api);
  await ready(followed);
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  const lists = (): number => count(api, (call) => isList(call, 'configmaps'));
  const before = lists();
  const put = (name: string, bytes: number): void => {
    const metadata = { annotations: { name: 'x"{' }, name, namespace: 'shop' };
    api.put({ ...route(name), metadata, spec: { metadata: { name: 'other' }, hostnames: ['x'.repeat(bytes)] } });
  };
  const become = (names: readonly string[], why: string) =>
    until(() => JSON.stringify(followed.names('HTTPRoute')) === JSON.stringify(names) || undefined, why);
  for (const more of [1, 2]) put('big', 4_500_000 + more);
  await become(['team/b'], 'nothing of its namespace');
  api.put(route('c', 'team'));
  await become(['team/b', 'team/c'], 'the next event');
  const said = followed.lines.filter(({ msg }) => /HTTPRoute shop\/big has more than 4194304 bytes/.test(String(msg)));
  t.match(said, [
    { kind: 'HTTPRoute', namespace: 'shop', name: 'big', msg: /no document of namespace shop is in force/ },
  ]);
  t.equal(said.length, 1, 'once');
  put('big', 10);
  await become(['shop/a', 'shop/big', 'team/b', 'team/c'], 'it is smaller');
  put('big', 4_500_000);
  await become(['team/b', 'team/c'], 'it is too large');
  api.remove('HTTPRoute', 'big', 'shop');
  await become(['shop/a', 'team/b', 'team/c'], 'it is gone');
  const data = { 'ca.crt': 'x'.repeat(4_500_000) };
  api.put({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'big', namespace: 'shop' }, data });
  await until(
    () =>
      /ConfigMap shop\/big has more than 4194304 bytes as an event: it is not read/.test(followed.log()) || undefined,
    'data',
  );
  t.strictSame(followed.names('HTTPRoute'), ['shop/a', 'team/b', 'team/c'], 'which closes nothing');
  t.equal(lists(), before, 'and nothing is listed for that');
  t.ok(followed.store.facts().every(({ error }) => error === undefined));
  api.put(naming('big'));
  const second = follow(t, api);
  await ready(second);
  t.strictSame(second.names('ConfigMap'), [], 'a list does not read it, either');
  t.match(second.log(), /ConfigMap shop\/big has more than/);
});

t.test('an object that is nested too deeply closes its namespace only, in a list and as an event', async (t) => {
  const api = await startApiServer(t);
  // So deep that JSON.stringify() fails; the API server takes up to 10,000 levels.
  const deep = (levels: number): string => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;
  const item = (name: string, levels: number): string =>
    JSON.stringify({
      ...route(name),
      metadata: { name, namespace: 'shop', resourceVersion: '2000000' },
      spec: 'DEEP',
    }).replace('"DEEP"', deep(levels));
  api.put(route('b', 'team'));
  const stored = JSON.stringify(api.get('HTTPRoute', 'b', 'team'));
  let items = stored;
  api.intercept = (call, response) => {
    if (!isList(call, 'httproutes')) return false;
    const version = call.query.get('resourceVersion') ?? '2000000';
    response.end(`{"kind":"HTTPRouteList","metadata":{"resourceVersion":"${version}"},"items":[${items}]}`);
    return true;
  };
  const inject = (type: string, levels: number): void => {
    items = `${stored},${item('deep', levels)}`;
    api.inject('HTTPRoute', `{"type":"${type}","object":${item('deep', levels)}}\n`);
  };
  const followed = follow(t, api);
  await ready(followed);
  await until(() => api.watches() >= 11 || undefined, 'the watches');
  const become = (names: readonly string[]) =>
    until(() => JSON.stringify(followed.names('HTTPRoute')) === JSON.stringify(names) || undefined, String(names));
  inject('ADDED', 100);
  await become(['shop/deep', 'team/b']);
  for (const levels of [130, 600, 9000]) {
    inject('MODIFIED', levels);
    await become(['team/b']);
    inject('MODIFIED', 3);
    await become(['shop/deep', 'team/b']);
  }
  t.match(followed.log(), /HTTPRoute shop\/deep has more than 128 levels: no document of namespace shop is in force/);
  t.ok(followed.store.facts().every(({ error }) => error === undefined));
  items = `${item('deep', 9000)},${item('fine', 3).replace('shop', 'team')}`;
  const second = follow(t, api);
  await ready(second);
  t.strictSame(second.names('HTTPRoute').slice(-1), ['team/fine']);
  t.notOk(second.names('HTTPRoute').includes('shop/deep'));
});

for (const [what, next, most] of [
  ['one page for ever', 'same', 3],
  ['a token that is too long', 'x'.repeat(10_000), 2],
] as const)
  t.test(`pages that have no end: ${what}`, async (t) => {
    const api = await startApiServer(t);
    let asked = 0;
    api.intercept = (call, response) => {
      if (!isList(call, 'secrets')) return false;
      asked++;
      response.end(`{"kind":"SecretList","metadata":{"resourceVersion":"1","continue":"${next}"},"items":[]}`);
      return true;
    };
    const followed = follow(t, api, { times: { firstWaitMs: 5000 } });
    await until(() => /secrets is not valid: its pages have no end/.test(followed.log()) || undefined, 'the error');
    t.ok(asked <= most, `${asked} pages`);
  });

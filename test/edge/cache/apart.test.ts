// What a cache keeps apart, on real sockets: clients that an app tells apart by what the gateway adds, and rules that
// change places.

import { createServer } from 'node:http';
import { request } from 'node:https';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { documentsOf, saying, startCached } from '../../fixtures/cached.ts';
import { startTestGateway } from '../../fixtures/gateway.ts';
import { createAuthority, createCredential } from '../../fixtures/pki.ts';

const minute = { 'cache-control': 'max-age=60' };
const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');

/** A gateway whose clients have certificates; its app varies by what the gateway says of them. */
async function startForClients(t: Parameters<typeof startCached>[0], spec: string, vary: string) {
  const authority = await createAuthority('outside.test');
  const front = await createCredential(authority, 'spiffe://outside.test/front', { dns: ['clients.test'] });
  const app = createServer((asked, answer) => {
    const name = /CN=(\w+)/.exec(String(asked.headers['x-forwarded-client-cert']))?.[1];
    saying(`for ${name}`, { 'cache-control': 'public, max-age=60', vary })(asked, answer);
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const listener = `
  listeners: [{ name: l, port: 444, protocol: HTTPS, hostname: clients.test, tls: { certificateRefs: [{ name: front }] } }]
  tls: { frontend: { default: {}, perPort: [{ port: 444, tls: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } }] } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: ca }
data:
  ca.crt: |
${indent(authority.bundlePem)}
---
apiVersion: v1
kind: Secret
metadata: { name: front }
stringData:
  tls.crt: |
${indent(front.chainPem)}
  tls.key: |
${indent(front.keyPem)}`;
  const gateway = await startTestGateway(t, {
    listeners: ['default/g:444'],
    documents: documentsOf(spec, '').replace('\n  listeners: [{ name: http, port: 80, protocol: HTTP }]', listener),
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${(app.address() as AddressInfo).port}"] } }\nbackends: { default/app:80: app }\n`,
  });
  const clients = ['ann', 'bob'].map((name) =>
    createCredential(authority, `spiffe://outside.test/${name}`, { subject: `CN=${name}`, dns: [`${name}.test`] }),
  );
  const [ann, bob] = await Promise.all(clients);
  const get = (client: typeof ann): Promise<string> =>
    new Promise((resolve, reject) => {
      const asked = request({
        ...{ host: '127.0.0.1', port: gateway.port('default/g:444'), path: '/', servername: 'clients.test' },
        ...{ ca: authority.bundlePem, checkServerIdentity: () => undefined, agent: false },
        ...{ cert: client!.chainPem, key: client!.keyPem, headers: { host: 'clients.test' } },
      });
      asked.on('response', async (answer) => {
        const pieces = await answer.toArray();
        resolve(`${Buffer.concat(pieces)} ${/; hit/.test(String(answer.headers['cache-status'])) ? 'hit' : 'miss'}`);
      });
      asked.on('error', reject);
      asked.end();
    });
  return { ann: () => get(ann), bob: () => get(bob) };
}

t.test('an app that varies by the client certificate', async (t) => {
  const { ann, bob } = await startForClients(t, '', 'X-Forwarded-Client-Cert');
  t.equal(await ann(), 'for ann miss');
  t.equal(await bob(), 'for bob miss');
  t.equal(await ann(), 'for ann miss', 'nothing is stored');
});

t.test('the client certificate as part of the key', async (t) => {
  const { ann, bob } = await startForClients(t, 'keyHeaders: [X-Forwarded-Client-Cert]', 'accept');
  t.equal(await ann(), 'for ann miss');
  t.equal(await bob(), 'for bob miss');
  t.equal(await ann(), 'for ann hit');
});

t.test('an app that varies by fields that the gateway adds or a client removes', async (t) => {
  const { say, get, asked, gateway } = await startCached(t);
  say(saying('x', { ...minute, vary: 'X-Request-Id' }));
  await get('/id');
  await get('/id');
  t.equal(asked.length, 2);
  say((one, answer) => saying(`in ${one.headers['x-lang']}`, { ...minute, vary: 'X-Lang' })(one, answer));
  await get('/lang', { 'x-lang': 'de', connection: 'x-lang' });
  t.equal(String((await get('/lang', { 'x-lang': 'de' })).body), 'in de');
  t.equal(
    gateway.lines.some(({ level }) => level === 'error'),
    false,
  );
});

t.test('a response to an unsatisfiable range is not stored for the whole URL', async (t) => {
  const { say, get } = await startCached(t);
  const forAll = { 'cache-control': 'public, max-age=60' };
  say((one, answer) => {
    if (one.headers.range === undefined) saying('0123456789', forAll)(one, answer);
    else saying('', { ...forAll, 'content-range': 'bytes */10' }, 416)(one, answer);
  });
  t.equal((await get('/r', { range: 'bytes=99-' })).status, 416);
  t.equal(String((await get('/r')).body), '0123456789');
});

t.test('a rule keeps its responses when another rule takes its number', async (t) => {
  const backend = 'backendRefs: [{ name: app, port: 80 }]';
  const internal = `{ matches: [{ headers: [{ name: x-internal, value: "1" }] }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-role, value: internal }] } }], ${backend} }`;
  const all = `{ ${backend} }`;
  const { say, get, gateway } = await startCached(t);
  const withRules = (...rules: string[]) =>
    gateway.write('all.yaml', documentsOf('', '').replace(`rules: [${all}]`, `rules: [${rules.join(', ')}]`));
  say((one, answer) => saying(`role ${one.headers['x-role']}`, minute)(one, answer));
  await withRules(internal, all);
  t.equal(String((await get('/p', { 'x-internal': '1' })).body), 'role internal');
  await withRules(all);
  t.equal(String((await get('/p')).body), 'role undefined');
  await withRules(internal, all);
  t.match((await get('/p', { 'x-internal': '1' })).headers['cache-status'], /; hit/, 'each rule still has its own');
  t.match((await get('/p')).headers['cache-status'], /; hit/);
});

const rewriting = (prefix: string, urlRewrite: string, more = ''): string =>
  `{ matches: [{ path: { type: PathPrefix, value: ${prefix} } }], filters: [{ type: URLRewrite, urlRewrite: { ${urlRewrite} } }${more}], backendRefs: [{ name: app, port: 80 }] }`;

t.test('unsafe methods and HEAD reach stored responses that were keyed before a rewrite', async (t) => {
  const { say, get, gateway } = await startCached(t);
  const rules = [
    rewriting('/shop', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: / }'),
    rewriting('/m', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: /m/x }'),
    rewriting('/h', 'hostname: inner.test'),
  ];
  await gateway.write(
    'all.yaml',
    documentsOf('', '').replace('rules: [{ backendRefs: [{ name: app, port: 80 }] }]', `rules: [${rules.join(', ')}]`),
  );
  for (const path of ['/shop/item', '/m/item', '/h/item']) {
    say(saying('old', minute));
    await get(path);
    say(saying(''));
    await get(path, {}, { method: 'POST', body: 'x' });
    say(saying('new', minute));
    t.equal(String((await get(path)).body), 'new', path);
  }
  for (const location of ['/h/%6bept', 'http://inner.test/h/kept', 'http://a.test/h/kept']) {
    say(saying('old', minute));
    await get('/h/kept');
    say(saying('', { location }, 201));
    await get('/h/other', {}, { method: 'POST', body: 'x' });
    say(saying('new', minute));
    t.equal(String((await get('/h/kept')).body), 'new', location);
    await get('/h/kept', {}, { method: 'POST', body: 'x' });
  }
  say(saying('xx', { ...minute, etag: '"e"', 'x-of': 'x/a' }));
  await get('/m/x/a');
  say(saying('', { ...minute, etag: '"e"', 'x-of': 'a', 'content-length': '2' }));
  await get('/m/a', {}, { method: 'HEAD' });
  t.equal((await get('/m/x/a')).headers['x-of'], 'x/a', 'a HEAD updates its own URL only');
});

t.test("a HEAD updates a stored response by the backend's fields, not by those that the rule adds", async (t) => {
  const { say, get, asked, gateway } = await startCached(t);
  const change =
    'filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { add: [{ name: x-add, value: y }], set: [{ name: cache-control, value: "public, max-age=86400" }] } }], ';
  await gateway.write('all.yaml', documentsOf('', '').replace('{ backendRefs', `{ ${change}backendRefs`));
  say((one, answer) => {
    answer.writeHead(200, { 'cache-control': 'max-age=0', etag: '"e"', 'content-length': '2', 'x-add': 'a' });
    answer.end(one.method === 'HEAD' ? undefined : 'xx');
  });
  await get('/');
  await get('/', {}, { method: 'HEAD' });
  const again = await get('/');
  t.equal(asked.length, 3, 'the response is still stale');
  t.equal(again.headers['x-add'], 'a, y');
});

t.test('a policy that is removed and added again starts with an empty cache', async (t) => {
  const { say, get, gateway } = await startCached(t);
  const withSpec = (spec: string) => gateway.write('all.yaml', documentsOf(spec, ''));
  const none = documentsOf('', '').split('---').slice(0, 2).join('---');
  for (const between of [() => withSpec('maxEntry: 2Mi'), () => gateway.write('all.yaml', none)]) {
    say(saying('old', minute));
    await get('/z');
    await between();
    await get('/z', {}, { method: 'POST', body: 'x' });
    await withSpec('');
    say(saying('new', minute));
    t.equal(String((await get('/z')).body), 'new');
    await get('/z', {}, { method: 'POST', body: 'x' });
  }
  say(saying('kept', minute));
  await get('/k');
  await gateway.write('all.yaml', `# moved\n${documentsOf('', '')}`);
  t.match((await get('/k')).headers['cache-status'], /; hit/, 'an unchanged policy keeps its cache');
});

t.test('headers that identify callers, or that change the request for the app, prevent storing', async (t) => {
  const { say, get, asked } = await startCached(t);
  const knowing = [
    'x-api-key',
    'X_Api_Key',
    'x-auth-token',
    'x-access-token',
    'DPoP',
    'proxy-authorization',
    'x-user-id',
  ];
  for (const name of knowing) {
    say((one, answer) => saying(`for ${one.headers[name.toLowerCase()]}`, minute)(one, answer));
    await get(`/${name}`, { [name]: 'ann' });
    t.not(String((await get(`/${name}`)).body), 'for ann', name);
  }
  say(saying('for all', { 'cache-control': 'public, max-age=60' }));
  const before = asked.length;
  for (const key of ['ann', 'bob']) await get('/public', { 'x-api-key': key });
  t.equal(asked.length, before + 1, 'only if the app permits it');
  const telling = [
    ...['x-override-host', 'x-override-url', 'x-rewrite-uri', 'request-uri'],
    ...['x-matched-path', 'x-method', 'x-httpd-method', 'x-http-path-override', 'x-http-method-override'],
  ];
  for (const name of telling)
    t.match((await get('/public', { [name]: 'x' })).headers['cache-status'], /fwd=bypass/, name);
});

t.test('a well-known identity header that is part of the key identifies no caller', async (t) => {
  const { say, get, asked } = await startCached(t, 'keyHeaders: [X-API-Key, Authorization]');
  say((one, answer) => saying(`for ${one.headers['x-api-key']}`, minute)(one, answer));
  for (const key of ['ann', 'bob', 'ann', 'bob'])
    t.equal(String((await get('/', { 'x-api-key': key })).body), `for ${key}`);
  t.equal(asked.length, 2);
  for (let i = 0; i < 2; i++) await get('/', { authorization: 'Basic x' });
  t.equal(asked.length, 4, 'Authorization always does');
});

t.test('a purge matches a URL in any of its spellings', async (t) => {
  const { say, get, purge } = await startCached(t);
  say(saying('x', minute));
  const cases: readonly (readonly [path: string, host: string, purged: object])[] = [
    ['/a', 'a.test', { url: 'http://a.test/%61' }],
    ['/b', 'a.test', { url: 'http://a.test/a/../b' }],
    ['/%C3%A9', 'a.test', { url: 'http://a.test/\u00e9' }],
    ['/c', 'a.test:80', { url: 'http://a.test/c' }],
    ['/d', 'a.test', { url: 'http://a.test:80/d' }],
    ['/e', 'a.test:80', { prefix: 'http://a.test' }],
    ['/f/g', 'a.test', { prefix: 'http://a.test/%66/' }],
  ];
  for (const [path, host, purged] of cases) {
    await get(path, { host });
    t.strictSame((await purge(purged)).body, { removed: 1 }, JSON.stringify(purged));
  }
});

// A cache must not become a way to give one client's response to another: by headers that are not in the key, by the
// spelling of host and path, by another method in disguise, or with a caller's credentials.

import { createHash } from 'node:crypto';
import { connect } from 'node:net';
import t from 'tap';
import { type CachedWorld, saying, startCached } from '../fixtures/cached.ts';

const minute = { 'cache-control': 'max-age=60' };
const fields = [
  'x-forwarded-host',
  'x-original-url',
  'x-rewrite-url',
  'x-http-method-override',
  'x-host',
  'x-forwarded-scheme',
];

/** An app that believes everything: it reflects whatever might be a part of the request. */
function reflect({ say }: CachedWorld): void {
  say((one, answer) => {
    const seen = fields.map((name) => one.headers[name] ?? '').join('|');
    saying(`${one.method} ${one.headers.host} ${one.url} ${seen}`, minute)(one, answer);
  });
}

t.test('callers that differ in headers outside the key', async (t) => {
  const world = await startCached(t);
  reflect(world);
  const evil: Record<string, string>[] = [
    { 'x-forwarded-host': 'evil.test' },
    { 'x-original-url': '/admin' },
    { 'x-rewrite-url': '/admin' },
    { x_original_url: '/admin' },
    { 'x-forwarded-scheme': 'http' },
    { 'x-host': 'evil.test' },
    { 'x-http-method-override': 'POST' },
    { 'X-HTTP_Method-Override': 'DELETE' },
    { 'x-method-override': 'HEAD' },
    { 'x-middleware-prefetch': '1' },
  ];
  for (const [i, headers] of evil.entries()) {
    const clean = `GET a.test /${i} a.test|||||`;
    await world.get(`/${i}`, headers);
    t.equal(String((await world.get(`/${i}`)).body), clean, JSON.stringify(headers));
  }
});

t.test('callers that differ in a body outside the key', async (t) => {
  const world = await startCached(t);
  world.say((one, answer) => {
    one.on('data', () => {});
    one.on('end', () => saying(`length ${one.headers['content-length'] ?? '0'}`, minute)(one, answer));
  });
  await world.get('/', { 'content-length': '4' }, { body: 'evil' });
  t.equal(String((await world.get('/')).body), 'length 0');
});

t.test('another spelling of the host or path', async (t) => {
  const world = await startCached(t);
  reflect(world);
  await world.get('/a', { host: 'A.test' });
  await world.get('/a', { host: 'evil.test' });
  t.equal(String((await world.get('/a')).body), 'GET a.test /a a.test|||||');
  t.equal(String((await world.get('/a', { host: 'a.test:81' })).body), 'GET a.test:81 /a a.test:81|||||');
  await world.get('/b/../c');
  t.match(String((await world.get('/c')).body), 'GET a.test /c');
  for (const path of ['/x%2fy', '/x/y', '/x;y', '/x?y', '/x%3fy', '/X/y'])
    t.match(String((await world.get(path)).body), `GET a.test ${path} `, 'the spelling has its own cache key');
});

t.test('an absolute target beside a Host field', async (t) => {
  const world = await startCached(t);
  reflect(world);
  const socket = connect(world.gateway.port('default/g:80'), '127.0.0.1');
  socket.end('GET http://a.test/h HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n');
  await new Promise((resolve) => socket.resume().on('close', resolve));
  t.equal(String((await world.get('/h')).body), 'GET a.test /h a.test|||||');
});

t.test('a response to a caller with an identity is served to that caller only', async (t) => {
  const world = await startCached(t, 'identityHeaders: [X-Session]');
  world.say((one, answer) => {
    const { authorization, cookie, 'x-session': session } = one.headers;
    saying(`for ${String(authorization ?? cookie ?? session)}`, minute)(one, answer);
  });
  const callers: Record<string, string>[] = [
    { authorization: 'Basic YTpi' },
    { cookie: 's=1' },
    { 'x-session': 'ann' },
  ];
  for (const [i, headers] of callers.entries()) {
    await world.get(`/${i}`, headers);
    t.equal(String((await world.get(`/${i}`)).body), 'for undefined');
    t.equal(
      String((await world.get(`/${i}`, headers)).body),
      `for ${Object.values(headers)[0]}`,
      'the reverse direction',
    );
  }
});

t.test('requests that wait together are kept apart as well', async (t) => {
  const world = await startCached(t);
  world.say((one, answer) => saying(`for ${one.headers.authorization}`, minute)(one, answer));
  const names = Array.from({ length: 20 }, (_, i) => `Basic ${i}`);
  const heard = await Promise.all(names.map((authorization) => world.get('/', { authorization })));
  t.strictSame(
    heard.map(({ body }) => String(body)),
    names.map((name) => `for ${name}`),
  );
});

t.test('a caller that the gateway authenticates itself is a caller with an identity', async (t) => {
  const policy = `---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: keys }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  apiKeyAuth:
    credentialRefs: [{ name: keys }]
    extractFrom: [{ headers: [x-key] }]
    forwardClientIDHeader: x-who
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { ann: key-of-ann-0123456789, bob: key-of-bob-0123456789 }
`;
  const world = await startCached(t, '', policy);
  world.say((one, answer) => saying(`for ${one.headers['x-who']}`, minute)(one, answer));
  t.equal(String((await world.get('/', { 'x-key': 'key-of-ann-0123456789' })).body), 'for ann');
  t.equal(String((await world.get('/', { 'x-key': 'key-of-bob-0123456789' })).body), 'for bob');
  t.equal((await world.get('/')).status, 401, 'a stored response does not bypass a policy');
});

t.test('a cookie is given only to the client that requested it', async (t) => {
  const world = await startCached(t);
  let count = 0;
  world.say((one, answer) =>
    saying('x', { 'cache-control': 'public, max-age=60', 'set-cookie': `s=${++count}` })(one, answer),
  );
  await world.get('/');
  t.strictSame((await world.get('/')).headers['set-cookie'], ['s=2']);
  world.say(saying('y', { 'cache-control': 'max-age=0', etag: '"a"' }));
  await world.get('/v');
  world.say((_, answer) => void answer.writeHead(304, { ...minute, etag: '"a"', 'set-cookie': 's=9' }).end());
  await world.get('/v');
  t.equal((await world.get('/v')).headers['set-cookie'], undefined, 'a 304 carries no cookie');
});

t.test('a flood of URLs uses no more memory than the policy allows', async (t) => {
  const world = await startCached(t, 'memory: 1Mi\nmaxEntry: 64Ki');
  world.say((one, answer) =>
    saying(createHash('sha256').update(one.url!).digest('hex').repeat(500), minute)(one, answer),
  );
  for (let i = 0; i < 200; i++) await world.get(`/${i}`);
  const metrics = await (await fetch(`http://127.0.0.1:${world.gateway.admin}/stats/prometheus`)).text();
  const bytes = Number(/^sallyport_cache_bytes (\d+)/m.exec(metrics)?.[1]);
  t.ok(bytes > 500_000 && bytes <= 1024 * 1024, `${bytes}`);
  t.match(metrics, /sallyport_cache_evictions_total 1[67]\d/);
});

// What may happen once happens once, however many processes there are: a refresh token is redeemed by one of them, a
// login state is spent everywhere, a logout holds everywhere. The provider here is a real one: it revokes a login whose
// refresh token is used twice.

import { createServer, request } from 'node:http';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { startTestGateway, writeGateway } from '../fixtures/gateway.ts';
import { Browser, client, type RealProvider, startProvider } from '../fixtures/oidc-provider.ts';
import { freePort, type Owner, startSallyport, until } from '../fixtures/process.ts';
import { noRedis, startRedis, type TestRedis } from '../fixtures/redis.ts';

const accessSeconds = 1;

/** Documents of a gateway whose only route requires a login that returns to `origin`. */
const documentsOf = (origin: string, issuer: string): string =>
  [
    'apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n',
    'apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: shop }\nspec: { parentRefs: [{ name: edge }], rules: [{ backendRefs: [{ name: app, port: 80 }] }] }\n',
    `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop }], oidc: { provider: { issuer: "${issuer}" }, clientID: ${client.id}, clientSecret: { name: oidc }, redirectURL: "${origin}/callback", logoutPath: /logout, scopes: [openid] } }\n`,
    JSON.stringify({
      ...{ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'oidc' } },
      stringData: { 'client-secret': client.secret, 'session-keys': 'k'.repeat(40) },
    }),
  ].join('\n---\n');

async function startApp(t: Owner): Promise<string> {
  const server = createServer((_request, response) => response.end('the app'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return `upstreams: { app: { endpoints: ["127.0.0.1:${port}"] } }\nbackends: { default/app:80: app }\n`;
}

interface World {
  /** Its origins; logins return to the first. */
  readonly origins: readonly string[];
  readonly provider: RealProvider;
}

/** One gateway of two processes. */
async function startWorkers(t: Owner): Promise<World> {
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const provider = await startProvider(t, [`${origin}/callback`], origin, accessSeconds);
  const { file } = await writeGateway(t, {
    listeners: { 'default/edge:80': port },
    yaml: await startApp(t),
    documents: documentsOf(origin, provider.issuer),
  });
  const gateway = startSallyport(t, ['gateway', '--config', file, '--workers', '2']);
  await gateway.waitFor(/"code":"ready"/);
  return { origins: [origin], provider };
}

/** Two gateways that share a Redis. */
async function startPair(t: Owner, { url }: TestRedis): Promise<World> {
  const ports = [await freePort(), await freePort()];
  const origins = ports.map((port) => `http://127.0.0.1:${port}`);
  const provider = await startProvider(t, [`${origins[0]}/callback`], origins[0]!, accessSeconds);
  const yaml = `${await startApp(t)}redis: { url: "${url}", timeout: 2s }\n`;
  await Promise.all(
    ports.map((port) =>
      startTestGateway(t, {
        listeners: { 'default/edge:80': port },
        ...{ yaml, documents: documentsOf(origins[0]!, provider.issuer) },
      }),
    ),
  );
  return { origins, provider };
}

/** The status of one request on a connection of its own: the kernel distributes connections to workers. */
function statusOf(url: string, cookie: string, method = 'GET'): Promise<number> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { method, agent: false, headers: { accept: 'text/html', cookie } }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    asked.on('error', reject).end();
  });
}

/** As many requests at once, spread over all origins. */
function statuses({ origins }: World, path: string, cookie: string, count = 16): Promise<number[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => statusOf(origins[i % origins.length] + path, cookie)));
}

const cookiesOf = (browser: Browser, part: string): string =>
  browser
    .named(part)
    .map(([key, value]) => `${key.split(' ')[1]}=${value}`)
    .join('; ');

const all = (status: number, count = 16): number[] => Array(count).fill(status);

async function attack(t: Test, world: World): Promise<void> {
  const { origins, provider } = world;
  const browser = new Browser();
  const { url: callback } = await browser.walk(`${origins[0]}/`, '/callback');
  const attempt = cookiesOf(browser, 'sallyport-login');
  await browser.get(callback);
  const loggedInAt = Date.now();
  const session = cookiesOf(browser, 'sallyport-session');
  t.not(session, '');

  const back = callback.slice(origins[0]!.length);
  t.strictSame(await statuses(world, back, attempt), all(400), 'a state that was used is used everywhere');
  t.equal(provider.granted.count, 1, 'its code was sent to the provider once');

  await until(() => Date.now() > loggedInAt + accessSeconds * 1000, 'the access token to end');
  t.strictSame(await statuses(world, '/', session), all(200), 'no session ends because of a refresh');
  t.equal(provider.granted.count, 2, 'one refresh serves all of them');
  t.strictSame(
    await statuses(world, '/', session),
    all(200),
    'a late request with the old cookie does not end it either',
  );
  t.equal(provider.granted.count, 2);

  const fresh = new Browser();
  for (const [key, value] of browser.cookies) fresh.cookies.set(key, value);
  t.equal((await fresh.get(`${origins[0]}/`)).status, 200);
  const copy = cookiesOf(fresh, 'sallyport-session');
  t.not(copy, session);
  t.equal(await statusOf(`${origins[0]}/logout`, copy, 'POST'), 302);
  await until(async () => (await statuses(world, '/', copy)).every((one) => one === 302), 'the logout to be known');
  t.strictSame(await statuses(world, '/', copy), all(302), 'a copy of the cookie is useless everywhere');
  t.strictSame(await statuses(world, '/', session), all(302), 'so is the previous cookie');
}

t.test('two workers accept a token once', async (t) => attack(t, await startWorkers(t)));

t.test('two gateways with Redis accept a token once, and Redis sees no token', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const watcher = connect(redis.port, '127.0.0.1');
  t.teardown(() => watcher.destroy());
  let seen = '';
  watcher.on('data', (part) => {
    seen += String(part);
  });
  watcher.write('MONITOR\r\n');
  await until(() => seen.includes('+OK'), 'the monitor');
  await attack(t, await startPair(t, redis));
  t.match(seen, /"sallyport:session:[\w-]{32}" "[\w-]{16}" "[\w-]{200,}" "60000"/, 'a refresh went through Redis');
  t.notMatch(seen, /eyJ/, 'Redis saw no JWT and no claim of one');
});

// Login by OpenID Connect, with the real oidc-provider and with providers that lie.

import { once } from 'node:events';
import { createServer } from 'node:net';
import t from 'tap';
import { safePath } from '../../../sidecar/edge/oidc/login.ts';
import { LocalSessions } from '../../../sidecar/edge/oidc/session-memory.ts';
import { createProviderFetch } from '../../../sidecar/edge/provider-fetch.ts';
import { type Edge, type Passed, policyOf, startEdge, toolsFor } from '../../fixtures/edge.ts';
import {
  Browser,
  client,
  idToken,
  json,
  type LyingProvider,
  type RealProvider,
  startLyingProvider,
  startProvider,
} from '../../fixtures/oidc-provider.ts';
import { freePort, type Owner } from '../../fixtures/process.ts';
import { compileSecurity, type SecurityTools } from '../../fixtures/security.ts';
import { assemble, createKey, jwksOf, sign } from '../../fixtures/tokens.ts';

const secrets = { s: { 'client-secret': client.secret } };

function specOf(issuer: string, redirect: string, more = ''): string {
  return `oidc:
  provider: { issuer: "${issuer}" }
  clientID: ${client.id}
  clientSecret: { name: s }
  redirectURL: "${redirect}"
${more}`;
}

/** A clock that tests advance. */
function createClock(): { now: () => number; add(ms: number): void } {
  let offset = 0;
  return { now: () => Date.now() + offset, add: (ms) => (offset += ms) };
}

interface World {
  readonly edge: Edge;
  readonly provider: RealProvider;
  readonly clock: ReturnType<typeof createClock>;
}

/** An edge without a backend, with a real provider. */
async function start(t: Owner, more = '', tools: Partial<SecurityTools> = {}): Promise<World> {
  const clock = createClock();
  let security: ReturnType<typeof compileSecurity> | undefined;
  const edge = await startEdge(t, () => security!);
  const provider = await startProvider(t, [`${edge.url}/oauth2/callback`], edge.url);
  const spec = specOf(provider.issuer, `${edge.url}/oauth2/callback`, more);
  security = compileSecurity(policyOf(spec), toolsFor(secrets, { now: clock.now, ...tools }));
  return { edge, provider, clock };
}

async function passed(response: Response): Promise<Passed> {
  if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
  return (await response.json()) as Passed;
}

t.test('a login creates a session, and the app receives the user', async (t) => {
  const { edge, provider } = await start(t, '  forwardAccessToken: true\n  forwardIDToken: { header: x-id-token }\n');
  const browser = new Browser();
  const first = await browser.get(`${edge.url}/a?b=c`);
  t.equal(first.status, 302);
  t.equal(first.headers.get('cache-control'), 'no-store');
  const asked = new URL(first.headers.get('location')!);
  t.equal(`${asked.origin}${asked.pathname}`, `${provider.issuer}/auth`);
  t.match(Object.fromEntries(asked.searchParams), {
    response_type: 'code',
    client_id: 'edge',
    redirect_uri: `${edge.url}/oauth2/callback`,
    scope: 'openid',
    code_challenge_method: 'S256',
    state: /^[\w-]{43}$/,
    nonce: /^[\w-]{43}$/,
    code_challenge: /^[\w-]{43}$/,
  });
  const { response, url } = await browser.walk(asked.href);
  t.equal(url, `${edge.url}/a?b=c`, 'the login ends at the requested page');
  const app = await passed(response);
  t.match(app, { path: '/a?b=c', method: 'oidc', sub: 'ann', claims: { groups: ['clerks'] } });
  t.match(app.fields['authorization'], /^Bearer \S+$/);
  t.match(app.fields['x-id-token'], /^ey[\w-]+\.[\w-]+\.[\w-]+$/);
  t.equal(app.fields['cookie'], undefined, 'the app does not see our cookies');
  t.strictSame(
    browser.named(edge.url).map(([key]) => key.replace(/[\w-]{8}$/, '*')),
    [`${edge.url} __Host-sallyport-session-*`],
    "the login's cookie is gone",
  );
  for (const line of browser.setCookies.filter((one) => one.startsWith('__Host-')))
    t.match(line, /; Path=\/; Max-Age=\d+; Secure; HttpOnly; SameSite=Lax$/);
  const forged = await browser.get(`${edge.url}/`, { 'x-id-token': 'mine', authorization: 'Bearer mine' });
  const again = await passed(forged);
  t.not(again.fields['x-id-token'], 'mine', 'a client cannot set it');
  t.not(again.fields['authorization'], 'Bearer mine');
  t.ok(
    edge.paths.every((path) => !path.includes('code=')),
    'no code is on record',
  );
  const post = await passed(await browser.get(`${edge.url}/form`, {}, 'POST'));
  t.equal(post.sub, 'ann');
});

t.test('two tabs log in at once, and each login works once', async (t) => {
  const { edge } = await start(t);
  const browser = new Browser();
  const one = await browser.walk(`${edge.url}/one`, '/oauth2/callback');
  const two = await browser.walk(`${edge.url}/two`, '/oauth2/callback');
  t.equal(browser.named('sallyport-login').length, 2);
  const kept = new Map(browser.cookies);
  const back = await browser.get(one.url);
  t.equal(back.headers.get('location'), '/one');
  t.equal((await browser.get(two.url)).headers.get('location'), '/two');
  t.equal((await passed(await browser.get(`${edge.url}/one`))).sub, 'ann');
  const replay = await browser.get(one.url);
  t.equal(replay.status, 400);
  t.match(await replay.text(), /This login has expired/);
  const thief = new Browser();
  for (const [key, value] of kept) thief.cookies.set(key, value);
  t.equal((await thief.get(one.url)).status, 400, 'the code works once, even with all its cookies');
  t.equal((await new Browser().get(two.url)).status, 400, 'the code does not work without cookies either');
  t.match(edge.refused, [
    { code: 'oidc_state_invalid', message: /did not begin/ },
    { code: 'oidc_state_invalid', message: 'the callback of this login was used before' },
    { code: 'oidc_state_invalid', message: /did not begin/ },
  ]);
});

t.test('eight tabs that log in at once all end in the app', async (t) => {
  const { edge } = await start(t);
  const browser = new Browser();
  const tabs = Array.from({ length: 8 }, (_, i) => `/tab-${i}?q=${'x'.repeat(1500)}`);
  const back: string[] = [];
  for (const path of tabs) back.push((await browser.walk(`${edge.url}${path}`, '/oauth2/callback')).url);
  const ends: (string | null)[] = [];
  for (const url of back) ends.push((await browser.get(url)).headers.get('location'));
  t.strictSame(ends, tabs);
  t.equal((await passed(await browser.get(`${edge.url}${tabs[0]}`))).sub, 'ann');
});

t.test('a browser cannot finish a login that another browser began', async (t) => {
  const { edge } = await start(t);
  const attacker = await new Browser().walk(`${edge.url}/`, '/oauth2/callback');
  const victim = new Browser();
  await victim.get(`${edge.url}/`);
  const mixed = await victim.get(attacker.url);
  t.equal(mixed.status, 400);
  t.equal(victim.named('sallyport-session').length, 0);
});

t.test('as many logins at once as fit into the header are kept, and none that is too old', async (t) => {
  const { edge, clock } = await start(t);
  const browser = new Browser();
  const urls: string[] = [];
  for (let i = 0; i < 18; i++) {
    clock.add(1000);
    urls.push((await browser.walk(`${edge.url}/${i}`, '/oauth2/callback')).url);
  }
  t.equal(browser.named('sallyport-login').length, 16);
  t.equal((await browser.get(urls[0]!)).status, 400, 'the oldest attempt is dropped');
  t.equal((await browser.get(urls[17]!)).headers.get('location'), '/17');
  clock.add(11 * 60_000);
  t.equal((await browser.get(urls[16]!)).status, 400, 'a login expires after ten minutes');
  const long = new Browser();
  for (let i = 0; i < 14; i++) await long.walk(`${edge.url}/${i}${'x'.repeat(2000)}`, '/oauth2/callback');
  const bytes = long.named('sallyport-login').reduce((sum, [, value]) => sum + value.length, 0);
  t.ok(bytes > 20_000 && bytes <= 28_000, `${bytes} bytes of cookies`);
});

t.test('expired tokens are refreshed once for all requests that arrive meanwhile', async (t) => {
  const { edge, provider, clock } = await start(t);
  const browser = new Browser();
  await browser.walk(`${edge.url}/`);
  t.equal(provider.granted.count, 1);
  const old = browser.named('sallyport-session')[0]![1];
  clock.add(61_000);
  const all = await Promise.all([1, 2, 3].map((i) => browser.get(`${edge.url}/${i}`)));
  for (const one of all) t.equal((await passed(one)).sub, 'ann');
  t.equal(provider.granted.count, 2, 'one refresh serves all of them');
  const fresh = browser.named('sallyport-session')[0]![1];
  t.not(fresh, old);
  browser.cookies.set(browser.named('sallyport-session')[0]![0], old);
  const late = await browser.get(`${edge.url}/late`);
  t.equal((await passed(late)).sub, 'ann', 'also for a request in flight with the old cookie');
  t.equal(provider.granted.count, 2);
  clock.add(61_000);
  await passed(await browser.get(`${edge.url}/next`));
  t.equal(provider.granted.count, 3, 'with the refresh token of the last refresh');
  provider.breakWith(500);
  clock.add(61_000);
  const down = await browser.get(`${edge.url}/down`);
  t.equal(down.status, 503, 'refused while the provider is down');
  t.match(edge.refused.at(-1), { code: 'oidc_provider_unavailable' });
  provider.breakWith(undefined);
  t.equal((await passed(await browser.get(`${edge.url}/up`))).sub, 'ann', 'the tokens are refreshed when it is back');
  clock.add(8 * 24 * 3_600_000);
  t.equal((await browser.get(`${edge.url}/`)).status, 302, 'a week after the login a new login is required');
});

t.test('a refresh token that the provider rejects leads to a login', async (t) => {
  const { edge, provider, clock } = await start(t, '', { memory: new LocalSessions(() => Number.POSITIVE_INFINITY) });
  const browser = new Browser();
  await browser.walk(`${edge.url}/`);
  const old = browser.named('sallyport-session')[0]!;
  clock.add(61_000);
  await passed(await browser.get(`${edge.url}/`));
  browser.cookies.set(...old);
  const used = await browser.get(`${edge.url}/again`);
  t.equal(used.status, 302);
  t.match(used.headers.get('location'), new RegExp(`^${provider.issuer}/auth`));
  t.equal(browser.named('sallyport-session').length, 0);
});

t.test('without a refresh token a session ends with its tokens', async (t) => {
  const { edge, clock } = await start(t, '  refreshToken: false\n');
  const browser = new Browser();
  await browser.walk(`${edge.url}/`);
  clock.add(59_000);
  await passed(await browser.get(`${edge.url}/`));
  clock.add(2000);
  t.equal((await browser.get(`${edge.url}/`)).status, 302);
});

t.test('logout ends the session here and at the provider', async (t) => {
  const { edge, provider } = await start(t);
  const browser = new Browser();
  await browser.walk(`${edge.url}/`);
  const [key, value] = browser.named('sallyport-session')[0]!;
  const out = await browser.get(`${edge.url}/logout`, { 'sec-fetch-site': 'same-origin' });
  t.equal(out.status, 302);
  const to = new URL(out.headers.get('location')!);
  t.equal(`${to.origin}${to.pathname}`, `${provider.issuer}/session/end`);
  t.equal(to.searchParams.get('post_logout_redirect_uri'), `${edge.url}/`);
  t.match(to.searchParams.get('id_token_hint'), /^ey/);
  t.equal((await browser.get(to.href)).status, 200, 'the provider accepts it');
  t.equal(browser.named('sallyport-session').length, 0);
  browser.cookies.set(key, value);
  t.equal((await browser.get(`${edge.url}/`)).status, 302, 'a copy of the cookie is useless');
  t.equal((await new Browser().get(`${edge.url}/logout`, {}, 'POST')).headers.get('location'), '/');
});

t.test('programs get a 401 and no redirect', async (t) => {
  const { edge } = await start(t, '  denyRedirect: { headers: [{ name: X-App, type: Prefix, value: "mobile" }] }\n');
  const browser = new Browser();
  const cases: [string, Record<string, string>, string, number][] = [
    ['a page', {}, 'GET', 302],
    ['its head', {}, 'HEAD', 302],
    ['a form', {}, 'POST', 401],
    ['JSON', { accept: 'application/json' }, 'GET', 401],
    ['anything', { accept: '*/*' }, 'GET', 401],
    ['a script that asks for HTML', { 'sec-fetch-mode': 'cors' }, 'GET', 401],
    ['an opened page', { 'sec-fetch-mode': 'navigate' }, 'GET', 302],
    ['an old script', { 'x-requested-with': 'XMLHttpRequest' }, 'GET', 401],
    ['a path that denyRedirect names', { 'x-app': 'mobile/1' }, 'GET', 401],
    ['a path that it does not name', { 'x-app': 'web' }, 'GET', 302],
  ];
  for (const [name, headers, method, status] of cases) {
    const response = await browser.get(`${edge.url}/`, headers, method);
    t.equal(response.status, status, name);
    if (status === 401) t.match(response.headers.get('www-authenticate'), /^Bearer realm="https?:\/\/127/, name);
  }
  t.match(edge.refused[0], {
    code: 'session_invalid',
    message: 'the request has no session',
    details: 'oidc_session_invalid',
  });
});

t.test('invalid sessions: forged, of another key, of another policy, too long, duplicated', async (t) => {
  const old = Buffer.alloc(32, 'a');
  const young = Buffer.alloc(32, 'b');
  const world = await start(t, '', { sessionKeys: [old] });
  const { edge, provider } = world;
  const browser = new Browser();
  await browser.walk(`${edge.url}/`);
  const [key, value] = browser.named('sallyport-session')[0]!;
  const flipped = value.slice(0, 30) + (value[30] === 'A' ? 'B' : 'A') + value.slice(31);
  const refuses = async (name: string, cookie: string, where = edge): Promise<void> => {
    const accept = { accept: 'application/json', cookie };
    t.equal((await fetch(where.url, { headers: accept })).status, 401, name);
  };
  const short = key.split(' ')[1]!;
  t.equal((await fetch(edge.url, { headers: { cookie: `${short}=${value}` } })).status, 200);
  await refuses('a bit changed', `${short}=${flipped}`);
  await refuses('cut', `${short}=${value.slice(0, -5)}`);
  await refuses('nothing', `${short}=`);
  await refuses('text', `${short}=1.hello`);
  await refuses('more pieces than there are', `${short}=3.${value.slice(2)}`);
  await refuses('too long', `${short}=1.${'A'.repeat(30_000)}`);
  await refuses('twice', `${short}=${value}; ${short}=${value}`);
  const login = await new Browser().get(`${edge.url}/`);
  const attempt = login.headers.getSetCookie()[0]!.split(';')[0]!.split('=')[1]!;
  await refuses("a login's cookie in its place", `${short}=1.${attempt}`);
  const spec = specOf(provider.issuer, `${edge.url}/oauth2/callback`);
  const serve = async (changed: string, keys: readonly Buffer[]): Promise<Edge> =>
    startEdge(t, compileSecurity(policyOf(changed), toolsFor(secrets, { sessionKeys: keys })));
  await refuses('another key', `${short}=${value}`, await serve(spec, [young]));
  const other = await serve(`${spec}  cookieNames: { idToken: other }\n`.replace('clientID: edge', 'clientID: other'), [
    old,
  ]);
  await refuses('another client', `__Host-sallyport-session-other=${value}`, other);
  const rotated = await serve(spec, [young, old]);
  t.equal(
    (await fetch(rotated.url, { headers: { cookie: `${short}=${value}` } })).status,
    200,
    'an old key still opens',
  );
});

t.test('return paths are paths of this host', (t) => {
  const rows: [string, string][] = [
    ['/a?b=c', '/a?b=c'],
    ['/', '/'],
    ['//evil.test/', '/'],
    ['/\\evil.test', '/'],
    ['/a\\b', '/'],
    ['https://evil.test/', '/'],
    ['', '/'],
    ['/a\r\nset-cookie: x=y', '/'],
    ['/a b', '/'],
    ['/\u00e4', '/'],
    [`/${'x'.repeat(3000)}`, '/'],
    ['/a//b', '/a//b'],
    ['/?next=//evil.test', '/?next=//evil.test'],
  ];
  for (const [path, back] of rows) t.equal(safePath(path), back, JSON.stringify(path));
  t.end();
});

t.test("a request path that looks like another host's URL returns to its path here", async (t) => {
  const { edge } = await start(t);
  for (const path of ['//evil.test/x', '/%5cevil.test', '/%2f%2fevil.test/']) {
    const browser = new Browser();
    const { url } = await browser.walk(`${edge.url}${path}`, '/oauth2/callback');
    const location = (await browser.get(url)).headers.get('location')!;
    t.equal(new URL(location, edge.url).origin, edge.url, `${path} -> ${location}`);
  }
});

t.test('SameSite=Strict cookies, and configured cookie names', async (t) => {
  const { edge } = await start(t, '  cookieConfig: { sameSite: Strict }\n  cookieNames: { idToken: sess }\n');
  const browser = new Browser();
  const { url } = await browser.walk(`${edge.url}/a?x="><script>`, '/oauth2/callback');
  const back = await browser.get(url);
  t.equal(back.status, 200, 'a page that starts a new navigation to the app');
  const page = await back.text();
  t.match(page, /<meta http-equiv="refresh" content="0;url=\/a\?x=/);
  t.notMatch(page, /<script>/);
  t.equal(back.headers.get('content-security-policy'), "default-src 'none'");
  t.ok(browser.setCookies.some((one) => /^__Host-sallyport-session-sess=.*SameSite=Strict$/.test(one)));
  t.ok(
    browser.setCookies.filter((one) => one.includes('sallyport-login')).every((one) => one.endsWith('SameSite=Lax')),
  );
  const spec = `${specOf('https://op.test', 'https://auth.shop.test/cb')}  cookieDomain: shop.test\n  provider2: 1\n`;
  t.throws(() => policyOf(spec), /unknown key 'provider2'/);
});

t.test('a session of a whole domain returns to the requested host if the host belongs to the domain', async (t) => {
  const liar = await startLyingProvider(t);
  const spec = specOf(liar.issuer, 'https://auth.shop.test/cb', '  cookieDomain: shop.test\n');
  const edge = await startEdge(t, compileSecurity(policyOf(spec), toolsFor(secrets)));
  const rows: [string, string][] = [
    ['web.shop.test', 'https://web.shop.test/x?y=z'],
    ['web.shop.test:8443', 'https://web.shop.test:8443/x?y=z'],
    ['auth.shop.test', '/x?y=z'],
    ['evil.test', '/x?y=z'],
    ['evilshop.test', '/x?y=z'],
    ['shop.test.evil.test', '/x?y=z'],
  ];
  for (const [host, location] of rows) {
    const browser = new Browser();
    const begun = await browser.get(`${edge.url}/x?y=z`, { host });
    const { searchParams } = new URL(begun.headers.get('location')!);
    liar.token = async (response) => json(response, tokensWith(await idToken(liar, searchParams.get('nonce')!)));
    const back = await browser.get(`${edge.url}/cb?code=c&state=${searchParams.get('state')}`, {
      host: 'auth.shop.test',
    });
    t.equal(back.headers.get('location'), location, host);
    for (const line of browser.setCookies) t.match(line, /^__Secure-sallyport-.*; Domain=shop\.test; /);
  }
});

/** Begins a login at `edge` and gives the callback of an honest response. */
async function begin(edge: Edge): Promise<{ browser: Browser; nonce: string; callback: string; state: string }> {
  const browser = new Browser();
  const response = await browser.get(`${edge.url}/`);
  if (response.status !== 302) throw new Error(`${response.status} ${await response.text()}`);
  const { searchParams } = new URL(response.headers.get('location')!);
  const state = searchParams.get('state')!;
  const callback = `${edge.url}/oauth2/callback?code=c&state=${state}`;
  return { browser, nonce: searchParams.get('nonce')!, callback, state };
}

async function startLiar(
  t: Owner,
  more = '',
  tools: Partial<SecurityTools> = {},
): Promise<{ edge: Edge; liar: LyingProvider }> {
  let security: ReturnType<typeof compileSecurity> | undefined;
  const edge = await startEdge(t, () => security!);
  const liar = await startLyingProvider(t);
  const spec = specOf(liar.issuer, `${edge.url}/oauth2/callback`, more);
  security = compileSecurity(policyOf(spec), toolsFor(secrets, tools));
  return { edge, liar };
}

const tokensWith = (token: unknown, more: object = {}) => ({
  ...{ access_token: 'a', token_type: 'Bearer', expires_in: 60, id_token: token },
  ...more,
});

t.test('invalid tokens are refused', async (t) => {
  const { edge, liar } = await startLiar(t);
  const stranger = await createKey('k');
  const past = Math.floor(Date.now() / 1000) - 100;
  const claims = (nonce: string, changes: object = {}) => ({
    ...{ iss: liar.issuer, sub: 'ann', aud: client.id, nonce, iat: past + 100, exp: past + 3700 },
    ...changes,
  });
  const part = (header: object, nonce: string, signature?: string): string =>
    assemble(JSON.stringify(header), JSON.stringify(claims(nonce)), signature);
  const rows: [string, (nonce: string) => unknown, number, string, RegExp][] = [
    ['the truth', (nonce) => idToken(liar, nonce), 302, '', /^$/],
    [
      'another issuer',
      (nonce) => idToken(liar, nonce, { iss: 'https://evil.test' }),
      502,
      'oidc_provider_failed',
      /"iss"/,
    ],
    ['another audience', (nonce) => idToken(liar, nonce, { aud: 'other' }), 502, 'oidc_provider_failed', /"aud"/],
    [
      'two audiences, no azp',
      (nonce) => idToken(liar, nonce, { aud: [client.id, 'b'] }),
      502,
      'oidc_provider_failed',
      /untrusted audiences/,
    ],
    [
      'two audiences, azp of another',
      (nonce) => idToken(liar, nonce, { aud: [client.id, 'b'], azp: 'b' }),
      502,
      'oidc_provider_failed',
      /"azp"/,
    ],
    [
      'azp of another',
      (nonce) => idToken(liar, nonce, { azp: 'b' }),
      502,
      'oidc_provider_failed',
      /was issued to another client/,
    ],
    [
      'two audiences, azp of ours',
      (nonce) => idToken(liar, nonce, { aud: [client.id, 'b'], azp: client.id }),
      302,
      '',
      /^$/,
    ],
    ['another nonce', () => idToken(liar, 'another'), 502, 'oidc_provider_failed', /nonce/],
    ['no nonce', () => idToken(liar, '', { nonce: undefined }), 502, 'oidc_provider_failed', /nonce/],
    ['expired', (nonce) => idToken(liar, nonce, { exp: past }), 502, 'oidc_provider_failed', /expir/],
    [
      'expired this second',
      (nonce) => idToken(liar, nonce, { exp: past + 99 }),
      502,
      'oidc_provider_failed',
      /has expired/,
    ],
    [
      'issued in the future',
      (nonce) => idToken(liar, nonce, { iat: past + 1000 }),
      502,
      'oidc_provider_failed',
      /was issued in the future/,
    ],
    ['no end', (nonce) => idToken(liar, nonce, { exp: undefined }), 502, 'oidc_provider_failed', /"exp"/],
    [
      'an empty subject',
      (nonce) => idToken(liar, nonce, { sub: '' }),
      502,
      'oidc_provider_failed',
      /has an empty subject/,
    ],
    ['alg none', (nonce) => part({ alg: 'none' }, nonce, ''), 502, 'oidc_provider_failed', /alg/],
    [
      'HS256 with the public key',
      (nonce) => part({ alg: 'HS256', kid: 'k' }, nonce),
      502,
      'oidc_provider_failed',
      /alg/,
    ],
    [
      'another key with the same ID',
      (nonce) => sign(stranger, claims(nonce) as Record<string, unknown>),
      502,
      'oidc_provider_failed',
      /is not signed by the provider/,
    ],
    [
      'an unknown key',
      async (nonce) => sign({ ...stranger, kid: 'other' }, claims(nonce) as Record<string, unknown>),
      502,
      'oidc_provider_failed',
      /is not signed by the provider/,
    ],
    ['no ID token', () => undefined, 502, 'oidc_provider_failed', /id_token/],
    ['rubbish', () => 'x.y.z', 502, 'oidc_provider_failed', /JWT|JSON/],
  ];
  for (const [name, make, status, code, message] of rows) {
    const { browser, nonce, callback } = await begin(edge);
    const token = await make(nonce);
    liar.token = (response) => json(response, tokensWith(token));
    edge.refused.length = 0;
    const response = await browser.get(callback);
    t.equal(response.status, status, name);
    t.equal(edge.refused[0]?.code ?? '', code, name);
    t.match(edge.refused[0]?.message ?? '', message, name);
    t.equal(browser.named('sallyport-session').length, status === 302 ? 1 : 0, name);
    if (status !== 302) t.equal(await response.text(), 'The login failed.', 'the response does not tell why');
  }
});

t.test('token endpoints that misbehave are refused', async (t) => {
  const { edge, liar } = await startLiar(t);
  const rows: [string, LyingProvider['token'], number, string, RegExp][] = [
    ['an error', (r) => json(r, { error: 'invalid_grant' }, 400), 502, 'oidc_provider_failed', /\(invalid_grant\)/],
    ['500', (r) => void r.writeHead(500).end(), 503, 'oidc_provider_unavailable', /./],
    [
      'not JSON',
      (r) => void r.writeHead(200, { 'content-type': 'text/html' }).end('hi'),
      502,
      'oidc_provider_failed',
      /./,
    ],
    [
      'a redirect',
      (r) => void r.writeHead(302, { location: 'http://127.0.0.1:1/' }).end(),
      502,
      'oidc_provider_failed',
      /./,
    ],
    [
      'too much',
      (r) => void r.writeHead(200, { 'content-type': 'application/json' }).end(`"${'x'.repeat(300_000)}"`),
      503,
      'oidc_provider_unavailable',
      /larger than 262144 bytes/,
    ],
    ['a cut', (r) => void r.socket!.destroy(), 503, 'oidc_provider_unavailable', /\/token: /],
  ];
  for (const [name, answer, status, code, message] of rows) {
    const { browser, callback } = await begin(edge);
    liar.token = answer;
    edge.refused.length = 0;
    t.equal((await browser.get(callback)).status, status, name);
    t.equal(edge.refused[0]?.code, code, name);
    t.match(edge.refused[0]?.message, message, name);
  }
});

t.test('responses of another provider, and logins that the provider refuses, end the login', async (t) => {
  const { edge, liar } = await startLiar(t);
  liar.discovery = { authorization_response_iss_parameter_supported: true };
  const rows: [string, (callback: string) => string, number, string, string, RegExp][] = [
    ['another issuer', (c) => `${c}&iss=https%3A%2F%2Fevil.test`, 400, 'oidc_state_invalid', 'This login', /"iss"/],
    ['no issuer, although the provider always sends it', (c) => c, 400, 'oidc_state_invalid', 'This login', /"iss"/],
    ['two states', (c) => `${c}&state=x`, 400, 'oidc_state_invalid', 'This login', /callback has no valid state/],
    [
      'no state',
      (c) => c.replace(/&state=.*/, ''),
      400,
      'oidc_state_invalid',
      'This login',
      /callback has no valid state/,
    ],
    [
      'a made-up state',
      (c) => c.replace(/state=.*/, `state=${'A'.repeat(43)}`),
      400,
      'oidc_state_invalid',
      'This login',
      /did not begin/,
    ],
    [
      'access_denied',
      (c) => `${c.replace('code=c', 'error=access_denied')}&iss=${encodeURIComponent(liar.issuer)}`,
      403,
      'oidc_login_refused',
      'The login was refused.',
      /access_denied/,
    ],
    [
      'an error without a state',
      (c) => c.replace(/code=.*/, 'error=access_denied'),
      400,
      'oidc_state_invalid',
      'This login',
      /callback has no valid state/,
    ],
  ];
  for (const [name, change, status, code, text, message] of rows) {
    const { browser, callback } = await begin(edge);
    edge.refused.length = 0;
    const response = await browser.get(change(callback));
    t.equal(response.status, status, name);
    t.match(await response.text(), text, name);
    t.match(edge.refused[0], { code, message }, name);
  }
  t.notOk(liar.asked.includes('/token'), 'no code was sent anywhere');
});

t.test('invalid discovery documents, and providers without one', async (t) => {
  const rows: [string, Record<string, unknown>, RegExp][] = [
    ['another issuer', { issuer: 'https://evil.test' }, /issuer/],
    ['nearly the same issuer', { issuer: undefined }, /its issuer is 'http/],
    ['endpoints without TLS', { token_endpoint: 'http://evil.test/token' }, /no token_endpoint with https/],
    ['an endpoint with another scheme', { authorization_endpoint: 'javascript:alert(1)' }, /no authorization_endpoint/],
    ['keys without TLS', { jwks_uri: 'http://evil.test/keys' }, /no jwks_uri/],
  ];
  for (const [name, discovery, message] of rows) {
    const { edge, liar } = await startLiar(t);
    liar.discovery = discovery;
    if (name.startsWith('nearly')) liar.discovery = { issuer: `${liar.issuer}/` };
    const response = await new Browser().get(`${edge.url}/`);
    t.equal(response.status, 502, name);
    t.match(edge.refused[0], { code: 'oidc_provider_failed', message }, name);
  }
  let security: ReturnType<typeof compileSecurity> | undefined;
  const edge = await startEdge(t, () => security!);
  const liar = await startLyingProvider(t);
  const { issuer } = liar;
  const whole = `{ issuer: "${issuer}", authorizationEndpoint: "${issuer}/auth", tokenEndpoint: "${issuer}/token", jwksURI: "${issuer}/keys" }`;
  const spec = specOf(issuer, `${edge.url}/oauth2/callback`).replace(/provider: .*/, `provider: ${whole}`);
  security = compileSecurity(policyOf(spec), toolsFor(secrets));
  const { browser, nonce, callback } = await begin(edge);
  liar.token = async (response) => json(response, tokensWith(await idToken(liar, nonce)));
  t.equal((await browser.get(callback)).status, 302);
  t.strictSame(liar.asked, ['/token', '/keys'], 'nothing is discovered');
});

t.test('a provider that does not respond or is down', async (t) => {
  const silent = createServer(() => {}).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  const address = silent.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const gone = await freePort();
  for (const [name, at] of [
    ['asleep', port],
    ['gone', gone],
  ] as const) {
    const spec = specOf(`http://127.0.0.1:${at}`, 'https://edge.test/cb');
    const tools = toolsFor(secrets, { fetch: createProviderFetch(200) });
    const edge = await startEdge(t, compileSecurity(policyOf(spec), tools));
    const responses = await Promise.all([1, 2].map(() => new Browser().get(`${edge.url}/`)));
    for (const one of responses) t.equal(one.status, 503, name);
    t.match(
      edge.refused[0],
      { code: 'oidc_provider_unavailable', message: /\.well-known\/openid-configuration: / },
      name,
    );
  }
});

t.test("a session does not become another user's, and one that is too large is refused", async (t) => {
  const clock = createClock();
  const { edge, liar } = await startLiar(t, '  forwardAccessToken: true\n', { now: clock.now });
  const { browser, nonce, callback } = await begin(edge);
  const token = await idToken(liar, nonce);
  liar.token = (response) => json(response, tokensWith(token, { refresh_token: 'r', access_token: 'x'.repeat(9000) }));
  t.equal((await browser.get(callback)).status, 302);
  t.equal(browser.named('sallyport-session').length, 4, 'in pieces');
  t.match(await passed(await browser.get(`${edge.url}/`)), {
    sub: 'ann',
    fields: { authorization: /^Bearer x{9000}$/ },
  });
  clock.add(61_000);
  const bob = await sign(liar.key, { iss: liar.issuer, sub: 'bob', aud: client.id });
  liar.token = (response) => json(response, tokensWith(bob));
  t.equal((await browser.get(`${edge.url}/`)).status, 502);
  t.match(edge.refused.at(-1), { message: 'the provider responded to a refresh with the tokens of another user' });
  liar.token = (response) => json(response, tokensWith(undefined, { access_token: 'short' }));
  const smaller = await browser.get(`${edge.url}/`);
  t.match(
    await passed(smaller),
    { sub: 'ann', fields: { authorization: 'Bearer short' } },
    'a refresh may give no ID token',
  );
  t.equal(browser.named('sallyport-session').length, 1, 'the remaining pieces of the longer one are deleted');
  const next = await begin(edge);
  const good = await idToken(liar, next.nonce);
  liar.token = (response) => json(response, tokensWith(good, { access_token: 'x'.repeat(20_000) }));
  t.equal((await next.browser.get(next.callback)).status, 502);
  t.match(edge.refused.at(-1), {
    message: /the tokens of a session take \d+ bytes: at most 19000 fit into its cookies/,
  });
});

t.test('a session and tokens together', async (t) => {
  const key = await createKey('j');
  const jwt = `jwt:
  providers:
    - { name: corp, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' }, claimToHeaders: [{ header: x-user, claim: sub }] }
`;
  const rules = `authorization:
  rules:
    - { action: Allow, operation: { paths: [/token] }, principal: { jwt: { provider: corp, claims: [{ name: sub, values: [cron] }] } } }
    - { action: Allow, operation: { paths: [/page] }, principal: { jwt: { provider: oidc, claims: [{ name: groups, valueType: StringArray, values: [clerks] }] } } }
`;
  const token = await sign(key, { iss: 'iss.test', sub: 'cron' });
  const authorization = `Bearer ${token}`;
  const { edge } = await start(t, `  passThroughAuthHeader: true\n${jwt}${rules}`);
  const program = await passed(await fetch(`${edge.url}/token`, { headers: { authorization } }));
  t.match(program, { method: 'jwt', sub: 'cron', fields: { 'x-user': 'cron' } });
  t.equal(program.fields['authorization'], undefined);
  t.equal((await fetch(`${edge.url}/page`, { headers: { authorization } })).status, 403);
  t.equal((await fetch(`${edge.url}/token`, { headers: { authorization: 'Bearer a.b.c' } })).status, 401);
  t.equal((await fetch(`${edge.url}/token`)).status, 401, 'neither');
  const browser = new Browser();
  t.equal((await passed((await browser.walk(`${edge.url}/page`)).response)).sub, 'ann');
  t.equal((await browser.get(`${edge.url}/token`)).status, 403, "a session is not the other provider's token");
  t.match(edge.refused.at(-1), { code: 'policy_denied', details: 'rbac_access_denied_matched_policy[none]' });

  const strict = await start(t, jwt);
  t.equal((await fetch(strict.edge.url, { headers: { authorization } })).status, 401, 'a session is needed as well');
  const both = new Browser();
  await both.walk(`${strict.edge.url}/`);
  t.strictSame(strict.edge.late, [], 'after a redirect no token is required');
  t.match(await passed(await both.get(`${strict.edge.url}/`)), { method: 'oidc', sub: 'ann' });
  t.match(await passed(await both.get(`${strict.edge.url}/`, { authorization })), { method: 'jwt', sub: 'cron' });
  t.equal(
    (await both.get(`${strict.edge.url}/`, { authorization: 'Bearer a.b.c' })).status,
    401,
    'an invalid token is refused',
  );
});

t.test('a user that the provider refuses is refused', async (t) => {
  const { edge, provider } = await start(t);
  provider.denyLogins();
  const { response } = await new Browser().walk(`${edge.url}/`);
  t.equal(response.status, 403);
  t.equal(await response.text(), 'The login was refused.');
  t.match(edge.refused.at(-1), {
    code: 'oidc_login_refused',
    message: 'the provider refused the login: access_denied',
  });
});

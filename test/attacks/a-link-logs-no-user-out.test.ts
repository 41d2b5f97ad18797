// A page of another site may use our logout as a picture, a link, a frame or a form. None of them ends a session: only
// a person on a page of ours does, or one who confirms it.

import t from 'tap';
import { type Edge, policyOf, startEdge, toolsFor } from '../fixtures/edge.ts';
import { Browser, client, startProvider } from '../fixtures/oidc-provider.ts';
import { compileSecurity } from '../fixtures/security.ts';

async function start(): Promise<Edge> {
  let security: ReturnType<typeof compileSecurity> | undefined;
  const edge = await startEdge(t, () => security!);
  const provider = await startProvider(t, [`${edge.url}/oauth2/callback`], edge.url);
  const spec = `oidc:
  provider: { issuer: "${provider.issuer}" }
  clientID: ${client.id}
  clientSecret: { name: s }
  redirectURL: "${edge.url}/oauth2/callback"
`;
  security = compileSecurity(policyOf(spec), toolsFor({ s: { 'client-secret': client.secret } }));
  return edge;
}

const edge = await start();
const own = edge.url;
const host = new URL(own).host;

async function loggedIn(): Promise<Browser> {
  const browser = new Browser();
  await browser.walk(`${own}/`);
  return browser;
}

type Headers = Record<string, string>;

const elsewhere: readonly [string, string, Headers][] = [
  ['a picture', 'GET', { 'sec-fetch-site': 'cross-site', 'sec-fetch-dest': 'image', 'sec-fetch-mode': 'no-cors' }],
  ['a link', 'GET', { 'sec-fetch-site': 'cross-site', 'sec-fetch-dest': 'document', 'sec-fetch-user': '?1' }],
  ['a form', 'POST', { 'sec-fetch-site': 'cross-site', origin: 'https://evil.test' }],
  ['a form on a page without an origin', 'POST', { origin: 'null' }],
  ['a form, in an older browser', 'POST', { origin: 'https://evil.test' }],
  ['a form that claims two sites', 'POST', { 'sec-fetch-site': 'same-origin, cross-site' }],
  ['a picture, in an older browser', 'GET', { referer: 'https://evil.test/page' }],
  ['a link of a host with our name as its beginning', 'GET', { referer: `http://${host}.evil.test/` }],
  ['a page whose host name contains ours', 'GET', { referer: `https://evil.test/${own}` }],
  ['our own name under another scheme', 'POST', { origin: `https://${host}` }],
  ['a link on a page that hides its URL', 'GET', {}],
  [
    'a picture that a user put on one of our pages',
    'GET',
    { 'sec-fetch-site': 'same-origin', 'sec-fetch-dest': 'image' },
  ],
  ['a frame on one of our pages', 'GET', { 'sec-fetch-site': 'same-origin', 'sec-fetch-dest': 'iframe' }],
  ['prefetching', 'GET', { 'sec-fetch-site': 'none', 'sec-purpose': 'prefetch;prerender' }],
  ['prefetching of one of our links', 'GET', { 'sec-fetch-site': 'same-origin', purpose: 'prefetch' }],
  ['prefetching, in an older browser', 'GET', { referer: `${own}/`, 'x-moz': 'prefetch' }],
];

for (const [name, method, headers] of elsewhere)
  t.test(`${name} must be confirmed`, async (t) => {
    const browser = await loggedIn();
    const answer = await browser.get(`${own}/logout?x=1`, headers, method);
    t.equal(answer.status, 403);
    t.same(answer.headers.getSetCookie(), [], 'no cookie is changed');
    t.equal(answer.headers.get('cache-control'), 'no-store');
    t.match(answer.headers.get('content-security-policy'), /frame-ancestors 'none'/);
    t.equal(answer.headers.get('x-frame-options'), 'DENY');
    t.match(await answer.text(), /<form method="post" action="\/logout">.*<button>Log out<\/button>/);
    t.equal((await browser.get(`${own}/`)).status, 200, 'the session continues');
    const sure = await browser.get(`${own}/logout`, { origin: own, 'sec-fetch-site': 'same-origin' }, 'POST');
    t.equal(sure.status, 302, 'the button ends the session');
    t.equal((await browser.get(`${own}/`)).status, 302);
  });

const ours: readonly [string, string, Headers][] = [
  ['a link on one of our pages', 'GET', { 'sec-fetch-site': 'same-origin', 'sec-fetch-dest': 'document' }],
  ['a link on a page of the same site', 'GET', { 'sec-fetch-site': 'same-site', 'sec-fetch-dest': 'document' }],
  ['an address that was typed', 'GET', { 'sec-fetch-site': 'none', 'sec-fetch-dest': 'document' }],
  ['one of our scripts', 'GET', { 'sec-fetch-site': 'same-origin', 'sec-fetch-dest': 'empty' }],
  ['a link, in an older browser', 'GET', { referer: `${own}/page?x=1` }],
  ['a form, in an older browser', 'POST', { origin: own }],
  ['a program', 'POST', {}],
];

for (const [name, method, headers] of ours)
  t.test(`${name} ends the session`, async (t) => {
    const browser = await loggedIn();
    t.equal((await browser.get(`${own}/logout`, headers, method)).status, 302);
    t.equal((await browser.get(`${own}/`)).status, 302, 'there is no session to end');
  });

t.test('other methods end no session', async (t) => {
  const browser = await loggedIn();
  for (const method of ['HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
    const answer = await browser.get(`${own}/logout`, { 'sec-fetch-site': 'same-origin' }, method);
    t.equal(answer.status, 405, method);
    t.equal(answer.headers.get('allow'), 'GET, POST', method);
  }
  t.equal((await browser.get(`${own}/`)).status, 200);
});

// Rewrites and redirects as hooks: what the backend is asked, and where a client is sent.

import t from 'tap';
import { rewrite } from '../../../sidecar/edge/rewrite/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { type Asked, hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const full = (path: string) => ({ path: { type: 'ReplaceFullPath', replaceFullPath: path } });
const prefix = (path: string) => ({ path: { type: 'ReplacePrefixMatch', replacePrefixMatch: path } });

const rewriting = async (written: object, at = '/') =>
  hooksOf(rewrite, { URLRewrite: await planOf(rewrite, 'URLRewrite', written) }, { prefix: at });
const redirecting = async (written: object, at = '/') =>
  hooksOf(rewrite, { RequestRedirect: await planOf(rewrite, 'RequestRedirect', written) }, { prefix: at });

const paths: [plan: object, prefix: string, path: string, becomes: string][] = [
  [full('/x'), '/', '/a/b', '/x'],
  [full('/x'), '/', '/a/b?q=1', '/x?q=1'],
  [prefix('/x'), '/a', '/a', '/x'],
  [prefix('/x'), '/a', '/a/', '/x/'],
  [prefix('/x'), '/a', '/a/b?q=/a', '/x/b?q=/a'],
  [prefix('/x/'), '/a/', '/a/b', '/x/b'],
  [prefix('/x'), '/', '/b', '/x/b'],
  [prefix('/'), '/a', '/a/b', '/b'],
  [prefix('/'), '/a', '/a', '/'],
  [prefix('/'), '/a', '/a?q=1', '/?q=1'],
  [prefix(''), '/a', '/a/b', '/b'],
  [prefix('/x'), '/a', '/a//b', '/x//b'],
];

for (const [plan, at, path, becomes] of paths) {
  const { path: change } = plan as ReturnType<typeof full> & ReturnType<typeof prefix>;
  const named = `${change.replaceFullPath ?? `${at} by ${change.replacePrefixMatch}`}: ${path}`;
  t.test(`rewrite ${named}`, async (t) => {
    const { backend } = await serve(await rewriting(plan, at), { known: { path } });
    t.match(backend, { path: becomes, authority: 'shop.test', headers: { 'x-envoy-original-path': path } });
  });
  t.test(`redirect ${named}`, async (t) => {
    const { backend, client } = await serve(await redirecting({ ...plan, hostname: 'b.test' }, at), {
      known: { path },
    });
    t.equal(backend, undefined);
    t.match(client, { status: 302, headers: { location: `https://b.test${becomes}` } });
  });
}

t.test('a rewrite of the host alone leaves the path unchanged', async (t) => {
  const { backend } = await serve(await rewriting({ hostname: 'b.test' }), { known: { path: '/a?q=1' } });
  t.strictSame(backend, { method: 'GET', path: '/a?q=1', authority: 'b.test', headers: {} });
});

const tls: Asked['connection'] = { tls: { version: 'TLSv1.3', cipher: 'x', group: undefined } };
const plain: Partial<Exchange> = { scheme: 'http' };

const redirects: [name: string, plan: object, asked: Asked, status: number, location: string | undefined][] = [
  [
    'to HTTPS, on its own port',
    { scheme: 'https' },
    { known: { ...plain, authority: 'a.test:80' } },
    302,
    'https://a.test/',
  ],
  ['to HTTPS on a port', { scheme: 'https', port: 8443 }, { known: plain }, 302, 'https://shop.test:8443/'],
  [
    'to another host on the port of the listener',
    { hostname: 'b.test' },
    { connection: tls, rules: { policyPort: 8443 } },
    302,
    'https://b.test:8443/',
  ],
  [
    'the default port of a scheme is not written',
    { hostname: 'b.test' },
    { connection: tls, rules: { policyPort: 443 } },
    302,
    'https://b.test/',
  ],
  [
    'behind a trusted proxy by its scheme and port',
    { hostname: 'b.test' },
    { rules: { policyPort: 8080 } },
    302,
    'https://b.test/',
  ],
  [
    'an IPv6 host keeps its brackets',
    { scheme: 'https' },
    { known: { ...plain, authority: '[::1]:80' } },
    302,
    'https://[::1]/',
  ],
  [
    'with the status that is asked for',
    { scheme: 'https', statusCode: 308 },
    { known: plain },
    308,
    'https://shop.test/',
  ],
  ['a port alone', { port: 8081 }, { known: plain }, 302, 'http://shop.test:8081/'],
  [
    'a redirect to the same URL is a loop',
    { scheme: 'https' },
    { connection: tls, rules: { policyPort: 443 } },
    500,
    undefined,
  ],
  [
    'a redirect to the same path is a loop too',
    full('/'),
    { connection: tls, rules: { policyPort: 443 } },
    500,
    undefined,
  ],
  [
    '303 after a POST is no loop: it is asked by GET',
    { statusCode: 303 },
    { known: { method: 'POST' }, connection: tls, rules: { policyPort: 443 } },
    303,
    'https://shop.test/',
  ],
  ['303 after a GET is a loop', { statusCode: 303 }, { connection: tls, rules: { policyPort: 443 } }, 500, undefined],
  [
    'without a Host there is no target host',
    { scheme: 'https' },
    { known: { ...plain, authority: '' } },
    400,
    undefined,
  ],
  [
    'without a Host, to a configured host',
    { scheme: 'https', hostname: 'b.test' },
    { known: { ...plain, authority: '' } },
    302,
    'https://b.test/',
  ],
];

for (const [name, plan, asked, status, location] of redirects)
  t.test(`redirect: ${name}`, async (t) => {
    const { backend, client } = await serve(await redirecting(plan), asked);
    t.equal(backend, undefined);
    t.equal(client.status, status);
    t.equal(client.headers['location'], location);
    const codes: Readonly<Record<number, string>> = { 500: 'redirect_loop', 400: 'host_missing' };
    t.equal(client.code, codes[status]);
  });

t.test('a rule that redirects needs no backend; one that rewrites does', async (t) => {
  t.equal((await redirecting({ scheme: 'https' }))!.answers, true);
  t.equal((await rewriting({ hostname: 'b.test' }))!.answers, undefined);
  t.equal(hooksOf(rewrite, {}), undefined);
});

t.test("a backend's rewrite applies in place of its rule's", async (t) => {
  const plans: [string, unknown][] = [
    ['URLRewrite', await planOf(rewrite, 'URLRewrite', full('/rule'))],
    ['URLRewrite', await planOf(rewrite, 'URLRewrite', full('/backend'))],
  ];
  t.equal((await serve(hooksOf(rewrite, plans))).backend!.path, '/backend');
});

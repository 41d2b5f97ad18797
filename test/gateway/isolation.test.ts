// A listener's hosts are its own: the most precise listener has a request, even where it has no rule for it, even where
// it cannot be served itself.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { documentOf } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const app = await startEcho(t, 'a');
const to = (section: string, rules = '{ backendRefs: [{ name: a, port: 80 }] }', hostnames = ''): string =>
  `{ parentRefs: [{ name: g, sectionName: ${section} }]${hostnames === '' ? '' : `, hostnames: [${hostnames}]`}, rules: [${rules}] }`;
const marked = (mark: string, path = '/'): string =>
  `{ matches: [{ path: { value: ${path} } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-mark, value: ${mark} }] } }], backendRefs: [{ name: a, port: 80 }] }`;

const gateway = await startTestGateway(t, {
  listeners: ['shop/g:80', 'shop/only:80'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
  documents:
    documentOf(
      'Gateway',
      'g',
      `{ gatewayClassName: x, listeners: [
        { name: any, port: 80, protocol: HTTP },
        { name: wide, port: 80, protocol: HTTP, hostname: "*.example.com" },
        { name: deep, port: 80, protocol: HTTP, hostname: "*.foo.example.com" },
        { name: exact, port: 80, protocol: HTTP, hostname: abc.foo.example.com },
        { name: bare, port: 80, protocol: HTTP, hostname: bare.example.com },
        { name: closed, port: 80, protocol: HTTP, hostname: closed.example.com, allowedRoutes: { kinds: [{ kind: NoRoute }] } }] }`,
    ) +
    documentOf(
      'Gateway',
      'only',
      '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP, hostname: a.test }] }',
    ) +
    documentOf('HTTPRoute', 'any', to('any', marked('any', '/any'))) +
    documentOf('HTTPRoute', 'wide', to('wide', marked('wide', '/wide'))) +
    documentOf('HTTPRoute', 'deep', to('deep', marked('deep', '/deep'))) +
    documentOf('HTTPRoute', 'exact', to('exact', marked('exact', '/exact'))) +
    // For all listeners of the Gateway: where there is no other rule, this one.
    documentOf(
      'HTTPRoute',
      'all',
      `{ parentRefs: [{ name: g }], hostnames: [x.foo.example.com, "*.example.com"], rules: [${marked('all', '/all')}] }`,
    ) +
    documentOf('HTTPRoute', 'only', `{ parentRefs: [{ name: only }], rules: [${marked('only')}] }`),
});
const port = gateway.port('shop/g:80');

// From the standard's own conformance cases for isolation: each host has one listener.
const cases: [host: string, path: string, mark: string | undefined][] = [
  ['bar.com', '/any', 'any'],
  ['bar.com', '/wide', undefined],
  ['bar.com', '/deep', undefined],
  ['bar.example.com', '/any', undefined],
  ['bar.example.com', '/wide', 'wide'],
  ['bar.example.com', '/deep', undefined],
  ['bar.foo.example.com', '/wide', undefined],
  ['bar.foo.example.com', '/deep', 'deep'],
  ['abc.foo.example.com', '/deep', undefined],
  ['abc.foo.example.com', '/exact', 'exact'],
  ['ABC.foo.example.com:81', '/exact', 'exact'],
  ['abc.foo.example.com.', '/exact', 'exact'],
  ['x.abc.foo.example.com', '/deep', 'deep'],
  ['example.com', '/any', 'any'],
  ['example.com', '/wide', undefined],
  ['.example.com', '/wide', undefined],
  ['bare.example.com', '/wide', undefined],
  ['bare.example.com', '/any', undefined],
  ['bare.example.com', '/all', 'all'],
  ['x.foo.example.com', '/all', 'all'],
  ['y.foo.example.com', '/all', 'all'],
  ['closed.example.com', '/all', undefined],
  ['closed.example.com', '/wide', undefined],
  ['[::1]', '/any', 'any'],
  ['[::1]:80', '/any', 'any'],
  ['127.0.0.1:80', '/any', 'any'],
];

for (const [host, path, mark] of cases)
  t.test(`${host}${path}`, async (t) => {
    const { status, echo, text } = await ask(port, path, { headers: { host } });
    t.equal(status, mark === undefined ? 404 : 200, text);
    t.equal(echo.headers['x-mark'], mark);
  });

t.test('HTTP/1.0 without Host selects the catch-all listener', async (t) => {
  t.match(await exchangeBytes(port, 'GET /any HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 /);
  t.match(await exchangeBytes(port, 'GET /wide HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 404 /);
  t.match(await exchangeBytes(gateway.port('shop/only:80'), 'GET / HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 404 /);
});

t.test('the authority of an absolute target counts, whatever Host says', async (t) => {
  const answer = await exchangeBytes(
    port,
    'GET http://abc.foo.example.com/exact HTTP/1.1\r\nHost: bar.example.com\r\nConnection: close\r\n\r\n',
  );
  t.match(answer, /"x-mark":"exact"/);
});

t.test('a host without a listener gets 404', async (t) => {
  const { status, text } = await ask(gateway.port('shop/only:80'), '/', { headers: { host: 'b.test' } });
  t.strictSame([status, text], [404, 'no route']);
  const record = await until(
    async () => (await gateway.records(1)).find(({ authority }) => authority === 'b.test'),
    'the record',
  );
  t.match(record, { response_code: 404, response_flags: 'NR', response_code_details: 'route_not_found' });
});

t.test('CONNECT does not bypass the rules', async (t) => {
  const answer = await exchangeBytes(port, 'CONNECT bar.com:80 HTTP/1.1\r\nHost: bar.com:80\r\n\r\n', /\r\n\r\n/);
  t.match(answer, /^HTTP\/1\.1 501 /);
});

t.test('two Host fields, and none, are refused', async (t) => {
  for (const lines of ['Host: a\r\nHost: b\r\n', '', 'Host: a@b\r\n'])
    t.match(await exchangeBytes(port, `GET /any HTTP/1.1\r\n${lines}\r\n`, /\r\n\r\n/), /^HTTP\/1\.1 400 /, lines);
});

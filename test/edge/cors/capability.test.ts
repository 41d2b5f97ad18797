// CORS as hooks: what a preflight is told, what a browser reads of a response, and whose word stands.

import t from 'tap';
import { cors } from '../../../sidecar/edge/cors/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { createExchange, type Headers, hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const filter = async (written: object) => hooksOf(cors, { CORS: await planOf(cors, 'CORS', written) });
const policy = async (written: object) => hooksOf(cors, { cors: await planOf(cors, 'cors', written) });

const own = { allowOrigins: ['https://a.test'], allowMethods: ['GET', 'PUT'], allowHeaders: ['x-a'], maxAge: 60 };
const allowed = { 'access-control-allow-origin': 'https://a.test', vary: 'Origin' };

const preflight = (origin: string, method = 'PUT', asked?: string) => ({
  known: { method: 'OPTIONS' },
  headers: {
    ...{ origin, 'access-control-request-method': method },
    ...(asked === undefined ? {} : { 'access-control-request-headers': asked }),
  },
});

const preflights: [name: string, plan: object, asked: ReturnType<typeof preflight>, told: Headers][] = [
  [
    'an origin that is allowed',
    own,
    preflight('https://a.test'),
    {
      ...allowed,
      'access-control-allow-methods': 'GET, PUT',
      'access-control-allow-headers': 'x-a',
      'access-control-max-age': '60',
    },
  ],
  ['an origin that is not allowed', own, preflight('https://b.test'), { vary: 'Origin' }],
  ['the same host by another scheme', own, preflight('http://a.test'), { vary: 'Origin' }],
  ['the same host on another port', own, preflight('https://a.test:8443'), { vary: 'Origin' }],
  [
    'any origin, any method and any header, without credentials',
    { allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'] },
    preflight('https://b.test', 'PATCH', 'x-b'),
    {
      'access-control-allow-origin': '*',
      'access-control-allow-methods': '*',
      'access-control-allow-headers': '*',
      'access-control-max-age': '5',
    },
  ],
  [
    "with credentials a star is replaced by the request's value: a browser would take it for a name",
    {
      allowOrigins: ['*'],
      allowMethods: ['*'],
      allowHeaders: ['*'],
      allowCredentials: true,
      exposeHeaders: ['*', 'x-e'],
    },
    preflight('https://b.test', 'PATCH', 'x-b'),
    {
      'access-control-allow-origin': 'https://b.test',
      vary: 'Origin',
      'access-control-allow-credentials': 'true',
      'access-control-allow-methods': 'PATCH',
      'access-control-allow-headers': 'x-b',
      'access-control-expose-headers': 'x-e',
      'access-control-max-age': '5',
    },
  ],
];

for (const [name, plan, asked, told] of preflights)
  t.test(`preflight: ${name}`, async (t) => {
    const hooks = await filter(plan);
    const { backend, client } = await serve(hooks, asked);
    t.equal(backend, undefined, 'the preflight is answered here');
    t.strictSame(client, { status: 204, headers: told, body: '' });
    const { exchange } = createExchange(asked.known, asked.headers);
    t.strictSame(Object.fromEntries(JSON.parse(hooks!.preflight!(exchange))), told, 'rules are compared by the same');
  });

const noPreflights: [name: string, known: Partial<Exchange>, headers: Headers][] = [
  ['OPTIONS without an origin', { method: 'OPTIONS' }, { 'access-control-request-method': 'PUT' }],
  ['OPTIONS without a method', { method: 'OPTIONS' }, { origin: 'https://a.test' }],
  ['another method', { method: 'GET' }, { origin: 'https://a.test', 'access-control-request-method': 'PUT' }],
];

for (const [name, known, headers] of noPreflights)
  t.test(`no preflight: ${name}`, async (t) => {
    const { backend } = await serve(await filter(own), { known, headers });
    t.equal(backend?.method, known.method);
  });

const origins: [pattern: string, origin: string, isAllowed: boolean][] = [
  ['https://*.a.test', 'https://b.a.test', true],
  ['https://*.a.test', 'https://c.b.a.test', true],
  ['https://*.a.test', 'HTTPS://B.A.TEST', true],
  ['https://*.a.test', 'https://a.test', false],
  ['https://*.a.test', 'https://evila.test', false],
  ['https://*.a.test', 'https://b.a.test.evil', false],
  ['https://*.a.test', 'https://b.a.test:444', false],
  ['https://*.a.test:*', 'https://b.a.test:444', true],
  ['https://*.a.test', 'http://b.a.test', false],
  ['http://*', 'http://b.test', true],
  ['http://*', 'https://b.test', false],
  ['https://a.test', 'null', false],
  ['https://*.a.test', 'null', false],
];

for (const [pattern, origin, isAllowed] of origins)
  t.test(`${pattern} ${isAllowed ? 'allows' : 'does not allow'} ${origin}`, async (t) => {
    const { client, backend } = await serve(await policy({ allowOrigins: [pattern] }), { headers: { origin } });
    t.ok(backend, 'the request is served anyway');
    t.equal(client.headers['access-control-allow-origin'], isAllowed ? origin : undefined);
  });

const responses: [name: string, plan: object, headers: Headers, told: Headers][] = [
  [
    'an origin that is allowed',
    { ...own, exposeHeaders: ['x-e', 'x-f'] },
    { origin: 'https://a.test' },
    {
      ...allowed,
      'access-control-expose-headers': 'x-e, x-f',
    },
  ],
  ['an origin that is not allowed', own, { origin: 'https://b.test' }, { vary: 'Origin' }],
  ['no origin', own, {}, { vary: 'Origin' }],
  ['no origin where all are allowed', { allowOrigins: ['*'] }, {}, {}],
  [
    'with credentials',
    { ...own, allowCredentials: true },
    { origin: 'https://a.test' },
    {
      ...allowed,
      'access-control-allow-credentials': 'true',
    },
  ],
];

for (const [name, plan, headers, told] of responses)
  t.test(`response: ${name}`, async (t) => {
    const saidByBackend = {
      'access-control-allow-origin': '*',
      'access-control-allow-credentials': 'true',
      'access-control-expose-headers': 'x-secret',
      'x-other': '1',
    };
    const { client } = await serve(await filter(plan), { headers }, { headers: saidByBackend });
    t.strictSame(client.headers, { 'x-other': '1', ...told }, "the backend's value is replaced");
  });

t.test('a browser may read a refusal too', async (t) => {
  const hooks = await filter(own);
  const limit = (): never => {
    throw new Error('refused by another capability');
  };
  const { client } = await serve({ ...hooks, limit }, { headers: { origin: 'https://a.test' } });
  t.match(client, { status: 500, headers: allowed });
});

t.test("the route's own filter applies in place of the policy's", async (t) => {
  const plans: [string, unknown][] = [
    ['CORS', await planOf(cors, 'CORS', own)],
    ['cors', await planOf(cors, 'cors', { allowOrigins: ['https://b.test'] })],
  ];
  const hooks = hooksOf(cors, plans);
  const of = async (origin: string) => (await serve(hooks, { headers: { origin } })).client.headers;
  t.match(await of('https://a.test'), allowed);
  t.strictSame(await of('https://b.test'), { vary: 'Origin' });
  t.equal(hooksOf(cors, {}), undefined);
});

t.test("the policy's age is a duration, rounded down to whole seconds", async (t) => {
  t.match(await planOf(cors, 'cors', { maxAge: '10m' }), { maxAge: 600 });
  t.match(await planOf(cors, 'cors', { maxAge: '1500ms' }), { maxAge: 1 });
  await t.rejects(planOf(cors, 'cors', { allowOrigins: ['*'], allowCredentials: true }), /name the origins/);
});

// Hardening as hooks: which headers are added and removed, for whom, and what they leave alone.

import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { hardening } from '../../../sidecar/edge/hardening/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { type Answered, type At, type Headers, hooksOf, serve } from '../../fixtures/exchange.ts';

const hooks = (at?: At) => hooksOf(hardening, { securityHeaders: true }, at);

const secure = { 'strict-transport-security': 'max-age=31536000; includeSubDomains' };
const others = {
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'strict-origin-when-cross-origin',
  'cross-origin-opener-policy': 'same-origin',
  'permissions-policy': 'camera=(), microphone=(), geolocation=()',
};
const all = { ...secure, ...others };
const telling = { server: 'a/1.2', 'x-powered-by': 'b', 'x-aspnet-version': '4', 'X-AspNetMvc-Version': '5' };

const rows: [name: string, known: Partial<Exchange>, answer: Answered, told: Headers][] = [
  ['a plain response gets all of them', {}, {}, all],
  ['an error as well', {}, { status: 404 }, all],
  [
    'fields that name the software are removed',
    {},
    { headers: { ...telling, 'x-own': '1' } },
    { 'x-own': '1', ...all },
  ],
  [
    "the backend's own values stay",
    {},
    { headers: { 'X-Frame-Options': 'SAMEORIGIN' } },
    { ...all, 'x-frame-options': 'SAMEORIGIN' },
  ],
  ['over plain HTTP no HSTS (RFC 6797 section 7.2)', { scheme: 'http' }, {}, others],
  ['gRPC is left alone', { grpc: true }, { headers: { server: 'a' } }, { server: 'a' }],
  ['a tunnel is left alone', { method: 'CONNECT' }, { headers: { server: 'a' } }, { server: 'a' }],
  ['a switch to another protocol is left alone', {}, { status: 101, headers: { server: 'a' } }, { server: 'a' }],
];

for (const [name, known, answer, told] of rows)
  t.test(name, async (t) => {
    const { client } = await serve(hooks(), { known }, answer);
    t.strictSame(client.headers, told);
  });

t.test('on our own TLS the connection is secure, whatever a proxy claims', async (t) => {
  const tls = { version: 'TLSv1.3', cipher: 'x', group: undefined };
  const { client } = await serve(hooks(), { known: { scheme: 'http' }, connection: { tls } });
  t.strictSame(client.headers, all);
});

t.test('fields that a filter of the rule sets or removes are left to the filter', async (t) => {
  const beside = {
    ResponseHeaderModifier: [
      { set: [{ name: 'X-Frame-Options', value: 'SAMEORIGIN' }], remove: ['Referrer-Policy'] },
      { remove: ['strict-transport-security'] },
      { add: [{ name: 'permissions-policy', value: 'usb=()' }] },
    ],
  };
  const { 'x-content-type-options': nosniff, 'cross-origin-opener-policy': opener, 'permissions-policy': policy } = all;
  const { client } = await serve(hooks({ beside }));
  t.strictSame(client.headers, {
    'x-content-type-options': nosniff,
    'cross-origin-opener-policy': opener,
    'permissions-policy': policy,
  });
});

t.test("the gateway's own responses have the fields as well", async (t) => {
  const limit = (): never => {
    throw new SallyportError('no_route', 'no rule is for it');
  };
  const { client } = await serve({ ...hooks(), limit });
  t.match(client, { status: 404, headers: all });
});

t.test("a filter changes only a backend's responses, so the gateway's own keep their fields", async (t) => {
  const beside = { ResponseHeaderModifier: [{ set: [{ name: 'X-Frame-Options', value: 'SAMEORIGIN' }] }] };
  const limit = (): never => {
    throw new SallyportError('rate_limited', 'too many');
  };
  const { client } = await serve({ ...hooks({ beside }), limit });
  t.match(client.headers, { 'x-frame-options': 'DENY' });
});

t.test('without the setting there are no hooks', async (t) => {
  t.equal(hooksOf(hardening, {}), undefined);
});

// Error pages as hooks: in which form a refusal reaches its reader, and that no form says more than another.

import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { errorPages } from '../../../sidecar/edge/error-pages/capability.ts';
import type { Denial } from '../../../sidecar/exchange/ends.ts';
import type { Exchange, PortRules } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { type Headers, hooksOf, serve } from '../../fixtures/exchange.ts';

const files = {
  errorPages: {
    '404.html': '<p>gone {{request_id}}</p>',
    '4xx.html': '<p>client</p>',
    '503.html': '<p>busy</p>',
    '5xx.html': '<p>server</p>',
    'notes.txt': 'not a page',
    '200.html': 'not a refusal',
  },
};

/** A rule that refuses every request with this code. */
const refusing = (
  code: 'no_route' | 'overloaded' | 'rule_broken' | 'ext_authz_denied' | 'host_missing',
  at = { files },
) => ({
  ...hooksOf(errorPages, {}, at),
  limit(): never {
    throw new SallyportError(code, 'a reason that names what is behind us');
  },
});

const html = { accept: 'text/html,application/xhtml+xml,*/*;q=0.8' };
const plain = { 'content-type': 'text/plain; charset=utf-8', vary: 'Accept' };
const page = { 'content-type': 'text/html; charset=utf-8', vary: 'Accept' };
const problem = { 'content-type': 'application/problem+json', vary: 'Accept' };

type Code = Parameters<typeof refusing>[0];

const rows: [name: string, code: Code, headers: Headers, status: number, told: Headers, body: string][] = [
  ['a browser gets the page of the status', 'no_route', html, 404, page, '<p>gone id-1</p>'],
  ['a page for one status before that of its class', 'overloaded', html, 503, page, '<p>busy</p>'],
  ['else the page of its class', 'rule_broken', html, 500, page, '<p>server</p>'],
  ['the same for a client error', 'host_missing', html, 400, page, '<p>client</p>'],
  ['a client without Accept gets text', 'no_route', {}, 404, plain, 'no route'],
  ['a client that accepts anything gets text', 'no_route', { accept: '*/*' }, 404, plain, 'no route'],
  ['a client that accepts none of our forms gets text', 'no_route', { accept: 'image/png' }, 404, plain, 'no route'],
  [
    'a program that asks for a problem',
    'no_route',
    { accept: 'application/problem+json' },
    404,
    problem,
    '{"type":"about:blank","title":"Not Found","status":404,"detail":"no route"}',
  ],
  [
    'a program that asks for JSON',
    'no_route',
    { accept: 'application/json' },
    404,
    problem,
    '{"type":"about:blank","title":"Not Found","status":404,"detail":"no route"}',
  ],
  ['a client that prefers text', 'no_route', { accept: 'application/json;q=0.5, text/plain' }, 404, plain, 'no route'],
  [
    'a client that refuses pages',
    'no_route',
    { accept: 'text/html;q=0, application/json' },
    404,
    problem,
    '{"type":"about:blank","title":"Not Found","status":404,"detail":"no route"}',
  ],
];

for (const [name, code, headers, status, told, body] of rows)
  t.test(name, async (t) => {
    const { client } = await serve(refusing(code), { headers, known: { requestId: 'id-1' } });
    t.strictSame(client, { status, headers: { ...(code === 'overloaded' ? hint : {}), ...told }, body, code });
  });

/** Goes with that code, in every form. */
const hint: Headers = { 'x-envoy-overloaded': 'true' };

t.test('without configured pages a browser gets text', async (t) => {
  const { client } = await serve(refusing('no_route', { files: {} as typeof files }), { headers: html });
  t.match(client, { headers: plain, body: 'no route' });
});

t.test('the request ID may come from any client, and is escaped', async (t) => {
  const known: Partial<Exchange> = { requestId: `<script>"&'` };
  const { client } = await serve(refusing('no_route'), { headers: html, known });
  t.equal(client.body, '<p>gone &lt;script&gt;&quot;&amp;&#39;</p>');
});

t.test('a problem document names the decision only where the operator allows it', async (t) => {
  const asked = { headers: { accept: 'application/json' } };
  const rules: Partial<PortRules> = { decisionHeader: true };
  const named = await serve(refusing('no_route'), { ...asked, rules });
  t.equal(JSON.parse(named.client.body).instance, named.exchange.decisionId);
  const unnamed = await serve(refusing('no_route'), asked);
  t.notOk('instance' in JSON.parse(unnamed.client.body));
});

t.test('the text of an external authorizer is not changed', async (t) => {
  const fields = addFields(emptyFields, [['content-type', 'text/x-own']]);
  const worded = (body: string): Denial => ({ status: 403, fields, body: Buffer.from(body) });
  const own = await serve(refusing('ext_authz_denied'), { headers: html, known: { denial: worded('own words') } });
  t.match(own.client, { status: 403, headers: { 'content-type': 'text/x-own' }, body: 'own words' });
  const empty = await serve(refusing('ext_authz_denied'), { headers: html, known: { denial: worded('') } });
  t.match(
    empty.client,
    { status: 403, headers: page, body: '<p>client</p>' },
    'a refusal without a text gets the page',
  );
});

t.test('HEAD gets the head of the page and no body', async (t) => {
  const { client, sent } = await serve(refusing('no_route'), {
    headers: html,
    known: { method: 'HEAD', requestId: '1' },
  });
  t.match(client, { status: 404, headers: page, body: '' });
  t.equal(sent.replies[0]!.declaredLength, '<p>gone 1</p>'.length);
});

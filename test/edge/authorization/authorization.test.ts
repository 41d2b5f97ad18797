// The authorization rules of a SecurityPolicy: the first in order that matches decides.

import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Connection } from '../../../sidecar/connection.ts';
import { compileEdgeAuthorization } from '../../../sidecar/edge/authorization/authorization.ts';
import { vouchFor } from '../../../sidecar/edge/vouch.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { readClaims } from '../../../sidecar/policy/facts.ts';
import { parseIp } from '../../../sidecar/policy/ip.ts';
import { policyOf, pretend } from '../../fixtures/edge.ts';

const jwt = `jwt: { providers: [{ name: corp, issuer: i, localJWKS: { inline: '{"keys":[]}' } }] }
apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [k] }] }
`;

const connection = (peer?: string): Connection =>
  ({ remoteIp: parseIp('10.0.0.1'), client: peer === undefined ? undefined : { uri: peer } }) as Connection;

/** `allow <rule>` or `deny <details>`. */
function authorize(
  rules: string,
  known: Partial<Exchange>,
  headers: Record<string, string> = {},
  peer?: string,
): string {
  const { authorization } = policyOf(`${jwt}authorization:\n${rules.replace(/^/gm, '  ')}`);
  const exchange = pretend(known, headers);
  try {
    compileEdgeAuthorization(authorization!, 'shop/p')(exchange, connection(peer));
    t.equal(exchange.decision, 'allow');
    return `allow ${exchange.policy.replace('securitypolicy/shop/p/authorization/', '')}`;
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    t.equal(error.code, 'policy_denied');
    t.equal(exchange.decision, 'deny');
    return `deny ${exchange.details.replace('securitypolicy/shop/p/authorization/', '')}`;
  }
}

const rule = (principal: string, more = ''): string => `rules: [{ action: Allow, principal: ${principal}${more} }]`;
const none = 'deny rbac_access_denied_matched_policy[none]';
const allowed = 'allow rule/0';

const claimed = (claims: Record<string, unknown>, ...providers: string[]) => {
  const auth = readClaims(claims);
  vouchFor(auth, providers);
  return { auth };
};
const corp = (claims: Record<string, unknown>) => claimed(claims, 'corp');
const claim = (text: string): string => rule(`{ jwt: { provider: corp, claims: [${text}] } }`);

const rows: [string, string, string, Partial<Exchange>, Record<string, string>?, string?][] = [
  ['no rules', '{}', none, {}],
  ['no rules, Allow by default', 'defaultAction: Allow', 'allow default', {}],
  ['an address', rule('{ clientCIDRs: [10.0.0.0/24, "::/0"] }'), allowed, {}],
  ['another address', rule('{ clientCIDRs: [10.0.1.0/24] }'), none, {}],
  ['behind a proxy', rule('{ clientCIDRs: [192.0.2.0/24] }'), allowed, { clientIp: parseIp('192.0.2.7') }],
  ['the proxy itself', rule('{ clientCIDRs: [10.0.0.0/24] }'), none, { clientIp: parseIp('192.0.2.7') }],
  ['a method', rule('{ clientCIDRs: [0.0.0.0/0] }', ', operation: { methods: [GET, HEAD] }'), allowed, {}],
  ['another method', rule('{ clientCIDRs: [0.0.0.0/0] }', ', operation: { methods: [POST] }'), none, {}],
  ['a path', rule('{ clientCIDRs: [0.0.0.0/0] }', ', operation: { paths: [/a/*] }'), allowed, { path: '/a/b?c=d' }],
  ['another path', rule('{ clientCIDRs: [0.0.0.0/0] }', ', operation: { paths: [/a/*] }'), none, { path: '/ab' }],
  [
    'a query is not part of the path',
    rule('{ clientCIDRs: [0.0.0.0/0] }', ', operation: { paths: ["*.png"] }'),
    none,
    { path: '/a?x=.png' },
  ],
  ['a header', rule('{ headers: [{ name: X-Team, values: [a, b] }] }'), allowed, {}, { 'x-team': 'b' }],
  ['a header with more', rule('{ headers: [{ name: X-Team, values: [a, b] }] }'), none, {}, { 'x-team': 'b,c' }],
  ['no header', rule('{ headers: [{ name: X-Team, values: [a] }] }'), none, {}],
  [
    'one of two headers',
    rule('{ headers: [{ name: a, values: [x] }, { name: b, values: [x] }] }'),
    none,
    {},
    { a: 'x' },
  ],
  ['a client', rule('{ clientIDs: [web] }'), allowed, { clientId: 'web' }],
  ['another client', rule('{ clientIDs: [web] }'), none, { clientId: 'webb' }],
  ['no client', rule('{ clientIDs: [web] }'), none, {}],
  ['a certificate', rule('{ spiffeIDs: ["spiffe://a/ns/x/sa/y"] }'), allowed, {}, {}, 'spiffe://a/ns/x/sa/y'],
  ['any of a namespace', rule('{ spiffeIDs: ["spiffe://a/ns/x/*"] }'), allowed, {}, {}, 'spiffe://a/ns/x/sa/y'],
  ['of another namespace', rule('{ spiffeIDs: ["spiffe://a/ns/x/*"] }'), none, {}, {}, 'spiffe://a/ns/xy/sa/y'],
  ['no certificate', rule('{ spiffeIDs: ["spiffe://a/*"] }'), none, {}],
  ['a scope', rule('{ jwt: { provider: corp, scopes: [a, b] } }'), allowed, corp({ scope: 'b c a' })],
  ['a scope too few', rule('{ jwt: { provider: corp, scopes: [a, b] } }'), none, corp({ scope: 'a' })],
  ['no scope', rule('{ jwt: { provider: corp, scopes: [a] } }'), none, corp({})],
  ['a claim', claim('{ name: sub, values: [x, ann] }'), allowed, corp({ sub: 'ann' })],
  ['another value', claim('{ name: sub, values: [ann] }'), none, corp({ sub: 'anna' })],
  ['a number is not a string', claim('{ name: n, values: ["1"] }'), none, corp({ n: 1 })],
  ['a list is not a string', claim('{ name: g, values: [a] }'), none, corp({ g: ['a'] })],
  ['a list', claim('{ name: g, valueType: StringArray, values: [b] }'), allowed, corp({ g: ['a', 'b'] })],
  ['a string is not a list', claim('{ name: g, valueType: StringArray, values: [b] }'), none, corp({ g: 'b' })],
  ['a nested claim', claim('{ name: a.b.c, values: [x] }'), allowed, corp({ a: { b: { c: 'x' } } })],
  ['a missing nested claim', claim('{ name: a.b.c, values: [x] }'), none, corp({ a: { b: 'x' } })],
  [
    'a claim named like a URL',
    claim('{ name: "https://a.b/role", values: [x] }'),
    allowed,
    corp({ 'https://a.b/role': 'x' }),
  ],
  ['a property that every object has', claim('{ name: constructor.name, values: [Object] }'), none, corp({})],
  ['two claims', claim('{ name: a, values: [x] }, { name: b, values: [x] }'), none, corp({ a: 'x' })],
  ['no token', claim('{ name: sub, values: [ann] }'), none, {}],
  ['a token of another provider', claim('{ name: sub, values: [ann] }'), none, claimed({ sub: 'ann' }, 'other')],
  [
    'a token that no provider verified',
    claim('{ name: sub, values: [ann] }'),
    none,
    { auth: readClaims({ sub: 'ann' }) },
  ],
  [
    'only one of two conditions of a principal',
    rule('{ clientIDs: [web], clientCIDRs: [192.0.2.0/24] }'),
    none,
    { clientId: 'web' },
  ],
  [
    'the first that matches is a Deny rule',
    'rules: [{ name: no, action: Deny, principal: { clientIDs: [web] } }, { action: Allow, principal: { clientCIDRs: [10.0.0.1] } }]',
    'deny rbac_access_denied_matched_policy[rule/no]',
    { clientId: 'web' },
  ],
  [
    'the first that matches is an Allow rule',
    'rules: [{ name: yes, action: Allow, principal: { clientIDs: [web] } }, { action: Deny, principal: { clientCIDRs: [10.0.0.1] } }]',
    'allow rule/yes',
    { clientId: 'web' },
  ],
  [
    'Allow by default, with a Deny rule',
    'defaultAction: Allow\nrules: [{ action: Deny, principal: { clientCIDRs: [10.0.0.0/8] } }]',
    'deny rbac_access_denied_matched_policy[rule/0]',
    {},
  ],
];

t.test('authorization rules allow and deny', async (t) => {
  for (const [name, rules, expected, known, headers, peer] of rows)
    t.equal(authorize(rules, known, headers, peer), expected, name);
});

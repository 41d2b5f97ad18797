// The hooks of bearer tokens: which callers pass, and how tokens and a login work together.

import t from 'tap';
import { token } from '../../../sidecar/edge/token/capability.ts';
import { vouchesFor } from '../../../sidecar/edge/vouch.ts';
import { headerOf } from '../../../sidecar/exchange/facts.ts';
import { readClaims } from '../../../sidecar/policy/facts.ts';
import { Jwks } from '../../../sidecar/tokens/jwks.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';
import { createKey, jwksOf, sign } from '../../fixtures/tokens.ts';

const key = await createKey('k');
const inline = jwksOf(key);
const provider = (more = '') =>
  `jwt: { ${more} providers: [{ name: p, issuer: i, audiences: [a], localJWKS: { inline: '${inline}' }, claimToHeaders: [{ header: X-Sub, claim: sub }], extractFrom: { headers: [{ name: Authorization, valuePrefix: "Bearer " }], params: [t] } }] }`;
const jwks = new Jwks(undefined);
const shared = token.shareDry!({ hasRedis: false, keysOf: (rule) => jwks.sourceOf(rule) });
const { jwt } = policyOf(provider());
const now = Math.floor(Date.now() / 1000);
const good = await sign(key, { iss: 'i', aud: 'a', sub: 'ann', exp: now + 600 });
const bearer = (one: string) => ({ authorization: `Bearer ${one}` });

const rows: [name: string, headers: Record<string, string>, outcome: string][] = [
  ['a token', bearer(good), 'passed'],
  ['no token', {}, 'jwt_missing'],
  [
    'a token of another issuer',
    bearer(await sign(key, { iss: 'j', aud: 'a', sub: 'ann', exp: now + 600 })),
    'jwt_issuer_unknown',
  ],
  ['an expired token', bearer(await sign(key, { iss: 'i', aud: 'a', sub: 'ann', exp: now - 600 })), 'jwt_expired'],
];

for (const [name, headers, outcome] of rows)
  t.test(name, async (t) => {
    const { authenticate, jwtRules } = hooksOf(token, { jwt }, { shared });
    const { exchange, connection } = createExchange({}, headers);
    t.equal(await outcomeOf(() => authenticate!(exchange, connection)), outcome);
    t.equal(jwtRules!.length, 1);
    if (outcome !== 'passed') return;
    t.match(exchange, { authMethod: 'jwt', auth: { subject: 'ann' } });
    t.equal(vouchesFor('p', exchange.auth!), true);
    t.equal(headerOf(exchange, 'x-sub'), 'ann');
    t.equal(headerOf(exchange, 'authorization'), undefined);
  });

t.test('the headers and parameters apply to every route', async (t) => {
  t.strictSame(token.ownHeaders(jwt!, 'jwt'), ['x-sub']);
  t.strictSame(token.secretParams(jwt!, 'jwt'), ['t']);
});

t.test('which callers stay accepted after a change', async (t) => {
  const { jwt: optional } = policyOf(provider('optional: true,'));
  const { oidc } = policyOf(
    'oidc: { provider: { issuer: "https://i.test" }, clientID: a, clientSecret: { name: s }, redirectURL: "https://a.test/cb" }',
  );
  const auth = readClaims({ iss: 'i', aud: ['a'] });
  const holds = (plan: unknown, beside: object, known: object): boolean =>
    hooksOf(token, { jwt: plan }, { shared, beside: { ...beside } }).guard.stillHolds(
      createExchange(known).exchange,
      undefined,
    );
  t.equal(holds(jwt, {}, { auth, authMethod: 'jwt' }), true);
  t.equal(holds(jwt, {}, { auth: readClaims({ iss: 'i', aud: 'b' }), authMethod: 'jwt' }), false);
  t.equal(holds(jwt, {}, {}), false);
  t.equal(holds(optional, {}, {}), true);
  t.equal(holds(optional, { oidc }, {}), false, 'with a login beside it no caller stays anonymous');
  t.equal(holds(jwt, { oidc }, { auth, authMethod: 'oidc' }), true, "the login's own guard decides");
  t.equal(holds(jwt, {}, { auth, authMethod: 'oidc' }), false);
  t.equal(holds(jwt, {}, { auth, authMethod: 'introspection' }), false);
});

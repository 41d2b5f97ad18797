// The hooks of logins: what they do without a plan, which requests pass, and which users stay accepted after a change.

import t from 'tap';
import { oidc } from '../../../sidecar/edge/oidc/capability.ts';
import { headerOf } from '../../../sidecar/exchange/facts.ts';
import { readClaims } from '../../../sidecar/policy/facts.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';

const { oidc: plan } = policyOf(
  'oidc: { provider: { issuer: "https://i.test" }, clientID: shop, clientSecret: { name: s }, redirectURL: "https://shop.test/back", forwardIDToken: { header: X-Id }, claimToHeaders: [{ header: X-Sub, claim: sub }] }',
);
const secrets = { s: { 'client-secret': 'secret' } };
const shared = oidc.shareDry!({ hasRedis: false, keysOf: () => undefined as never });
const hooks = (beside = {}) => hooksOf(oidc, { oidc: plan }, { secrets, shared, beside });

t.test('no app sees session cookies, on any route', async (t) => {
  for (const one of [hooks(), hooksOf(oidc, {}, { shared })]) {
    const { exchange } = createExchange({}, { cookie: '__Host-sallyport-session-x=1.y; a=b' });
    one.rewrite!(exchange);
    t.equal(headerOf(exchange, 'cookie'), 'a=b');
  }
});

t.test('a program without a session is refused, and no request continues unauthenticated', async (t) => {
  const { authenticate, authenticated } = hooks();
  const { exchange, connection } = createExchange({}, { accept: 'application/json' });
  t.equal(await outcomeOf(() => authenticate!(exchange, connection)), 'session_invalid');
  t.equal(await outcomeOf(() => authenticated!(exchange, connection)), 'session_invalid');
  exchange.auth = readClaims({ iss: 'https://i.test' });
  t.equal(await outcomeOf(() => authenticated!(exchange, connection)), 'passed');
});

t.test('the headers and paths apply to every route', async (t) => {
  t.strictSame(oidc.ownHeaders(plan!, ''), ['x-id', 'x-sub']);
  t.strictSame(oidc.secretPaths!(plan!, ''), ['/back']);
});

t.test('which users stay accepted after a change', async (t) => {
  const known = (iss: string, aud: string, authMethod: string) => ({ auth: readClaims({ iss, aud }), authMethod });
  const jwt = { providers: [] as object[] };
  const rows: [string, object, Readonly<Record<string, unknown>>, boolean][] = [
    ['by a session', known('https://i.test', 'shop', 'oidc'), {}, true],
    ['of another issuer', known('https://j.test', 'shop', 'oidc'), {}, false],
    ['of another client', known('https://i.test', 'other', 'oidc'), {}, false],
    ['not authenticated', {}, {}, false],
    ['by a token that no provider accepts', known('https://i.test', 'shop', 'jwt'), { jwt }, false],
    ['by a token that has its own guard', known('i', 'a', 'jwt'), { jwt: { providers: [{ rule: {} }] } }, true],
    ['by introspection, with the same result', known('i', 'a', 'introspection'), { introspection: {} }, true],
  ];
  for (const [name, exchange, beside, expected] of rows) {
    const { guard } = hooksOf(oidc, { oidc: { ...plan, passThroughAuthHeader: false } }, { secrets, shared, beside });
    t.equal(guard.stillHolds(createExchange(exchange).exchange, undefined), expected, name);
  }
});

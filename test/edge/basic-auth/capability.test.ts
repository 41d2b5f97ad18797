// The hooks of passwords: which users pass, what is forwarded, and which users stay accepted after a change.

import { createHash } from 'node:crypto';
import t from 'tap';
import { basicAuth } from '../../../sidecar/edge/basic-auth/capability.ts';
import { headerOf } from '../../../sidecar/exchange/facts.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';

const { basicAuth: plan } = policyOf('basicAuth: { users: { name: u }, forwardUsernameHeader: X-User }');
const file = (word: string) => ({
  u: { '.htpasswd': `ann:{SHA}${createHash('sha1').update(word).digest('base64')}\n` },
});
const shared = basicAuth.shareDry!({ hasRedis: false, keysOf: () => undefined as never });
const hooks = (word: string) => hooksOf(basicAuth, { basicAuth: plan }, { secrets: file(word), shared });
const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString('base64')}` });

const rows: [name: string, headers: Record<string, string>, outcome: string][] = [
  ['right', basic('ann:word'), 'passed'],
  ['wrong', basic('ann:other'), 'basic_auth_wrong'],
  ['not a user', basic('bob:word'), 'basic_auth_wrong'],
  ['no field', {}, 'basic_auth_missing'],
  ['a token', { authorization: 'Bearer a.b.c' }, 'basic_auth_missing'],
];

for (const [name, headers, outcome] of rows)
  t.test(name, async (t) => {
    const { exchange, connection } = createExchange({}, headers);
    t.equal(await outcomeOf(() => hooks('word').authenticate!(exchange, connection)), outcome);
    if (outcome !== 'passed') return;
    t.match(exchange, { clientId: 'ann', authMethod: 'basic' });
    t.equal(headerOf(exchange, 'x-user'), 'ann');
    t.equal(headerOf(exchange, 'authorization'), undefined);
  });

t.test('a user stays accepted while the password is unchanged', async (t) => {
  const { guard } = hooks('word');
  const { exchange } = createExchange({ clientId: 'ann' });
  t.equal(guard.stillHolds(exchange, hooks('word').guard.known), true);
  t.equal(guard.stillHolds(exchange, hooks('other').guard.known), false);
  t.equal(guard.stillHolds(exchange, undefined), false);
  t.equal(guard.stillHolds(createExchange({ clientId: 'bob' }).exchange, guard.known), false);
});

t.test('a Secret without a file is refused', async (t) => {
  t.throws(() => hooksOf(basicAuth, { basicAuth: plan }, { secrets: { u: {} }, shared }), {
    code: 'config_invalid',
    message: "SecurityPolicy shop/p: Secret 'u' has no '.htpasswd'",
  });
});

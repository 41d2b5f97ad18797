// The hooks of authorization: a request is authorized, and authorized again after a change.

import t from 'tap';
import { authorization } from '../../../sidecar/edge/authorization/capability.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';

const { authorization: plan } = policyOf(
  'authorization: { rules: [{ name: readers, action: Allow, operation: { methods: [GET] }, principal: { headers: [{ name: x-team, values: [a] }] } }] }',
);

t.test('a rule allows, the default denies', async (t) => {
  const { authorize, guard } = hooksOf(authorization, { authorization: plan });
  const rows: [string, string, string, string, string][] = [
    ['a rule', 'GET', 'a', 'passed', 'securitypolicy/shop/p/authorization/rule/readers'],
    ['another method', 'POST', 'a', 'policy_denied', 'securitypolicy/shop/p/authorization/default'],
    ['another header', 'GET', 'b', 'policy_denied', 'securitypolicy/shop/p/authorization/default'],
  ];
  for (const [name, method, team, outcome, policy] of rows) {
    const { exchange, connection } = createExchange({ method }, { 'x-team': team });
    for (const time of ['first', 'again'])
      t.equal(await outcomeOf(() => authorize!(exchange, connection)), outcome, `${name}, ${time}`);
    t.equal(exchange.policy, policy);
    t.equal(guard.stillHolds(exchange, undefined), true, 'it is authorized again');
  }
});

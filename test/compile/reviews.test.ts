// What reviews ask of a plan is looked up once, however many of them ask.

import t from 'tap';
import type { GatewayPlan } from '../../sidecar/compile/gateway-plan.ts';
import { policiesInForce } from '../../sidecar/compile/reviews.ts';

t.test('each rule is asked once for its policies', async (t) => {
  let asked = 0;
  const policy = { namespace: 'shop', name: 'p' };
  const route = { kind: 'HTTPRoute', namespace: 'shop', name: 'r', spec: { rules: [{}, {}] } };
  const gateway = { namespace: 'shop', name: 'g' };
  const listener = { gateway, spec: { name: 'http' }, programmed: true, attached: [{ route, hosts: ['a.test'] }] };
  const plan = {
    attachments: { gateways: [{ gateway, listeners: [listener] }] },
    security: {
      policyFor: () => {
        asked++;
        return policy;
      },
    },
    own: new Map(),
  } as unknown as GatewayPlan;
  const found = policiesInForce(plan);
  t.match(found, [[policy, { policy: 'shop/p', hosts: ['a.test'] }]]);
  t.equal(policiesInForce(plan), found);
  t.equal(asked, 2);
  policiesInForce({ ...plan });
  t.equal(asked, 4, 'the next plan is asked anew');
});

// Every field and operator, from plain data, through the product's own reader and compiler.

import { readFileSync } from 'node:fs';
import t from 'tap';
import { parse } from 'yaml';
import { Permit } from '../../sidecar/policy/policy.ts';
import { judge, readPolicies, readRequest, type ShortPolicy, scope, show } from '../fixtures/policy.ts';

interface Group {
  readonly name: string;
  readonly policies: readonly ShortPolicy[];
  readonly requests: Readonly<Record<string, string>>;
}

const sections = parse(readFileSync(new URL('../vectors/policy/decisions.yaml', import.meta.url), 'utf8')) as {
  name: string;
  defaultAction?: 'allow';
  groups: Group[];
}[];

for (const { name, defaultAction, groups } of sections) {
  t.test(name, async (t) => {
    for (const group of groups) {
      const policies = readPolicies(group.policies);
      for (const [request, expected] of Object.entries(group.requests)) {
        const decision = judge(policies, { ...scope, defaultAction: defaultAction ?? 'deny' }, readRequest(request));
        t.equal(show(decision), expected, `${group.name}: ${request}`);
      }
    }
  });
}

t.test("a refusal has the same text as Envoy's", async (t) => {
  const denied = judge(readPolicies([]), scope, readRequest('web GET a /'));
  t.strictSame(denied, {
    code: 'policy_denied',
    policy: 'none',
    by: undefined,
    details: 'rbac_access_denied_matched_policy[none]',
  });
  t.ok(Object.isFrozen(denied));
});

t.test('a permit cannot be made elsewhere', async (t) => {
  t.notOk(Permit.is({ policy: 'ns[shop]-policy[forged]-rule[0]' }));
  t.notOk(Permit.is(Object.create(Permit.prototype) as object));
});

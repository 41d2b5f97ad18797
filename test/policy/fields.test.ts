// Every field and operator from plain data, through the code that `policy eval` and the proxy run: as ALLOW and as
// DENY, plain and negated, in its place in a rule and as a condition. The decision and the deciding rule are those in
// the table.

import { readFileSync } from 'node:fs';
import t from 'tap';
import { parse } from 'yaml';
import { Evaluator } from '../../sidecar/analyze/question.ts';
import { scope } from '../fixtures/policy.ts';

interface Case {
  readonly field?: string;
  readonly key?: string;
  readonly operator: string;
  readonly values: readonly string[];
  readonly yes: readonly object[];
  readonly no: readonly object[];
}

const cases = parse(readFileSync(new URL('../vectors/policy/fields.yaml', import.meta.url), 'utf8')) as Case[];
const nothing = {
  authorizationPolicies: [],
  peerAuthentications: [],
  requestAuthentications: [],
  destinationRules: [],
};
const evaluator = new Evaluator({
  documents: nothing,
  scope: { ...scope, trustDomain: 'td.test', trustDomainAliases: ['old.test'] },
  pathNormalization: 'BASE',
  keys: {
    sourceOf() {
      throw new Error('no keys are needed');
    },
  },
});
const operations = new Set(['hosts', 'ports', 'methods', 'paths']);

/** The rule with just this condition, in each of its forms. */
function rulesOf({ field, key, values }: Case, negated: boolean): object[] {
  const name = field !== undefined && negated ? `not${field[0]!.toUpperCase()}${field.slice(1)}` : field;
  const one = name === undefined ? undefined : { [name]: values };
  const inPlace =
    field === undefined ? [] : [operations.has(field) ? { to: [{ operation: one }] } : { from: [{ source: one }] }];
  return [...inPlace, ...(key === undefined ? [] : [{ when: [{ key, [negated ? 'notValues' : 'values']: values }] }])];
}

const policy = (name: string, action: string, rule: object): object => ({
  apiVersion: 'security.istio.io/v1',
  kind: 'AuthorizationPolicy',
  metadata: { name, namespace: 'shop' },
  spec: { action, rules: [rule] },
});

for (const one of cases) {
  t.test(`${one.field ?? one.key}: ${one.operator}`, async (t) => {
    for (const negated of [false, true]) {
      for (const rule of rulesOf(one, negated)) {
        for (const [requests, matches] of [
          [one.yes, !negated],
          [one.no, negated],
        ] as const) {
          for (const request of requests) {
            const what = `${JSON.stringify(rule)} ${matches ? 'matches' : 'does not match'} ${JSON.stringify(request)}`;
            const ask = async (policies: object[]): Promise<object> => {
              const {
                allowed,
                status,
                policy: by,
                rule: index,
              } = (await evaluator.answer({ ...request, policies })).verdict;
              return { allowed, status, by, index };
            };
            t.strictSame(
              await ask([policy('p', 'ALLOW', rule)]),
              matches
                ? { allowed: true, status: 200, by: 'shop/p', index: 0 }
                : { allowed: false, status: 403, by: null, index: null },
              `ALLOW ${what}`,
            );
            t.strictSame(
              await ask([policy('all', 'ALLOW', {}), policy('p', 'DENY', rule)]),
              matches
                ? { allowed: false, status: 403, by: 'shop/p', index: 0 }
                : { allowed: true, status: 200, by: 'shop/all', index: 0 },
              `DENY ${what}`,
            );
          }
        }
      }
    }
  });
}

t.test('every field and key has its cases', async (t) => {
  const { fields, plainKeys } = await import('../../sidecar/policy/attributes.ts');
  const seen = new Set(cases.flatMap(({ field, key }) => [field, key]));
  for (const name of [...Object.keys(fields.source), ...Object.keys(fields.operation), ...plainKeys])
    t.ok(seen.has(name), name);
});

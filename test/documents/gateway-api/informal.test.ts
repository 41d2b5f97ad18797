// Forms of HTTPRoute that people write and the standard does not know: read as what they mean, with a warning, or
// refused.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { checkGatewayApi } from '../../../sidecar/documents/gateway-api/gateway.ts';
import { readInformal } from '../../../sidecar/documents/gateway-api/informal.ts';

const read = (rule: string): { rules: unknown; warnings: string[]; problems: string[]; original: unknown } => {
  const text = `apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: x }\nspec: { rules: [{ ${rule} }] }\n`;
  const [given] = parseYaml(text, 'x.yaml').documents;
  const before = structuredClone(given!.value);
  const { document, warnings } = readInformal(given!);
  t.strictSame(given!.value, before, 'the original is not changed');
  const { rules } = (document.value as { spec: { rules: unknown[] } }).spec;
  return {
    rules: rules[0],
    warnings: warnings.map(formatProblem),
    problems: checkGatewayApi(document).map(formatProblem),
    original: before,
  };
};

const cases: [name: string, rule: string, becomes: object, warning: RegExp][] = [
  [
    'Prefix',
    'matches: [{ path: { type: Exact, value: /b } }, { path: { type: Prefix, value: /a } }]',
    { matches: [{ path: { type: 'Exact' } }, { path: { type: 'PathPrefix', value: '/a' } }] },
    /^x\.yaml:4:\d+: 'Prefix' is read as PathPrefix \(write type: PathPrefix\)$/,
  ],
  [
    'RequestHeader with a map',
    'filters: [{ type: RequestHeader, requestHeader: { add: { X-A: "1", X-B: "2" }, remove: [X-C] } }]',
    {
      filters: [
        {
          type: 'RequestHeaderModifier',
          requestHeaderModifier: {
            add: [
              { name: 'X-A', value: '1' },
              { name: 'X-B', value: '2' },
            ],
            remove: ['X-C'],
          },
        },
      ],
    },
    /a filter 'RequestHeader' is read as RequestHeaderModifier \(write type: RequestHeaderModifier, requestHeaderModifier: \{"add":/,
  ],
  [
    'RequestRateLimit',
    'filters: [{ type: RequestRateLimit, requestRateLimit: { rules: [{ limit: 100, period: 60s, burst: 20 }] } }]',
    { filters: [{ requestRateLimit: { rules: [{ limit: 100, period: '60s', burst: 20 }] } }] },
    /is read as a local rate limit of this rule \(write a BackendTrafficPolicy/,
  ],
];

for (const [name, rule, becomes, warning] of cases)
  t.test(name, async (t) => {
    const { rules, warnings, problems } = read(rule);
    t.match(rules, becomes);
    t.equal(warnings.length, 1);
    t.match(warnings[0], warning);
    t.strictSame(problems, []);
  });

const refused: [rule: string, expected: RegExp][] = [
  ['matches: [{ path: { type: prefix, value: /a } }]', /path\.type/],
  ['filters: [{ type: RequestHeader, requestHeader: { add: { "a b": c } } }]', /not a valid header name/],
  ['filters: [{ type: RequestHeader, requestHeader: { append: { a: b } } }]', /unknown key 'append'/],
  ['filters: [{ type: RequestHeader, requestHeader: { add: 1 } }]', /add/],
  ['filters: [{ type: RequestHeader }]', /type/],
  ['filters: [{ type: RequestRateLimit, requestRateLimit: { rules: [{ limit: 0, period: 60s }] } }]', /limit/],
  [
    'filters: [{ type: RequestRateLimit, requestRateLimit: { rules: [{ limit: 1, period: 0s }] } }]',
    /a period must be longer than 0/,
  ],
  ['filters: [{ type: RequestRateLimit, requestRateLimit: { rules: [] } }]', /rules/],
];

for (const [rule, expected] of refused) t.test(rule, async (t) => t.match(read(rule).problems[0], expected));

t.test('what the standard knows is left alone', async (t) => {
  const { warnings, rules, original } = read('matches: [{ path: { type: PathPrefix, value: /a } }]');
  t.strictSame(warnings, []);
  t.strictSame(rules, (original as { spec: { rules: unknown[] } }).spec.rules[0]);
});

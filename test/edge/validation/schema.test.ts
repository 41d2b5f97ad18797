// A RequestValidation as it is read: what is wrong with a schema is told with its place, and nothing of it is ignored.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { readPlaced } from '../../../sidecar/config/gateway-config.ts';
import { readOwnPolicy } from '../../../sidecar/documents/sallyport.ts';

const head =
  'apiVersion: sallyport.dev/v1alpha1\nkind: RequestValidation\nmetadata: { name: v, namespace: shop }\nspec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]\n';

/** The problems of a spec, as lines. */
function problemsOf(spec: string): string[] {
  const { documents, problems } = parseYaml(head + spec.replace(/^(?=.)/gm, '  '), 'v.yaml');
  t.strictSame(problems, []);
  const read = readOwnPolicy(documents[0]!, 'v.yaml');
  return 'problems' in read ? read.problems.map(formatProblem) : [];
}

const refused: readonly (readonly [why: string, spec: string, problem: RegExp])[] = [
  ['no schema', 'mode: Report', /^v\.yaml:\d+:\d+: spec\.schema: /],
  ['an unknown mode', 'mode: Log\nschema: {}', /^v\.yaml:6:9: spec\.mode: /],
  [
    'an unknown dialect',
    'schema: { $schema: "http://json-schema.org/draft-04/schema#" }',
    /^v\.yaml:6:22: .*none of the dialects/,
  ],
  ['a misspelt keyword', 'schema:\n  type: object\n  propertys: {}', /^v\.yaml:8:16: .*unknown keyword 'propertys'/],
  [
    'a misspelt keyword deep inside',
    'schema:\n  properties:\n    a:\n      items: { maxLenght: 3 }',
    /^v\.yaml:9:29: .*unknown keyword 'maxLenght'/,
  ],
  ['a keyword of another dialect', 'schema: { nullable: true }', /nullable/],
  ['an unknown type', 'schema: { properties: { a: { type: text } } }', /^v\.yaml:6:\d+: .*not a valid JSON Schema/],
  [
    'an unknown format',
    'schema: { properties: { a: { format: date_time } } }',
    /^v\.yaml:6:40: .*the format 'date_time' is unknown/,
  ],
  [
    'a pattern that looks ahead',
    'schema:\n  properties:\n    a: { pattern: "^(?=x)" }',
    /^v\.yaml:8:21: .*'\^\(\?=x\)' cannot be evaluated in linear time/,
  ],
  [
    'a pattern that refers back',
    'schema: { patternProperties: { "(a)\\\\1": true } }'.replace('\\\\', '\\\\'),
    /linear time/,
  ],
  ['a pattern that is too expensive', 'schema: { pattern: "([a-z]{1,1000}[0-9]{1,1000})" }', /steps for a character/],
  ['a pattern that is none', 'schema: { pattern: "[a" }', /linear time/],
  [
    'a remote reference',
    'schema: { properties: { a: { $ref: "https://evil.test/x.json" } } }',
    /^v\.yaml:6:38: .*remote references are never fetched/,
  ],
  ['a remote reference without a scheme', 'schema: { $ref: "//evil.test/x" }', /never fetched/],
  ['a reference to nothing', 'schema: { $ref: "#/$defs/a" }', /spec\.schema: .*can't resolve reference/],
  [
    'a relative reference to another document',
    'schema: { $ref: "other.json" }',
    /spec\.schema: .*can't resolve reference/,
  ],
  ['an unknown field', 'schema: {}\nschemas: {}', /unknown key 'schemas'/],
  ['a limit that limits nothing', 'schema: {}\nbodyLimit: 5Gi', /is not a size up to 2Gi/],
];
for (const [why, spec, problem] of refused)
  t.test(`refused: ${why}`, async (t) => {
    const problems = problemsOf(spec);
    t.equal(problems.length, 1, problems.join('\n'));
    t.match(problems[0], problem);
  });

const accepted: Readonly<Record<string, string>> = {
  'an empty schema': 'schema: {}',
  'an extension': 'schema: { x-owner: me, properties: { a: { x-b: 1 } } }',
  'a property with the name of a keyword':
    'schema: { properties: { pattern: { type: string }, $ref: { type: string } } }',
  'an identifier, and references to it':
    'schema: { $id: "https://shop.test/order", $defs: { a: { $id: item, type: string } }, properties: { a: { $ref: "https://shop.test/item" }, b: { $ref: "#/$defs/a" } } }',
  'a dynamic reference': 'schema: { $dynamicAnchor: node, properties: { next: { $dynamicRef: "#node" } } }',
  'draft 7':
    'schema: { $schema: "http://json-schema.org/draft-07/schema#", definitions: { a: { type: string } }, items: [{ $ref: "#/definitions/a" }], additionalItems: false, dependencies: { a: [b] } }',
  'the dialect itself': 'schema: { $ref: "https://json-schema.org/draft/2020-12/schema" }',
  annotations:
    'schema: { title: t, description: d, examples: [1], default: 1, deprecated: true, readOnly: true, $comment: c }',
};
for (const [why, spec] of Object.entries(accepted))
  t.test(`accepted: ${why}`, async (t) => {
    t.strictSame(problemsOf(spec), []);
  });

t.test('null is a value in a schema', async (t) => {
  const text = `${head}  schema: { const: null, default: null }\n`;
  const { documents } = parseYaml(text, 'v.yaml');
  const { gateway } = readPlaced([{ file: 'v.yaml', document: documents[0]! }]);
  t.match(JSON.stringify(gateway.ownPolicies), /data !== null|must be equal to constant/);
});

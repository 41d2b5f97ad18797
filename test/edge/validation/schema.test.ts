// A RequestValidation as it is read: what is wrong with a schema is told with its place, and nothing of it is ignored.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { readPlaced } from '../../../sidecar/config/gateway-config.ts';
import { readOwnPolicy } from '../../../sidecar/documents/sallyport.ts';
import { ownKinds } from '../../fixtures/own-kinds.ts';

const head =
  'apiVersion: sallyport.dev/v1alpha1\nkind: RequestValidation\nmetadata: { name: v, namespace: shop }\nspec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]\n';

/** The problems of a spec, as lines. */
function problemsOf(spec: string): string[] {
  const { documents, problems } = parseYaml(head + spec.replace(/^(?=.)/gm, '  '), 'v.yaml');
  t.strictSame(problems, []);
  const read = readOwnPolicy(documents[0]!, 'v.yaml', ownKinds);
  return 'problems' in read ? read.problems.map(formatProblem) : [];
}

const refused: readonly (readonly [why: string, spec: string, problem: RegExp])[] = [
  ['no schema', 'mode: Report', /^v\.yaml:5:3: spec: needs exactly one of 'openapi' and 'schema'/],
  ['an unknown mode', 'mode: Log\nschema: {}', /^v\.yaml:6:9: spec\.mode: /],
  ['a file', 'openapi: ./openapi.yaml', /^v\.yaml:6:12: spec\.openapi: must be the document itself: files and URLs/],
  ['a version that YAML reads as a number', 'openapi: { openapi: 3.0, paths: {} }', /'3' is neither .*such as 3\.0\.4/],
  [
    'an unknown dialect',
    'schema: { $schema: "http://json-schema.org/draft-04/schema#" }',
    /^v\.yaml:6:22: .*neither the dialect/,
  ],
  ['a misspelt keyword', 'schema:\n  type: object\n  propertys: {}', /^v\.yaml:8:16: .*unknown keyword 'propertys'/],
  [
    'a misspelt keyword deep inside',
    'schema:\n  properties:\n    a:\n      items: { maxLenght: 3 }',
    /^v\.yaml:9:29: .*unknown keyword 'maxLenght'/,
  ],
  ['a keyword of another dialect', 'schema: { nullable: true }', /nullable/],
  [
    'an unknown type',
    'schema: { properties: { a: { type: text } } }',
    /^v\.yaml:6:\d+: .*not a valid JSON Schema: .*allowed values \(array, boolean, .*string\)/,
  ],
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
  ['an invalid pattern', 'schema: { pattern: "[a" }', /linear time/],
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
  ['a keyword of the compiler', 'schema: { $async: true }', /^v\.yaml:6:\d+: .*unknown keyword '\$async'/],
  [
    'a schema with too many levels',
    `schema: ${'{ items: '.repeat(800)}{}${' }'.repeat(800)}`,
    /more than 150 levels deep/,
  ],
  ['nullable beside a type', 'schema: { type: string, nullable: true }', /'nullable' is not a keyword/],
  [
    'unevaluatedItems beside contains',
    'schema: { contains: { type: string }, unevaluatedItems: false }',
    /cannot be evaluated beside 'contains'/,
  ],
  ['a property name that JavaScript reserves', 'schema: { properties: { __proto__: false } }', /'__proto__'/],
  ['a reference to its own schema', 'schema: { $ref: "#" }', /^v\.yaml:6:19: .*leads back to its own schema/],
  ['one in an allOf', 'schema: { allOf: [{ $ref: "#" }] }', /leads back to its own schema/],
  [
    'references in a cycle',
    'schema: { $defs: { a: { $ref: "#/$defs/b" }, b: { anyOf: [{ $ref: "#/$defs/a" }] } }, $ref: "#/$defs/a" }',
    /leads back to its own schema/,
  ],
  ['an unknown field', 'schema: {}\nschemas: {}', /unknown key 'schemas'/],
  ['a limit without an effect', 'schema: {}\nbodyLimit: 5Gi', /is not a size up to 2Gi/],
];
for (const [why, spec, problem] of refused)
  t.test(`refused: ${why}`, async (t) => {
    const problems = problemsOf(spec);
    t.equal(problems.length, 1, problems.join('\n'));
    t.match(problems[0], problem);
  });

const api = (rest: string, version = '3.1.0'): string =>
  `openapi:\n  openapi: ${version}\n  info: {}\n${rest.replace(/^(?=.)/gm, '  ')}`;
const body = (schema: string, version?: string): string =>
  api(`paths: { /: { post: { requestBody: { content: { application/json: { schema: ${schema} } } } } } }`, version);

const refusedApis: readonly (readonly [why: string, spec: string, problem: RegExp])[] = [
  ['another version', api('paths: { /: { get: {} } }', '"2.0"'), /^v\.yaml:7:14: .*'2\.0' is neither 3\.0 nor 3\.1/],
  ['no operation', api('paths: {}'), /^v\.yaml:9:12: .*has no operation/],
  ['a pattern that looks ahead', body('{ type: string, pattern: "(?=a)" }'), /^v\.yaml:9:106: .*linear time/],
  ['a remote reference', body('{ $ref: "https://evil.test/s.json" }'), /^v\.yaml:9:89: .*never fetched/],
  ['a remote file', api('paths: { /: { $ref: "./paths.yaml" } }'), /^v\.yaml:9:25: .*never fetched/],
  ['a reference to nothing', body('{ $ref: "#/components/schemas/A" }'), /leads nowhere/],
  ['a reference to what is inherited', body('{ $ref: "#/constructor" }'), /leads nowhere/],
  [
    'references in a cycle',
    api(
      'paths: { /: { post: { requestBody: { $ref: "#/components/requestBodies/A" } } } }\ncomponents: { requestBodies: { A: { $ref: "#/components/requestBodies/B" }, B: { $ref: "#/components/requestBodies/A" } } }',
    ),
    /form a cycle/,
  ],
  [
    'a misspelt keyword behind a reference',
    `${body('{ $ref: "#/components/schemas/A" }')}\n  components:\n    schemas:\n      A: { items: { maxLenght: 3 } }`,
    /^v\.yaml:12:34: .*unknown keyword 'maxLenght'/,
  ],
  ['a keyword of 3.0', body('{ type: string, nullable: true }'), /'nullable' is not a keyword/],
  [
    'schemas in a cycle',
    `${body('{ $ref: "#/components/schemas/A" }')}\n  components:\n    schemas:\n      A: { allOf: [{ $ref: "#/components/schemas/B" }] }\n      B: { $ref: "#/components/schemas/A" }`,
    /leads back to its own schema/,
  ],
  ['an identifier', body('{ $id: a, type: string }'), /'\$id' is not followed/],
  ['a variable without a parameter', api('paths: { "/{id}": { get: {} } }'), /'\{id\}' has no parameter/],
  ['two templates for the same', api('paths: { "/a/{x}": {}, "/a/{y}": {} }'), /matches the same requests/],
  ['a template without its end', api('paths: { "/{x": { get: {} } }'), /braces/],
  [
    'a style of another place',
    api('paths: { /: { get: { parameters: [{ in: query, name: a, style: matrix, schema: {} }] } } }'),
    /'matrix' is not a style/,
  ],
  [
    'a parameter twice',
    api('paths: { /: { get: { parameters: [{ in: header, name: a }, { in: header, name: A }] } } }'),
    /is defined twice/,
  ],
  [
    'a misspelt method',
    api('paths: { /: { get: {}, pst: {} } }'),
    /^v\.yaml:9:\d+: .*unknown field 'pst' of this path item/,
  ],
  [
    'a misspelt field of an operation',
    api('paths: { /: { get: { paramters: [] } } }'),
    /'paramters' of this operation/,
  ],
  [
    'misspelt fields of a shared parameter, once',
    api(
      'paths: { /: { parameters: [{ $ref: "#/components/parameters/a" }], get: {}, post: {} } }\ncomponents: { parameters: { a: { in: query, name: a, shema: {} } } }',
    ),
    /unknown field 'shema' of this parameter/,
  ],
  [
    'a misspelt field of a media type',
    body('{}').replace('schema:', 'shcema:'),
    /^v\.yaml:9:\d+: .*unknown field 'shcema' of this media type/,
  ],
  [
    "a reference to nothing in a path's parameters, once",
    api('paths: { "/{id}": { parameters: [{ $ref: "#/components/parameters/id" }], get: {}, put: {} } }'),
    /leads nowhere/,
  ],
  [
    'a security scheme that is not defined, at its use',
    api('paths: { /: { get: { security: [{ key: [] }] }, put: {} } }'),
    /^v\.yaml:9:\d+: .*the security scheme 'key' is not defined/,
  ],
  [
    'Swagger 2.0',
    api('paths: { /: { get: {} } }\ndefinitions: {}').replace('openapi: 3.1.0', 'swagger: "2.0"'),
    /^v\.yaml:7:\d+: .*Swagger 2\.0 is not supported: convert/,
  ],
  ['two types in OpenAPI 3.0', body('{ type: [integer, "null"] }', '3.0.3'), /^v\.yaml:9:\d+: .*has one type/],
  ['slashes in paths without a document', 'schema: {}\nescapedSlashes: Accept', /belongs to 'openapi'/],
  [
    'a media type twice',
    api('paths: { /: { post: { requestBody: { content: { "text/plain; v=1": {}, "text/plain; v=2": {} } } } } }'),
    /'text\/plain' is defined twice/,
  ],
  ['a base path alone', 'schema: {}\nbasePath: /a', /belongs to 'openapi'/],
];
for (const [why, spec, problem] of refusedApis)
  t.test(`refused: ${why}`, async (t) => {
    const problems = problemsOf(spec);
    t.equal(problems.length, 1, problems.join('\n'));
    t.match(problems[0], problem);
  });

t.test('parts that are not compared are reported', async (t) => {
  const { documents } = parseYaml(
    head +
      body('{ format: phone }')
        .replace('application/json', 'application/xml')
        .replace(/^(?=.)/gm, '  '),
    'v.yaml',
  );
  t.match(readOwnPolicy(documents[0]!, 'v.yaml', ownKinds), {
    warnings: [
      { line: 9, message: "the format 'phone' is unknown, and not compared" },
      {
        line: 9,
        message: "bodies of type 'application/xml' are accepted, and not compared with their schema",
      },
    ],
  });
});

t.test('a header that a gateway sets itself is reported', async (t) => {
  for (const [name, count] of [
    ['X-Request-Id', 1],
    ['X-Forwarded-For', 1],
    ['X-Trace', 0],
  ] as const) {
    const spec = api(`paths: { /: { get: { parameters: [{ in: header, name: ${name}, schema: {} }] } } }`);
    const { documents } = parseYaml(head + spec.replace(/^(?=.)/gm, '  '), 'v.yaml');
    const read = readOwnPolicy(documents[0]!, 'v.yaml', ownKinds) as {
      readonly warnings: readonly { message: string }[];
    };
    t.equal(read.warnings.length, count);
    if (count === 1) t.match(read.warnings[0], { line: 9, message: `sets or removes '${name}'` });
  }
});

const accepted: Readonly<Record<string, string>> = {
  'an empty schema': 'schema: {}',
  'an extension': 'schema: { x-owner: me, properties: { a: { x-b: 1 } } }',
  'a property with the name of a keyword':
    'schema: { properties: { pattern: { type: string }, $ref: { type: string } } }',
  'an identifier, and references to it':
    'schema: { $id: "https://shop.test/order", $defs: { a: { $id: item, type: string } }, properties: { a: { $ref: "https://shop.test/item" }, b: { $ref: "#/$defs/a" } } }',
  'a cycle with a step into the value':
    'schema: { properties: { next: { $ref: "#" } }, items: { anyOf: [{ $ref: "#" }, { type: string }] } }',
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
  const { gateway } = readPlaced([{ file: 'v.yaml', document: documents[0]! }], ownKinds);
  t.match(JSON.stringify(gateway.ownPolicies), /data !== null|must be equal to constant/);
});

t.test('a parameter for a variable that the path does not have is reported', async (t) => {
  const parameters = '[{ in: path, name: id, required: true, schema: { type: integer } }]';
  const spec = `openapi:\n  openapi: 3.1.0\n  paths:\n    /orders:\n      get: { parameters: ${parameters} }`;
  const { documents } = parseYaml(head + spec.replace(/^(?=.)/gm, '  '), 'v.yaml');
  const read = readOwnPolicy(documents[0]!, 'v.yaml', ownKinds);
  t.match(read, { warnings: [{ line: 10, message: "get /orders: the path has no '{id}' for its parameter" }] });
});

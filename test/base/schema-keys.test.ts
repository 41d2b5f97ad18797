// A key that is unknown where it is and known elsewhere in its schema: the hint names that place. Most often a line is
// indented wrongly.

import t from 'tap';
import { z } from 'zod';
import { formatProblem } from '../../cert-agent/base/errors.ts';
import { keysAt, whereItBelongs } from '../../cert-agent/base/schema-keys.ts';
import { parseYaml, readDocument } from '../../cert-agent/base/yaml.ts';
import { checkDocuments } from '../../sidecar/analyze/check.ts';

const port = z.strictObject({ port: z.number(), tls: z.strictObject({ mode: z.string() }).optional() });
const schema = z.strictObject({
  name: z.string(),
  inbound: z.array(port),
  upstreams: z.record(z.string(), z.strictObject({ identity: z.string() })),
  spec: z
    .strictObject({
      rules: z.array(
        z.union([z.strictObject({ deep: z.strictObject({ deepest: z.string() }) }), z.strictObject({ flat: port })]),
      ),
      left: z.strictObject({ same: z.string() }),
      middle: z.strictObject({ same: z.string(), twice: z.string() }),
      right: z.strictObject({ same: z.string(), twice: z.string() }),
    })
    .optional(),
});

t.test('the nearest place is named, through lists, maps, unions and wrappers', async (t) => {
  for (const [path, key, hint] of [
    [[], 'rules', "'rules' belongs under 'spec'"],
    [['spec', 'rules', 0], 'left', "'left' belongs under 'spec'"],
    [['spec', 'rules', 0], 'deepest', "'deepest' belongs under 'spec.rules[].deep'"],
    [['spec'], 'name', "'name' belongs at the top level"],
    [[], 'port', "'port' belongs under 'inbound[]'"],
    [['spec'], 'port', "'port' belongs under 'inbound[]' or under 'spec.rules[].flat'"],
    [[], 'identity', "'identity' belongs under 'upstreams.*'"],
    [['spec'], 'twice', "'twice' belongs under 'spec.middle' or under 'spec.right'"],
    [['spec'], 'same', undefined],
    [['inbound', 0, 'tls'], 'deepest', undefined],
    [[], 'nowhere', undefined],
    [[], 'constructor', undefined],
  ] as const)
    t.equal(whereItBelongs(schema, path, key), hint, `${path.join('.')} ${key}`);
  t.strictSame([...keysAt(schema, ['spec', 'rules', 0])], ['deep', 'flat']);
});

t.test('a file of wrong keys gets such hints for the first ones only', async (t) => {
  const text = Array.from({ length: 50 }, (_, i) => `kind: x${i}\nport: 1`).join('\n---\n');
  const { documents: parsed } = parseYaml(text, 'x.yaml');
  const hints = parsed.flatMap((one) => {
    const read = readDocument(z.strictObject({ kind: z.string(), inbound: z.array(port) }).partial(), one);
    return 'problems' in read ? read.problems.map(({ hint }) => hint) : [];
  });
  t.equal(hints.length, 50, 'each is a problem');
  t.strictSame(
    hints.filter((one) => one !== undefined),
    Array(20).fill("'port' belongs under 'inbound[]'"),
  );
});

const documents = {
  AuthorizationPolicy: 'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n',
  HTTPRoute: 'apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n',
  settings:
    'trustDomain: a.test\nidentity: { ca: { url: "https://127.0.0.1:1", bundle: a, tokenFile: b, outDir: c } }\nworkload: { namespace: a, serviceAccount: b }\n',
};

t.test('lines with the wrong indentation are told where they belong', async (t) => {
  for (const [kind, rest, ...expected] of [
    [
      'AuthorizationPolicy',
      'metadata:\n  name: a\n  rules: []',
      "a.yaml:5:3: unknown key 'rules' ('rules' belongs under 'spec')",
    ],
    [
      'AuthorizationPolicy',
      'metadata: { name: a }\nselector: {}\nspec: {}',
      "a.yaml:4:1: unknown key 'selector' ('selector' belongs under 'spec')",
    ],
    [
      'AuthorizationPolicy',
      'metadata: { name: a }\nspec:\n  rules:\n    - from: [{ source: { principals: [a] } }]\n      action: DENY',
      "a.yaml:7:7: unknown key 'action' ('action' belongs under 'spec')",
    ],
    [
      'HTTPRoute',
      'metadata:\n  name: a\n  hostnames: [a.test]\nspec: {}',
      "a.yaml:5:3: unknown key 'hostnames' ('hostnames' belongs under 'spec')",
    ],
    [
      'HTTPRoute',
      'metadata: { name: a }\nspec: { matches: [] }',
      "a.yaml:4:9: unknown key 'matches' ('matches' belongs under 'spec.rules[]')",
    ],
    ['settings', 'app: 127.0.0.1:80', "a.yaml:4:1: unknown key 'app' ('app' belongs under 'inbound[]')"],
  ] as const) {
    const { problems } = await checkDocuments([{ file: 'a.yaml', text: `${documents[kind]}${rest}\n` }]);
    const [first] = problems.map(formatProblem).filter((text) => text.includes('unknown key'));
    t.equal(first, expected[0]);
  }
});

t.test('what Kubernetes itself writes into metadata is not in the way', async (t) => {
  const metadata =
    'metadata: { name: a, labels: { a: b }, uid: a, resourceVersion: "1", generation: 1, finalizers: [], ownerReferences: [], managedFields: [] }\n';
  for (const rest of [`${documents.AuthorizationPolicy}${metadata}`, `${documents.HTTPRoute}${metadata}spec: {}\n`])
    t.match(await checkDocuments([{ file: 'a.yaml', text: rest }]), { checked: 1, problems: [] });
});

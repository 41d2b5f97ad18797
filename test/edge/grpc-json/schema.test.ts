// What is refused when a GRPCJSONTranscoding is loaded, and where it says it is.

import t from 'tap';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { readOwnPolicy } from '../../../sidecar/documents/sallyport.ts';
import { base64Of, descriptorSet, type Method, methods, type Rule } from '../../fixtures/descriptor-set.ts';
import { ownKinds } from '../../fixtures/own-kinds.ts';

const problemsOf = (set: string, more = 'services: [shop.v1.Orders]'): string[] => {
  const text = `apiVersion: sallyport.dev/v1alpha1
kind: GRPCJSONTranscoding
metadata: { name: a, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  ${more}
  protoDescriptorBin: ${set}
`;
  const read = readOwnPolicy(parseYaml(text, 'a.yaml').documents[0]!, 'a.yaml', ownKinds);
  return 'problems' in read
    ? read.problems.map(({ line, column, message }) => `${line}:${column} ${message.replace(/^spec\.[\w[\].]+: /, '')}`)
    : [];
};

const withRule = (rule: Rule, name = 'Get'): string => {
  const [input, output] = methods[name]!;
  return base64Of(descriptorSet({ [name]: [input, output, rule] as Method }));
};

t.test('a valid descriptor set is read', async (t) => {
  t.strictSame(problemsOf(base64Of()), []);
  t.strictSame(problemsOf(`"${base64Of().replace(/.{76}/g, '$& ')}"`), [], 'folded as base64 folds');
});

t.test('a descriptor set that is truncated anywhere is refused', async (t) => {
  const bytes = Buffer.from(base64Of(), 'base64');
  for (let length = 1; length < bytes.length; length += 97) {
    const [problem, ...others] = problemsOf(bytes.subarray(0, length).toString('base64'));
    t.match(problem, /^(?:7:23 |6:14 )/, `${length} bytes`);
    t.ok(others.length < 2);
  }
  t.match(problemsOf('"*"'), ['7:23 not base64']);
  t.match(problemsOf('""'), ["6:14 the descriptor set has no service 'shop.v1.Orders'"]);
});

t.test('a descriptor set with false references is refused', async (t) => {
  const without = descriptorSet();
  without.file = without.file.filter(({ name }) => name !== 'google/protobuf/timestamp.proto');
  t.match(problemsOf(base64Of(without)), [/^7:23 not a descriptor set: /]);
  const wrong = descriptorSet();
  wrong.file.at(-1)!.service[0]!.method[0]!.inputType = '.shop.v1.None';
  t.match(problemsOf(base64Of(wrong)), [/^7:23 not a descriptor set: /]);
  t.strictSame(problemsOf(base64Of(), 'services: [shop.v1.Orders, shop.v1.None]'), [
    "6:30 the descriptor set has no service 'shop.v1.None'",
  ]);
});

const rules: readonly (readonly [rule: Rule, message: string])[] = [
  [{ get: 'v1' }, "'v1' is not a path template"],
  [{ get: '/' }, "'/' is not a path template"],
  [{ get: '/v1//a' }, "'/v1//a': '' is not a segment"],
  [{ get: '/v1/{id' }, "'/v1/{id': '{id' is not a segment"],
  [{ get: '/v1/{id}x' }, "'/v1/{id}x': 'x' follows a variable"],
  [{ get: '/v1/a*' }, "'/v1/a*': 'a*' is not a segment"],
  [{ get: '/v1/{name=**}/a' }, "'/v1/{name=**}/a': nothing may follow **"],
  [{ get: '/v1/{none}' }, "'/v1/{none}': shop.v1.Query has no field 'none'"],
  [{ get: '/v1/{order.none}' }, "'/v1/{order.none}': shop.v1.Query has no field 'order.none'"],
  [{ get: '/v1/{order}' }, "'/v1/{order}': the field 'order' cannot be a part of a path"],
  [{ get: '/v1/{numbers}' }, "'/v1/{numbers}': the field 'numbers' cannot be a part of a path"],
  [{ get: '/v1/{id}/{id}' }, "'/v1/{id}/{id}': 'id' is bound twice"],
  [{ post: '/v1', body: 'none' }, "body: shop.v1.Query has no field 'none'"],
  [{ get: '/v1', responseBody: 'none' }, "response_body: shop.v1.Order has no field 'none'"],
  [{}, 'google.api.http without a method and a path'],
  [{ get: '/v1', more: [{ get: '/v2', more: [{ get: '/v3' }] }] }, 'additional_bindings must not be nested'],
  [{ get: '/v1/{id}', more: [{ get: '/v1/{name}' }] }, "'GET /v1/{name}' also matches /shop.v1.Orders/Get"],
  [{ get: '/v1/{name=a/*}', more: [{ get: '/v1/a/*' }] }, "'GET /v1/a/*' also matches /shop.v1.Orders/Get"],
];

for (const [rule, message] of rules)
  t.test(JSON.stringify(rule), async (t) => {
    t.strictSame(problemsOf(withRule(rule)), [`7:23 shop.v1.Orders.Get: ${message}`]);
  });

t.test('two methods for one request are refused', async (t) => {
  const twice = { ...methods, Other: ['Query', 'Order', { get: '/v1/orders/{name}' }] as Method };
  t.strictSame(problemsOf(base64Of(descriptorSet(twice))), [
    "7:23 shop.v1.Orders.Other: 'GET /v1/orders/{name}' also matches /shop.v1.Orders/Get",
  ]);
});

t.test('contradictory options are refused', async (t) => {
  const print = (options: string): string[] =>
    problemsOf(base64Of(), `services: [shop.v1.Orders]\n  printOptions: { ${options} }`);
  t.match(print('streamNewlineDelimited: true, streamSseStyleDelimited: true'), [
    '7:17 a stream is delimited in one way',
  ]);
  t.match(print('streamNewlineDelimited: true, addWhitespace: true'), [
    '7:17 addWhitespace cannot be combined with delimited streams',
  ]);
});

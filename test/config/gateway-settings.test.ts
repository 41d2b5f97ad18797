// gateway.yaml and its documents: each problem with file, line and column.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { documentOf } from '../fixtures/plan.ts';
import { tempDir } from '../fixtures/process.ts';

const gateway = documentOf(
  'Gateway',
  'g',
  '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP }] }',
);
const identity =
  'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\n';

const refusals: [name: string, documents: string, yaml: string, expected: RegExp][] = [
  [
    'an unknown key of gateway.yaml',
    gateway,
    'backend: {}\n',
    /gateway\.yaml:5:1: unknown key 'backend' \(did you mean 'backends'\?\)/,
  ],
  [
    'a backend without an upstream',
    gateway,
    'backends: { shop/a:80: b }\n',
    /gateway\.yaml:5:\d+: backends.*there is no upstream 'b'/,
  ],
  ['a backend with an invalid reference', gateway, 'backends: { a: b }\n', /gateway\.yaml:5:\d+: .*backends/],
  [
    'two listeners at one address',
    gateway,
    'listeners: { a/b:80: "127.0.0.1:1", a/c:80: "127.0.0.1:1" }\n',
    /gateway\.yaml:5:\d+: .*127\.0\.0\.1:1 is already the address of a\/b:80/,
  ],
  [
    'an upstream that points back to the gateway',
    gateway,
    'listeners: { a/b:80: "0.0.0.0:8080" }\nupstreams: { a: { endpoints: ["127.0.0.1:8080"] } }\n',
    /gateway\.yaml:6:\d+: .*requests would loop for ever/,
  ],
  [
    'an admin port on all addresses',
    gateway,
    'admin: 0.0.0.0:15000\n',
    /gateway\.yaml:5:\d+: .*'0\.0\.0\.0' is not loopback/,
  ],
  ['a document that is not YAML', 'kind: [\n', '', /all\.yaml:\d+:\d+: /],
  [
    'a policy of a kind that a gateway does not serve',
    'apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurtyPolicy\nmetadata: { name: a }\n',
    '',
    /all\.yaml:2:7: kind SecurtyPolicy is not served by a gateway \(did you mean 'SecurityPolicy'\?\)/,
  ],
  [
    'a policy of a mesh',
    'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: a }\nspec: {}\n',
    '',
    /all\.yaml:2:7: kind AuthorizationPolicy is not served by a gateway/,
  ],
];

for (const [name, documents, yaml, expected] of refusals)
  t.test(name, async (t) => {
    const dir = tempDir(t);
    mkdirSync(join(dir, 'documents'));
    writeFileSync(join(dir, 'documents', 'all.yaml'), documents);
    writeFileSync(join(dir, 'gateway.yaml'), `${identity}documents: documents/\n${yaml}`);
    try {
      await readStatus(join(dir, 'gateway.yaml'), Date.now());
      t.fail('the document was read');
    } catch (error) {
      if (!(error instanceof SallyportError)) throw error;
      t.equal(error.code, 'config_invalid');
      t.match(error.problems.map(formatProblem).join('\n'), expected);
    }
  });

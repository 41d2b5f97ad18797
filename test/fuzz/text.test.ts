// All text formats of people and peers: the result is a value, or a refusal with a code and a position.

import assert from 'node:assert/strict';
import t from 'tap';
import { formatAddress, parseAddress } from '../../cert-agent/base/address.ts';
import { formatDuration, parseDuration } from '../../cert-agent/base/clock.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { formatBundle, parseBundle } from '../../cert-agent/identity/bundle.ts';
import { formatDenyList, parseDenyList } from '../../cert-agent/identity/denied.ts';
import { parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { parseIstio } from '../../sidecar/documents/istio/read.ts';
import { normalizePath } from '../../sidecar/policy/path.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import { createAuthority } from '../fixtures/pki.ts';
import type { Random } from '../fixtures/random.ts';

const mutated = (seeds: readonly string[]) => (random: Random) =>
  mutate(random, Buffer.from(random.pick(seeds))).toString('latin1');

fuzz(
  t,
  'a path has one normal form',
  mutated(['/a/b?c=d', '/a/./b/../c', '/%61/%2e%2e/%2F', '/a\\b', '/public/..%2fadmin', '/', '/a%00', '//a//b/']),
  (text) => {
    const normal = normalizePath(`/${text}`);
    assert.equal(normalizePath(normal), normal);
    const path = normal.split('?')[0]!;
    assert.doesNotMatch(path, /\\|\/\.{1,2}(\/|$)|%00|%2[dDeE]|[^\x21-\x7e]|#/);
    assert.ok(path.startsWith('/'));
  },
  ['path_invalid'],
);

fuzz(
  t,
  'an address is written as it is read',
  mutated(['127.0.0.1:80', '[::1]:443', 'unix:/run/a.sock', 'orders:15006', ':15001', '15000']),
  (text) => {
    const address = parseAddress(text, '127.0.0.1');
    assert.deepEqual(parseAddress(formatAddress(address), '127.0.0.1'), address);
    if ('port' in address) assert.ok(address.port >= 0 && address.port <= 65_535);
  },
  ['config_invalid'],
);

fuzz(
  t,
  'a SPIFFE ID is itself',
  mutated(['spiffe://demo.test/ns/shop/sa/web', 'SPIFFE://demo.test', 'spiffe://a.b_c-d/x.y']),
  (text) => {
    const id = parseSpiffeId(text);
    assert.deepEqual(parseSpiffeId(id.uri), id);
    assert.match(id.uri, /^spiffe:\/\/[a-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/);
    assert.doesNotMatch(id.path, /\/\.{1,2}(\/|$)/);
  },
  ['spiffe_id_invalid'],
);

fuzz(t, 'a duration', mutated(['500ms', '1h30m', '10s', '7d', '1.5s']), (text) => {
  const ms = parseDuration(text);
  if (ms === undefined) return;
  assert.ok(Number.isSafeInteger(ms) && ms >= 0);
  assert.notEqual(formatDuration(ms), '');
});

const settings = `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders, labels: { app: orders } }
identity: { files: { svid: a.pem, key: a.key, bundle: b.pem } }
inbound:
  - { port: 15006, app: 127.0.0.1:8080, protocol: http }
outbound: [{ port: 15001 }]
upstreams:
  web: { endpoints: [web:15006], identity: spiffe://demo.test/ns/shop/sa/web }
policies: policies/
limits: { head: 10s, connections: 100 }
`;

fuzz(t, 'sidecar.yaml', mutated([settings]), (text) => {
  const read = expectProblems(text, () => parseSettings(text, 'sidecar.yaml'));
  if (read !== undefined) assert.ok(Object.isFrozen(read));
});

const policy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: a, namespace: shop }
spec:
  selector: { matchLabels: { app: orders } }
  action: ALLOW
  rules:
  - from: [{ source: { principals: ["cluster.local/ns/shop/sa/web"] } }]
    to: [{ operation: { methods: ["GET"], paths: ["/a*"], notPorts: ["80"] } }]
`;

fuzz(t, 'an AuthorizationPolicy', mutated([policy, `${policy}---\n${policy}`]), (text) => {
  const read = expectProblems(text, () => parseIstio([{ file: 'policy.yaml', text }]));
  for (const one of read?.authorizationPolicies ?? []) {
    assert.ok(one.name !== '' && one.namespace !== '');
    assert.ok(one.action === 'ALLOW' || one.action === 'DENY');
  }
});

const { bundle } = await createAuthority('demo.test');
const list = { sequence: 3, time: Date.now(), serials: new Set(['0a0b']), ids: new Set(['spiffe://demo.test/a']) };

fuzz(
  t,
  'a trust bundle is never empty',
  mutated([JSON.stringify(formatBundle(bundle))]),
  (text) => assert.ok(parseBundle(text, 'demo.test', 'bundle.json').roots.length > 0),
  ['bundle_invalid', 'bundle_empty', 'certificate_unreadable'],
);

fuzz(
  t,
  'a deny list',
  mutated([JSON.stringify(formatDenyList(list))]),
  (text) => {
    const { sequence, serials } = parseDenyList(text, 'denied.json');
    assert.ok(sequence >= 0);
    for (const serial of serials) assert.equal(serial, serial.toLowerCase());
  },
  ['bundle_invalid'],
);

/** The result of `read`, or undefined if it refused with problems that each have a position in `text` and a message. */
function expectProblems<T>(text: string, read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof SallyportError) || error.code !== 'config_invalid') throw error;
    const lines = text.split('\n').length;
    assert.ok(error.problems.length > 0, 'a refusal without a problem');
    for (const { line, column, message } of error.problems) {
      assert.ok(line >= 1 && line <= lines && column >= 1, `${line}:${column} of ${lines} lines`);
      assert.match(message, /\w/);
    }
    return undefined;
  }
}

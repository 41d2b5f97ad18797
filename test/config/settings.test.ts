// sidecar.yaml: its values, and every way in which it can be wrong, with positions.

import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';

const good = `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders, labels: { app: orders } }
identity: { files: { svid: svid.pem, key: svid.key, bundle: bundle.pem } }
inbound:
  - { port: 15006, app: 127.0.0.1:8080 }
outbound:
  - { port: 15001 }
  - { port: 5432, upstream: db, protocol: tcp }
upstreams:
  db: { endpoints: ["db:15006", "[::1]:15006", "unix:/run/db.sock"], identity: spiffe://demo.test/ns/shop/sa/db, hosts: [db.shop.svc] }
policies: policies/
admin: 15000
health: 15021
`;

t.test('valid settings are read', async (t) => {
  const settings = parseSettings(good, '/etc/sallyport/sidecar.yaml');
  t.match(settings, {
    trustDomain: 'demo.test',
    policies: '/etc/sallyport/policies',
    identity: { files: { svid: '/etc/sallyport/svid.pem' } },
    admin: { host: '127.0.0.1', port: 15_000 },
    defaultAction: 'deny',
    tls: { minVersion: 'TLSv1.3', groups: ['X25519MLKEM768', 'X25519', 'P-256'] },
    limits: {
      headBytes: 61_440,
      headFields: 100,
      headMs: 10_000,
      streamIdleMs: 300_000,
      streamStallMs: 60_000,
      tcpIdleMs: 3_600_000,
      drainMs: 5000,
      drainMinimumMs: 5000,
    },
  });
  t.equal(settings.inbound[0]?.policyPort, 8080, 'policies see the port of the app');
  t.strictSame(settings.upstreams['db']?.endpoints, [
    { host: 'db', port: 15_006 },
    { host: '::1', port: 15_006 },
    { path: '/run/db.sock' },
  ]);
  t.ok(Object.isFrozen(settings) && Object.isFrozen(settings.limits));
});

/** Name, change to the valid text, and how each problem begins. */
const wrong: [string, (text: string) => string, string[]][] = [
  ['malformed YAML', (text) => text.replace('outbound:', 'outbound: ['), ['x.yaml:']],
  ['an empty file', () => '', ['x.yaml:1:1: the file is empty']],
  [
    'an unknown key',
    (text) => text.replace('policies:', 'polices:'),
    ["x.yaml:11:1: unknown key 'polices' (did you mean 'policies'?)"],
  ],
  [
    'an unknown key deep inside',
    (text) => text.replace('namespace: shop', 'namespce: shop'),
    ["x.yaml:2:13: unknown key 'namespce' (did you mean 'namespace'?)"],
  ],
  [
    'a wrong type',
    (text) => text.replace('port: 15006', 'port: "15006"'),
    ['x.yaml:5:13: inbound[0].port: invalid input: expected number, received string'],
  ],
  ['a duplicate key', (text) => `${text}admin: 1\n`, ['x.yaml:14:1: Map keys must be unique']],
  [
    'an upstream with the name of an inherited property',
    (text) => text.replace('upstream: db', 'upstream: constructor'),
    ["x.yaml:8:29: outbound[1].upstream: there is no upstream 'constructor'"],
  ],
  [
    'an authorizer in plaintext',
    (text) => `${text}extensionProviders: [{ name: a, envoyExtAuthzHttp: { service: authz.shop, port: 80 } }]\n`,
    [
      "x.yaml:14:63: extensionProviders[0].envoyExtAuthzHttp.service: 'authz.shop' is neither an upstream nor loopback: it would receive requests in the clear",
    ],
  ],
  [
    'an authorizer that fails open',
    (text) =>
      `${text}extensionProviders: [{ name: a, envoyExtAuthzGrpc: { service: db, port: 80, failOpen: true } }]\n`,
    [
      'x.yaml:14:87: extensionProviders[0].envoyExtAuthzGrpc.failOpen: without a response from the authorizer, requests are refused: it cannot fail open',
    ],
  ],
  [
    'an authorizer without a form',
    (text) => `${text}extensionProviders: [{ name: a }]\n`,
    ["x.yaml:14:22: extensionProviders[0]: needs exactly one of 'envoyExtAuthzHttp' and 'envoyExtAuthzGrpc'"],
  ],
  [
    'an authorizer that would get the body',
    (text) =>
      `${text}extensionProviders: [{ name: a, envoyExtAuthzGrpc: { service: db, port: 80, includeRequestBodyInCheck: {} } }]\n`,
    ["x.yaml:14:77: unknown key 'includeRequestBodyInCheck'"],
  ],
  [
    'headers that cannot be sent to an authorizer',
    (text) =>
      `${text}extensionProviders: [{ name: a, envoyExtAuthzHttp: { service: db, port: 80, includeAdditionalHeadersInCheck: { host: x, y: "a\\nb", z: fine } } }]\n`,
    [
      "x.yaml:14:118: extensionProviders[0].envoyExtAuthzHttp.includeAdditionalHeadersInCheck.host: 'host' with this value cannot be sent",
      "x.yaml:14:124: extensionProviders[0].envoyExtAuthzHttp.includeAdditionalHeadersInCheck.y: 'y' with this value cannot be sent",
    ],
  ],
  [
    'two authorizers of one name',
    (text) =>
      `${text}extensionProviders: [{ name: a, envoyExtAuthzGrpc: { service: db, port: 80 } }, { name: a, envoyExtAuthzGrpc: { service: localhost, port: 80 } }]\n`,
    ["x.yaml:14:89: extensionProviders[1].name: two extension providers are named 'a'"],
  ],
  [
    'an unknown path normalisation',
    (text) => `${text}pathNormalization: { normalization: SOME }\n`,
    ['x.yaml:14:37: pathNormalization.normalization: invalid option'],
  ],
  [
    'trusted proxies without number',
    (text) => `${text}gatewayTopology: { numTrustedProxies: many }\n`,
    ['x.yaml:14:39: gatewayTopology.numTrustedProxies: invalid input: expected number'],
  ],
  [
    'a port used twice',
    (text) => text.replace('port: 5432', 'port: 15001'),
    ['x.yaml:8:13: outbound[1].port: port 15001 is already used by outbound[0]'],
  ],
  [
    'an unknown upstream',
    (text) => text.replace('upstream: db', 'upstream: dbs'),
    ["x.yaml:8:29: outbound[1].upstream: there is no upstream 'dbs'"],
  ],
  [
    'a tcp port without upstream',
    (text) => text.replace('upstream: db, ', ''),
    ["x.yaml:8:5: outbound[1].upstream: a tcp port needs 'upstream': TCP has no Host to choose by"],
  ],
  [
    'an identity that is not a SPIFFE ID',
    (text) => text.replace('identity: spiffe://demo.test/ns/shop/sa/db', 'identity: none'),
    ["x.yaml:10:80: upstreams.db.identity: 'none'"],
  ],
  [
    'a host of two upstreams',
    (text) =>
      text.replace(
        'policies:',
        '  web: { endpoints: ["a:1"], identity: spiffe://demo.test/w, hosts: [DB] }\npolicies:',
      ),
    ["x.yaml:11:8: upstreams.web: the host 'DB' already means upstream 'db'"],
  ],
  [
    'an identity by agent',
    (text) => text.replace(/identity: .*\n/, 'identity: { agent: "unix:///run/agent.sock" }\n'),
    [
      "x.yaml:3:20: identity.agent: this needs the SPIFFE Workload API, which this build does not have yet: use 'files:' or 'ca:'",
    ],
  ],
  [
    'two identities',
    (text) => text.replace('identity: {', 'identity: { ca: { url: "https://ca:1", bundle: b, outDir: d },'),
    ["x.yaml:3:11: identity: needs exactly one of 'files:' and 'ca:'"],
  ],
  [
    'a CA URL that is not https',
    (text) => text.replace(/identity: .*\n/, 'identity: { ca: { url: "http://ca:1", bundle: b, outDir: d } }\n'),
    ['x.yaml:3:24: identity.ca.url: expected an https:// URL'],
  ],
  [
    'a bad trust domain',
    (text) => text.replace('demo.test\n', 'Demo.Test\n'),
    [
      "x.yaml:1:14: trustDomain: 'Demo.Test' is not a SPIFFE ID: the trust domain 'Demo.Test' may contain only a-z, 0-9, dot, dash and underscore",
    ],
  ],
  [
    'a bad duration',
    (text) => `${text}limits: { head: 10 sec }\n`,
    ["x.yaml:14:17: limits.head: '10 sec' is not a duration: write 500ms, 10s, 5m, 1h or 1h30m"],
  ],
  [
    'a bad address',
    (text) => text.replace('"[::1]:15006"', '"::1:15006"'),
    [
      "x.yaml:10:33: upstreams.db.endpoints[1]: '::1:15006' is not an address: expected host:port, [v6]:port or unix:path",
    ],
  ],
  [
    'an outbound port that other hosts can reach',
    (text) => text.replace('port: 15001', 'port: 15001, bind: 0.0.0.0'),
    [
      "x.yaml:7:26: outbound[0].bind: '0.0.0.0' is not loopback, and everyone who can connect to this port speaks as this workload",
    ],
  ],
  [
    'an admin port that other hosts can reach',
    (text) => text.replace('admin: 15000', 'admin: "[::]:15000"'),
    ["x.yaml:12:8: admin: '::' is not loopback: use 'health' for what others may see"],
  ],
  [
    'an upstream of another trust domain',
    (text) => text.replace('identity: spiffe://demo.test', 'identity: spiffe://other.test'),
    ["x.yaml:10:80: upstreams.db.identity: there is no bundle for other.test: name its file under 'federatedBundles'"],
  ],
  [
    'nothing to do',
    (text) => text.replace(/inbound:[\s\S]*?upstreams:/, 'upstreams:'),
    ["x.yaml:1:1: nothing to do: neither 'inbound' nor 'outbound' names a port"],
  ],
  [
    'several at once',
    (text) => text.replace('shop,', '1,').replace('admin: 15000', 'admin: 70000'),
    ['x.yaml:2:24: workload.namespace: invalid input: expected string, received number', 'x.yaml:12:8: admin'],
  ],
];

for (const [name, change, expected] of wrong) {
  t.test(name, async (t) => {
    try {
      parseSettings(change(good), 'x.yaml');
      t.fail('the value was accepted');
    } catch (error) {
      t.ok(error instanceof SallyportError);
      t.equal((error as SallyportError).code, 'config_invalid');
      const found = (error as SallyportError).problems.map(formatProblem);
      for (const [index, start] of expected.entries())
        t.ok(found[index]?.startsWith(start), `${found[index]} begins with ${start}`);
      if (name !== 'malformed YAML') t.equal(found.length, expected.length, found.join('\n'));
    }
  });
}

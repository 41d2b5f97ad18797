// Upstreams from Services and EndpointSlices, and documents that are ours: tables, without sockets.

import { networkInterfaces } from 'node:os';
import t from 'tap';
import { parseGatewaySettings } from '../../../sidecar/config/gateway-settings.ts';
import { withServices } from '../../../sidecar/config/kubernetes/backends.ts';
import { oursOf, type ReadObject } from '../../../sidecar/config/kubernetes/place.ts';
import { kubernetesDocuments, readKubernetesSettings } from '../../../sidecar/config/kubernetes/settings.ts';

type Tree = Readonly<Record<string, unknown>>;

const read = (kind: string, name: string, value: Tree): ReadObject => ({
  object: { kind, name, namespace: 'shop', text: '', resourceVersion: '1', status: undefined, weight: 0 },
  value: { kind, metadata: { name, namespace: 'shop' }, ...value },
});
const settings = parseGatewaySettings(
  'trustDomain: demo.test\nworkload: { serviceAccount: g }\nidentity: { files: { svid: a, key: b, bundle: c } }\ndocuments: { kubernetes: { url: "https://api.test" } }\nupstreams: { own: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/own:80: own }\n',
  '/etc/gateway.yaml',
);
const route = read('HTTPRoute', 'r', {
  spec: { rules: [{ backendRefs: ['web', 'own', 'out', 'named'].map((name) => ({ name, port: 80 })) }] },
});
const service = (name: string, spec: Tree, annotations: Tree = {}): ReadObject =>
  read('Service', name, { metadata: { name, namespace: 'shop', annotations }, spec });
const slice = (of: string, value: Tree): ReadObject =>
  read('EndpointSlice', `${of}-1`, {
    metadata: { labels: { 'kubernetes.io/service-name': of } },
    addressType: 'IPv4',
    ports: [{ port: 8080 }],
    ...value,
  });
const look = (...objects: ReadObject[]) => withServices([route, ...objects], settings, settings.gateway!.kubernetes!);

t.test('what a Service of one port gets', async (t) => {
  const one = look(
    service('web', { ports: [{ port: 80 }] }),
    slice('web', { endpoints: [{ addresses: ['10.0.0.1'] }] }),
  );
  t.match(one.settings.gateway, {
    backends: { 'shop/web:80': 'shop/web:80', 'shop/own:80': 'own' },
    outside: { 'shop/web:80': { endpoints: [{ host: '10.0.0.1', port: 8080 }], unsafePlaintext: false } },
  });
  t.strictSame(one.settings.upstreams, {});
});

t.test('an identity makes it a peer', async (t) => {
  const slices = slice('web', { endpoints: [{ addresses: ['10.0.0.1'] }] });
  const spec = { ports: [{ port: 80 }] };
  const lookAs = (text: string) => look(service('web', spec, { 'sallyport.dev/identity': text }), slices);
  t.match(lookAs('spiffe://demo.test/ns/shop/sa/web, spiffe://demo.test/ns/shop/sa/new').settings.upstreams, {
    'shop/web:80': {
      identity: ['spiffe://demo.test/ns/shop/sa/web', 'spiffe://demo.test/ns/shop/sa/new'],
      hosts: ['web.shop.svc.cluster.local'],
    },
  });
  for (const [text, pattern] of [
    ['web', /sallyport\.dev\/identity/],
    ['', /sallyport\.dev\/identity/],
    ['spiffe://other.test/ns/shop/sa/web', /other\.test\/ns\/shop\/sa\/web is not of namespace shop/],
    [
      'spiffe://demo.test/ns/shop/sa/web,spiffe://demo.test/ns/bank/sa/web',
      /ns\/bank\/sa\/web is not of namespace shop/,
    ],
    ['spiffe://demo.test/ns/shop2/sa/web', /is not of namespace shop \(spiffe:\/\/demo\.test\/ns\/shop\/sa\/\.\.\.\)/],
    ['spiffe://demo.test/web', /is not of namespace shop/],
  ] as const) {
    const bad = lookAs(text);
    t.match(bad.refused.get('shop/web'), pattern);
    t.notOk(Object.hasOwn(bad.settings.gateway!.backends, 'shop/web:80'), 'never plaintext in place of it');
  }
  const trusted = { ...settings, workload: { ...settings.workload, namespace: 'shop' } };
  const web = service('web', spec, { 'sallyport.dev/identity': 'spiffe://other.test/ns/a/sa/b' });
  const { refused } = withServices([route, web, slices], trusted, trusted.gateway!.kubernetes!);
  t.match(refused.get('shop/web'), /there is no bundle for other\.test/);
});

t.test('ports by their names, families by the Service, and what gateway.yaml names stays', async (t) => {
  const named = service('named', {
    ports: [
      { name: 'web', port: 80 },
      { name: 'admin', port: 81 },
    ],
    ipFamilies: ['IPv6', 'IPv4'],
  });
  const ports = [
    { name: 'admin', port: 9000 },
    { name: 'web', port: 3000 },
  ];
  const one = look(
    named,
    slice('named', { ports, endpoints: [{ addresses: ['10.0.0.1'] }] }),
    slice('named', { ports, addressType: 'IPv6', endpoints: [{ addresses: ['fd00::1', 'fd00::2'] }] }),
    slice('named', { ports, addressType: 'FQDN', endpoints: [{ addresses: ['a.test'] }] }),
    slice('named', { ports: [{ name: 'web' }], endpoints: [{ addresses: ['10.0.0.9'] }] }),
    service('own', { ports: [{ port: 80 }] }),
    slice('own', { endpoints: [{ addresses: ['10.0.0.2'] }] }),
    service('unused', { ports: [{ port: 80 }] }),
    slice('unused', { endpoints: [{ addresses: ['10.0.0.3'] }] }),
  );
  const { backends, outside } = one.settings.gateway!;
  t.strictSame(outside['shop/named:80']?.endpoints, [{ host: 'fd00::1', port: 3000 }]);
  t.strictSame(outside['shop/named:81']?.endpoints, [{ host: 'fd00::1', port: 9000 }]);
  t.equal(backends['shop/own:80'], 'own');
  t.notOk(Object.hasOwn(backends, 'shop/unused:80'), 'no document refers to it');
});

t.test('addresses that no pod has', async (t) => {
  const addresses = ['127.0.0.1', '0.0.0.0', '169.254.169.254', '224.0.0.1', 'localhost', '10.0.0.1/24', ''];
  const v6 = ['::1', '::', 'fe80::1', 'ff02::1', '::ffff:127.0.0.1'];
  const of = (list: readonly string[], addressType: string): ReadObject =>
    slice('web', { addressType, endpoints: list.map((one) => ({ addresses: [one] })) });
  const one = look(service('web', { ports: [{ port: 80 }] }), of(addresses, 'IPv4'), of(v6, 'IPv6'));
  t.notOk(Object.hasOwn(one.settings.gateway!.backends, 'shop/web:80'));
});

t.test('shapes that no API server sends', async (t) => {
  for (const spec of [{}, { ports: 'x' }, { ports: [null, 7, { port: 'x' }] }])
    t.doesNotThrow(() => look(service('web', spec), slice('web', { endpoints: [null, { addresses: 'x' }] })));
  t.doesNotThrow(() => oursOf([read('Gateway', 'g', {}), read('HTTPRoute', 'r', { spec: { parentRefs: [null] } })]));
});

t.test('the API server of the pod, or another to which nothing of the pod is sent', async (t) => {
  const at = (path: string): string => path;
  const of = (kubernetes: object, env = {}) =>
    readKubernetesSettings(kubernetesDocuments.parse({ kubernetes }), 'edge', at, env).server;
  const files = { caFile: /serviceaccount\/ca\.crt$/, tokenFile: /serviceaccount\/token$/ };
  t.match(of({}), { url: 'https://kubernetes.default.svc', ...files });
  t.match(of({}, { KUBERNETES_SERVICE_HOST: '10.0.0.1', KUBERNETES_SERVICE_PORT: '443' }), {
    url: 'https://10.0.0.1:443',
  });
  t.match(of({}, { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '6443' }), {
    url: 'https://[fd00::1]:6443',
  });
  t.strictSame(of({ url: 'https://api.test:6443' }), { url: 'https://api.test:6443' });
});

t.test(
  'addresses of metadata servers, of IPv4 in IPv6 and of our own, and ports that are none, are not used',
  async (t) => {
    const own = Object.values(networkInterfaces()).flatMap((list = []) => list.map(({ address }) => address));
    const hosts = [
      'fd00:ec2::254',
      'fd20:ce::254',
      'FD20:CE:0::254',
      '192.0.0.192',
      '168.63.129.16',
      '100.100.100.200',
      '64:ff9b::a9fe:a9fe',
      '::7f00:1',
      '2002:7f00:1::',
    ];
    const web = service('web', { ports: [{ port: 80 }] });
    const endpointsOf = (host: string, port: unknown) =>
      look(
        web,
        slice('web', {
          ...{ addressType: host.includes(':') ? 'IPv6' : 'IPv4', endpoints: [{ addresses: [host] }] },
          ports: [{ port }],
        }),
      ).settings.gateway!.outside['shop/web:80'];
    const spelled = own.flatMap((one) => (one.includes(':') ? [one, one.toUpperCase()] : [one, `::ffff:${one}`]));
    for (const host of [...hosts, ...spelled, '::ffff:127.0.0.1']) t.equal(endpointsOf(host, 8080), undefined, host);
    for (const port of [0, -1, 70_000, 1.5, '80']) t.equal(endpointsOf('10.9.9.9', port), undefined, String(port));
    t.match(endpointsOf('10.9.9.9', 8080), { endpoints: [{ host: '10.9.9.9' }] });
  },
);

t.test('a slice without a label belongs to no Service', async (t) => {
  const none = read('EndpointSlice', 'x', {
    ...{ addressType: 'IPv4', ports: [{ port: 8080 }], endpoints: [{ addresses: ['10.0.0.1'] }] },
  });
  const named = read('HTTPRoute', 'u', { spec: { rules: [{ backendRefs: [{ name: 'undefined', port: 80 }] }] } });
  t.strictSame(look(named, service('undefined', { ports: [{ port: 80 }] }), none).settings.gateway!.backends, {
    'shop/own:80': 'own',
  });
});

// A gateway that follows an API server reads what every tenant writes, addresses included. Workloads of other namespaces
// admit the gateway: whatever a tenant writes, the gateway proves its own identity only to workloads of that tenant's
// namespace, and sends nothing in plaintext in place of it.

import { readFileSync } from 'node:fs';
import t from 'tap';
import { gatewayKinds } from '../../sidecar/cluster/kinds.ts';
import { type KeptObject, keep } from '../../sidecar/cluster/objects.ts';
import { planGateway } from '../../sidecar/compile/gateway-plan.ts';
import { planPools } from '../../sidecar/compile/sidecar-ports.ts';
import { readGateway } from '../../sidecar/config/read-gateway.ts';
import type { PoolPlan } from '../../sidecar/upstream/pools.ts';
import type { Any } from '../fixtures/api-server.ts';
import { writeGateway } from '../fixtures/gateway.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';
import { type Owner, until } from '../fixtures/process.ts';
import {
  gatewayApi,
  object,
  policyIn,
  routeIn,
  served,
  serviceOf,
  sliceOf,
  startFilled,
  startWatched,
  statusOf,
} from '../fixtures/watched.ts';

const orders = 'spiffe://demo.test/ns/shop/sa/orders';
const ofOrders = ['192.0.2.7'];
const istio = 'networking.istio.io/v1';
const kinds = gatewayKinds([...ownKinds.keys()], 'sallyport.dev', 'v1alpha1');

/** As the store keeps it. */
function kept(value: Any): KeptObject {
  const kind = kinds.find((one) => one.kind === value.kind)!;
  const version = value.apiVersion.split('/').at(-1);
  const metadata = { ...value.metadata, resourceVersion: '1' };
  return keep({ ...value, metadata }, { kind, version, namespace: undefined });
}

const named = (one: Any, identity: string): Any => ({
  ...one,
  metadata: { ...one.metadata, annotations: { ...one.metadata.annotations, 'sallyport.dev/identity': identity } },
});

/** A Service of a namespace at the address of shop/orders, a route to it, and more that changes who is met there. */
const lent = (identity: string | undefined, more: readonly Any[] = [], namespace = 'evil', name = 'mine'): Any[] => [
  identity === undefined ? serviceOf(name, namespace) : named(serviceOf(name, namespace), identity),
  sliceOf(name, ofOrders, namespace, 9443),
  routeIn(namespace, 'r', 'evil.test', name),
  ...more,
];

const tls = (validation: object): Any =>
  object(
    'BackendTLSPolicy',
    'p',
    { spec: { targetRefs: [{ group: '', kind: 'Service', name: 'mine' }], validation } },
    undefined,
    'evil',
  );
const uris = [{ type: 'URI', uri: orders }];
const ref = { name: 'orders', namespace: 'shop', port: 80 };
const withRule = (name: string, rule: object): Any => routeIn('evil', name, `${name}.test`, 'mine', { rules: [rule] });

/** What tenant evil writes to be met as the gateway by shop/orders. */
const doors: Readonly<Record<string, readonly Any[]>> = {
  'the annotation': lent(orders),
  'the annotation, beside an ID of its own': lent(`spiffe://demo.test/ns/evil/sa/x, ${orders}`),
  'the annotation, spelled otherwise': lent(`SPIFFE://demo.test/ns/shop/sa/orders`),
  'an ID whose path names both namespaces': lent('spiffe://demo.test/ns/evil/sa/x/ns/shop/sa/orders'),
  'an ID whose namespace only begins like its own': lent('spiffe://demo.test/ns/evil-2/sa/x'),
  'an ID without a namespace': lent('spiffe://demo.test/vm/orders'),
  'an ID without a service account': lent('spiffe://demo.test/ns/evil'),
  'an ID of the CA': lent('spiffe://demo.test/sallyport/ca'),
  'the ID of the whole trust domain': lent('spiffe://demo.test'),
  "its own namespace's name in another trust domain": lent('spiffe://other.test/ns/evil/sa/x'),
  'a star': lent('spiffe://demo.test/ns/*'),
  'an annotation of no ID at all': lent(''),
  'the namespace whose DestinationRules govern all': lent(orders, [], 'istio-system'),
  'annotations of the slice': [...lent(undefined).slice(0, 1), named(sliceOf('mine', ofOrders, 'evil'), orders)],
  'a slice that says which Service of which namespace it is for': [
    ...lent(undefined),
    sliceOf('orders', ['192.0.2.9'], 'evil', 9443),
    sliceOf('shop/orders', ['192.0.2.9'], 'evil', 9443),
  ],
  'a BackendTLSPolicy with the URI': lent(undefined, [
    tls({ hostname: 'orders', subjectAltNames: uris, wellKnownCACertificates: 'System' }),
  ]),
  'a BackendTLSPolicy with the URI, and CAs of its own': lent(undefined, [
    tls({
      hostname: 'orders',
      subjectAltNames: uris,
      caCertificateRefs: [{ group: '', kind: 'ConfigMap', name: 'ca' }],
    }),
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca', namespace: 'evil' }, data: { 'ca.crt': 'none' } },
  ]),
  'a Service of type ExternalName': [
    object('Service', 'mine', { spec: { type: 'ExternalName', externalName: 'orders.shop.svc' } }, 'v1', 'evil'),
    routeIn('evil', 'r', 'evil.test', 'mine'),
  ],
  'a Service of type ExternalName with the annotation': [
    named(
      object(
        'Service',
        'mine',
        { spec: { type: 'ExternalName', externalName: 'orders.shop.svc', ports: [{ port: 80 }] } },
        'v1',
        'evil',
      ),
      'spiffe://demo.test/ns/evil/sa/x',
    ),
    sliceOf('mine', ofOrders, 'evil'),
    routeIn('evil', 'r', 'evil.test', 'mine'),
  ],
  "a DestinationRule with its own peer's name": lent(undefined, [
    object(
      'DestinationRule',
      'd',
      { spec: { host: 'mine', trafficPolicy: { tls: { mode: 'ISTIO_MUTUAL', subjectAltNames: [orders] } } } },
      istio,
      'evil',
    ),
  ]),
  'references to the Service itself, without a grant': [
    ...lent(undefined),
    withRule('cross', { backendRefs: [ref] }),
    withRule('mirror', {
      backendRefs: [{ name: 'mine', port: 80 }],
      filters: [{ type: 'RequestMirror', requestMirror: { backendRef: ref } }],
    }),
    policyIn('evil', 'auth', {
      targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', name: 'r' }],
      extAuth: { http: { backendRefs: [ref] } },
    }),
  ],
  'a Service whose upstream has the name of one in gateway.yaml': lent(undefined, [], 'evil', 'known'),
};

/** What the gateway's operator, and a tenant about its own workloads, may write all the same. */
const allowed: Readonly<Record<string, readonly [readonly Any[], upstream: string, expected: string]>> = {
  'an ID of its own namespace': [
    lent('spiffe://demo.test/ns/evil/sa/x'),
    'evil/mine:80',
    'spiffe://demo.test/ns/evil/sa/x',
  ],
  "any ID, in the gateway's own namespace": [lent(orders, [], 'edge'), 'edge/mine:80', orders],
  'a backend that gateway.yaml names': [lent(orders, [], 'evil', 'named'), 'known', orders],
};

/** shop/orders itself, behind a route of its own. */
const base = [
  {
    ...{ apiVersion: gatewayApi, kind: 'GatewayClass', metadata: { name: 'sallyport' } },
    spec: { controllerName: 'sallyport.dev/gateway-controller' },
  },
  object('Gateway', 'g', {
    spec: {
      gatewayClassName: 'sallyport',
      listeners: [{ name: 'http', port: 80, protocol: 'HTTP', allowedRoutes: { namespaces: { from: 'All' } } }],
    },
  }),
  named(serviceOf('orders'), orders),
  sliceOf('orders', ofOrders, 'shop', 9443),
  routeIn('shop', 'orders', 'orders.test', 'orders'),
];
const yaml = `upstreams: { known: { endpoints: ["192.0.2.1:443"], identity: "${orders}" } }
backends: { shop/known:80: known, evil/named:80: known }
`;

/** The pools of a gateway with these objects beside `base`. */
async function poolsWith(t: Owner, objects: readonly Any[]): Promise<readonly PoolPlan[]> {
  const source = '{ kubernetes: { url: "https://192.0.2.99" } }';
  const { file } = await writeGateway(t, { documents: {}, source, yaml, listeners: ['shop/g:80'] });
  const all = [...base, ...objects].map(kept);
  const { settings, documents, gateway } = await readGateway(file, readFileSync(file, 'utf8'), undefined, all);
  const configuration = { generation: 1, settings, documents, gateway: gateway! };
  return [...planGateway(configuration, Date.now()).pools, ...planPools(settings, documents.destinationRules)];
}

/** Whether a pool sends something in the clear, or proves our identity to another namespace than that of its Service. */
function isOpen({ peer, serverTls, endpoints }: PoolPlan): boolean {
  if (peer === undefined) return serverTls === undefined;
  if (peer.upstream === 'known') return JSON.stringify(endpoints) !== '[{"host":"192.0.2.1","port":443}]';
  const [namespace] = peer.upstream.split('/');
  return !peer.expected.every(
    (one) => one.startsWith(`spiffe://demo.test/ns/${namespace}/sa/`) && one.split('/').length === 7,
  );
}

for (const [what, objects] of Object.entries(doors))
  t.test(`${what} opens nothing`, async (t) => {
    const pools = await poolsWith(t, objects);
    t.strictSame(pools.filter(isOpen), []);
    t.ok(
      pools.some(({ peer }) => peer?.upstream === 'shop/orders:80' && peer.expected.includes(orders)),
      'its owner is served',
    );
  });

for (const [what, [objects, upstream, expected]] of Object.entries(allowed))
  t.test(`${what} is taken`, async (t) => {
    const pools = await poolsWith(t, objects);
    t.ok(pools.some(({ peer }) => peer?.upstream === upstream && peer.expected.includes(expected)));
  });

t.test('whoever tries it is told, and gets no plaintext in place of it', async (t) => {
  const api = await startFilled(t);
  const one = await startWatched(t, api);
  for (const each of lent(orders)) api.put(each);
  // Plaintext is allowed there, and would be 503: nothing listens.
  await served(one, 'evil.test', 500);
  t.equal(await statusOf(one, 'a.test'), 200);
  const why =
    /Service evil\/mine: sallyport\.dev\/identity: spiffe:\/\/demo\.test\/ns\/shop\/sa\/orders is not of namespace evil/;
  t.match(JSON.stringify(one.lines), why);
  await until(() => why.test(JSON.stringify(api.get('HTTPRoute', 'r', 'evil').status)) || undefined, 'the status');
});

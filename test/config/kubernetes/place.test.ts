// Which objects of an API server are another controller's: a table, without sockets.

import t from 'tap';
import { oursOf, type ReadObject, workloadWarnings } from '../../../sidecar/config/kubernetes/place.ts';

const read = (kind: string, name: string, spec: object): ReadObject => ({
  object: { kind, name, namespace: 'shop', text: '', resourceVersion: '1', status: undefined, weight: 0 },
  value: { kind, metadata: { name, namespace: 'shop' }, spec },
});
const cluster = [
  read('GatewayClass', 'sallyport', { controllerName: 'sallyport.dev/gateway-controller' }),
  read('Gateway', 'g', { gatewayClassName: 'sallyport' }),
  read('Gateway', 'other', { gatewayClassName: 'nginx' }),
  read('HTTPRoute', 'r', { parentRefs: [{ name: 'g' }] }),
  read('HTTPRoute', 'of-other', { parentRefs: [{ name: 'other' }] }),
];
const other = { kind: 'Gateway', name: 'other' };
const ofOther = { kind: 'HTTPRoute', name: 'of-other' };
const ours = { kind: 'HTTPRoute', name: 'r' };
const targetSelectors = [{ kind: 'HTTPRoute', matchLabels: { tier: 'private' } }];

t.test('a policy is passed over only if all of its targets are certainly those of others', async (t) => {
  const table: [what: string, spec: object, isKept: boolean][] = [
    ["another's Gateway", { targetRef: other }, false],
    ["another's Gateway and route", { targetRefs: [other, ofOther] }, false],
    ["another's, in both fields", { targetRef: other, targetRefs: [ofOther] }, false],
    ["another's, and an empty list", { targetRef: other, targetRefs: [] }, false],
    ['ours', { targetRefs: [ours] }, true],
    ["another's and ours", { targetRefs: [other, ours] }, true],
    ["ours beside a list of another's", { targetRef: ours, targetRefs: [other] }, true],
    ["another's, and selectors", { targetRefs: [other], targetSelectors }, true],
    ["another's, and a field that is not known", { targetRefs: [other], targetsAll: true }, true],
    ["another's, beside a list that is none", { targetRef: other, targetRefs: {} }, true],
    ['what is not there', { targetRefs: [{ kind: 'Gateway', name: 'missing' }] }, true],
    ['nothing', {}, true],
  ];
  for (const [what, spec, isKept] of table) {
    const policy = read('SecurityPolicy', 'p', spec);
    t.equal(oursOf([...cluster, policy]).includes(policy), isKept, what);
  }
});

t.test('policies of Istio for all workloads do not apply to our Gateways, and are named', async (t) => {
  const istio = (kind: string, name: string, spec: object, namespace = 'shop'): ReadObject => ({
    object: { ...read(kind, name, spec).object, namespace },
    value: { apiVersion: 'security.istio.io/v1', kind, metadata: { name, namespace }, spec },
  });
  const named = (...policies: readonly ReadObject[]): string[] =>
    workloadWarnings([...cluster, ...policies], 'istio-system').map(({ file, message }) => `${file}: ${message}`);
  t.match(named(istio('AuthorizationPolicy', 'deny-all', {})), [
    /AuthorizationPolicy\/shop\/deny-all: .* all workloads of namespace shop: it does not apply to Sallyport's Gateways/,
  ]);
  t.match(named(istio('RequestAuthentication', 'jwt', {}, 'istio-system')), [/all workloads of all namespaces/]);
  t.strictSame(
    named(
      istio('AuthorizationPolicy', 'pods', { selector: { matchLabels: { app: 'a' } } }),
      istio('AuthorizationPolicy', 'elsewhere', {}, 'team'),
      istio('AuthorizationPolicy', 'ours', { targetRefs: [{ kind: 'Gateway', name: 'g' }] }),
    ),
    [],
  );
  const many = named(...Array.from({ length: 9 }, (_, i) => istio('AuthorizationPolicy', `p${i}`, {})));
  t.equal(many.length, 6);
  t.match(many[5], /and 4 more/);
  t.strictSame(workloadWarnings([istio('AuthorizationPolicy', 'deny-all', {})], 'istio-system'), []);
});

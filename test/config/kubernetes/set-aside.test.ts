// Which DestinationRules govern which Services, by the namespaces of both: a table, without sockets.

import t from 'tap';
import type { ReadObject } from '../../../sidecar/config/kubernetes/place.ts';
import { setAside, withOwnRules } from '../../../sidecar/config/kubernetes/set-aside.ts';

type Tree = Readonly<Record<string, unknown>>;

const read = (kind: string, name: string, namespace: string, value: Tree): ReadObject => ({
  object: { kind, name, namespace, text: '', resourceVersion: '1', status: undefined, weight: 0 },
  value: { kind, metadata: { name, namespace }, ...value },
});
const rule = (namespace: string, spec: Tree): ReadObject =>
  read('DestinationRule', 'dr', namespace, { apiVersion: 'networking.istio.io/v1', spec });
const trusted = new Set(['edge', 'istio-system']);
const suffix = 'svc.cluster.local';

t.test('the host that is left of a rule', async (t) => {
  const table: [namespace: string, host: string, left: string | undefined][] = [
    ['team', 'web', `web.team.${suffix}`],
    ['team', 'WEB.team', `web.team.${suffix}`],
    ['team', 'web.team.svc', `web.team.${suffix}`],
    ['team', `web.team.${suffix}`, `web.team.${suffix}`],
    ['team', `*.team.${suffix}`, `*.team.${suffix}`],
    ['team', '*', `*.team.${suffix}`],
    ['team', '*.local', `*.team.${suffix}`],
    ['team', `web.shop.${suffix}`, undefined],
    ['team', 'web.shop', undefined],
    ['team', `*.shop.${suffix}`, undefined],
    ['team', `*p.${suffix}`, undefined],
    ['team', 'payments.example', undefined],
    ['team', `x.evil-team.${suffix}`, undefined],
    ['edge', '*', '*'],
    ['edge', `web.shop.${suffix}`, `web.shop.${suffix}`],
    ['istio-system', '*.local', '*.local'],
  ];
  for (const [namespace, host, left] of table) {
    const { objects, warnings } = withOwnRules([rule(namespace, { host })], trusted);
    t.equal((objects[0]?.value['spec'] as Tree | undefined)?.['host'], left, `${namespace} ${host}`);
    t.equal(warnings.length, left === undefined ? 1 : 0);
  }
});

t.test('the Services that a rule closes if it cannot be read', async (t) => {
  const services = ['team/web', 'team/other', 'shop/web', 'edge/web'].map((key) => {
    const [namespace, name] = key.split('/') as [string, string];
    return read('Service', name, namespace, { apiVersion: 'v1', spec: { ports: [{ port: 80 }] } });
  });
  const table: [namespace: string, host: unknown, closed: string[]][] = [
    ['team', 'web', ['team/web']],
    ['team', '*', ['team/web', 'team/other']],
    ['team', 7, ['team/web', 'team/other']],
    ['team', `web.shop.${suffix}`, []],
    ['edge', 'web', ['edge/web']],
    ['edge', 'web.shop', ['shop/web']],
    ['edge', '*', ['team/web', 'team/other', 'shop/web', 'edge/web']],
    ['edge', 7, ['edge/web']],
  ];
  for (const [namespace, host, closed] of table) {
    const { objects } = withOwnRules([rule(namespace, { host, subsets: [{ name: 'v1' }] }), ...services], trusted);
    const aside = setAside(objects, new Map(), trusted);
    t.strictSame([...aside.services.keys()], closed, `${namespace} ${host}`);
    t.equal(aside.objects.length, services.length);
  }
});

const many = 300;
const numbers = Array.from({ length: many }, (_, index) => index);
const labelled = (name: string): ReadObject => {
  const one = read('HTTPRoute', name, 'team', { apiVersion: 'gateway.networking.k8s.io/v1', spec: {} });
  return { ...one, value: { ...one.value, metadata: { name, namespace: 'team', labels: { a: 'b' } } } };
};
const unreadable = (name: string, targetSelectors: readonly object[]): ReadObject =>
  read('SecurityPolicy', name, 'team', {
    apiVersion: 'gateway.envoyproxy.io/v1alpha1',
    spec: { targetSelectors, cors: {} },
  });
const routes = numbers.map((index) => labelled(`r${index}`));

t.test('many unreadable policies close all that they may mean, and are not its product', async (t) => {
  const table: Readonly<Record<string, (index: number) => object>> = {
    'selectors that cannot be read': () => ({ kind: 'HTTPRoute', matchExpressions: [] }),
    'selectors of one kind': () => ({ kind: 'HTTPRoute', matchLabels: {} }),
    'selectors that all differ': (index) => ({ kind: 'HTTPRoute', matchLabels: { a: 'b' }, group: `g${index}` }),
  };
  for (const [what, selectorOf] of Object.entries(table)) {
    const policies = numbers.map((index) => unreadable(`p${index}`, [selectorOf(index)]));
    const { broken, objects } = setAside([...routes, ...policies], new Map(), trusted);
    t.equal(objects.length, many, what);
    t.equal(broken.length, many, 'each has a status');
    t.ok(broken.every(({ targets }) => targets.length > 0));
    t.equal(new Set(broken.flatMap(({ targets }) => targets.map(({ name }) => name))).size, many, 'all are closed');
    t.ok(broken.flatMap(({ targets }) => targets).length <= 2 * many, 'linear');
  }
});

t.test('beyond so many comparisons of labels the whole namespace is closed', async (t) => {
  const selectorsOf = (index: number): object[] =>
    numbers.slice(0, 20).map((one) => ({ kind: 'HTTPRoute', matchLabels: { [`no${index}`]: `${one}` } }));
  const policies = numbers.map((index) => unreadable(`p${index}`, selectorsOf(index)));
  const few = setAside([...routes, ...policies.slice(0, 100)], new Map(), trusted);
  t.strictSame(few.broken, [], 'they select nothing');
  const { broken } = setAside([...routes, ...policies], new Map(), trusted);
  t.equal(broken[0]?.targets.length, many);
});

t.test('many unreadable BackendTLSPolicies are not the product with the Services', async (t) => {
  const services = numbers.map((index) =>
    read('Service', `s${index}`, 'team', { apiVersion: 'v1', spec: { ports: [{ port: 80 }] } }),
  );
  const policies = numbers.map((index) =>
    read('BackendTLSPolicy', `p${index}`, 'team', { apiVersion: 'gateway.networking.k8s.io/v1', spec: {} }),
  );
  const { refused } = setAside([...services, ...policies], new Map(), trusted);
  t.equal(refused.length, many);
  t.equal(refused[0]?.parents.length, many);
  t.ok(refused.flatMap(({ parents }) => parents).length <= 2 * many, 'linear');
});

// The ancestors of a policy where its status is written to an API server: Gateways, one entry for each.

import t from 'tap';
import { withGateways } from '../../sidecar/routing/ancestors.ts';
import type { StatusItem, StatusList } from '../../sidecar/routing/status.ts';

const controllerName = 'sallyport.dev/gateway-controller';
const group = 'gateway.networking.k8s.io';
const metadata = (name: string) => ({ name, namespace: 'shop', generation: 1 });
const refTo = (kind: string, name: string, more: object = {}) => ({ group, kind, name, namespace: 'shop', ...more });
const condition = (status: string, message: string) => ({
  ...{ type: 'Accepted', status, reason: status === 'True' ? 'Accepted' : 'Conflicted', message },
  ...{ observedGeneration: 1, lastTransitionTime: '2026-01-01T00:00:00Z' },
});
const accepted = condition('True', '');
const routeOf = (name: string, parents: readonly object[]): StatusItem => ({
  ...{ apiVersion: `${group}/v1`, kind: 'HTTPRoute', metadata: metadata(name) },
  status: { parents: parents.map((parentRef) => ({ parentRef, controllerName, conditions: [] })) },
});
const policyOf = (...ancestors: (readonly [object, object])[]): StatusItem => ({
  ...{ apiVersion: 'gateway.envoyproxy.io/v1alpha1', kind: 'SecurityPolicy', metadata: metadata('p') },
  status: {
    ancestors: ancestors.map(([ancestorRef, one]) => ({ ancestorRef, controllerName, conditions: [one] })),
  },
});
const written = (policy: StatusItem, ...routes: StatusItem[]) => {
  const list: StatusList = { apiVersion: 'v1', kind: 'List', items: [policy, ...routes] };
  return withGateways(list, (_kind, _namespace, name) => name !== 'missing')[0]!.status as {
    readonly ancestors: readonly { readonly ancestorRef: object; readonly conditions: readonly object[] }[];
  };
};

t.test('each Gateway of a route, once', async (t) => {
  const route = routeOf('r', [
    { name: 'g', sectionName: 'a' },
    { name: 'g', sectionName: 'b' },
    { name: 'h', namespace: 'edge' },
  ]);
  t.strictSame(written(policyOf([refTo('HTTPRoute', 'r'), accepted]), route).ancestors, [
    { ancestorRef: refTo('Gateway', 'g'), controllerName, conditions: [accepted] },
    { ancestorRef: refTo('Gateway', 'h', { namespace: 'edge' }), controllerName, conditions: [accepted] },
  ]);
});

t.test('a Gateway that is a target keeps its listener', async (t) => {
  const target = refTo('Gateway', 'g', { sectionName: 'https' });
  t.match(written(policyOf([target, accepted])).ancestors, [{ ancestorRef: target }]);
});

t.test('of two routes with one Gateway, what is wrong with one is told', async (t) => {
  const policy = policyOf([refTo('HTTPRoute', 'a'), accepted], [refTo('HTTPRoute', 'b'), condition('False', 'why')]);
  t.match(written(policy, routeOf('a', [{ name: 'g' }]), routeOf('b', [{ name: 'g' }])).ancestors, [
    { ancestorRef: { name: 'g' }, conditions: [{ status: 'False', message: 'HTTPRoute b: why' }] },
  ]);
});

t.test('no entry for what is not there, or has no Gateway of ours', async (t) => {
  const policy = policyOf([refTo('HTTPRoute', 'missing'), accepted], [refTo('HTTPRoute', 'other'), accepted]);
  t.strictSame(written(policy, routeOf('missing', [{ name: 'g' }])).ancestors, []);
});

t.test('sixteen at most, and what is wrong among them', async (t) => {
  const names = Array.from({ length: 20 }, (_, i) => `g${i}`);
  const bad = condition('False', 'why');
  const policy = policyOf([refTo('HTTPRoute', 'r'), accepted], [refTo('Gateway', 'last'), bad]);
  const { ancestors } = written(
    policy,
    routeOf(
      'r',
      names.map((name) => ({ name })),
    ),
  );
  t.equal(ancestors.length, 16);
  t.match(ancestors[0], { ancestorRef: { name: 'last' } });
});

t.test('other statuses stay as they are', async (t) => {
  const route = routeOf('r', [{ name: 'g' }]);
  t.equal(withGateways({ apiVersion: 'v1', kind: 'List', items: [route] }, () => true)[0], route);
});

t.test('the list of items is gone through once, however many policies and targets there are', async (t) => {
  const names = Array.from({ length: 50 }, (_, index) => `r${index}`);
  let reads = 0;
  const routes = names.map((name) => {
    const { kind, ...route } = routeOf(name, [{ name: 'g' }]);
    const get = (): string => {
      reads++;
      return kind;
    };
    return Object.defineProperty(route, 'kind', { get, enumerable: true }) as StatusItem;
  });
  const policies = names.map(() => policyOf(...names.map((name) => [refTo('HTTPRoute', name), accepted] as const)));
  const items = withGateways({ apiVersion: 'v1', kind: 'List', items: [...policies, ...routes] }, () => true);
  t.match(items[0]!.status, { ancestors: [{ ancestorRef: { name: 'g' } }] });
  t.ok(reads <= 4 * names.length, `${reads} reads`);
});

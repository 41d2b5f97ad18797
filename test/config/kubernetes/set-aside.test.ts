// Which DestinationRules govern which Services, by the namespaces of both: a table, without sockets.

import t from 'tap';
import type { ReadObject } from '../../../sidecar/config/kubernetes/place.ts';
import { setAside, withOwnRules } from '../../../sidecar/config/kubernetes/set-aside.ts';

type Tree = Readonly<Record<string, unknown>>;

const read = (kind: string, name: string, namespace: string, value: Tree): ReadObject => ({
  object: { kind, name, namespace, text: '', resourceVersion: '1', status: undefined },
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

// examples/kubernetes/watched: a gateway gets the rights to what it watches and writes, and no others; its own kinds have
// their CRDs.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { gatewayKinds, pluralOf } from '../../sidecar/cluster/kinds.ts';
import { parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { controllerName } from '../../sidecar/routing/names.ts';
import { kubernetes } from '../fixtures/chart.ts';
import { type Any, documentsOf } from '../fixtures/kube.ts';
import { schemaProblems } from '../fixtures/kubernetes-schema.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';

const read = (name: string): Any[] => documentsOf(readFileSync(join(kubernetes, 'watched', name), 'utf8'));
const kinds = gatewayKinds([...ownKinds.keys()], 'sallyport.dev', 'v1alpha1');
const granted = (verb: string): string[] =>
  read('rbac.yaml')
    .filter(({ kind }) => kind === 'ClusterRole')
    .flatMap(({ rules }) => rules)
    .filter(({ verbs }: Any) => verbs.includes(verb))
    .flatMap(({ apiGroups, resources }: Any) => resources.map((one: string) => `${apiGroups[0]}/${one}`))
    .toSorted();

t.test('the rights to read are those of the kinds, and none to change them', async (t) => {
  const wanted = kinds.map(({ group, plural }) => `${group}/${plural}`).toSorted();
  t.strictSame(granted('list'), wanted);
  t.strictSame(granted('watch'), wanted);
  for (const verb of ['get', 'create', 'update', 'delete', '*']) t.strictSame(granted(verb), [], verb);
});

t.test('the rights to write are those of statuses, and of one Lease', async (t) => {
  const written = kinds.filter(
    ({ isBuiltIn, isForeign, kind }) =>
      !isBuiltIn && !isForeign && kind !== 'ReferenceGrant' && kind !== 'DestinationRule',
  );
  t.strictSame(granted('patch'), written.map(({ group, plural }) => `${group}/${plural}/status`).toSorted());
  const [role] = read('rbac.yaml').filter(({ kind }) => kind === 'Role');
  t.strictSame(
    role.rules.map(({ resources, resourceNames, verbs }: Any) => [resources, resourceNames, verbs]),
    [
      [['leases'], undefined, ['create']],
      [['leases'], ['sallyport-gateway'], ['get', 'update']],
    ],
  );
});

t.test('each of our own kinds has its CRD', async (t) => {
  t.strictSame(
    read('crds.yaml')
      .map(({ metadata, spec }) => [metadata.name, spec.names.kind])
      .toSorted(),
    [...ownKinds.keys()].map((kind) => [`${pluralOf(kind)}.sallyport.dev`, kind]).toSorted(),
  );
});

t.test('what is beside them is valid', async (t) => {
  for (const one of read('rbac.yaml')) t.equal(schemaProblems(one), '', `${one.kind} ${one.metadata.name}`);
  t.equal(read('class.yaml')[0].spec.controllerName, controllerName);
  const [config] = read('config.yaml');
  const { gateway } = parseGatewaySettings(config.data['gateway.yaml'], '/etc/gateway.yaml');
  t.match(gateway!.kubernetes, { lease: { namespace: 'sallyport-system', name: 'sallyport-gateway' } });
});

// What a listener demands of its clients, by its Gateway and by ClientTrafficPolicies: several add up, and no policy
// takes away what another demands.

import t from 'tap';
import { clientDemandsOf, clientPoliciesOf, policyRefusal } from '../../sidecar/routing/client-policies.ts';
import { clientPolicyStatuses, idleClientPolicies } from '../../sidecar/routing/client-policy-status.ts';
import type { ClientPolicy, GatewayDocuments, ListenerSpec } from '../../sidecar/routing/documents.ts';
import { createAuthority } from '../fixtures/pki.ts';

const authority = await createAuthority('outside.test');
const named = { apiVersion: 'v1', file: 'x.yaml', line: 1, createdAt: undefined, generation: 1 };
const configMap = (name: string, data: Readonly<Record<string, string>>, namespace = 'shop') => ({
  ...{ ...named, kind: 'ConfigMap', namespace, name, spec: { data } },
});
const spec: ListenerSpec = { name: 'a', port: 443, protocol: 'HTTPS' };
const gateway = {
  ...{ ...named, kind: 'Gateway', namespace: 'shop', name: 'g' },
  spec: { gatewayClassName: 'x', listeners: [spec, { ...spec, name: 'b' }] },
};
const ref = (name: string, namespace?: string) => ({
  ...{ group: '', kind: 'ConfigMap', name },
  ...(namespace === undefined ? {} : { namespace }),
});
const policy = (name: string, more: Partial<ClientPolicy> = {}): ClientPolicy => ({
  ...{ namespace: 'shop', name, createdAt: undefined, file: 'x.yaml', line: 1, optional: false },
  ...{ targets: [{ gateway: 'g', listener: undefined }], caCertificateRefs: undefined, crl: undefined },
  ...more,
});
const crl = (name: string, onlyLeaf = false, namespace?: string) => ({
  crl: { refs: [ref(name, namespace)], onlyLeaf },
});
const trusting = { caCertificateRefs: [ref('ca')] };

const documents = (clientPolicies: readonly ClientPolicy[]): GatewayDocuments => ({
  ...{ gateways: [gateway], classes: [], routes: [], grants: [], backendTls: [], services: [], secrets: [] },
  ...{ namespaces: [], refused: [], passedOver: [], warnings: [], clientPolicies },
  configMaps: [
    configMap('ca', { 'ca.crt': authority.bundlePem }),
    configMap('one', { 'ca.crl': 'one' }),
    configMap('two', { 'ca.crl': 'two' }),
    configMap('none', {}),
    configMap('theirs', { 'ca.crl': 'theirs' }, 'other'),
  ],
});

function demands(policies: readonly ClientPolicy[], validation?: 'AllowValidOnly' | 'AllowInsecureFallback', own = {}) {
  const all = documents(policies);
  const said = validation === undefined ? undefined : { caCertificateRefs: [ref('ca')], mode: validation };
  return clientDemandsOf(gateway, said, clientPoliciesOf(gateway, spec, all), all, own);
}

t.test('which policies apply to a listener, and in which order', async (t) => {
  const all = [
    policy('young', { createdAt: 2 }),
    policy('old', { createdAt: 1 }),
    policy('near', { createdAt: 3, targets: [{ gateway: 'g', listener: 'a' }] }),
    policy('elsewhere', { namespace: 'other' }),
    policy('another', { targets: [{ gateway: 'h', listener: undefined }] }),
    policy('neighbour', { targets: [{ gateway: 'g', listener: 'b' }] }),
  ];
  t.same(
    clientPoliciesOf(gateway, spec, documents(all)).map(({ name }) => name),
    ['near', 'old', 'young'],
  );
  t.same(idleClientPolicies(documents(all)).length, 2);
  t.match(idleClientPolicies(documents([policy('p', { targets: [{ gateway: 'g', listener: 'c' }] })])), [
    /listener c of Gateway g, which does not exist/,
  ]);
});

t.test('the stricter mode applies, and CRLs add up', async (t) => {
  const optional = { ...trusting, optional: true };
  const cases = [
    ['AllowInsecureFallback', [], 'AllowInsecureFallback'],
    ['AllowInsecureFallback', [policy('p', optional)], 'AllowAbsent'],
    ['AllowInsecureFallback', [policy('p', trusting)], 'AllowValidOnly'],
    ['AllowInsecureFallback', [policy('p', crl('one'))], 'AllowInsecureFallback'],
    ['AllowValidOnly', [policy('p', optional)], 'AllowValidOnly'],
    [undefined, [policy('p', optional)], 'AllowAbsent'],
    [undefined, [policy('p', optional), policy('q', trusting)], 'AllowValidOnly'],
  ] as const;
  for (const [validation, policies, mode] of cases)
    t.equal(demands(policies, validation)?.check.mode, mode, `${validation} ${policies.length} ${mode}`);
  const both = demands([policy('p', crl('one', true)), policy('q', crl('two'))], 'AllowValidOnly');
  t.match(both, { check: { crls: { sources: [{ text: 'one' }, { text: 'two' }], onlyLeaf: false } }, problems: [] });
  const own = { clientCrls: { sources: [{ source: 'f', text: 'file' }], onlyLeaf: true } };
  t.match(demands([policy('p', crl('one', true))], 'AllowValidOnly', own)?.check.crls, {
    ...{ sources: [{ text: 'one' }, { text: 'file' }], onlyLeaf: true },
  });
  t.equal(demands([], 'AllowValidOnly')?.check.crls, undefined);
  t.equal(demands([]), undefined, 'no certificate is required');
});

t.test('a CRL that cannot be resolved is a problem, and the check stays enabled', async (t) => {
  for (const [name, namespace, problem] of [
    ['gone', undefined, /there is no ca\.crl in ConfigMap shop\/gone/],
    ['none', undefined, /there is no ca\.crl/],
    ['theirs', 'other', /no ReferenceGrant in other allows ClientTrafficPolicy of shop/],
  ] as const)
    t.match(demands([policy('p', crl(name, false, namespace))], 'AllowValidOnly'), {
      check: { crls: { sources: [] } },
      problems: [{ reason: 'InvalidCRLRef', message: problem }],
    });
});

t.test('statuses are reported', async (t) => {
  const all = documents([
    policy('good', crl('one')),
    policy('lost', { targets: [{ gateway: 'g', listener: 'z' }], ...trusting }),
    policy('half', crl('gone')),
  ]);
  const [good, lost, half] = clientPolicyStatuses(all, 0).map(({ ancestors }) => ancestors[0]);
  t.match(good, { ancestorRef: { kind: 'Gateway', name: 'g', namespace: 'shop' } });
  t.match(good?.conditions, [
    { type: 'Accepted', status: 'True' },
    { type: 'ResolvedRefs', status: 'True' },
  ]);
  t.match(lost?.conditions[0], { type: 'Accepted', status: 'False', reason: 'TargetNotFound' });
  t.match(half?.conditions[1], { type: 'ResolvedRefs', status: 'False', reason: 'InvalidCRLRef' });
});

t.test('which mistakes close a listener', async (t) => {
  const all = [policy('p', crl('one'))];
  const own = [policy('p', { ...crl('one'), targets: [{ gateway: 'g', listener: 'a' }] })];
  const options = { clients: undefined, minVersion: undefined } as never;
  t.equal(policyRefusal(spec, all, true, options, true), undefined);
  t.match(policyRefusal(spec, all, true, options, false), { message: /has CRLs, and nothing says by which/ });
  t.equal(policyRefusal(spec, all, false, options, false), undefined, 'of a whole Gateway: other listeners have TLS');
  t.match(policyRefusal(spec, own, false, options, false), { message: /no effect where TLS is not terminated/ });
  t.match(policyRefusal(spec, all, true, { clients: 'SIMPLE' } as never, true), { message: /ask for no client/ });
});

// CRLs that cannot be used are named where they are read, so that `gateway --check` shows them.

import t from 'tap';
import { formatCrlPem, signCrl } from '../../cert-agent/identity/crl.ts';
import { ownCrlWarnings, policyCrlWarnings } from '../../sidecar/config/crl-warnings.ts';
import { createAuthority } from '../fixtures/pki.ts';

const now = Date.now();
const authority = await createAuthority('outside.test');
const listUntil = async (nextUpdate: number): Promise<string> =>
  formatCrlPem(
    await signCrl(
      { number: 1, thisUpdate: now - 2000, nextUpdate, entries: [] },
      { key: authority.issuerKey, certificate: authority.issuer },
    ),
  );
const [good, ended] = [await listUntil(now + 60_000), await listUntil(now - 1000)];

t.test('warnings of gateway.yaml', async (t) => {
  const warnings = (...texts: string[]) =>
    ownCrlWarnings(
      { sources: texts.map((text, index) => ({ source: `crls/${index}.pem`, text })), onlyLeaf: false },
      ...(['crls/', 'gateway.yaml', now] as const),
    );
  t.same(warnings(good), []);
  t.match(warnings(), [{ file: 'gateway.yaml', message: /crls\/ contains no CRL/ }]);
  t.match(warnings(good, '', good + ended), [
    { file: 'crls/1.pem', message: /is not a CRL: neither DER nor PEM.*are refused/ },
    { file: 'crls/2.pem', message: /was to be replaced by/ },
  ]);
});

t.test('warnings about policies that are attached to something', async (t) => {
  const data = (kind: string, name: string, values: Readonly<Record<string, string>>) => ({
    ...{
      kind,
      name,
      apiVersion: 'v1',
      namespace: 'shop',
      file: 'x.yaml',
      line: 7,
      createdAt: undefined,
      generation: 1,
    },
    spec: { data: values },
  });
  const configMaps = [
    data('ConfigMap', 'good', { 'ca.crl': good }),
    data('ConfigMap', 'bad', { 'ca.crl': 'garbage' }),
    data('ConfigMap', 'unused', { 'ca.crl': 'garbage' }),
    data('ConfigMap', 'empty', {}),
  ];
  const secrets = [data('Secret', 'bad', { 'ca.crl': ended })];
  const refs = ['ConfigMap good', 'ConfigMap bad', 'ConfigMap empty', 'ConfigMap gone', 'Secret bad'].map((one) => {
    const [kind = '', name = ''] = one.split(' ');
    return { group: '', kind, name };
  });
  const policy = {
    ...{ namespace: 'shop', name: 'p', createdAt: undefined, file: 'p.yaml', line: 1, targets: [], optional: false },
    ...{ caCertificateRefs: undefined, crl: { refs, onlyLeaf: false } },
  };
  t.match(policyCrlWarnings([policy], { configMaps, secrets }, now), [
    { file: 'x.yaml', line: 7, message: /ca\.crl of ConfigMap shop\/bad is not a CRL/ },
    { message: /ca\.crl of Secret shop\/bad: the CRL was to be replaced/ },
  ]);
  t.same(policyCrlWarnings([], { configMaps, secrets }, now), []);
});

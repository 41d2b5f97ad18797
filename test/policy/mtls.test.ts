// The mode of a port: Istio's resolution, case by case, from documents as people write them.

import t from 'tap';
import { parseIstio } from '../../sidecar/documents/istio/read.ts';
import { resolveMtls } from '../../sidecar/policy/mtls.ts';

const workload = { namespace: 'shop', serviceAccount: 'orders', labels: { app: 'orders', tier: 'back' } };

interface Short {
  readonly name?: string;
  readonly namespace?: string;
  readonly created?: string;
  readonly selector?: Record<string, string>;
  readonly mode?: string;
  readonly ports?: Record<string, string>;
}

function text({ name = 'one', namespace = 'shop', created, selector, mode, ports }: Short): string {
  const spec = {
    ...(selector === undefined ? {} : { selector: { matchLabels: selector } }),
    ...(mode === undefined ? {} : { mtls: { mode } }),
    ...(ports === undefined
      ? {}
      : { portLevelMtls: Object.fromEntries(Object.entries(ports).map(([port, of]) => [port, { mode: of }])) }),
  };
  const metadata = { name, namespace, ...(created === undefined ? {} : { creationTimestamp: created }) };
  return JSON.stringify({ apiVersion: 'security.istio.io/v1', kind: 'PeerAuthentication', metadata, spec });
}

const root = 'istio-system';
const own = { app: 'orders' };

const cases: [string, Short[], string, ('STRICT' | 'PERMISSIVE')?][] = [
  ['no document: STRICT', [], 'STRICT defaultMtls'],
  ["no document, with Istio's default", [], 'PERMISSIVE defaultMtls', 'PERMISSIVE'],
  ['the mesh', [{ namespace: root, mode: 'PERMISSIVE' }], 'PERMISSIVE istio-system/one'],
  ['the mesh has UNSET', [{ namespace: root, mode: 'UNSET' }], 'STRICT defaultMtls'],
  ['the namespace over the mesh', [{ namespace: root, mode: 'PERMISSIVE' }, { mode: 'STRICT' }], 'STRICT shop/one'],
  ['another namespace', [{ namespace: 'bank', mode: 'DISABLE' }], 'STRICT defaultMtls'],
  ['the namespace sets no mode', [{ namespace: root, mode: 'PERMISSIVE' }, {}], 'PERMISSIVE istio-system/one'],
  [
    'the workload over the namespace',
    [{ mode: 'STRICT' }, { name: 'w', selector: own, mode: 'DISABLE' }],
    'DISABLE shop/w',
  ],
  ['another workload', [{ name: 'w', selector: { app: 'web' }, mode: 'DISABLE' }], 'STRICT defaultMtls'],
  ['all labels must fit', [{ name: 'w', selector: { ...own, tier: 'front' }, mode: 'DISABLE' }], 'STRICT defaultMtls'],
  ['the workload inherits', [{ mode: 'PERMISSIVE' }, { name: 'w', selector: own }], 'PERMISSIVE shop/one'],
  [
    'a selector in the root namespace selects nothing',
    [{ namespace: root, selector: own, mode: 'DISABLE' }],
    'STRICT defaultMtls',
  ],
  ['the port over the workload', [{ selector: own, mode: 'STRICT', ports: { 8080: 'DISABLE' } }], 'DISABLE shop/one'],
  ['another port', [{ selector: own, mode: 'PERMISSIVE', ports: { 9090: 'DISABLE' } }], 'PERMISSIVE shop/one'],
  [
    'a port that is UNSET has the mode of its workload',
    [{ selector: own, mode: 'PERMISSIVE', ports: { 8080: 'UNSET' } }],
    'PERMISSIVE shop/one',
  ],
  [
    'a port, where its workload inherits',
    [{ mode: 'PERMISSIVE' }, { name: 'w', selector: own, ports: { 8080: 'STRICT' } }],
    'STRICT shop/w',
  ],
  [
    'of two in one scope the oldest',
    [
      { name: 'a', mode: 'PERMISSIVE', created: '2026-02-01T00:00:00Z' },
      { name: 'b', mode: 'DISABLE', created: '2026-01-01T00:00:00Z' },
    ],
    'DISABLE shop/b',
  ],
  [
    'of two without a creation time, the first by name',
    [
      { name: 'b', mode: 'DISABLE' },
      { name: 'a', mode: 'PERMISSIVE' },
    ],
    'PERMISSIVE shop/a',
  ],
  ['an empty selector selects all', [{ selector: {}, mode: 'PERMISSIVE' }], 'PERMISSIVE shop/one'],
];

for (const [name, documents, expected, defaultMtls = 'STRICT'] of cases) {
  t.test(name, async (t) => {
    const files = documents.map((one, index) => ({ file: `${index}.yaml`, text: text(one) }));
    const { peerAuthentications } = parseIstio(files);
    const { mode, from } = resolveMtls(peerAuthentications, { workload, rootNamespace: root, defaultMtls }, 8080);
    t.equal(`${mode} ${from}`, expected);
  });
}

const wrong: [string, string, RegExp][] = [
  ['an unknown mode', text({ mode: 'STRCT' }), /mode/],
  ['ports without a selector', text({ ports: { 8080: 'DISABLE' } }), /'portLevelMtls' needs a selector/],
  ['no ports', text({ selector: own, ports: {} }), /'portLevelMtls' is empty/],
  ['port 0', text({ selector: own, ports: { 0: 'DISABLE' } }), /a port must be a number from 1 to 65535/],
  ['an unknown key', text({}).replace('"spec":{', '"spec":{"mtsl":{}'), /unknown key 'mtsl'/],
  ['twice the same', `${text({})}\n---\n${text({})}`, /PeerAuthentication shop\/one is already defined in/],
];

for (const [name, source, problem] of wrong) {
  t.test(`refused: ${name}`, async (t) => {
    t.throws(() => parseIstio([{ file: 'x.yaml', text: source }]), { code: 'config_invalid' });
    try {
      parseIstio([{ file: 'x.yaml', text: source }]);
    } catch (error) {
      const { problems } = error as { problems: { message: string; hint?: string; line: number }[] };
      const said = problems
        .map(({ message, hint }) => (hint === undefined ? message : `${message} (${hint})`))
        .join('\n');
      t.match(said, problem);
    }
  });
}

// Which objects a snapshot has: those that a document may mean, by their names. A table, without sockets.

import t from 'tap';
import { Mentions } from '../../sidecar/cluster/mentions.ts';
import type { KeptObject } from '../../sidecar/cluster/objects.ts';

const kept = (kind: string, name: string, value: object = {}): KeptObject => ({
  ...{ kind, name, namespace: 'shop', resourceVersion: '1', status: undefined, weight: 0 },
  text: JSON.stringify({ kind, metadata: { name }, ...value }),
});
const slice = (name: string, service?: string): KeptObject =>
  kept(
    'EndpointSlice',
    name,
    service === undefined ? {} : { metadata: { labels: { 'kubernetes.io/service-name': service } } },
  );
const data = [
  ...['used', 'unused', 'quoted'].map((name) => kept('Secret', name)),
  ...['used', 'unused'].flatMap((name) => [kept('ConfigMap', name), kept('Service', name), slice(`${name}-1`, name)]),
  slice('used'),
];
const named = (mentions: Mentions): string[] => mentions.only(data).map(({ kind, name }) => `${kind} ${name}`);
const ofUsed = ['Secret used', 'ConfigMap used', 'Service used', 'EndpointSlice used-1'];

const documents: Readonly<Record<string, [KeptObject, readonly string[]]>> = {
  'a reference': [kept('HTTPRoute', 'r', { spec: { rules: [{ backendRefs: [{ name: 'used', port: 80 }] }] } }), ofUsed],
  'a reference below 50 levels': [
    kept(
      'RequestValidation',
      'r',
      Array.from({ length: 50 }).reduce<object>((inner) => ({ inner }), { name: 'used' }),
    ),
    ofUsed,
  ],
  'names that are none': [kept('HTTPRoute', 'r', { spec: { name: 7, names: 'used', hostnames: ['used'] } }), []],
  'text with quotes': [kept('HTTPRoute', 'r', { spec: { note: '"name":"quoted"' } }), []],
  'a Service names nothing': [kept('Service', 'other', { spec: { name: 'used' } }), []],
};

for (const [what, [document, expected]] of Object.entries(documents))
  t.test(what, async (t) => {
    const mentions = new Mentions();
    mentions.update([document]);
    t.strictSame(named(mentions), expected);
    if (document.kind !== 'Service') t.strictSame(mentions.only([document]), [document], 'documents stay');
  });

t.test('a name is forgotten with the last document that mentions it', async (t) => {
  const mentions = new Mentions();
  const [one, two] = ['a', 'b'].map((name) => kept('HTTPRoute', name, { spec: { name: 'used' } }));
  for (const [list, expected] of [
    [[one!, two!], ofUsed],
    [[two!], ofUsed],
    [[], []],
    [[one!], ofUsed],
  ] as const) {
    mentions.update(list);
    t.strictSame(named(mentions), expected);
  }
});

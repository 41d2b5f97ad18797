// Names, hosts, references and durations by the patterns of Gateway API, value by value.

import t from 'tap';
import type { z } from 'zod';
import {
  backendObjectRef,
  backendRefs,
  duration,
  group,
  headerName,
  hostname,
  kind,
  metadata,
  millisecondsOf,
  named,
  namespace,
  notEvaluated,
  objectRef,
  parentRefs,
  port,
  sectionName,
  targetsIn,
} from '../../sidecar/schema/gateway-patterns.ts';

const long = (length: number): string => 'a'.repeat(length);
const metadataName = metadata.shape.name;

const rows: readonly (readonly [name: string, schema: z.ZodType, good: readonly unknown[], bad: readonly unknown[]])[] =
  [
    ['a name', metadataName, ['a', 'a.b-c', '0', long(253)], ['', 'A', '-a', 'a-', 'a_b', 'a/b', long(254), 1]],
    ['a section', sectionName, ['http', 'a.b'], ['', 'HTTP', 'a..b', '-a', 'a_b', long(254)]],
    ['a namespace', namespace, ['shop', long(63)], ['', 'a.b', 'Shop', long(64)]],
    ['a kind', kind, ['Service', 'a-1'], ['', '1a', 'a-', 'a.b', long(64)]],
    ['a group', group, ['', 'a.b', 'gateway.networking.k8s.io'], ['A', '.a', 'a..b', 'a/b']],
    ['a port', port, [1, 65_535], [0, 65_536, 1.5, '80']],
    ['a header', headerName, ['X-A', "!#$%&'*+-.^_`|~", 'x_a'], ['', 'a b', 'a:', 'ä', long(257)]],
    ['a host', hostname(false), ['a.test', 'localhost', '1.a'], ['', '*.a.test', 'A.test', 'a..b', '10.0.0.1', '-a']],
    ['a host with a star', hostname(true), ['*.a.test', 'a.test'], ['*', 'a.*.test', '**.a', '*a.test', '10.0.0.1']],
    ['a duration', duration, ['10s', '1h30m', '500ms', '0s'], ['', '10', '1.5s', '-1s', '1d', '1h1h1h1h1h', '100000s']],
  ];

for (const [name, schema, good, bad] of rows)
  t.test(name, async (t) => {
    for (const value of good) t.equal(schema.safeParse(value).success, true, `${value}`);
    for (const value of bad) t.equal(schema.safeParse(value).success, false, `not '${value}'`);
  });

t.test('durations in milliseconds', async (t) => {
  t.strictSame(['0s', '500ms', '10s', '1h30m', '1m1s1ms'].map(millisecondsOf), [0, 500, 10_000, 5_400_000, 61_001]);
});

t.test('metadata keeps what Kubernetes adds', async (t) => {
  const written = { name: 'a', uid: 'u', generation: 3, creationTimestamp: '2026-01-01T00:00:00+02:00' };
  t.strictSame(metadata.parse(written), written);
  t.equal(metadata.parse({ name: 'a', creationTimestamp: null }).creationTimestamp, null);
  for (const creationTimestamp of ['yesterday', 1, '2026-01-01'])
    t.equal(metadata.safeParse({ name: 'a', creationTimestamp }).success, false);
});

const said = (schema: z.ZodType, value: unknown): string =>
  (schema.safeParse(value).error?.issues ?? []).map(({ path, message }) => `${path.join('.')}: ${message}`).join();

t.test('references to one parent each name another part of it', async (t) => {
  const clash = 'references to the same parent must each set a sectionName or port, all different';
  for (const [refs, message] of [
    [[{ name: 'g' }], ''],
    [[{ name: 'g' }, { name: 'h' }], ''],
    [[{ name: 'g' }, { name: 'g', namespace: 'other' }], ''],
    [
      [
        { name: 'g', sectionName: 'a' },
        { name: 'g', sectionName: 'b' },
      ],
      '',
    ],
    [
      [
        { name: 'g', port: 1 },
        { name: 'g', port: 2 },
      ],
      '',
    ],
    [[{ name: 'g' }, { name: 'g' }], `1: ${clash}`],
    [[{ name: 'g' }, { name: 'g', sectionName: 'a' }], `1: ${clash}`],
    [[{ name: 'g', sectionName: 'a' }, { name: 'h' }, { name: 'g', sectionName: 'a' }], `2: ${clash}`],
  ] as const)
    t.equal(said(parentRefs, refs), message, JSON.stringify(refs));
  t.match(parentRefs.parse([{ name: 'g' }]), [{ group: 'gateway.networking.k8s.io', kind: 'Gateway' }]);
  t.equal(parentRefs.safeParse(Array.from({ length: 33 }, (_, i) => ({ name: `g${i}` }))).success, false);
});

t.test('a Service needs a port, another kind does not', async (t) => {
  const why = 'port: a reference to a Service needs a port';
  t.strictSame(backendObjectRef.parse({ name: 'a', port: 80 }), { group: '', kind: 'Service', name: 'a', port: 80 });
  t.equal(said(backendObjectRef, { name: 'a' }), why);
  t.equal(said(backendObjectRef, { group: 'gateway.envoyproxy.io', kind: 'Backend', name: 'a' }), '');
  const list = backendRefs({});
  t.match(list.parse([{ name: 'a', port: 80 }]), [{ weight: 1 }]);
  t.equal(said(list, [{ name: 'a', port: 80 }, { name: 'b' }]), `1.${why}`);
  for (const weight of [-1, 1_000_001, 0.5]) t.not(said(list, [{ name: 'a', port: 80, weight }]), '');
  t.equal(said(list, Array(17).fill({ name: 'a', port: 80 })), ': a rule has at most 16 backends');
});

t.test('a reference is to a Secret where it does not say', async (t) => {
  t.strictSame(objectRef.parse({ name: 'a' }), { group: '', kind: 'Secret', name: 'a' });
});

t.test('targets of a policy that cannot be read otherwise', async (t) => {
  const route = { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', name: 'r' };
  for (const [spec, targets] of [
    [{ targetRef: { kind: 'HTTPRoute', name: 'r', surprising: 1 }, wrong: [] }, [route]],
    [{ targetRefs: [route, { kind: 'Gateway', name: 'g' }] }, [route, { ...route, kind: 'Gateway', name: 'g' }]],
    [{ targetRef: { ...route, sectionName: 'web' } }, [{ ...route, sectionName: 'web' }]],
    [{ targetRef: { ...route, sectionName: 'N/A' } }, [route]],
    [{ targetRefs: [route, { kind: 'Unknown', name: 'r' }] }, undefined],
    [{ targetRefs: 'r' }, undefined],
    [{ targetRefs: [] }, undefined],
    [{}, undefined],
    [null, undefined],
  ] as const)
    t.strictSame(targetsIn({ spec }), targets, JSON.stringify(spec));
});

t.test('a field that is not evaluated is refused by its name', async (t) => {
  const field = notEvaluated('retry.hostSelection');
  t.equal(field.parse(undefined), undefined);
  t.equal(said(field, {}), ": this build does not evaluate 'retry.hostSelection'");
});

t.test('names in a list differ, in any case', async (t) => {
  const issues: unknown[] = [];
  named([{ name: 'X-A' }, { name: 'x-b' }, { name: 'x-a' }], {
    addIssue: (issue: unknown) => issues.push(issue),
  } as unknown as z.RefinementCtx);
  t.match(issues, [{ path: [2, 'name'], message: "'x-a' is named twice" }]);
  t.equal(issues.length, 1);
});

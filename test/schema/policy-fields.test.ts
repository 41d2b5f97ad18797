// Fields that several parts of a SecurityPolicy have in common: what they take, and what they say where they do not.

import t from 'tap';
import type { z } from 'zod';
import {
  askedDirectly,
  claimHeaders,
  cookieName,
  filled,
  lowerHeader,
  offOnly,
  optional,
  ownHeader,
  refused,
  safeUrl,
  secretRef,
  targetOf,
} from '../../sidecar/schema/policy-fields.ts';

const said = (schema: z.ZodType, value: unknown): string | undefined =>
  schema
    .safeParse(value)
    .error?.issues.map(({ message }) => message)
    .join();

const rows: readonly (readonly [why: string, schema: z.ZodType, value: unknown, message: string | undefined])[] = [
  ['a text', filled('a claim'), 'sub', undefined],
  ['an empty text', filled('a claim'), '', 'a claim must not be empty'],
  ['what is left out', refused('leave it out'), undefined, undefined],
  ['null is a value', refused('leave it out'), null, 'leave it out'],
  ['settings of a backend', askedDirectly, {}, /without settings of a backend/.source],
  ['a switch that is off', offOnly('not here'), false, undefined],
  ['a switch that is left out', offOnly('not here'), undefined, undefined],
  ['a switch that is on', offOnly('not here'), true, 'not here'],
  ['https', safeUrl, 'https://a.test/x?y', undefined],
  ['http on this machine', safeUrl, 'http://127.0.0.1:8080/', undefined],
  ['http on this machine, in IPv6', safeUrl, 'http://[::1]:8080/', undefined],
  ['http elsewhere', safeUrl, 'http://a.test/', 'would carry credentials in the clear'],
  ['a host that begins as this machine', safeUrl, 'http://127.0.0.1.a.test/', 'would carry credentials in the clear'],
  ['another scheme', safeUrl, 'ftp://a.test/', 'is not an https:// URL'],
  ['no URL', safeUrl, 'a.test', 'is not an https:// URL'],
  ['a fragment', safeUrl, 'https://a.test/#x', 'has a fragment'],
  ['a cookie', cookieName, 'sid_1', undefined],
  ['a cookie that is two', cookieName, 'a; b', 'not a valid cookie name'],
  ['a header of ours', ownHeader, 'X-User', undefined],
  ['a hop-by-hop header', ownHeader, 'Transfer-Encoding', "'Transfer-Encoding' cannot be set: it is hop-by-hop"],
  ['another namespace', secretRef, { name: 's', namespace: 'x' }, 'a Secret is taken from the namespace of its policy'],
  ['another kind', secretRef, { kind: 'ConfigMap', name: 's' }, /Secret/.source],
  ['a claim without a name', claimHeaders, [{ header: 'x-a', claim: '' }], 'a claim must not be empty'],
];

for (const [why, schema, value, message] of rows)
  t.test(why, async (t) => {
    if (message === undefined) t.equal(said(schema, value), undefined);
    else t.match(said(schema, value), new RegExp(message.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')));
  });

t.test('a password is in no message', async (t) => {
  t.equal(said(safeUrl, 'https://u:secret@a.test/'), "'https://...@a.test/' holds a password: name a Secret instead");
  t.notMatch(said(safeUrl, 'http://u:secret@a.test/'), 'secret');
});

t.test('what values become', async (t) => {
  t.equal(ownHeader.parse('X-User'), 'x-user');
  t.equal(lowerHeader.parse('X-User'), 'x-user');
  t.strictSame(secretRef.parse({ name: 's' }), { name: 's' });
  t.strictSame(claimHeaders.parse(undefined), []);
  t.strictSame(claimHeaders.parse([{ header: 'X-A', claim: 'a' }]), [{ header: 'x-a', claim: 'a' }]);
  t.strictSame(optional('a', 1), { a: 1 });
  t.strictSame(optional('a', undefined), {});
});

t.test('a target of a policy', async (t) => {
  const target = targetOf(['Gateway', 'HTTPRoute'], 'not this kind');
  const route = { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', name: 'r' };
  t.strictSame(target.parse(route), route);
  t.strictSame(target.parse({ ...route, sectionName: 'web' }), { ...route, sectionName: 'web' });
  t.equal(said(target, { ...route, kind: 'Service' }), 'not this kind');
  t.equal(said(target, { ...route, group: '' }), 'a target belongs to group gateway.networking.k8s.io');
  t.equal(said(target, { ...route, namespace: 'x' }), "targets are always in the policy's namespace: leave it out");
  t.match(said(target, { ...route, port: 80 }), /port/);
});

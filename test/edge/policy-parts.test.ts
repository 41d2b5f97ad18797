// What a policy means beside the hooks of its parts: what its capabilities say, and what its keys say where none does.

import t from 'tap';
import type { AnyCapability } from '../../sidecar/edge/capability.ts';
import {
  askingParts,
  backendsOf,
  guardsIn,
  knowingParts,
  namedHeadersOf,
  ownHeadersOf,
  partsOf,
  secretParamsOf,
  traitsOf,
  unevaluatedParts,
} from '../../sidecar/edge/policy-parts.ts';
import { noteService, wordGuard } from '../fixtures/made-up.ts';

/** The made-up guard as a part of a SecurityPolicy. */
const badge: AnyCapability = {
  ...wordGuard,
  name: 'badge',
  guards: 'callers',
  fields: [{ kind: 'SecurityPolicy', name: 'badge', schema: wordGuard.fields[0]!.schema }],
} as AnyCapability;
const poster: AnyCapability = {
  ...noteService,
  fields: [{ kind: 'SecurityPolicy', name: 'poster', schema: noteService.fields[0]!.schema }],
} as AnyCapability;
const table = [badge, poster, wordGuard, noteService] as readonly AnyCapability[];

const summary = {
  ...{ name: 'p', namespace: 'shop', targets: [], createdAt: undefined, file: 'a.yaml', line: 1 },
  ...{ mergeType: 'Merge', merged: true, required: [], namespaces: {} },
};
const plan = { word: 'sesame', backend: { name: 'guard', namespace: 'halls' } };

t.test('the summary of a policy is no part of it, nor is what is absent', async (t) => {
  t.strictSame(partsOf(summary), []);
  t.strictSame(partsOf({ ...summary, badge: plan, poster: {}, jwt: undefined }), ['badge', 'poster']);
});

const rows: readonly (readonly [
  why: string,
  policy: object,
  parts: Readonly<Record<'asking' | 'knowing' | 'unevaluated' | 'guards', readonly string[]>>,
])[] = [
  ['nothing', summary, { asking: [], knowing: [], unevaluated: [], guards: [] }],
  ['a service', { poster: { text: 'x' } }, { asking: [], knowing: [], unevaluated: [], guards: [] }],
  ['a guard', { badge: plan }, { asking: ['badge'], knowing: ['badge'], unevaluated: [], guards: ['badge'] }],
  [
    'a part that no capability reads may be a way to authenticate',
    { hmac: {}, badge: plan },
    { asking: ['hmac', 'badge'], knowing: ['hmac', 'badge'], unevaluated: ['hmac'], guards: ['badge'] },
  ],
  [
    'a guard of requests, as a kind of its own',
    { kind: 'WordGuard', WordGuard: plan },
    { asking: ['WordGuard'], knowing: [], unevaluated: [], guards: ['word-guard'] },
  ],
  [
    "another kind's part is unknown there",
    { kind: 'WordGuard', badge: plan },
    { asking: ['badge'], knowing: ['badge'], unevaluated: ['badge'], guards: [] },
  ],
];

for (const [why, policy, { asking, knowing, unevaluated, guards }] of rows)
  t.test(why, async (t) => {
    t.strictSame(askingParts(policy, table), asking);
    t.strictSame(knowingParts(policy, table), knowing);
    t.strictSame(unevaluatedParts(policy, table), unevaluated);
    t.strictSame(
      guardsIn(policy, table).map(({ capability }) => capability.name),
      guards,
    );
  });

t.test('backends of all parts', async (t) => {
  t.match(backendsOf({ badge: plan, poster: { text: 'x' } }, table), [
    { field: 'badge', backend: { kind: 'Service', name: 'guard', namespace: 'halls', port: 80 } },
  ]);
  t.strictSame(backendsOf({ badge: { word: 'x' } }, table), []);
});

t.test('headers that only we set: of the capability, and of every key that is about headers', async (t) => {
  const policy = {
    badge: { ...plan, extractFrom: [{ headers: ['X-Badge'] }], userHeader: 'X-User' },
    hmac: {
      claimToHeaders: [
        { header: 'X-Owner', claim: 'owner' },
        { header: 'x-own2', claim: 'o' },
      ],
    },
  };
  t.strictSame([...traitsOf(policy, table).ownHeaders].toSorted(), ['x-own2', 'x-owner', 'x-user', 'x-word-said']);
  t.strictSame([...namedHeadersOf(policy, table)].toSorted(), ['x-badge', 'x-own2', 'x-owner', 'x-user']);
});

t.test('what an authorizer gets is the caller\u2019s, and what policies test is no header of ours', async (t) => {
  const extAuth = {
    headersToExtAuth: ['X-Trace', 'X-Both'],
    http: { headersToBackend: ['X-Both', 'X-Set', 'Cookie'] },
  };
  const authorization = { rules: [{ principal: { headers: [{ name: 'X-Group', values: ['a'] }] } }] };
  t.strictSame([...ownHeadersOf({ extAuth, authorization })], ['x-set']);
  t.ok(namedHeadersOf({ extAuth, authorization }).has('x-group'));
});

t.test('parameters that hold credentials', async (t) => {
  const policy = { badge: plan, hmac: { extractFrom: [{ params: ['sig', 'sig'], cookies: ['c'] }], query: 'sig2' } };
  t.strictSame(secretParamsOf(policy, table), ['sig', 'sig2']);
  t.strictSame([...traitsOf(policy, table).secretParams].toSorted(), ['sig', 'sig2', 'word']);
});

t.test('a policy of our own kind is read as a whole: its capability alone answers', async (t) => {
  const policy = { kind: 'WordGuard', WordGuard: { ...plan, userHeader: 'X-User', query: 'q' } };
  const { ownHeaders, secretParams, secretPaths } = traitsOf(policy, table);
  t.strictSame([[...ownHeaders], secretParams, secretPaths], [['x-word-said'], ['word'], ['/sesame']]);
});

// Whether an in-flight caller is still valid when the policy changes: every way of authentication, under every set of
// methods before and after. The request no longer has the credential then. So only this table keeps a caller out if the
// new policy requires more than the caller has shown.

import { createHash } from 'node:crypto';
import t from 'tap';
import { hashApiKey } from '../../sidecar/edge/api-key/api-key.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { readClaims } from '../../sidecar/policy/facts.ts';
import { policyOf, pretend, toolsFor } from '../fixtures/edge.ts';
import { compileSecurity } from '../fixtures/security.ts';

/** The part of a policy for each method. The tokens below have the issuer `a` and the audience `shop`. */
const methods = {
  jwt: `jwt: { providers: [{ name: p, issuer: "https://a.test", audiences: [shop], localJWKS: { inline: '{"keys":[]}' } }] }`,
  optional: `jwt: { optional: true, providers: [{ name: p, issuer: "https://a.test", audiences: [shop], localJWKS: { inline: '{"keys":[]}' } }] }`,
  oidc: 'oidc: { provider: { issuer: "https://a.test" }, clientID: shop, clientSecret: { name: s }, redirectURL: "https://shop.test/back" }',
  introspection:
    'introspection: { endpoint: "https://a.test/i", clientID: c, clientSecret: { name: s }, audiences: [shop] }',
  apiKey: 'apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [x-key] }] }',
  basic: 'basicAuth: { users: { name: u } }',
} as const;

type Method = keyof typeof methods;

/** Every set of methods: tokens are required, optional, or not accepted. */
const sets: readonly (readonly Method[])[] = [[], ['jwt' as const], ['optional' as const]].flatMap((token) =>
  Array.from({ length: 16 }, (_, bits): Method[] => [
    ...token,
    ...(['oidc', 'introspection', 'apiKey', 'basic'] as const).filter((_name, at) => bits & (1 << at)),
  ]),
);

const whose = (issuer: string, audience: string) => ({
  auth: readClaims({ iss: issuer, sub: 'ann', aud: [audience] }),
});
const good = whose('https://a.test', 'shop');
const callers: Readonly<Record<string, Partial<Exchange>>> = {
  'not authenticated': {},
  'by a certificate': { clientId: 'buyer', authMethod: 'certificate' },
  'by a key': { clientId: 'robot', authMethod: 'apiKey' },
  'by a password': { clientId: 'ann', authMethod: 'basic' },
  'by a token': { ...good, authMethod: 'jwt' },
  'by a token and a key': { ...good, authMethod: 'jwt', clientId: 'robot' },
  'by a token and a password': { ...good, authMethod: 'jwt', clientId: 'ann' },
  'by a token of another issuer': { ...whose('https://b.test', 'shop'), authMethod: 'jwt' },
  'by a token for another': { ...whose('https://a.test', 'other'), authMethod: 'jwt' },
  'by a session': { ...good, authMethod: 'oidc' },
  'by a session and a key': { ...good, authMethod: 'oidc', clientId: 'robot' },
  'by a session of another issuer': { ...whose('https://b.test', 'shop'), authMethod: 'oidc' },
  'by a session of another client': { ...whose('https://a.test', 'other'), authMethod: 'oidc' },
  'by introspection': { ...good, authMethod: 'introspection' },
  'by introspection and a key': { ...good, authMethod: 'introspection', clientId: 'robot' },
  'by introspection for another': { ...whose('https://a.test', 'other'), authMethod: 'introspection' },
  'by something new': { ...good, authMethod: 'made-up' },
};

const sha = (password: string): string => `{SHA}${createHash('sha1').update(password).digest('base64')}`;
const secretsWith = (word: string) => ({
  s: { 'client-secret': 'a-secret-of-some-thirty-two-bytes' },
  k: { robot: hashApiKey(`a-long-key-${word}`) },
  u: { '.htpasswd': `ann:${sha(word)}` },
});

const compiled = (word: string) =>
  sets.map((set) =>
    compileSecurity(
      policyOf(
        set.length === 0 ? 'cors: { allowOrigins: ["https://a.test"] }' : set.map((one) => methods[one]).join('\n'),
      ),
      toolsFor(secretsWith(word)),
    ),
  );
const now = compiled('same');
const changed = compiled('changed');

/**
 * The earlier policies under which the caller is still valid: `+` all, `-` none, `k` those with the same keys and no
 * passwords, `b` those with the same passwords, `?` others.
 */
function heldFrom(caller: Partial<Exchange>, after: (typeof now)[number]): string {
  const holds = (before: (typeof now)[number] | undefined): boolean => after.knows(pretend(caller), before?.known);
  const before = [holds(undefined), ...now.map(holds), ...changed.map(holds)];
  const like = (wanted: (set: readonly Method[]) => boolean): boolean =>
    before.every((held, at) => held === (at > 0 && at <= sets.length && wanted(sets[at - 1]!)));
  if (before.every((held) => held)) return '+';
  if (before.every((held) => !held)) return '-';
  if (like((set) => set.includes('apiKey') && !set.includes('basic'))) return 'k';
  return like((set) => set.includes('basic')) ? 'b' : '?';
}

/**
 * The result of `heldFrom` for each set of methods, in three groups: without `jwt`, with it, with it optional. Each
 * group has neither oidc nor introspection, oidc, introspection, both; then the same with keys, with passwords, with
 * both.
 */
const expected: Readonly<Record<keyof typeof callers, string>> = {
  'not authenticated': '+--------------- ---------------- +-+-------------',
  'by a certificate': '+--------------- ---------------- +-+-------------',
  'by a key': '+---k----------- ---------------- +-+-k-k---------',
  'by a password': '+-------b---b--- ---------------- +-+-----b-b-b-b-',
  'by a token': '+--------------- ++++------------ ++++------------',
  'by a token and a key': '+---k----------- ++++kkkk-------- ++++kkkk--------',
  'by a token and a password': '+-------b---b--- ++++----bbbbbbbb ++++----bbbbbbbb',
  'by a token of another issuer': '+--------------- ---------------- ----------------',
  'by a token for another': '+--------------- ---------------- ----------------',
  'by a session': '++-+------------ -+-+------------ -+-+------------',
  'by a session and a key': '++-+kk-k-------- -+-+-k-k-------- -+-+-k-k--------',
  'by a session of another issuer': '+--------------- ---------------- ----------------',
  'by a session of another client': '+--------------- ---------------- ----------------',
  'by introspection': '+-++------------ --++------------ --++------------',
  'by introspection and a key': '+-++k-kk-------- --++--kk-------- --++--kk--------',
  'by introspection for another': '+--------------- ---------------- ----------------',
  'by something new': '+--------------- ++++------------ ++++------------',
};

for (const [name, caller] of Object.entries(callers))
  t.test(name, async (t) => {
    const seen = now.map((after) => heldFrom(caller, after)).join('');
    t.equal(seen.match(/.{16}/g)!.join(' '), expected[name]);
  });

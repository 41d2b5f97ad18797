// Whether a caller who is in still holds when the policy changes: every way of being known, under every set of methods before
// and after. Their credential is gone from the request by then, so that this table is all that stands between a policy
// that asks more and a caller who was never asked.

import { createHash } from 'node:crypto';
import t from 'tap';
import { hashApiKey } from '../../sidecar/edge/api-key/api-key.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { readClaims } from '../../sidecar/policy/facts.ts';
import { policyOf, pretend, toolsFor } from '../fixtures/edge.ts';
import { compileSecurity } from '../fixtures/security.ts';

/** Each method as a policy asks for it; of `a` is the issuer and the audience of the tokens below. */
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

/** Every set of methods: a provider's tokens are asked for, optional, or not at all. */
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
  'not known': {},
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
 * Under which policies before the caller still holds: `+` all, `-` none, `k` those with the same key and no passwords, `b` those
 * with the same password, `?` any others.
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
 * Under each set of methods, as `heldFrom` has it: without `jwt`, with it, with it optional. In each of the three neither oidc nor
 * introspection, oidc, introspection, both; the same with keys, with passwords, with keys and passwords.
 */
const expected: Readonly<Record<keyof typeof callers, string>> = {
  'not known': '+--------------- ---------------- +-+-------------',
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

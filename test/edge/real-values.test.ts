// Values from real issuers and real files: claims that are lists and objects, names that are not ASCII, three hundred
// groups, and passwords as htpasswd writes them by default.

import { randomUUID } from 'node:crypto';
import t from 'tap';
import { readHtpasswd, weakPasswords } from '../../sidecar/edge/basic-auth/basic-auth.ts';
import { packSession, unpackSession } from '../../sidecar/edge/oidc/session-text.ts';
import { type Passed, policyOf, startEdge, startPolicy, toolsFor } from '../fixtures/edge.ts';
import { Browser, client, json, startLyingProvider } from '../fixtures/oidc-provider.ts';
import { compileSecurity } from '../fixtures/security.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

const groups = Array.from({ length: 300 }, () => randomUUID());
const claims = {
  groups: ['clerks', 'größe'],
  realm: { roles: ['a'] },
  'https://shop.test/tier': 'gold',
  name: 'Jürgen Łukasz',
  level: 3,
  staff: false,
  gone: null,
  evil: 'a\r\nx-role: root',
};
const wanted = [
  'groups',
  'realm',
  'realm.roles',
  'https://shop.test/tier',
  'name',
  'level',
  'staff',
  'gone',
  'evil',
  'no',
];
const listed = wanted.map((claim, i) => `{ header: x-${i}, claim: "${claim}" }`).join(', ');
/** RFC 4648 section 4, with the padding that strict decoders require, as in Envoy (envoyproxy/envoy#30377). */
function fromBase64(value: string): string {
  const text = Buffer.from(value, 'base64');
  if (text.toString('base64') !== value) throw new Error(`'${value}' is not base64`);
  return text.toString('utf8');
}
const decoded = ({ fields }: Passed): unknown[] =>
  wanted.map((_, i) => {
    const value = fields[`x-${i}`];
    if (value === undefined) return undefined;
    return i < 3 ? JSON.parse(fromBase64(value)) : Buffer.from(value, 'latin1').toString('utf8');
  });
const expected = [
  ...[claims.groups, claims.realm, claims.realm.roles, 'gold', 'Jürgen Łukasz', '3', 'false'],
  ...[undefined, undefined, undefined],
];

t.test('claims of a token are forwarded as in Envoy', async (t) => {
  const key = await createKey('k');
  const reported: string[] = [];
  const spec = `jwt:\n  providers: [{ name: p, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' }, claimToHeaders: [${listed}] }]\n`;
  const edge = await startEdge(
    t,
    compileSecurity(policyOf(spec), toolsFor({}, { report: (one) => reported.push(one) })),
  );
  const authorization = `Bearer ${await sign(key, { iss: 'iss.test', sub: 'ann', ...claims })}`;
  const response = await fetch(edge.url, { headers: { authorization, 'x-8': 'root', 'x-9': 'root' } });
  t.strictSame(decoded((await response.json()) as Passed), expected);
  t.strictSame(reported, ["claim 'evil' cannot be forwarded in header 'x-8': it contains a control character"]);
});

for (const [name, more] of [
  ['by the policy', `  forwardAccessToken: true\n  claimToHeaders: [${listed}]\n`],
  [
    'as those of a token that the session replaces',
    `jwt:\n  providers: [{ name: p, issuer: ISSUER, audiences: [${client.id}], localJWKS: { inline: '{"keys":[]}' }, claimToHeaders: [${listed}] }]\n`,
  ],
] as const)
  t.test(`claims of a login, ${name}, with three hundred groups`, async (t) => {
    let security: ReturnType<typeof compileSecurity> | undefined;
    const edge = await startEdge(t, () => security!);
    const liar = await startLyingProvider(t);
    const spec = `oidc:\n  provider: { issuer: "${liar.issuer}" }\n  clientID: ${client.id}\n  clientSecret: { name: s }\n  redirectURL: "${edge.url}/back"\n${more.replace('ISSUER', `"${liar.issuer}"`)}`;
    security = compileSecurity(policyOf(spec), toolsFor({ s: { 'client-secret': client.secret } }));
    const browser = new Browser();
    const asked = new URL((await browser.get(`${edge.url}/`)).headers.get('location')!).searchParams;
    const of = { iss: liar.issuer, sub: 'ann', aud: client.id, nonce: asked.get('nonce'), all: groups, ...claims };
    const id_token = await sign(liar.key, of);
    // Keycloak and Entra put the groups into both.
    const access_token = await sign(liar.key, { ...of, aud: 'api' });
    liar.token = (answer) => json(answer, { access_token, id_token, token_type: 'Bearer', expires_in: 60 });
    const back = await browser.get(`${edge.url}/back?code=c&state=${asked.get('state')}`);
    t.equal(back.status, 302, await back.text());
    const response = await browser.get(`${edge.url}/`, { 'x-9': 'root' });
    const app = (await response.json()) as Passed;
    t.strictSame(decoded(app), expected);
    t.equal(app.fields['authorization'], more.includes('forward') ? `Bearer ${access_token}` : undefined);
    t.equal((app.claims!['all'] as string[]).length, 300);
  });

t.test('a session is the same after unpacking, and decompression is limited', async (t) => {
  const key = await createKey('k');
  const jwt = await sign(key, { iss: 'i', groups });
  const rest = { id: 'x', tokensUntil: 1, until: 2 };
  for (const [idToken, accessToken, refreshToken] of [
    [jwt, jwt, 'r'],
    [jwt, 'opaque', undefined],
    [jwt, undefined, jwt],
    ['a.b.c', 'a.e30.c', ''],
    [jwt, `a.${Buffer.from('{"a":"\\ud800 ü"}').toString('base64url')}.c`, 'a.b.c.d.e'],
  ] as const) {
    const session = { ...rest, idToken, accessToken, refreshToken };
    t.strictSame(unpackSession(packSession(session)), session);
  }
  const packed = packSession({ ...rest, idToken: jwt, accessToken: jwt, refreshToken: undefined });
  t.ok(packed.length < jwt.length, `${packed.length} bytes for twice ${jwt.length}`);
  const huge = `a.${Buffer.from(`{"a":"${'x'.repeat(300_000)}"}`).toString('base64url')}.c`;
  t.throws(() => packSession({ ...rest, idToken: huge, accessToken: undefined, refreshToken: undefined }), {
    code: 'oidc_provider_failed',
    message: /the claims of a session take \d+ bytes/,
  });
  const bomb = packSession({ ...rest, idToken: 'a', accessToken: undefined, refreshToken: undefined });
  const { deflateRawSync } = await import('node:zlib');
  const folded = Buffer.concat([bomb.subarray(0, 4 + bomb.readUInt32BE(0)), deflateRawSync(Buffer.alloc(10_000_000))]);
  t.equal(unpackSession(folded), undefined);
  t.equal(unpackSession(Buffer.from('["x",1,2,"a",null,null]')), undefined);
  // Secrets are not compressed with the claims.
  const guess = (secret: string): number =>
    packSession({ ...rest, idToken: jwt, accessToken: groups[0]!, refreshToken: secret }).length;
  t.equal(guess(groups[0]!), guess(randomUUID()), 'the length does not depend on the secret');
});

t.test('users from htpasswd are accepted', async (t) => {
  // From 'openssl passwd -apr1', which writes the same as htpasswd.
  const file = [
    'ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/',
    'bob:$apr1$12345678$RkSsHiO1RUdjaoav57ZaW/',
    'cem:$apr1$salt$pvDReqyaft7oM7sCtKq7E1',
  ].join('\n');
  const edge = await startPolicy(t, 'basicAuth: { users: { name: u } }\n', { u: { '.htpasswd': file } });
  for (const [user, password, status] of [
    ['ann', 'secret', 200],
    ['ann', 'secret', 200],
    ['ann', 'Secret', 401],
    ['ann', `secret${'x'.repeat(300)}`, 401],
    ['bob', 'a much longer password than sixteen bytes', 200],
    ['cem', 'ä€', 200],
    ['dan', 'secret', 401],
  ] as const) {
    const authorization = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
    t.equal((await fetch(edge.url, { headers: { authorization } })).status, status, `${user} ${password.slice(0, 20)}`);
  }
  t.strictSame(weakPasswords(readHtpasswd(file, 'u')), [
    "the password of 'ann' and 2 more is stored as MD5 ($apr1$), which is fast to guess: use htpasswd -B for bcrypt",
  ]);
});

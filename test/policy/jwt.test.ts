// Tokens: valid ones, every kind of invalid one, and which keys count. Through the code of the proxy, without a proxy.

import { createHmac } from 'node:crypto';
import t from 'tap';
import { hasDuplicateKeys } from '../../sidecar/policy/json-keys.ts';
import { type AuthResult, compileAuthentication } from '../../sidecar/policy/jwt.ts';
import type { JwtRule, RequestAuthentication } from '../../sidecar/policy/request-authentication.ts';
import { Jwks } from '../../sidecar/tokens/jwks.ts';
import { assemble, createKey, jwksOf, plainRule, type SigningKey, sign } from '../fixtures/tokens.ts';

const document = (...jwtRules: JwtRule[]): RequestAuthentication => ({
  name: 'jwt',
  namespace: 'shop',
  jwtRules,
  file: 'x.yaml',
  line: 1,
});

/** The result of the rules for a request. */
async function check(
  rules: readonly JwtRule[],
  request: { headers?: Record<string, string>; path?: string },
  now = Date.now(),
): Promise<AuthResult> {
  const jwks = new Jwks(undefined);
  const authentication = compileAuthentication([document(...rules)], (rule) => jwks.sourceOf(rule))!;
  const { headers = {}, path = '/' } = request;
  return authentication.check({ path, header: (name) => headers[name] }, now);
}

const bearer = (token: string): { headers: Record<string, string> } => ({
  headers: { authorization: `Bearer ${token}` },
});

/** `code: text` of a refusal, `iss/sub` of a valid token, `none`. */
function show(result: AuthResult): string {
  if (result.kind === 'refused') return `${result.error.code}: ${result.text}`;
  return result.kind === 'verified' ? (result.auth.principal ?? 'no principal') : 'none';
}

let ec: SigningKey;
let rsa: SigningKey;
let other: SigningKey;
let rule: JwtRule;

t.before(async () => {
  [ec, rsa, other] = await Promise.all([createKey('ec'), createKey('rsa', 'RS256'), createKey('ec')]);
  rule = { ...plainRule, jwks: jwksOf(ec, rsa) };
});

t.test('good tokens are accepted with each algorithm of the list', async (t) => {
  for (const alg of ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']) {
    const key = await createKey('k', alg);
    const token = await sign(key, { iss: 'iss.test', sub: 'ann' });
    t.equal(show(await check([{ ...plainRule, jwks: jwksOf(key) }], bearer(token))), 'iss.test/ann', alg);
  }
});

t.test('a rule without an issuer accepts tokens of any issuer that its keys verify', async (t) => {
  const any = { ...rule, issuer: '', jwksUri: 'https://login.test/keys' };
  for (const iss of ['iss.test', 'https://other.test'])
    t.equal(show(await check([any], bearer(await sign(ec, { iss, sub: 'ann' })))), `${iss}/ann`);
  t.equal(show(await check([any], bearer(await sign(ec, { sub: 'ann' })))), 'no principal', 'without an issuer');
  const foreign = await check([any], bearer(await sign(other, { iss: 'iss.test', sub: 'ann' })));
  t.match(show(foreign), /^jwt_invalid: /, 'a token that its keys do not verify is never accepted');
  t.match(foreign, { error: { message: /https:\/\/login\.test\/keys/ } }, 'the issuer is named by its keys');
});

t.test('a request without a token is unauthenticated and not refused', async (t) => {
  t.equal(show(await check([rule], {})), 'none');
  t.equal(show(await check([rule], { headers: { authorization: 'Basic YTpi' } })), 'none');
  t.equal(show(await check([rule], { headers: { authorization: 'Bearer ' } })), 'none');
});

t.test('bad tokens are refused', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const good = await sign(ec, { iss: 'iss.test', sub: 'ann' });
  const [head, payload, signature] = good.split('.') as [string, string, string];
  const claims = JSON.stringify({ iss: 'iss.test', sub: 'ann', exp: now + 60 });
  // The classic confusion: HMAC with the RSA key's public half as the secret.
  const hmacHead = Buffer.from('{"alg":"HS256","kid":"rsa"}').toString('base64url');
  const hmacBody = Buffer.from(claims).toString('base64url');
  const hmac = createHmac('sha256', JSON.stringify(rsa.jwk)).update(`${hmacHead}.${hmacBody}`).digest('base64url');
  const form = 'jwt_invalid: Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections';
  const alg = 'jwt_invalid: Jwt header [alg] field value is not supported';
  const noKey = "jwt_invalid: Jwks doesn't have key to match kid or alg from Jwt";
  const fails = 'jwt_invalid: Jwt verification fails';
  const cases: [string, string, string][] = [
    ['truncated', good.slice(0, -4), fails],
    ['two parts', `${head}.${payload}`, form],
    ['four parts', `${good}.x`, form],
    ['an empty part', `${head}..${signature}`, form],
    ['characters outside the alphabet', `${head}.${payload}.@@`, form],
    ['huge', `${head}.${'a'.repeat(20_000)}.${signature}`, 'jwt_invalid: Jwt is too long'],
    ['a header that is not JSON', assemble('{', claims), 'jwt_invalid: Jwt header is an invalid JSON'],
    ['a header that is a list', assemble('[]', claims), 'jwt_invalid: Jwt header is not an object'],
    ['a payload that is not JSON', assemble('{"alg":"ES256"}', 'x'), 'jwt_invalid: Jwt payload is an invalid JSON'],
    [
      'duplicate claims',
      assemble('{"alg":"ES256"}', '{"iss":"iss.test","sub":"ann","sub":"root"}'),
      'jwt_invalid: Jwt payload names a field twice',
    ],
    [
      'a duplicate in an escaped spelling',
      assemble('{"alg":"ES256"}', '{"sub":"ann","\\u0073ub":"root"}'),
      'jwt_invalid: Jwt payload names a field twice',
    ],
    [
      'a duplicate below',
      assemble('{"alg":"ES256"}', '{"a":{"b":1,"b":2}}'),
      'jwt_invalid: Jwt payload names a field twice',
    ],
    [
      'a duplicate in the header',
      assemble('{"alg":"ES256","alg":"none"}', claims),
      'jwt_invalid: Jwt header names a field twice',
    ],
    ['alg none', assemble('{"alg":"none"}', claims), alg],
    ['alg none, in another case', assemble('{"alg":"nOnE"}', claims), alg],
    ['HS256 over an RSA key', `${hmacHead}.${hmacBody}.${hmac}`, alg],
    ['alg of another type', assemble('{"alg":["ES256"]}', claims), alg],
    ['no alg', assemble('{}', claims), alg],
    ['crit', await sign(ec, { iss: 'iss.test' }, { crit: ['b64'], b64: true }), fails],
    [
      'a kid that is not a string',
      assemble('{"alg":"ES256","kid":7}', claims),
      'jwt_invalid: Jwt header [kid] field is not a string',
    ],
    ['a kid that is a path', await sign(ec, { iss: 'iss.test' }, { kid: '../../../etc/passwd' }), noKey],
    ['a kid that is SQL', await sign(ec, { iss: 'iss.test' }, { kid: "x' UNION SELECT 'key" }), noKey],
    ['signed by another key of the same name', await sign(other, { iss: 'iss.test', sub: 'ann' }), fails],
    ['signed by a key of another kind', await sign({ ...ec, kid: 'rsa' }, { iss: 'iss.test' }), fails],
    ['a claim changed', `${head}.${Buffer.from(claims).toString('base64url')}.${signature}`, fails],
    ['expired', await sign(ec, { iss: 'iss.test', exp: now - 1 }), 'jwt_expired: Jwt is expired'],
    ['not yet valid', await sign(ec, { iss: 'iss.test', nbf: now + 60 }), 'jwt_not_yet_valid: Jwt not yet valid'],
    [
      'exp of another type',
      await sign(ec, { iss: 'iss.test', exp: '9999999999' as never }),
      'jwt_invalid: Jwt payload [exp] or [nbf] field is not a number',
    ],
    [
      'another issuer',
      await sign(ec, { iss: 'evil.test', sub: 'ann' }),
      'jwt_issuer_unknown: Jwt issuer is not configured',
    ],
    ['no issuer', await sign(ec, { sub: 'ann' }), 'jwt_issuer_unknown: Jwt issuer is not configured'],
  ];
  for (const [name, token, expected] of cases) t.equal(show(await check([rule], bearer(token))), expected, name);
});

t.test('a key within the token itself is ignored', async (t) => {
  const header = { jwk: other.jwk, jku: 'http://127.0.0.1:1/keys', x5u: 'http://127.0.0.1:1/cert' };
  t.equal(
    show(await check([rule], bearer(await sign(other, { iss: 'iss.test' }, header)))),
    'jwt_invalid: Jwt verification fails',
  );
});

t.test('symmetric keys and encryption keys are ignored', async (t) => {
  const secret = Buffer.from('a secret of some length, for HMAC').toString('base64url');
  const token = await sign(ec, { iss: 'iss.test' });
  const noKey = "jwt_invalid: Jwks doesn't have key to match kid or alg from Jwt";
  for (const keys of [
    [{ kty: 'oct', k: secret, kid: 'ec' }],
    [{ ...ec.jwk, use: 'enc' }],
    [{ ...ec.jwk, alg: 'HS256' }],
    [],
  ])
    t.equal(
      show(await check([{ ...plainRule, jwks: JSON.stringify({ keys }) }], bearer(token))),
      noKey,
      JSON.stringify(keys).slice(0, 60),
    );
});

t.test('without a kid, any key of the right type may have signed', async (t) => {
  const [one, two] = await Promise.all([createKey('one'), createKey('two')]);
  const keys = { ...plainRule, jwks: jwksOf(one, two) };
  const unnamed = await sign(two, { iss: 'iss.test', sub: 'ann' }, { kid: undefined });
  t.equal(show(await check([keys], bearer(unnamed))), 'iss.test/ann');
  t.equal(
    show(await check([keys], bearer(await sign(other, { iss: 'iss.test' }, { kid: undefined })))),
    'jwt_invalid: Jwt verification fails',
  );
});

t.test('audiences: one must match, or the answer is 403', async (t) => {
  const strict = { ...rule, audiences: ['orders', 'carts'] };
  const ask = async (aud: unknown): Promise<string> =>
    show(await check([strict], bearer(await sign(ec, { iss: 'iss.test', sub: 'ann', aud }))));
  t.equal(await ask('orders'), 'iss.test/ann');
  t.equal(await ask(['x', 'carts']), 'iss.test/ann');
  for (const aud of ['order', ['x'], undefined, [], { orders: true }])
    t.equal(await ask(aud), 'jwt_audience: Audiences in Jwt are not allowed', JSON.stringify(aud));
  // A token with an invalid signature does not reveal which audience it lacks.
  t.match(show(await check([strict], bearer(await sign(other, { iss: 'iss.test', aud: 'x' })))), /^jwt_invalid/);
});

t.test('locations: the default ones count only where none is configured', async (t) => {
  const token = await sign(ec, { iss: 'iss.test', sub: 'ann' });
  const places: [string, JwtRule, Parameters<typeof check>[1], string][] = [
    ['query', rule, { path: `/a?x=1&access_token=${token}` }, 'iss.test/ann'],
    [
      'a named header with prefix',
      { ...rule, fromHeaders: [{ name: 'X-Token', prefix: 'tok ' }] },
      { headers: { 'x-token': `tok ${token}` } },
      'iss.test/ann',
    ],
    [
      'that prefix missing',
      { ...rule, fromHeaders: [{ name: 'X-Token', prefix: 'tok ' }] },
      { headers: { 'x-token': token } },
      'jwt_invalid: Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections',
    ],
    [
      'the default beside a named one',
      { ...rule, fromHeaders: [{ name: 'X-Token', prefix: '' }] },
      bearer(token),
      'none',
    ],
    ['a named parameter', { ...rule, fromParams: ['t'] }, { path: `/?t=${token}` }, 'iss.test/ann'],
    [
      'a cookie',
      { ...rule, fromCookies: ['session'] },
      { headers: { cookie: `a=b; session=${token}; c=d` } },
      'iss.test/ann',
    ],
    ['another cookie', { ...rule, fromCookies: ['session'] }, { headers: { cookie: `xsession=${token}` } }, 'none'],
  ];
  for (const [name, one, request, expected] of places) t.equal(show(await check([one], request)), expected, name);
});

t.test('a bad token beside a good one is refused', async (t) => {
  const token = await sign(ec, { iss: 'iss.test', sub: 'ann' });
  t.match(show(await check([rule], { ...bearer(token), path: '/?access_token=x.y.z' })), /^jwt_invalid/);
  t.equal(show(await check([rule], { ...bearer(token), path: `/?access_token=${token}` })), 'iss.test/ann');
});

t.test('several rules: one that verifies is enough, sorted by issuer', async (t) => {
  const key = await createKey('b');
  const rules = [{ ...plainRule, issuer: 'b.test', jwks: jwksOf(key) }, rule];
  t.equal(show(await check(rules, bearer(await sign(key, { iss: 'b.test', sub: 'bob' })))), 'b.test/bob');
  t.equal(show(await check(rules, bearer(await sign(ec, { iss: 'iss.test', sub: 'ann' })))), 'iss.test/ann');
  t.match(show(await check(rules, bearer(await sign(ec, { iss: 'c.test' })))), /^jwt_issuer_unknown/);
  // The most specific refusal is reported: the token was this issuer's, and expired.
  t.match(show(await check(rules, bearer(await sign(key, { iss: 'b.test', exp: 1 })))), /^jwt_expired/);
});

t.test('a verified token is cached until it expires', async (t) => {
  const seen: string[] = [];
  const jwks = new Jwks(undefined);
  const authentication = compileAuthentication(
    [document(rule)],
    (one) => jwks.sourceOf(one),
    (_, outcome) => seen.push(outcome),
  )!;
  const token = await sign(ec, { iss: 'iss.test', sub: 'ann', exp: Math.floor(Date.now() / 1000) + 60 });
  const ask = (now: number): AuthResult | Promise<AuthResult> =>
    authentication.check(
      { path: '/', header: (name) => (name === 'authorization' ? `Bearer ${token}` : undefined) },
      now,
    );
  const now = Date.now();
  t.equal(show(await ask(now)), 'iss.test/ann');
  const again = ask(now + 1000);
  t.notOk(again instanceof Promise, 'nothing is awaited');
  t.equal(ask(now), again, 'nothing is created again');
  t.equal(show(await ask(now + 61_000)), 'jwt_expired: Jwt is expired');
  t.strictSame(seen, ['verified', 'jwt_expired']);
});

t.test('the memory of cached tokens is bounded', async (t) => {
  const jwks = new Jwks(undefined);
  let verified = 0;
  const authentication = compileAuthentication(
    [document(rule)],
    (one) => jwks.sourceOf(one),
    () => verified++,
  )!;
  const padding = 'x'.repeat(11_000);
  const tokens = await Promise.all(
    Array.from({ length: 350 }, (_, i) => sign(ec, { iss: 'iss.test', sub: `s${i}`, padding })),
  );
  const ask = (token: string): AuthResult | Promise<AuthResult> =>
    authentication.check(
      { path: '/', header: (name) => (name === 'authorization' ? `Bearer ${token}` : undefined) },
      Date.now(),
    );
  for (const token of tokens) await ask(token);
  t.equal(verified, 350);
  t.notOk(ask(tokens.at(-1)!) instanceof Promise, 'the newest is there');
  t.ok(ask(tokens[0]!) instanceof Promise, 'the oldest is evicted');
});

t.test('several values in one claim', async (t) => {
  const one = { ...rule, spaceDelimitedClaims: ['groups'] };
  const result = await check(
    [one],
    bearer(await sign(ec, { iss: 'iss.test', sub: 'a', groups: 'x y', scope: 'r w', z: 'p q' })),
  );
  t.match(result, { kind: 'verified', auth: { claims: { groups: ['x', 'y'], scope: ['r', 'w'], z: 'p q' } } });
});

t.test('duplicate keys are found, and values are not mistaken for keys', async (t) => {
  for (const text of [
    '{"a":1,"b":{"a":1}}',
    '[{"a":1},{"a":2}]',
    '{"a":"b","b":"a,\\"a\\":"}',
    '{}',
    '"a"',
    '{"a":["a","a"]}',
  ])
    t.notOk(hasDuplicateKeys(text), text);
  for (const text of ['{"a":1,"a":1}', '[[{"x":{"a":1,"b":2,"a":3}}]]', '{"a":{},"a":[]}', '{"":1,"":2}'])
    t.ok(hasDuplicateKeys(text), text);
});

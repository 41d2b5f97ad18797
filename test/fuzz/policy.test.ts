// The small parsers of policy under hostile input: tokens, authorizer responses, addresses. Results are compared with
// another implementation where there is one.

import assert from 'node:assert/strict';
import { BlockList } from 'node:net';
import t from 'tap';
import { emptyFields, isSafeField } from '../../sidecar/exchange/message.ts';
import { mayHoldParam } from '../../sidecar/policy/credential-readings.ts';
import { compileIpBlocks, isIpBlock, parseIp } from '../../sidecar/policy/ip.ts';
import { compileAuthentication } from '../../sidecar/policy/jwt.ts';
import { decodeCheck, encodeCheck } from '../../sidecar/protocol/ext-authz.ts';
import { Jwks } from '../../sidecar/tokens/jwks.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';
import { createKey, jwksOf, plainRule, sign } from '../fixtures/tokens.ts';

const key = await createKey('k');
const token = await sign(key, { iss: 'iss.test', sub: 'ann', groups: ['a'], nested: { a: { b: 1 } } });
const jwks = new Jwks(undefined);
const authentication = compileAuthentication(
  [
    {
      name: 'jwt',
      namespace: 'shop',
      file: 'x.yaml',
      line: 1,
      jwtRules: [{ ...plainRule, jwks: jwksOf(key) }],
    },
  ],
  (rule) => jwks.sourceOf(rule),
)!;

fuzz(
  t,
  'a token that was touched is refused, or is the same token',
  (random) => mutate(random, Buffer.from(token)).toString('latin1'),
  async (touched) => {
    const result = await authentication.check(
      { path: '/', header: (name) => (name === 'authorization' ? `Bearer ${touched}` : undefined) },
      Date.now(),
    );
    if (result.kind === 'verified') {
      // Only if the signed part is unchanged: the last character of base64url has unused bits.
      assert.equal(touched.trim().split('.').slice(0, 2).join('.'), token.split('.').slice(0, 2).join('.'));
      assert.equal(result.auth.principal, 'iss.test/ann');
    } else if (result.kind === 'refused') assert.match(result.error.code, /^jwt_/);
  },
);

const asked = encodeCheck({
  ...{ id: 'x', method: 'GET', path: '/', authority: 'a', protocol: 'HTTP/2', fields: emptyFields, sni: 'a' },
  source: { address: '10.0.0.1', port: 1, principal: 'spiffe://a/b' },
  destination: { address: '10.0.0.2', port: 2, principal: '' },
  time: 1,
});

fuzz(
  t,
  'an answer of an authorizer is a ruling or an error, and a ruling names strings',
  (random) => mutate(random, asked),
  (bytes) => {
    const { allowed, status, replyFields, requestFields, removed } = decodeCheck(bytes);
    assert.equal(typeof allowed, 'boolean');
    assert.ok(status >= 100 && status <= 599);
    for (const [name, value] of [...replyFields, ...requestFields])
      assert.equal(typeof isSafeField(name, value), 'boolean');
    for (const name of removed) assert.equal(typeof name, 'string');
  },
  ['ext_authz_failed'],
);

const word = (random: Random): string => random.below(0x10000).toString(16);

/** Addresses near each other, so that blocks contain some of them. */
function randomIp(random: Random): string {
  if (random.below(2) === 0) return [10, random.below(3), random.below(3), random.below(256)].join('.');
  return random.pick([
    `2001:db8::${word(random)}`,
    `fd00:${word(random)}::1`,
    '::1',
    '::',
    `::ffff:10.0.0.${random.below(9)}`,
  ]);
}

fuzz(
  t,
  'a block holds what net.BlockList says that it holds',
  (random) => {
    const [base, ip] = [randomIp(random), randomIp(random)];
    return { base, ip, bits: random.below(base.includes(':') ? 129 : 33) };
  },
  ({ base, ip, bits }) => {
    const mapped = base.startsWith('::ffff:');
    assert.equal(isIpBlock(`${base}/${bits}`), !mapped || bits >= 96);
    if (mapped) return;
    const list = new BlockList();
    const family = (text: string): 'ipv4' | 'ipv6' => (text.includes(':') ? 'ipv6' : 'ipv4');
    list.addSubnet(base, bits, family(base));
    const parsed = parseIp(ip)!;
    // BlockList also matches an IPv4 address by its IPv6 form; here a block matches addresses of its own family only.
    const wanted = family(base) === family(parsed.text) && list.check(parsed.text, family(parsed.text));
    assert.equal(compileIpBlocks([`${base}/${bits}`])(parsed), wanted, `${ip} in ${base}/${bits}`);
  },
);

fuzz(
  t,
  'the quick test of a query finds what a look at the query alone finds',
  (random) => ({
    path: Array.from({ length: random.below(12) }, () =>
      random.pick([...'?&=;+%.[] aBk_-$(', 'key', 'A-b$', 'TOKEN']),
    ).join(''),
    name: random.pick(['key', 'A-b$', 'access_token', 'b', '[x]', 'a.b']),
  }),
  ({ path, name }) => {
    const at = path.indexOf('?');
    const query = at === -1 ? undefined : path.slice(at + 1);
    const may = query !== undefined && (/[%+.[\0 ]/.test(query) || query.toLowerCase().includes(name.toLowerCase()));
    assert.equal(mayHoldParam(path, name), may);
  },
);

// A gateway's assertion about a user, and every way to forge one. Through the code of both sides, without a proxy.

import { createHmac, createPublicKey, generateKeyPairSync, randomUUID, X509Certificate } from 'node:crypto';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { LiveCell } from '../../cert-agent/base/live.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { readClaims } from '../../sidecar/policy/facts.ts';
import { checkVouched, verifyTransactionToken } from '../../sidecar/policy/transaction-token.ts';
import { createTokenSigner, type SignTransactionToken } from '../../sidecar/tokens/sign.ts';
import { fuzz } from '../fixtures/fuzz.ts';
import { type Authority, type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { assemble } from '../fixtures/tokens.ts';
import {
  createCredentialWith,
  ecdsa,
  forge as forgeAt,
  gatewayId,
  identityOf,
  type Lie,
  ordersId,
  seal,
  userWith,
} from '../fixtures/transaction-tokens.ts';

const otherId = 'spiffe://demo.test/ns/edge/sa/other';
const now = Date.now();
const seconds = Math.floor(now / 1000);

const authority: Authority = await createAuthority('demo.test');
const gateway: Credential = await createCredential(authority, gatewayId);
const orders: Identity = identityOf(authority, await createCredential(authority, ordersId));

/** The time of all tests. */
const forge = (by: Credential, lie?: Lie): string => forgeAt(by, lie, seconds);
/** What `orders` reads from a token of the gateway. */
const verify = (token: string, ours = orders, at = now, peer = gatewayId) =>
  verifyTransactionToken(token, peer, ours, at);

/** The part of a tap test that is needed here. */
interface Asserter {
  ok(value: unknown, message: string): unknown;
  fail(message: string): unknown;
  match(got: unknown, wanted: unknown, message: string): unknown;
}

/** Asserts that it is refused, for this reason. */
function refuses(t: Asserter, what: () => unknown, why: RegExp, name: string): void {
  try {
    what();
    t.fail(`${name}: it was accepted`);
  } catch (error) {
    t.ok(error instanceof SallyportError, name);
    t.match(
      error,
      { code: 'txn_token_invalid', message: /^the transaction token of spiffe:\/\/\S+ is refused: / },
      name,
    );
    t.match((error as Error).message, why, name);
  }
}

t.test('a true token is accepted, with each kind of key that an SVID may have', async (t) => {
  const kinds = {
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
    ES384: generateKeyPairSync('ec', { namedCurve: 'P-384' }),
    EdDSA: generateKeyPairSync('ed25519'),
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    PS256: generateKeyPairSync('rsa-pss', { modulusLength: 2048 }),
  };
  for (const [alg, { privateKey }] of Object.entries(kinds)) {
    const credential = await createCredentialWith(authority, gatewayId, privateKey);
    const sign = createTokenSigner(new LiveCell(identityOf(authority, credential)), () => now);
    const token = sign(userWith({ groups: ['clerks'] }), ordersId);
    const header = JSON.parse(Buffer.from(token.split('.')[0]!, 'base64url').toString()) as Record<string, unknown>;
    t.strictSame(header, {
      typ: 'txntoken+jwt',
      alg,
      x5c: [credential.chain[0]!.toString('base64'), authority.issuer.toString('base64')],
    });
    t.match(verify(token), {
      gateway: gatewayId,
      auth: { principal: `${gatewayId}/ann`, claims: { groups: ['clerks'] } },
    });
  }
  t.throws(
    () =>
      createTokenSigner(new LiveCell({ ...orders, svid: { ...orders.svid, keyPem: pemOf('ec', 'secp256k1') } }))(
        userWith({}),
        ordersId,
      ),
    { code: 'key_unreadable', message: 'the key of our SVID (ec secp256k1) cannot sign transaction tokens' },
  );
});

function pemOf(type: 'ec', namedCurve: string): string {
  return String(generateKeyPairSync(type, { namedCurve }).privateKey.export({ type: 'pkcs8', format: 'pem' }));
}

t.test('a token contains the user that the gateway authenticated, and nothing replaces its own claims', async (t) => {
  const sign = createTokenSigner(new LiveCell(identityOf(authority, gateway)), () => now);
  const claimsOf = (token: string): Record<string, unknown> =>
    JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString()) as Record<string, unknown>;
  const own = { iss: gatewayId, aud: ordersId, iat: seconds, exp: seconds + 60 };
  const forged = {
    aud: 'x',
    nbf: 1,
    jti: 'x',
    txn: 'x',
    auth: { method: 'certificate' },
    cnf: {},
    act: { sub: 'root' },
  };
  t.strictSame(
    claimsOf(sign(userWith({ ...forged, exp: 1, iat: 1, groups: ['a'], email: 'ä@b', azp: 'shop' }), ordersId)),
    {
      groups: ['a'],
      email: 'ä@b',
      azp: 'shop',
      sub: 'ann',
      auth: { method: 'jwt', iss: 'https://idp.test' },
      ...own,
      txn: 'r-1',
    },
    'claims that are the gateway’s own are not the user’s',
  );
  t.strictSame(
    claimsOf(
      sign({ ...userWith({}), auth: undefined, clientId: 'robot', authMethod: 'apiKey', requestId: 'r-2' }, ordersId),
    ),
    { sub: 'robot', auth: { method: 'apiKey' }, ...own, txn: 'r-2' },
    'a user with a name only',
  );
  t.strictSame(
    claimsOf(sign(userWith({}, { tokenValidUntil: now + 600_000 }), ordersId))['auth'],
    { method: 'jwt', iss: 'https://idp.test', exp: (now + 600_000) / 1000 },
    'the expiry of the user’s own token',
  );
  t.equal(claimsOf(sign(userWith({ scope: 'a b' }), ordersId))['scope'], 'a b', 'values unchanged');
  t.strictSame(
    claimsOf(sign(userWith({ scope: ['a b', 'c'] }), ordersId))['scope'],
    ['a b', 'c'],
    'a single value stays single',
  );
  const odd = JSON.parse('{"__proto__":{"groups":["root"]},"constructor":1}') as Record<string, unknown>;
  const seen = verify(sign(userWith(odd), ordersId)).auth.claims;
  t.strictSame(Object.entries(seen).slice(0, 2), [
    ['__proto__', { groups: ['root'] }],
    ['constructor', 1],
  ]);
  t.notOk('groups' in seen, 'a claim is a claim, whatever its name');
});

t.test('when a token is renewed, and until when it is valid', async (t) => {
  let at = now;
  const identity = new LiveCell<Identity | undefined>(undefined);
  const sign = createTokenSigner(identity, () => at);
  const user = userWith({ groups: ['a'] });
  t.throws(() => sign(user, ordersId), { code: 'not_ready', message: /there is no SVID to sign/ });
  identity.set(identityOf(authority, gateway));
  const first = sign(user, ordersId);
  at += 29_000;
  t.equal(sign({ ...user, requestId: 'r-2' }, ordersId), first, 'the same token for half of its lifetime');
  t.not(sign(user, otherId), first, 'another token for another audience');
  t.not(sign(userWith({ groups: ['a'] }), ordersId), first, 'another token for other claims');
  t.not(sign({ ...user, authMethod: 'oidc' }, ordersId), first, 'another token for another method');
  t.not(sign({ ...user, tokenValidUntil: now + 90_000 }, ordersId), first, 'another token for another expiry');
  const nameless = { ...user, auth: readClaims({ groups: ['a'] }) };
  const robots = ['r1', 'r2'].map(
    (clientId) => verify(sign({ ...nameless, clientId }, ordersId), orders, at).auth.subject,
  );
  t.strictSame(robots, ['r1', 'r2'], 'another token for another name with the same claims');
  const again = sign(user, ordersId);
  at += 31_000;
  const second = sign(user, ordersId);
  t.not(second, again, 'then another token');
  t.equal(verify(second, orders, at).at, at);
  identity.set(identityOf(authority, await createCredential(authority, gatewayId)));
  const third = sign(user, ordersId);
  t.not(third.split('.')[0], second.split('.')[0], 'after a rotation, a token by the new leaf');
  t.ok(verify(third, orders, at));

  const end = (token: string): number =>
    (JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString()) as { exp: number }).exp;
  t.equal(end(sign({ ...user, tokenValidUntil: at + 20_000 }, ordersId)), Math.floor((at + 20_000) / 1000));
  for (const [name, tokenValidUntil] of [
    ['a user whose token has expired', at - 1],
    ['a user whose token expires within this second', at + 1],
  ] as const)
    t.throws(() => sign({ ...user, tokenValidUntil }, ordersId), { code: 'jwt_expired', message: /has expired/ }, name);
  const short = await createCredential(authority, gatewayId, { notBefore: at - 60_000, notAfter: at + 20_000 });
  identity.set(identityOf(authority, short));
  t.equal(end(sign(user, ordersId)), Math.floor((at + 20_000) / 1000), 'not longer than the SVID');
  at += 20_000;
  t.throws(() => sign(user, ordersId), { code: 'not_ready', message: /our SVID has expired/ });
  t.throws(() => sign({ ...user, authMethod: undefined }, ordersId), TypeError);
});

t.test('claims that do not fit are refused, not truncated', async (t) => {
  const sign = createTokenSigner(new LiveCell(identityOf(authority, gateway)), () => now);
  const groups = Array.from({ length: 400 }, (_, index) => `group-${index}`);
  t.throws(() => sign(userWith({ groups }), ordersId), {
    code: 'txn_token_too_large',
    message: /^the transaction token of a user by jwt has \d+ characters; the limit is 8192$/,
    row: { status: 431 },
  });
  t.ok(verify(sign(userWith({ groups: groups.slice(0, 200) }), ordersId)), 'those that fit are sent');
});

t.test('the cache is bounded, and not shared between peers', async (t) => {
  const sign = createTokenSigner(new LiveCell(identityOf(authority, gateway)), () => now);
  const users = Array.from({ length: 3000 }, (_, index) => userWith({ sub: `u${index}`, text: 'x'.repeat(2000) }));
  const tokens = users.map((user) => sign(user, ordersId));
  t.not(sign(users[0]!, ordersId), tokens[0], 'the first was evicted');
  t.equal(sign(users.at(-1)!, ordersId), tokens.at(-1), 'the last was not');
  const early = verify(tokens[0]!);
  t.equal(verify(tokens[0]!), early, 'remembered');
  for (const token of tokens) verify(token);
  t.not(verify(tokens[0]!), early, "the verifier's cache is bounded as well");
  t.equal(verify(tokens.at(-1)!), verify(tokens.at(-1)!), 'verified once');
  const known = verify(tokens[0]!);
  t.equal(known.auth.subject, 'u0');
  refuses(
    t,
    () => verify(tokens.at(-1)!, orders, now, otherId),
    /its issuer is not the peer that presented it/,
    'another peer',
  );
  refuses(t, () => verify(tokens.at(-1)!, orders, now + 60_000), /it has expired/, 'later');
});

t.test('false tokens are refused', async (t) => {
  const elsewhere = await createAuthority('other.test');
  const namesake = await createAuthority('demo.test');
  const foreign = await createCredential(elsewhere, 'spiffe://other.test/ns/edge/sa/gateway');
  const another = await createCredential(authority, otherId);
  const expired = await createCredential(authority, gatewayId, {
    notBefore: now - 7_200_000,
    notAfter: now - 3_600_000,
  });
  const small = generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey;
  const weak = await createCredentialWith(authority, gatewayId, small);
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const withRsa = await createCredentialWith(authority, gatewayId, rsa);
  const stolen = forge(gateway);
  const [head, payload, signature] = stolen.split('.') as [string, string, string];
  const header = Buffer.from(head, 'base64url').toString();
  const claims = Buffer.from(payload, 'base64url').toString();
  const sealed = (of: string, said: string): string => seal(of, said, (text) => ecdsa(text, gateway.key));
  const spki = createPublicKey(gateway.key).export({ type: 'spki', format: 'pem' });
  const hmac = (text: string): Buffer => createHmac('sha256', spki).update(text).digest();
  const lie = (one: Lie, by = gateway): string => forge(by, one);
  const claim = (one: Record<string, unknown>): string => lie({ claims: one });
  const cases: [string, string, RegExp][] = [
    ['expired', claim({ iat: seconds - 61, exp: seconds - 1 }), /it has expired/],
    ['expires now', claim({ iat: seconds - 60, exp: Math.floor(now / 1000) }), /it has expired/],
    ['61 s', claim({ exp: seconds + 61 }), /its lifetime is 61 s; the limit is 60 s/],
    ['an expiry before its beginning', claim({ iat: seconds + 9, exp: seconds + 5 }), /its lifetime is -4 s/],
    ['from the future', claim({ iat: seconds + 30, exp: seconds + 60 }), /it was issued in the future/],
    ['not valid yet', claim({ nbf: seconds + 30 }), /it is not valid yet/],
    ['no exp', claim({ exp: undefined }), /'exp' and 'iat' are not both numbers/],
    ['no iat', claim({ iat: undefined }), /'exp' and 'iat' are not both numbers/],
    ['exp in letters', claim({ exp: `${seconds + 60}` }), /'exp' and 'iat' are not both numbers/],
    ['for another workload', claim({ aud: 'spiffe://demo.test/ns/shop/sa/web' }), /it is not for \S+orders alone/],
    ['for us and others', claim({ aud: [ordersId, otherId] }), /it is not for \S+orders alone/],
    ['without an audience', claim({ aud: undefined }), /it is not for \S+orders alone/],
    ['of another gateway', claim({ iss: otherId }), /its issuer is not the peer that presented it/],
    ['signed by another workload', forge(another), /it is signed by spiffe:\/\/demo.test\/ns\/edge\/sa\/other/],
    ['sub that is not a string', claim({ sub: 7 }), /'sub' is not a string/],
    ['no method', claim({ auth: { iss: 'x' } }), /'auth' has no 'method'/],
    ['auth as a list', claim({ auth: [] }), /'auth' has no 'method'/],
    ['auth.exp as a string', claim({ auth: { method: 'jwt', exp: 'x' } }), /'auth.exp' is not a number/],
    [
      'a user whose token has expired',
      claim({ auth: { method: 'jwt', exp: seconds - 1 } }),
      /the credential of the user has expired/,
    ],
    ['a chain of another trust domain', lie({}, foreign), /no bundle for the trust domain/],
    ['a CA of the same name', lie({}, await createCredential(namesake, gatewayId)), /no valid path leads from/],
    ['a leaf without its issuer', lie({ chain: [gateway.chain[0]!] }), /no valid path leads from/],
    ['self-signed', lie({ chain: [authority.root] }), /not an X509-SVID/],
    ['a leaf that has expired', lie({}, expired), /the certificate of \S+ expired at/],
    [
      'nine certificates',
      lie({ chain: Array.from({ length: 9 }, () => gateway.chain[0]!) }),
      /not a list of 1 to 8 cert/,
    ],
    ['no x5c', lie({ header: { x5c: undefined } }), /not a list of 1 to 8 certificates/],
    ['an empty x5c', lie({ chain: [] }), /not a list of 1 to 8 certificates/],
    ['x5c that is not base64', lie({ header: { x5c: ['@@'] } }), /its 'x5c' is not base64/],
    [
      'x5c in base64url',
      lie({ header: { x5c: gateway.chain.map((der) => der.toString('base64url')) } }),
      /'x5c' is not base64/,
    ],
    ['x5c with other content', lie({ header: { x5c: [7] } }), /its 'x5c' is not base64/],
    ['x5c with another key beside it', lie({ header: { jwk: {}, x5c: ['AAAA'] } }), /cannot parse the certificate/],
    ['another type', lie({ header: { typ: 'JWT' } }), /its type is not 'txntoken\+jwt'/],
    ['its type in upper case', lie({ header: { typ: 'TXNTOKEN+JWT' } }), /its type is not/],
    ['no type', lie({ header: { typ: undefined } }), /its type is not/],
    ['crit', lie({ header: { crit: ['exp'] } }), /it has 'crit', and no critical extension is supported/],
    ['alg none', lie({ header: { alg: 'none' } }), /its algorithm does not match the key of its leaf \(ES256\)/],
    [
      'alg none, and no signature',
      `${lie({ header: { alg: 'none' } })
        .split('.')
        .slice(0, 2)
        .join('.')}.`,
      /algorithm|base64url/,
    ],
    ['HS256 with the public key', lie({ header: { alg: 'HS256' }, signature: hmac }), /its algorithm does not match/],
    [
      'ES256 that is HMAC with the public key',
      lie({ signature: hmac }),
      /its signature was not made with the key of its leaf/,
    ],
    ['RS256 with an EC leaf', lie({ header: { alg: 'RS256' } }), /its algorithm does not match/],
    ['ES256 with an RSA leaf', lie({}, withRsa), /its algorithm does not match the key of its leaf \(RS256\)/],
    ['PS256 with an RSA leaf', lie({ header: { alg: 'PS256' } }, withRsa), /its algorithm does not match/],
    [
      'a short RSA key',
      lie({ header: { alg: 'RS256' } }, weak),
      /its algorithm does not match the key of its leaf \(none\)/,
    ],
    ['the key of another identity', lie({ key: another.key }), /its signature was not made with the key of its leaf/],
    [
      'a signature in DER',
      lie({ signature: (text) => Buffer.from(ecdsa(text, gateway.key).subarray(1)) }),
      /its signature was not made with the key of its leaf/,
    ],
    [
      'claims of another token',
      [head, forge(gateway, { claims: { sub: 'root' } }).split('.')[1], signature].join('.'),
      /its signature was not made with/,
    ],
    ['garbage', 'x.y.z', /its payload is not base64url/],
    ['nothing', '', /does not have three parts/],
    ['two parts', `${head}.${payload}`, /it does not have three parts with dots between them/],
    ['four parts', `${stolen}.x`, /it does not have three parts with dots between them/],
    ['padding', `${stolen}=`, /its signature is not base64url/],
    ['two in one field', `${stolen}, ${stolen}`, /it does not have three parts/],
    ['JSON, not signed', assemble(header, claims), /its signature was not made with the key of its leaf/],
    ['a payload that is not JSON', sealed(header, '{'), /its payload is not JSON/],
    ['a payload that is a list', sealed(header, '[]'), /its payload is not an object/],
    ['a header that is a string', sealed('"x"', claims), /its header is not an object/],
    ['a claim twice', sealed(header, claims.replace('{', '{"sub":"root",')), /its payload names a field twice/],
    ['a header twice', sealed(header.replace('{', '{"alg":"none",'), claims), /its header names a field twice/],
    ['too long', claim({ text: 'x'.repeat(8192) }), /it has \d+ characters; the limit is 8192/],
  ];
  for (const [name, token, why] of cases) refuses(t, () => verify(token), why, name);
  t.equal(new Set(cases.map(([name]) => name)).size, cases.length);
  t.ok(verify(stolen), 'the token that all are derived from is valid');
  t.match(
    verify(claim({ aud: [ordersId], iat: seconds + 9, nbf: seconds + 9 })),
    { auth: { subject: 'ann' } },
    'this one is valid, too',
  );
  refuses(
    t,
    () => verify(stolen, orders, now, otherId),
    /its issuer is not the peer/,
    'stolen, and presented by another peer',
  );
  const web = identityOf(authority, await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web'));
  refuses(t, () => verify(stolen, web), /it is not for \S+web alone/, 'stolen, and presented to another workload');
});

t.test('a signer that is denied or no longer trusted affects requests in flight at once', async (t) => {
  const serial = new X509Certificate(gateway.chain[0]!).serialNumber.toLowerCase();
  const namesake = await createAuthority('demo.test');
  const token = forge(gateway);
  const vouched = verify(token);
  const denied = { ...orders.denied, serials: new Set([serial]) };
  const changes: [string, Partial<Identity>, RegExp][] = [
    ['its serial is denied', { denied }, /certificate \w+ of \S+gateway is revoked/],
    ['its ID is denied', { denied: { ...orders.denied, ids: new Set([gatewayId]) } }, /\S+gateway is on the deny list/],
    ['its root is removed', { bundles: namesake.bundles }, /no valid path leads from/],
    ['its bundle is removed', { bundles: new Map() }, /no bundle for the trust domain/],
  ];
  for (const [name, change, why] of changes) {
    const next = { ...orders, ...change };
    refuses(t, () => verify(token, next), why, name);
    refuses(t, () => checkVouched(vouched, next), why, `${name}, in flight`);
  }
  t.equal(checkVouched(vouched, { ...orders }), undefined, 'another generation that changes nothing about it');
  const old = await createCredential(authority, gatewayId, { notBefore: now - 60_000, notAfter: now + 30_000 });
  const early = verify(forge(old));
  t.equal(checkVouched(early, { ...orders }), undefined);
  refuses(
    t,
    () => verify(forge(old), orders, now + 31_000),
    /the certificate of \S+ expired/,
    'a leaf that ended is no signer',
  );
});

t.test('in flight, the user’s credential sets the expiry, not the token', async (t) => {
  t.equal(verify(forge(gateway)).validUntil, Number.POSITIVE_INFINITY);
  const until = verify(forge(gateway, { claims: { auth: { method: 'jwt', exp: seconds + 900.5 } } })).validUntil;
  t.equal(until, seconds * 1000 + 900_500);
});

t.test('gateways in sidecar.yaml', async (t) => {
  const yaml = (list: string): string =>
    `trustDomain: demo.test\nworkload: { serviceAccount: a }\nidentity: { files: { svid: a, key: b, bundle: c } }\ninbound: [{ port: 1, app: '127.0.0.1:2' }]\n${list}`;
  t.strictSame(parseSettings(yaml(''), 'x.yaml').gateways, []);
  t.strictSame(parseSettings(yaml(`gateways: [${gatewayId}]`), 'x.yaml').gateways, [gatewayId]);
  const wrong: [string, RegExp][] = [
    ['gateway', /^x.yaml:5:12: gateways\[0\]: 'gateway' is not a SPIFFE ID: it does not begin with spiffe:\/\//],
    ['spiffe://demo.test', /^x.yaml:5:12: gateways\[0\]: 'spiffe:\/\/demo.test' is a trust domain, not a workload/],
    [
      'spiffe://a.test/g',
      /^x.yaml:5:12: gateways\[0\]: there is no bundle for a.test: name its file under 'federatedBundles'/,
    ],
  ];
  for (const [id, message] of wrong)
    t.throws(() => parseSettings(yaml(`gateways: [${id}]`), 'x.yaml'), { code: 'config_invalid', message }, id);
});

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/.~ \t,"{\u0000\u007f\u00ff';
const touched = createTokenSigner(new LiveCell(identityOf(authority, gateway)))(userWith({ groups: ['a'] }), ordersId);

fuzz(
  t,
  'a token with any one character changed is never believed',
  (random) => {
    const at = random.below(touched.length);
    const other = alphabet[random.below(alphabet.length)]!;
    return other === touched[at] ? touched : touched.slice(0, at) + other + touched.slice(at + 1);
  },
  (token) => {
    const believed = verifyTransactionToken(token, gatewayId, orders, Date.now());
    if (token !== touched) throw new Error(`it was believed, as ${believed.auth.principal}`);
  },
  ['txn_token_invalid'],
);

fuzz(
  t,
  'what one side signs the other reads',
  (random) => {
    const value = (depth: number): unknown => {
      const kinds = [
        () => random.below(1e9),
        () => randomUUID(),
        () => random.next() < 0.5,
        () => null,
        () => 'ä"\\\u2028',
      ];
      if (depth > 2) return random.pick(kinds)();
      return random.pick([...kinds, () => [value(depth + 1), value(depth + 1)], () => ({ a: value(depth + 1) })])();
    };
    const names = [
      'groups',
      'scope',
      'permission',
      'iss',
      'sub',
      'aud',
      'exp',
      'auth',
      'txn',
      '__proto__',
      '',
      'ü',
      'a.b',
    ];
    return Object.fromEntries(Array.from({ length: random.below(6) }, () => [random.pick(names), value(0)]));
  },
  (claims) => {
    const sign: SignTransactionToken = createTokenSigner(new LiveCell(identityOf(authority, gateway)));
    const user = userWith(claims);
    const { auth } = verifyTransactionToken(sign(user, ordersId), gatewayId, orders, Date.now());
    const taken = new Set(['iss', 'sub', 'aud', 'exp', 'iat', 'auth', 'txn']);
    for (const [name, said] of Object.entries(user.auth!.claims)) {
      if (taken.has(name)) continue;
      if (JSON.stringify(auth.claims[name] ?? null) !== JSON.stringify(said ?? null))
        throw new Error(`${name}: ${JSON.stringify(said)} became ${JSON.stringify(auth.claims[name])}`);
    }
    if (auth.issuer !== gatewayId) throw new Error(`it is of ${auth.issuer}`);
  },
);

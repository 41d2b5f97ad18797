// A user behind a gateway, as the next sidecar sees them: what policy evaluates, what the app gets, which peers are not
// trusted, and what happens to requests in flight when the gateway is no longer trusted.

import { createHmac, createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import type { Exchange, Route } from '../../sidecar/exchange/exchange.ts';
import { addFields, withoutTaken } from '../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import { meshAlpn } from '../../sidecar/policy/mtls.ts';
import { verifyTransactionToken } from '../../sidecar/policy/transaction-token.ts';
import { createTokenSigner } from '../../sidecar/tokens/sign.ts';
import { carryTransactionToken } from '../../sidecar/tokens/transaction-token.ts';
import { type Backend, exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';
import {
  createCredentialWith,
  ecdsa,
  forge,
  gatewayId,
  identityOf,
  ordersId,
  userWith,
} from '../fixtures/transaction-tokens.ts';

const otherId = 'spiffe://demo.test/ns/edge/sa/other';

/** Clerks through the gateway may do everything; users known to any gateway may read; /open is open to all. */
const clerks = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: clerks, namespace: shop }
spec:
  rules:
    - from: [{ source: { principals: [demo.test/ns/edge/sa/gateway] } }]
      when: [{ key: "request.auth.claims[groups]", values: [clerks] }]
    - from: [{ source: { requestPrincipals: ["*"] } }]
      to: [{ operation: { methods: [GET], paths: [/read] } }]
    - from: [{ source: { requestPrincipals: ["${gatewayId}/ann"] } }]
      to: [{ operation: { paths: [/ann] } }]
    - to: [{ operation: { paths: [/open, /open/*] } }]
`;

interface Scene {
  readonly mesh: Mesh;
  readonly backend: Backend;
  readonly gateway: Credential;
  /** Sends a request with one extra field. */
  ask(by: Credential | undefined, path: string, ...fields: string[]): Promise<string>;
  /** Sends bytes to `orders`, for requests that are less simple. */
  send(by: Credential, bytes: string): Promise<string>;
  /** The same, as the app of `web`, through its own sidecar. */
  leave(bytes: string): Promise<string>;
  received(): string;
  /** Answers the requests for /wait. */
  release(): void;
  /** From here on `records` are those of the new requests. */
  begin(): void;
  records(count: number): Promise<Record<string, unknown>[]>;
}

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

async function start(t: Owner, { policy = clerks, yaml = `gateways: [${gatewayId}]\n` } = {}): Promise<Scene> {
  const waiting: Socket[] = [];
  const backend = await startBackend(t, (socket, soFar) => {
    if (!/\r\n\r\n$/.test(soFar)) return;
    if (soFar.includes('/wait')) waiting.push(socket);
    else socket.end(ok);
  });
  const mesh = await startMesh(t, { app: backend.port, policy, ordersYaml: yaml });
  const gateway = await createCredential(mesh.authority, gatewayId);
  const head = (path: string, fields: readonly string[]): string =>
    `GET ${path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields.map((one) => `${one}\r\n`).join('')}\r\n`;
  // Each is recorded, in the end.
  let asked = 0;
  let before = 0;
  const send = async (by: Credential | undefined, bytes: string): Promise<string> => {
    asked++;
    if (by === undefined) return exchangeBytes(mesh.inPort, bytes);
    // One of the tests has a PERMISSIVE port.
    const options = { ALPNProtocols: ['http/1.1', meshAlpn] };
    return (await askAsPeer(mesh.inPort, mesh.authority, by, bytes, options)).text;
  };
  return {
    ...{ mesh, backend, gateway, send },
    received: () => backend.received.at(-1)!.toString('latin1'),
    release: () => {
      for (const socket of waiting.splice(0)) socket.end(ok);
    },
    ask: (by, path, ...fields) => send(by, head(path, fields)),
    leave: (bytes) => {
      asked++;
      return exchangeBytes(mesh.outPort, bytes);
    },
    begin: () => {
      before = asked;
    },
    records: async (count) => (await mesh.records('orders', before + count)).slice(before),
  };
}

const txn = (token: string): string => `Txn-Token: ${token}`;

/** Until a request for this path is in flight. */
const inFlight = (mesh: Mesh, count: number): Promise<unknown> =>
  until(async () => {
    const list = (await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/connections`)).json()) as { inFlight: number }[];
    return list.reduce((sum, one) => sum + one.inFlight, 0) === count;
  }, `${count} requests in flight`);

/** The counts of one sidecar by outcome, from its admin port. */
async function countsOf(admin: number): Promise<Record<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${admin}/stats/prometheus`)).text();
  return Object.fromEntries(
    [...text.matchAll(/^sallyport_txn_tokens_total\{outcome="(\w+)"\} (\d+)$/gm)].map(([, name, value]) => [
      name,
      Number(value),
    ]),
  );
}

// Two pairs of sidecars, side by side, for all tests that can share one.
t.jobs = 2;

t.test('tokens that are accepted, and tokens that are refused', { buffered: true }, async (t) => {
  const scene = await start(t);

  await t.test('a user through the gateway: what policy sees, and what the app gets', async (t) => {
    scene.begin();
    const { mesh, gateway, ask, received } = scene;
    const signToken = createTokenSigner(new LiveCell(identityOf(mesh.authority, gateway)));
    const clerk = signToken(userWith({ groups: ['clerks'], scope: 'a b' }), ordersId);
    t.match(await ask(gateway, '/pay', txn(clerk)), /^HTTP\/1\.1 200 /);
    t.ok(
      received().includes(`\r\nTxn-Token: ${clerk}\r\n`),
      'the token is for this workload, and is passed on unchanged',
    );
    t.match(await ask(gateway, '/pay', txn(clerk)), /^HTTP\/1\.1 200 /, 'the cached token works again');
    t.match(await ask(gateway, '/ann', txn(signToken(userWith({}), ordersId))), /^HTTP\/1\.1 200 /);
    t.match(await ask(gateway, '/ann', txn(signToken(userWith({ sub: 'bob' }), ordersId))), /^HTTP\/1\.1 403 /);
    t.match(await ask(gateway, '/pay', txn(signToken(userWith({ groups: ['guests'] }), ordersId))), /^HTTP\/1\.1 403 /);
    t.match(await ask(gateway, '/pay'), /^HTTP\/1\.1 403 .*RBAC: access denied$/s, 'without a token nothing changes');
    t.match(await ask(gateway, '/open'), /^HTTP\/1\.1 200 /);
    t.match(await scene.records(7), [
      { response_code: 200, peer_id: gatewayId, request_auth_principal: `${gatewayId}/ann` },
      { response_code: 200, request_auth_principal: `${gatewayId}/ann` },
      { response_code: 200, policy: 'ns[shop]-policy[clerks]-rule[2]' },
      { response_code: 403, request_auth_principal: `${gatewayId}/bob`, code: 'policy_denied' },
      { response_code: 403, code: 'policy_denied' },
      { response_code: 403, request_auth_principal: null },
      { response_code: 200, request_auth_principal: null },
    ]);
  });

  await t.test('each forgery is refused, and the client is not told why', async (t) => {
    scene.begin();
    const { mesh, backend, gateway, ask } = scene;
    const { authority } = mesh;
    const seconds = Math.floor(Date.now() / 1000);
    const elsewhere = await createAuthority('other.test');
    const namesake = await createAuthority('demo.test');
    const another = await createCredential(authority, otherId);
    const rsa = await createCredentialWith(
      authority,
      gatewayId,
      generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey,
    );
    const spki = createPublicKey(gateway.key).export({ type: 'spki', format: 'pem' });
    const good = forge(gateway);
    const cases: [string, string[], RegExp][] = [
      ['expired', [txn(forge(gateway, { claims: { iat: seconds - 60, exp: seconds - 1 } }))], /it has expired/],
      ['61 s', [txn(forge(gateway, { claims: { iat: seconds, exp: seconds + 61 } }))], /its lifetime is 61 s/],
      ['for another workload', [txn(forge(gateway, { claims: { aud: otherId } }))], /it is not for \S+orders alone/],
      [
        'of another gateway',
        [txn(forge(gateway, { claims: { iss: otherId } }))],
        /its issuer is not the peer that presented it/,
      ],
      ['of another workload that claims to be the gateway', [txn(forge(another))], /it is signed by \S+other/],
      [
        'another trust domain',
        [txn(forge(await createCredential(elsewhere, 'spiffe://other.test/g')))],
        /no bundle for/,
      ],
      ['a CA of the same name', [txn(forge(await createCredential(namesake, gatewayId)))], /no valid path leads from/],
      ['self-signed', [txn(forge(gateway, { chain: [namesake.root] }))], /not an X509-SVID/],
      ['no x5c', [txn(forge(gateway, { header: { x5c: undefined } }))], /not a list of 1 to 8/],
      [
        'alg none',
        [
          txn(
            `${forge(gateway, { header: { alg: 'none' } })
              .split('.')
              .slice(0, 2)
              .join('.')}.AA`,
          ),
        ],
        /algorithm/,
      ],
      [
        'HS256 with the public key',
        [
          txn(
            forge(gateway, {
              header: { alg: 'HS256' },
              signature: (text) => createHmac('sha256', spki).update(text).digest(),
            }),
          ),
        ],
        /its algorithm does not match the key of its leaf/,
      ],
      ['ES256 with an RSA leaf', [txn(forge(rsa, { signature: (text) => ecdsa(text, gateway.key) }))], /\(RS256\)/],
      ['another type', [txn(forge(gateway, { header: { typ: 'JWT' } }))], /its type is not/],
      ['crit', [txn(forge(gateway, { header: { crit: ['exp'] } }))], /it has 'crit'/],
      ['garbage', [txn('x')], /it does not have three parts/],
      ['an empty field', [txn('')], /it does not have three parts/],
      ['too long', [txn(forge(gateway, { claims: { text: 'x'.repeat(8000) } }))], /the limit is 8192/],
      ['two fields', [txn(good), txn(good)], /the request has several tokens, or one in another spelling/],
      ['two fields of two spellings', [txn(good), `Txn_Token: ${good}`], /the request has several/],
      ['one field of another spelling', [`Txn_Token: ${good}`], /one in another spelling/],
    ];
    const before = await countsOf(mesh.inAdmin);
    const seen = backend.received.length;
    for (const [name, fields] of cases)
      t.match(await ask(gateway, '/open', ...fields), /^HTTP\/1\.1 401 .*\r\n\r\ntxn token invalid$/s, name);
    const records = await scene.records(cases.length);
    for (const [index, [name, , reason]] of cases.entries()) {
      t.match(
        records[index],
        { code: 'txn_token_invalid', decision: 'deny', response_code_details: 'txn_token_invalid' },
        name,
      );
      t.match(records[index]!['reason'], reason, name);
    }
    t.equal(backend.received.length, seen, 'the app saw none of them');
    t.same(await countsOf(mesh.inAdmin), { ...before, refused: before['refused']! + cases.length });
    t.match(
      await ask(gateway, '/open', txn(good)),
      /^HTTP\/1\.1 200 /,
      'the token that most are derived from is valid',
    );
    const grpc = ['Content-Type: application/grpc', txn('x')];
    t.match(await ask(gateway, '/open', ...grpc), /^HTTP\/1\.1 200 .*\r\ngrpc-status: 16\r\n/is);
  });

  await t.test('a rotation: the connection has one leaf, and another leaf signed the token', async (t) => {
    scene.begin();
    const { mesh, gateway, ask } = scene;
    const next = await createCredential(mesh.authority, gatewayId);
    t.match(await ask(next, '/pay', txn(forge(gateway))), /^HTTP\/1\.1 200 /, 'an older leaf');
    t.match(await ask(gateway, '/pay', txn(forge(next))), /^HTTP\/1\.1 200 /, 'a newer leaf');
  });

  await t.test(
    'a denied signer, or one whose root is removed: for the next request, and for those in flight',
    async (t) => {
      scene.begin();
      const { mesh, gateway, ask, release } = scene;
      const old = await createCredential(mesh.authority, gatewayId);
      const token = forge(old);
      t.match(await ask(gateway, '/pay', txn(token)), /^HTTP\/1\.1 200 /);
      const denied = ask(gateway, '/open/wait', txn(token));
      const kept = ask(gateway, '/open/wait', txn(forge(gateway)));
      await inFlight(mesh, 2);
      const serials = [new X509Certificate(old.chain[0]!).serialNumber.toLowerCase()];
      const list = { sequence: 2, time: new Date().toISOString(), serials, ids: [] };
      writeFileSync(join(mesh.dir, 'denied.json'), JSON.stringify(list));
      t.match(await denied, /^HTTP\/1\.1 401 /, 'in flight');
      t.match(await ask(gateway, '/open', txn(token)), /^HTTP\/1\.1 401 /, 'cached or not');
      t.match(await ask(gateway, '/pay', txn(forge(gateway))), /^HTTP\/1\.1 200 /, 'another leaf under it is valid');
      release();
      t.match(await kept, /^HTTP\/1\.1 200 /, 'also in flight');
      t.match((await scene.records(5)).slice(1, 3), [
        { code: 'txn_token_invalid', path: '/open/wait', reason: /certificate \w+ of \S+gateway is revoked/ },
        { code: 'txn_token_invalid', path: '/open', reason: /is revoked/ },
      ]);

      const namesake = await createAuthority('demo.test');
      const own = readFileSync(join(mesh.dir, 'bundle.pem'), 'utf8');
      const theirs = forge(await createCredential(namesake, gatewayId));
      writeFileSync(join(mesh.dir, 'bundle.pem'), `${own}${namesake.bundlePem}`);
      await until(async () => (await ask(gateway, '/pay', txn(theirs))).startsWith('HTTP/1.1 200 '), 'the second root');
      writeFileSync(join(mesh.dir, 'bundle.pem'), own);
      await until(
        async () => (await ask(gateway, '/open', txn(theirs))).startsWith('HTTP/1.1 401 '),
        'the root to be gone',
      );
      t.match(await ask(gateway, '/pay', txn(forge(gateway))), /^HTTP\/1\.1 200 /);
    },
  );

  await t.test('with a token for RequestAuthentication both must be valid, and its claims count', async (t) => {
    scene.begin();
    const key = await createKey('k');
    const jwt = `---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: jwt, namespace: shop }\nspec: { jwtRules: [{ issuer: iss.test, jwks: '${jwksOf(key)}' }] }\n`;
    const { mesh, gateway, ask, release } = scene;
    await mesh.setPolicy(`${clerks}${jwt}`);
    const clerk = txn(forge(gateway));
    const guest = txn(forge(gateway, { claims: { groups: ['guests'] } }));
    const bearer = async (claims: Record<string, unknown>): Promise<string> =>
      `Authorization: Bearer ${await sign(key, { iss: 'iss.test', sub: 'ann', ...claims })}`;
    t.match(await ask(gateway, '/pay', clerk), /^HTTP\/1\.1 200 /, 'alone, as without RequestAuthentication');
    t.match(await ask(gateway, '/pay', clerk, await bearer({ groups: ['guests'] })), /^HTTP\/1\.1 403 /);
    t.match(await ask(gateway, '/pay', guest, await bearer({ groups: ['clerks'] })), /^HTTP\/1\.1 200 /);
    t.match(await ask(gateway, '/pay', clerk, await bearer({ exp: 1 })), /^HTTP\/1\.1 401 .*Jwt is expired$/s);
    t.match(await ask(gateway, '/pay', txn('x'), await bearer({ groups: ['clerks'] })), /^HTTP\/1\.1 401 .*txn token/s);
    t.match(await scene.records(5), [
      { request_auth_principal: `${gatewayId}/ann` },
      { request_auth_principal: 'iss.test/ann' },
      { request_auth_principal: 'iss.test/ann' },
      { code: 'jwt_expired' },
      { code: 'txn_token_invalid' },
    ]);
    const soon = Math.floor(Date.now() / 1000) + 2;
    const short = txn(forge(gateway, { claims: { auth: { method: 'jwt', exp: soon } } }));
    t.match(
      await ask(gateway, '/open/wait', short, await bearer({})),
      /^HTTP\/1\.1 401 /,
      'it ends with the first of the two',
    );
    const kept = ask(gateway, '/wait', clerk, await bearer({ groups: ['clerks'] }));
    await inFlight(mesh, 1);
    await mesh.setPolicy(clerks);
    release();
    t.match(await kept, /^HTTP\/1\.1 200 /);
    const last = (await scene.records(7)).at(-1);
    t.match(
      last,
      { request_auth_principal: `${gatewayId}/ann` },
      "without RequestAuthentication the gateway's token counts again",
    );
  });
});

t.test('gateways that are not trusted, and no longer trusted', { buffered: true }, async (t) => {
  const permissive = `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: shop, namespace: shop }\nspec: { mtls: { mode: PERMISSIVE } }\n`;
  const scene = await start(t, { policy: `${clerks}${permissive}` });

  await t.test('a token from an untrusted peer is removed, valid or not', async (t) => {
    scene.begin();
    const { mesh, gateway, ask, received } = scene;
    const another = await createCredential(mesh.authority, otherId);
    const token = forge(gateway);
    const own = forge(another, { claims: { iss: otherId } });
    const before = await countsOf(mesh.inAdmin);
    const strangers: [string, Credential | undefined, string][] = [
      ['stolen', another, token],
      ['signed by the peer itself', another, own],
      ['in plaintext', undefined, token],
    ];
    for (const [name, by, said] of strangers) {
      t.match(await ask(by, '/read', txn(said)), /^HTTP\/1\.1 403 /, `${name}: it authenticates no user`);
      for (const field of [txn(said), `txn_token: ${said}`, `TXN-TOKEN: ${said}`, txn('garbage')]) {
        t.match(await ask(by, '/open', field, 'X-Kept: 1'), /^HTTP\/1\.1 200 /, `${name}: it is not verified`);
        t.notMatch(received(), /txn.token/i, `${name}: the app does not see it`);
        t.match(received(), /x-kept: 1/i);
      }
    }
    t.same(await countsOf(mesh.inAdmin), { ...before, untrusted_peer: before['untrusted_peer']! + 15 });

    await t.test('a token in trailers is removed, from any peer', async (t) => {
      const trailers = `Txn-Token: ${token}\r\nTxn_Token: ${token}\r\nX-Last: 1\r\n\r\n`;
      const chunked = `POST /open HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: txn-token, x-last\r\n`;
      for (const field of ['', `${txn(token)}\r\n`]) {
        await scene.send(gateway, `${chunked}${field}\r\n2\r\nhi\r\n0\r\n${trailers}`);
        await until(() => /x-last: 1\r\n\r\n$/i.test(received()), 'the trailers');
        t.equal(received().split('\r\n0\r\n')[1], 'X-Last: 1\r\n\r\n');
        t.equal(/\r\ntxn-token: /i.test(received()), field !== '');
      }
    });

    await t.test('a token from our own app is removed outbound', async (t) => {
      const was = await countsOf(mesh.outAdmin);
      const line = 'GET /open HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n';
      t.match(await scene.leave(`${line}${txn(token)}\r\nX-Kept: 1\r\n\r\n`), /^HTTP\/1\.1 200 /);
      t.notMatch(received(), /txn-token/i);
      t.match(received(), /x-kept: 1/i);
      t.same(await countsOf(mesh.outAdmin), { ...was, own_app: was['own_app']! + 1 });
    });
  });

  await t.test('without gateways in sidecar.yaml no peer is trusted', async (t) => {
    const { gateway, ask, received } = await start(t, { yaml: '' });
    t.match(await ask(gateway, '/pay', txn(forge(gateway))), /^HTTP\/1\.1 403 /);
    t.match(await ask(gateway, '/open', txn(forge(gateway))), /^HTTP\/1\.1 200 /);
    t.notMatch(received(), /txn-token/i);
  });

  await t.test('in flight: the token may expire, the credential of the user may not', async (t) => {
    scene.begin();
    const { mesh, gateway, ask, release } = scene;
    const soon = Math.floor(Date.now() / 1000) + 2;
    const outlived = ask(gateway, '/open/wait', txn(forge(gateway, { claims: { exp: soon } })));
    const ended = ask(gateway, '/open/wait', txn(forge(gateway, { claims: { auth: { method: 'jwt', exp: soon } } })));
    await inFlight(mesh, 2);
    t.match(await ended, /^HTTP\/1\.1 401 /);
    t.ok(Date.now() >= soon * 1000, 'not before it expires');
    t.match(await scene.records(1), [{ code: 'jwt_expired' }]);
    release();
    t.match(await outlived, /^HTTP\/1\.1 200 /, 'a stream lasts longer than the minute in which it may begin');
  });

  await t.test('in flight: the claims of a gateway that is no longer trusted are dropped', async (t) => {
    scene.begin();
    const { mesh, gateway, ask, release } = scene;
    const asClerk = ask(gateway, '/wait', txn(forge(gateway)));
    const asAnybody = ask(gateway, '/open/wait', txn(forge(gateway)));
    await inFlight(mesh, 2);
    const file = join(mesh.dir, 'orders.yaml');
    writeFileSync(file, readFileSync(file, 'utf8').replace(/^gateways: .*$/m, `gateways: [${otherId}]`));
    t.match(await asClerk, /^HTTP\/1\.1 403 .*RBAC: access denied$/s);
    release();
    t.match(await asAnybody, /^HTTP\/1\.1 200 /, 'policy is evaluated again, without the claims');
    t.match(await scene.records(2), [
      { code: 'policy_denied', request_auth_principal: null },
      { response_code: 200, request_auth_principal: null },
    ]);
  });
});

t.test("the gateway replaces the client's claims with its own token", async (t) => {
  const authority = await createAuthority('demo.test');
  const identity = identityOf(authority, await createCredential(authority, gatewayId));
  const signToken = createTokenSigner(new LiveCell(identity));
  const carry = (known: Partial<Exchange>): Exchange => {
    const fields = addFields(emptyFields, [
      ['Txn-Token', 'forged'],
      ['txn_token', 'forged'],
      ['X-Kept', '1'],
    ]);
    const exchange: Partial<Exchange> = {
      fields,
      requestId: 'r-9',
      tokenValidUntil: Number.POSITIVE_INFINITY,
      ...known,
    };
    carryTransactionToken(exchange as Exchange, signToken);
    return exchange as Exchange;
  };
  const route = { principal: ordersId } as Route;
  const told = carry({ route, authMethod: 'apiKey', clientId: 'robot' });
  t.strictSame(
    told.fields.names.map(({ lower }) => lower),
    ['x-kept', 'txn-token'],
  );
  t.strictSame(withoutTaken(told, addFields(emptyFields, [['Txn-Token', 'x']])).names, [], 'nor in trailers');
  const orders = identityOf(authority, await createCredential(authority, ordersId));
  t.match(verifyTransactionToken(told.fields.values[1]!, gatewayId, orders, Date.now()), {
    auth: { principal: `${gatewayId}/robot`, claims: { txn: 'r-9', auth: { method: 'apiKey' } } },
  });
  for (const [name, known] of [
    ['no method authenticated the user', { route }],
    ['there is no route', { authMethod: 'apiKey', clientId: 'robot' }],
    [
      'the upstream has no identity',
      { route: { principal: undefined } as Route, authMethod: 'apiKey', clientId: 'robot' },
    ],
  ] as const)
    t.strictSame(carry(known).fields.values, ['1'], name);
});

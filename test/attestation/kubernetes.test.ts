// Service-account tokens as evidence: a pod gets the SVID of its account, and every other token gets none.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { SignJWT } from 'jose';
import t from 'tap';
import { createCluster } from '../../cert-agent/attestation/cluster.ts';
import type { ClusterTokens } from '../../cert-agent/attestation/contract.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { ask, leafOf, newKey, startTestCa, svidOf } from '../fixtures/ca.ts';
import { audience, type Cluster, startCluster } from '../fixtures/cluster.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { type Owner, runSallyport, tempDir, until } from '../fixtures/process.ts';
import { assemble, createKey, sign } from '../fixtures/tokens.ts';

const silent = createLog({ component: 'ca', level: 'silent' });

function tokensOf(cluster: Cluster, more: object = {}, clock = new ManualClock()): ClusterTokens {
  const { url, issuer, caFile, tokenFile } = cluster;
  return createCluster({ url, issuer, audience, caFile, tokenFile, ...more }, clock, silent);
}

async function refusal(tokens: ClusterTokens, token: string): Promise<string> {
  try {
    return JSON.stringify(await tokens.verify(token));
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return `${code}: ${message.replace('the service-account token is refused: ', '')}`;
  }
}

t.test('a projected token gives the identity of its account', async (t) => {
  const cluster = await startCluster(t);
  t.strictSame(await tokensOf(cluster).verify(await cluster.token()), {
    ...{ namespace: 'shop', serviceAccount: 'web', pod: 'web-0', podUid: 'pod-uid-1' },
  });
  t.strictSame(
    cluster.calls.map(({ method, path, headers }) => [method, path, headers.authorization]),
    [
      ['GET', '/.well-known/openid-configuration', 'Bearer token-of-the-ca'],
      ['GET', '/openid/v1/jwks', 'Bearer token-of-the-ca'],
    ],
    'jwks_uri is another server: our token stays with the API server',
  );
});

t.test('every other token is refused', async (t) => {
  const cluster = await startCluster(t);
  const tokens = tokensOf(cluster);
  const now = Math.floor(Date.now() / 1000);
  const other = await createKey('first', 'RS256');
  const unknown = await createKey('unknown', 'RS256');
  const own = cluster.claims()['kubernetes.io'] as Record<string, unknown>;
  const publicKey = new TextEncoder().encode(JSON.stringify(cluster.key.jwk));
  const hmac = await new SignJWT(cluster.claims({ iat: now, exp: now + 60 }))
    .setProtectedHeader({ alg: 'HS256', kid: 'first' })
    .sign(publicKey);
  const payload = JSON.stringify(cluster.claims({ iat: now, exp: now + 60 }));
  const good = await cluster.token();
  const [head, , signature] = good.split('.');
  for (const [name, token, expected] of [
    [
      'another audience',
      await cluster.token({ aud: ['https://kubernetes.default.svc'] }),
      /invalid: .*another audience/,
    ],
    ['no audience', await cluster.token({ aud: undefined }), /invalid: .*another audience|invalid: its 'aud'/],
    ['another issuer', await cluster.token({ iss: 'https://other.test' }), /invalid: it is of another cluster/],
    ['expired', await cluster.token({ exp: now - 60 }), /invalid: it has expired/],
    ['no expiry', await cluster.token({ exp: undefined }), /invalid: its 'exp' is missing/],
    ['not yet valid', await cluster.token({ nbf: now + 600 }), /invalid: its 'nbf'/],
    [
      'an account by another name',
      await cluster.token({ sub: 'system:serviceaccount:shop:db' }),
      /'sub' and its service account differ/,
    ],
    [
      'an account in another namespace',
      await cluster.token({ 'kubernetes.io': { ...own, namespace: 'bank' } }),
      /'sub' and its service account differ/,
    ],
    ['no pod', await cluster.token({ 'kubernetes.io': { ...own, pod: undefined } }), /not bound to a pod/],
    [
      'a user',
      await cluster.token({ sub: 'jane', 'kubernetes.io': undefined }),
      /names no namespace and service account/,
    ],
    [
      'a path in the account',
      await cluster.token({
        sub: 'system:serviceaccount:shop:web/../../sallyport/ca',
        'kubernetes.io': { ...own, serviceaccount: { name: 'web/../../sallyport/ca', uid: '1' } },
      }),
      /names no namespace and service account/,
    ],
    ['the key of another with the same kid', await sign(other, cluster.claims()), /invalid: its signature is wrong/],
    ['a kid that is not known', await sign(unknown, cluster.claims()), /invalid: no key of the cluster/],
    ['a kid that is a path', await cluster.token({}, { kid: '../../../dev/null' }), /invalid: no key of the cluster/],
    ['a kid that is SQL', await cluster.token({}, { kid: "x' UNION SELECT 'a" }), /invalid: no key of the cluster/],
    ['its own key in jwk', await sign(other, cluster.claims(), { jwk: other.jwk }), /invalid: its signature is wrong/],
    [
      'keys of its own by jku',
      await sign(unknown, cluster.claims(), { jku: `${cluster.url}/evil` }),
      /invalid: no key/,
    ],
    [
      'crit',
      await cluster
        .token({}, { crit: ['x'], x: 1 })
        .catch(() => assemble('{"alg":"RS256","kid":"first","crit":["x"],"x":1}', payload)),
      /invalid: it is signed in a way/,
    ],
    ['alg none', assemble('{"alg":"none","kid":"first"}', payload, ''), /invalid: /],
    ['alg none in other letters', assemble('{"alg":"nOnE","kid":"first"}', payload), /invalid: it is signed in a way/],
    ['HS256 with the public key', hmac, /invalid: it is signed in a way|invalid: no key/],
    [
      'another payload',
      `${head}.${Buffer.from(payload).toString('base64url')}.${signature}`,
      /invalid: its signature is wrong/,
    ],
    ['no JWT', 'a.b.c', /invalid: it is no JWT/],
    ['nothing', '', /invalid: it is no JWT/],
  ] as const)
    t.match(await refusal(tokens, token), expected, name);
  t.match(await refusal(tokens, good), /"namespace":"shop"/, 'the good one still serves');
  t.notOk(cluster.calls.some(({ path }) => path === '/evil'));
  t.equal(cluster.calls.length, 2, 'however many keys are named, they are fetched once in 10 s');
});

t.test('keys rotate, and are kept for an hour without the API server', async (t) => {
  const cluster = await startCluster(t);
  const clock = new ManualClock();
  const tokens = tokensOf(cluster, {}, clock);
  const lives = { iat: Math.floor(clock.now() / 1000), exp: Math.floor(clock.now() / 1000) + 86_400 };
  await tokens.verify(await cluster.token(lives));
  const second = await createKey('second', 'ES256');
  const old = await cluster.token(lives);
  cluster.keys = [second];
  cluster.key = second;
  const fresh = await cluster.token(lives);
  t.match(await refusal(tokens, fresh), /no key of the cluster/, 'within 10 s of the last fetch');
  clock.advance(10_000);
  t.match(await refusal(tokens, fresh), /"pod":"web-0"/);
  t.match(await refusal(tokens, old), /no key of the cluster/, 'the old key is gone');
  cluster.pages.set('/openid/v1/jwks', '<html>maintenance</html>');
  clock.advance(50 * 60_000);
  t.match(await refusal(tokens, fresh), /"pod":"web-0"/, 'with keys of 50 minutes');
  clock.advance(11 * 60_000);
  t.match(await refusal(tokens, fresh), /^kubernetes_unavailable: the CA cannot verify/, 'not with older ones');
  cluster.pages.clear();
  clock.advance(10_000);
  t.match(await refusal(tokens, fresh), /"pod":"web-0"/, 'and it comes back');
});

t.test('an API server that hangs holds up neither known keys nor other evidence', async (t) => {
  const cluster = await startCluster(t);
  const clock = new ManualClock();
  const tokens = tokensOf(cluster, { timeoutMs: 3000 }, clock);
  const lives = { iat: Math.floor(clock.now() / 1000), exp: Math.floor(clock.now() / 1000) + 86_400 };
  const good = await cluster.token(lives);
  await tokens.verify(good);
  let asked = 0;
  cluster.pages.set('/.well-known/openid-configuration', () => {
    asked++;
  });
  clock.advance(6 * 60_000);
  t.match(await refusal(tokens, good), /"pod":"web-0"/, 'waited for, once');
  t.equal(asked, 1);
  clock.advance(10_000);
  const strange = await sign(await createKey('unknown', 'RS256'), cluster.claims(lives));
  const waiting = Array.from({ length: 64 }, () => refusal(tokens, strange));
  await until(() => asked === 2, 'the question');
  let answered = false;
  const ended = Promise.all(waiting).then((all) => {
    answered = true;
    return all;
  });
  t.match(await refusal(tokens, good), /"pod":"web-0"/);
  t.match(await refusal(tokens, strange), /^kubernetes_unavailable/, 'a 65th does not wait');
  t.equal(answered, false, 'both while the others wait');
  for (const one of await ended) t.match(one, /no key of the cluster/);
  clock.advance(10_000);
  cluster.pages.clear();
  t.match(await refusal(tokens, strange), /no key of the cluster/, 'and it comes back');
});

t.test('an API server that lies, sleeps or fails lets nobody in', async (t) => {
  const discovery = '/.well-known/openid-configuration';
  const jwks = '/openid/v1/jwks';
  const cases: readonly [string, (cluster: Cluster) => void, RegExp][] = [
    [
      'another issuer',
      ({ pages }) =>
        pages.set(discovery, JSON.stringify({ issuer: 'https://evil.test', jwks_uri: 'https://evil.test/k' })),
      /names 'https:\/\/evil\.test' as the issuer.*--kubernetes-issuer/,
    ],
    ['HTML', ({ pages }) => pages.set(discovery, '<!doctype html>'), /answered no JSON/],
    ['a list', ({ pages }) => pages.set(discovery, '[]'), /names nothing as the issuer/],
    ['no keys', ({ pages }) => pages.set(jwks, '{"keys":[]}'), /none of its keys/],
    ['symmetric keys', ({ pages }) => pages.set(jwks, '{"keys":[{"kty":"oct","k":"AAAA"}]}'), /none of its keys/],
    [
      'too many keys',
      ({ pages }) => pages.set(jwks, JSON.stringify({ keys: Array(101).fill({}) })),
      /at most 100 keys/,
    ],
    [
      'a redirect',
      ({ pages }) =>
        pages.set(jwks, (_, response) => void response.writeHead(302, { location: 'https://evil.test/' }).end()),
      /answered 302/,
    ],
    [
      '500',
      ({ pages }) => pages.set(discovery, (_, response) => void response.writeHead(500).end('{}')),
      /answered 500/,
    ],
    [
      'a megabyte',
      ({ pages }) => pages.set(jwks, JSON.stringify({ keys: [], pad: 'x'.repeat(1_000_000) })),
      /exceeded|size/i,
    ],
    ['sleep', ({ pages }) => pages.set(discovery, () => {}), /cannot be asked: .*timeout/],
    [
      'half an answer',
      ({ pages }) => pages.set(jwks, (_, response) => void response.writeHead(200).write('{"keys"')),
      /cannot be asked: .*timeout/,
    ],
    ['a reset', ({ pages }) => pages.set(jwks, (_, response) => response.destroy()), /cannot be asked/],
  ];
  for (const [name, lie, expected] of cases) {
    const cluster = await startCluster(t);
    lie(cluster);
    const lines: string[] = [];
    const log = createLog({ component: 'ca', destination: { write: (line) => lines.push(line) } });
    const { url, issuer, caFile } = cluster;
    const timeoutMs = /sleep|half/.test(name) ? 300 : 30_000;
    const tokens = createCluster({ url, issuer, audience, caFile, timeoutMs }, new ManualClock(), log);
    t.match(await refusal(tokens, await cluster.token()), /^kubernetes_unavailable: the CA cannot verify/, name);
    t.match(lines.join(''), expected, `${name}: the log says why`);
  }
  const cluster = await startCluster(t);
  const { url, issuer } = cluster;
  const strange = createCluster({ url, issuer, audience }, new ManualClock(), silent);
  t.match(
    await refusal(strange, await cluster.token()),
    /kubernetes_unavailable/,
    'a server that the roots do not know',
  );
  t.equal(cluster.calls.length, 0);
});

t.test('an empty file of roots never means the roots of the system', async (t) => {
  const cluster = await startCluster(t);
  const { url, issuer, caFile, tokenFile } = cluster;
  // As if the server had a public certificate.
  const before = getCACertificates('default');
  setDefaultCACertificates([...before, readFileSync(caFile, 'utf8')]);
  t.teardown(() => setDefaultCACertificates(before));
  const empty = join(tempDir(t), 'roots.pem');
  writeFileSync(empty, '\n');
  const lines: string[] = [];
  const log = createLog({ component: 'ca', destination: { write: (line) => lines.push(line) } });
  const tokens = createCluster({ url, issuer, audience, caFile: empty, tokenFile }, new ManualClock(), log);
  t.match(await refusal(tokens, await cluster.token()), /^kubernetes_unavailable/);
  t.match(lines.join(''), /roots\.pem has no certificate \(PEM\)/);
  t.equal(cluster.calls.length, 0, 'the server got nothing');
  const open = createCluster({ url, issuer, audience, tokenFile }, new ManualClock(), silent);
  await refusal(open, await cluster.token());
  t.ok(cluster.calls.length > 0, 'without the file the system decides');
});

t.test('TokenReview: a pod or account that is gone, asked only about tokens that are signed', async (t) => {
  const cluster = await startCluster(t);
  const tokens = tokensOf(cluster, { review: true });
  const good = await cluster.token();
  t.match(await refusal(tokens, good), /"pod":"web-0"/);
  t.match(cluster.calls.at(-1), {
    method: 'POST',
    path: '/apis/authentication.k8s.io/v1/tokenreviews',
    body: { kind: 'TokenReview', spec: { token: good, audiences: [audience] } },
  });
  const asked = cluster.calls.length;
  await refusal(tokens, await sign(await createKey('first', 'RS256'), cluster.claims()));
  t.equal(cluster.calls.length, asked, 'strangers do not reach the API server');
  cluster.gone.add('pod-uid-1');
  t.match(await refusal(tokens, good), /does not exist any more/);
  cluster.gone.clear();
  cluster.gone.add('account-uid-1');
  t.match(await refusal(tokens, good), /does not exist any more/, 'an account that was deleted and made again');
  const page = '/apis/authentication.k8s.io/v1/tokenreviews';
  const status = { authenticated: true, audiences: [audience], user: { username: 'system:serviceaccount:shop:web' } };
  for (const [name, answer, expected] of [
    ['another account', { ...status, user: { username: 'system:serviceaccount:shop:db' } }, /another account/],
    ['another audience', { ...status, audiences: ['x'] }, /another audience/],
    ['no audiences', { ...status, audiences: undefined }, /another audience/],
    ['not a boolean', { ...status, authenticated: 'true' }, /does not exist any more/],
  ] as const) {
    cluster.gone.clear();
    cluster.pages.set(page, JSON.stringify({ kind: 'TokenReview', status: answer }));
    t.match(await refusal(tokens, good), expected, name);
  }
  cluster.pages.set(page, '<html>');
  t.match(await refusal(tokens, good), /^kubernetes_unavailable/, 'HTML');
});

t.test('one pod does not take the reviews of others', async (t) => {
  const cluster = await startCluster(t);
  const tokens = tokensOf(cluster, { review: true, timeoutMs: 30_000 });
  const greedy = await cluster.token();
  const own = cluster.claims()['kubernetes.io'] as object;
  const other = await cluster.token({ 'kubernetes.io': { ...own, pod: { name: 'web-1', uid: 'pod-uid-2' } } });
  const page = '/apis/authentication.k8s.io/v1/tokenreviews';
  const held: (() => void)[] = [];
  const status = { authenticated: true, audiences: [audience], user: { username: 'system:serviceaccount:shop:web' } };
  cluster.pages.set(page, (_, response) => {
    held.push(() => void response.end(JSON.stringify({ kind: 'TokenReview', status })));
  });
  const asked = Array.from({ length: 16 }, () => refusal(tokens, greedy));
  await until(() => held.length === 2, 'two reviews');
  const others = refusal(tokens, other);
  await until(() => held.length === 3, 'that of the other pod');
  for (const answer of held) answer();
  t.match(await others, /"pod":"web-1"/);
  const all = await Promise.all(asked);
  t.equal(all.filter((one) => /"pod":"web-0"/.test(one)).length, 2);
  t.equal(all.filter((one) => /^kubernetes_unavailable/.test(one)).length, 14);
});

/** Waits until `is` is true. */
async function waitFor(is: () => boolean | undefined): Promise<void> {
  await until(() => is() === true, 'the agent');
}

async function startClusterCa(t: Owner, cluster: Cluster, more: object = {}) {
  const { url, issuer, caFile, tokenFile } = cluster;
  const ca = await startTestCa(t, { cluster: { url, issuer, audience, caFile, tokenFile, ...more } });
  return { ca, root: readFileSync(caFilesOf(ca.dir).bundlePem, 'utf8') };
}

t.test('the CA issues for a pod, renews by SVID, and records what proved it', async (t) => {
  const cluster = await startCluster(t);
  const { ca, root } = await startClusterCa(t, cluster, { names: { 'shop/web': ['web.shop.svc'] } });
  const enrol = async (token: string, key = newKey()) => {
    const { csr } = await key;
    return ask(ca.address.port, root, { path: '/v1/svid', body: { csr, kubernetesToken: token } });
  };
  const key = newKey();
  const answer = await enrol(await cluster.token(), key);
  t.match(answer, { status: 200, json: { id: 'spiffe://demo.test/ns/shop/sa/web' } });
  t.equal(
    leafOf(answer).subjectAltName,
    'URI:spiffe://demo.test/ns/shop/sa/web',
    'a name that is not allowed is left out',
  );
  await ca.operator.dns.allow('web.shop.svc');
  const named = await enrol(await cluster.token());
  t.match(leafOf(named).subjectAltName, 'DNS:web.shop.svc');
  const renewed = await ask(ca.address.port, root, {
    ...{ path: '/v1/svid/renew', body: { csr: (await newKey()).csr }, svid: svidOf(answer, await key) },
  });
  t.match(renewed, { status: 200, json: { id: 'spiffe://demo.test/ns/shop/sa/web' } });
  t.match(leafOf(renewed).subjectAltName, 'DNS:web.shop.svc', 'names follow the renewals');
  t.match(await enrol(await cluster.token({ aud: ['x'] })), {
    status: 401,
    json: { code: 'kubernetes_token_invalid' },
  });
  const both = { csr: (await newKey()).csr, token: 'a', kubernetesToken: await cluster.token() };
  t.match(await ask(ca.address.port, root, { path: '/v1/svid', body: both }), {
    status: 400,
    json: { code: 'body_invalid' },
  });
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/web', 'test');
  t.match(
    await enrol(await cluster.token()),
    { status: 403, json: { code: 'id_denied' } },
    'denied, whatever the cluster says',
  );
  await ca.operator.allow('spiffe://demo.test/ns/shop/sa/web');
  t.equal((await enrol(await cluster.token())).status, 200);
});

t.test('one pod cannot fill the store', async (t) => {
  const cluster = await startCluster(t);
  const { ca, root } = await startClusterCa(t, cluster);
  const { csr } = await newKey();
  const token = await cluster.token();
  const body = { csr, kubernetesToken: token };
  let last = await ask(ca.address.port, root, { path: '/v1/svid', body });
  for (let i = 0; i < 70 && last.status === 200; i++)
    last = await ask(ca.address.port, root, { path: '/v1/svid', body });
  t.match(last, { status: 429, json: { code: 'renewals_exhausted' } });
  const pod = { ...(cluster.claims()['kubernetes.io'] as object), pod: { name: 'web-1', uid: 'pod-uid-2' } };
  const other = { csr, kubernetesToken: await cluster.token({ 'kubernetes.io': pod }) };
  t.equal(
    (await ask(ca.address.port, root, { path: '/v1/svid', body: other })).status,
    200,
    'another pod has its own limit',
  );
});

t.test('an agent joins with the file of the kubelet, and comes back after ca allow', async (t) => {
  const cluster = await startCluster(t);
  const { ca } = await startClusterCa(t, cluster);
  const dir = tempDir(t);
  const kubernetesTokenFile = join(dir, 'token');
  const agent = startAgent({
    caUrl: `https://127.0.0.1:${ca.address.port}`,
    caBundleFile: caFilesOf(ca.dir).bundlePem,
    ...{ kubernetesTokenFile, outDir: join(dir, 'out'), log: silent, random: () => 0 },
  });
  t.teardown(() => agent.close());
  await waitFor(() => agent.status().waitingFor?.includes('a service-account token in'));
  writeFileSync(kubernetesTokenFile, await cluster.token({ aud: ['x'] }), { mode: 0o644 });
  agent.renewNow();
  await waitFor(() => agent.status().waitingFor?.includes('a service-account token that the CA accepts'));
  writeFileSync(kubernetesTokenFile, await cluster.token(), { mode: 0o644 });
  await waitFor(() => agent.status().state === 'serving');
  t.equal(agent.status().id, 'spiffe://demo.test/ns/shop/sa/web');
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/web', 'test');
  agent.renewNow();
  await waitFor(() => agent.status().state === 'denied');
  t.match(agent.status().waitingFor, "an operator's 'ca allow'");
  await ca.operator.allow('spiffe://demo.test/ns/shop/sa/web');
  agent.renewNow();
  await waitFor(() => agent.status().state === 'serving');
});

t.test('options of a cluster without a cluster are refused', async (t) => {
  for (const option of [['--kubernetes-dns', 'shop/web=web.shop.svc'], ['--kubernetes-review']]) {
    const { code, stderr } = await runSallyport(t, ['ca', 'serve', '--dir', tempDir(t), ...option]);
    t.equal(code, 2);
    t.match(stderr, /--kubernetes is missing/, option.join(' '));
  }
});

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import type { Route } from '../../cert-agent/ca/api.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { startServer } from '../../cert-agent/ca/server.ts';
import { parseBundle } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { ask, leafOf, makeCa, newKey, type Question, startTestCa, svidOf } from '../fixtures/ca.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createCredential, createSvid } from '../fixtures/pki.ts';
import { tempDir } from '../fixtures/process.ts';

const clock = new ManualClock();
const dir = await makeCa(t, { clock });
const ca = await startTestCa(t, { dir, clock });
const rootPem = readFileSync(caFilesOf(dir).bundlePem, 'utf8');
const web = 'spiffe://demo.test/ns/shop/sa/web';

const call = (question: Question) => ask(ca.address.port, rootPem, { now: clock.now(), ...question });
const newToken = async (id = web, ttlMs = 600_000) => (await ca.operator.createToken(id, ttlMs)).token;
const enrol = async (body: object) => call({ path: '/v1/svid', body });

/** Lets time pass, and runs the CA's upkeep. */
async function pass(ms: number): Promise<void> {
  clock.advance(ms);
  await ca.upkeep();
}

/** A credential that the CA issued, ready to be presented. */
async function enrolled(id = web, ttlSeconds?: number) {
  const key = await newKey();
  const answer = await enrol({ csr: key.csr, token: await newToken(id), ttlSeconds });
  return { key, answer, svid: svidOf(answer, key) };
}

t.test('a token and a CSR give a leaf that conforms to the standard', async (t) => {
  const key = await newKey();
  const answer = await enrol({ csr: key.csr, token: await newToken() });
  t.equal(answer.status, 200);
  const leaf = leafOf(answer);
  t.match(readCertificateFacts(leaf.raw), {
    subjectEmpty: true,
    uris: [web],
    dns: [],
    sanCritical: true,
    isCa: false,
    keyUsage: ['digitalSignature'],
    keyUsageCritical: true,
    tlsUsage: ['serverAuth', 'clientAuth'],
    unknownCritical: [],
  });
  t.equal(answer.json.id, web);
  t.equal(answer.json.serial, leaf.serialNumber.toLowerCase());
  t.match(answer.json.serial, /^[4-7][0-9a-f]{31}$/, '128 bits, positive');
  t.equal(Date.parse(answer.json.notBefore), clock.now() - 60_000, 'back-dated by a minute');
  t.equal(Date.parse(answer.json.notAfter), clock.now() + 3_600_000, 'an hour by default');
  t.equal(leaf.validToDate.getTime(), clock.now() + 3_600_000);
  t.ok(leaf.checkPrivateKey(key.key), 'it is for the key of the CSR');
  t.equal(answer.json.chain.length, 2);
  t.same(answer.json.bundle, (await call({ path: '/v1/bundle' })).json);
});

t.test('OpenSSL accepts the chain for both sides of TLS', async (t) => {
  const { svid } = await enrolled();
  const constrained = await startTestCa(t, { dir: await makeCa(t, { nameConstraints: true }) });
  const key = await newKey();
  const root = readFileSync(caFilesOf(constrained.dir).bundlePem, 'utf8');
  const { token } = await constrained.operator.createToken(web, 60_000);
  const answer = await ask(constrained.address.port, root, { path: '/v1/svid', body: { csr: key.csr, token } });
  for (const [name, cert, roots] of [
    ['plain', svid.cert, rootPem],
    ['constrained', svidOf(answer, key).cert, root],
  ] as const) {
    const place = tempDir(t);
    writeFileSync(join(place, 'root.pem'), roots);
    writeFileSync(join(place, 'chain.pem'), cert);
    for (const purpose of ['sslclient', 'sslserver']) {
      const verify = ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', 'root.pem', '-untrusted', 'chain.pem'];
      let printed: string;
      try {
        printed = execFileSync('openssl', [...verify, 'chain.pem'], { cwd: place, encoding: 'utf8', stdio: 'pipe' });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
        return t.comment('openssl is not installed: skipped');
      }
      t.match(printed, 'chain.pem: OK', `${name}, ${purpose}`);
    }
  }
});

t.test('the CA serves with its own SVID, in TLS 1.3 only', async (t) => {
  const { server } = await call({ path: '/healthz' });
  t.same(readCertificateFacts(server.raw).uris, ['spiffe://demo.test/sallyport/ca']);
  await t.rejects(call({ path: '/healthz', tls: { maxVersion: 'TLSv1.2' } }), { message: /alert protocol version/ });
});

t.test('a renewal keeps the identity and certifies a new key', async (t) => {
  const first = await enrolled(web, 120);
  t.equal(Date.parse(first.answer.json.notAfter), clock.now() + 120_000);
  const key = await newKey();
  const answer = await call({ path: '/v1/svid/renew', body: { csr: key.csr, ttlSeconds: 60 }, svid: first.svid });
  t.match(answer, { status: 200, json: { id: web } });
  t.not(answer.json.serial, first.answer.json.serial);
  t.ok(leafOf(answer).checkPrivateKey(key.key));
  const shown = await ca.operator.show(answer.json.serial);
  t.match(shown, { evidence: 'svid', renews: first.answer.json.serial });
});

t.test('a CSR that requests another identity gets its own identity', async (t) => {
  // subject CN=admin and a SAN for spiffe://demo.test/ns/shop/sa/admin, made with openssl req
  const place = tempDir(t);
  const san = 'subjectAltName=URI:spiffe://demo.test/ns/shop/sa/admin';
  const make = ['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'key.pem'];
  let csr: Buffer;
  try {
    const args = [...make, '-subj', '/CN=admin', '-addext', san, '-outform', 'DER', '-out', 'csr.der'];
    execFileSync('openssl', args, { cwd: place, stdio: 'ignore' });
    csr = readFileSync(join(place, 'csr.der'));
  } catch {
    return t.comment('openssl is not installed: no such CSR could be made');
  }
  const answer = await enrol({ csr: csr.toString('base64'), token: await newToken() });
  t.equal(answer.status, 200);
  t.match(readCertificateFacts(leafOf(answer).raw), { subjectEmpty: true, uris: [web] });
});

t.test('invalid requests are refused with a code and a message', async (t) => {
  const key = await newKey();
  const { csr } = key;
  const broken = Buffer.from(csr, 'base64');
  broken[broken.length - 5]! ^= 1;
  const used = await newToken();
  await enrol({ csr, token: used });
  const expired = await newToken(web, 10_000);
  const token = await newToken();
  await pass(10_000);
  const other = (await newKey()).csr;
  const cases: [string, object | string, number, string, RegExp][] = [
    ['an invented token', { csr, token: 'f'.repeat(64) }, 401, 'token_unknown', /^unknown join token$/],
    ['an expired token', { csr, token: expired }, 401, 'token_expired', /^the join token has expired$/],
    [
      'a used token',
      { csr: other, token: used },
      403,
      'token_used',
      /^the join token was already used with another key/,
    ],
    ['a CSR with a wrong signature', { csr: broken.toString('base64'), token }, 400, 'csr_invalid', /not signed by/],
    ['a malformed CSR', { csr: 'AAAA', token }, 400, 'csr_invalid', /^the CSR is not PKCS#10 DER/],
    [
      'a lifetime that is too short',
      { csr, token, ttlSeconds: 59 },
      400,
      'ttl_out_of_range',
      /^a certificate cannot live for 59 seconds/,
    ],
    [
      'a lifetime that is too long',
      { csr, token, ttlSeconds: 86_401 },
      400,
      'ttl_out_of_range',
      /cannot live for 86401 seconds$/,
    ],
    ['half a second', { csr, token, ttlSeconds: 60.5 }, 400, 'body_invalid', /^'ttlSeconds': /],
    ['malformed base64', { csr: '-'.repeat(8), token }, 400, 'body_invalid', /^'csr': is not base64$/],
    ['no token', { csr }, 400, 'body_invalid', /^the body: needs exactly one of 'token' and 'kubernetesToken'$/],
    ['an unknown field', { csr, token, id: web }, 400, 'body_invalid', /Unrecognized key: "id"/],
    ['no JSON', `{"token":"${token}`, 400, 'body_invalid', /^the body is not JSON$/],
    ['no object', '[]', 400, 'body_invalid', /^the body: /],
    ['a huge CSR', { csr: 'A'.repeat(20_000), token }, 413, 'body_too_large', /^the body is larger than 16384 bytes$/],
    ['a larger one', 'x'.repeat(900_000), 413, 'body_too_large', /^the body is larger than 16384 bytes$/],
  ];
  for (const [name, body, status, code, message] of cases) {
    const answer = await call({ path: '/v1/svid', body });
    t.match(answer, { status, json: { code, message } }, name);
    t.notOk(answer.text.includes(token), `${name}: the response does not contain the token`);
  }
  t.equal((await enrol({ csr: other, token })).status, 200, 'the token is still unused');
});

t.test('a token gives its first key the same certificate until it expires', async (t) => {
  const [key, other] = [await newKey(), await newKey()];
  const token = await newToken(web, 7_200_000);
  const first = await enrol({ csr: key.csr, token });
  const again = await enrol({ csr: (await newKey(key.key)).csr, token, ttlSeconds: 600 });
  t.equal(again.json.serial, first.json.serial);
  t.same(again.json.chain, first.json.chain);
  t.match(await enrol({ csr: other.csr, token }), { status: 403, json: { code: 'token_used' } });
  await pass(3_600_001);
  const late = await enrol({ csr: key.csr, token });
  t.equal(late.status, 200, "after an outage longer than its certificate's lifetime, it gets another certificate");
  t.not(late.json.serial, first.json.serial);
  t.match(await enrol({ csr: other.csr, token }), { status: 403, json: { code: 'token_used' } });
  await pass(3_600_000);
  t.match(await enrol({ csr: key.csr, token }), { status: 401, json: { code: 'token_expired' } });
});

t.test('of many keys that race for a token, one gets a certificate', async (t) => {
  const token = await newToken();
  const keys = await Promise.all(Array.from({ length: 6 }, () => newKey()));
  const answers = await Promise.all(keys.map(({ csr }) => enrol({ csr, token })));
  t.same(answers.map((one) => one.status).sort(), [200, 403, 403, 403, 403, 403]);
});

t.test('a renewal needs a valid SVID of this CA', async (t) => {
  const { csr } = await newKey();
  const renew = (svid?: Question['svid']) => call({ path: '/v1/svid/renew', body: { csr }, ...(svid && { svid }) });
  t.match(await renew(), { status: 403, json: { code: 'svid_missing', message: 'the peer presented no certificate' } });
  const stranger = await createAuthority('demo.test', clock.now());
  const forged = await createCredential(stranger, web, {
    notBefore: clock.now() - 1000,
    notAfter: clock.now() + 60_000,
  });
  t.match(await renew({ cert: forged.chainPem, key: forged.keyPem }), {
    status: 403,
    json: { code: 'svid_untrusted', message: `no valid path leads from ${web} to a root of demo.test` },
  });
  const foreign = await createCredential(await createAuthority('other.test'), 'spiffe://other.test/a');
  t.match(await renew({ cert: foreign.chainPem, key: foreign.keyPem }), {
    status: 403,
    json: { code: 'svid_untrusted', message: 'no bundle for the trust domain of spiffe://other.test/a' },
  });
});

t.test('an expired SVID renews within the window, unless it was revoked or is not on record', async (t) => {
  const { csr } = await newKey();
  const renew = (svid: Question['svid']) => call({ path: '/v1/svid/renew', body: { csr }, svid: svid! });
  const dayMs = 86_400_000;
  const [short, revoked] = [await enrolled(web, 60), await enrolled(web, 60)];
  await ca.operator.revoke(String(revoked.answer.json.serial), 'lost');
  await pass(120_001);
  t.match((await call({ path: '/v1/bundle' })).json.sallyport_denied, { serials: [] }, 'the deny list has dropped it');
  t.match(await renew(revoked.svid), { status: 403, json: { code: 'id_denied' } });
  t.equal((await renew(short.svid)).status, 200);
  await pass(dayMs);
  t.match(await renew(short.svid), { status: 403, json: { code: 'svid_expired', message: /expired at/ } });

  const denied = 'spiffe://demo.test/ns/shop/sa/denied';
  const old = await enrolled(denied, 60);
  await pass(120_001);
  await ca.operator.revoke(denied, 'stolen');
  t.match(await renew(old.svid), { status: 403, json: { code: 'id_denied' } });
  await ca.operator.allow(denied);
  t.match(await renew(old.svid), { status: 403, json: { code: 'id_denied' } }, 'the earlier certificates stay denied');
});

t.test('expired certificates do not renew where the operator has turned it off', async (t) => {
  const strict = await startTestCa(t, { clock, dir: await makeCa(t, { clock }), renewExpiredWithinMs: 0 });
  const root = readFileSync(caFilesOf(strict.dir).bundlePem, 'utf8');
  const key = await newKey();
  const { token } = await strict.operator.createToken(web, 60_000);
  const question = { now: clock.now(), path: '/v1/svid', body: { csr: key.csr, token, ttlSeconds: 60 } };
  const svid = svidOf(await ask(strict.address.port, root, question), key);
  clock.advance(60_001);
  const renewal = { now: clock.now(), path: '/v1/svid/renew', body: { csr: key.csr }, svid };
  t.match(await ask(strict.address.port, root, renewal), {
    status: 403,
    json: { code: 'svid_expired', message: /expired at .*clock skew/ },
  });
});

t.test('a renewal needs only the leaf: the CA has the intermediate', async (t) => {
  const { svid } = await enrolled();
  const [leaf = ''] = svid.cert.split(/(?<=-----END CERTIFICATE-----\n)/);
  const { csr } = await newKey();
  t.equal((await call({ path: '/v1/svid/renew', body: { csr }, svid: { ...svid, cert: leaf } })).status, 200);
});

t.test('the bundle has an ETag, and an unchanged one is not sent twice', async (t) => {
  const first = await call({ path: '/v1/bundle' });
  const etag = String(first.headers['etag']);
  t.equal(first.status, 200);
  t.same(parseBundle(first.text, 'demo.test', 'answer').refreshHintS, 5);
  for (const header of [etag, `"x", W/${etag}`, '*']) {
    const again = await call({ path: '/v1/bundle', headers: { 'if-none-match': header } });
    t.match(again, { status: 304, text: '' });
  }
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/gone', 'test', { force: true });
  const changed = await call({ path: '/v1/bundle', headers: { 'if-none-match': etag } });
  t.match(changed, { status: 200, json: { sallyport_denied: { ids: ['spiffe://demo.test/ns/shop/sa/gone'] } } });
  t.not(changed.headers['etag'], etag);
});

t.test('unknown paths and methods are refused', async (t) => {
  t.match(await call({ path: '/nope' }), {
    status: 404,
    json: { code: 'not_found', message: 'no such path' },
  });
  t.match(await call({ path: '/nope', body: 'x'.repeat(100_000) }), { status: 404 });
  t.match(await call({ path: '/v1/svid' }), {
    status: 405,
    headers: { allow: 'POST' },
    json: { code: 'method_not_allowed', message: '/v1/svid answers POST only' },
  });
});

t.test('no TLS session is resumed', async (t) => {
  const session = await new Promise<Buffer | undefined>((resolve, reject) => {
    const socket = connect({
      port: ca.address.port,
      host: '127.0.0.1',
      ca: rootPem,
      rejectUnauthorized: false,
    });
    socket
      .once('error', reject)
      .once('session', resolve)
      .once('close', () => resolve(undefined));
    socket.end('GET /healthz HTTP/1.1\r\nhost: ca\r\nconnection: close\r\n\r\n').resume();
  });
  t.equal((await call({ path: '/healthz', tls: { session } })).resumed, false);
});

t.test('plain HTTP and random bytes do not disturb the CA', async (t) => {
  for (const noise of ['GET / HTTP/1.1\r\n\r\n', '\x16\x03\x01\xff\xff'.repeat(200)]) {
    await new Promise<void>((resolve) => {
      const socket = connectTcp(ca.address.port, '127.0.0.1', () => socket.end(noise, 'latin1'));
      socket.on('error', () => {}).once('close', () => resolve());
      socket.resume();
    });
  }
  t.match((await call({ path: '/healthz' })).json, { status: 'ok' });
});

t.test("the CA's own SVID is renewed at half of its lifetime, with all TLS options", async (t) => {
  const before = (await call({ path: '/healthz' })).server;
  await pass(1_900_000);
  const { server } = await call({ path: '/healthz' });
  t.not(server.serialNumber, before.serialNumber);
  t.match(readCertificateFacts(server.raw).uris, ['spiffe://demo.test/sallyport/ca']);
  await t.rejects(call({ path: '/healthz', tls: { maxVersion: 'TLSv1.2' } }), { message: /alert protocol version/ });
  const { svid } = await enrolled();
  const renewed = await call({ path: '/v1/svid/renew', body: { csr: (await newKey()).csr }, svid });
  t.equal(renewed.status, 200, 'the port still requests certificates');
  t.match(await ca.operator.show(server.serialNumber), { evidence: 'self' }, 'it is on record like every other');
});

t.test('metrics count issued, renewed and refused certificates', async (t) => {
  const { text, headers } = await call({ path: '/metrics' });
  t.match(headers['content-type'], /^text\/plain/);
  for (const line of [
    /^sallyport_ca_issued_total \d+$/m,
    /^sallyport_ca_renewed_total 4$/m,
    /^sallyport_ca_repeated_total 1$/m,
    /^sallyport_ca_refused_total\{code="token_unknown"\} 1$/m,
    /^sallyport_ca_tokens_created_total \d+$/m,
    /^sallyport_ca_revoked_total 3$/m,
    /^sallyport_ca_identities 2$/m,
    /^sallyport_ca_agents_connected 0$/m,
    /^sallyport_ca_root_not_after_seconds\{fingerprint="[0-9a-f]{64}"\} \d{10}$/m,
    /^sallyport_ca_ledger_records \d+$/m,
    /^sallyport_ca_ledger_signed_records \d+$/m,
    /^sallyport_ca_identities_expiring\{within="24h"\} 2$/m,
    /^sallyport_ca_intermediate_not_after_seconds \d+/m,
    /^sallyport_ca_store_commit_seconds_count \d+$/m,
  ])
    t.match(text, line);
  const packed = await call({ path: '/metrics', headers: { 'accept-encoding': 'gzip' } });
  t.match(packed.headers, { 'content-encoding': 'gzip', vary: 'accept-encoding' });
  t.ok(Number(packed.headers['content-length']) < text.length / 2);
});

t.test('the log reports each event and contains no token', async (t) => {
  const token = await newToken();
  const key = await newKey();
  const issued = await enrol({ csr: key.csr, token });
  await enrol({ csr: (await newKey()).csr, token });
  const log = ca.logged.join('');
  t.match(log, new RegExp(`"code":"issued","id":"${web}","serial":"${issued.json.serial}"`));
  t.match(log, '"code":"token_used"');
  t.notOk(log.includes(token));
  t.notOk(log.includes('PRIVATE KEY'));
});

t.test("requests above the CA's signing capacity get a Retry-After", async (t) => {
  const busy = await startTestCa(t, { limits: { issuing: 0 } });
  const root = readFileSync(caFilesOf(busy.dir).bundlePem, 'utf8');
  const answer = await ask(busy.address.port, root, { path: '/v1/svid', body: {} });
  t.match(answer, { status: 503, json: { code: 'ca_overloaded' }, headers: { 'retry-after': '1' } });
  t.equal((await ask(busy.address.port, root, { path: '/v1/bundle' })).status, 200, 'the bundle is still served');
});

t.test('close finishes requests in flight and accepts no new ones', async (t) => {
  const closing = await startTestCa(t);
  const { port } = closing.address;
  const { token } = await closing.operator.createToken(web, 60_000);
  const body = JSON.stringify({ csr: (await newKey()).csr, token });
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false });
  const head = `POST /v1/svid HTTP/1.1\r\nhost: ca\r\nexpect: 100-continue\r\ncontent-length: ${body.length}\r\n\r\n`;
  const answer = await new Promise<string>((resolve, reject) => {
    let text = '';
    let closed: Promise<void> | undefined;
    socket.once('error', reject).once('close', () => void closed?.then(() => resolve(text)));
    socket.setEncoding('utf8').on('data', (part: string) => {
      text += part;
      // The server has the request and waits for its body when it is closed.
      if (closed !== undefined) return;
      closed = closing.close();
      socket.write(body);
    });
    socket.write(head);
  });
  t.match(answer, /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 OK\r\n/);
  t.match(answer, /connection: close/i);
  const root = readFileSync(caFilesOf(closing.dir).bundlePem, 'utf8');
  await t.rejects(ask(port, root, { path: '/healthz' }), { code: 'ECONNREFUSED' });
});

t.test('an internal error of the CA is reported without details', async (t) => {
  const authority = await createAuthority('demo.test');
  const svid = new LiveCell(await createSvid(authority, 'spiffe://demo.test/sallyport/ca'));
  const codes: string[] = [];
  const fails = (path: string, error: Error): Route => ({ method: 'GET', path, answer: () => Promise.reject(error) });
  const server = await startServer({
    listen: { host: '127.0.0.1', port: 0 },
    svid,
    routes: [
      fails('/bug', new TypeError('secret of /etc/ca is undefined')),
      fails('/store', new SallyportError('store_failed', '/etc/ca/store.sqlite: disk full', { hint: 'secret' })),
    ],
    log: createLog({ component: 'ca', level: 'silent' }),
    onRefusal: (code) => codes.push(code),
    onDrop: () => {},
    knownBy: () => undefined,
  });
  t.teardown(() => server.close());
  const answers = ['/bug', '/store'].map((path) => ask(server.address.port, authority.bundlePem, { path }));
  const [bug, store] = await Promise.all(answers);
  t.equal(bug?.status, 500);
  t.same(bug?.json, { code: 'internal', message: 'the CA failed' });
  t.equal(store?.status, 503);
  t.same(store?.json, {
    code: 'store_failed',
    message: 'the CA cannot write to its store: it issues nothing, but still serves bundle and deny list',
  });
  t.same(codes.sort(), ['internal', 'store_failed']);
});

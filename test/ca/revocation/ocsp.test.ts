// The OCSP responder: by OpenSSL, which asks over the plaintext listener, and by requests of our own making.

import { spawn } from 'node:child_process';
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { caFilesOf } from '../../../cert-agent/ca/directory.ts';
import { responseLifeMs } from '../../../cert-agent/ca/revocation/ocsp.ts';
import { readPemBlocks } from '../../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../../cert-agent/identity/certificate.ts';
import { element, integer, octets, oid, sequence, tagged } from '../../../cert-agent/identity/der-write.ts';
import { isSignedBy, readIssuer } from '../../../cert-agent/identity/issuer.ts';
import { type OcspReply, readOcspResponse } from '../../../cert-agent/identity/ocsp.ts';
import { ask, makeCa, newKey, startTestCa, svidOf } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { createAuthority } from '../../fixtures/pki.ts';
import { tempDir } from '../../fixtures/process.ts';
import { haveCommand } from '../../fixtures/tools.ts';

const clock = new ManualClock();
const dir = await makeCa(t, { clock });
const ca = await startTestCa(t, { dir, clock, ocsp: { host: '127.0.0.1', port: 0 } });
const rootPem = readFileSync(caFilesOf(dir).bundlePem, 'utf8');
const issuerPem = readFileSync(caFilesOf(dir).intermediate, 'utf8');
const issuerDer = readPemBlocks(issuerPem, 'x')[0]!;
const url = `http://127.0.0.1:${ca.ocspAddress!.port}`;
const id = 'spiffe://demo.test/ns/shop/sa/web';

async function enrolled() {
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  const answer = await ask(ca.address.port, rootPem, {
    ...{ path: '/v1/svid', now: clock.now() },
    body: { csr: key.csr, token, ttlSeconds: 86_400 },
  });
  return { serial: String(answer.json.serial), svid: svidOf(answer, key) };
}

interface Asked {
  readonly serials: readonly string[];
  readonly issuer?: Buffer;
  readonly hash?: 'sha1' | 'sha256' | 'sha512' | 'md5';
  /** Extensions, DER. */
  readonly extensions?: readonly Buffer[];
}

const hashIds = {
  sha1: '1.3.14.3.2.26',
  sha256: '2.16.840.1.101.3.4.2.1',
  sha512: '2.16.840.1.101.3.4.2.3',
  md5: '1.2.840.113549.2.5',
};
const nonceId = '1.3.6.1.5.5.7.48.1.2';
const extensionOf = (name: string, value: Buffer, critical = false): Buffer =>
  sequence(oid(name), ...(critical ? [element(1, Buffer.from([0xff]))] : []), octets(value));
const nonceOf = (bytes: Buffer): Buffer => extensionOf(nonceId, octets(bytes));

function requestOf({ serials, issuer = issuerDer, hash = 'sha1', extensions }: Asked): Buffer {
  const { subject, keyBits } = readIssuer(issuer);
  const of = (bytes: Buffer): Buffer => octets(createHash(hash).update(bytes).digest());
  const algorithm = sequence(oid(hashIds[hash]), element(5));
  const list = serials.map((serial) =>
    sequence(sequence(algorithm, of(subject), of(keyBits), integer(Buffer.from(serial, 'hex')))),
  );
  const more = extensions === undefined ? [] : [tagged(2, sequence(...extensions))];
  return sequence(sequence(sequence(...list), ...more));
}

function post(body: Uint8Array, localAddress = '127.0.0.1'): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const call = request(`${url}/ocsp`, { method: 'POST', localAddress, agent: false }, (answer) => {
    const parts: Buffer[] = [];
    t.equal(answer.statusCode, 200);
    t.equal(answer.headers['content-type'], 'application/ocsp-response');
    answer.on('data', (part: Buffer) => parts.push(part)).once('end', () => resolve(Buffer.concat(parts)));
  });
  call.once('error', reject);
  call.end(body);
  return promise;
}

const statusesOf = (der: Buffer): string[] => readOcspResponse(der).answers.map((one) => one.status);
/** The OCSPResponseStatus of an answer without a signature. */
const errorOf = (der: Buffer): number | undefined => (der.length === 5 ? der[4] : undefined);
const [malformed, tryLater, unauthorized] = [1, 3, 6];

t.test('good, revoked and unknown are distinguished with every hash', async (t) => {
  const [good, bad] = [await enrolled(), await enrolled()];
  await ca.operator.revoke(bad.serial, 'keyCompromise');
  for (const hash of ['sha1', 'sha256', 'sha512'] as const) {
    const der = await post(requestOf({ hash, serials: [good.serial, bad.serial, '4242'] }));
    t.same(statusesOf(der), ['good', 'revoked', 'unknown'], hash);
  }
});

t.test('the certificate that signs responses may do nothing else', async (t) => {
  const { serial } = await enrolled();
  const reply = readOcspResponse(await post(requestOf({ serials: [serial] })));
  const [signer] = reply.certificates;
  const facts = readCertificateFacts(signer!);
  t.match(facts, { uris: [], isCa: false, keyUsage: ['digitalSignature'], unknownCritical: [] });
  t.same(facts.tlsUsage?.includes('serverAuth'), false);
  const { publicKey, keyBits } = readIssuer(signer!);
  t.same(reply.responder, { keyHash: createHash('sha1').update(keyBits).digest() });
  t.ok(isSignedBy(publicKey, reply.algorithm, reply.body, reply.signature));
  t.match(reply.answers[0], { serial, thisUpdate: clock.now(), nextUpdate: clock.now() + responseLifeMs });
  const later = readOcspResponse(await post(requestOf({ serials: [serial], hash: 'sha256' })));
  t.same(later.certificates, reply.certificates, 'the same response for a while');
  clock.advance(13 * 3_600_000);
  const renewed = readOcspResponse(await post(requestOf({ serials: [serial] })));
  t.notSame(renewed.certificates, reply.certificates, 'another response after half a day');
});

t.test('responses are kept until the deny list changes, and for half of their lifetime', async (t) => {
  const one = await enrolled();
  const question = requestOf({ serials: [one.serial] });
  const first = await post(question);
  t.same(await post(question), first);
  clock.advance(responseLifeMs / 2);
  const second = await post(question);
  t.notSame(second, first);
  await ca.operator.revoke(one.serial, 'x');
  t.same(statusesOf(await post(question)), ['revoked']);
});

t.test('one address gets a share of the responses that must be signed; cached ones go to all', async (t) => {
  clock.advance(1000);
  const { serial } = await enrolled();
  const kept = requestOf({ serials: [serial] });
  t.same(statusesOf(await post(kept)), ['good']);
  const fresh = () => requestOf({ serials: [serial], extensions: [nonceOf(randomBytes(16))] });
  let refused = 0;
  for (let i = 0; i < 80; i++) if (errorOf(await post(fresh())) === tryLater) refused++;
  t.equal(refused, 31, 'fifty in a second, one of them the first');
  t.same(statusesOf(await post(kept)), ['good'], 'cached responses are still served');
  t.same(statusesOf(await post(fresh(), '127.0.0.2')), ['good'], 'another address is not affected');
  clock.advance(1000);
  t.same(statusesOf(await post(fresh())), ['good'], 'a second later');
});

t.test('a nonce is echoed, and one that is too long or empty is malformed', async (t) => {
  const { serial } = await enrolled();
  for (const length of [1, 32, 127, 128]) {
    const nonce = randomBytes(length);
    const der = await post(requestOf({ serials: [serial], extensions: [nonceOf(nonce)] }));
    t.not(der.indexOf(octets(nonce)), -1, `${length} octets`);
  }
  for (const [name, extensions] of [
    ['none', [nonceOf(Buffer.alloc(0))]],
    ['129', [nonceOf(Buffer.alloc(129))]],
    ['2000', [nonceOf(Buffer.alloc(2000))]],
    ['not an OCTET STRING', [extensionOf(nonceId, randomBytes(20))]],
    ['two nonces', [nonceOf(Buffer.alloc(8)), nonceOf(Buffer.alloc(8))]],
    ['an unknown critical extension', [extensionOf('1.2.3', octets(Buffer.alloc(3)), true)]],
  ] as const)
    t.equal(errorOf(await post(requestOf({ serials: [serial], extensions }))), malformed, name);
  const harmless = [extensionOf('1.2.3', octets(Buffer.alloc(3)))];
  t.same(statusesOf(await post(requestOf({ serials: [serial], extensions: harmless }))), ['good']);
});

t.test('the CA signs no response for other issuers', async (t) => {
  const { serial } = await enrolled();
  const other = await createAuthority('demo.test');
  t.equal(errorOf(await post(requestOf({ serials: [serial], issuer: other.issuer }))), unauthorized);
  t.equal(
    errorOf(await post(requestOf({ serials: [serial], hash: 'md5' }))),
    unauthorized,
    'a broken hash gets no signature either',
  );
});

t.test('malformed requests get a malformedRequest response, whatever they are', async (t) => {
  const { serial } = await enrolled();
  const good = requestOf({ serials: [serial] });
  const deep = (): Buffer => {
    let nested: Buffer = element(5);
    while (nested.length < 3500) nested = sequence(nested);
    return nested;
  };
  const deepOctets = (): Buffer => {
    let nested: Buffer = element(5);
    while (nested.length < 3500) nested = octets(nested);
    return requestOf({ serials: [serial], extensions: [extensionOf('1.2.3', nested)] });
  };
  for (const [name, body] of [
    ['nothing', Buffer.alloc(0)],
    ['text', Buffer.from('hello')],
    ['a byte too many', Buffer.concat([good, Buffer.from([0])])],
    ['no certificate', requestOf({ serials: [] })],
    ['17 certificates', requestOf({ serials: Array<string>(17).fill(serial) })],
    ['a serial of 40 octets', requestOf({ serials: ['41'.repeat(40)] })],
    ['5000 bytes', requestOf({ serials: [serial], extensions: [extensionOf('1.2.3', octets(Buffer.alloc(5000)))] })],
    ['nested deeply', deep()],
    ['an indefinite length', Buffer.from('3080300030800000', 'hex')],
  ] as const)
    t.equal(errorOf(await post(body)), malformed, name);
  for (let at = 0; at < good.length; at++)
    t.equal(errorOf(await post(good.subarray(0, at))), malformed, `cut at ${at}`);
  const began = performance.now();
  const nested = await post(deepOctets());
  t.ok(errorOf(nested) === malformed || statusesOf(nested).length === 1);
  t.ok(performance.now() - began < 500, 'immediately');
  for (let round = 0; round < 300; round++) {
    const garbage = Buffer.from(good);
    for (let i = 0; i < 3; i++) garbage[Math.floor(Math.random() * good.length)] = randomBytes(1)[0]!;
    const answer = await post(garbage);
    if (![malformed, unauthorized].includes(errorOf(answer) ?? 0) && !/good|unknown/.test(statusesOf(answer).join()))
      t.fail(`${garbage.toString('hex')} got ${answer.toString('hex')}`);
  }
  t.same(statusesOf(await post(requestOf({ serials: Array<string>(16).fill(serial) }))).length, 16);
});

t.test('certificates of a replaced issuer get responses from its own signer while they are valid', async (t) => {
  const rotating = await startTestCa(t, { ocsp: { host: '127.0.0.1', port: 0 } });
  const files = caFilesOf(rotating.dir);
  const pem = readFileSync(files.bundlePem, 'utf8');
  const readDer = (): Buffer => readPemBlocks(readFileSync(files.intermediate, 'utf8'), 'x')[0]!;
  const enrol = async (name: string): Promise<string> => {
    const key = await newKey();
    const { token } = await rotating.operator.createToken(`${id}-${name}`, 600_000);
    const answer = await ask(rotating.address.port, pem, { path: '/v1/svid', body: { csr: key.csr, token } });
    return String(answer.json.serial);
  };
  const askIt = async (question: Asked) => {
    const response = await fetch(`http://127.0.0.1:${rotating.ocspAddress!.port}/ocsp`, {
      ...{ method: 'POST', body: requestOf(question) },
    });
    return readOcspResponse(Buffer.from(await response.arrayBuffer()));
  };
  const before = { issuer: readDer(), serials: [await enrol('one'), await enrol('two')] };
  t.same(statuses(await askIt(before)), ['good', 'good']);
  await rotating.operator.rotate({ kind: 'issuer', step: 'activate' });
  const after = { issuer: readDer(), serials: [await enrol('three'), before.serials[0]!] };
  await rotating.operator.revoke(before.serials[0]!, 'x');
  const old = await askIt(before);
  t.same(statuses(old), ['revoked', 'good']);
  const fresh = await askIt(after);
  t.same(statuses(fresh), ['good', 'unknown'], 'a serial of the other issuer is unknown');
  for (const [reply, issuer] of [
    [old, before.issuer],
    [fresh, after.issuer],
  ] as const) {
    const [signer] = reply.certificates.map((one) => new X509Certificate(one));
    t.ok(signer!.verify(readIssuer(issuer).publicKey), 'the signer is delegated by the issuer in question');
  }
});

const statuses = (reply: OcspReply): string[] => reply.answers.map((one) => one.status);

t.test('a GET carries the request in its path', async (t) => {
  const { serial } = await enrolled();
  const text = requestOf({ serials: [serial] }).toString('base64');
  for (const path of [encodeURIComponent(text), text]) {
    const answer = await fetch(`${url}/ocsp/${path}`);
    t.same(statusesOf(Buffer.from(await answer.arrayBuffer())), ['good'], path);
    t.match(answer.headers.get('cache-control'), /^max-age=300, public, no-transform, must-revalidate$/);
  }
  for (const path of ['%', '%zz', 'not-base64!', 'A'.repeat(1100), '', 'AA==', '%00'])
    t.equal(
      errorOf(Buffer.from(await (await fetch(`${url}/ocsp/${path}`)).arrayBuffer())),
      malformed,
      path.slice(0, 20),
    );
});

t.test('the plaintext listener serves nothing else', async (t) => {
  t.equal((await fetch(`${url}/v1/crl`)).headers.get('content-type'), 'application/pkix-crl');
  for (const path of ['/v1/svid', '/v1/bundle', '/metrics', '/healthz', '/v1/openapi.json', '/v1/watch'])
    t.equal((await fetch(`${url}${path}`)).status, 404, path);
  t.equal((await fetch(`${url}/v1/svid`, { method: 'POST', body: '{}' })).status, 404);
  t.equal((await fetch(`${url}/ocsp`, { method: 'PUT', body: 'x' })).status, 405);
});

t.test('a stream of garbage ends, and does not affect other clients', async (t) => {
  const { serial } = await enrolled();
  const { port } = ca.ocspAddress!;
  const socket = connect(port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => {});
  socket.write('POST /ocsp HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n');
  const garbage = Buffer.concat([Buffer.from('10000\r\n'), randomBytes(65_536), Buffer.from('\r\n')]);
  const more = (): void => {
    while (!socket.destroyed && socket.write(garbage));
  };
  socket.on('drain', more);
  more();
  t.same(statusesOf(await post(requestOf({ serials: [serial] }))), ['good']);
  await closed;
  t.pass('the connection was ended');
});

t.test('the OpenSSL client accepts the responses', async (t) => {
  if (!haveCommand('openssl')) return t.comment('openssl is not installed: skipped');
  const [good, bad] = [await enrolled(), await enrolled()];
  await ca.operator.revoke(bad.serial, 'superseded');
  const place = tempDir(t);
  for (const [name, text] of Object.entries({
    ...{ 'root.pem': rootPem, 'issuer.pem': issuerPem, 'good.pem': good.svid.cert, 'bad.pem': bad.svid.cert },
  }))
    writeFileSync(join(place, name), text);
  const openssl = async (...args: string[]): Promise<string> => {
    const at = ['-attime', String(clock.now() / 1000)];
    const check = ['-validity_period', '900000'];
    const all = [
      'ocsp',
      '-issuer',
      'issuer.pem',
      '-CAfile',
      'root.pem',
      '-url',
      `${url}/ocsp`,
      ...at,
      ...check,
      ...args,
    ];
    const child = spawn('openssl', all, { cwd: place });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (text += part));
    await new Promise((resolve) => child.once('close', resolve));
    return text;
  };
  const nonce = await openssl('-cert', 'good.pem', '-nonce');
  t.match(nonce, /Response verify OK/);
  t.match(nonce, /good\.pem: good/);
  t.notMatch(nonce, /no nonce/);
  const both = await openssl('-cert', 'good.pem', '-cert', 'bad.pem', '-no_nonce');
  t.match(both, /Response verify OK[\s\S]*good\.pem: good[\s\S]*bad\.pem: revoked[\s\S]*Reason: superseded/);
  t.match(await openssl('-sha256', '-serial', '0x4242'), /Response verify OK[\s\S]*0x4242: unknown/);
});

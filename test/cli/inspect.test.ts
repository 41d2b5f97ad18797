import { X509Certificate } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import { createServer as createTcpServer, type Server as TcpServer } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import t, { type Test } from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { writeGeneration } from '../../cert-agent/identity/generation.ts';
import { inspectChain } from '../../cert-agent/identity/inspect.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { type CertificateSpec, randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';
import { runCommand } from '../fixtures/command.ts';
import { createAuthority, createCredential, createSvid, publicKeyOf } from '../fixtures/pki.ts';
import { freePort, tempDir } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const uri = 'spiffe://demo.test/ns/shop/sa/web';
const now = Date.now();
const right = await createCredential(authority, uri);

/** Each bad certificate is named after its defect; `breaks` are exactly the rules that fail. */
const wrong: { name: string; changes: Partial<CertificateSpec>; breaks: string[] }[] = [
  { name: 'expired', changes: { notBefore: now - 7_200_000, notAfter: now - 3_600_000 }, breaks: ['validity', 'path'] },
  { name: 'not-yet-valid', changes: { notBefore: now + 1_800_000 }, breaks: ['validity', 'path'] },
  { name: 'ca-flagged', changes: { ca: {} }, breaks: ['not-a-ca', 'path'] },
  { name: 'two-uris', changes: { uris: [uri, `${uri}2`] }, breaks: ['one-uri', 'path'] },
  { name: 'no-uri', changes: { uris: [] }, breaks: ['one-uri', 'spiffe-id', 'id-path', 'san-critical', 'path'] },
  { name: 'not-spiffe', changes: { uris: ['https://demo.test/web'] }, breaks: ['spiffe-id', 'id-path', 'path'] },
  { name: 'no-path', changes: { uris: ['spiffe://demo.test'] }, breaks: ['id-path', 'path'] },
  {
    name: 'signs-certificates',
    changes: { keyUsage: ['digitalSignature', 'keyCertSign'] },
    breaks: ['no-signing', 'path'],
  },
  { name: 'key-usage-not-critical', changes: { keyUsageCritical: false }, breaks: ['key-usage', 'path'] },
  { name: 'cannot-sign', changes: { keyUsage: ['keyEncipherment'] }, breaks: ['digital-signature', 'path'] },
  { name: 'server-only', changes: { tlsUsage: ['serverAuth'] }, breaks: ['tls-usage', 'path'] },
  { name: 'foreign', changes: { uris: ['spiffe://other.test/web'] }, breaks: ['path', 'trust-domain'] },
];

t.test('inspectChain names exactly the rules that a bad certificate breaks', async (t) => {
  for (const { name, changes, breaks } of wrong) {
    const { chain } = await createCredential(authority, uri, changes);
    const report = inspectChain(chain, { now, bundles: authority.bundles, trustDomain: 'demo.test' });
    const failed = report.rules.filter((one) => !one.holds).map((one) => one.rule);
    const expected = ['no-uri', 'not-spiffe'].includes(name) ? [...breaks, 'trust-domain'] : breaks;
    t.same(failed.sort(), expected.toSorted(), name);
    t.equal(report.holds, breaks.length === 0, name);
    t.equal(report.expired, name === 'expired', name);
  }
});

t.test('inspectChain describes a good chain', async (t) => {
  const report = inspectChain(right.chain, {
    now,
    bundles: authority.bundles,
    key: right.key,
    trustDomain: 'demo.test',
  });
  t.match(report, {
    spiffeId: uri,
    keyKind: 'EC P-256',
    expired: false,
    holds: true,
    chain: [
      { subject: '', issuer: 'CN=demo.test issuer', uris: [uri], isCa: false },
      { subject: 'CN=demo.test issuer', issuer: 'CN=demo.test root', uris: ['spiffe://demo.test'], isCa: true },
    ],
  });
  t.ok(Object.isFrozen(report));
  const message = (rule: string): string | undefined => report.rules.find((one) => one.rule === rule)?.message;
  t.match(message('validity'), /^valid for another 59m/);
  t.equal(message('path'), 'a valid path leads to a root of demo.test');
  t.equal(message('signing-2'), 'certificate 2 may sign SVIDs');
  t.equal(message('key'), 'the key belongs to the certificate');
  const swapped = inspectChain([right.chain[0]!, right.chain[0]!], { now });
  t.match(
    swapped.rules.find((one) => one.rule === 'signing-2')?.message,
    /^certificate 2 must not sign SVIDs: cA is false, keyCertSign is missing, spiffe:.*web is not a trust domain's ID$/,
  );
});

t.test('bytes behind a certificate in DER are not passed over', async (t) => {
  const file = join(tempDir(t), 'svid.der');
  const der = Buffer.from(right.chainPem.replace(/-----END[\s\S]*|-----BEGIN[^\n]*/g, ''), 'base64');
  writeFileSync(file, der);
  t.match(await runCommand(t, ['inspect', file]), { code: 0, stdout: `SPIFFE ID  ${uri}\n` });
  writeFileSync(file, Buffer.concat([der, der]));
  const says = `${file} has ${der.length} bytes behind its certificate`;
  t.match(await runCommand(t, ['inspect', file]), { code: 2, stdout: '', stderr: says });
});

t.test('inspect reads a PEM file', async (t) => {
  const directory = tempDir(t);
  const file = join(directory, 'svid.pem');
  const bundle = join(directory, 'root.pem');
  writeFileSync(file, right.chainPem);
  writeFileSync(bundle, authority.bundlePem);

  const shown = await runCommand(t, ['inspect', file, '--bundle', bundle]);
  t.equal(shown.code, 0, shown.stderr);
  t.match(shown.stdout, `SPIFFE ID  ${uri}\n`);
  t.match(shown.stdout, /key {8}EC P-256\n/);
  t.match(shown.stdout, /valid {6}\S+Z to \S+Z, 59m \d+s left\n/);
  t.match(shown.stdout, /holds {2}path +a valid path leads to a root of demo.test\n/);
  t.notMatch(shown.stdout, /FAILS/);

  const json = await runCommand(t, ['inspect', file, '--json']);
  t.equal(json.code, 0);
  const report = JSON.parse(json.stdout);
  t.match(report, { what: file, spiffeId: uri, holds: true, expired: false });
  t.ok(report.timeLeftMs > 3_000_000 && report.timeLeftMs < 3_600_000);
  t.notOk(
    report.rules.some((one: { rule: string }) => one.rule === 'path'),
    'without a bundle no path is checked',
  );

  const foreign = await runCommand(t, ['inspect', file, '--trust-domain', 'other.test']);
  t.equal(foreign.code, 1);
  t.match(foreign.stdout, /FAILS {2}trust-domain +the SPIFFE ID belongs to other.test\n/);
});

t.test('the exit code is 1 for a bad certificate', async (t) => {
  const directory = tempDir(t);
  const chosen = wrong.filter(({ name }) => ['expired', 'ca-flagged', 'two-uris', 'not-spiffe'].includes(name));
  await Promise.all(
    chosen.map(async ({ name, changes, breaks }) => {
      const file = join(directory, `${name}.pem`);
      writeFileSync(file, (await createCredential(authority, uri, changes)).chainPem);
      const { code, stdout } = await runCommand(t, ['inspect', file]);
      t.equal(code, 1, name);
      t.match(stdout, new RegExp(`FAILS  ${breaks[0]} `), name);
      if (name === 'expired') t.match(stdout, /valid {6}\S+Z to \S+Z, expired 1h ago\n/);
    }),
  );
});

t.test('wrong usage and unreadable files exit with 2, what does not respond with 3', async (t) => {
  const directory = tempDir(t);
  const garbage = join(directory, 'garbage.pem');
  writeFileSync(garbage, 'garbage');
  writeFileSync(join(directory, 'svid.pem'), right.chainPem);
  mkdirSync(join(directory, 'empty'));
  const cases = [
    { args: [], code: 2, says: 'give what to inspect, or --config [usage]' },
    { args: ['-', '--config', garbage], code: 2, says: "--config says what to inspect: not with '-' [usage]" },
    { args: ['--config', garbage, '--svid', garbage], code: 2, says: 'not with --svid [usage]' },
    { args: ['no/such/file'], code: 2, says: "'no/such/file' is not a file, a directory or an address [usage]" },
    { args: [garbage], code: 2, says: `${garbage} contains no certificate [certificate_unreadable]` },
    { args: [join(directory, 'empty')], code: 2, says: 'svid.pem does not exist [config_unreadable]' },
    { args: ['127.0.0.1:1', '--svid', garbage], code: 2, says: '--svid also needs the key [usage]' },
    { args: ['127.0.0.1:1'], code: 3, says: 'connecting to 127.0.0.1:1 failed: connect ECONNREFUSED' },
    { args: ['http://127.0.0.1:1'], code: 3, says: 'cannot reach http://127.0.0.1:1: connect ECONNREFUSED' },
    { args: [join(directory, 'svid.pem'), '--bundle', garbage], code: 2, says: '[bundle_empty]' },
    { args: [join(directory, 'svid.pem'), '--trust-domain', 'NO'], code: 2, says: '[spiffe_id_invalid]' },
  ];
  await Promise.all(
    cases.map(async ({ args, code, says }) => {
      const ran = await runCommand(t, ['inspect', ...args]);
      t.equal(ran.code, code, `${args.join(' ')}: ${ran.stderr}`);
      t.ok(ran.stderr.includes(says), `${says} in ${ran.stderr}`);
      t.equal(ran.stdout, '', 'nothing is printed as a result');
    }),
  );
});

t.test('a key or a token in place of a file is not repeated', async (t) => {
  const token = `eyJhbGciOiJFUzI1NiJ9.${'eyJzdWIiOiJhIn0'.repeat(300)}.c2lnbmF0dXJl`;
  for (const secret of [right.keyPem, token, token.slice(0, 60), 'k'.repeat(43), `${'k'.repeat(300)}/x`]) {
    const { code, stdout, stderr } = await runCommand(t, ['inspect', '--json', '--', secret]);
    t.equal(code, 2);
    t.match(stderr, /what was given is not a file, a directory or an address \[usage\]/);
    t.equal(stdout, '');
    t.notOk((stdout + stderr).includes(secret.slice(20, 40)));
  }
});

t.test('inspect reads standard input', async (t) => {
  const { code, stdout } = await runCommand(t, ['inspect', '-'], { input: right.chainPem });
  t.equal(code, 0);
  t.match(stdout, `SPIFFE ID  ${uri}\n`);
});

t.test('inspect reads an agent’s directory', async (t) => {
  const directory = tempDir(t);
  const svid = await createSvid(authority, uri);
  writeGeneration(directory, { svid, bundles: authority.bundles, denied: emptyDenyList });
  const { code, stdout, stderr } = await runCommand(t, ['inspect', directory, '--json']);
  t.equal(code, 0, stderr);
  const rules: { rule: string; holds: boolean }[] = JSON.parse(stdout).rules;
  for (const rule of ['key', 'path']) t.ok(rules.find((one) => one.rule === rule)?.holds, rule);
  const denied = { sequence: 1, time: 0, serials: new Set([svid.serial]), ids: new Set<string>() };
  writeGeneration(directory, { svid, bundles: authority.bundles, denied });
  const revoked = await runCommand(t, ['inspect', directory]);
  t.equal(revoked.code, 1);
  t.match(revoked.stdout, /FAILS {2}path +certificate [0-9a-f]+ of spiffe:.* is revoked\n/);
});

t.test('inspect shows the SVID of a configuration, and judges it by that', async (t) => {
  const directory = tempDir(t);
  const write = (trustDomain: string, identity: string): string => {
    const file = join(directory, `${trustDomain}.yaml`);
    writeFileSync(
      file,
      `trustDomain: ${trustDomain}
workload: { namespace: shop, serviceAccount: web }
identity: ${identity}
outbound: [{ port: 15001 }]
`,
    );
    return file;
  };
  const files = '{ files: { svid: a/svid.pem, key: a/svid.key, bundle: a/bundle.json } }';
  const none = await runCommand(t, ['inspect', '--config', write('demo.test', files)]);
  t.equal(none.code, 2);
  t.match(none.stderr, /a\/svid.pem does not exist/);
  mkdirSync(join(directory, 'a'));
  writeGeneration(join(directory, 'a'), {
    svid: await createSvid(authority, uri),
    bundles: authority.bundles,
    denied: emptyDenyList,
  });
  const { code, stdout, stderr } = await runCommand(t, ['inspect', '--config', write('demo.test', files)]);
  t.equal(code, 0, stderr);
  t.match(stdout, `SPIFFE ID  ${uri}\n`);
  t.match(stdout, /holds {2}trust-domain/);
  const foreign = await runCommand(t, ['inspect', '--config', write('other.test', files)]);
  t.equal(foreign.code, 1);
  t.match(foreign.stdout, /FAILS {2}trust-domain/);
});

t.test('inspect connects and shows the peer', async (t) => {
  const directory = tempDir(t);
  const svid = await createSvid(authority, 'spiffe://demo.test/ns/shop/sa/client');
  writeGeneration(directory, { svid, bundles: authority.bundles, denied: emptyDenyList });

  t.test('without a client SVID', async (t) => {
    const port = await serveTls(t, {});
    const { code, stdout, stderr } = await runCommand(t, ['inspect', `127.0.0.1:${port}`]);
    t.equal(code, 0, stderr);
    t.match(stdout, `SPIFFE ID  ${uri}\n`);
    t.match(stdout, /TLS {8}TLSv1.3, group X25519MLKEM768, cipher TLS_AES_256_GCM_SHA384\n/);
    t.match(stdout, /presented {2}no certificate\nthen {7}the connection stays open\n/);
  });

  t.test('with the SVID and the bundle of an agent’s directory', async (t) => {
    const port = await serveTls(t, { requestCert: true, ca: authority.bundlePem, rejectUnauthorized: true });
    const { code, stdout, stderr } = await runCommand(t, [
      'inspect',
      `127.0.0.1:${port}`,
      '--dir',
      directory,
      '--json',
    ]);
    t.equal(code, 0, stderr);
    const report = JSON.parse(stdout);
    t.match(report.connection, {
      address: `127.0.0.1:${port}`,
      tlsVersion: 'TLSv1.3',
      shown: svid.id.uri,
      afterHandshake: 'the connection stays open',
    });
    t.equal(report.chain.length, 2, 'the intermediate is shown too');
    t.ok(report.rules.find((one: { rule: string; holds: boolean }) => one.rule === 'path')?.holds);
  });

  t.test('a server that requires a client SVID and gets none', async (t) => {
    const port = await serveTls(t, { requestCert: true, ca: authority.bundlePem, rejectUnauthorized: true });
    const { code, stdout } = await runCommand(t, ['inspect', `127.0.0.1:${port}`]);
    t.equal(code, 0, "the server's certificate is valid");
    t.match(stdout, /then {7}the peer (?:refused|closed)/);
  });

  t.test('a server with TLS 1.2 and an older group', async (t) => {
    const port = await serveTls(t, { maxVersion: 'TLSv1.2', minVersion: 'TLSv1.2', ecdhCurve: 'P-256' });
    const { stdout } = await runCommand(t, ['inspect', `127.0.0.1:${port}`, '--json']);
    t.match(JSON.parse(stdout).connection, { tlsVersion: 'TLSv1.2', group: /prime256v1|secp256r1|P-256/ });
  });

  t.test('an unknown peer, checked against the bundle', async (t) => {
    const stranger = await createCredential(await createAuthority('demo.test'), uri);
    const port = await serveTls(t, { cert: stranger.chainPem, key: stranger.keyPem });
    const { code, stdout } = await runCommand(t, ['inspect', `127.0.0.1:${port}`, '--dir', directory]);
    t.equal(code, 1);
    t.match(stdout, /FAILS {2}path +no valid path leads from spiffe:/);
  });

  t.test('a port without TLS', async (t) => {
    const server = createTcpServer((socket) => socket.on('error', () => {}).end('hello\r\n'));
    const port = await listen(t, server);
    const { code, stderr } = await runCommand(t, ['inspect', `127.0.0.1:${port}`]);
    t.equal(code, 3);
    t.match(stderr, /the TLS handshake with 127.0.0.1:\d+ failed: .* \[upstream_tls\]\n.*does this port use TLS\?/);
  });
});

t.test('the admin port of a running sidecar', async (t) => {
  const answers: Record<string, { status: number; body: object }> = {
    right: {
      status: 200,
      body: {
        svid: { id: uri },
        trustDomain: 'demo.test',
        chainPem: right.chainPem,
        bundlePem: formatPem([authority.root]),
      },
    },
    waiting: { status: 503, body: { code: 'not_ready', message: 'waiting for the CA' } },
    other: { status: 200, body: { hello: 'world' } },
  };
  let answer = answers['right'];
  const asked: string[] = [];
  const server = createHttpServer((request, response) => {
    asked.push(request.url ?? '');
    response.writeHead(answer?.status ?? 500, { 'content-type': 'application/json' }).end(JSON.stringify(answer?.body));
  });
  const port = await listen(t, server);
  const url = `http://127.0.0.1:${port}`;
  const found = await runCommand(t, ['inspect', url, '--json']);
  t.equal(found.code, 0, found.stderr);
  t.same(asked, ['/certs']);
  const rules: { rule: string; holds: boolean }[] = JSON.parse(found.stdout).rules;
  for (const rule of ['path', 'trust-domain']) t.ok(rules.find((one) => one.rule === rule)?.holds, rule);
  answer = answers['waiting'];
  const waiting = await runCommand(t, ['inspect', url]);
  t.equal(waiting.code, 1);
  t.match(waiting.stderr, `${url}/certs responded 503: waiting for the CA [upstream_protocol]`);
  answer = answers['other'];
  const other = await runCommand(t, ['inspect', url]);
  t.match(other.stderr, `${url}/certs lacks chainPem, bundlePem or trustDomain [upstream_protocol]`);
});

async function serveTls(t: Test, options: TlsOptions): Promise<number> {
  const server = createTlsServer({ cert: right.chainPem, key: right.keyPem, ...options }, (socket) => {
    socket.on('error', () => {});
  });
  server.on('tlsClientError', () => {});
  return listen(t, server);
}

async function listen(t: Test, server: Server | TcpServer): Promise<number> {
  const port = await freePort();
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return port;
}

t.test('each certificate is judged as what it is', async (t) => {
  const dir = tempDir(t);
  const root = new X509Certificate(authority.bundlePem);
  const der = join(dir, 'root.der');
  writeFileSync(der, root.raw);
  const asRoot = await runCommand(t, ['inspect', der]);
  t.equal(asRoot.code, 0, asRoot.stdout + asRoot.stderr);
  t.match(asRoot.stdout, /^judged as {2}a root CA$/m);
  t.match(asRoot.stdout, /^issuer {5}CN=demo\.test root$/m);
  const key = generateKey();
  const bare = await signCertificate(
    {
      ...{ notBefore: Date.now() - 1000, notAfter: Date.now() + 3_600_000, keyUsage: [], subject: 'CN=bare' },
      ...{ publicKey: publicKeyOf(key), serial: randomSerial(), ca: { pathLength: 1 } },
    },
    { key },
  );
  writeFileSync(der, bare);
  const asBare = await runCommand(t, ['inspect', der]);
  t.equal(asBare.code, 1);
  t.match(asBare.stdout, /^judged as {2}a root CA$/m);
  t.match(asBare.stdout, /FAILS .*keyCertSign/, 'its key usage is missing, and that alone is said');
  t.match(asRoot.stdout, /^signature {2}ecdsa-sha256$/m);
  t.match(asRoot.stdout, root.fingerprint256.replaceAll(':', '').toLowerCase());
  t.match(asRoot.stdout, /holds {2}self-signed/);

  const server = join(dir, 'server.pem');
  writeFileSync(server, (await createCredential(authority, uri, { uris: [], dns: ['a.test', 'b.test'] })).chainPem);
  const asServer = await runCommand(t, ['inspect', server]);
  t.equal(asServer.code, 0, asServer.stdout);
  t.match(asServer.stdout, /^judged as {2}the certificate of a server$/m);
  t.match(asServer.stdout, /^hosts {6}a\.test, b\.test$/m);
  // What is meant as an SVID must not pass as something else.
  for (const more of [
    ['--as', 'svid'],
    ['--trust-domain', 'demo.test'],
    ['--bundle', der.replace('der', 'pem')],
  ]) {
    writeFileSync(join(dir, 'root.pem'), authority.bundlePem);
    t.match(await runCommand(t, ['inspect', server, ...more]), { code: 1, stdout: /FAILS {2}one-uri/ }, more.join(' '));
  }
  t.match(await runCommand(t, ['inspect', server, '--as', 'x']), {
    code: 2,
    stderr: /Allowed choices are svid, root/,
  });
});

// The front door: which certificate a client sees, which clients must present one, what a connection may be used for,
// and what happens to all of that when certificates change.

import { writeFileSync } from 'node:fs';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { join } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { ask, type Echo, startEcho } from '../fixtures/echo.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { type Authority, type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const stranger = await createAuthority('stranger.test');
const app = await startEcho(t, 'a');

const certificateFor = (...dns: string[]): Promise<Credential> =>
  createCredential(authority, 'spiffe://outside.test/front', { dns });
const [a, wide, other, front, pem] = await Promise.all([
  certificateFor('a.test'),
  certificateFor('*.wide.test', 'wide.test'),
  certificateFor('other.test'),
  certificateFor('clients.test'),
  certificateFor('pem.test'),
]);
const client = (changes: Parameters<typeof createCredential>[2] = {}, by: Authority = authority): Promise<Credential> =>
  createCredential(by, 'spiffe://outside.test/ns/partner/sa/buyer', {
    subject: 'CN=buyer',
    dns: ['buyer.test'],
    ...changes,
  });
const [buyer, late, foreign] = await Promise.all([
  client(),
  client({ notBefore: Date.now() - 7_200_000, notAfter: Date.now() - 3_600_000 }),
  client({}, stranger),
]);

const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');
const secret = (name: string, { chainPem, keyPem }: Credential): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: shop }\nstringData:\n  tls.crt: |\n${indent(chainPem)}\n  tls.key: |\n${indent(keyPem)}\n`;
const https = (name: string, hostname: string, refs: string, port = 443): string =>
  `{ name: ${name}, port: ${port}, protocol: HTTPS${hostname === '' ? '' : `, hostname: "${hostname}"`}, tls: { certificateRefs: [${refs}] } }`;
const marked = (listener: string): string =>
  documentOf(
    'HTTPRoute',
    listener,
    `{ parentRefs: [{ name: g, sectionName: ${listener} }], rules: [{ filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-mark, value: ${listener} }] } }], backendRefs: [{ name: a, port: 80 }] }] }`,
  );
const yaml = `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`;
const documents = {
  'gateway.yaml':
    documentOf(
      'Gateway',
      'g',
      `{ gatewayClassName: x, listeners: [
        ${https('a', 'a.test', '{ name: a }')},
        ${https('wide', '*.wide.test', '{ name: other }, { name: wide }')},
        ${https('shut', 'shut.wide.test', '{ name: gone }')},
        ${https('pem', 'pem.test', '{ name: pem }')},
        ${https('clients', 'clients.test', '{ name: front }', 444)},
        ${https('lax', 'clients.test', '{ name: front }', 445)}],
        tls: { frontend: { default: {}, perPort: [
          { port: 444, tls: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } },
          { port: 445, tls: { validation: { mode: AllowInsecureFallback, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } }] } } }`,
    ) +
    `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: ca, namespace: shop }\ndata:\n  ca.crt: |\n${indent(authority.bundlePem)}\n`,
  'routes.yaml': ['a', 'wide', 'pem', 'clients', 'lax'].map(marked).join(''),
  'secrets.yaml': secret('wide', wide) + secret('other', other) + secret('front', front),
  'a.yaml': secret('a', a),
};
const gateway: Gateway = await startTestGateway(t, {
  listeners: ['shop/g:443', 'shop/g:444', 'shop/g:445'],
  yaml: `${yaml}certificates: { shop/pem: { certificate: pem.crt, key: pem.key } }\n`,
  documents,
  files: { 'pem.crt': pem.chainPem, 'pem.key': pem.keyPem },
});
const port = gateway.port('shop/g:443');

interface Handshake {
  readonly socket: TLSSocket;
  readonly error: string | undefined;
}

/** Shakes hands; `names` of the certificate that was shown, or why not. */
function shake(servername: string, options: ConnectionOptions = {}): Promise<Handshake> {
  return new Promise((resolve) => {
    const socket = connect({
      host: '127.0.0.1',
      port,
      servername,
      ca: authority.bundlePem,
      checkServerIdentity: () => undefined,
      ...options,
    });
    t.teardown(() => socket.destroy());
    socket.once('secureConnect', () => resolve({ socket, error: undefined }));
    socket.on('error', (error: Error & { code?: string }) => resolve({ socket, error: error.code ?? error.message }));
    socket.once('close', () => resolve({ socket, error: 'closed' }));
  });
}

const shown = ({ socket }: Handshake): string | undefined => socket.getPeerX509Certificate()?.subjectAltName;
const serialOf = ({ socket }: Handshake): string | undefined => socket.getPeerX509Certificate()?.serialNumber;

/** What comes back on a connection that is open, for one request. */
function say(socket: TLSSocket, host: string, more = ''): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const onData = (chunk: Buffer): void => {
      text += chunk.toString('latin1');
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1] ?? Number.NaN);
      if (text.length - text.indexOf('\r\n\r\n') - 4 >= length) done();
    };
    const done = (): void => {
      socket.off('data', onData).off('close', done);
      resolve(text);
    };
    socket.on('data', onData).once('close', done);
    socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`);
  });
}

t.test('the server name selects the listener and its certificate', async (t) => {
  const cases: [name: string, expected: RegExp, mark: string][] = [
    ['a.test', /DNS:a\.test/, 'a'],
    ['A.TEST', /DNS:a\.test/, 'a'],
    ['x.wide.test', /DNS:\*\.wide\.test/, 'wide'],
    // No certificate bears it: the first is shown, and the client says what it thinks of it.
    ['y.x.wide.test', /DNS:other\.test/, 'wide'],
    ['pem.test', /DNS:pem\.test/, 'pem'],
  ];
  for (const [name, expected, mark] of cases) {
    const handshake = await shake(name);
    t.match(shown(handshake), expected, name);
    t.match(await say(handshake.socket, name), `"x-mark":"${mark}"`, name);
  }
});

t.test('an unknown name, no name, and a listener that cannot be served', async (t) => {
  for (const name of ['b.test', 'wide.test', '', 'shut.wide.test']) {
    const { error, socket } = await shake(name);
    t.match(error, /ECONNRESET|closed/, name);
    t.equal(socket.getProtocol(), null, 'there was no handshake');
  }
  await until(
    () => gateway.lines.some(({ msg }) => /no listener matches shut\.wide\.test/.test(String(msg))),
    'its line in the log',
  );
});

t.test('TLS 1.2 is accepted and older versions are not; nothing is resumed', async (t) => {
  const two = await shake('a.test', { maxVersion: 'TLSv1.2' });
  t.equal(two.socket.getProtocol(), 'TLSv1.2');
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    let kept: Buffer | undefined;
    const first = await shake('a.test', { maxVersion: version });
    first.socket.on('session', (session) => {
      kept = session;
    });
    t.match(await say(first.socket, 'a.test'), /^HTTP\/1\.1 200/);
    kept ??= first.socket.getSession();
    const second = await shake('a.test', { maxVersion: version, ...(kept === undefined ? {} : { session: kept }) });
    t.equal(
      second.socket.isSessionReused(),
      false,
      `${version}: a resumed session would skip the client's certificate`,
    );
  }
  const old = await shake('a.test', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL@SECLEVEL=0' });
  t.not(old.error, undefined);
});

t.test('a connection serves the hosts of its listener only', async (t) => {
  const { socket } = await shake('a.test');
  t.match(await say(socket, 'x.wide.test'), /^HTTP\/1\.1 421 /, 'HTTP/1.1');
  t.match(await say(socket, 'a.test'), /^HTTP\/1\.1 200 /, 'the connection is served for its own host');
  t.match(
    await say(socket, 'shut.wide.test'),
    /^HTTP\/1\.1 421 /,
    'the host of a closed listener is not served by another',
  );
  t.match(await say(socket, 'nobody.test'), /^HTTP\/1\.1 404 /);

  const session: ClientHttp2Session = connectHttp2('https://a.test', {
    createConnection: () =>
      connect({ host: '127.0.0.1', port, servername: 'a.test', ca: authority.bundlePem, ALPNProtocols: ['h2'] }),
  });
  t.teardown(() => session.destroy());
  const status = (authorityName: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ':path': '/', ':authority': authorityName });
      stream.on('response', (headers) => {
        stream.resume();
        resolve(headers[':status'] as number);
      });
      stream.on('error', reject);
    });
  t.equal(await status('a.test'), 200);
  t.equal(await status('x.wide.test'), 421, 'HTTP/2: coalesced by a client that has seen one certificate');
  t.equal(await status('a.test'), 200);
});

const asClient = (
  credential: Credential | undefined,
  key: 'shop/g:444' | 'shop/g:445',
  headers: Readonly<Record<string, string>> = {},
): Promise<{ readonly status: number; readonly echo: Echo }> =>
  ask(gateway.port(key), '/', {
    secure: true,
    servername: 'clients.test',
    ca: authority.bundlePem,
    checkServerIdentity: () => undefined,
    agent: false,
    headers: { host: 'clients.test', ...headers },
    ...(credential === undefined ? {} : { cert: credential.chainPem, key: credential.keyPem }),
  });

const lie = { 'x-forwarded-client-cert': 'URI=spiffe://outside.test/ns/partner/sa/admin' };

t.test('clients that must present a certificate', async (t) => {
  const { status, echo } = await asClient(buyer, 'shop/g:444', lie);
  t.equal(status, 200);
  const xfcc = echo.headers['x-forwarded-client-cert'];
  t.match(
    xfcc,
    /^Hash=[0-9a-f]{64};Subject="CN=buyer";URI="?spiffe:\/\/outside\.test\/ns\/partner\/sa\/buyer"?;DNS="?buyer\.test"?$/,
    'the app gets our header',
  );
  t.equal(echo.raw.filter((one) => one.toLowerCase() === 'x-forwarded-client-cert').length, 1, 'it is the only one');
  for (const [what, credential] of Object.entries({ none: undefined, expired: late, foreign })) {
    await t.rejects(asClient(credential, 'shop/g:444'), what);
    await until(
      () => gateway.lines.some(({ code }) => code === 'client_certificate_refused'),
      'the refusal in the log',
    );
  }
});

t.test('clients that may present a certificate', async (t) => {
  const proved = await asClient(buyer, 'shop/g:445');
  t.match(proved.echo.headers['x-forwarded-client-cert'], /URI=/);
  for (const [what, credential] of Object.entries({ none: undefined, expired: late, foreign })) {
    const { status, echo } = await asClient(credential, 'shop/g:445', lie);
    t.equal(status, 200, what);
    t.equal(echo.headers['x-forwarded-client-cert'], undefined, `${what}: neither the client's value nor ours`);
  }
});

t.test('a listener that starts to require certificates, or trusts others, re-checks its clients', async (t) => {
  const caOf = (...of: Authority[]): string =>
    `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: ca, namespace: shop }\ndata:\n  ca.crt: |\n${indent(of.map(({ bundlePem }) => bundlePem).join('\n'))}\n`;
  const gatewayOf = (validation: string): string =>
    documentOf(
      'Gateway',
      'g',
      `{ gatewayClassName: x, listeners: [${https('clients', 'clients.test', '{ name: front }', 444)}]${validation} }`,
    );
  const asking = (mode: string): string =>
    gatewayOf(
      `, tls: { frontend: { default: { validation: { mode: ${mode}, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } } }`,
    );
  const strict = await startTestGateway(t, {
    listeners: ['shop/g:444'],
    yaml,
    documents: {
      'gateway.yaml': gatewayOf(''),
      'ca.yaml': caOf(authority),
      'rest.yaml': marked('clients') + secret('front', front),
    },
  });
  const own = { port: strict.port('shop/g:444') };
  const withBuyer = { ...own, cert: buyer.chainPem, key: buyer.keyPem };
  const open = async (options: ConnectionOptions): Promise<TLSSocket> => {
    const { socket, error } = await shake('clients.test', options);
    t.equal(error, undefined);
    t.match(await say(socket, 'clients.test'), /^HTTP\/1\.1 200 /);
    return socket;
  };
  const isOver = (socket: TLSSocket): Promise<unknown> =>
    until(() => socket.destroyed || socket.readableEnded, 'its end');

  const anonymous = await open(own);
  await strict.write('gateway.yaml', asking('AllowInsecureFallback'));
  t.match(await say(anonymous, 'clients.test'), /^HTTP\/1\.1 200 /, 'a client that needs no certificate is served');
  const known = await open(withBuyer);
  const another = await open(own);
  await strict.write('gateway.yaml', asking('AllowValidOnly'));
  await isOver(anonymous);
  await isOver(another);
  t.match(await say(known, 'clients.test'), /^HTTP\/1\.1 200 /, 'a client that has presented a certificate continues');
  await strict.write('ca.yaml', caOf(stranger, authority));
  t.match(await say(known, 'clients.test'), /^HTTP\/1\.1 200 /, 'the same with one more authority');
  await strict.write('ca.yaml', caOf(stranger));
  await isOver(known);
  t.pass('a client without a valid authority is cut off');
});

t.test('a certificate is rotated in its Secret', async (t) => {
  const before = await shake('a.test');
  const next = await certificateFor('a.test');
  await gateway.write('a.yaml', secret('a', next));
  await until(async () => serialOf(await shake('a.test')) !== serialOf(before), 'the new certificate');
  t.match(await say(before.socket, 'a.test'), /^HTTP\/1\.1 200 /, 'the open connection continues');
  t.equal(
    (await shake('a.test', { maxVersion: 'TLSv1.2' })).socket.getProtocol(),
    'TLSv1.2',
    'the versions are the same',
  );
  const old = await shake('a.test', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL@SECLEVEL=0' });
  t.not(old.error, undefined, 'the same versions are refused');
  t.equal((await shake('a.test', { ALPNProtocols: ['h2'] })).socket.alpnProtocol, 'h2');
});

t.test('a certificate is rotated in its files, one after the other', async (t) => {
  const before = await shake('pem.test');
  const next = await certificateFor('pem.test');
  const generation = async (): Promise<number> =>
    ((await (await fetch(`http://127.0.0.1:${gateway.admin}/state`)).json()) as { generation: number }).generation;
  const first = await generation();
  writeFileSync(join(gateway.dir, 'pem.crt'), next.chainPem);
  gateway.sidecar.reload();
  await until(async () => (await generation()) > first, 'the half of it');
  const between = await shake('pem.test');
  t.equal(serialOf(between), serialOf(before), 'the valid certificate is still presented');
  writeFileSync(join(gateway.dir, 'pem.key'), next.keyPem);
  gateway.sidecar.reload();
  await until(async () => serialOf(await shake('pem.test')) !== serialOf(before), 'the new certificate');
  t.match(await say(before.socket, 'pem.test'), /^HTTP\/1\.1 200 /, 'the open connection continues');
});

t.test('TLS 1.3 alone, where configured, before and after a rotation', async (t) => {
  const strict = await startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: `${yaml}downstreamTls: { minVersion: "1.3" }\n`,
    documents: {
      'all.yaml':
        documentOf('Gateway', 'g', `{ gatewayClassName: x, listeners: [${https('a', '', '{ name: a }')}] }`) +
        marked('a'),
      'a.yaml': secret('a', a),
    },
  });
  const own = { port: strict.port('shop/g:443') };
  const first = await shake('a.test', own);
  t.equal(first.socket.getProtocol(), 'TLSv1.3');
  t.match((await shake('a.test', { ...own, maxVersion: 'TLSv1.2' })).error, /PROTOCOL_VERSION/);
  t.equal((await shake('', own)).error, undefined, 'a catch-all listener accepts a client without a server name');
  await strict.write('a.yaml', secret('a', await certificateFor('a.test')));
  await until(async () => serialOf(await shake('a.test', own)) !== serialOf(first), 'the new certificate');
  t.match((await shake('a.test', { ...own, maxVersion: 'TLSv1.2' })).error, /PROTOCOL_VERSION/);
});

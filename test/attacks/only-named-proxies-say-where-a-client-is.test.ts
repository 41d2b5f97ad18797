// Kind 11, and 2: by the PROXY protocol a load balancer states where a client comes from, and policies, limits, logs
// and headers use that. A client that is not a configured proxy and sends it is cut off, on every kind of port; a proxy
// must send it, and correctly.

import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const shown = await createCredential(authority, 'spiffe://outside.test/front', { dns: ['a.test'] });

/** An app that reports what it was told of the client. */
const app = createHttpServer((asked, response) => response.end(String(asked.headers['x-forwarded-for'])));
app.listen(0, '127.0.0.1');
/** A server that speaks first, and what it received. */
let got = '';
const banner = createServer((socket) => {
  socket.on('error', () => {});
  socket.on('data', (part) => {
    got += String(part);
  });
  socket.write('220 hello\r\n');
});
banner.listen(0, '127.0.0.1');
await Promise.all([once(app, 'listening'), once(banner, 'listening')]);
t.teardown(() => {
  app.closeAllConnections();
  app.close();
  banner.close();
});
const portOf = (server: { address(): unknown }): number => (server.address() as { port: number }).port;

const kind = (group: string, name: string, metadata: string, spec: string): string =>
  `apiVersion: ${group}\nkind: ${name}\nmetadata: { name: ${metadata} }\nspec: ${spec}\n`;
const api = 'gateway.networking.k8s.io/v1';
const envoy = 'gateway.envoyproxy.io/v1alpha1';
const target = (name: string): string =>
  `targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }]`;
const route = (name: string): string =>
  kind(
    api,
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: edge, sectionName: http }, { name: edge, sectionName: https }], rules: [{ matches: [{ path: { value: /${name} } }], backendRefs: [{ name: app, port: 80 }] }] }`,
  );
const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');
const documents = [
  kind(
    api,
    'Gateway',
    'edge',
    '{ gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }, { name: https, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: shown }] } }, { name: tcp, port: 25, protocol: TCP }] }',
  ),
  ...['open', 'inside', 'limited'].map(route),
  kind(
    'gateway.networking.k8s.io/v1alpha2',
    'TCPRoute',
    'mail',
    '{ parentRefs: [{ name: edge, sectionName: tcp }], rules: [{ backendRefs: [{ name: banner, port: 25 }] }] }',
  ),
  kind(
    envoy,
    'SecurityPolicy',
    'inside',
    `{ ${target('inside')}, authorization: { defaultAction: Deny, rules: [{ action: Allow, principal: { clientCIDRs: ["192.0.2.0/24", "2001:db8::/32"] } }] } }`,
  ),
  kind(
    envoy,
    'BackendTrafficPolicy',
    'limited',
    `{ ${target('limited')}, rateLimit: { type: Local, local: { rules: [{ clientSelectors: [{ sourceCIDR: { type: Distinct, value: 0.0.0.0/0 } }], limit: { requests: 1, unit: Hour } }] } } }`,
  ),
  `apiVersion: v1\nkind: Secret\nmetadata: { name: shown }\nstringData:\n  tls.crt: |\n${indent(shown.chainPem)}\n  tls.key: |\n${indent(shown.keyPem)}\n`,
].join('\n---\n');
const start = (cidr: string): Promise<Gateway> =>
  startTestGateway(t, {
    listeners: ['default/edge:80', 'default/edge:443', 'default/edge:25'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${portOf(app)}"] }, banner: { endpoints: ["127.0.0.1:${portOf(banner)}"] } }\nbackends: { default/app:80: app, default/banner:25: banner }\nproxyProtocol: { trustedCIDRs: ["${cidr}"] }\nlimits: { handshake: 400ms, protocolDetection: 200ms }\n`,
    documents,
  });
/** To the first we are a load balancer, to the second a stranger. */
const [named, stranger] = await Promise.all([start('127.0.0.0/8'), start('10.0.0.0/8')]);

const one = (source: string): Buffer => Buffer.from(`PROXY TCP4 ${source} 203.0.113.1 40000 443\r\n`);
/** Version 2; `rest` is what follows the addresses. */
function two(command: number, family: number, addresses: readonly number[], rest: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');
  const body = Buffer.concat([Buffer.from(addresses), rest]);
  return Buffer.concat([head, Buffer.from([0x20 | command, family, body.length >> 8, body.length & 255]), body]);
}
const v4 = [192, 0, 2, 9, 203, 0, 113, 1, 0x9c, 0x40, 1, 0xbb];
const v6 = [
  ...Buffer.from('20010db8000000000000000000000009', 'hex'),
  ...Buffer.from('20010db8000000000000000000000001', 'hex'),
  0x9c,
  0x40,
  1,
  0xbb,
];

const ask = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`;

async function read(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (part: Buffer) => {
    text += String(part);
  });
  await new Promise((resolve) => socket.on('error', resolve).on('close', resolve));
  return text;
}

/** The plaintext response to these bytes, sent in pieces of this size. */
async function plain(gateway: Gateway, bytes: Buffer, key = 'default/edge:80', size = bytes.length): Promise<string> {
  const socket = connect(gateway.port(key), '127.0.0.1');
  socket.setNoDelay(true);
  t.teardown(() => socket.destroy());
  const answer = read(socket);
  for (let at = 0; at < bytes.length && !socket.destroyed; at += size)
    await new Promise((resolve) => socket.write(bytes.subarray(at, at + size), resolve));
  return answer;
}

/** The same over TLS, which begins after the preface. */
async function secure(gateway: Gateway, preface: Buffer, path: string): Promise<string> {
  const raw = connect(gateway.port('default/edge:443'), '127.0.0.1');
  t.teardown(() => raw.destroy());
  raw.on('error', () => {});
  raw.write(preface);
  const socket = connectTls({ socket: raw, servername: 'a.test', ca: authority.bundlePem });
  socket.write(ask(path));
  return read(socket);
}

const body = (answer: string): string =>
  `${/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 'cut'} ${answer.split('\r\n\r\n')[1] ?? ''}`.trim();

t.test('a trusted load balancer states the address of the client', async (t) => {
  for (const [name, preface, address] of [
    ['version 1', one('192.0.2.7'), '192.0.2.7'],
    ['version 1, IPv6', Buffer.from('PROXY TCP6 2001:DB8:0::9 2001:db8::1 40000 443\r\n'), '2001:db8::9'],
    ['version 2', two(1, 0x11, v4), '192.0.2.9'],
    ['version 2, IPv6', two(1, 0x21, v6), '2001:db8::9'],
    ['version 2 with fields', two(1, 0x11, v4, Buffer.from([0x04, 0, 2, 7, 7, 0xea, 0, 1, 1])), '192.0.2.9'],
    ['UNKNOWN, version 1', Buffer.from('PROXY UNKNOWN\r\n'), '127.0.0.1'],
    ['its own health check', two(0, 0, []), '127.0.0.1'],
    ['its own health check, with ignored addresses', two(0, 0x11, v4), '127.0.0.1'],
    ['an unspecified family', two(1, 0, [1, 2, 3]), '127.0.0.1'],
  ] as const) {
    t.equal(body(await plain(named, Buffer.concat([preface, Buffer.from(ask('/open'))]))), `200 ${address}`, name);
    t.equal(
      body(await plain(named, Buffer.concat([preface, Buffer.from(ask('/open'))]), undefined, 1)),
      `200 ${address}`,
      `${name}, byte by byte`,
    );
    t.equal(body(await secure(named, preface, '/open')), `200 ${address}`, `${name}, before TLS`);
    const inside = address === '127.0.0.1' ? /^403/ : /^200/;
    t.match(body(await secure(named, preface, '/inside')), inside, `${name}: clientCIDRs`);
  }
  const limited = async (source: string): Promise<string> =>
    body(await plain(named, Buffer.concat([one(source), Buffer.from(ask('/limited'))]))).slice(0, 3);
  t.strictSame(
    [await limited('198.51.100.1'), await limited('198.51.100.1'), await limited('198.51.100.2')],
    ['200', '429', '200'],
  );
  const records = await named.records(39);
  t.match(
    records.find(({ downstream_remote_address: remote }) => remote === '198.51.100.2:40000'),
    { downstream_local_address: '203.0.113.1:443' },
  );
  const mail = connect(named.port('default/edge:25'), '127.0.0.1');
  t.teardown(() => mail.destroy());
  mail.write(one('192.0.2.7'));
  const [hello] = (await once(mail, 'data')) as [Buffer];
  t.equal(String(hello), '220 hello\r\n');
  mail.write('EHLO me\r\n');
  await until(() => got === 'EHLO me\r\n', 'the bytes after the preface, and none of it');
});

t.test('a wrong or missing PROXY header ends the connection before TLS', async (t) => {
  const before = named.lines.length;
  const wrong: [string, Buffer][] = [
    ['a request without the header', Buffer.from(ask('/open'))],
    ['nothing', Buffer.alloc(0)],
    ['half a line', Buffer.from('PROXY TCP4 192.0.2.7 ')],
    ['a line without an end', Buffer.from(`PROXY TCP4 ${'1'.repeat(200)}`)],
    ['UNKNOWN without an end', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(200)}\r\n`)],
    ['a bare line feed', Buffer.from(`PROXY TCP4 192.0.2.7 203.0.113.1 1 2\n${ask('/open')}`)],
    ['two spaces', Buffer.from('PROXY TCP4  192.0.2.7 203.0.113.1 1 2\r\n')],
    ['another family', Buffer.from('PROXY UDP4 192.0.2.7 203.0.113.1 1 2\r\n')],
    ['addresses of the other family', Buffer.from('PROXY TCP4 ::1 ::1 1 2\r\n')],
    ['a name for an address', Buffer.from('PROXY TCP4 localhost 203.0.113.1 1 2\r\n')],
    ['an address with leading zeros', Buffer.from('PROXY TCP4 192.000.2.7 203.0.113.1 1 2\r\n')],
    ['a port number that is too high', Buffer.from('PROXY TCP4 192.0.2.7 203.0.113.1 65536 2\r\n')],
    ['an extra word', Buffer.from('PROXY TCP4 192.0.2.7 203.0.113.1 1 2 3\r\n')],
    ['lower case', Buffer.from('proxy TCP4 192.0.2.7 203.0.113.1 1 2\r\n')],
    ['UDP', two(1, 0x12, v4)],
    ['UNIX', two(1, 0x31, Array<number>(216).fill(65))],
    ['another command', two(2, 0x11, v4)],
    ['another version', Buffer.from(two(1, 0x11, v4).map((byte, i) => (i === 12 ? 0x31 : byte)))],
    ['fewer bytes than addresses', two(1, 0x11, v4.slice(1))],
    ['fields that are longer than the header', two(1, 0x11, v4, Buffer.from([4, 0, 9, 1]))],
    ['more than 4 KB', two(1, 0x11, v4, Buffer.concat([Buffer.from([4, 0x10, 0]), Buffer.alloc(4096)]))],
    ['shorter than its length', two(1, 0x11, v4).subarray(0, -1)],
  ];
  const answers = await Promise.all(wrong.map(([, bytes]) => plain(named, bytes)));
  for (const [i, [name]] of wrong.entries()) t.equal(answers[i], '', name);
  const cut = await Promise.all(wrong.slice(2).map(([, bytes]) => secure(named, bytes, '/open')));
  t.strictSame([...new Set(cut)], ['']);
  t.match(named.lines.slice(before).filter(({ code }) => code === 'proxy_protocol_invalid').length > 0, true);
  const twice = Buffer.concat([one('192.0.2.7'), one('192.0.2.8'), Buffer.from(ask('/open'))]);
  t.notMatch(await plain(named, twice), /192\.0\.2\.8/, 'a second header is not accepted');
  const metrics = await (await fetch(`http://127.0.0.1:${named.admin}/stats/prometheus`)).text();
  t.match(metrics, /code="proxy_protocol_invalid"\} \d\d/);
});

t.test('an untrusted client cannot send a PROXY header', async (t) => {
  for (const preface of [one('192.0.2.7'), two(1, 0x11, v4), two(0, 0, []), Buffer.from('PROXY UNKNOWN\r\n')]) {
    t.equal(await plain(stranger, Buffer.concat([preface, Buffer.from(ask('/open'))])), '', 'in plaintext');
    t.equal(await secure(stranger, preface, '/open'), '', 'before TLS');
    got = '';
    t.notMatch(await plain(stranger, preface, 'default/edge:25'), /220/, 'on a port of streams');
    t.equal(got, '');
  }
  t.equal(
    stranger.lines.some(({ code }) => code === 'proxy_protocol_untrusted'),
    true,
  );
  t.equal(
    body(await plain(stranger, Buffer.from(ask('/open')))),
    '200 127.0.0.1',
    'the connection is served without the header',
  );
  t.equal(body(await secure(stranger, Buffer.alloc(0), '/open')), '200 127.0.0.1');
  t.match(body(await plain(stranger, Buffer.from(ask('/inside')))), /^403/);
  t.match(
    body(await plain(stranger, Buffer.from(ask('/open').replace('\r\n', '\r\nX-Forwarded-For: 192.0.2.7\r\n')))),
    /^200/,
  );
  const silent = connect(stranger.port('default/edge:25'), '127.0.0.1');
  t.teardown(() => silent.destroy());
  const [hello] = (await once(silent, 'data')) as [Buffer];
  t.equal(String(hello), '220 hello\r\n', 'a client that waits for the server to speak first gets its bytes');
});

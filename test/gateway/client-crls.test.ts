// Clients' certificates against CRLs: of a ClientTrafficPolicy and of gateway.yaml, at the handshake and while a
// connection is open.

import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import t, { type Test } from 'tap';
import { formatCrlPem, signCrl } from '../../cert-agent/identity/crl.ts';
import { readIssuer } from '../../cert-agent/identity/issuer.ts';
import { startEcho } from '../fixtures/echo.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { type Authority, type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const app = await startEcho(t, 'a');
const credential = (name: string, more: object = {}): Promise<Credential> =>
  createCredential(authority, `spiffe://outside.test/${name}`, more);
const [front, good, bad] = await Promise.all([
  credential('front', { dns: ['clients.test'] }),
  credential('good'),
  credential('bad'),
]);
const serialOf = ({ chain }: Credential): string => readIssuer(chain[0]!).serial.toString('hex');

const day = 86_400_000;
let number = 0;
async function crl(revoked: readonly Credential[], by: Authority = authority, nextUpdate = Date.now() + day) {
  const entries = revoked.map((one) => ({ serial: serialOf(one), at: Date.now(), reason: 'keyCompromise' as const }));
  const spec = { number: ++number, thisUpdate: Date.now() - 1000, nextUpdate };
  const lists = [
    await signCrl({ ...spec, entries }, { key: by.issuerKey, certificate: by.issuer }),
    await signCrl({ ...spec, entries: [] }, { key: by.rootKey, certificate: by.root }),
  ];
  return lists.map(formatCrlPem).join('');
}

const data = (kind: 'Secret' | 'ConfigMap', name: string, values: Readonly<Record<string, string>>): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind, metadata: { name, namespace: 'shop' }, [kind === 'Secret' ? 'stringData' : 'data']: values })}\n`;
const authorities = data('ConfigMap', 'ca', { 'ca.crt': authority.bundlePem });
const frontend =
  ', tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } } }';
const gatewayOf = (more = frontend): string =>
  documentOf(
    'Gateway',
    'g',
    `{ gatewayClassName: x, listeners: [{ name: clients, port: 444, protocol: HTTPS, tls: { certificateRefs: [{ name: front }] } }]${more} }`,
  );
const route = documentOf(
  'HTTPRoute',
  'r',
  '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
);
const policyOf = (validation: string, name = 'p', target = 'name: g'): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, ${target} }], tls: { clientValidation: ${validation} } }\n`;
const crlRef = '{ refs: [{ group: "", kind: ConfigMap, name: crl }] }';

async function start(t: Test, documents: Readonly<Record<string, string>>, more = ''): Promise<Gateway> {
  return startTestGateway(t, {
    listeners: ['shop/g:444'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n${more}`,
    documents: {
      'rest.yaml':
        authorities + route + data('Secret', 'front', { 'tls.crt': front.chainPem, 'tls.key': front.keyPem }),
      ...documents,
    },
  });
}

/** The status of a request on a connection of its own, or `refused`; and the connection. */
function ask(gateway: Gateway, who?: Credential): Promise<{ readonly status: string; readonly socket: TLSSocket }> {
  return new Promise((resolve) => {
    const socket = connect({
      ...{ host: '127.0.0.1', port: gateway.port('shop/g:444'), servername: 'clients.test' },
      ...{ ca: authority.bundlePem, checkServerIdentity: () => undefined },
      ...(who === undefined ? {} : { cert: who.chainPem, key: who.keyPem }),
    });
    t.teardown(() => socket.destroy());
    socket.once('secureConnect', () => socket.write('GET / HTTP/1.1\r\nHost: clients.test\r\n\r\n'));
    socket.once('data', (chunk: Buffer) => resolve({ status: chunk.toString('latin1', 9, 12), socket }));
    socket.on('error', () => {});
    socket.once('close', () => resolve({ status: 'refused', socket }));
  });
}

const statusOf = async (gateway: Gateway, who?: Credential): Promise<string> => (await ask(gateway, who)).status;
const isOver = (socket: TLSSocket): Promise<unknown> =>
  until(() => socket.destroyed || socket.readableEnded, 'the end of the connection');
const said = (gateway: Gateway, code: string): Promise<unknown> =>
  until(() => gateway.lines.some((one) => one['code'] === code), `${code} in the log`);

t.test('the CRL of a ClientTrafficPolicy, and its changes while connections are open', async (t) => {
  const gateway = await start(t, {
    'gateway.yaml': gatewayOf(),
    'policy.yaml': policyOf(`{ crl: ${crlRef} }`),
    'crl.yaml': data('ConfigMap', 'crl', { 'ca.crl': await crl([]) }),
  });
  const [kept, lost] = [await ask(gateway, good), await ask(gateway, bad)];
  t.equal(kept.status, '200');
  t.equal(lost.status, '200');
  await gateway.write('crl.yaml', data('ConfigMap', 'crl', { 'ca.crl': await crl([bad]) }));
  await isOver(lost.socket);
  t.notOk(kept.socket.destroyed, 'a client that is not revoked continues');
  t.equal(await statusOf(gateway, bad), 'refused');
  t.equal(await statusOf(gateway, good), '200');
  await said(gateway, 'client_certificate_revoked');

  // Fails closed: garbage, another CA's list, and no list.
  for (const [code, text] of [
    ['crl_invalid', 'garbage'],
    ['crl_missing', await crl([], await createAuthority('outside.test'))],
  ] as const) {
    await gateway.write('crl.yaml', data('ConfigMap', 'crl', { 'ca.crl': text }));
    await until(async () => (await statusOf(gateway, good)) === 'refused', code);
    await said(gateway, code);
  }
  await isOver(kept.socket);
  await gateway.write('crl.yaml', data('ConfigMap', 'crl', { 'ca.crl': await crl([bad]) }));
  await until(async () => (await statusOf(gateway, good)) === '200', 'and it comes back');
});

t.test('when a CRL expires, open connections end', async (t) => {
  const gateway = await start(t, {
    'gateway.yaml': gatewayOf(),
    'policy.yaml': policyOf(`{ crl: ${crlRef} }`),
    'crl.yaml': data('ConfigMap', 'crl', { 'ca.crl': await crl([], authority, Date.now() + 4000) }),
  });
  const one = await ask(gateway, good);
  t.equal(one.status, '200');
  await isOver(one.socket);
  t.equal(await statusOf(gateway, good), 'refused');
  await said(gateway, 'crl_expired');
});

t.test('the CRLs of gateway.yaml: a directory, PEM and DER', async (t) => {
  const place = tempDir(t);
  const lists = (await crl([])).split(/(?<=-----END X509 CRL-----\n)/);
  writeFileSync(join(place, 'issuer.pem'), lists[0]!);
  const base64 = lists[1]!.replace(/-----[^-]*-----|\s/g, '');
  writeFileSync(join(place, 'root.crl'), Buffer.from(base64, 'base64'));
  const gateway = await start(t, { 'gateway.yaml': gatewayOf() }, `clientCrls: { path: "${place}" }\n`);
  const one = await ask(gateway, bad);
  t.equal(one.status, '200');
  writeFileSync(join(place, 'issuer.pem'), (await crl([bad])).split(/(?<=-----END X509 CRL-----\n)/)[0]!);
  await isOver(one.socket);
  t.equal(await statusOf(gateway, bad), 'refused');
  t.equal(await statusOf(gateway, good), '200');
  rmSync(join(place, 'root.crl'));
  await until(async () => (await statusOf(gateway, good)) === 'refused', 'fails closed without the list of the root');
});

t.test('the authorities of a ClientTrafficPolicy, and clients without a certificate', async (t) => {
  const refs = 'caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }]';
  const gateway = await start(t, {
    'gateway.yaml': gatewayOf(''),
    'policy.yaml': policyOf(`{ ${refs}, optional: true, crl: ${crlRef} }`),
    'crl.yaml': data('ConfigMap', 'crl', { 'ca.crl': await crl([bad]) }),
  });
  const anonymous = await ask(gateway);
  t.equal(anonymous.status, '200', 'no certificate is allowed');
  t.equal(await statusOf(gateway, bad), 'refused', 'a presented certificate must be valid');
  t.equal(await statusOf(gateway, good), '200');
  await gateway.write('policy.yaml', policyOf(`{ ${refs}, crl: ${crlRef} }`));
  await isOver(anonymous.socket);
  t.equal(await statusOf(gateway), 'refused');
  // A second policy adds what it demands, for the one listener.
  await gateway.write(
    'second.yaml',
    policyOf('{ crl: { refs: [{ kind: ConfigMap, name: gone }] } }', 'q', 'name: g, sectionName: clients') +
      policyOf(`{ ${refs}, optional: true }`, 'r'),
  );
  t.equal(await statusOf(gateway), 'refused', 'a policy never removes what another one requires');
  t.equal(await statusOf(gateway, good), '200');
});

t.test('a CRL or authority that cannot be enforced closes the listener', async (t) => {
  const gateway = await start(t, {
    'gateway.yaml': gatewayOf(''),
    'policy.yaml': policyOf(`{ crl: ${crlRef} }`),
    'crl.yaml': data('ConfigMap', 'crl', { 'ca.crl': await crl([]) }),
    // Another listener, since a gateway needs one that is served.
  }).catch((error: unknown) => error as Error);
  if (gateway instanceof Error) return t.match(gateway.message, /listener/);
  t.equal(await statusOf(gateway, good), 'refused', 'CRLs without authorities');
  await gateway.write('gateway.yaml', gatewayOf());
  await until(async () => (await statusOf(gateway, good)) === '200', 'served with authorities');
  await gateway.write('policy.yaml', policyOf(`{ crl: ${crlRef}, subjectAltNames: {} }`));
  await until(async () => (await statusOf(gateway, good)) === '500', 'a field that is not evaluated');
});

// Kind 5, lifetimes: a client of a gateway whose certificate is revoked tries everything that a client, or an owner of
// another document, can do to be let in. A client that is not revoked is served all the time.

import { connect as connectHttp2 } from 'node:http2';
import { connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { formatCrlPem, signCrl } from '../../cert-agent/identity/crl.ts';
import { readIssuer } from '../../cert-agent/identity/issuer.ts';
import { startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { type Authority, createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const lookalike = await createAuthority('outside.test');
const app = await startEcho(t, 'a');
const [front, good, bad] = await Promise.all([
  createCredential(authority, 'spiffe://outside.test/front', { dns: ['clients.test'] }),
  createCredential(authority, 'spiffe://outside.test/good'),
  createCredential(authority, 'spiffe://outside.test/bad'),
]);
const serial = readIssuer(bad.chain[0]!).serial.toString('hex');
const day = 86_400_000;

interface Signing {
  readonly key: Authority['rootKey'];
  readonly certificate: Buffer;
}
const issuer: Signing = { key: authority.issuerKey, certificate: authority.issuer };
const root: Signing = { key: authority.rootKey, certificate: authority.root };
/** Our issuer's name and key identifier, under another key. */
const forger: Signing = { key: lookalike.issuerKey, certificate: authority.issuer };

async function listOf(by: Signing, number: number, serials: readonly string[] = [], nextUpdate = Date.now() + day) {
  const entries = serials.map((one) => ({ serial: one, at: Date.now(), reason: 'keyCompromise' as const }));
  return formatCrlPem(await signCrl({ number, thisUpdate: Date.now() - number, nextUpdate, entries }, by));
}

const data = (name: string, values: Readonly<Record<string, string>>): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace: 'shop' }, data: values })}\n`;
const policy = (name: string, validation: string): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: clients }], tls: { clientValidation: ${validation} } }\n`;
const ofRoot = await listOf(root, 1);
const revoking = await listOf(issuer, 50, [serial]);

const gateway = await startTestGateway(t, {
  listeners: ['shop/g:444'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
  documents: {
    'all.yaml':
      documentOf(
        'Gateway',
        'g',
        '{ gatewayClassName: x, listeners: [{ name: clients, port: 444, protocol: HTTPS, tls: { certificateRefs: [{ name: front }] } }], tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } } } }',
      ) +
      documentOf('HTTPRoute', 'r', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }') +
      data('ca', { 'ca.crt': authority.bundlePem }) +
      policy('p', '{ crl: { refs: [{ kind: ConfigMap, name: crl }] } }') +
      `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'front', namespace: 'shop' }, stringData: { 'tls.crt': front.chainPem, 'tls.key': front.keyPem } })}\n`,
    'crl.yaml': data('crl', { 'ca.crl': revoking + ofRoot }),
  },
});
const port = gateway.port('shop/g:444');

/** The status of a request with this chain, or `refused`. */
function ask(chain: readonly Buffer[], key: string, more: object = {}): Promise<string> {
  return new Promise((resolve) => {
    const socket: TLSSocket = connect({
      ...{ host: '127.0.0.1', port, servername: 'clients.test', ca: authority.bundlePem, key },
      ...{ cert: formatPem([...chain]), checkServerIdentity: () => undefined, ...more },
    });
    socket.once('secureConnect', () => socket.write('GET / HTTP/1.1\r\nHost: clients.test\r\n\r\n'));
    socket.once('data', (chunk: Buffer) => {
      resolve(chunk.toString('latin1', 9, 12));
      socket.destroy();
    });
    socket.on('error', () => {});
    socket.once('close', () => resolve('refused'));
  });
}

const served = (): Promise<string> => ask(good.chain, good.keyPem);
const [leaf, above] = bad.chain as [Buffer, Buffer];

t.test('a gateway refuses a client by the chain that it presents', async (t) => {
  for (const [name, chain] of [
    ['its own', bad.chain],
    ['without the issuer', [leaf]],
    ['with the root', [leaf, above, authority.root]],
    ['with a look-alike issuer first', [leaf, lookalike.issuer, above]],
    ['with the same issuer twice', [leaf, above, above]],
    ['with the leaf again, as if it were a CA', [leaf, leaf, above]],
    ["with another client's certificate after it", [leaf, above, good.chain[0]!]],
  ] as const)
    t.equal(await ask(chain, bad.keyPem), 'refused', name);
  t.equal(await ask(bad.chain, bad.keyPem, { maxVersion: 'TLSv1.2' }), 'refused', 'TLS 1.2');
  t.equal(await served(), '200');
});

t.test('a revoked client is refused over HTTP/2', async (t) => {
  const session = connectHttp2(`https://127.0.0.1:${port}`, {
    ...{ servername: 'clients.test', ca: authority.bundlePem, cert: bad.chainPem, key: bad.keyPem },
    checkServerIdentity: () => undefined,
  });
  const ended = new Promise((resolve) => session.once('close', resolve));
  session.on('error', () => {});
  session
    .request({ ':authority': 'clients.test' })
    .on('error', () => {})
    .on('response', () => t.fail('a response'));
  await ended;
  t.pass('the connection ended');
});

t.test('other CRLs do not hide the one that revokes', async (t) => {
  for (const [name, other] of [
    ['an older CRL', await listOf(issuer, 49)],
    ["a forger's CRL with a greater number", await listOf(forger, 99)],
    [
      'a CRL of another CA with the same names',
      await listOf({ key: lookalike.issuerKey, certificate: lookalike.issuer }, 99),
    ],
    ['garbage', 'garbage'],
  ] as const)
    for (const text of [other + revoking + ofRoot, revoking + ofRoot + other]) {
      await gateway.write('crl.yaml', data('crl', { 'ca.crl': text }));
      t.equal(await ask(bad.chain, bad.keyPem), 'refused', name);
      if (name !== 'garbage') t.equal(await served(), '200', `${name}: the other client`);
    }
  await gateway.write('crl.yaml', data('crl', { 'ca.crl': revoking + ofRoot }));
});

t.test('another policy for the same listener does not hide the CRL', async (t) => {
  for (const [name, validation] of [
    ['a policy that requires no certificate', '{ caCertificateRefs: [{ kind: ConfigMap, name: ca }], optional: true }'],
    ['a policy with another CRL', '{ crl: { refs: [{ kind: ConfigMap, name: older }] } }'],
    [
      'a policy that checks only leaves',
      '{ crl: { refs: [{ kind: ConfigMap, name: older }], onlyVerifyLeafCertificate: true } }',
    ],
  ] as const) {
    await gateway.write(
      'a-policy.yaml',
      policy('a', validation) + data('older', { 'ca.crl': await listOf(issuer, 49) }),
    );
    t.equal(await ask(bad.chain, bad.keyPem), 'refused', name);
    await until(async () => (await served()) === '200', `${name}: the other client`);
  }
});

// TLS 1.2 lets a client request one handshake after the other on an open connection, each of which costs the server a
// signature (CVE-2011-1473). Every listener that speaks 1.2 refuses the first.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';

const authority = await createAuthority('outside.test');
const front = await createCredential(authority, 'spiffe://outside.test/front', { dns: ['a.test'] });
const old = { host: '127.0.0.1', maxVersion: 'TLSv1.2', rejectUnauthorized: false } as const;

function shake(options: ConnectionOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...old, ...options }, () => resolve(socket));
    // An error after the refusal is reported once and may come again.
    socket.on('error', reject);
    t.teardown(() => socket.destroy());
  });
}

/** Requests another handshake, and returns the result. */
function renegotiate(socket: TLSSocket): Promise<string> {
  return new Promise((resolve) => {
    socket.once('error', (error: Error & { code?: string }) => resolve(error.code ?? error.message));
    socket.once('close', () => resolve('closed'));
    socket.renegotiate({ rejectUnauthorized: false }, (error) => resolve(error === null ? 'served' : error.message));
  });
}

const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');

t.test('a gateway does not renegotiate, with and without client certificates', async (t) => {
  const app = await startEcho(t, 'a');
  const https = (name: string, port: number): string =>
    `{ name: ${name}, port: ${port}, protocol: HTTPS, hostname: a.test, tls: { certificateRefs: [{ name: front }] } }`;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:443', 'shop/g:444'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: {
      'g.yaml':
        documentOf(
          'Gateway',
          'g',
          `{ gatewayClassName: x, listeners: [${https('a', 443)}, ${https('b', 444)}],
            tls: { frontend: { default: {}, perPort: [
              { port: 444, tls: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } }] } } }`,
        ) +
        `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: ca, namespace: shop }\ndata:\n  ca.crt: |\n${indent(authority.bundlePem)}\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: front, namespace: shop }\nstringData:\n  tls.crt: |\n${indent(front.chainPem)}\n  tls.key: |\n${indent(front.keyPem)}\n` +
        `---\n${documentOf('HTTPRoute', 'r', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }')}`,
    },
  });
  const shown = { cert: front.chainPem, key: front.keyPem };
  for (const [listener, more] of [
    ['shop/g:443', {}],
    ['shop/g:444', shown],
  ] as const) {
    const socket = await shake({ port: gateway.port(listener), servername: 'a.test', ...more });
    t.equal(socket.getProtocol(), 'TLSv1.2', 'the server speaks TLS 1.2');
    t.not(await renegotiate(socket), 'served', listener);
  }
  await gateway.write(
    'more.yaml',
    documentOf(
      'HTTPRoute',
      's',
      '{ parentRefs: [{ name: g }], hostnames: [b.a.test], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
    ),
  );
  const later = await shake({ port: gateway.port('shop/g:443'), servername: 'a.test' });
  t.not(
    await renegotiate(later),
    'served',
    'renegotiation is refused after a change, too, which sets all options again',
  );
});

t.test('a sidecar that is configured for TLS 1.2 does not renegotiate', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, ordersYaml: "tls: { minVersion: '1.2' }\n" });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const socket = await shake({ port: mesh.inPort, cert: peer.chainPem, key: peer.keyPem });
  t.equal(socket.getProtocol(), 'TLSv1.2');
  t.not(await renegotiate(socket), 'served');
});

t.test('every TLS context of the product forbids renegotiation', (t) => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  for (const file of ['sidecar/protocol/tls.ts', 'cert-agent/ca/server.ts']) {
    const text = readFileSync(join(root, file), 'utf8');
    const made = text.match(/secureOptions: .*|const neverAgain = .*/g) ?? [];
    t.ok(made.length > 0, file);
    for (const line of made) t.match(line, /neverAgain|SSL_OP_NO_RENEGOTIATION/, `${file}: ${line}`);
  }
  t.end();
});

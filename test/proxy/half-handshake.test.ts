// A peer that closes before its TLS handshake is complete: its connection ends with it, not at the handshake timeout.

import { connect } from 'node:net';
import t from 'tap';
import { startTestGateway } from '../fixtures/gateway.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';

/** The first bytes of a ClientHello, which announce more than ever follows. */
const half = Buffer.from('160301020001fc0303', 'hex');

/** Ends our side after `bytes`; resolves once the other side has ended. */
function ended(port: number, bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => socket.end(bytes));
    socket.on('error', () => {});
    socket
      .on('end', resolve)
      .on('close', () => resolve())
      .resume();
  });
}

t.test('a sidecar cuts half a handshake', async (t) => {
  const backend = await startBackend(t, () => {});
  // Longer than this test may take: only the end of the peer ends these.
  const mesh = await startMesh(t, { app: backend.port, limits: '{ handshake: 1h }' });
  await Promise.all([ended(mesh.inPort, Buffer.alloc(0)), ended(mesh.inPort, half)]);
});

t.test('a gateway cuts half a handshake', async (t) => {
  const outside = await createAuthority('outside.test');
  const { chainPem, keyPem } = await createCredential(outside, 'spiffe://outside.test/a', { dns: ['a.test'] });
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: 'certificates: { shop/a: { certificate: a.pem, key: a.key } }\nlimits: { handshake: 1h }\n',
    files: { 'a.pem': chainPem, 'a.key': keyPem },
    documents: documentOf(
      'Gateway',
      'g',
      '{ gatewayClassName: x, listeners: [{ name: a, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: a }] } }] }',
    ),
  });
  const port = gateway.port('shop/g:443');
  await Promise.all([ended(port, Buffer.alloc(0)), ended(port, half)]);
});

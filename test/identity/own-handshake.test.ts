// The check that this Node shows a client's chain, and the error under one that does not.

import type { TLSSocket } from 'node:tls';
import t from 'tap';
import { proveChainShown } from '../../cert-agent/identity/own-handshake.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';

const authority = await createAuthority('demo.test');
const { chainPem, keyPem } = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
const svid = parseSvid(chainPem, keyPem, { chain: 'svid.pem', key: 'svid.key' });

t.test('this version of Node presents the leaf and the intermediate', async (t) => {
  await t.resolves(proveChainShown(svid));
});

t.test('a Node that presents only the leaf is refused, with its version and a hint', async (t) => {
  const leafOnly = (socket: TLSSocket): Buffer[] => [socket.getPeerCertificate().raw];
  await t.rejects(proveChainShown(svid, leafOnly), {
    code: 'node_unsuitable',
    message: `Node ${process.versions.node} shows 1 of the 2 certificates that a TLS client presents, so no peer could be verified`,
    hint: "use the Node version that 'npm run setup' and the container image install",
  });
});

t.test('a chain without an intermediate proves nothing and passes', async (t) => {
  await t.resolves(proveChainShown({ ...svid, chain: svid.chain.slice(0, 1) }, () => []));
});

t.test('an unreadable chain is not a proof', async (t) => {
  const unreadable = (): never => {
    throw new Error('no certificate was given');
  };
  await t.rejects(proveChainShown(svid, unreadable), {
    code: 'node_unsuitable',
    message: /no certificate was given$/,
  });
});

// The proof that this Node shows a client's chain, and what is said under one that does not.

import type { TLSSocket } from 'node:tls';
import t from 'tap';
import { proveChainShown } from '../../cert-agent/identity/own-handshake.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';

const authority = await createAuthority('demo.test');
const { chainPem, keyPem } = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
const svid = parseSvid(chainPem, keyPem, { chain: 'svid.pem', key: 'svid.key' });

t.test('this Node shows leaf and intermediate', async (t) => {
  await t.resolves(proveChainShown(svid));
});

t.test('a Node that shows the leaf only is refused, with its version and what to do', async (t) => {
  const leafOnly = (socket: TLSSocket): Buffer[] => [socket.getPeerCertificate().raw];
  await t.rejects(proveChainShown(svid, leafOnly), {
    code: 'node_unsuitable',
    message: `Node ${process.versions.node} shows 1 of the 2 certificates that a TLS client presents, so no peer could be verified`,
    hint: "run it under the Node that 'npm run setup' and the container image bring",
  });
});

t.test('a chain without an intermediate has nothing to prove', async (t) => {
  await t.resolves(proveChainShown({ ...svid, chain: svid.chain.slice(0, 1) }, () => []));
});

t.test('a chain that cannot be read is no proof', async (t) => {
  const unreadable = (): never => {
    throw new Error('no certificate was given');
  };
  await t.rejects(proveChainShown(svid, unreadable), {
    code: 'node_unsuitable',
    message: /no certificate was given$/,
  });
});

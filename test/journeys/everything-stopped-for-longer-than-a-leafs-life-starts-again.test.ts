// CA and agent are stopped, the SVID on disk expires meanwhile, and both are started again: the agent renews with the
// expired SVID, without an operator, within the CA's window; else it needs a token.
//
// How the time passes: the shortest life of a certificate is a minute, and a test that waits for it would be the
// slowest of all. So while both are stopped, this test writes to the agent's directory what a longer stop would leave
// there: an expired certificate of the same CA for the same ID, signed with the CA's own intermediate key, and to the
// CA's store the record of it. The agent cannot distinguish the two. Neither the product nor a clock is changed for it.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readRootFingerprints } from '../../cert-agent/ca/certificates.ts';
import { caFilesOf, storeFileOf } from '../../cert-agent/ca/directory.ts';
import { openSqliteStore } from '../../cert-agent/ca/store/sqlite.ts';
import { formatPem, readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import { pathsIn, writeGeneration } from '../../cert-agent/identity/generation.ts';
import { formatKey, generateKey, parseKey } from '../../cert-agent/identity/keys.ts';
import { parseIdentity, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { publicKeyOf } from '../fixtures/pki.ts';
import { type Owner, startSallyport, tempDir } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/web';

/**
 * Replaces the SVID in `outDir` with one that expired a minute ago, and records it as the renewal of the one before.
 */
async function letTimePass(outDir: string, caDirectory: string, isOnRecord: boolean): Promise<void> {
  const files = caFilesOf(caDirectory);
  const issuer = readPemBlocks(readFileSync(files.intermediate, 'utf8'), 'intermediate')[0]!;
  const issuerKey = parseKey(readFileSync(files.intermediateKey, 'utf8'), 'intermediate.key');
  const read = readIdentityTexts(pathsIn(outDir, 'demo.test'));
  if ('missing' in read) throw new Error(`${read.missing} is missing`);
  const identity = parseIdentity(read.texts, pathsIn(outDir, 'demo.test'));
  const key = generateKey();
  const [serial, now] = [randomSerial(), Date.now()];
  const [notBefore, notAfter] = [now - 180_000, now - 60_000];
  const leaf = await signCertificate(
    {
      subject: '',
      publicKey: publicKeyOf(key),
      ...{ serial, notBefore, notAfter },
      uris: [id],
      keyUsage: ['digitalSignature'],
      tlsUsage: ['serverAuth', 'clientAuth'],
    },
    { key: issuerKey, certificate: issuer },
  );
  const svid = parseSvid(formatPem([leaf, issuer]), formatKey(key), { chain: 'svid.pem', key: 'svid.key' });
  writeGeneration(outDir, { ...identity, svid });
  if (!isOnRecord) return;
  const store = await openSqliteStore(storeFileOf(caDirectory), readRootFingerprints(caDirectory));
  const keyHash = createHash('sha256').update(publicKeyOf(key)).digest('hex');
  const evidence = { kind: 'svid', reference: identity.svid.serial } as const;
  const record = { serial, id, keyHash, issuedAt: notBefore, notBefore, notAfter, evidence, certificate: leaf };
  t.same(await store.recordCertificate(record, 'test'), { outcome: 'recorded' });
  await store.close();
}

async function startWorld(t: Owner, isOnRecord: boolean, serveArgs: readonly string[] = []) {
  const ca = await makeCa(t);
  const directory = tempDir(t);
  const [tokenFile, outDir] = [join(directory, 'token'), join(directory, 'out')];
  const args = ['agent', '--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', tokenFile, '--out-dir', outDir];
  const caBefore = await ca.serve(serveArgs);
  await ca.writeToken(id, tokenFile);
  const agentBefore = startSallyport(t, args);
  await agentBefore.waitFor(/"code":"svid_received"/);
  await agentBefore.stop();
  await caBefore.stop();
  await letTimePass(outDir, ca.directory, isOnRecord);
  const agent = startSallyport(t, args);
  await agent.waitFor(/"code":"svid_expired".*on disk has expired; asking the CA to renew it/);
  await agent.waitFor(/waiting for the CA at/);
  return { ca, agent, tokenFile, outDir };
}

t.test('a workload that was cut off for longer than its certificate lives comes back by itself', async (t) => {
  const { ca, agent, outDir } = await startWorld(t, true);
  await ca.serve();
  await agent.waitFor(/"code":"svid_received"/);
  const inspected = startSallyport(t, ['inspect', outDir]);
  t.equal(await inspected.exited, 0, `the new SVID is valid:\n${inspected.stdout()}${inspected.stderr()}`);
  t.equal(await agent.stop(), 0);
});

t.test('where the operator has turned that off, a token is needed, and the log says so', async (t) => {
  const { ca, agent, tokenFile } = await startWorld(t, true);
  await ca.serve(['--renew-expired-within', '0']);
  await agent.waitFor(/"caCode":"svid_expired".*the SVID has expired, and the CA does not renew it any more/);
  await ca.writeToken(id, tokenFile);
  await agent.waitFor(/"code":"svid_received"/);
  t.equal(await agent.stop(), 0);
});

t.test('an expired SVID that is not on record proves nothing', async (t) => {
  const { ca, agent, tokenFile } = await startWorld(t, false);
  await ca.serve();
  await agent.waitFor(/"caCode":"svid_expired"/);
  const refused = await agent.waitFor(/"caCode":"(token_[a-z]+)".*waiting for a join token that the CA accepts in/);
  t.equal(refused[1], 'token_used', 'the refusal of the old token says why');
  await ca.writeToken(id, tokenFile);
  await agent.waitFor(/"code":"svid_received"/);
  t.equal(await agent.stop(), 0);
});

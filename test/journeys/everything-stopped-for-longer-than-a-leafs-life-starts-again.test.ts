// CA and agent are stopped, the SVID on disk expires meanwhile, and both are started again.
//
// How the time passes: the shortest life of a certificate is a minute, and a test that waits for it would be the
// slowest of all. So while both are stopped, this test writes to the agent's directory what a longer stop would leave
// there: an expired certificate of the same CA for the same ID, signed with the CA's own intermediate key. The agent
// cannot distinguish the two. Neither the product nor a clock is changed for it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { formatPem, readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import { pathsIn, writeGeneration } from '../../cert-agent/identity/generation.ts';
import { formatKey, generateKey, parseKey } from '../../cert-agent/identity/keys.ts';
import { parseIdentity, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { publicKeyOf } from '../fixtures/pki.ts';
import { startSallyport, tempDir } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/web';

/** Replaces the SVID in `outDir` with one that expired a minute ago. */
async function letTimePass(outDir: string, caDirectory: string): Promise<void> {
  const files = caFilesOf(caDirectory);
  const issuer = readPemBlocks(readFileSync(files.intermediate, 'utf8'), 'intermediate')[0]!;
  const issuerKey = parseKey(readFileSync(files.intermediateKey, 'utf8'), 'intermediate.key');
  const read = readIdentityTexts(pathsIn(outDir, 'demo.test'));
  if ('missing' in read) throw new Error(`${read.missing} is missing`);
  const identity = parseIdentity(read.texts, pathsIn(outDir, 'demo.test'));
  const key = generateKey();
  const leaf = await signCertificate(
    {
      subject: '',
      publicKey: publicKeyOf(key),
      serial: randomSerial(),
      notBefore: Date.now() - 180_000,
      notAfter: Date.now() - 60_000,
      uris: [id],
      keyUsage: ['digitalSignature'],
      tlsUsage: ['serverAuth', 'clientAuth'],
    },
    { key: issuerKey, certificate: issuer },
  );
  const svid = parseSvid(formatPem([leaf, issuer]), formatKey(key), { chain: 'svid.pem', key: 'svid.key' });
  writeGeneration(outDir, { ...identity, svid });
}

t.test('everything stopped for longer than a leaf’s life starts again', async (t) => {
  const ca = await makeCa(t);
  const directory = tempDir(t);
  const [tokenFile, outDir] = [join(directory, 'token'), join(directory, 'out')];
  const args = ['agent', '--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', tokenFile, '--out-dir', outDir];
  const caBefore = await ca.serve();
  await ca.writeToken(id, tokenFile);
  const agentBefore = startSallyport(t, args);
  await agentBefore.waitFor(/"code":"svid_received"/);
  await agentBefore.stop();
  await caBefore.stop();
  await letTimePass(outDir, ca.directory);

  const agent = startSallyport(t, args);
  await agent.waitFor(/"code":"svid_expired".*on disk has expired; a token is needed/);
  await agent.waitFor(/waiting for the CA at/);
  await ca.serve();
  const refused = await agent.waitFor(/"caCode":"(token_[a-z]+)".*waiting for a join token that the CA accepts in/);
  t.equal(refused[1], 'token_used', 'the refusal of the old token says why');
  await ca.writeToken(id, tokenFile);
  await agent.waitFor(/"code":"svid_received"/);
  const inspected = startSallyport(t, ['inspect', outDir]);
  t.equal(await inspected.exited, 0, `the new SVID is right:\n${inspected.stdout()}${inspected.stderr()}`);
  t.equal(await agent.stop(), 0);
});

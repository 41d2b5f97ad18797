// A join token is bound to the key of its first request. An agent that is killed after the CA's response and before the
// response is on disk must therefore use the same key again. That moment is too short to hit with a signal, so this
// test performs the steps of the first run with the same functions: key to disk, request, response, and then nothing.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { gatherEvidence } from '../../cert-agent/attest.ts';
import { systemClock } from '../../cert-agent/base/clock.ts';
import { createCaClient } from '../../cert-agent/fetch.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { pendingKey } from '../../cert-agent/identity/generation.ts';
import { readBundleFile } from '../../cert-agent/identity/read.ts';
import { makeCa } from '../fixtures/ca-process.ts';
import { startSallyport, tempDir } from '../fixtures/process.ts';

t.test('an agent killed between response and disk still joins', async (t) => {
  const ca = await makeCa(t);
  await ca.serve();
  const directory = tempDir(t);
  const [tokenFile, outDir] = [join(directory, 'token'), join(directory, 'out')];
  await ca.writeToken('spiffe://demo.test/ns/shop/sa/web', tokenFile);

  const client = createCaClient({ url: new URL(ca.url), clock: systemClock });
  t.teardown(() => client.close());
  const lost = await client.fetchSvid({
    trust: { bundle: readBundleFile(ca.bundleFile), denied: emptyDenyList },
    evidence: gatherEvidence({ svid: undefined, tokenFile, warn: () => {} }),
    key: pendingKey(outDir, undefined),
  });

  const args = ['--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', tokenFile, '--out-dir', outDir];
  const agent = startSallyport(t, ['agent', ...args]);
  await agent.waitFor(/"code":"svid_received"/);
  t.equal(readFileSync(join(outDir, 'svid.pem'), 'utf8'), lost.svid.chainPem, 'the same key gets the same certificate');
  await agent.stop();

  const thief = ['--ca', ca.url, '--ca-bundle', ca.bundleFile, '--token-file', tokenFile];
  const other = startSallyport(t, ['agent', ...thief, '--out-dir', join(directory, 'other')]);
  await other.waitFor(/"caCode":"token_used"/);
  t.equal(await other.stop(), 0, 'with another key it waits for another token');
});

// The agent is started first, without bundle, token or CA. It says what it waits for, one after the other, is not
// ready, and does not exit. Once it has everything, it serves.

import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa } from '../fixtures/ca-process.ts';
import { freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/web';

t.test('the agent waits for a CA that is not there yet', async (t) => {
  const ca = await makeCa(t);
  const directory = tempDir(t);
  const at = (name: string): string => join(directory, name);
  const admin = `127.0.0.1:${await freePort()}`;
  const files = ['--ca-bundle', at('root.pem'), '--token-file', at('token'), '--out-dir', at('out')];
  const agent = startSallyport(t, ['agent', '--ca', ca.url, ...files, '--admin', admin]);
  const ready = async (): Promise<{ status: number; text: string }> => {
    const response = await fetch(`http://${admin}/healthz/ready`);
    return { status: response.status, text: await response.text() };
  };

  await agent.waitFor(/waiting for the CA bundle [^"]*root\.pem/);
  await agent.waitFor(/"code":"agent_started"/);
  t.same(await ready(), { status: 503, text: `waiting for the CA bundle ${at('root.pem')}\n` });
  copyFileSync(ca.bundleFile, at('root.pem'));
  await agent.waitFor(/waiting for a join token in [^"]*token/);
  await ca.writeToken(id, at('token'));
  await agent.waitFor(/waiting for the CA at https:/);
  t.equal((await ready()).status, 503);
  await ca.serve();
  await agent.waitFor(/"code":"svid_received"/);
  await until(async () => (await ready()).status === 200, 'the agent to be ready');
  const inspected = startSallyport(t, ['inspect', `http://${admin}`]);
  t.equal(await inspected.exited, 0, inspected.stderr());
  const peer = startSallyport(t, ['inspect', ca.url, '--dir', at('out')]);
  t.equal(await peer.exited, 0, peer.stderr());
  t.match(peer.stdout(), 'spiffe://demo.test/sallyport/ca');
  t.equal(await agent.stop(), 0);
});

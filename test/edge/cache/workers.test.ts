// Several workers: each has its own memory, and a purge or an invalidation at one reaches all.

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { documentsOf, saying } from '../../fixtures/cached.ts';
import { askAs } from '../../fixtures/edge-client.ts';
import { writeGateway } from '../../fixtures/gateway.ts';
import { startSallyport, until } from '../../fixtures/process.ts';

let text = 'old';
let asked = 0;
const app = createServer((one, answer) => {
  asked++;
  saying(text, { 'cache-control': 'max-age=60', 'cache-tag': 't' })(one, answer);
});
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
t.teardown(() => {
  app.closeAllConnections();
  app.close();
});
const { file, admin, port } = await writeGateway(t, {
  listeners: ['default/g:80'],
  yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${(app.address() as AddressInfo).port}"] } }\nbackends: { default/app:80: app }\n`,
  documents: documentsOf('', ''),
});
const gateway = startSallyport(t, ['gateway', '--config', file, '--workers', '3']);
await gateway.waitFor(/"code":"ready"/);

const get = async (): Promise<string> => String((await askAs('HTTP/1.1', port('default/g:80'), {})).body);

/** Asks on new connections, which the kernel distributes, until each worker has stored the response. */
async function storeEverywhere(): Promise<void> {
  const before = asked;
  await until(async () => {
    await Promise.all(Array.from({ length: 20 }, get));
    return asked - before >= 3;
  }, 'all workers to have stored it');
}

/** Each worker serves what the app says now. */
async function isEverywhere(wanted: string): Promise<boolean> {
  const bodies = await Promise.all(Array.from({ length: 60 }, get));
  return bodies.every((body) => body === wanted);
}

t.test('a purge reaches all workers', async (t) => {
  await storeEverywhere();
  text = 'new';
  t.equal(await isEverywhere('old'), true);
  const answer = await fetch(`http://127.0.0.1:${admin}/cache/purge`, { method: 'POST', body: '{"tag":"t"}' });
  t.strictSame(await answer.json(), { removed: 1 });
  await until(() => isEverywhere('new'), 'all workers to have heard');
});

t.test('an invalidation reaches all workers, whichever worker handles it', async (t) => {
  for (const next of ['2', '3', '4', '5']) {
    text = next;
    await askAs('HTTP/1.1', port('default/g:80'), { method: 'POST', body: 'x' });
    await until(() => isEverywhere(next), `all workers to have heard of ${next}`);
  }
  t.pass('the workers did');
});

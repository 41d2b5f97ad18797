// Kind 8, one and many: a local limit of a policy holds for a gateway as a whole, however many workers it has and
// however the kernel distributes a client's connections. A killed worker keeps nothing.

import { readFileSync } from 'node:fs';
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import t from 'tap';
import { writeGateway } from '../fixtures/gateway.ts';
import { freePort, startSallyport, until } from '../fixtures/process.ts';

const documents = [
  'apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n',
  ...['rate', 'small', 'held'].map(
    (name) =>
      `apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: ${name} }\nspec: { parentRefs: [{ name: edge }], rules: [{ matches: [{ path: { value: /${name} } }], backendRefs: [{ name: app, port: 80 }] }] }\n`,
  ),
  ...[
    ['rate', 'rateLimit: { type: Local, local: { rules: [{ limit: { requests: 60, unit: Hour } }] } }'],
    ['small', 'rateLimit: { type: Local, local: { rules: [{ limit: { requests: 3, unit: Hour } }] } }'],
    ['held', 'concurrency: { maxInFlight: 6 }'],
  ].map(
    ([name, spec]) =>
      `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { name: ${name} }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }], ${spec} }\n`,
  ),
].join('\n---\n');

/** Requests for /held are answered when the test releases them. */
const waiting: ServerResponse[] = [];
const app = createServer((asked: IncomingMessage, response) => {
  if (asked.url === '/held') waiting.push(response);
  else response.end('ok');
});
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
t.teardown(() => {
  app.closeAllConnections();
  app.close();
});
const port = await freePort();
const { file } = await writeGateway(t, {
  listeners: { 'default/edge:80': port },
  yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${(app.address() as { port: number }).port}"] } }\nbackends: { default/app:80: app }\n`,
  documents,
});
const gateway = startSallyport(t, ['gateway', '--config', file, '--workers', '3']);
await gateway.waitFor(/"code":"ready"/);

/**
 * The status of one request; without an agent on a connection of its own, which the kernel distributes. 0 if it was
 * cut.
 */
function ask(path: string, agent: Agent | false = false): Promise<number> {
  return new Promise((resolve) => {
    const asked = request({ port, path, agent }, (response) => {
      response.resume();
      response.once('close', () => resolve(response.statusCode!));
    });
    asked.on('error', () => resolve(0)).end();
  });
}

/** Asks for /held until it is let in: the gateway hears of the end of a response after its client. */
async function hold(): Promise<number> {
  const status = await ask('/held');
  return status === 429 ? hold() : status;
}

async function passed(path: string, count: number, agent: Agent | false = false): Promise<number> {
  const all = await Promise.all(Array.from({ length: count }, () => ask(path, agent)));
  return all.filter((status) => status === 200).length;
}

t.test('requests per hour are counted over all workers', async (t) => {
  t.equal(await passed('/small', 12), 3, 'the last tokens are lent one at a time');
  t.equal(await passed('/small', 12), 0);
  const first = await passed('/rate', 100);
  t.ok(first > 30 && first <= 60, `${first} of 60`);
  // What one worker had leased and did not use is available to the others a tenth of a second later.
  let all = first;
  await until(async () => {
    all += await passed('/rate', 20);
    return all >= 60;
  }, 'the rest to pass');
  t.equal(all, 60);
  const agent = new Agent({ keepAlive: true, maxSockets: 6 });
  t.teardown(() => agent.destroy());
  t.equal(await passed('/rate', 60, agent), 0);
});

t.test('requests in flight are counted over all workers, also when a worker is killed', async (t) => {
  const answers: Promise<number>[] = [];
  for (let i = 0; i < 6; i++) answers.push(hold());
  await until(() => waiting.length === 6, 'six to be in');
  t.strictSame(await Promise.all(Array.from({ length: 12 }, () => ask('/held'))), Array(12).fill(429));
  for (const response of waiting.splice(0)) response.end('ok');
  t.strictSame(await Promise.all(answers.splice(0)), Array(6).fill(200));

  for (let i = 0; i < 6; i++) answers.push(hold());
  await until(() => waiting.length === 6, 'six to be in flight again, without those that have left');
  const children = readFileSync(`/proc/${gateway.process.pid}/task/${gateway.process.pid}/children`, 'utf8').trim();
  for (const child of children.split(' ')) process.kill(Number(child), 'SIGKILL');
  await gateway.waitFor(/(?:"code":"worker_exited"[\s\S]*){2}/);
  for (const response of waiting.splice(0)) response.end('ok');
  await Promise.all(answers.splice(0));
  for (let i = 0; i < 6; i++) answers.push(hold());
  await until(() => waiting.length === 6, 'six to be in after two workers were killed');
  t.equal(await ask('/held'), 429);
  for (const response of waiting.splice(0)) response.end('ok');
  t.strictSame(await Promise.all(answers), Array(6).fill(200));
});

// Kinds 3 and 17: any client may reach the health port, and through it have the app checked. It learns a status and
// nothing else, chooses no part of the check, and however many ask, the app gets one check at a time, for a bounded
// time.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { startMesh } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

interface Scene {
  readonly port: number;
  readonly asked: IncomingMessage[];
  /** The most checks that the app had at the same time. */
  most(): number;
  readonly lines: readonly Record<string, unknown>[];
}

async function start(t: Owner, answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<Scene> {
  const asked: IncomingMessage[] = [];
  let now = 0;
  let most = 0;
  const server = createServer((request, response) => {
    asked.push(request);
    most = Math.max(most, ++now);
    response.once('close', () => now--);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const health = await freePort();
  const { lines } = await startMesh(t, {
    app: (server.address() as AddressInfo).port,
    ordersYaml: `health: 127.0.0.1:${health}\nappHealth: /healthz\n`,
  });
  return { port: health, asked, most: () => most, lines };
}

t.test('a probe passes nothing of the caller to the app, and nothing of the app to the caller', async (t) => {
  const scene = await start(t, (_, response) => {
    response.writeHead(500, { 'x-powered-by': 'a framework', 'set-cookie': 'a=b' }).end('stack trace at line 7');
  });
  const answer = await fetch(`http://127.0.0.1:${scene.port}/app-health/8080?path=/admin&x=1`, {
    headers: { cookie: 'a=b', authorization: 'Bearer x', 'x-forwarded-for': '1.2.3.4', 'x-original-url': '/admin' },
  });
  t.equal(answer.status, 500);
  t.equal(await answer.text(), '');
  t.strictSame(
    [...answer.headers.keys()].filter(
      (name) =>
        !/^(?:cache-control|connection|content-(?:type|length)|date|keep-alive|x-content-type-options)$/.test(name),
    ),
    [],
  );
  const [request] = scene.asked;
  t.match(request, { method: 'GET', url: '/healthz' });
  t.notMatch(request?.rawHeaders.join('\n') ?? '', /cookie|bearer|forwarded|original/i);
});

t.test('a probe allows no other method, path or port', async (t) => {
  const scene = await start(t, (_, response) => response.end());
  const url = `http://127.0.0.1:${scene.port}/app-health`;
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])
    t.equal((await fetch(`${url}/8080`, { method })).status, 405, method);
  for (const path of ['/22', '/8080/../../admin', '/8080%2fadmin', '/admin', '/127.0.0.1:8080', '/80801'])
    t.equal((await fetch(`${url}${path}`)).status, 404, path);
  t.equal(scene.asked.length, 0);
});

t.test('many callers at once cause one check', async (t) => {
  const held: ServerResponse[] = [];
  const scene = await start(t, (_, response) => held.push(response));
  const crowd = Array.from({ length: 40 }, () => fetch(`http://127.0.0.1:${scene.port}/app-health`));
  await until(() => held.length === 1, 'the app to be checked');
  held[0]!.writeHead(200).end();
  const answered = await Promise.race(crowd);
  t.equal(answered.status, 200);
  // Later probes cause a new check, and share it too.
  const rest = Promise.all(crowd);
  const release = setInterval(() => {
    for (const one of held) if (!one.writableEnded) one.writeHead(200).end();
  }, 5);
  t.teardown(() => clearInterval(release));
  t.ok((await rest).every(({ status }) => status === 200));
  t.equal(scene.most(), 1, 'one at a time');
  t.ok(scene.asked.length < 10, `checked ${scene.asked.length} times for ${crowd.length}`);
});

t.test('an app that is silent or never stops responding costs a bounded time', async (t) => {
  const scene = await start(t, (_, response) => {
    if (scene.asked.length === 1) return;
    response.writeHead(200);
    const more = setInterval(() => response.write(Buffer.alloc(65_536)), 1);
    response.once('close', () => clearInterval(more));
  });
  const ask = async (): Promise<number> => (await fetch(`http://127.0.0.1:${scene.port}/app-health`)).status;
  t.equal(await ask(), 503, 'silence');
  t.equal(await ask(), 200, 'the head is sufficient');
  await until(() => scene.asked.every(({ socket }) => socket.destroyed), 'both connections to be closed');
  t.strictSame(
    scene.lines.flatMap(({ code, msg }) => (/^app_(?:un)?healthy$/.test(String(code)) ? [String(msg)] : [])),
    ['the app of port 8080 is not healthy: no response within 1000 ms', 'the app of port 8080 is healthy'],
    'the reason is logged, once',
  );
});

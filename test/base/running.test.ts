// Live values, watched directories, admin pages.

import { mkdirSync, renameSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { startAdmin } from '../../cert-agent/base/admin.ts';
import { deepFreeze, LiveCell, whenLive } from '../../cert-agent/base/live.ts';
import { watchForChange } from '../../cert-agent/base/watch.ts';
import { freePort, tempDir, until } from '../fixtures/process.ts';

t.test('a Live value notifies its subscribers of each change', async (t) => {
  const cell = new LiveCell(1);
  const seen: number[] = [];
  const stop = cell.onChange((value) => {
    seen.push(value);
    if (value === 2) stop();
  });
  cell.onChange((value) => seen.push(-value));
  cell.set(2);
  cell.set(3);
  t.same(seen, [2, -2, -3], 'a listener that unsubscribes while it is called does not affect others');
  t.equal(await whenLive(cell, (value): value is number => value === 3), 3, 'the current value counts');
  const later = whenLive(cell, (value): value is number => value === 5);
  cell.set(4);
  cell.set(5);
  t.equal(await later, 5);
  const abort = new AbortController();
  const never = whenLive(cell, (value): value is number => value === 99, abort.signal);
  abort.abort(new Error('enough'));
  await t.rejects(never, { message: 'enough' });
  t.throws(() => {
    (deepFreeze({ a: { b: [1] } }) as { a: { b: number[] } }).a.b.push(2);
  }, TypeError);
});

t.test('a directory is watched through renames and links, also when it is created later', async (t) => {
  const dir = tempDir(t);
  const late = join(dir, 'late');
  let looks = 0;
  const watch = watchForChange(
    () => [dir, late],
    () => looks++,
    50,
  );
  t.teardown(() => watch.close());
  const changes = async (what: string, change: () => void): Promise<void> => {
    const before = looks;
    change();
    t.ok(await until(() => looks > before, what), what);
  };
  await changes('a new file', () => writeFileSync(join(dir, 'a'), '1'));
  await changes('a rename over it', () => {
    writeFileSync(join(dir, 'b'), '2');
    renameSync(join(dir, 'b'), join(dir, 'a'));
  });
  await changes('a directory that comes later', () => mkdirSync(late));
  await changes('a link in it', () => symlinkSync('../a', join(late, 'l')));
  watch.close();
});

t.test('admin pages answer', async (t) => {
  const listen = { host: '127.0.0.1', port: await freePort() };
  const server = await startAdmin({
    listen,
    title: 'Test',
    maxBodyBytes: 100,
    pages: [
      { method: 'GET', path: '/state', sentence: 'how it is', answer: () => ({ body: { ok: true } }) },
      { method: 'POST', path: '/echo', sentence: 'what was sent', answer: ({ body }) => ({ body: { body } }) },
      {
        method: 'GET',
        path: '/broken',
        sentence: 'fails',
        answer() {
          throw new Error('no');
        },
      },
      { method: 'GET', path: '/under/*', sentence: 'all below', answer: ({ url }) => ({ body: url.pathname }) },
    ],
  });
  t.teardown(() => server.close());
  const base = `http://127.0.0.1:${listen.port}`;
  const ask = async (path: string, init: RequestInit = {}): Promise<{ status: number; text: string }> => {
    const answer = await fetch(`${base}${path}`, init);
    return { status: answer.status, text: await answer.text() };
  };
  t.equal(
    (await ask('/')).text,
    'Test\n\nGET    /state    how it is\nPOST   /echo     what was sent\nGET    /broken   fails\nGET    /under/*  all below\n',
    'the index equals the table',
  );
  t.match(await ask('/state'), { status: 200, text: '{\n  "ok": true\n}\n' });
  t.match(await ask('/state', { method: 'HEAD' }), { status: 200, text: '' });
  t.match(await ask('/under/a/b'), { status: 200, text: '/under/a/b' });
  t.match(await ask('/echo', { method: 'POST', body: '{"a":1}' }), { status: 200, text: /"a": 1/ });
  t.match(await ask('/echo', { method: 'POST', body: '{' }), { status: 400, text: /body_invalid/ });
  t.match(await ask('/nowhere'), { status: 404, text: /GET \/ lists the pages/ });
  t.match(await ask('/state', { method: 'POST' }), { status: 405, text: /answers GET only/ });
  t.match(await ask('/broken'), { status: 500, text: /this page failed: no/ });

  t.test('a web page in a browser on this machine reaches no admin page', async (t) => {
    t.match(
      await askWith({ host: 'attacker.example' }),
      { status: 400, text: /loopback names only/ },
      'a rebound name',
    );
    t.match(await ask('/echo', { method: 'POST', headers: { origin: 'https://attacker.example' } }), {
      status: 400,
      text: /refuses requests from web pages/,
    });
    t.match(await askWith({ host: 'localhost' }), { status: 200 });
    t.match(await askWith({ host: `[::1]:${listen.port}` }), { status: 200 });
  });

  t.test('a port in use is reported', async (t) => {
    await t.rejects(startAdmin({ listen, title: 'Second', pages: [] }), {
      code: 'port_in_use',
      message: `127.0.0.1:${listen.port} is already in use`,
      hint: 'stop the other process or choose another port',
    });
  });

  function askWith(headers: Record<string, string>): Promise<{ status: number; text: string }> {
    return new Promise((resolve, reject) => {
      request(`${base}/state`, { headers }, (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text }));
      })
        .on('error', reject)
        .end();
    });
  }
});

t.test('a unix socket is for its owner only, and a stale one is replaced', async (t) => {
  const path = join(tempDir(t), 'sub', 'a.sock');
  const first = await startAdmin({ listen: { path }, title: 'First', pages: [] });
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(statSync(join(path, '..')).mode & 0o777, 0o700);
  await t.rejects(startAdmin({ listen: { path }, title: 'Second', pages: [] }), { code: 'port_in_use' });
  await first.close();
  // As a killed process leaves it: the file exists, and no process listens.
  const killed = createServer();
  await new Promise<void>((resolve) => killed.listen(path, resolve));
  renameSync(path, `${path}.kept`);
  await new Promise<void>((resolve) => killed.close(() => resolve()));
  renameSync(`${path}.kept`, path);
  const second = await startAdmin({ listen: { path }, title: 'Second', pages: [] });
  t.equal(statSync(path).mode & 0o777, 0o600);
  await second.close();
});

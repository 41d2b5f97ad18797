// A refusal that is sent while the body still arrives must reach the client: a close would reset the connection and
// destroy the response on its way.

import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { startBackend, startMesh } from '../fixtures/mesh.ts';

const run = promisify(execFile);
const tries = 20;
const size = 30 * 1024 * 1024;

const denyPost = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: get-only, namespace: shop }
spec: { action: ALLOW, rules: [{ to: [{ operation: { methods: [GET] } }] }] }
`;

t.test('a refused 30 MB POST shows its 403', async (t) => {
  const backend = await startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, { app: backend.port, policy: denyPost });

  t.test('fetch shows the 403', async (t) => {
    const body = Buffer.alloc(size);
    for (let i = 0; i < tries; i++) {
      const answer = await fetch(`http://127.0.0.1:${mesh.fixedPort}/`, { method: 'POST', body });
      t.equal(answer.status, 403, `try ${i + 1}`);
      t.equal(await answer.text(), 'RBAC: access denied');
    }
  });

  const hasCurl = await run('curl', ['--version']).then(
    () => true,
    () => false,
  );
  t.test('curl shows the 403', { skip: hasCurl ? false : 'curl is not installed here' }, async (t) => {
    const file = join(mesh.dir, 'body');
    writeFileSync(file, Buffer.alloc(size));
    for (let i = 0; i < tries; i++) {
      const { stdout } = await run('curl', [
        '-s',
        '-w',
        '|%{http_code}',
        '-H',
        'Host: orders',
        '--data-binary',
        `@${file}`,
        `http://127.0.0.1:${mesh.outPort}/`,
      ]);
      t.equal(stdout, 'RBAC: access denied|403', `try ${i + 1}`);
    }
  });

  t.equal(backend.received.length, 0, 'the app saw nothing of it');
});

// With `--workers 2` a refusal is explained whichever process made it, and the learned traffic and dry runs of both are
// in one report.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect } from 'node:tls';
import t from 'tap';
import { startBackend, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';

const policies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: reads, namespace: shop }
spec: { rules: [{ to: [{ operation: { methods: [GET] } }] }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: trial, namespace: shop, annotations: { istio.io/dry-run: "true" } }
spec: { action: DENY, rules: [{}] }
`;

t.test('workers share their admin pages', async (t) => {
  const dir = tempDir(t);
  const app = await startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
  const web = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'p.yaml'), policies);
  const [port, admin] = await Promise.all([freePort(), freePort()]);
  writeFileSync(
    join(dir, 'orders.yaml'),
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: orders }\nidentity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }\naccessLog: orders.log\ninbound: [{ port: ${port}, bind: 127.0.0.1, app: "127.0.0.1:${app.port}" }]\nadmin: ${admin}\npolicies: policies\nlearn: { file: learned.json }\n`,
  );
  const sidecar = startSallyport(t, ['sidecar', '--config', join(dir, 'orders.yaml'), '--workers', '2']);
  await sidecar.waitFor(/"code":"ready"/);

  const ask = (method: string): Promise<string> => {
    const { chainPem: cert, keyPem: key } = web;
    const options = {
      host: '127.0.0.1',
      port,
      cert,
      key,
      ca: authority.bundlePem,
      checkServerIdentity: () => undefined,
    };
    const socket = connect(options);
    socket.write(`${method} /orders/7 HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`);
    return text(socket);
  };
  await Promise.all(Array.from({ length: 30 }, (_, i) => ask(i % 2 === 0 ? 'DELETE' : 'GET')));
  const records = await until(() => {
    const lines = readFileSync(join(dir, 'orders.log'), 'utf8').split('\n').filter(Boolean);
    return lines.length < 30 ? undefined : lines.map((line) => JSON.parse(line) as Record<string, string>);
  }, 'thirty records');
  const refused = records.filter(({ decision }) => decision === 'deny').map((one) => one['decision_id']!);
  t.equal(refused.length, 15);
  t.equal(new Set(refused.map((id) => id.slice(0, 8))).size, 2, 'both workers have refused requests');

  const page = async (path: string): Promise<unknown> => (await fetch(`http://127.0.0.1:${admin}${path}`)).json();
  for (const id of refused)
    t.match(await page(`/why/${id}`), { id, explanation: { nearest: [{ failed: [{ saw: 'DELETE' }] }] } });
  t.equal(((await page('/denials')) as object[]).length, 15);
  const edge = { from: 'spiffe://demo.test/ns/shop/sa/web', path: '/orders/{*}' };
  t.match(await page('/learned'), {
    edges: [
      { ...edge, method: /DELETE|GET/ },
      { ...edge, method: /DELETE|GET/ },
    ],
  });
  t.match(await page('/shadow-report'), { counts: { 'allow deny': 15, 'deny deny': 15 }, changes: [{ count: 15 }] });
  t.equal(await sidecar.stop('SIGTERM'), 0);
});

// What injection writes into a pod runs: the sidecar reads its sidecar.yaml, joins by the token of the pod's service
// account, serves the app to a peer, and answers the app's probes. Ports and paths are this machine's.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request as ask, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { startTestCa } from '../fixtures/ca.ts';
import { audience, startCluster } from '../fixtures/cluster.ts';
import { injected, pod } from '../fixtures/kube.ts';
import { freePort, startSallyport, tempDir, until } from '../fixtures/process.ts';

function get(port: number, path: string, host?: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = host === undefined ? {} : { host };
    const asked = ask({ host: '127.0.0.1', port, path, headers, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.once('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    asked.once('error', reject);
    asked.end();
  });
}

t.test('two injected pods', { timeout: 120_000 }, async (t) => {
  const cluster = await startCluster(t);
  const { url, issuer, caFile } = cluster;
  const ca = await startTestCa(t, { cluster: { url, issuer, caFile, audience } });
  const asked: string[] = [];
  const app = createServer((request, response) => {
    asked.push(request.url ?? '');
    response.end('two orders');
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const { port } = app.address() as AddressInfo;
  const dir = tempDir(t);
  const ports = {
    inbound: await freePort(),
    orders: await freePort(),
    web: await freePort(),
    outbound: await freePort(),
  };

  async function start(
    account: string,
    container: object,
    annotations: Record<string, string>,
    health: number,
    outbound: number,
  ): Promise<void> {
    const { pod: found } = injected(pod(container, annotations, { serviceAccountName: account }));
    const home = join(dir, account);
    mkdirSync(join(home, 'policies'), { recursive: true });
    const own = cluster.claims()['kubernetes.io'] as object;
    const token = await cluster.token({
      sub: `system:serviceaccount:shop:${account}`,
      'kubernetes.io': {
        ...own,
        serviceaccount: { name: account, uid: account },
        pod: { name: account, uid: account },
      },
    });
    writeFileSync(join(home, 'sallyport-token'), token, { mode: 0o644 });
    writeFileSync(join(home, 'bundle.pem'), readFileSync(caFilesOf(ca.dir).bundlePem));
    writeFileSync(
      join(home, 'policies', 'all.yaml'),
      `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: web, namespace: shop }
spec: { rules: [{ from: [{ source: { principals: [demo.test/ns/shop/sa/web] } }] }] }
`,
    );
    const yaml = String(found.metadata.annotations['sallyport.dev/sidecar.yaml'])
      .replaceAll('/etc/sallyport/config/', `${home}/`)
      .replaceAll('/etc/sallyport/policies', join(home, 'policies'))
      .replaceAll('/var/run/secrets/tokens/', `${home}/`)
      .replaceAll('/run/sallyport/identity/', `${home}/`)
      .replace('https://sallyport-ca.sallyport-system.svc:15012', `https://127.0.0.1:${ca.address.port}`)
      .replace('"port":15006', `"port":${ports.inbound}`)
      .replace('"port":15001', `"port":${outbound}`)
      .replace(/^admin: .*$/m, 'admin: 0')
      .replace(/^health: .*$/m, `health: 127.0.0.1:${health}`);
    writeFileSync(join(home, 'sidecar.yaml'), yaml);
    startSallyport(t, ['sidecar', '--config', join(home, 'sidecar.yaml')]);
    const ready = `http://127.0.0.1:${health}/healthz/ready`;
    await until(async () => (await fetch(ready)).status === 200, `${account} to be ready`);
  }

  await start(
    'orders',
    { ports: [{ name: 'http', containerPort: port }], readinessProbe: { httpGet: { path: '/ready', port: 'http' } } },
    {},
    ports.orders,
    await freePort(),
  );
  const upstream = {
    orders: { endpoints: [`127.0.0.1:${ports.inbound}`], identity: 'spiffe://demo.test/ns/shop/sa/orders' },
  };
  await start(
    'web',
    {},
    { 'sallyport.dev/settings': JSON.stringify({ upstreams: upstream }) },
    ports.web,
    ports.outbound,
  );

  // As a client that has the sidecar as its HTTP proxy, and as one that sets Host.
  for (const [path, host] of [
    ['http://orders/orders', undefined],
    ['/orders', 'orders'],
  ] as const)
    t.strictSame(await get(ports.outbound, path, host), { status: 200, text: 'two orders' }, path);
  t.equal((await get(ports.outbound, '/orders', 'elsewhere')).status, 404);
  const probe = await fetch(`http://127.0.0.1:${ports.orders}/app-health/app/readyz`);
  t.equal(probe.status, 200);
  t.ok(asked.includes('/ready'), 'the sidecar asked the app');
});

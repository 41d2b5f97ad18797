// `npm run perf:watch`: 10,000 objects of an API server, followed: the time until all are there, the memory of the process
// that follows them, the time of an event, and that of the reading which makes documents of them. The goal is 5 s and
// 150 MB. The API server is another process. With the argument `gateway` V8 is set as in a gateway, else as in a sidecar.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { createLog } from '../cert-agent/base/log.ts';
import { gatewayKinds } from '../sidecar/cluster/kinds.ts';
import { ClusterStore, type Snapshot } from '../sidecar/cluster/store.ts';

const each = 2500;

if (process.send === undefined) await follow();
else await serve();

/** As many HTTPRoutes, Services, EndpointSlices and Secrets, with what managers and users add to them. */
async function serve(): Promise<void> {
  const { startApiServer } = await import('../test/fixtures/api-server.ts');
  const api = await startApiServer({ teardown: () => {} });
  const put = (apiVersion: string, kind: string, name: string, rest: object, labels = {}): void =>
    api.put({
      ...{ apiVersion, kind },
      metadata: {
        ...{ name, namespace: `team-${name.length}`, labels: { 'app.kubernetes.io/name': name, ...labels } },
        annotations: { 'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify(rest) },
      },
      ...rest,
    });
  for (let i = 0; i < each; i++) {
    put('gateway.networking.k8s.io/v1', 'HTTPRoute', `route-${i}`, {
      spec: {
        parentRefs: [{ name: 'g' }],
        hostnames: [`host-${i}.test`],
        rules: Array.from({ length: 3 }, (_, rule) => ({
          matches: [{ path: { type: 'PathPrefix', value: `/api/${rule}` }, method: 'GET' }],
          filters: [
            { type: 'RequestHeaderModifier', requestHeaderModifier: { set: [{ name: 'x-team', value: `${i}` }] } },
          ],
          backendRefs: [{ name: `service-${i}`, port: 80 }],
        })),
      },
    });
    put('v1', 'Service', `service-${i}`, { spec: { ports: [{ name: 'http', port: 80, targetPort: 'http' }] } });
    put(
      ...(['discovery.k8s.io/v1', 'EndpointSlice', `slice-${i}`] as const),
      {
        addressType: 'IPv4',
        ports: [{ name: 'http', port: 8080 }],
        endpoints: Array.from({ length: 4 }, (_, pod) => ({
          addresses: [`10.${i % 250}.${Math.floor(i / 250)}.${pod + 1}`],
          conditions: { ready: true, serving: true, terminating: false },
          targetRef: { kind: 'Pod', name: `service-${i}-${pod}`, namespace: 'shop' },
        })),
      },
      { 'kubernetes.io/service-name': `service-${i}` },
    );
    put('v1', 'Secret', `secret-${i}`, {
      type: 'kubernetes.io/tls',
      data: { 'tls.crt': 'A'.repeat(2000), 'tls.key': 'B'.repeat(400) },
    });
    // What no document names is not read.
    if (i % 50 === 0)
      put('gateway.networking.k8s.io/v1', 'Gateway', `gateway-${i}`, {
        spec: {
          gatewayClassName: 'sallyport',
          listeners: Array.from({ length: 50 }, (_, at) => ({
            ...{ name: `host-${i + at}`, hostname: `host-${i + at}.test`, port: 443, protocol: 'HTTPS' },
            tls: { certificateRefs: [{ name: `secret-${i + at}` }] },
          })),
        },
      });
  }
  const { url, caFile, tokenFile } = api;
  process.send?.({ url, caFile, tokenFile });
  process.on('message', () => api.put(api.get('Service', 'service-7', 'team-9')));
}

async function follow(): Promise<void> {
  const server = fork(fileURLToPath(import.meta.url));
  const place = await new Promise<{ url: string; caFile: string; tokenFile: string }>((resolve) =>
    server.once('message', (message) => resolve(message as never)),
  );
  const megabytes = (): number => Math.round(process.memoryUsage().rss / 1e6);
  const before = megabytes();
  const startedAt = performance.now();
  const log = createLog({ component: 'perf', level: 'error' });
  const kinds = gatewayKinds([], 'sallyport.dev', 'v1alpha1');
  const store = new ClusterStore({ server: place, kinds, namespaces: undefined, log });
  const objects = await new Promise<Snapshot>((resolve) =>
    store.onChange(() => {
      const snapshot = store.snapshot();
      if (snapshot !== undefined) resolve(snapshot);
    }),
  );
  const ms = Math.round(performance.now() - startedAt);
  const text = objects.reduce((sum, one) => sum + one.text.length, 0);
  console.log(`${objects.length} objects, ${(text / 1e6).toFixed(1)} MB of text, after ${ms} ms (goal: 5000)`);
  console.log(`${megabytes()} MB of memory (goal: 150), ${before} MB before`);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const { user, system } = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const used = process.cpuUsage({ user, system });
  console.log(`${((used.user + used.system) / 3000).toFixed(1)} ms of the processor each second while nothing changes`);
  console.log(`${megabytes()} MB of memory later`);
  await store.close();
  server.kill();
}

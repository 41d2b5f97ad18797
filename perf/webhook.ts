// `npm run perf:webhook`: answers of the webhook with 50 requests in flight, over TLS on kept connections; p50, p99 and
// the longest, in milliseconds, and what an answer takes of the webhook's processor. The goal is 20 at p99. The client is
// another process.

import { fork } from 'node:child_process';
import { Agent, request } from 'node:https';
import { fileURLToPath } from 'node:url';
import { LiveCell } from '../cert-agent/base/live.ts';
import { createLog } from '../cert-agent/base/log.ts';
import { emptyDenyList } from '../cert-agent/identity/denied.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import { parseSvid } from '../cert-agent/identity/svid.ts';
import { startWebhook } from '../sidecar/kube/webhook.ts';
import { createAuthority, createCredential } from '../test/fixtures/pki.ts';

const service = 'sallyport-webhook.sallyport-system.svc';

if (process.send === undefined) await serve();
else process.once('message', (message) => void ask(message as { port: number; ca: string }));

async function serve(): Promise<void> {
  const authority = await createAuthority('demo.test');
  const { chainPem, keyPem } = await createCredential(authority, 'spiffe://demo.test/w', { dns: [service] });
  const svid = parseSvid(chainPem, keyPem, { chain: 'c', key: 'k' });
  const webhook = await startWebhook({
    listen: { host: '127.0.0.1', port: 0 },
    identity: new LiveCell<Identity | undefined>({
      svid,
      bundles: authority.bundles,
      denied: emptyDenyList,
    } as Identity),
    pods: { caUrl: 'https://ca.test', image: 'sallyport', audience: 'sallyport-ca' },
    ...{ service, log: createLog({ component: 'webhook', level: 'silent' }) },
  });
  const client = fork(fileURLToPath(import.meta.url));
  client.send({ port: webhook.address.port, ca: authority.bundlePem });
  let before = process.cpuUsage();
  client.on('message', (message) => {
    const { user, system } = process.cpuUsage(before);
    const { line, count } = message as { line: string; count: number };
    console.log(`${line}; ${((user + system) / 1000 / count).toFixed(2)} ms of its processor each`);
    before = process.cpuUsage();
  });
  await new Promise((resolve) => client.once('exit', resolve));
  await webhook.close();
}

async function ask({ port, ca }: { port: number; ca: string }): Promise<void> {
  const review = JSON.stringify({
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    request: {
      ...{ uid: 'u', kind: { group: '', kind: 'Pod' }, namespace: 'shop', operation: 'CREATE' },
      object: {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { generateName: 'web-', labels: { app: 'web' } },
        spec: {
          containers: [
            {
              ...{ name: 'web', image: 'web:1', ports: [{ name: 'http', containerPort: 8080 }] },
              readinessProbe: { httpGet: { path: '/ready', port: 'http' } },
              env: Array.from({ length: 30 }, (_, i) => ({ name: `A${i}`, value: 'x'.repeat(40) })),
            },
          ],
        },
      },
    },
  });
  const agent = new Agent({ keepAlive: true, maxSockets: 50 });

  function once(): Promise<number> {
    return new Promise((resolve, reject) => {
      const started = performance.now();
      const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(review) };
      const options = {
        host: '127.0.0.1',
        port,
        servername: service,
        path: '/inject',
        method: 'POST',
        ca,
        agent,
        headers,
      };
      const asked = request(options, (response) => {
        response.resume();
        response.once('end', () => resolve(performance.now() - started));
      });
      asked.once('error', reject);
      asked.end(review);
    });
  }

  async function round(inFlight: number, count: number): Promise<void> {
    const spans: number[] = [];
    let left = count;
    const started = performance.now();
    await Promise.all(
      Array.from({ length: inFlight }, async () => {
        while (left-- > 0) spans.push(await once());
      }),
    );
    spans.sort((a, b) => a - b);
    const at = (share: number): string =>
      spans[Math.min(spans.length - 1, Math.floor(spans.length * share))]!.toFixed(1);
    const rate = (spans.length / ((performance.now() - started) / 1000)).toFixed(0);
    const line = `${inFlight} in flight: p50 ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)} ms; ${rate} a second`;
    process.send?.({ line, count });
  }

  await round(50, 3000);
  await round(50, 5000);
  await round(50, 5000);
  await round(500, 5000);
  agent.destroy();
  process.disconnect?.();
}

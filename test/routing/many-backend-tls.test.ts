// Many BackendTLSPolicies for many Services: the search for each is no walk over all.

import t from 'tap';
import { backendTlsFor } from '../../sidecar/routing/backend-tls.ts';
import type { GatewayDocuments } from '../../sidecar/routing/documents.ts';

t.test('two thousand policies for two thousand Services', async (t) => {
  const many = Array.from({ length: 2000 }, (_, i) => i);
  const head = (kind: string, name: string): object => ({
    ...{ apiVersion: 'v1', kind, name, namespace: 'shop', generation: 1, createdAt: 0, order: 0 },
  });
  const services = many.map((i) => ({
    ...head('Service', `s${i}`),
    spec: { ports: [{ port: 443, name: 'https' }] },
  }));
  const backendTls = many.map((i) => ({
    ...head('BackendTLSPolicy', `p${i}`),
    spec: { targetRefs: [{ group: '', kind: 'Service', name: `s${i}` }], validation: { hostname: 'a.test' } },
  }));
  const documents = { services, backendTls } as unknown as GatewayDocuments;
  const from = process.cpuUsage();
  const found = many.map((i) => backendTlsFor(`shop/s${i}:443`, documents)?.name);
  const ms = (process.cpuUsage(from).user / 1000) | 0;
  t.strictSame(
    found,
    many.map((i) => `p${i}`),
  );
  t.ok(ms < 600, `${ms} ms of the processor`);
});

// A request that fails while it is made ready for its upstream shares a connection with others: these go on.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { startTestGateway } from '../fixtures/gateway.ts';
import { allowAll, startOne, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, until } from '../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

t.test('a user whose token is too large cuts no request of others', async (t) => {
  const held: ServerResponse[] = [];
  const app = createServer((request, response) => {
    if (request.method === 'POST') held.push(response);
    else response.end();
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const key = await createKey('k');
  const inPort = await freePort();
  const authority = await createAuthority('demo.test');
  const orders = 'spiffe://demo.test/ns/shop/sa/orders';
  const gateway = await startTestGateway(t, {
    authority,
    listeners: ['default/edge:80'],
    // Of several identities the token is made for the one that answers, so not before there is a connection.
    yaml: `upstreams:
  app: { endpoints: ["127.0.0.1:${inPort}"], identity: [${orders}, ${orders}-canary] }
backends: { default/app:80: app }
`,
    documents: `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: app }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ name: app, port: 80 }] }]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: users }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: app }]
  jwt: { providers: [{ name: p, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' } }] }
`,
  });
  const { dir } = gateway;
  writeCredential(dir, 'orders', await createCredential(authority, orders));
  mkdirSync(join(dir, 'policies'));
  writeFileSync(join(dir, 'policies', 'p.yaml'), allowAll);
  writeFileSync(
    join(dir, 'orders.yaml'),
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders, labels: { app: orders } }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
inbound: [{ port: ${inPort}, app: "127.0.0.1:${(app.address() as AddressInfo).port}", policyPort: 8080 }]
policies: policies/
gateways: [spiffe://demo.test/ns/edge/sa/gateway]
`,
  );
  await startOne(t, join(dir, 'orders.yaml'), []);
  const ask = async (method: string, claims: object): Promise<number> => {
    const token = await sign(key, { iss: 'iss.test', ...claims });
    const url = `http://127.0.0.1:${gateway.port('default/edge:80')}/`;
    return (await fetch(url, { method, headers: { authorization: `Bearer ${token}` } })).status;
  };
  t.equal(await ask('GET', { sub: 'alice' }), 200);
  const inFlight = Array.from({ length: 3 }, () => ask('POST', { sub: 'alice' }));
  await until(() => held.length === 3 || undefined, 'requests in flight');
  const groups = Array.from({ length: 400 }, (_, i) => `group-${i}`);
  for (let i = 0; i < 3; i++) t.equal(await ask('GET', { sub: 'mallory', groups }), 431);
  t.equal(await ask('GET', { sub: 'alice' }), 200, 'the connection is as it was');
  for (const one of held) one.end();
  t.strictSame(await Promise.all(inFlight), [200, 200, 200]);
});

// Several workers: a session that one of them has sealed is open to its caller at each, and to no other caller; and all
// of them learn one model of anomalies.

import t from 'tap';
import { writeGateway } from '../../fixtures/gateway.ts';
import { McpClient, startMcpServer } from '../../fixtures/mcp.ts';
import { serviceOf, webGateway, webRoute } from '../../fixtures/plan.ts';
import { startSallyport, until } from '../../fixtures/process.ts';

const target = '{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }';
const own = (kind: string, spec: string): string =>
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: ${kind}\nmetadata: { name: o, namespace: shop }\nspec: { targetRef: ${target}, ${spec} }\n`;

const server = await startMcpServer(t);
const { file, admin, port } = await writeGateway(t, {
  listeners: ['shop/g:80'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${server.port}"] } }\nbackends: { shop/a:80: a }\n`,
  documents:
    webGateway +
    webRoute +
    serviceOf('a') +
    `---\napiVersion: v1\nkind: Secret\nmetadata: { name: keys, namespace: shop }\nstringData: { ann: key-of-ann-0123456789, bob: key-of-bob-0123456789 }\n` +
    `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: s, namespace: shop }\nspec: { targetRef: ${target}, apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }] } }\n` +
    own('MCPAuthorization', 'rules: [{ action: Allow, operation: { tools: [get_order] } }]') +
    own('AnomalyDetection', 'window: 1h'),
});
const gateway = startSallyport(t, ['gateway', '--config', file, '--workers', '3']);
await gateway.waitFor(/"code":"ready"/);
const clientOf = (name: string) =>
  new McpClient(port('shop/g:80'), { host: 'a.test', connection: 'close', 'x-api-key': `key-of-${name}-0123456789` });

t.test('a session works at all workers', async (t) => {
  const [ann, bob] = [clientOf('ann'), clientOf('bob')];
  const session = await ann.begin();
  const many = Array.from({ length: 60 });
  // New connections, which the kernel distributes.
  const mine = await Promise.all(many.map(() => ann.call('tools/call', { name: 'get_order' }, session)));
  t.ok(mine.every(({ status, text }) => status === 200 && text.includes('tools/call get_order')));
  const theirs = await Promise.all(many.map(() => bob.call('tools/call', { name: 'get_order' }, session)));
  t.ok(theirs.every(({ status }) => status === 404));
});

t.test('all workers share one model of usual behaviour', async (t) => {
  interface State {
    readonly policies: Readonly<Record<string, { readonly series: number }>>;
  }
  const page = async () => (await (await fetch(`http://127.0.0.1:${admin}/anomalies`)).json()) as State;
  await until(async () => (await page()).policies['shop/o']?.series === 2, 'a series for each of the two callers');
  t.match(await page(), { policies: { 'shop/o': { series: 2 } }, recent: [] });
});

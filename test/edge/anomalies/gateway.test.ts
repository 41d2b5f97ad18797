// Anomalies on real sockets: at a gateway and in a sidecar, what is new is reported on the admin port, in the log and
// in the metric, and is served.

import t, { type Test } from 'tap';
import { ask, startEcho } from '../../fixtures/echo.ts';
import { startTestGateway } from '../../fixtures/gateway.ts';
import { startMesh } from '../../fixtures/mesh.ts';
import { serviceOf, webGateway, webRoute } from '../../fixtures/plan.ts';
import { until } from '../../fixtures/process.ts';

const fields = 'window: 1s, learningPeriod: 1s, halfLife: 1m, detect: [newPath]';

interface State {
  readonly policies: Readonly<Record<string, { readonly series: number }>>;
  readonly recent: readonly Readonly<Record<string, string>>[];
}

interface Door {
  readonly port: number;
  readonly host: string;
  readonly admin: number;
  readonly lines: readonly Record<string, unknown>[];
}

async function look(t: Test, { port, host, admin, lines }: Door, policy: string, caller: string): Promise<void> {
  const page = async () => (await (await fetch(`http://127.0.0.1:${admin}/anomalies`)).json()) as State;
  const get = (path: string) => ask(port, path, { headers: { host } });
  await get('/usual');
  const state = await until(async () => {
    const now = await page();
    return now.policies[policy]?.series === 1 ? now : undefined;
  }, 'the first series');
  t.strictSame(state.recent, []);
  let count = 0;
  const found = await until(async () => {
    // Once the period is over, each of them is new.
    t.equal((await get(`/new-${'abcdefghijklmnop'.repeat(4).slice(0, ++count)}`)).status, 200);
    return (await page()).recent.find(({ kind }) => kind === 'newPath');
  }, 'an anomaly');
  t.match(found, { policy, caller, path: /^GET \/new-/ });
  t.match(
    lines.find(({ code }) => code === 'anomaly'),
    { level: 'warn', policy, caller, kind: 'newPath', msg: /is new at GET \/new-/ },
  );
  const metrics = await (await fetch(`http://127.0.0.1:${admin}/stats/prometheus`)).text();
  t.match(metrics, new RegExp(`sallyport_anomalies_total\\{policy="${policy}",kind="newPath"\\} [1-9]`));
}

t.test('a gateway reports anomalies', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: `${webGateway + webRoute + serviceOf('a')}---\napiVersion: sallyport.dev/v1alpha1\nkind: AnomalyDetection\nmetadata: { name: n, namespace: shop }\nspec: { targetRef: { group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }, ${fields} }\n`,
  });
  const { admin, lines } = gateway;
  await look(t, { port: gateway.port('shop/g:80'), host: 'a.test', admin, lines }, 'shop/n', 'anonymous');
});

t.test('the inbound port of a sidecar reports anomalies', async (t) => {
  const app = await startEcho(t, 'a');
  const mesh = await startMesh(t, { app, ordersYaml: `anomalyDetection: { ${fields} }\n` });
  const door = { port: mesh.outPort, host: 'orders', admin: mesh.inAdmin, lines: mesh.lines };
  await look(t, door, 'sidecar.yaml', 'spiffe://demo.test/ns/shop/sa/web');
});

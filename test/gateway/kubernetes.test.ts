// A gateway whose documents come from an API server: nothing before the first list, then routes, Secrets and Services as
// they come and go.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { readApart } from '../../sidecar/config/read-apart.ts';
import { startSidecar } from '../../sidecar/process/main.ts';
import { type Any, type FakeApiServer, failure, startApiServer } from '../fixtures/api-server.ts';
import { runCommand } from '../fixtures/command.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { type Gateway, type GatewayOptions, startTestGateway, writeGateway } from '../fixtures/gateway.ts';
import { logTo, readHere, readState } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const outside = await createAuthority('outside.test');
const [first, second] = await Promise.all(
  ['first.test', 'second.test'].map((dns) =>
    createCredential(outside, 'spiffe://outside.test/front', { dns: [dns, 'a.test'] }),
  ),
);
const app = await startEcho(t, 'a');
const gatewayApi = 'gateway.networking.k8s.io/v1';

const object = (kind: string, name: string, rest: object, apiVersion = gatewayApi, namespace = 'shop'): Any => ({
  ...{ apiVersion, kind, metadata: { name, namespace } },
  ...rest,
});
const gatewayClass = (name: string, controllerName: string): Any => ({
  ...{ apiVersion: gatewayApi, kind: 'GatewayClass', metadata: { name }, spec: { controllerName } },
});
const gateway = (name: string, gatewayClassName = 'sallyport', more: object[] = []): Any =>
  object('Gateway', name, {
    spec: { gatewayClassName, listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }, ...more] },
  });
const route = (name: string, host: string, backend = 'a', more: object = {}): Any =>
  object('HTTPRoute', name, {
    spec: {
      ...{ parentRefs: [{ name: 'g' }], hostnames: [host], rules: [{ backendRefs: [{ name: backend, port: 80 }] }] },
      ...more,
    },
  });
const secret = (name: string, { chainPem, keyPem }: { chainPem: string; keyPem: string }): Any =>
  object(
    'Secret',
    name,
    {
      type: 'kubernetes.io/tls',
      data: { 'tls.crt': Buffer.from(chainPem).toString('base64'), 'tls.key': Buffer.from(keyPem).toString('base64') },
    },
    'v1',
  );
const service = (name: string, spec: object = {}, annotations: object = {}): Any => ({
  ...object('Service', name, { spec: { ports: [{ name: 'http', port: 80, targetPort: 'web' }], ...spec } }, 'v1'),
  metadata: { name, namespace: 'shop', annotations },
});
const slice = (name: string, of: string, endpoints: object[], more: object = {}): Any => ({
  ...object(
    'EndpointSlice',
    name,
    { addressType: 'IPv4', endpoints, ports: [{ name: 'http', port: 8080 }], ...more },
    'discovery.k8s.io/v1',
  ),
  metadata: { name, namespace: 'shop', labels: { 'kubernetes.io/service-name': of } },
});

function fill(api: FakeApiServer): void {
  api.put(gatewayClass('sallyport', 'sallyport.dev/gateway-controller'));
  api.put(gateway('g'));
  api.put(route('r', 'a.test'));
}

const sourceOf = ({ url, caFile, tokenFile }: FakeApiServer, more = ''): string =>
  `{ kubernetes: { url: "${url}", caFile: ${caFile}, tokenFile: ${tokenFile}${more} } }`;
const yaml = `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`;
const optionsOf = (api: FakeApiServer, more = '', listeners: readonly string[] = ['shop/g:80']): GatewayOptions => ({
  ...{ documents: {}, source: sourceOf(api, more), listeners, yaml },
});

async function started(
  t: Owner,
  more = '',
  listeners?: readonly string[],
): Promise<{ api: FakeApiServer; one: Gateway }> {
  const api = await startApiServer(t, [...groups, 'gateway.envoyproxy.io/v1alpha1']);
  fill(api);
  return { api, one: await startTestGateway(t, optionsOf(api, more, listeners)) };
}
const groups = ['gateway.networking.k8s.io/v1', 'gateway.networking.k8s.io/v1beta1'];

const statusOf = async (one: Gateway, host: string): Promise<number | undefined> =>
  (await ask(one.port('shop/g:80'), '/', { headers: { host } }).catch(() => undefined))?.status;
const served = (one: Gateway, host: string, status: number) =>
  until(async () => (await statusOf(one, host)) === status || undefined, `${status} for ${host}`);

const endpointsText = async (one: Gateway): Promise<string> =>
  (await fetch(`http://127.0.0.1:${one.admin}/upstreams`)).text();

t.test('not ready, and nothing is open, until each kind was listed', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  let isForbidden = true;
  api.intercept = ({ path }, response) => {
    if (!isForbidden || !path.endsWith('/secrets')) return false;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  const { file, port } = await writeGateway(t, optionsOf(api));
  const lines: Record<string, unknown>[] = [];
  const sidecar = await startSidecar({
    ...{ configFile: file, log: logTo(lines), version: 'test' },
    read: (name, objects) => readHere(name, objects),
  });
  t.teardown(() => sidecar.drain());
  const waits = (pattern: RegExp) =>
    until(() => sidecar.readiness().waitingFor.some((one) => pattern.test(one)) || undefined, String(pattern));
  await waits(/the API server's list of secrets \(the API server forbids us to list secrets\)/);
  t.notOk(sidecar.readiness().ready);
  await t.rejects(ask(port('shop/g:80'), '/'), 'nothing listens');
  isForbidden = false;
  await until(() => sidecar.readiness().ready || undefined, 'ready');
  t.equal((await ask(port('shop/g:80'), '/', { headers: { host: 'a.test' } })).status, 200);
});

t.test('routes come, change and go; those of other controllers are not ours', async (t) => {
  const { api, one } = await started(t);
  t.equal(await statusOf(one, 'a.test'), 200);
  t.equal(await statusOf(one, 'b.test'), 404);
  api.put(route('b', 'b.test'));
  await served(one, 'b.test', 200);
  api.remove('HTTPRoute', 'r', 'shop');
  await served(one, 'a.test', 404);
  api.put(gatewayClass('envoy', 'gateway.envoyproxy.io/gatewayclass-controller'));
  api.put(gateway('other', 'envoy'));
  api.put(route('c', 'c.test', 'a', { parentRefs: [{ name: 'other' }, { name: 'g' }] }));
  api.put(route('d', 'd.test', 'a', { parentRefs: [{ name: 'other' }] }));
  api.put(
    object(
      'SecurityPolicy',
      'of-others',
      {
        spec: {
          targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'other' }],
          jwt: { unheard: 1 },
        },
      },
      'gateway.envoyproxy.io/v1alpha1',
    ),
  );
  await served(one, 'c.test', 200);
  t.equal(await statusOf(one, 'd.test'), 404);
  const { items } = (await (await fetch(`http://127.0.0.1:${one.admin}/gateway-status`)).json()) as Any;
  t.strictSame(items.map(({ kind, metadata }: Any) => `${kind} ${metadata.name}`).toSorted(), [
    ...['Gateway g', 'GatewayClass sallyport', 'HTTPRoute b', 'HTTPRoute c'],
  ]);
  t.strictSame(
    items.find(({ metadata }: Any) => metadata.name === 'c').status.parents.map(({ parentRef }: Any) => parentRef.name),
    ['g'],
  );
});

t.test('what changes nothing that the gateway reads makes no generation', async (t) => {
  const { api, one } = await started(t, ', unsafePlaintext: true');
  for (const each of [
    service('svc'),
    slice('svc-1', 'svc', [{ addresses: ['10.0.0.1'] }]),
    route('b', 'b.test', 'svc'),
  ])
    api.put(each);
  await until(async () => (await endpointsText(one)).includes('10.0.0.1') || undefined, 'the endpoint');
  const generation = async (): Promise<number> => (await readState(one.admin))['generation'] as number;
  const before = await generation();
  const stored = api.get('HTTPRoute', 'r', 'shop');
  const unrelated = [
    secret('unused', first!),
    object('ConfigMap', 'leader', { data: { a: '1' } }, 'v1'),
    service('unused'),
    slice('unused-1', 'unused', [{ addresses: ['10.0.0.2'] }]),
    { ...stored, metadata: { ...stored.metadata, managedFields: [{ manager: 'other' }] } },
    { ...stored, status: { parents: [] } },
    gatewayClass('envoy', 'gateway.envoyproxy.io/gatewayclass-controller'),
    gateway('other', 'envoy'),
    route('c', 'c.test', 'a', { parentRefs: [{ name: 'other' }] }),
    slice('svc-1', 'svc', [{ addresses: ['10.0.0.1'], nodeName: 'other', conditions: { ready: true } }]),
  ];
  for (const each of unrelated) api.put(each);
  api.put(slice('svc-1', 'svc', [{ addresses: ['10.0.0.3'] }]));
  await until(async () => (await endpointsText(one)).includes('10.0.0.3') || undefined, 'what is related');
  t.equal(await generation(), before + 1);
  for (const each of unrelated.slice(0, 4)) api.put({ ...each, data: { a: '2' } });
  api.put({ ...route('c', 'c2.test'), spec: { parentRefs: [{ name: 'other' }] } });
  api.put(slice('svc-1', 'svc', [{ addresses: ['10.0.0.4'] }]));
  await until(async () => (await endpointsText(one)).includes('10.0.0.4') || undefined, 'what is related');
  t.equal(await generation(), before + 2);
  api.put(route('late', 'late.test', 'unused'));
  await until(async () => (await endpointsText(one)).includes('10.0.0.2') || undefined, 'what is related now');
});

t.test('a policy whose targets cannot be read closes its namespace, and it says why', async (t) => {
  const { api, one } = await started(t);
  const policy = (spec: object): Any => object('SecurityPolicy', 'p', { spec }, 'gateway.envoyproxy.io/v1alpha1');
  api.put(policy({ jwt: {} }));
  await served(one, 'a.test', 500);
  t.match(JSON.stringify(one.lines), /kubernetes\/SecurityPolicy\/shop\/p:1:1/);
  api.remove('SecurityPolicy', 'p', 'shop');
  await served(one, 'a.test', 200);
  t.equal((await readState(one.admin))['lastProblem'], null);
});

t.test('a Secret is a certificate of a listener, and its rotation is in force', async (t) => {
  const api = await startApiServer(t);
  fill(api);
  const tls = { certificateRefs: [{ name: 'cert' }] };
  api.put(gateway('g', 'sallyport', [{ name: 'https', port: 443, protocol: 'HTTPS', hostname: 'a.test', tls }]));
  api.put(secret('cert', first!));
  const one = await startTestGateway(t, optionsOf(api, '', ['shop/g:80', 'shop/g:443']));
  const shown = (): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket: TLSSocket = connect(
        { host: '127.0.0.1', port: one.port('shop/g:443'), servername: 'a.test', rejectUnauthorized: false },
        () => {
          resolve(socket.getPeerCertificate().subjectaltname ?? '');
          socket.destroy();
        },
      );
      socket.once('error', reject);
    });
  t.match(await shown(), /first\.test/);
  api.put(secret('cert', second!));
  await until(async () => /second\.test/.test(await shown()) || undefined, 'the new certificate');
  t.notMatch(JSON.stringify(one.lines), /PRIVATE KEY|LS0tLS1CRUdJTiB/);
});

t.test('the ready endpoints of Services', async (t) => {
  const { api, one } = await started(t, ', unsafePlaintext: true');
  const endpoints = async (): Promise<string[]> => {
    const list = (await (await fetch(`http://127.0.0.1:${one.admin}/upstreams`)).json()) as Any[];
    return list
      .filter(({ name }) => String(name).includes('shop/svc:80'))
      .flatMap((pool) => pool.endpoints.map(({ address }: Any) => address))
      .toSorted();
  };
  const become = (wanted: string[]) =>
    until(async () => JSON.stringify(await endpoints()) === JSON.stringify(wanted) || undefined, wanted.join());
  api.put(service('svc'));
  api.put(route('b', 'b.test', 'svc'));
  await served(one, 'b.test', 503);
  api.put(
    slice('svc-1', 'svc', [
      { addresses: ['10.0.0.1'], conditions: { ready: true } },
      { addresses: ['10.0.0.2'], conditions: { ready: false, serving: false, terminating: false } },
      { addresses: ['10.0.0.3'], conditions: { ready: false, serving: true, terminating: true } },
      { addresses: ['10.0.0.4'] },
      { addresses: ['127.0.0.1'] },
      { addresses: ['169.254.169.254'] },
    ]),
  );
  await become(['10.0.0.1:8080', '10.0.0.4:8080']);
  api.put(slice('svc-2', 'svc', [{ addresses: ['10.0.1.1'] }, { addresses: ['10.0.0.1'] }]));
  await become(['10.0.0.1:8080', '10.0.0.4:8080', '10.0.1.1:8080']);
  api.remove('EndpointSlice', 'svc-2', 'shop');
  api.put(
    slice('svc-1', 'svc', [
      { addresses: ['10.0.0.3'], conditions: { ready: false, serving: true, terminating: true } },
    ]),
  );
  await become(['10.0.0.3:8080']);
  api.remove('EndpointSlice', 'svc-1', 'shop');
  await served(one, 'b.test', 503);
  api.put(service('out', { type: 'ExternalName', externalName: 'metadata.test' }));
  api.put(route('c', 'c.test', 'out'));
  await served(one, 'c.test', 500);
  t.match(JSON.stringify(one.lines), /Service shop\/out is of type ExternalName/);
});

t.test('when the API server is away, the last documents stay, and the metrics say how old they are', async (t) => {
  const { api, one } = await started(t);
  await until(() => api.watches() >= 14 || undefined, 'the watches');
  await api.stop();
  const metrics = async (): Promise<string> => (await fetch(`http://127.0.0.1:${one.admin}/stats/prometheus`)).text();
  await until(
    async () =>
      /sallyport_kubernetes_age_seconds\{kind="HTTPRoute",namespace=""\} 0?\.?[1-9]/.test(await metrics()) || undefined,
    'the age',
  );
  t.equal(await statusOf(one, 'a.test'), 200);
  t.ok(one.sidecar.readiness().ready);
  t.match(await metrics(), /sallyport_kubernetes_objects\{kind="HTTPRoute",namespace=""\} 1/);
  t.match(JSON.stringify(one.lines), /the last state stays in force/);
});

t.test('the reading process gets the objects', async (t) => {
  const api = await startApiServer(t);
  const { file } = await writeGateway(t, optionsOf(api));
  const [empty, full] = await Promise.all([
    readApart(file),
    readApart(file, [
      {
        ...{ kind: 'HTTPRoute', namespace: 'shop', name: 'r', resourceVersion: '1', status: undefined, weight: 0 },
        text: JSON.stringify(route('r', 'a.test', 'a', { parentRefs: undefined })),
      },
    ]),
  ]);
  t.strictSame(empty.gateway?.documents.routes, []);
  t.match(full.gateway?.documents.routes, [{ name: 'r', file: 'kubernetes/HTTPRoute/shop/r' }]);
  t.notMatch(JSON.stringify(full.sources), /HTTPRoute/);
});

t.test('--check asks the API server, and judges what it has', async (t) => {
  const api = await startApiServer(t);
  const { file } = await writeGateway(t, optionsOf(api));
  const check = () => runCommand(t, ['gateway', '--config', file, '--check']);
  t.match(await check(), {
    code: 0,
    stderr:
      /no GatewayClass has the controllerName sallyport\.dev\/gateway-controller.*there is none at all[\s\S]*apply them to the API server/,
  });
  fill(api);
  t.match(await check(), { code: 0, stderr: /3 documents with a status, all accepted and resolved/ });
  const newer = 'gateway.networking.k8s.io/v2';
  api.groups.add(newer);
  api.intercept = ({ path }, response) => {
    const resources = [{ name: 'tcproutes' }];
    if (path !== `/apis/${newer}`) return false;
    response.end(JSON.stringify({ kind: 'APIResourceList', groupVersion: newer, resources }));
    return true;
  };
  const passedOver =
    /kind TCPRoute of gateway\.networking\.k8s\.io in version v2, which is not read here: its objects are passed over/;
  t.match(await check(), { code: 0, stderr: passedOver });
  t.match(await runCommand(t, ['gateway', '--config', file, '--check', '--strict']), { code: 1, stderr: passedOver });
  api.groups.delete(newer);
  api.put(route('bad', 'bad.test', 'missing'));
  t.match(await check(), { code: 1, stdout: /HTTPRoute +shop\/bad .*BackendNotFound/ });
  api.intercept = ({ path }, response) => {
    if (!path.endsWith('/secrets') && path !== '/apis') return false;
    failure(response, 403, 'Forbidden', 'no');
    return true;
  };
  const forbidden = await check();
  t.match(forbidden, { code: 1, stderr: /forbids us to list secrets \(grant it.*can-i list secrets/ });
  t.match(forbidden.stderr, /forbids us to get \/apis/);
  t.match(forbidden.stderr, /is valid, and a gateway would not be ready/);
  await api.stop();
  t.match(await check(), { code: 1, stderr: /the API server cannot be asked: .*ECONNREFUSED/ });
});

t.test('a misspelt GatewayClass, and a misspelt controller, are told', async (t) => {
  const { api, one } = await started(t);
  const said = (pattern: RegExp) =>
    until(() => one.lines.some(({ msg }) => pattern.test(String(msg))) || undefined, String(pattern));
  api.put(gateway('lost', 'salyport'));
  await said(/kubernetes\/Gateway\/shop\/lost:1:1: there is no GatewayClass salyport.*there are: sallyport/);
  api.put(gatewayClass('sallyport', 'sallyport.dev/gateway-controler'));
  await said(/no GatewayClass has the controllerName .*there are: sallyport of sallyport\.dev\/gateway-controler\)/);
  await until(async () => (await statusOf(one, 'a.test')) === undefined || undefined, 'nothing is served');
});

t.test('what is not supported is refused', async (t) => {
  const api = await startApiServer(t);
  const { file, dir } = await writeGateway(t, optionsOf(api));
  const start = startSidecar({
    ...{ configFile: file, log: logTo([]), version: 'test', count: 2 },
    read: (name, objects) => readHere(name, objects),
  });
  await t.rejects(start, { code: 'config_invalid', message: /has one worker/, hint: /replicas/ });
  const offline = await runCommand(t, ['gateway', 'status', '--config', file, '--offline']);
  t.match(offline, { code: 2, stderr: /only a running gateway knows them/ });
  const bad: [string, RegExp][] = [
    ['{ kubernetes: { url: "http://10.0.0.1:8080" } }', /plaintext/],
    ['{ kubernetes: { url: "https://a.test/path" } }', /without a path/],
    ['{ kubernetes: { namespaces: [] } }', /namespaces/],
    ['{ kubernetes: { namespaces: [Shop] } }', /namespace/],
    ['{ kubernetes: { nonsense: 1 } }', /unknown key 'nonsense'/],
    ['{}', /kubernetes/],
  ];
  for (const [source, pattern] of bad) {
    const text = `trustDomain: demo.test\nworkload: { serviceAccount: g }\nidentity: { files: { svid: a, key: b, bundle: c } }\ndocuments: ${source}\n`;
    writeFileSync(join(dir, 'bad.yaml'), text);
    await t.rejects(readHere(join(dir, 'bad.yaml')), { code: 'config_invalid', message: pattern }, source);
  }
});

t.test('statuses are written beside those of other controllers, by one gateway', async (t) => {
  const { api, one } = await started(t);
  const statusOfRoute = (name: string): Any => api.get('HTTPRoute', name, 'shop').status;
  await until(() => statusOfRoute('r') ?? undefined, 'the status');
  t.match(statusOfRoute('r').parents, [
    {
      parentRef: { name: 'g' },
      controllerName: 'sallyport.dev/gateway-controller',
      conditions: [{ type: 'Accepted', status: 'True' }, {}],
    },
  ]);
  await until(() => api.get('Gateway', 'g', 'shop').status, 'the Gateway');
  t.match(api.get('Gateway', 'g', 'shop').status, { listeners: [{ name: 'http', attachedRoutes: 1 }] });
  t.notOk('addresses' in api.get('Gateway', 'g', 'shop').status, 'where it listens in its pod is no address of it');
  t.match(api.get('GatewayClass', 'sallyport').status.conditions, [{ type: 'Accepted', status: 'True' }]);
  const theirs = { parentRef: { name: 'other' }, controllerName: 'example.test/c', conditions: [] };
  const stored = api.get('HTTPRoute', 'r', 'shop');
  // With a change of the spec: of statuses alone, ours is looked at every half minute.
  api.put({ ...stored, spec: { ...stored.spec, hostnames: ['z.test'] }, status: { parents: [theirs] } });
  await until(() => statusOfRoute('r').parents.length === 2 || undefined, 'ours beside theirs');
  t.strictSame(statusOfRoute('r').parents[0], theirs);
  await until(() => statusOfRoute('r').parents[1].conditions[0].observedGeneration === 2 || undefined, 'the new spec');
  const writes = (): number => api.calls.filter(({ method }) => method === 'PATCH').length;
  const [written, generation] = [writes(), (await readState(one.admin))['generation']];
  api.put(route('other', 'other.test', 'a', { parentRefs: [{ name: 'nothing-of-ours' }] }));
  api.put({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'new' } });
  await until(async () => (await readState(one.admin))['generation'] !== generation || undefined, 'a generation');
  await until(
    () => api.calls.filter(({ path }) => path.endsWith('/leases/sallyport-gateway')).length > 5 || undefined,
    'time',
  );
  t.equal(writes(), written, 'what is the same is not written again');
  t.equal(statusOfRoute('other'), undefined);
  const moved = api.get('HTTPRoute', 'r', 'shop');
  api.put({ ...moved, spec: { ...moved.spec, parentRefs: [{ name: 'other' }] } });
  await until(() => statusOfRoute('r').parents.length === 1 || undefined, 'ours to go');
  t.strictSame(statusOfRoute('r').parents, [theirs]);
});

t.test('of several gateways of ours, each changes the entries of Gateways in its own namespaces', async (t) => {
  const api = await startApiServer(t, groups);
  fill(api);
  const controllerName = 'sallyport.dev/gateway-controller';
  const sibling = { parentRef: { name: 'h', namespace: 'edge' }, controllerName, conditions: [] };
  const gone = { parentRef: { name: 'gone' }, controllerName, conditions: [] };
  const parentRefs = [{ name: 'h', namespace: 'edge' }, { name: 'g' }];
  api.put({ ...route('r', 'a.test', 'a', { parentRefs }), status: { parents: [sibling, gone] } });
  await startTestGateway(t, optionsOf(api, ', namespaces: [shop]'));
  const parents = (): Any[] => api.get('HTTPRoute', 'r', 'shop').status.parents;
  await until(() => parents().some(({ parentRef }) => parentRef.name === 'g') || undefined, 'ours');
  t.strictSame(
    parents().map(({ parentRef }) => parentRef.name),
    ['h', 'g'],
    'the entry of a Gateway that is gone goes, and that of the other gateway stays',
  );
  t.strictSame(parents()[0], sibling);
  api.remove('Gateway', 'g', 'shop');
  await until(() => parents().length === 1 || undefined, 'ours to go with its Gateway');
  t.strictSame(parents(), [sibling]);
});

t.test('the status of a policy says what became of it, and nothing where its target is not known', async (t) => {
  const { api, one } = await started(t);
  const group = 'gateway.networking.k8s.io';
  const policy = (name: string, target: string): Any =>
    object(
      'SecurityPolicy',
      name,
      {
        spec: { targetRefs: [{ group, kind: 'HTTPRoute', name: target }], cors: { allowOrigins: ['https://a.test'] } },
      },
      'gateway.envoyproxy.io/v1alpha1',
    );
  api.put(policy('lost', 'nowhere'));
  api.put(policy('good', 'r'));
  const status = await until(() => api.get('SecurityPolicy', 'good', 'shop').status ?? undefined, 'the status');
  const ancestorRef = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'g', namespace: 'shop' };
  t.match(status.ancestors, [{ ancestorRef, conditions: [{ type: 'Accepted', status: 'True' }] }]);
  t.equal(api.get('SecurityPolicy', 'lost', 'shop').status, undefined);
  t.match(JSON.stringify(one.lines), /SecurityPolicy shop\/lost/, 'the log says it');
});

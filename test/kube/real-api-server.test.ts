// Against a real kube-apiserver: it takes every manifest that we ship and every pod that we inject, calls the webhook,
// and makes the tokens that the CA verifies. Skipped where there is none.

import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { createCluster } from '../../cert-agent/attestation/cluster.ts';
import { systemClock } from '../../cert-agent/base/clock.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { inject } from '../../sidecar/kube/inject.ts';
import { podOf, treesOf } from '../../sidecar/kube/tree.ts';
import { startTestCa } from '../fixtures/ca.ts';
import { base, following, kubernetes, renderChart } from '../fixtures/chart.ts';
import { audience } from '../fixtures/cluster.ts';
import { type Any, documentsOf, options, workloadsText } from '../fixtures/kube.ts';
import { freePort, type Owner, startSallyport, tempDir, until } from '../fixtures/process.ts';
import { noApiServer, type RealApiServer, startApiServer } from '../fixtures/real-api-server.ts';
import { denyFor, namesIn, routeIn, startStore } from '../fixtures/watched.ts';

const service = 'sallyport-webhook.sallyport-system.svc';

t.test('a real API server', { skip: noApiServer, timeout: 180_000 }, async (t) => {
  const server = await startApiServer(t);
  await t.test('takes every manifest', (t) => takesManifests(t, server));
  await t.test('takes every injected pod at the restricted level', (t) => takesInjected(t, server));
  await t.test('makes tokens that the CA verifies', (t) => makesTokens(t, server));
  await t.test('calls the webhook', (t) => callsWebhook(t, server));
  await t.test('is followed by a gateway, with and without the CRDs of policies', (t) => isFollowed(t, server));
});

async function takesManifests(t: Any, { kubectl, get }: RealApiServer): Promise<void> {
  await get(['apply', '-f', join(base, 'namespace.yaml')]);
  const files = globSync('*.yaml', { cwd: base }).filter((one) => one !== 'kustomization.yaml');
  const named = files.flatMap((file) => ['-f', join(base, file)]);
  await takes(t, 'every file', ['apply', '--dry-run=server', ...named]);
  const rendered = Object.values(renderChart({ trustDomain: 'corp.test', image: 'registry.test/sallyport:1' }));
  await takes(t, 'the chart', ['apply', '--dry-run=server', '-f', '-'], rendered.join('\n---\n'));
  // Its GatewayClass needs the CRDs of Gateway API.
  const { 'gateway-class.yaml': _, ...followed } = renderChart(following);
  const text = Object.values(followed).join('\n---\n');
  await takes(t, 'with a gateway that follows', ['apply', '--dry-run=server', '-f', '-'], text);
  await takes(t, 'all of it', ['apply', '-k', kubernetes]);
  await takes(t, 'again', ['apply', '-k', kubernetes]);
  await get(['create', 'namespace', 'shop']);
  await get(['label', 'namespace', 'shop', 'pod-security.kubernetes.io/enforce=restricted']);
  await takes(t, 'a namespace', ['apply', '-k', join(kubernetes, 'namespace')]);
  for (const namespace of ['shop', 'sallyport-system'])
    await get(['-n', namespace, 'create', 'serviceaccount', 'default']);
  // Without controllers nothing makes the pods of a Deployment: they are tried here.
  const pods = documentsOf(rendered.join('\n---\n')).flatMap((one) => {
    const pod = podOf(one);
    return pod === undefined ? [] : [JSON.parse(podText(pod, one))];
  });
  t.equal(pods.length, 4);
  await takes(t, 'the pod of each workload', dryRun, JSON.stringify({ apiVersion: 'v1', kind: 'List', items: pods }));
  const bare = podText({ metadata: {}, spec: { containers: [{ name: 'a', image: 'a' }] } }, { metadata: {} });
  t.match((await kubectl(dryRun, bare)).stderr, 'violates PodSecurity "restricted', 'the level is enforced');

  async function takes(t: Any, what: string, args: readonly string[], input?: string): Promise<void> {
    const { code, stderr } = await kubectl(args, input);
    t.equal(code, 0, `${what} ${stderr}`);
    t.notMatch(stderr, /warning/i, what);
  }
}

const dryRun = ['create', '--dry-run=server', '-o', 'json', '-f', '-'];
const restricted = {
  pod: { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: 'RuntimeDefault' } },
  container: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
};

/** The pod of a template, as a controller makes it. */
function podText({ metadata, spec }: Any, { metadata: of, spec: owner }: Any): string {
  const namespace = of.namespace ?? 'shop';
  const claims = treesOf(owner?.volumeClaimTemplates).map(({ metadata: { name } }: Any) => ({
    ...{ name, persistentVolumeClaim: { claimName: `${name}-0` } },
  }));
  return JSON.stringify({
    ...{ apiVersion: 'v1', kind: 'Pod' },
    metadata: { ...metadata, namespace, name: undefined, generateName: 'of-' },
    spec: { restartPolicy: 'Always', ...spec, volumes: [...(spec.volumes ?? []), ...claims] },
  });
}

/** The app's part of it, so that the level refuses nothing but what we have added. */
function restrict(pod: Any): Any {
  const harden = (one: Any): Any => ({ ...one, securityContext: restricted.container });
  const { spec } = pod;
  return {
    ...pod,
    spec: {
      ...spec,
      serviceAccountName: 'default',
      securityContext: { ...spec.securityContext, ...restricted.pod },
      containers: spec.containers.map(harden),
      ...(spec.initContainers !== undefined && { initContainers: spec.initContainers.map(harden) }),
    },
  };
}

async function takesInjected(t: Any, { kubectl }: RealApiServer): Promise<void> {
  const pods = documentsOf(workloadsText).flatMap((document, index) => {
    const template = podOf(document);
    if (template === undefined || document.kind === 'Rollout') return [];
    const pod = JSON.parse(podText(restrict(template), { metadata: {} }));
    return [{ ...pod, metadata: { ...pod.metadata, generateName: undefined, name: `${index}-of` } }];
  });
  const changed = inject(pods, options).filter(({ outcome }) => outcome === 'changed');
  const names = new Set(changed.map(({ name }) => name.name));
  const create = async (items: readonly unknown[]): Promise<{ out: string[]; said: string[] }> => {
    const columns = 'jsonpath={.metadata.name} {.spec.initContainers[*].name}{"\\n"}';
    const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
    const { stdout, stderr } = await kubectl(['create', '--dry-run=server', '-o', columns, '-f', '-'], list);
    return { out: stdout.trim().split('\n'), said: stderr.split('\n') };
  };
  const before = await create(pods.filter(({ metadata }) => names.has(metadata.name)));
  const after = await create(changed.map(({ value }) => value));
  t.strictSame(
    after.said.filter((line) => !before.said.includes(line)),
    [],
    'nothing is refused, or warned of, that was not before',
  );
  t.equal(after.out.length, before.out.length);
  t.ok(after.out.length > 20, `${after.out.length} pods`);
  for (const line of after.out) t.match(line, ' sallyport-proxy', line);
}

async function makesTokens(t: Any, server: RealApiServer): Promise<void> {
  const { get, url, issuer, caFile } = server;
  const tokenFile = await server.tokenFileOf('sallyport-system', 'sallyport-ca');
  const logged: string[] = [];
  const log = createLog({ component: 'ca', destination: { write: (line) => logged.push(line) } });
  const make = (more: object): ReturnType<typeof createCluster> =>
    createCluster({ url, issuer, caFile, tokenFile, audience, ...more }, systemClock, log);
  const [keys, review] = [make({}), make({ review: true })];
  const tell = async (verify: Promise<unknown>): Promise<string> =>
    verify.then(JSON.stringify, (error: Error) => error.message);
  const shop = ['-n', 'shop'];
  const makePod = async (name: string, account: string): Promise<string[]> => {
    const pod: Any = restrict({ spec: { containers: [{ name: 'a', image: 'a' }] } });
    pod.spec.serviceAccountName = account;
    const text = JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'shop' }, ...pod });
    const { uid } = JSON.parse(await get(['create', '-o', 'json', '-f', '-'], text)).metadata;
    return [`--bound-object-kind=Pod`, `--bound-object-name=${name}`, `--bound-object-uid=${uid}`];
  };
  const token = (account: string, bound: readonly string[], aud = audience): Promise<string> =>
    get([...shop, 'create', 'token', account, `--audience=${aud}`, ...bound]).then((text) => text.trim());
  await get([...shop, 'create', 'serviceaccount', 'web']);
  const bound = await makePod('web-0', 'web');
  const good = await token('web', bound);
  for (const tokens of [keys, review])
    t.match(await tokens.verify(good), { namespace: 'shop', serviceAccount: 'web', pod: 'web-0' });
  for (const tokens of [keys, review]) {
    t.match(await tell(tokens.verify(await token('web', []))), 'not bound to a pod');
    t.match(await tell(tokens.verify(await token('web', bound, 'other'))), 'for another audience');
    const ours = await get([...shop, 'create', 'token', 'web', ...bound]);
    t.match(await tell(tokens.verify(ours.trim())), 'for another audience', "the API server's own");
  }
  t.match(await tell(make({ issuer: 'https://other.test', review: true }).verify(good)), 'cannot verify');
  t.match(logged.join(''), `names '${issuer}' as the issuer`);
  const noRight = make({ review: true, tokenFile: await server.tokenFileOf('shop', 'web') });
  t.match(await tell(noRight.verify(good)), 'cannot verify tokens');
  t.match(logged.at(-1), '403');

  await get([...shop, 'delete', 'pod', 'web-0', '--grace-period=0', '--force']);
  t.match(await keys.verify(good), { pod: 'web-0' }, 'its signature says nothing of the pod');
  await until(async () => /not exist any more/.test(await tell(review.verify(good))), 'the pod is gone');
  const again = await makePod('web-0', 'web');
  t.match(await tell(review.verify(good)), 'not exist any more', 'another pod of its name');
  const second = await token('web', again);
  t.match(await review.verify(second), { pod: 'web-0' });
  await get([...shop, 'delete', 'serviceaccount', 'web']);
  await until(async () => /not exist any more/.test(await tell(review.verify(second))), 'the account is gone');
  await get([...shop, 'create', 'serviceaccount', 'web']);
  t.match(await tell(review.verify(second)), 'not exist any more', 'another account of its name');
  await get([...shop, 'create', 'serviceaccount', 'shop']);
  const renamed = await token('shop', await makePod('shop-0', 'shop'));
  t.match(await review.verify(renamed), { serviceAccount: 'shop' }, 'an account by another name is another identity');
}

async function callsWebhook(t: Any, server: RealApiServer): Promise<void> {
  const { url, issuer, caFile, kubectl, get } = server;
  const names = { 'sallyport-system/sallyport-webhook': [service] };
  const tokenFile = await server.tokenFileOf('sallyport-system', 'sallyport-ca');
  const ca = await startTestCa(t, { cluster: { url, issuer, caFile, tokenFile, audience, review: true, names } });
  await ca.operator.dns.allow(service);
  const port = await freePort();
  const configuration = 'mutatingwebhookconfigurations/sallyport-injector';
  // There is no network of pods here: the Service leads to this machine.
  await get(['-n', 'sallyport-system', 'delete', 'service', 'sallyport-webhook']);
  const external = ['create', 'service', 'externalname', 'sallyport-webhook', '--external-name=localhost'];
  await get(['-n', 'sallyport-system', ...external]);
  const client = (index: number, field: string): string => `/webhooks/${index}/clientConfig/${field}`;
  const ports = [0, 1].map((index) => ({ op: 'replace', path: client(index, 'service/port'), value: port }));
  await get(['patch', configuration, '--type=json', '-p', JSON.stringify(ports)]);
  const caBundles = async (): Promise<string[]> => {
    const { webhooks } = JSON.parse(await get(['get', configuration, '-o', 'json']));
    return webhooks.map((one: Any) => Buffer.from(one.clientConfig.caBundle ?? '', 'base64').toString());
  };

  const dir = tempDir(t);
  const token = join(dir, 'token');
  writeFileSync(token, await webhookToken(server));
  const bundle = caFilesOf(ca.dir).bundlePem;
  const start = (): ReturnType<typeof startSallyport> =>
    startSallyport(t as Owner, [
      ...['webhook', '--listen', `127.0.0.1:${port}`, '--ca', `https://127.0.0.1:${ca.address.port}`],
      ...['--ca-bundle', bundle, '--out-dir', join(dir, 'svid'), '--kubernetes-token-file', token],
      ...['--configuration', 'sallyport-injector', '--api-server', url, '--api-server-ca', caFile],
      ...['--api-server-token-file', webhookTokenFile],
    ]);
  const webhookTokenFile = await server.tokenFileOf('sallyport-system', 'sallyport-webhook');

  await get(['label', 'namespace', 'shop', 'sallyport.dev/injection=enabled']);
  const app = JSON.stringify({
    ...{ apiVersion: 'v1', kind: 'Pod', metadata: { generateName: 'app-', namespace: 'shop' } },
    ...restrict({ spec: { containers: [{ name: 'app', image: 'app', ports: [{ containerPort: 8080 }] }] } }),
  });
  const create = ['create', '-o', 'json', '-f', '-'];
  t.match((await kubectl(create, app)).stderr, 'failed calling webhook', 'nothing without the webhook');

  const child = start();
  await child.waitFor(/"code":"ca_bundle_patched"/);
  const root = readFileSync(bundle, 'utf8');
  t.strictSame(await caBundles(), [root, root]);
  const pod = await until(async () => JSON.parse(await get(create, app)), 'an injected pod');
  const [sidecar] = treesOf(pod.spec.initContainers).filter((one: Any) => one.name === 'sallyport-proxy');
  t.match(sidecar, { restartPolicy: 'Always' }, 'a native sidecar, in a restricted namespace');
  t.equal(pod.metadata.labels['sallyport.dev/injected'], 'true');
  t.match((await kubectl(dryRun, app)).code, 0, 'a dry run as well');

  const wrong = JSON.parse(app);
  wrong.metadata.annotations = { 'sidecar.istio.io/logLevel': 'loud' };
  t.match((await kubectl(create, JSON.stringify(wrong))).stderr, /denied the request: sallyport: .*loud/);
  const elsewhere = JSON.parse(app);
  elsewhere.metadata.namespace = 'bank';
  await get(['create', 'namespace', 'bank']);
  await get(['-n', 'bank', 'create', 'serviceaccount', 'default']);
  t.notMatch(await get(create, JSON.stringify(elsewhere)), 'sallyport-proxy', 'no label, no sidecar');
  elsewhere.metadata.labels = { 'sallyport.dev/inject': 'true' };
  t.match(await get(create, JSON.stringify(elsewhere)), 'sallyport-proxy', 'unless the pod asks for it');

  // Roots of others: the API server takes no webhook that they have not signed.
  const foreign = Buffer.from(readFileSync(caFile)).toString('base64');
  const swap = [0, 1].map((index) => ({ op: 'replace', path: client(index, 'caBundle'), value: foreign }));
  await get(['patch', configuration, '--type=json', '-p', JSON.stringify(swap)]);
  await until(async () => /x509/.test((await kubectl(create, app)).stderr), 'the API server refuses us');
  child.process.kill('SIGHUP');
  await until(async () => (await caBundles()).every((one) => one === root), 'caBundle is mended');
  await until(async () => (await kubectl(create, app)).code === 0, 'pods are created again');

  t.equal(await child.stop(), 0);
  t.match((await kubectl(create, app)).stderr, 'failed calling webhook', 'fails closed');
  const back = start();
  await until(async () => (await kubectl(create, app)).code === 0, 'and comes back');
  t.equal(await back.stop(), 0);
}

/** As the kubelet projects it into a pod of the webhook. */
async function webhookToken({ get }: RealApiServer): Promise<string> {
  const of = ['-n', 'sallyport-system'];
  const [{ spec }] = documentsOf(await get([...of, 'get', 'deployment', 'sallyport-webhook', '-o', 'yaml']));
  const text = podText(spec.template, { metadata: { namespace: 'sallyport-system' } });
  const { name, uid } = JSON.parse(await get(['create', '-o', 'json', '-f', '-'], text)).metadata;
  const bound = ['--bound-object-kind=Pod', `--bound-object-name=${name}`, `--bound-object-uid=${uid}`];
  return get([...of, 'create', 'token', 'sallyport-webhook', `--audience=${audience}`, ...bound]);
}

/** A CRD that takes everything. */
const crdOf = (group: string, version: string, kind: string, plural: string, scope = 'Namespaced'): Any => ({
  ...{ apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition' },
  metadata: {
    name: `${plural}.${group}`,
    annotations: { 'api-approved.kubernetes.io': 'unapproved, for a test' },
  },
  spec: {
    ...{ group, scope, names: { kind, plural, singular: kind.toLowerCase(), listKind: `${kind}List` } },
    versions: [
      {
        ...{ name: version, served: true, storage: true, subresources: { status: {} } },
        schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    ],
  },
});

async function isFollowed(t: Any, { url, caFile, get, tokenFileOf }: RealApiServer): Promise<void> {
  const apply = (...objects: readonly Any[]): Promise<string> =>
    get(['apply', '-f', '-'], JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }));
  const gateways = 'gateway.networking.k8s.io';
  await apply(
    crdOf(gateways, 'v1', 'GatewayClass', 'gatewayclasses', 'Cluster'),
    crdOf(gateways, 'v1', 'Gateway', 'gateways'),
    crdOf(gateways, 'v1', 'HTTPRoute', 'httproutes'),
    crdOf(gateways, 'v1', 'ReferenceGrant', 'referencegrants'),
  );
  await get(['-n', 'shop', 'create', 'serviceaccount', 'gateway']);
  await get([
    'create',
    'clusterrolebinding',
    'gateway',
    '--clusterrole=cluster-admin',
    '--serviceaccount=shop:gateway',
  ]);
  const tokenFile = await tokenFileOf('shop', 'gateway');
  const store = startStore(t, { url, caFile, tokenFile }, { times: { absentGuardMs: 200, proofMs: 50 } });
  await until(() => store.snapshot(), 'the first snapshot, without the CRDs of policies');
  const names = (): string[] => namesIn(store);
  await until(() => get(['get', 'httproutes', '-A']), 'the kind');
  await apply(routeIn('shop', 'r', 'a.test'));
  await until(() => names().includes('HTTPRoute r') || undefined, 'the route');
  await apply(crdOf('gateway.envoyproxy.io', 'v1alpha1', 'SecurityPolicy', 'securitypolicies'));
  await until(() => get(['get', 'securitypolicies', '-A']), 'the kind');
  await apply(denyFor('shop', 'r'));
  await until(() => names().includes('SecurityPolicy deny-r') || undefined, 'a policy of a kind that came later');
  const both = (): void => {
    if (names().includes('HTTPRoute r') && !names().includes('SecurityPolicy deny-r')) t.fail('without its policy');
  };
  store.onChange(both);
  for (let i = 0; i < 5; i++) {
    await get(['-n', 'shop', 'delete', 'httproute', 'r']);
    await get(['-n', 'shop', 'delete', 'securitypolicy', 'deny-r']);
    await apply(denyFor('shop', 'r'), routeIn('shop', 'r', 'a.test'));
  }
  await until(() => names().includes('HTTPRoute r') || undefined, 'the route again');
  t.ok(store.facts().every(({ error }) => error === undefined));
}

// Injection as a function of plain values: what becomes of pods and Services, what is left alone, and what is refused.

import t from 'tap';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { inject, injectPodPatch, uninject } from '../../sidecar/kube/inject.ts';
import { podOf } from '../../sidecar/kube/tree.ts';
import { type Any, annotated, documentsOf, injected, look, options, pod, workloadsText } from '../fixtures/kube.ts';
import { schemaProblems } from '../fixtures/kubernetes-schema.ts';

const workloads = documentsOf(workloadsText);

t.test('thirty workloads of public examples', async (t) => {
  t.ok(workloads.filter((one) => podOf(one) !== undefined).length >= 30);
  const before = structuredClone(workloads);
  const results = inject(workloads, options);
  t.strictSame(workloads, before, 'the input stays as it is');
  t.matchOnlyStrict(
    results.flatMap((one) =>
      one.outcome === 'changed' ? [] : [[one.name.kind, one.name.name, one.outcome, 'code' in one ? one.code : '']],
    ),
    [
      ['DaemonSet', 'node-exporter', 'left_alone', 'host_network'],
      ['DaemonSet', 'kube-proxy', 'left_alone', 'system_namespace'],
      ['Deployment', 'not-wanted', 'left_alone', 'label_false'],
      ['Deployment', 'iis', 'left_alone', 'windows'],
      ['Pod', 'of-istio', 'left_alone', 'other_mesh'],
      ['Service', 'hello-knative', 'left_alone', 'not_a_workload'],
      ['ConfigMap', 'settings', 'left_alone', 'not_a_workload'],
      ['Service', 'my-external', 'left_alone', 'service_unchanged'],
      ['NetworkPolicy', 'test-network-policy', 'left_alone', 'not_a_workload'],
    ],
  );
  for (const [index, result] of results.entries()) {
    const what = `${result.name.kind} ${result.name.name}`;
    const isOurs = !/argoproj|knative/.test(workloads[index].apiVersion);
    if (isOurs) t.equal(schemaProblems(result.value), '', `${what} is valid`);
    if (result.outcome !== 'changed') {
      t.equal(result.value, workloads[index], `${what} stays the same object`);
      continue;
    }
    const found = podOf(result.value);
    if (found !== undefined) {
      const yaml = (found as Any).metadata.annotations['sallyport.dev/sidecar.yaml'];
      t.doesNotThrow(() => parseSettings(yaml, 'sidecar.yaml'), `${what}: its sidecar.yaml is valid`);
    }
  }
  const values = results.map(({ value }) => value);
  t.strictSame(
    inject(values, options).map(({ value }) => value),
    values,
    'twice is once',
  );
  t.strictSame(
    uninject(values, options).map(({ value }) => value),
    workloads,
    'and back',
  );
});

t.test('the container: native, restricted, with probes, resources and a token of ours', async (t) => {
  const { pod: found, sidecar } = injected(annotated({}));
  t.equal(found.spec.initContainers[0], sidecar, 'it starts first');
  t.match(sidecar, {
    ...{ name: 'sallyport-proxy', image: 'sallyport:test', restartPolicy: 'Always' },
    args: ['sidecar', '--config', '/etc/sallyport/config/sidecar.yaml'],
    startupProbe: { httpGet: { path: '/healthz/ready', port: 15021 }, periodSeconds: 1, failureThreshold: 600 },
    readinessProbe: { httpGet: { path: '/healthz/ready', port: 15021 }, periodSeconds: 15, failureThreshold: 4 },
    resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { cpu: '2', memory: '1Gi' } },
  });
  // Pod Security Standards, restricted.
  t.strictSame(sidecar.securityContext, {
    ...{ allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, privileged: false },
    ...{ readOnlyRootFilesystem: true, runAsGroup: 1337, runAsNonRoot: true, runAsUser: 1337 },
    seccompProfile: { type: 'RuntimeDefault' },
  });
  const volumes = Object.fromEntries(found.spec.volumes.map((one: Any) => [one.name, one]));
  t.strictSame(volumes['sallyport-token'].projected.sources, [
    { serviceAccountToken: { audience: 'sallyport-ca', expirationSeconds: 3600, path: 'sallyport-token' } },
  ]);
  t.match(volumes['sallyport-identity'].emptyDir, { medium: 'Memory' });
  t.match(volumes['sallyport-policies'].configMap, { name: 'sallyport-policies', optional: true });
  t.strictSame(
    volumes['sallyport-config'].downwardAPI.items.map((one: Any) => one.fieldRef.fieldPath),
    ["metadata.annotations['sallyport.dev/sidecar.yaml']", "metadata.annotations['sallyport.dev/bundle.pem']"],
  );
  const mounted = new Set(sidecar.volumeMounts.map(({ name }: Any) => name));
  t.strictSame([...mounted].toSorted(), Object.keys(volumes).toSorted(), 'in the sidecar alone');
  t.notMatch(JSON.stringify(found.spec.containers), 'sallyport-token');
});

t.test('a pod that serves and names no port is told that nothing of it is protected', async (t) => {
  const notesOf = (spec: object): readonly string[] => {
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, spec };
    const [result] = inject([pod], options);
    return result?.outcome === 'changed' ? result.notes : [String(result?.outcome)];
  };
  const [bare, named] = [
    { name: 'a', image: 'i' },
    { name: 'a', image: 'i', ports: [{ containerPort: 80 }] },
  ];
  t.match(notesOf({ containers: [bare] }), [/^no container names a port, so nothing that it listens on is protected/]);
  t.strictSame(notesOf({ containers: [named] }), []);
  t.strictSame(notesOf({ restartPolicy: 'Never', containers: [bare] }), [], 'a job calls, and serves nothing');
});

t.test('settings: identity, ports, probes', async (t) => {
  const {
    settings,
    pod: found,
    notes,
    sidecar,
  } = injected(
    pod(
      {
        ports: [
          { name: 'grpc-api', containerPort: 9000 },
          { name: 'http', containerPort: 8080 },
          { containerPort: 5432 },
          { name: 'udp', containerPort: 53, protocol: 'UDP' },
        ],
        readinessProbe: { httpGet: { path: '/ready', port: 'http' }, timeoutSeconds: 3, periodSeconds: 5 },
        livenessProbe: { grpc: { port: 9000, service: 'x' } },
        startupProbe: { exec: { command: ['true'] } },
      },
      {},
      { serviceAccountName: 'web' },
    ),
  );
  t.match(settings, {
    trustDomain: 'demo.test',
    workload: { namespace: 'shop', serviceAccount: 'web', labels: { app: 'web' } },
    identity: { ca: { url: options.caUrl, kubernetesTokenFile: '/var/run/secrets/tokens/sallyport-token' } },
  });
  t.strictSame(settings.inbound, [
    { port: 15006, app: '127.0.0.1:9000', protocol: 'grpc' },
    { port: 15100, app: '127.0.0.1:8080', protocol: 'http' },
    { port: 15101, app: '127.0.0.1:5432', protocol: 'tcp' },
  ]);
  t.strictSame(settings.appProbes, {
    'app/livez': { port: 9000, timeout: '1s', grpc: { service: 'x' } },
    'app/readyz': { port: 8080, timeout: '3s', httpGet: { path: '/ready' } },
  });
  const [app] = found.spec.containers;
  t.strictSame(app.readinessProbe, {
    ...{ httpGet: { path: '/app-health/app/readyz', port: 15021 }, timeoutSeconds: 3, periodSeconds: 5 },
  });
  t.strictSame(app.startupProbe, { exec: { command: ['true'] } });
  t.strictSame(
    app.ports.map(({ name }: Any) => name),
    [undefined, undefined, undefined, 'udp'],
    'names go to the sidecar',
  );
  t.strictSame(sidecar.ports.slice(0, 3), [
    { name: 'grpc-api', containerPort: 15006, protocol: 'TCP' },
    { name: 'http', containerPort: 15100, protocol: 'TCP' },
    { containerPort: 15101, protocol: 'TCP' },
  ]);
  t.strictSame(notes, ['port 53/UDP is not taken over: only TCP is']);
});

t.test("Istio's annotations and ours", async (t) => {
  const {
    sidecar,
    settings,
    pod: found,
    notes,
  } = injected(
    annotated({
      'sidecar.istio.io/proxyImage': `registry.test:5000/sallyport:1.2@sha256:${'a'.repeat(64)}`,
      'sidecar.istio.io/proxyCPU': '3',
      'sidecar.istio.io/proxyMemoryLimit': '64Mi',
      'sidecar.istio.io/logLevel': 'warning',
      'sidecar.istio.io/interceptionMode': 'REDIRECT',
      'sidecar.istio.io/userVolume': '{"extra":{"emptyDir":{}}}',
      'sidecar.istio.io/userVolumeMount': '[{"name":"extra","mountPath":"/extra"}]',
      'traffic.sidecar.istio.io/includeInboundPorts': '8080, 7000',
      'traffic.sidecar.istio.io/excludeOutboundPorts': '443',
      'status.sidecar.istio.io/port': '15121',
      'readiness.status.sidecar.istio.io/initialDelaySeconds': '7',
      'proxy.istio.io/config':
        'concurrency: 2\nterminationDrainDuration: 10s\nholdApplicationUntilProxyStarts: true\ntracing: {}\n',
      'sallyport.dev/protocols': '7000=tcp, 8080=http2',
      'sallyport.dev/policies': 'orders-policies',
      'sallyport.dev/settings':
        'defaultMtls: PERMISSIVE\nupstreams: { db: { endpoints: ["db:5432"], identity: "spiffe://demo.test/ns/shop/sa/db" } }\noutbound: [{ port: 15001 }, { port: 5432, protocol: tcp, upstream: db }]\n',
    }),
  );
  t.match(sidecar.image, 'registry.test:5000/sallyport:1.2');
  t.strictSame(sidecar.resources, { requests: { cpu: '3', memory: '64Mi' }, limits: { cpu: '3', memory: '64Mi' } });
  t.strictSame(sidecar.env, [{ name: 'SALLYPORT_LOG_LEVEL', value: 'warn' }]);
  t.strictSame(sidecar.args.slice(-2), ['--workers', '2']);
  t.match(sidecar.readinessProbe, { initialDelaySeconds: 7, httpGet: { port: 15121 } });
  t.match(sidecar.volumeMounts.at(-1), { name: 'extra', mountPath: '/extra' });
  t.match(found.spec.volumes.at(-1), { name: 'extra', emptyDir: {} });
  t.match(found.spec.volumes[1].configMap, { name: 'orders-policies', optional: false });
  t.match(settings, {
    inbound: [
      { app: '127.0.0.1:8080', protocol: 'http2' },
      { app: '127.0.0.1:7000', protocol: 'tcp' },
    ],
    ...{ health: 15121, defaultMtls: 'PERMISSIVE', limits: { drain: '10s' } },
    outbound: [{ port: 15001 }, { port: 5432, upstream: 'db' }],
  });
  t.strictSame(notes, [
    'sidecar.istio.io/interceptionMode: REDIRECT has no effect: the sidecar has ports of its own',
    'traffic.sidecar.istio.io/excludeOutboundPorts has no effect: outbound traffic is not redirected',
    'proxy.istio.io/config: tracing has no effect',
  ]);
  const regular = injected(annotated({ 'sidecar.istio.io/nativeSidecar': 'false' }));
  t.equal(regular.pod.spec.containers[1], regular.sidecar);
  t.notOk('restartPolicy' in regular.sidecar);
  const kept = injected(
    pod(
      { ports: [{ name: 'http', containerPort: 80 }], readinessProbe: { httpGet: { port: 'http' } } },
      { 'sidecar.istio.io/rewriteAppHTTPProbers': 'false' },
    ),
  );
  t.strictSame(kept.pod.spec.containers[0].readinessProbe, { httpGet: { port: 80 } }, 'by number: the name is gone');
  t.notOk('appProbes' in kept.settings);
});

t.test('a label decides, ours before Istio’s, and a typing error is refused', async (t) => {
  const outcome = (labels: Record<string, string>, annotations: Record<string, string> = {}): string => {
    const [result] = inject([annotated(annotations, labels)], options);
    return result!.outcome === 'left_alone' ? result!.code : result!.outcome;
  };
  const istio = 'sidecar.istio.io/inject';
  const own = 'sallyport.dev/inject';
  t.equal(outcome({}), 'changed');
  t.equal(outcome({ [istio]: 'false' }), 'label_false');
  t.equal(outcome({ [istio]: 'true' }, { [istio]: 'false' }), 'changed');
  t.equal(outcome({ [own]: 'true', [istio]: 'false' }), 'changed');
  t.equal(outcome({ [own]: 'false', [istio]: 'true' }), 'label_false');
  t.equal(outcome({}, { [istio]: 'false' }), 'label_false');
  for (const value of ['ture', 'False', 'no', '0']) t.equal(outcome({ [istio]: value }), 'refused', value);
});

t.test('a label or an annotation of ours that does not exist is refused', async (t) => {
  const own = (name: string): string => `sallyport.dev/${name}`;
  const refusal = (labels: Record<string, unknown>, notes: Record<string, unknown> = {}): unknown => {
    const [result] = inject([annotated(notes as Record<string, string>, labels as Record<string, string>)], options);
    return result!.outcome === 'refused' ? result!.reason : result!.outcome;
  };
  for (const [labels, notes, reason] of [
    [{}, { [own('setting')]: 'a: 1' }, /annotation .*setting is unknown: did you mean 'sallyport.dev\/settings'\?$/],
    [{}, { [own('polices')]: 'a' }, /did you mean 'sallyport.dev\/policies'\?$/],
    [{}, { [own('Protocols')]: '8080=grpc' }, /did you mean 'sallyport.dev\/protocols'\?$/],
    [{}, { [own('colour')]: 'red' }, /is unknown; there are sallyport.dev\/settings, /],
    [{}, { [own('inject')]: 'flase' }, /annotation sallyport.dev\/inject: write it as a label$/],
    [{}, { [own('inject')]: 'false' }, /write it as a label$/],
    [{}, { [own('injct')]: 'false' }, /did you mean 'sallyport.dev\/inject', as a label\?$/],
    [{}, { [own('identity')]: 'spiffe://a.test/b' }, /it is an annotation of a Service$/],
    [{}, { [own('sidecar.yaml')]: 'admin: 0' }, /injection writes it/],
    [{}, { [own('settings')]: { a: 1 } }, /is not text: write it in quotes$/],
    [{}, { [own('protocols')]: '7777=grpc' }, /takes over no port 7777; name it in the container's 'ports'$/],
    [{ [own('injct')]: 'false' }, {}, /label .*injct is unknown: did you mean 'sallyport.dev\/inject'\?$/],
    [{ [own('injection')]: 'enabled' }, {}, /label of a Namespace/],
    [{ [own('policies')]: 'a' }, {}, /label sallyport.dev\/policies: write it as an annotation$/],
    [{ [own('inject')]: false }, {}, /label sallyport.dev\/inject is not text: write it in quotes$/],
    [{ [own('injected')]: 'no' }, {}, /'no' is not 'true'$/],
    [{ [own('inject')]: 'true' }, { [own('setting')]: '' }, /is unknown/],
  ] as const) {
    t.match(refusal(labels, notes), reason);
    const document = annotated(notes as Record<string, string>, labels as Record<string, string>);
    t.match(injectPodPatch(document, options), { outcome: 'refused', reason }, 'by the webhook, too');
  }
  t.equal(refusal({ [own('injected')]: 'true' }), 'changed', 'what injection would add');
  t.equal(refusal({ [own('inject')]: 'false' }, { [own('setting')]: '' }), 'left_alone', 'it gets no sidecar');
});

t.test('a label or an annotation of ours that is only on the workload is refused', async (t) => {
  const pod = annotated({ 'sallyport.dev/policies': 'a' }, { 'sallyport.dev/inject': 'true' }) as Any;
  const template = { metadata: pod.metadata, spec: pod.spec };
  const outcome = (workload: Any): unknown => {
    const [result] = inject([workload], options);
    return result!.outcome === 'refused' ? result!.reason : result!.outcome;
  };
  const deployment = (metadata: Any): Any => ({
    ...{ apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'orders', ...metadata }, spec: { template } },
  });
  const same = {
    annotations: { 'sallyport.dev/policies': 'a' },
    labels: { 'sallyport.dev/inject': 'true', app: 'a' },
  };
  t.equal(outcome(deployment(same)), 'changed', 'on both, as tools write it');
  for (const metadata of [
    { annotations: { 'sallyport.dev/settings': 'a: 2' } },
    { annotations: { 'sallyport.dev/policies': 'b' } },
    { labels: { 'sallyport.dev/inject': 'false' } },
    { labels: { 'Sallyport.dev/anything': 'x' } },
  ])
    t.match(
      outcome(deployment(metadata)),
      /^(?:label|annotation) \S+ is on the Deployment, .* write it in the metadata of the pod template$/i,
    );
  const job = { metadata: { labels: { 'sallyport.dev/inject': 'false' } }, spec: { template } };
  const cronJob = { apiVersion: 'batch/v1', kind: 'CronJob', metadata: { name: 'a' }, spec: { jobTemplate: job } };
  t.match(outcome(cronJob), /label sallyport.dev\/inject is on the CronJob/);
});

t.test('every wrong value of an annotation is refused, with its name', async (t) => {
  for (const [name, ...values] of [
    ['sidecar.istio.io/proxyImage', 'a b', '$(id)', 'a@sha256:1'],
    ['sidecar.istio.io/proxyCPU', '-1', '0', 'lots', '1x', '1e999', 'NaN'],
    ['sidecar.istio.io/proxyMemory', '1 Gi', '1gi', '0x10'],
    ['sidecar.istio.io/logLevel', 'loud', 'DEBUG', '7'],
    ['sidecar.istio.io/interceptionMode', 'redirect', 'X'],
    ['sidecar.istio.io/nativeSidecar', 'yes', '1'],
    ['sidecar.istio.io/rewriteAppHTTPProbers', 'True'],
    ['sidecar.istio.io/userVolume', '{', '7', '[{}]', '"a"', '[[]]'],
    ['sidecar.istio.io/userVolumeMount', '[1]'],
    ['traffic.sidecar.istio.io/includeInboundPorts', 'http', '0', '70000', '80;81', '-1', '80,'],
    ['traffic.sidecar.istio.io/excludeInboundPorts', '*', '1.5'],
    ['status.sidecar.istio.io/port', '0', '70000', 'health', '15006', '15000', '8080'],
    ['readiness.status.sidecar.istio.io/periodSeconds', '0', '-1', '1s'],
    ['readiness.status.sidecar.istio.io/failureThreshold', 'x'],
    ['proxy.istio.io/config', 'concurrency: many', '[]', 'a: b: c', 'terminationDrainDuration: soon'],
    ['sallyport.dev/protocols', '8080', '8080=ftp', 'http=8080', '0=http', '8080=__proto__'],
    ['sallyport.dev/policies', 'a b', '../x', 'A'],
    ['sallyport.dev/settings', '[]', 'a: b: c', 'unknownField: 1', 'defaultMtls: MAYBE', 'trustDomain: evil.test'],
    [
      'sallyport.dev/settings',
      'identity: {}',
      'workload: {}',
      'policies: /',
      'inbound: []\noutbound: []',
      'outbound: [{ port: 15006 }]',
    ],
  ] as const)
    for (const value of values) {
      const [result] = inject([annotated({ [name]: value })], options);
      t.equal(result?.outcome, 'refused', `${name}: ${value}`);
      t.match(
        result?.outcome === 'refused' ? result.reason : '',
        name === 'status.sidecar.istio.io/port' ? /port/ : name,
      );
      t.strictSame(result?.value, annotated({ [name]: value }), 'and stays as it is');
    }
  const [both] = inject(
    [annotated({ 'sidecar.istio.io/proxyCPU': '2', 'sidecar.istio.io/proxyCPULimit': '1' })],
    options,
  );
  t.match(both, { outcome: 'refused', reason: /proxyCPU is more than proxyCPULimit/ });
});

t.test('what would clash is refused', async (t) => {
  for (const [document, reason] of [
    [pod({ name: 'sallyport-proxy' }), /a container is called sallyport-proxy/],
    [pod({}, {}, { volumes: [{ name: 'sallyport-token', emptyDir: {} }] }), /a volume is called sallyport-token/],
    [pod({}, { 'sidecar.istio.io/userVolume': '[{"name":"a"},{"name":"a"}]' }), /a volume is called a already/],
    [pod({ ports: [{ containerPort: 15001 }] }), /port 15001/],
    [pod({ ports: [{ containerPort: 15021 }] }), /port 15021.*status\.sidecar\.istio\.io\/port/],
    [pod({ ports: [{ containerPort: 80 }, { containerPort: 15006 }] }), /port 15006/],
    [pod({ ports: Array.from({ length: 101 }, (_, i) => ({ containerPort: 1000 + i })) }), /more than 100 ports/],
    [pod({}, { 'sallyport.dev/status': 'x' }), /was edited/],
    [pod({}, { 'sallyport.dev/status': '{"version":2}' }), /was edited/],
  ] as const)
    t.match(inject([document], options)[0], { outcome: 'refused', reason }, String(reason));
});

t.test('Services lead to the sidecars, and are upstreams of the others', async (t) => {
  const deployment = (name: string, account: string, ports: object[], labels = {}): Any => ({
    ...{ apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name } },
    spec: {
      template: {
        metadata: { labels: { app: name, ...labels } },
        spec: { serviceAccountName: account, containers: [{ name: 'a', image: 'a', ports }] },
      },
    },
  });
  const service = (name: string, ports: object[], selector: object = { app: name }, spec = {}): Any => ({
    ...{ apiVersion: 'v1', kind: 'Service', metadata: { name } },
    spec: { selector, ports, ...spec },
  });
  const input = [
    deployment('web', 'web', [{ containerPort: 8080 }]),
    deployment('orders', 'orders', [{ containerPort: 8080, name: 'api' }, { containerPort: 9000 }], { tier: 'x' }),
    deployment('orders-canary', 'canary', [{ containerPort: 8080, name: 'api' }], { tier: 'x' }),
    service('web', [{ port: 80, targetPort: 8080 }]),
    service('orders', [
      { port: 80, targetPort: 'api' },
      { name: 'grpc', port: 9000 },
    ]),
    service(
      'tier',
      [
        { port: 81, targetPort: 8080, appProtocol: 'kubernetes.io/h2c' },
        { port: 82, targetPort: 9000 },
      ],
      { tier: 'x' },
    ),
    service('other', [{ port: 80 }], { app: 'other' }),
    service('headless', [{ port: 8080 }], { app: 'web' }, { clusterIP: 'None' }),
    service('undeclared', [{ port: 7777, name: 'redis' }], { app: 'web' }),
  ];
  const results = inject(input, options);
  const targets = results.map(({ value }) => (value as Any).spec.ports?.map((one: Any) => one.targetPort));
  t.strictSame(targets.slice(3), [[15006], ['api', 15100], [15006, 15100], [undefined], [15006], [15100]]);
  t.match(results[6], { outcome: 'left_alone', reason: /none of the workloads here/ });
  const web = look(results[0]!).settings;
  t.strictSame(
    web.inbound.map((one: Any) => `${one.app} ${one.protocol}`),
    ['127.0.0.1:8080 http', '127.0.0.1:7777 tcp'],
  );
  t.strictSame(look(results[1]!).settings.inbound, [
    { port: 15006, app: '127.0.0.1:8080', protocol: 'http2' },
    { port: 15100, app: '127.0.0.1:9000', protocol: 'grpc' },
  ]);
  t.strictSame(web.upstreams, {
    orders: {
      endpoints: ['orders.shop.svc:80'],
      identity: 'spiffe://demo.test/ns/shop/sa/orders',
      hosts: ['orders.shop', 'orders.shop.svc', 'orders.shop.svc.cluster.local'],
    },
    'orders-9000': {
      endpoints: ['orders.shop.svc:9000'],
      identity: 'spiffe://demo.test/ns/shop/sa/orders',
      hosts: ['orders:9000', 'orders.shop:9000', 'orders.shop.svc:9000', 'orders.shop.svc.cluster.local:9000'],
    },
    'tier-82': {
      endpoints: ['tier.shop.svc:82'],
      identity: ['spiffe://demo.test/ns/shop/sa/orders', 'spiffe://demo.test/ns/shop/sa/canary'],
      hosts: ['tier:82', 'tier.shop:82', 'tier.shop.svc:82', 'tier.shop.svc.cluster.local:82'],
    },
    tier: {
      endpoints: ['tier.shop.svc:81'],
      identity: ['spiffe://demo.test/ns/shop/sa/orders', 'spiffe://demo.test/ns/shop/sa/canary'],
      hosts: ['tier.shop', 'tier.shop.svc', 'tier.shop.svc.cluster.local'],
    },
  });
  t.match(look(results[1]!).settings.upstreams.headless, { endpoints: ['headless.shop.svc:15006'] });
  const values = results.map(({ value }) => value);
  t.strictSame(
    inject(values, options).map(({ value }) => value),
    values,
    'twice is once',
  );
  t.strictSame(
    uninject(values, options).map(({ value }) => value),
    input,
    'and back',
  );
  input[2].spec.template.spec.containers[0].ports.unshift({ containerPort: 9999 });
  t.match(inject(input, options)[5], {
    outcome: 'left_alone',
    reason: /port 81 leads to workloads with different ports/,
  });
  input[0].spec.template.metadata.labels['sidecar.istio.io/inject'] = 'false';
  t.match(inject(input, options)[3], { outcome: 'left_alone', reason: /no sidecar takes it over/ });
});

t.test('uninject keeps what was edited since', async (t) => {
  const [result] = inject([annotated({})], options);
  const edited: Any = structuredClone(result!.value);
  edited.spec.containers[0].image = 'app:2';
  edited.spec.containers.push({ name: 'new', image: 'new' });
  edited.spec.volumes.push({ name: 'data', emptyDir: {} });
  edited.metadata.labels.extra = 'x';
  const [back] = uninject([edited], options);
  t.match(back?.value, {
    metadata: { labels: { app: 'web', extra: 'x' } },
    spec: {
      containers: [{ image: 'app:2', ports: [{ name: 'http', containerPort: 8080 }] }, { name: 'new' }],
      volumes: [{ name: 'data' }],
    },
  });
  t.notMatch(JSON.stringify(back?.value), 'sallyport');
});

t.test('the webhook’s patch makes the injected pod', async (t) => {
  const before = annotated({});
  const done = injectPodPatch(before, options);
  if (done.outcome !== 'changed') return t.fail(done.outcome);
  t.ok(done.patch.every(({ op, path }) => ['add', 'replace', 'remove'].includes(op) && path.startsWith('/')));
  t.ok(done.patch.length < 12, `${done.patch.length} operations`);
  const [result] = inject([before], options);
  t.match(injectPodPatch(result?.value, options), { outcome: 'left_alone', code: 'already_injected' });
});

t.test('values of every type where others are expected neither throw nor leak', async (t) => {
  const odd = [null, 1, 'x', true, [], [null], {}, { a: 1 }, [{}], [[{}]]];
  const places: ((value: unknown) => unknown)[] = [
    (value) => value,
    (value) => ({ ...pod({}), metadata: value }),
    (value) => ({ ...pod({}), spec: value }),
    (value) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { labels: value, annotations: value },
      spec: { containers: value },
    }),
    (value) => pod({ ports: value, livenessProbe: value, lifecycle: value, name: value }),
    (value) => pod({ ports: [{ containerPort: value, name: value }], readinessProbe: { httpGet: value } }),
    (value) =>
      pod({}, {}, { initContainers: value, volumes: value, os: value, nodeSelector: value, serviceAccountName: value }),
    (value) => ({ apiVersion: 'v1', kind: 'Service', metadata: value, spec: { selector: value, ports: value } }),
    (value) => ({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { annotations: { 'sallyport.dev/target-ports': JSON.stringify(value) } },
      spec: { selector: { app: 'web' }, ports: [{ port: value }] },
    }),
    (value) =>
      pod(
        {},
        {
          'sallyport.dev/status': JSON.stringify({
            version: 1,
            made: value,
            labels: value,
            restore: { app: value },
            volumes: value,
            ports: value,
          }),
        },
      ),
  ];
  for (const [index, place] of places.entries())
    for (const value of odd) {
      const document = place(value);
      t.doesNotThrow(
        () =>
          uninject(
            inject([document, annotated({})], options).map((one) => one.value),
            options,
          ),
        `${index} ${JSON.stringify(value)}`,
      );
    }
  const evil: Any = pod({
    name: '__proto__',
    ports: [{ name: 'http', containerPort: 80 }],
    livenessProbe: { httpGet: { port: 'http' } },
  });
  inject([evil], options);
  t.equal((Object.prototype as Any).livenessProbe, undefined, 'no prototype is written to');
});

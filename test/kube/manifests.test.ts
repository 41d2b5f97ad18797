// The manifests: valid by Kubernetes' own OpenAPI, restricted, with the least rights, and with options, ports, names and
// documents that exist.

import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { Ajv } from 'ajv';
import t from 'tap';
import { parseIstio } from '../../sidecar/documents/istio/read.ts';
import { inboundPort, mostInboundPorts } from '../../sidecar/kube/names.ts';
import { labelsOf, podOf, runningContainers, treesOf } from '../../sidecar/kube/tree.ts';
import { base, chart, chartValues, examplesOfChart, following, kubernetes, renderChart } from '../fixtures/chart.ts';
import { runCommand } from '../fixtures/command.ts';
import { type Any, documentsOf } from '../fixtures/kube.ts';
import { schemaProblems } from '../fixtures/kubernetes-schema.ts';
import { tempDir } from '../fixtures/process.ts';
import { haveCommand } from '../fixtures/tools.ts';

const read = (file: string): Any[] => documentsOf(readFileSync(file, 'utf8'));
const files = globSync('{base,namespace}/*.yaml', { cwd: kubernetes }).filter(
  (file) => basename(file) !== 'kustomization.yaml',
);
const all = files.flatMap((file) => read(join(kubernetes, file)));
/** The chart with a gateway that follows the API server. */
const followed = documentsOf(Object.values(renderChart(following)).join('\n---\n'));
/** What Kubernetes itself has no schema for. */
const foreignKinds: ReadonlySet<string> = new Set(['CustomResourceDefinition', 'GatewayClass']);
const pods = all.flatMap((one) => {
  const pod = podOf(one);
  return pod === undefined ? [] : [{ name: `${one.kind} ${one.metadata.name}`, owner: one, pod: pod as Any }];
});

t.test(
  'the kustomize base is the chart with its defaults, and what a watching gateway adds is of the chart',
  async (t) => {
    for (const [path, text] of Object.entries(examplesOfChart())) t.equal(readFileSync(path, 'utf8'), text, path);
    t.strictSame(
      Object.keys(renderChart()).toSorted(),
      read(join(base, 'kustomization.yaml'))[0].resources.toSorted(),
      'nothing is left of a template for another gateway',
    );
    t.match(renderChart({ trustDomain: 'corp.test' })['ca.yaml'], '--trust-domain corp.test');
    t.match(read(`${chart}Chart.yaml`)[0], { apiVersion: 'v2', name: 'sallyport', version: /^\d+\.\d+\.\d+$/ });
  },
);

t.test(
  'the chart with gateway.kubernetes.enabled is what kustomize makes of examples/kubernetes/watched',
  async (t) => {
    const byName = (documents: readonly Any[]): Any =>
      Object.fromEntries(documents.map((one) => [`${one.kind} ${one.metadata.name}`, one]));
    const rendered = byName(followed);
    t.strictSame(rendered, byName(patchedOf('watched')));
    for (const [name, one] of Object.entries(rendered))
      if (!foreignKinds.has((one as Any).kind)) t.equal(schemaProblems(one), '', name);
    t.notOk(rendered['ConfigMap sallyport-gateway-documents']);
    const { containers, volumes, automountServiceAccountToken } =
      rendered['Deployment sallyport-gateway'].spec.template.spec;
    t.equal(automountServiceAccountToken, true, 'it has a token');
    t.strictSame(
      containers[0].volumeMounts.map(({ name }: Any) => name).toSorted(),
      volumes.map(({ name }: Any) => name).toSorted(),
    );
    // The heap is half of the memory: a quarter of it is what objects may have at most.
    t.equal(containers[0].resources.limits.memory, `${(8 * 256) / 1024}Gi`);
    for (const { metadata } of followed.filter(({ kind }) => kind === 'CustomResourceDefinition'))
      t.equal(metadata.annotations['helm.sh/resource-policy'], 'keep', `Helm does not delete ${metadata.name}`);
  },
);

t.test('the values of the chart are checked: a switch that is misspelt is none', async (t) => {
  const validate = new Ajv().compile(JSON.parse(readFileSync(`${chart}values.schema.json`, 'utf8')));
  t.ok(validate(chartValues()), JSON.stringify(validate.errors));
  t.ok(validate({ ...chartValues(), global: {} }), 'as a part of another chart');
  const change = (path: string, value: unknown): Any => {
    const values: Any = structuredClone(chartValues());
    const names = path.split('.');
    const inner = names.slice(0, -1).reduce((one, name) => one[name], values);
    inner[names.at(-1)!] = value;
    return values;
  };
  const [switchPath, enabled] = ['gateway.kubernetes.enabled', [true, false]] as const;
  for (const value of enabled) t.ok(validate(change(switchPath, value)), `${value}`);
  for (const [path, value] of [
    [switchPath, 'false'],
    [switchPath, 1],
    ['gateway.kubernetes.enable', true],
    ['gateway.kubernetes', true],
    ['gateway.watched', true],
    ['webhook.failurePolicy', 'ignore'],
    ['gateway.replicas', '2'],
    ['gateway.memoryLimit', '1 GB'],
    ['image', ''],
  ] as const)
    t.notOk(validate(change(path, value)), `${path}: ${JSON.stringify(value)}`);
});

/** The documents of a kustomization with its bases, after its patches. */
function patchedOf(directory: string): Any[] {
  const at = join(kubernetes, directory);
  const { resources, patches = [] } = read(join(at, 'kustomization.yaml'))[0];
  const documents = resources.flatMap((one: string) =>
    statSync(join(at, one)).isDirectory() ? patchedOf(join(directory, one)) : read(join(at, one)),
  );
  return patches
    .flatMap(({ path }: Any) => read(join(at, path)))
    .reduce((some: Any[], patch: Any) => mergedList(some, [patch], identity), documents);
}

const identity = ({ kind, metadata }: Any): string => `${kind} ${metadata.namespace} ${metadata.name}`;
/** By what a strategic merge tells the items of a list apart. */
const mergeKeys: Readonly<Record<string, (one: Any) => string>> = {
  containers: ({ name }) => name,
  volumes: ({ name }) => name,
  volumeMounts: ({ mountPath }) => mountPath,
};

/** A strategic merge, for as much as our patches use of it. */
function mergedList(items: readonly Any[], patches: readonly Any[], keyOf: (one: Any) => string): Any[] {
  const patchOf = new Map(patches.map((one) => [keyOf(one), one]));
  for (const key of patchOf.keys())
    if (!items.some((one) => keyOf(one) === key)) throw new Error(`nothing to patch: ${key}`);
  return items.flatMap((one) => {
    const patch = patchOf.get(keyOf(one));
    if (patch === undefined) return [one];
    return patch.$patch === 'delete' ? [] : [mergedTree(one, patch)];
  });
}

function mergedTree(tree: Any, patch: Any): Any {
  const of = (name: string, change: Any): Any => {
    if (Array.isArray(change)) return mergedList(tree[name], change, mergeKeys[name]!);
    return typeof change === 'object' ? mergedTree(tree[name] ?? {}, change) : change;
  };
  return { ...tree, ...Object.fromEntries(Object.entries(patch).map(([name, change]) => [name, of(name, change)])) };
}

t.test('kustomize builds it', { skip: haveCommand('kubectl') ? false : 'there is no kubectl here' }, async (t) => {
  for (const [directory, count] of [
    ['', all.length - 2],
    ['namespace', 2],
    ['watched', followed.length],
  ] as const) {
    const { status, stdout, stderr } = spawnSync('kubectl', ['kustomize', join(kubernetes, directory)], {
      encoding: 'utf8',
    });
    t.equal(status, 0, stderr);
    const built = documentsOf(stdout);
    t.equal(built.length, count, directory);
    if (directory === 'watched') t.strictSame(sorted(built), sorted(followed), 'it is the chart');
    for (const one of built.filter(({ kind }) => !foreignKinds.has(kind)))
      t.equal(schemaProblems(one), '', `${one.kind} ${one.metadata.name}`);
  }
});

function sorted(documents: readonly Any[]): Any[] {
  return documents.toSorted((a, b) => identity(a).localeCompare(identity(b)));
}

t.test('kustomize would build every one of them', async (t) => {
  const found = globSync('**/kustomization.yaml', { cwd: kubernetes }).map((file) => dirname(join(kubernetes, file)));
  t.ok(found.length >= 4);
  for (const directory of found) t.strictSame(refusedBy(directory), [], directory);
  const dir = tempDir(t);
  mkdirSync(join(dir, 'overlay'));
  writeFileSync(join(dir, 'a.yaml'), 'kind: A');
  writeFileSync(join(dir, 'kustomization.yaml'), 'resources: [a.yaml]');
  writeFileSync(join(dir, 'overlay', 'kustomization.yaml'), 'resources: [.., ../a.yaml, b.yaml]');
  t.match(refusedBy(join(dir, 'overlay')), [/^cycle/, /^outside/, /^missing/], 'and the check finds what is wrong');
});

/**
 * What kustomize would refuse in a directory: a base that contains a directory which led to it, a file outside, and
 * what is not there.
 */
function refusedBy(directory: string, from: readonly string[] = []): string[] {
  const isIn = (path: string, parent: string): boolean => !relative(parent, path).startsWith('..');
  const led = [...from, resolve(directory)];
  const { resources = [], patches = [] } = read(join(directory, 'kustomization.yaml'))[0];
  return [...resources, ...patches.map(({ path }: Any) => path)].flatMap((one: string): string[] => {
    const path = resolve(directory, one);
    if (!existsSync(path)) return [`missing: ${path}`];
    if (!statSync(path).isDirectory()) return isIn(path, directory) ? [] : [`outside: ${path}`];
    return led.some((root) => isIn(root, path)) ? [`cycle: ${path}`] : refusedBy(path, led);
  });
}

t.test('every document is valid', async (t) => {
  for (const one of all) t.equal(schemaProblems(one), '', `${one.kind} ${one.metadata.name}`);
  const broken = structuredClone(all.find(({ kind }) => kind === 'StatefulSet'));
  broken.spec.template.spec.containers[0].livenesProbe = {};
  t.match(schemaProblems(broken), 'livenesProbe', 'and the check finds a misspelt field');
});

t.test('every pod is restricted', async (t) => {
  t.equal(pods.length, 4);
  for (const { name, pod } of pods) {
    const { spec } = pod;
    t.match(
      spec.securityContext,
      { runAsNonRoot: true, runAsUser: 1337, seccompProfile: { type: 'RuntimeDefault' } },
      name,
    );
    for (const key of ['hostNetwork', 'hostPID', 'hostIPC']) t.notOk(spec[key], `${name} ${key}`);
    for (const container of [...spec.containers, ...(spec.initContainers ?? [])]) {
      t.strictSame(
        container.securityContext,
        { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, readOnlyRootFilesystem: true },
        `${name} ${container.name}`,
      );
    }
    // Pod Security Standards: volumes of the restricted level.
    for (const { name: volume, ...kind } of spec.volumes ?? [])
      t.match(
        Object.keys(kind)[0],
        /^(?:configMap|projected|emptyDir|persistentVolumeClaim|secret|downwardAPI)$/,
        `${name} ${volume}`,
      );
  }
  const namespace = all.find(({ kind }) => kind === 'Namespace');
  t.equal(namespace.metadata.labels['pod-security.kubernetes.io/enforce'], 'restricted');
});

t.test('the rights are these and no others', async (t) => {
  const rules = all
    .filter(({ kind }) => /Role$/.test(kind))
    .map(({ kind, metadata, rules: of }) => [kind, metadata.name, of]);
  t.strictSame(
    rules,
    [
      [
        'ClusterRole',
        'sallyport-ca',
        [{ apiGroups: ['authentication.k8s.io'], resources: ['tokenreviews'], verbs: ['create'] }],
      ],
      [
        'ClusterRole',
        'sallyport-webhook',
        [
          {
            apiGroups: ['admissionregistration.k8s.io'],
            resources: ['mutatingwebhookconfigurations'],
            resourceNames: ['sallyport-injector'],
            verbs: ['get', 'patch'],
          },
        ],
      ],
    ].toSorted(),
  );
  for (const { kind, roleRef, subjects, metadata } of all.filter(({ kind: one }) => /RoleBinding$/.test(one))) {
    t.equal(roleRef.name, metadata.name, kind);
    t.strictSame(
      subjects.map(({ name }: Any) => name),
      [metadata.name],
    );
  }
});

t.test('selectors, ports and names lead somewhere', async (t) => {
  const selected = (selector: Any, namespace: string): Any[] =>
    pods.filter(
      ({ pod, owner }) =>
        owner.metadata.namespace === namespace &&
        Object.entries(selector ?? {}).every(([key, value]) => labelsOf(pod)[key] === value),
    );
  for (const { kind, metadata, spec } of all) {
    const what = `${kind} ${metadata.name}`;
    if (kind === 'Service') {
      const [found] = selected(spec.selector, metadata.namespace);
      t.ok(found, what);
      const names = runningContainers(found.pod.spec).flatMap(({ ports }) => treesOf(ports).map(({ name }) => name));
      for (const { targetPort } of spec.ports) t.ok(names.includes(targetPort), `${what} ${targetPort}`);
    }
    if (kind === 'PodDisruptionBudget')
      t.equal(selected(spec.selector.matchLabels, metadata.namespace).length, 1, what);
    if (kind === 'NetworkPolicy' && spec.podSelector.matchLabels !== undefined && metadata.namespace !== undefined) {
      const [found] = selected(spec.podSelector.matchLabels, metadata.namespace);
      const ports = runningContainers(found.pod.spec).flatMap((one) =>
        treesOf(one['ports']).map(({ containerPort }) => containerPort),
      );
      for (const { port } of spec.ingress[0].ports) t.ok(ports.includes(port), `${what} ${port}`);
      t.equal(spec.ingress[0].ports.length, ports.length, `${what}: every port`);
    }
  }
  const webhook = all.find(({ kind }) => kind === 'MutatingWebhookConfiguration');
  for (const { clientConfig, failurePolicy, rules } of webhook.webhooks) {
    t.strictSame(clientConfig.service, {
      name: 'sallyport-webhook',
      namespace: 'sallyport-system',
      path: '/inject',
      port: 443,
    });
    t.equal(failurePolicy, 'Fail');
    t.match(rules, [{ operations: ['CREATE'], resources: ['pods'] }]);
  }
  const sidecars = all.find(({ metadata }) => metadata.name === 'sallyport-sidecars');
  const [{ ports }] = sidecars.spec.ingress;
  const isOpen = (port: number): boolean =>
    ports.some((one: Any) => port >= one.port && port <= (one.endPort ?? one.port));
  for (let i = 0; i < mostInboundPorts; i++) t.ok(isOpen(inboundPort(i)), `the NetworkPolicy opens ${inboundPort(i)}`);
  for (const port of [80, 8080, 15000, 15001, 15099, 15199]) t.notOk(isOpen(port), `and not ${port}`);
});

t.test('the options of every command exist', { timeout: 120_000 }, async (t) => {
  const helps = new Map<string, string>();
  const help = async (words: string[]): Promise<string> => {
    const key = words.join(' ');
    if (!helps.has(key)) helps.set(key, (await runCommand(t, [...words, '--help'])).stdout);
    return helps.get(key)!;
  };
  const check = async (what: string, line: readonly string[]): Promise<void> => {
    const words = line.slice(
      0,
      line.findIndex((one) => one.startsWith('-')),
    );
    const text = await help(words);
    for (const one of line.filter((part) => part.startsWith('--')))
      t.match(text, new RegExp(`${one.split('=')[0]}\\b`), `${what}: ${words.join(' ')} ${one}`);
  };
  for (const { name, pod } of pods)
    for (const { args, command } of [...pod.spec.containers, ...(pod.spec.initContainers ?? [])]) {
      if (command === undefined) await check(name, args);
      else
        for (const [, line] of args[0].matchAll(/sallyport (ca [^\n|]*)/g))
          await check(
            name,
            line
              .trim()
              .replace(/\$\(.*\)/, 'X')
              .split(/\s+/),
          );
    }
});

t.test('the gateway and the policies of the example are accepted', { timeout: 60_000 }, async (t) => {
  const dir = tempDir(t);
  const data = (name: string): Record<string, string> =>
    all.find(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === name).data;
  mkdirSync(join(dir, 'documents'));
  for (const [file, text] of Object.entries(data('sallyport-gateway-documents')))
    writeFileSync(join(dir, 'documents', file), text);
  const settings = data('sallyport-gateway')['gateway.yaml']!.replace('/etc/sallyport/documents', 'documents');
  writeFileSync(join(dir, 'gateway.yaml'), settings);
  const { code, stderr } = await runCommand(t, ['gateway', '--config', join(dir, 'gateway.yaml'), '--check']);
  t.equal(code, 0, stderr);
  const { authorizationPolicies } = parseIstio(
    Object.entries(data('sallyport-policies')).map(([file, text]) => ({ file, text })),
  );
  t.equal(authorizationPolicies.length, 1);
});

// The webhook over HTTPS, as an API server calls it: with its reviews, with garbage, and through a rotation of roots.

import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { createLog } from '../../cert-agent/base/log.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { keepCaBundle } from '../../sidecar/kube/ca-bundle.ts';
import { inject } from '../../sidecar/kube/inject.ts';
import { stepsOf } from '../../sidecar/kube/patch.ts';
import { answerReview } from '../../sidecar/kube/review.ts';
import { podOf } from '../../sidecar/kube/tree.ts';
import { startWebhook, type Webhook } from '../../sidecar/kube/webhook.ts';
import { startTestCa } from '../fixtures/ca.ts';
import { audience, startCluster } from '../fixtures/cluster.ts';
import { type Any, annotated, documentsOf, options, pod, workloadsText } from '../fixtures/kube.ts';
import { schemaProblems } from '../fixtures/kubernetes-schema.ts';
import { type Authority, createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, startSallyport, tempDir, until } from '../fixtures/process.ts';

const service = 'sallyport-webhook.sallyport-system.svc';

async function identityOf(authority: Authority, dns: string[] = [service]): Promise<Identity> {
  const { chainPem, keyPem } = await createCredential(authority, 'spiffe://demo.test/ns/x/sa/webhook', { dns });
  const svid = parseSvid(chainPem, keyPem, { chain: 'svid.pem', key: 'key.pem' });
  return { svid, bundles: authority.bundles, denied: emptyDenyList } as Identity;
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly json: Any;
}

interface Question {
  readonly method?: string;
  readonly path?: string;
  readonly type?: string;
  readonly body?: string | Buffer;
  readonly ca?: string;
  readonly agent?: Agent;
}

function call(
  port: number,
  { method = 'POST', path = '/inject', type = 'application/json', body = '', ca, agent }: Question,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = request({
      host: '127.0.0.1',
      port,
      servername: service,
      ca,
      method,
      path,
      agent,
      headers: { 'content-type': type, 'content-length': Buffer.byteLength(body) },
    });
    asked.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.once('error', reject);
      response.once('end', () => {
        let json: Any;
        try {
          json = JSON.parse(text);
        } catch {
          json = undefined;
        }
        resolve({ status: response.statusCode ?? 0, text, json });
      });
    });
    asked.once('error', reject);
    asked.end(body);
  });
}

const reviewOf = (object: unknown, more: object = {}): Any => ({
  apiVersion: 'admission.k8s.io/v1',
  kind: 'AdmissionReview',
  request: {
    uid: '705ab4f5-6393-11e8-b7cc-42010a800002',
    kind: { group: '', version: 'v1', kind: 'Pod' },
    resource: { group: '', version: 'v1', resource: 'pods' },
    ...{ namespace: 'shop', operation: 'CREATE', dryRun: false, object, oldObject: null },
    userInfo: { username: 'system:serviceaccount:kube-system:replicaset-controller' },
    ...more,
  },
});

async function start(
  t: Owner,
  more: object = {},
): Promise<{ webhook: Webhook; authority: Authority; ca: string; identity: LiveCell<Identity | undefined> }> {
  const authority = await createAuthority('demo.test');
  const identity = new LiveCell<Identity | undefined>(await identityOf(authority));
  const log = createLog({ component: 'webhook', level: 'silent' });
  const { caUrl, image } = options;
  const webhook = await startWebhook({
    ...{ listen: { host: '127.0.0.1', port: 0 }, identity, pods: { caUrl, image, audience }, service, log, ...more },
  });
  t.teardown(() => webhook.close());
  return { webhook, authority, ca: authority.bundlePem, identity };
}

/** As the API server applies a patch (RFC 6902). */
function applied(value: unknown, patch: Any[]): Any {
  const copy: Any = structuredClone(value);
  for (const { op, path, value: added } of patch) {
    const steps = stepsOf(path);
    const last = steps.pop()!;
    const parent = steps.reduce((one, step) => one[step], copy);
    if (Array.isArray(parent) && op !== 'replace')
      parent.splice(Number(last), op === 'remove' ? 1 : 0, ...(op === 'add' ? [structuredClone(added)] : []));
    else if (op === 'remove') delete parent[last];
    else parent[last] = structuredClone(added);
  }
  return copy;
}

t.test('the patch of each workload makes a valid pod with a sidecar', async (t) => {
  const { webhook, ca } = await start(t);
  for (const document of documentsOf(workloadsText)) {
    const template = podOf(document);
    if (template === undefined) continue;
    const object: Any = { ...structuredClone(template), apiVersion: 'v1', kind: 'Pod' };
    const what = `${document.kind} ${document.metadata.name}`;
    const answer = await call(webhook.address.port, {
      ca,
      body: JSON.stringify(reviewOf(object, { namespace: document.metadata.namespace ?? 'shop' })),
    });
    t.match(
      answer,
      {
        status: 200,
        json: {
          apiVersion: 'admission.k8s.io/v1',
          kind: 'AdmissionReview',
          response: { uid: reviewOf(0).request.uid, allowed: true },
        },
      },
      what,
    );
    const { patch, patchType } = answer.json.response;
    if (patch === undefined) continue;
    t.equal(patchType, 'JSONPatch');
    const after = applied(object, JSON.parse(Buffer.from(patch, 'base64').toString('utf8')));
    t.equal(schemaProblems(after), '', what);
    t.match(JSON.stringify(after.spec), 'sallyport-proxy', what);
  }
  t.ok(webhook.counts['injected']! > 20);
});

t.test('what is wrong is refused by name, or let through with a warning', async (t) => {
  const wrong = reviewOf(annotated({ 'sidecar.istio.io/logLevel': 'loud' }));
  const strict = await start(t);
  const refused = await call(strict.webhook.address.port, { ca: strict.ca, body: JSON.stringify(wrong) });
  t.match(refused.json.response, { allowed: false, status: { code: 400, message: /logLevel: 'loud'/ } });
  const open = await start(t, { failurePolicy: 'Ignore' });
  const let_ = await call(open.webhook.address.port, { ca: open.ca, body: JSON.stringify(wrong) });
  t.match(let_.json.response, { allowed: true, warnings: [/no sidecar: .*logLevel/] });
  t.notOk('patch' in let_.json.response);
});

t.test('requests about other things are allowed as they are', async (t) => {
  const { namespace: _, ...all } = options;
  const answer = (review: unknown): Any => (answerReview(review, all, 'Fail').body as Any).response;
  for (const [name, more] of [
    ['an update', { operation: 'UPDATE' }],
    ['another kind', { kind: { group: 'apps', version: 'v1', kind: 'Deployment' } }],
    ['no namespace', { namespace: '' }],
    ['a node’s pod', { object: { ...pod({}), spec: { hostNetwork: true, containers: [] } } }],
    ['an injected one', { object: inject([annotated({})], options)[0]?.value }],
    ['nothing', { object: null }],
  ] as const)
    t.strictSame(answer(reviewOf(annotated({}), more)), { uid: reviewOf(0).request.uid, allowed: true }, name);
});

t.test('what only says that it has a sidecar is refused, and the request says where a pod is', async (t) => {
  const { namespace: _, ...all } = options;
  const answer = (object: unknown): Any => (answerReview(reviewOf(object), all, 'Fail').body as Any).response;
  for (const text of ['x', '{}', '{"version":1}'])
    t.match(answer(annotated({ 'sallyport.dev/status': text })), {
      allowed: false,
      status: { message: /annotation sallyport\.dev\/status, and no sidecar/ },
    });
  for (const namespace of ['kube-system', 'bank']) {
    const object: Any = structuredClone(annotated({}));
    object.metadata.namespace = namespace;
    const { allowed, patch = '' } = answer(object);
    t.equal(allowed, true);
    const text = Buffer.from(patch, 'base64').toString('utf8');
    t.match(text, '\\"namespace\\":\\"shop\\"', `not ${namespace}`);
    t.notMatch(text, namespace);
  }
});

t.test('garbage, strangers and floods', { timeout: 120_000 }, async (t) => {
  const { webhook, ca } = await start(t);
  const { port } = webhook.address;
  const deep = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","kind":{"kind":"Pod"},"operation":"CREATE","namespace":"a","object":{"kind":"Pod","apiVersion":"v1","spec":{"containers":[],"x":${'['.repeat(50_000)}${']'.repeat(50_000)}}}}}`;
  for (const [name, question, status] of [
    ['nothing', { body: '' }, 400],
    ['no JSON', { body: '{' }, 400],
    ['a list', { body: '[]' }, 400],
    ['null', { body: 'null' }, 400],
    ['v1beta1', { body: JSON.stringify({ ...reviewOf({}), apiVersion: 'admission.k8s.io/v1beta1' }) }, 400],
    ['no request', { body: '{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}' }, 400],
    ['no uid', { body: JSON.stringify(reviewOf({}, { uid: 7 })) }, 400],
    ['a form', { body: 'a=b', type: 'application/x-www-form-urlencoded' }, 415],
    ['GET', { method: 'GET' }, 405],
    ['another path', { path: '/' }, 404],
    ['another path below', { path: '/inject/x' }, 404],
    ['a pod as deep as an ocean', { body: deep }, 200],
    ['ready', { method: 'GET', path: '/healthz/ready' }, 200],
  ] as const) {
    const answer = await call(port, { ca, ...question });
    t.equal(answer.status, status, name);
    t.notMatch(answer.text, /at .*\.ts:\d+/, 'without a stack');
  }
  const huge = call(port, { ca, body: Buffer.alloc(5_000_000, 0x20) }).then(
    ({ status }) => status,
    () => 413,
  );
  t.equal(await huge, 413);
  await t.rejects(
    call(port, { ca: (await createAuthority('demo.test')).bundlePem, body: '{}' }),
    'with another CA the client refuses us',
  );
  const strangers = Array.from({ length: 200 }, () => {
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false });
    socket.on('error', () => {});
    socket.once('secureConnect', () => socket.write('POST /inject HTTP/1.1\r\ncontent-length: 100000\r\n'));
    return socket;
  });
  const good = await call(port, { ca, body: JSON.stringify(reviewOf(annotated({}))) });
  t.equal(good.json.response.allowed, true, 'beside 200 that never finish');
  for (const socket of strangers) socket.destroy();
});

t.test('strangers who hold all connections, or all bytes, do not keep the API server out', async (t) => {
  const limits = { connections: 20, bytes: 200_000 };
  const { webhook, ca } = await start(t, { limits });
  const { port } = webhook.address;
  const body = JSON.stringify(reviewOf(annotated({})));
  const hold = (text: string): Promise<TLSSocket> =>
    new Promise((resolve) => {
      const from = { host: '127.0.0.1', port, localAddress: '127.0.0.2', rejectUnauthorized: false };
      const socket = connect(from);
      t.teardown(() => socket.destroy());
      socket.on('error', () => {});
      socket.once('secureConnect', () => socket.write(text, () => resolve(socket)));
    });
  const idle = await Promise.all(
    Array.from({ length: limits.connections }, () => hold('GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\n')),
  );
  await Promise.all(idle.map((socket) => new Promise((resolve) => socket.once('data', resolve))));
  const agent = new Agent({ keepAlive: false });
  for (let i = 0; i < 3; i++)
    t.equal((await call(port, { ca, body, agent })).status, 200, 'with all connections taken');
  await until(() => idle.some(({ destroyed }) => destroyed), 'one that was silent was closed');
  const head = 'POST /inject HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n';
  const holders = await Promise.all([1, 2].map(() => hold(`${head}${' '.repeat(99_999)}`)));
  for (let i = 0; i < 3; i++) t.equal((await call(port, { ca, body, agent })).status, 200, 'with all bytes taken');
  await until(() => holders.some(({ destroyed }) => destroyed), 'one of those that hold them was cut');
});

t.test('a pod that takes long to read is refused at once, and shortly', async (t) => {
  const { namespace: _, ...all } = options;
  const huge = 'x'.repeat(1_000_000);
  const keys = Array.from({ length: 20_000 }, (_, i) => `k${i}: 1`).join('\n');
  const volumes = Array.from({ length: 60_000 }, (_, i) => ({ name: `v${i}` }));
  const containers = Array.from({ length: 20_000 }, (_, i) => ({ name: `c${i}` }));
  const ports = Array.from({ length: 50_000 }, () => ({ containerPort: 8080, name: 'http' }));
  const withSpec = (spec: object): Any => ({ ...pod({}), spec: { ...(pod({}) as Any).spec, ...spec } });
  for (const [name, object, expected] of [
    ['brackets', annotated({ 'sallyport.dev/settings': '{'.repeat(1_500_000) }), /YAML of at most 16384 characters/],
    ['keys', annotated({ 'proxy.istio.io/config': keys }), /YAML of at most 16384 characters/],
    ['volumes', withSpec({ volumes }), /60000 volumes: at most 1000/],
    ['containers', withSpec({ containers }), /20000 containers: at most 1000/],
    ['ports', withSpec({ containers: [{ name: 'a', ports }] }), /50000 ports: at most 1000/],
    ['a long name', withSpec({ volumes: [{ name: huge }, { name: huge }] }), /a volume is called x+\.\.\.$/],
  ] as const) {
    const began = performance.now();
    const { outcome, reason = '' } = answerReview(reviewOf(object), all, 'Fail');
    t.equal(outcome, 'refused', name);
    t.match(reason, expected, name);
    t.ok(reason.length <= 1000, `${name}: ${reason.length} characters`);
    t.ok(performance.now() - began < 2000, `${name}: in ${performance.now() - began} ms`);
  }
});

t.test('without an SVID it is not ready, and its certificate rotates without a failed request', async (t) => {
  const { webhook, ca, identity, authority } = await start(t);
  const { port } = webhook.address;
  const body = JSON.stringify(reviewOf(annotated({})));
  const serials = new Set<string>();
  const agent = new Agent({ keepAlive: false });
  for (let i = 0; i < 5; i++) {
    const [answer] = await Promise.all([
      call(port, { ca, body, agent }),
      identityOf(authority).then((one) => identity.set(one)),
    ]);
    t.equal(answer.status, 200);
    serials.add(identity.current()!.svid.serial);
  }
  t.equal(serials.size, 5);
  identity.set(undefined);
  await t.rejects(
    call(port, { ca, body, agent: new Agent({ keepAlive: false }) }),
    'nothing is served without a certificate',
  );
  identity.set(await identityOf(authority));
  t.equal((await call(port, { ca, body, agent: new Agent({ keepAlive: false }) })).status, 200, 'and it comes back');
});

t.test('caBundle follows the bundle, and is mended', async (t) => {
  const cluster = await startCluster(t);
  const { url, caFile, tokenFile, webhooks, calls, pages } = cluster;
  const name = 'sallyport-injector';
  const path = `/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/${name}`;
  const entry = (one: string): object => ({
    name: one,
    clientConfig: { service: { name: 'sallyport-webhook', namespace: 'sallyport-system' } },
    sideEffects: 'None',
    admissionReviewVersions: ['v1'],
  });
  const foreign = {
    ...entry('c.test'),
    clientConfig: { service: { name: 'w', namespace: 'n' }, caBundle: 'dGhlaXJz' },
  };
  const elsewhere = { ...entry('d.test'), clientConfig: { url: 'https://d.test/', caBundle: 'dGhlaXJz' } };
  const put = (): unknown =>
    webhooks.set(name, {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'MutatingWebhookConfiguration',
      metadata: { name },
      webhooks: [entry('a.sallyport.dev'), foreign, elsewhere, entry('b.sallyport.dev')],
    });
  let bundle: string | undefined;
  const log = createLog({ component: 'webhook', level: 'silent' });
  pages.set(path, '<html>starting</html>');
  const keeper = keepCaBundle({
    ...{ server: { url, caFile, tokenFile }, configuration: name, service, log },
    bundle: () => bundle,
  });
  t.teardown(() => keeper.close());
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(keeper.isSet(), false, 'not without a bundle');
  const set = (): string[] =>
    ((webhooks.get(name) as Any)?.webhooks ?? []).map((one: Any) =>
      Buffer.from(one.clientConfig.caBundle ?? '', 'base64').toString(),
    );
  bundle = 'one';
  keeper.check();
  await until(() => calls.length > 0, 'a question');
  t.equal(keeper.isSet(), false, 'nor from HTML');
  pages.clear();
  put();
  await until(() => keeper.isSet(), 'the first patch');
  t.strictSame(set(), ['one', 'theirs', 'theirs', 'one'], 'webhooks of others in it stay as they are');
  bundle = 'one and two';
  keeper.check();
  await until(() => set()[0] === 'one and two', 'the second');
  put();
  keeper.check();
  await until(() => set()[0] === 'one and two', 'applied anew');
  const patches = calls.filter(({ method }) => method === 'PATCH');
  t.equal(patches.length, 3);
  t.match(patches[0]?.headers, {
    authorization: 'Bearer token-of-the-ca',
    'content-type': 'application/json-patch+json',
  });
  keeper.check();
  const before = calls.length;
  await until(() => calls.length > before, 'another look');
  t.equal(calls.filter(({ method }) => method === 'PATCH').length, 3, 'what is right is not written');
});

t.test('the command: joins as a pod, patches, serves, stops', { timeout: 120_000 }, async (t) => {
  const cluster = await startCluster(t);
  const { url, caFile, tokenFile, issuer, webhooks } = cluster;
  webhooks.set('sallyport-injector', {
    ...{ apiVersion: 'admissionregistration.k8s.io/v1', kind: 'MutatingWebhookConfiguration' },
    webhooks: [
      {
        name: 'inject.sallyport.dev',
        clientConfig: { service: { name: 'sallyport-webhook', namespace: 'sallyport-system' } },
      },
    ],
  });
  const ca = await startTestCa(t, { cluster: { url, issuer, caFile, audience, names: { 'shop/web': [service] } } });
  await ca.operator.dns.allow(service);
  const dir = tempDir(t);
  const podToken = join(dir, 'pod-token');
  (await import('node:fs')).writeFileSync(podToken, await cluster.token());
  const bundle = caFilesOf(ca.dir).bundlePem;
  const port = await freePort();
  const child = startSallyport(t, [
    ...[
      'webhook',
      '--listen',
      `127.0.0.1:${port}`,
      '--ca',
      `https://127.0.0.1:${ca.address.port}`,
      '--ca-bundle',
      bundle,
    ],
    ...['--out-dir', join(dir, 'svid'), '--kubernetes-token-file', podToken, '--configuration', 'sallyport-injector'],
    ...['--api-server', url, '--api-server-ca', caFile, '--api-server-token-file', tokenFile],
  ]);
  const root = readFileSync(bundle, 'utf8');
  await until(
    async () => (await call(port, { ca: root, method: 'GET', path: '/healthz/ready' })).status === 200,
    'ready',
  );
  const [one] = (webhooks.get('sallyport-injector') as Any).webhooks;
  // The API server verifies us by exactly what was patched.
  const answer = await call(port, {
    ca: Buffer.from(one.clientConfig.caBundle, 'base64').toString(),
    body: JSON.stringify(reviewOf(annotated({}))),
  });
  t.match(answer.json.response, { allowed: true, patchType: 'JSONPatch' });
  t.equal(await child.stop(), 0);
});

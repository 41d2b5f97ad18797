// A field that is accepted without effect is a broken promise: `tls.options` that require client certificates, and a
// --check that reports no error. Every schema is walked, and each of its fields is used, refused or reported.

import { connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { z } from 'zod';
import { formatProblem, type Problem } from '../../cert-agent/base/errors.ts';
import { parseYaml, type YamlDocument } from '../../cert-agent/base/yaml.ts';
import { planGateway, statusOf } from '../../sidecar/compile/gateway-plan.ts';
import { compileGatewayPorts } from '../../sidecar/compile/gateway-ports.ts';
import { readPlaced } from '../../sidecar/config/gateway-config.ts';
import { gatewayYaml, parseGatewaySettings } from '../../sidecar/config/gateway-settings.ts';
import { parseSettings, sidecarYaml } from '../../sidecar/config/sidecar-settings.ts';
import {
  backendTrafficPolicy,
  readBackendTrafficPolicy,
} from '../../sidecar/documents/envoy-gateway/backend-traffic-policy.ts';
import {
  clientTrafficPolicy,
  readClientTrafficPolicy,
} from '../../sidecar/documents/envoy-gateway/client-traffic-policy.ts';
import { readSecurityPolicy, securityPolicy } from '../../sidecar/documents/envoy-gateway/security-policy.ts';
import { checkGatewayApi, gatewayKinds } from '../../sidecar/documents/gateway-api/gateway.ts';
import { authorizationPolicy, readAuthorizationPolicy } from '../../sidecar/documents/istio/authorization-policy.ts';
import { destinationRule, readDestinationRule } from '../../sidecar/documents/istio/destination-rule.ts';
import { peerAuthentication, readPeerAuthentication } from '../../sidecar/documents/istio/peer-authentication.ts';
import {
  readRequestAuthentication,
  requestAuthentication,
} from '../../sidecar/documents/istio/request-authentication.ts';
import { readOwnPolicy } from '../../sidecar/documents/sallyport.ts';
import { compileCors } from '../../sidecar/edge/cors/cors.ts';
import { schemasOf } from '../../sidecar/edge/schemas.ts';
import { startEcho } from '../fixtures/echo.ts';
import { gatewayWorld, settings, specs } from '../fixtures/every-field.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { hookTools } from '../fixtures/hooks.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';
import { type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf, planOf, serviceOf, webRoute } from '../fixtures/plan.ts';
import { holds, isRefused, leavesOf, placesIn, watched, without } from '../fixtures/schema.ts';

/** Fields about the object and not about traffic; other tests check them. */
const ofObject = /^(?:apiVersion|kind|metadata(?:\..*)?|status)$/;

/** Fields with an effect elsewhere than where they are read, or with none by nature; each with where, or why. */
const elsewhere: Readonly<Record<string, string>> = {
  'spec.rateLimit.local.rules[].name': 'it identifies rules when policies are merged: policy-merge.ts',
  'spec.rateLimit.global.rules[].name': 'it identifies rules when policies are merged: policy-merge.ts',
  'spec.rateLimit.type': 'it names the part that is present; it is checked against it',
  'spec.rateLimit.local.rules[].cost.request.from': 'Number is its only value',
  'spec.rateLimit.global.rules[].cost.request.from': 'Number is its only value',
  'spec.targetRef.namespace': "only '' is accepted: the policy's own",
  'spec.targetRefs[].namespace': "only '' is accepted: the policy's own",
  'spec.subsets[]': 'the list has to be empty',
  'spec.compression[].gzip': '{} is its only value',
  'spec.compression[].brotli': '{} is its only value',
};

type Read = (document: YamlDocument) => { readonly problems: readonly Problem[] } | { readonly value: object };

/** The leaves of a schema that no sample has, or that can be left out of each sample without a difference. */
function unproved(schema: z.ZodType, samples: readonly unknown[], read: Read): string[] {
  const readValue = (value: unknown): string => {
    const said = read({ value, problemAt: (_, message) => ({ file: '', line: 1, column: 1, message }) });
    return 'problems' in said
      ? 'refused'
      : JSON.stringify(said, (_, one: unknown) => (one instanceof Map ? [...one] : one));
  };
  const whole = samples.map(readValue);
  return leavesOf(schema).flatMap(({ path, schema: leaf }) => {
    if (ofObject.test(path) || isRefused(leaf) || Object.hasOwn(elsewhere, path)) return [];
    const places = samples.flatMap((sample, index) => placesIn(sample, path).map((keys) => ({ sample, index, keys })));
    if (places.length === 0) return [`${path}: no sample has it`];
    const matters = places.some(({ sample, index, keys }) => readValue(without(sample, keys)) !== whole[index]);
    return matters ? [] : [`${path}: it makes no difference`];
  });
}

const groups: Readonly<Record<string, string>> = {
  DestinationRule: 'networking.istio.io/v1',
  ClientTrafficPolicy: 'gateway.envoyproxy.io/v1alpha1',
  SecurityPolicy: 'gateway.envoyproxy.io/v1alpha1',
  BackendTrafficPolicy: 'gateway.envoyproxy.io/v1alpha1',
  ...Object.fromEntries([...ownKinds.keys()].map((kind) => [kind, 'sallyport.dev/v1alpha1'])),
};

function documentsOf(kind: string): unknown[] {
  return (specs[kind] ?? []).map((spec) => {
    const text = `apiVersion: ${groups[kind] ?? 'security.istio.io/v1'}\nkind: ${kind}\nmetadata: { name: x, namespace: n }\nspec: ${spec}\n`;
    const { documents, problems } = parseYaml(text, 'x.yaml');
    t.strictSame(problems, [], text);
    return documents[0]!.value;
  });
}

const kinds: Readonly<Record<string, readonly [z.ZodType, Read]>> = {
  AuthorizationPolicy: [authorizationPolicy, (document) => readAuthorizationPolicy(document, '', 'eval')],
  PeerAuthentication: [peerAuthentication, (document) => readPeerAuthentication(document, '')],
  RequestAuthentication: [requestAuthentication, (document) => readRequestAuthentication(document, '', 'eval')],
  DestinationRule: [destinationRule, (document) => readDestinationRule(document, '')],
  ClientTrafficPolicy: [clientTrafficPolicy, (document) => readClientTrafficPolicy(document, '')],
  SecurityPolicy: [securityPolicy, (document) => readSecurityPolicy(document, '')],
  BackendTrafficPolicy: [backendTrafficPolicy, (document) => readBackendTrafficPolicy(document, '')],
  ...Object.fromEntries(
    [...ownKinds].map(([kind, { plan }]): [string, [z.ZodType, Read]] => [
      kind,
      [z.strictObject({ spec: plan! }), (document) => readOwnPolicy(document, '', ownKinds)],
    ]),
  ),
};

for (const [kind, [schema, read]] of Object.entries(kinds))
  t.test(`${kind}: each field is refused or has an effect`, async (t) => {
    const samples = documentsOf(kind);
    for (const value of samples) {
      const said = read({
        value,
        problemAt: (path, message) => ({ file: path.join('.'), line: 1, column: 1, message }),
      });
      t.strictSame('problems' in said ? said.problems.map(formatProblem) : [], [], 'the sample is valid');
    }
    t.strictSame(unproved(schema, samples, read), []);
  });

/** Fields of which only one value is accepted. */
const inSettings: Readonly<Record<string, string>> = {
  'identity.agent': 'it is refused: there is no Workload API yet',
  'extensionProviders[].envoyExtAuthzHttp.failOpen': 'true is refused',
  'extensionProviders[].envoyExtAuthzGrpc.failOpen': 'true is refused',
};

const ofCapabilities = await schemasOf('sidecar.yaml');

for (const [kind, schema, parse] of [
  [
    'sidecar',
    sidecarYaml.safeExtend(ofCapabilities as Record<never, never>),
    (text: string, file: string) => parseSettings(text, file, ofCapabilities),
  ],
  ['gateway', gatewayYaml, parseGatewaySettings],
] as const)
  t.test(`${kind}.yaml: each field is refused or has an effect`, async (t) => {
    const samples = settings[kind].map((text) => parseYaml(text, 'x.yaml').documents[0]!.value);
    for (const value of samples) t.doesNotThrow(() => parse(JSON.stringify(value), 'x.yaml'));
    const read: Read = ({ value }) => {
      try {
        return { value: parse(JSON.stringify(value), 'x.yaml') };
      } catch {
        return { problems: [] };
      }
    };
    const missing = unproved(schema, samples, read).filter((one) => !Object.hasOwn(inSettings, one.split(': ')[0]!));
    t.strictSame(missing, []);
  });

t.test('a new field in a schema needs a proof', async (t) => {
  const schema = z.strictObject({ spec: z.strictObject({ a: z.string(), madeUp: z.boolean().default(false) }) });
  const read: Read = ({ value }) => ({ value: { a: (value as { spec: { a: string } }).spec.a } });
  t.strictSame(unproved(schema, [{ spec: { a: 'x' } }], read), ['spec.madeUp: no sample has it']);
  t.strictSame(unproved(schema, [{ spec: { a: 'x', madeUp: true } }], read), ['spec.madeUp: it makes no difference']);
});

/** Fields of Gateway API that are reported, and by what; each is looked for in the warnings of the world below. */
const reported: Readonly<Record<string, RegExp>> = {
  'Gateway.infrastructure.labels{}': /spec\.infrastructure\.labels: has no effect here/,
  'Gateway.infrastructure.annotations{}': /spec\.infrastructure\.annotations: has no effect here/,
  'Gateway.allowedListeners': /spec\.allowedListeners: listeners belong in their Gateway/,
  'Gateway.defaultScope': /spec\.defaultScope: a route is attached by its 'parentRefs' alone/,
};

/** Fields that are no promise. */
const harmless: Readonly<Record<string, string>> = {
  'Gateway.gatewayClassName': 'every class is ours: see the decisions of ARCHITECTURE.md',
  'Gateway.infrastructure.parametersRef.group': 'the Gateway is refused by its kind and name',
  'GatewayClass.controllerName': 'every class is ours: see the decisions of ARCHITECTURE.md',
  'GatewayClass.description': 'a text for people',
  'GatewayClass.parametersRef.group': 'the class is refused by its kind and name',
  'GatewayClass.parametersRef.namespace': 'the class is refused by its kind and name',
};

/** Values that break their rule when read: nothing of it is left to serve. */
const refusedWithRule = /Route\.rules\[\]\.sessionPersistence\.idleTimeout$/;

/** Filters that a backend cannot have: their route is refused by their type. */
const atBackends =
  /Route\.rules\[\]\.backendRefs\[\]\.filters\[\]\.(?:requestMirror|requestRedirect|cors|requestRateLimit|extensionRef)\./;

t.test('Gateway API: each field of each kind is read where it is served, refused, or reported', async (t) => {
  const authority = await createAuthority('outside.test');
  const cert = await createCredential(authority, 'spiffe://outside.test/x', { dns: ['a.test'] });
  const core =
    `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cert', namespace: 'shop' }, stringData: { 'tls.crt': cert.chainPem, 'tls.key': cert.keyPem } })}\n` +
    `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca', namespace: 'shop' }, data: { 'ca.crt': authority.bundlePem } })}\n` +
    '---\napiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n' +
    ['shop', 'other']
      .map(
        (one) =>
          `---\napiVersion: v1\nkind: Service\nmetadata: { name: a, namespace: ${one} }\nspec: { ports: [{ name: http, port: 80 }] }\n`,
      )
      .join('');
  const text = gatewayWorld.map(([kind, name, spec]) => documentOf(kind, name, spec)).join('') + core;
  const parsed = parseYaml(text, 'all.yaml');
  const read = readPlaced(
    parsed.documents.map((document) => ({ file: 'all.yaml', document })),
    ownKinds,
  );
  t.strictSame([...parsed.problems, ...read.problems].map(formatProblem), []);
  t.strictSame(
    read.gateway.documents.refused.flatMap((one) => one.problems.map(formatProblem)),
    [],
    'the whole document is valid',
  );

  const { gateways, classes, routes, grants, backendTls } = read.gateway.documents;
  const seen = new Map<string, Set<string>>();
  const watch = <D extends { readonly kind: string; readonly spec: object }>(documents: readonly D[]): D[] =>
    documents.map((one) => {
      const { value, read: paths } = watched(one.spec);
      const all = seen.get(one.kind) ?? new Set<string>();
      seen.set(one.kind, all);
      ofKind.push(() => {
        for (const path of paths) all.add(path.slice(1));
      });
      return { ...one, spec: value };
    });
  const ofKind: (() => void)[] = [];
  const documents = {
    ...read.gateway.documents,
    gateways: watch(gateways),
    classes: watch(classes),
    routes: watch(routes),
    grants: watch(grants),
    backendTls: watch(backendTls),
  };
  const ofGateway = parseGatewaySettings(
    'trustDomain: demo.test\nworkload: { serviceAccount: g }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: .\nupstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a, other/a:80: a }\n',
    'gateway.yaml',
  );
  const gateway = { ...read.gateway, documents, certificates: {}, sessionKeys: undefined, errorPages: {} };
  const configuration = { generation: 1, settings: ofGateway, documents: read.istio, gateway };
  const now = Date.now();
  const plan = planGateway(configuration, now);
  const limited: unknown[] = [];
  const tools = {
    limitsOf: (by: object) => void limited.push(JSON.stringify(by)),
    ...hookTools,
  };
  const pools = new Map(
    plan.pools.map(({ name }) => [name, { acquire: () => undefined as never, dialSocket: () => undefined as never }]),
  );
  compileGatewayPorts(configuration, plan, pools, tools);
  JSON.stringify(statusOf(plan, gateway, now).items.map(({ kind }) => kind));
  for (const note of ofKind) note();

  const warnings = read.gateway.documents.warnings.map(formatProblem);
  for (const { kind, metadata, status } of statusOf(plan, gateway, now).items)
    if (metadata.name.startsWith('at-backend-'))
      t.match(
        JSON.stringify(status),
        /UnsupportedValue.*belongs to a rule, not to one of its backends/,
        `${kind} ${metadata.name}`,
      );
  for (const [field, warning] of Object.entries(reported))
    t.ok(
      warnings.some((one) => warning.test(one)),
      `${field} is reported`,
    );
  t.equal(
    JSON.stringify(statusOf(plan, gateway, now)).match(/'idleTimeout' is not supported/g)?.length,
    2,
    'each route that has it reports it',
  );
  const missing = Object.entries(gatewayKinds).flatMap(([kind, schema]) => {
    const samples = gatewayWorld
      .filter(([of]) => of === kind)
      .map(([, , spec]) => parseYaml(spec, 'x.yaml').documents[0]!.value);
    return leavesOf(schema as z.ZodType).flatMap(({ path, schema: leaf }) => {
      const field = `${kind}.${path}`;
      if (
        isRefused(leaf) ||
        atBackends.test(field) ||
        refusedWithRule.test(field) ||
        Object.hasOwn(reported, field) ||
        Object.hasOwn(harmless, field)
      )
        return [];
      if (!samples.some((one) => holds(one, path))) return [`${field}: no sample has it`];
      const paths = seen.get(kind) ?? new Set<string>();
      // Keys of a record are listed, and looked up.
      const isRead =
        paths.has(path) ||
        // A list of strings is passed on whole.
        (path.endsWith('[]') && paths.has(path.slice(0, -2))) ||
        (path.endsWith('{}') && [...paths].some((one) => one.startsWith(path.slice(0, -2))));
      return isRead ? [] : [`${field}: nothing reads it`];
    });
  });
  t.strictSame(missing, []);
});

const tls = (options: string, more = ''): string =>
  documentOf(
    'Gateway',
    'g',
    `{ gatewayClassName: x, listeners: [{ name: web, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: cert }], options: { ${options} }${more} } }] }`,
  );
const authority = await createAuthority('outside.test');
const stranger = await createAuthority('stranger.test');
const front = await createCredential(authority, 'spiffe://outside.test/x', { dns: ['a.test'] });
const secret = ({ chainPem, keyPem }: Credential, ca?: string): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cert', namespace: 'shop' }, stringData: { 'tls.crt': chainPem, 'tls.key': keyPem, ...(ca === undefined ? {} : { 'ca.crt': ca }) } })}\n`;

t.test('tls.options: known keys have an effect, others close the listener', async (t) => {
  const said = (documents: string) => planOf(documents + secret(front, authority.bundlePem));
  const accepted = (options: string, more = ''): string => {
    const { said: conditions, message } = said(tls(options, more));
    return `${conditions['Gateway shop/g web']![0]} ${message('Gateway shop/g web', 'Accepted')}`.trim();
  };
  for (const good of [
    'gateway.istio.io/tls-terminate-mode: SIMPLE',
    'gateway.istio.io/tls-terminate-mode: MUTUAL',
    'gateway.higress.io/tls-terminate-mode: MUTUAL',
    'nginx.org/ssl-protocols: "TLSv1.2 TLSv1.3"',
    'nginx.org/ssl-protocols: TLSv1.3',
    'sallyport.dev/tls-min-version: "1.3"',
  ])
    t.equal(accepted(good), 'Accepted=True Accepted', good);
  const cases: [string, RegExp][] = [
    ['gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL', /accepts no SVIDs there: use a sidecar$/],
    [
      'gateway.istio.io/tls-terminate-mode: OPTIONAL_MUTUAL',
      /write it as the Gateway's 'tls\.frontend' with mode AllowInsecureFallback/,
    ],
    ['gateway.istio.io/tls-terminate-mode: mutual', /'mutual' is neither SIMPLE nor MUTUAL$/],
    ['gateway.istio.io/tls-cipher-suites: ECDHE-RSA-AES128-GCM-SHA256', /ciphers cannot be configured/],
    ['nginx.org/ssl-ciphers: HIGH', /ciphers cannot be configured/],
    ['nginx.org/ssl-protocols: "TLSv1 TLSv1.3"', /TLSv1 is not supported$/],
    ['nginx.org/ssl-protocols: TLSv1.2', /TLS 1\.3 cannot be disabled$/],
    ['sallyport.dev/tls-min-version: "1.1"', /'1\.1' is neither 1\.2 nor 1\.3$/],
    [
      'networking.gke.io/pre-shared-certs: x',
      /networking\.gke\.io\/pre-shared-certs: it is unknown; known are gateway\.istio\.io\/tls-terminate-mode/,
    ],
    ['example.test/client-auth: required', /example\.test\/client-auth: it is unknown; known are/],
  ];
  for (const [options, message] of cases) {
    t.match(accepted(options), /^Accepted=False UnsupportedValue tls\.options: /, options);
    t.match(accepted(options), message, options);
  }
  const validation = ', frontendValidation: { caCertificateRefs: [{ group: "", kind: Secret, name: cert }] }';
  t.match(
    accepted('gateway.istio.io/tls-terminate-mode: SIMPLE', validation),
    /ask for no client certificates, and .* does$/,
  );
  const clients = (documents: string) => said(documents).plan.attachments.gateways[0]!.listeners[0]!.clients?.mode;
  t.equal(clients(tls('gateway.istio.io/tls-terminate-mode: MUTUAL')), 'AllowValidOnly');
  t.equal(
    clients(
      tls(
        'gateway.istio.io/tls-terminate-mode: MUTUAL',
        validation.replace('[{', '[{').replace('] }', '], mode: AllowInsecureFallback }'),
      ),
    ),
    'AllowValidOnly',
    'the stricter of two',
  );
  t.match(
    planOf(tls('gateway.istio.io/tls-terminate-mode: MUTUAL') + secret(front)).said['Gateway shop/g web'],
    ['Accepted=False NoValidCACertificate'],
    'an authority is required',
  );
  const passing = (more: string): string =>
    planOf(
      documentOf(
        'Gateway',
        'g',
        `{ gatewayClassName: x, listeners: [{ name: web, port: 443, protocol: TLS, tls: { mode: Passthrough, ${more} } }] }`,
      ),
    ).message('Gateway shop/g web', 'Accepted');
  t.equal(
    passing('options: { gateway.istio.io/tls-terminate-mode: MUTUAL }'),
    "'tls.options' has no effect where TLS is not terminated",
  );
  t.equal(
    passing('frontendValidation: { caCertificateRefs: [{ group: "", kind: Secret, name: cert }] }'),
    "'tls.frontendValidation' has no effect where TLS is not terminated",
  );
});

t.test('on the wire: MUTUAL requires a certificate, and the configured version is the minimum', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: {
      'gateway.yaml': tls('nginx.org/ssl-protocols: "TLSv1.2 TLSv1.3"'),
      'rest.yaml': secret(front, authority.bundlePem) + serviceOf('a') + webRoute,
    },
  });
  const [buyer, foreign] = await Promise.all(
    [authority, stranger].map((one) => createCredential(one, 'spiffe://outside.test/buyer', { dns: ['buyer.test'] })),
  );
  const sockets: TLSSocket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  /** The first bytes of a response, and the version; or that there was none. */
  const get = (who?: Credential, maxVersion: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3'): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({
        host: '127.0.0.1',
        port: gateway.port('shop/g:443'),
        servername: 'a.test',
        ca: authority.bundlePem,
        maxVersion,
        ...(who === undefined ? {} : { cert: who.chainPem, key: who.keyPem }),
      });
      sockets.push(socket);
      let version = '';
      socket.on('error', () => {}).on('close', () => resolve('refused'));
      socket.on('secureConnect', () => {
        version = socket.getProtocol() ?? '';
        socket.write('GET / HTTP/1.1\r\nhost: a.test\r\n\r\n');
      });
      socket.once('data', (chunk: Buffer) => resolve(`${version} ${chunk.toString('latin1').slice(9, 12)}`));
    });
  t.equal(await get(), 'TLSv1.3 200');
  t.equal(await get(undefined, 'TLSv1.2'), 'TLSv1.2 200');
  const older = sockets.at(-1)!;
  const isCut = new Promise<void>((resolve) => older.once('close', () => resolve()));
  await gateway.write('gateway.yaml', tls('nginx.org/ssl-protocols: TLSv1.3'));
  await isCut;
  t.equal(await get(undefined, 'TLSv1.2'), 'refused');
  t.equal(await get(), 'TLSv1.3 200');
  await gateway.write('gateway.yaml', tls('gateway.istio.io/tls-terminate-mode: MUTUAL'));
  t.equal(await get(), 'refused');
  t.equal(await get(foreign), 'refused');
  t.equal(await get(buyer), 'TLSv1.3 200');
  await gateway.write('gateway.yaml', tls('example.test/client-auth: required'));
  t.equal(await get(buyer), 'refused', 'an unknown key closes it');
});

t.test('TLS and protocol settings for backends', async (t) => {
  for (const [field, spec] of [
    ['backendTLS', 'backendTLS: { clientCertificateRef: { name: c } }'],
    ['tls.backend', 'tls: { backend: { clientCertificateRef: { name: c } } }'],
  ] as const)
    t.equal(
      planOf(
        documentOf(
          'Gateway',
          'g',
          `{ gatewayClassName: x, ${spec}, listeners: [{ name: web, port: 80, protocol: HTTP }] }`,
        ),
      ).message('Gateway shop/g', 'Accepted'),
      `'${field}' is not served: a gateway shows backends its own SVID`,
    );
  const policy = (options: string): string =>
    documentOf(
      'BackendTLSPolicy',
      'b',
      `{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { wellKnownCACertificates: System, hostname: a.test }, options: { ${options} } }`,
    );
  const problemsOf = (options: string): string[] =>
    checkGatewayApi(parseYaml(policy(options), 'x.yaml').documents[0]!).map(formatProblem);
  t.strictSame(problemsOf('sallyport.dev/tls-min-version: "1.3"'), []);
  t.match(problemsOf('sallyport.dev/tls-min-version: "1"'), [
    /spec\.options\.sallyport\.dev\/tls-min-version: '1' is neither 1\.2 nor 1\.3$/,
  ]);
  t.match(problemsOf('a.test/verify: full'), [
    /spec\.options\.a\.test\/verify: it is not known here: sallyport\.dev\/tls-min-version is$/,
  ]);
  const yaml = 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n';
  const world =
    documentOf('Gateway', 'g', '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP }] }') +
    webRoute +
    serviceOf('a');
  const versions = (options: string) =>
    planOf(world + policy(options), { yaml }).plan.pools.map(({ serverTls }) => serverTls?.tls.minVersion);
  t.strictSame(versions(''), ['TLSv1.2']);
  t.strictSame(versions('sallyport.dev/tls-min-version: "1.3"'), ['TLSv1.3']);
  t.strictSame(
    versions('a.test/verify: full'),
    [],
    'a refused policy closes its Service: no connection is made in plaintext',
  );
});

t.test('the fields of a policy for streams', async (t) => {
  const yaml = 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n';
  const world =
    documentOf('Gateway', 'g', '{ gatewayClassName: x, listeners: [{ name: raw, port: 81, protocol: TCP }] }') +
    documentOf('TCPRoute', 's', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }') +
    serviceOf('a');
  const policy = (kind: string, name: string, spec: string): string =>
    `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { name: b, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: ${kind}, name: ${name} }], ${spec} }\n`;
  t.match(
    planOf(world + policy('TCPRoute', 's', 'circuitBreaker: { maxConnections: 7 }'), { yaml }).plan.pools,
    [{ traffic: { connections: { maxConnections: 7 } } }],
    'its settings for connections apply',
  );
  for (const [spec, message] of [
    ['timeout: { http: { requestTimeout: 1s } }', /'timeout\.http' is about requests, and a TCPRoute has none/],
    [
      'loadBalancer: { type: ConsistentHash, consistentHash: { type: Header, header: { name: h } } }',
      /a TCPRoute has no Header: its streams can be hashed by SourceIP only/,
    ],
  ] as const)
    t.match(
      planOf(world + policy('TCPRoute', 's', spec), { yaml }).message('BackendTrafficPolicy shop/b', 'Accepted') ||
        planOf(world + policy('TCPRoute', 's', spec), { yaml })
          .list.items.map(({ status }) => JSON.stringify(status))
          .join(),
      message,
    );
  t.strictSame(
    planOf(
      world +
        policy(
          'Gateway',
          'g',
          'rateLimit: { local: { rules: [{ limit: { requests: 1, unit: Hour } }] } }, circuitBreaker: {}',
        ),
      { yaml },
    ).plan.losses,
    ["'rateLimit' of BackendTrafficPolicy shop/b has no effect on TCPRoute shop/s: it is about requests"],
  );
});

t.test('CORS: an origin that the standards forbid is refused, and allows no page', async (t) => {
  const filter = (origin: string, more = ''): string =>
    documentOf(
      'HTTPRoute',
      'r',
      `{ rules: [{ filters: [{ type: CORS, cors: { allowOrigins: ["${origin}"]${more} } }] }] }`,
    );
  const policy = (origin: string): string =>
    `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: p }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }], cors: { allowOrigins: ["${origin}"] } }\n`;
  const document = (text: string): YamlDocument => parseYaml(text, 'x.yaml').documents[0]!;
  const cors = (origin: string, asked: string): boolean =>
    compileCors({
      ...{ allowOrigins: [origin], allowCredentials: true, maxAge: 5 },
      ...{ allowMethods: [], allowHeaders: [], exposeHeaders: [] },
    }).allowsOrigin(asked);
  for (const origin of [
    'https://*bar.com',
    'https://bar.*',
    'https://a.*.bar.com',
    'https://*.*.bar.com',
    '*.bar.com',
    'bar.com',
    'ftp://bar.com',
    'https://bar.com/',
    'https://bar.com:x',
    'https://*.bar.com*',
    'null',
    '**',
  ]) {
    t.match(
      checkGatewayApi(document(filter(origin))).map(formatProblem),
      [/is not an origin: write https:\/\/a\.test/],
      origin,
    );
    t.ok('problems' in readSecurityPolicy(document(policy(origin)), 'x.yaml'), origin);
  }
  t.equal(checkGatewayApi(document(filter('https://a.test:*'))).length, 1, 'Gateway API has no wildcard for a port');
  t.ok('value' in readSecurityPolicy(document(policy('https://a.test:*')), 'x.yaml'), 'Envoy Gateway has one');
  for (const [origin, asked, isAllowed] of [
    ['https://*bar.com', 'https://evilbar.com', false],
    ['https://*.bar.com', 'https://a.bar.com', true],
    ['https://*.bar.com', 'https://a.b.bar.com', true],
    ['https://*.bar.com', 'https://bar.com', false],
    ['https://*.bar.com', 'https://evilbar.com', false],
    ['https://*.bar.com', 'http://a.bar.com', false],
    ['https://*.bar.com', 'https://a.bar.com:444', false],
    ['https://*.bar.com', 'https://evil.com/.bar.com', false],
    ['https://*.bar.com:444', 'https://a.bar.com:444', true],
    ['https://*.bar.com:*', 'https://a.bar.com:444', true],
    ['https://bar.com:*', 'https://bar.com:444', true],
    ['https://bar.com:*', 'https://bar.com.evil:444', false],
    ['https://*', 'https://any.test', true],
    ['https://*', 'http://any.test', false],
    ['https://BAR.com', 'https://bar.com', true],
    ['*', 'null', true],
    ['https://*', 'null', false],
  ] as const)
    t.equal(cors(origin, asked), isAllowed, `${asked} by ${origin}`);
  t.match(
    planOf(
      webRoute.replace(
        'rules: [{',
        'rules: [{ filters: [{ type: CORS, cors: { allowOrigins: ["*"], allowCredentials: true } }],',
      ),
    ).warnings,
    [/spec\.rules\.0\.filters\.0\.cors\.allowOrigins: with credentials any website can act as the user/],
  );
});

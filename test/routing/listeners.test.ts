// The status of Gateways and their listeners, with the standard's conditions and reasons: a table of cases, each alone.

import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf, type PlanOptions, planOf } from '../fixtures/plan.ts';

const authority = await createAuthority('shop.test');
const good = await createCredential(authority, 'spiffe://shop.test/web', { dns: ['shop.test'] });
const other = await createCredential(authority, 'spiffe://shop.test/web', { dns: ['shop.test'] });
const expired = await createCredential(authority, 'spiffe://shop.test/web', {
  notBefore: Date.now() - 7_200_000,
  notAfter: Date.now() - 3_600_000,
});

const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');
const data = (entries: Readonly<Record<string, string>>): string =>
  Object.entries(entries)
    .map(([key, value]) => `  ${key}: |\n${indent(value)}`)
    .join('\n');
const secret = (name: string, entries: Readonly<Record<string, string>>, namespace = 'shop'): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: ${namespace} }\nstringData:\n${data(entries)}\n`;
const tlsSecret = (name: string, { chainPem, keyPem }: typeof good, namespace = 'shop'): string =>
  secret(name, { 'tls.crt': chainPem, 'tls.key': keyPem }, namespace);
const configMap = (name: string, entries: Readonly<Record<string, string>>, namespace = 'shop'): string =>
  `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: ${name}, namespace: ${namespace} }\ndata:\n${data(entries)}\n`;
const gateway = (listeners: string, more = '', name = 'g'): string =>
  documentOf('Gateway', name, `{ gatewayClassName: x, listeners: [${listeners}]${more} }`);
const http = '{ name: web, port: 80, protocol: HTTP }';
const https = (ref: string, more = ''): string =>
  `{ name: web, port: 443, protocol: HTTPS, hostname: shop.test, tls: { certificateRefs: [${ref}]${more} } }`;
const clients = (refs: string): string =>
  `, tls: { frontend: { default: { validation: { caCertificateRefs: [${refs}] } } } }`;
const ca = '{ group: "", kind: ConfigMap, name: ca }';

const fine = ['Accepted=True Accepted', 'Programmed=True Programmed'];
const served = [
  'Accepted=True Accepted',
  'Conflicted=False NoConflicts',
  'ResolvedRefs=True ResolvedRefs',
  'Programmed=True Programmed',
  'HTTPRoute,GRPCRoute 0',
];
const overlapping = served.toSpliced(3, 0, 'OverlappingTLSConfig=True OverlappingHostnames');
const unresolved = (reason: string, kinds = 'HTTPRoute,GRPCRoute 0'): string[] => [
  'Accepted=True Accepted',
  'Conflicted=False NoConflicts',
  `ResolvedRefs=False ${reason}`,
  'Programmed=False Invalid',
  kinds,
];
const conflicted = (reason: string, kinds: string): string[] => [
  'Accepted=False Invalid',
  `Conflicted=True ${reason}`,
  'ResolvedRefs=True ResolvedRefs',
  'Programmed=False Invalid',
  kinds,
];
const notValid = ['Accepted=False ListenersNotValid', 'Programmed=False Invalid'];
const partlyValid = ['Accepted=True ListenersNotValid', 'Programmed=True Programmed'];
const invalid = (reason: string): string[] => [`Accepted=False ${reason}`, 'Programmed=False Invalid'];

interface Case {
  readonly documents: string;
  readonly options?: PlanOptions;
  readonly said: Readonly<Record<string, readonly string[]>>;
  /** The sentence of one condition. */
  readonly message?: readonly [key: string, type: string, expected: RegExp];
}

const cases: Readonly<Record<string, Case>> = {
  'an HTTP listener': { documents: gateway(http), said: { 'Gateway shop/g': fine, 'Gateway shop/g web': served } },
  'an HTTPS listener with a Secret': {
    documents: gateway(https('{ name: cert }')) + tlsSecret('cert', good),
    said: { 'Gateway shop/g': fine, 'Gateway shop/g web': served },
  },
  'an HTTPS listener with PEM files': {
    documents: gateway(https('{ name: cert }')),
    options: { certificates: { 'shop/cert': { certificate: good.chainPem, key: good.keyPem } } },
    said: { 'Gateway shop/g web': served },
  },
  'no such Secret': {
    documents: gateway(https('{ name: cert }')),
    said: { 'Gateway shop/g': notValid, 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
    message: [
      'Gateway shop/g web',
      'ResolvedRefs',
      /^there is no Secret shop\/cert, and 'certificates' does not name it$/,
    ],
  },
  'a certificate of another group': {
    documents: gateway(https('{ group: example.test, name: cert }')) + tlsSecret('cert', good),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
  },
  'a certificate of another kind': {
    documents: gateway(https('{ kind: ConfigMap, name: cert }')) + tlsSecret('cert', good),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
    message: ['Gateway shop/g web', 'ResolvedRefs', /ConfigMap shop\/cert is not a Secret/],
  },
  'a Secret without certificate': {
    documents: gateway(https('{ name: cert }')) + secret('cert', { 'tls.crt': 'nothing', 'tls.key': good.keyPem }),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
  },
  "another certificate's key": {
    documents: gateway(https('{ name: cert }')) + secret('cert', { 'tls.crt': good.chainPem, 'tls.key': other.keyPem }),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
    message: ['Gateway shop/g web', 'ResolvedRefs', /^the key of shop\/cert does not belong to its certificate$/],
  },
  'a certificate that has expired': {
    documents: gateway(https('{ name: cert }')) + tlsSecret('cert', expired),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
    message: ['Gateway shop/g web', 'ResolvedRefs', /^the certificate of shop\/cert expired at 20/],
  },
  'one good certificate and one that is not there': {
    documents: gateway(https('{ name: cert }, { name: gone }')) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g': partlyValid,
      'Gateway shop/g web': [
        'Accepted=True Accepted',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False InvalidCertificateRef',
        'Programmed=True Programmed',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
  },
  'TLS options and no certificate': {
    documents: gateway('{ name: web, port: 443, protocol: HTTPS, tls: { options: { a.test/b: c } } }'),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
    message: ['Gateway shop/g web', 'Programmed', /needs 'certificateRefs'/],
  },
  'HTTPS without tls': {
    documents: gateway('{ name: web, port: 443, protocol: HTTPS }'),
    said: { 'Gateway shop/g web': unresolved('InvalidCertificateRef') },
  },
  'a Secret of another namespace, not granted': {
    documents: gateway(https('{ name: cert, namespace: certs }')) + tlsSecret('cert', good, 'certs'),
    said: { 'Gateway shop/g web': unresolved('RefNotPermitted') },
    message: [
      'Gateway shop/g web',
      'ResolvedRefs',
      /^no ReferenceGrant in certs allows Gateways of shop to refer to Secret cert$/,
    ],
  },
  'a Secret of another namespace, granted': {
    documents:
      gateway(https('{ name: cert, namespace: certs }')) +
      tlsSecret('cert', good, 'certs') +
      documentOf(
        'ReferenceGrant',
        'certs/x',
        '{ from: [{ group: gateway.networking.k8s.io, kind: Gateway, namespace: shop }], to: [{ group: "", kind: Secret }] }',
      ),
    said: { 'Gateway shop/g web': served },
  },
  'kinds that the protocol does not allow': {
    documents: gateway('{ name: web, port: 80, protocol: HTTP, allowedRoutes: { kinds: [{ kind: TCPRoute }] } }'),
    said: { 'Gateway shop/g web': unresolved('InvalidRouteKinds', ' 0') },
  },
  'an unknown kind beside a supported one': {
    documents: gateway(
      '{ name: web, port: 80, protocol: HTTP, allowedRoutes: { kinds: [{ kind: NoRoute }, { kind: HTTPRoute }] } }',
    ),
    said: {
      'Gateway shop/g web': [
        'Accepted=True Accepted',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False InvalidRouteKinds',
        'Programmed=True Programmed',
        'HTTPRoute 0',
      ],
    },
  },
  'a kind of another group': {
    documents: gateway(
      '{ name: web, port: 80, protocol: HTTP, allowedRoutes: { kinds: [{ group: example.test, kind: HTTPRoute }] } }',
    ),
    said: { 'Gateway shop/g web': unresolved('InvalidRouteKinds', ' 0') },
  },
  'a protocol that is not served': {
    documents: gateway('{ name: dns, port: 53, protocol: UDP }, { name: web, port: 80, protocol: HTTP }'),
    said: {
      'Gateway shop/g': partlyValid,
      'Gateway shop/g dns': [
        'Accepted=False UnsupportedProtocol',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=True ResolvedRefs',
        'Programmed=False Invalid',
        ' 0',
      ],
      'Gateway shop/g web': served,
    },
    message: ['Gateway shop/g dns', 'Accepted', /^protocol UDP is not served$/],
  },
  'a protocol that is not served takes no port from one that is': {
    documents: gateway(
      '{ name: udp, port: 80, protocol: UDP }, { name: own, port: 80, protocol: example.test/bar }, { name: web, port: 80, protocol: HTTP }',
    ),
    said: { 'Gateway shop/g web': served },
  },
  'HTTP and HTTPS on one port': {
    documents:
      gateway(
        '{ name: a, port: 443, protocol: HTTP }, { name: b, port: 443, protocol: HTTPS, hostname: shop.test, tls: { certificateRefs: [{ name: cert }] } }, { name: c, port: 80, protocol: HTTP }',
      ) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g': partlyValid,
      'Gateway shop/g a': conflicted('ProtocolConflict', 'HTTPRoute,GRPCRoute 0'),
      'Gateway shop/g b': conflicted('ProtocolConflict', 'HTTPRoute,GRPCRoute 0'),
      'Gateway shop/g c': served,
    },
    message: ['Gateway shop/g a', 'Conflicted', /^listener b has port 443 for HTTPS$/],
  },
  'HTTPS and TLS on one port for one host': {
    documents:
      gateway(
        '{ name: a, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: cert }] } }, { name: b, port: 443, protocol: TLS, tls: { mode: Passthrough } }',
      ) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g': notValid,
      'Gateway shop/g a': conflicted('ProtocolConflict', 'HTTPRoute,GRPCRoute 0'),
      'Gateway shop/g b': conflicted('ProtocolConflict', 'TLSRoute 0'),
    },
  },
  'HTTPS and TLS on one port for two hosts': {
    documents:
      gateway(
        '{ name: web, port: 443, protocol: HTTPS, hostname: a.test, tls: { certificateRefs: [{ name: cert }] } }, { name: b, port: 443, protocol: TLS, hostname: b.test, tls: { mode: Passthrough } }',
      ) + tlsSecret('cert', good),
    said: { 'Gateway shop/g': fine, 'Gateway shop/g web': served },
  },
  'two TCP listeners on one port are not a Gateway': {
    documents: gateway('{ name: a, port: 1, protocol: TCP }, { name: b, port: 1, protocol: TCP }'),
    said: { 'Gateway shop/g': invalid('Invalid') },
    message: [
      'Gateway shop/g',
      'Accepted',
      /^all\.yaml:5:.* another listener has the same port, protocol and host name$/,
    ],
  },
  'a TLS listener that terminates': {
    documents:
      gateway('{ name: b, port: 443, protocol: TLS, tls: { certificateRefs: [{ name: cert }] } }') +
      tlsSecret('cert', good),
    said: { 'Gateway shop/g b': [...served.slice(0, 4), 'TLSRoute,TCPRoute 0'] },
  },
  'authorities for client certificates': {
    documents:
      gateway(https('{ name: cert }'), clients(ca)) +
      tlsSecret('cert', good) +
      configMap('ca', { 'ca.crt': authority.bundlePem }),
    said: { 'Gateway shop/g': fine, 'Gateway shop/g web': served },
  },
  'missing authorities': {
    documents: gateway(https('{ name: cert }'), clients(ca)) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g': notValid,
      'Gateway shop/g web': [
        'Accepted=False NoValidCACertificate',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False InvalidCACertificateRef',
        'Programmed=False Invalid',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
    message: ['Gateway shop/g web', 'ResolvedRefs', /^there is no ConfigMap shop\/ca$/],
  },
  'authorities of a kind that holds none': {
    documents:
      gateway(https('{ name: cert }'), clients('{ group: "", kind: Service, name: ca }')) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g web': [
        'Accepted=False NoValidCACertificate',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False InvalidCACertificateKind',
        'Programmed=False Invalid',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
  },
  'certificates that are not required of every client': {
    documents:
      gateway(
        https('{ name: cert }'),
        ', tls: { frontend: { default: { validation: { mode: AllowInsecureFallback, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } } }',
      ) +
      tlsSecret('cert', good) +
      configMap('ca', { 'ca.crt': authority.bundlePem }),
    said: { 'Gateway shop/g': [...fine, 'InsecureFrontendValidationMode=True ConfigurationChanged'] },
  },
  'listeners whose certificates may be good for hosts of another': {
    documents:
      gateway(
        `${https('{ name: cert }')}, { name: all, port: 443, protocol: HTTPS, hostname: "*.test", tls: { certificateRefs: [{ name: cert }] } }, { name: apart, port: 443, protocol: HTTPS, hostname: "a.other", tls: { certificateRefs: [{ name: cert }] } }`,
      ) + tlsSecret('cert', good),
    said: {
      'Gateway shop/g web': overlapping,
      'Gateway shop/g all': overlapping,
      'Gateway shop/g apart': served,
    },
  },
  'authorities of another namespace, not granted': {
    documents:
      gateway(https('{ name: cert }'), clients('{ group: "", kind: ConfigMap, name: ca, namespace: certs }')) +
      tlsSecret('cert', good) +
      configMap('ca', { 'ca.crt': authority.bundlePem }, 'certs'),
    said: {
      'Gateway shop/g web': [
        'Accepted=False NoValidCACertificate',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False RefNotPermitted',
        'Programmed=False Invalid',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
  },
  'some authorities are good': {
    documents:
      gateway(https('{ name: cert }'), clients(`${ca}, { group: "", kind: ConfigMap, name: gone }`)) +
      tlsSecret('cert', good) +
      configMap('ca', { 'ca.crt': formatPem([authority.root]) }),
    said: {
      'Gateway shop/g web': [
        'Accepted=True Accepted',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=False InvalidCACertificateRef',
        'Programmed=True Programmed',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
  },
  'an address of a type that is not served': {
    documents: gateway(http, ', addresses: [{ type: example.test/Pool, value: a }]'),
    said: { 'Gateway shop/g': invalid('UnsupportedAddress') },
    message: ['Gateway shop/g', 'Accepted', /addresses of type example\.test\/Pool are not served/],
  },
  'two addresses': {
    documents: gateway(http, ', addresses: [{ value: 127.0.0.1 }, { value: 127.0.0.2 }]'),
    said: { 'Gateway shop/g': invalid('UnsupportedAddress') },
  },
  'an invalid address': {
    documents: gateway(http, ', addresses: [{ value: somewhere }]'),
    said: { 'Gateway shop/g': invalid('Invalid') },
    message: ['Gateway shop/g', 'Accepted', /an address of type IPAddress is an IPv4 or IPv6 address/],
  },
  'an address without value': {
    documents: gateway(http, ', addresses: [{ type: IPAddress }]'),
    said: { 'Gateway shop/g': fine },
  },
  'parameters of an unknown kind': {
    documents: gateway(http, ', infrastructure: { parametersRef: { group: a.test, kind: Thing, name: x } }'),
    said: { 'Gateway shop/g': invalid('InvalidParameters') },
    message: ['Gateway shop/g', 'Accepted', /Thing x is not supported/],
  },
  'a certificate for backends': {
    documents: gateway(http, ', tls: { backend: { clientCertificateRef: { name: x } } }'),
    said: { 'Gateway shop/g': invalid('Invalid') },
  },
  'a Gateway that is not valid, beside one that is': {
    documents: gateway('{ name: web, port: 0, protocol: HTTP }', '', 'bad') + gateway(http),
    said: { 'Gateway shop/bad': invalid('Invalid'), 'Gateway shop/g web': served },
    message: ['Gateway shop/bad', 'Accepted', /^all\.yaml:5:\d+: .*a port is 1 to 65535/],
  },
  'an invalid creation time': {
    documents: documentOf(
      'Gateway',
      'g',
      `{ gatewayClassName: x, listeners: [${http}] }`,
      ', creationTimestamp: yesterday',
    ),
    said: { 'Gateway shop/g': invalid('Invalid') },
    message: ['Gateway shop/g', 'Accepted', /^all\.yaml:4:.*creationTimestamp/],
  },
  'two Gateways and one port': {
    documents:
      documentOf(
        'Gateway',
        'young',
        `{ gatewayClassName: x, listeners: [${http}] }`,
        ', creationTimestamp: "2025-02-01T00:00:00Z"',
      ) +
      documentOf(
        'Gateway',
        'old',
        `{ gatewayClassName: x, listeners: [${http}] }`,
        ', creationTimestamp: "2025-01-01T00:00:00Z"',
      ),
    said: {
      'Gateway shop/old web': served,
      'Gateway shop/young': notValid,
      'Gateway shop/young web': [
        'Accepted=False PortUnavailable',
        'Conflicted=False NoConflicts',
        'ResolvedRefs=True ResolvedRefs',
        'Programmed=False Invalid',
        'HTTPRoute,GRPCRoute 0',
      ],
    },
    message: [
      'Gateway shop/young web',
      'Accepted',
      /^:80 belongs to Gateway shop\/old: map one of them in 'listeners'$/,
    ],
  },
  'two Gateways and one port, mapped apart': {
    documents: gateway(http, '', 'a') + gateway(http, '', 'b'),
    options: { yaml: 'listeners: { "shop/b:80": "127.0.0.1:8080" }\n' },
    said: { 'Gateway shop/a web': served, 'Gateway shop/b web': served },
  },
  'two Gateways and one port on two addresses': {
    documents:
      gateway(http, ', addresses: [{ value: 127.0.0.1 }]', 'a') +
      gateway(http, ', addresses: [{ value: 127.0.0.2 }]', 'b'),
    said: { 'Gateway shop/a web': served, 'Gateway shop/b web': served },
  },
  'two Gateways of which one has all addresses': {
    documents: gateway(http, ', addresses: [{ value: 127.0.0.1 }]', 'a') + gateway(http, '', 'b'),
    said: { 'Gateway shop/a web': served, 'Gateway shop/b': notValid },
  },
  'a class with parameters': {
    documents: documentOf(
      'GatewayClass',
      'c',
      '{ controllerName: a.test/b, parametersRef: { group: a.test, kind: Thing, name: x } }',
    ),
    said: { 'GatewayClass shop/c': ['Accepted=False InvalidParameters'] },
  },
  'a class': {
    documents: documentOf('GatewayClass', 'c', '{ controllerName: a.test/b }'),
    said: { 'GatewayClass shop/c': ['Accepted=True Accepted'] },
  },
};

for (const [name, { documents, options, said, message }] of Object.entries(cases)) {
  t.test(name, async (t) => {
    const planned = planOf(documents, options);
    for (const [key, expected] of Object.entries(said)) t.strictSame(planned.said[key], expected, key);
    if (message !== undefined) t.match(planned.message(message[0], message[1]), message[2]);
    t.notMatch(JSON.stringify(planned.list), /PRIVATE KEY/);
  });
}

t.test('a half-done rotation: the old certificate stays in use, and the status reports the problem', async (t) => {
  const documents = gateway(https('{ name: cert }'));
  const certificates = { 'shop/cert': { certificate: good.chainPem, key: good.keyPem } };
  const first = planOf(documents, { certificates });
  const half = { 'shop/cert': { certificate: other.chainPem, key: good.keyPem } };
  const second = planOf(documents, { certificates: half, last: first.plan });
  t.match(second.said['Gateway shop/g web'], [
    'Accepted=True Accepted',
    /./,
    'ResolvedRefs=False InvalidCertificateRef',
    'Programmed=True Programmed',
  ]);
  t.equal(second.plan.attachments.gateways[0]?.listeners[0]?.certificates[0]?.certificate, good.chainPem);
  const third = planOf(documents, { certificates: { 'shop/cert': { certificate: '', key: '' } }, last: second.plan });
  t.match(third.said['Gateway shop/g web']?.[3], 'Programmed=True Programmed');
  const later = planOf(documents, { certificates: half, last: third.plan, now: Date.now() + 25 * 3_600_000 });
  t.strictSame(later.said['Gateway shop/g web'], unresolved('InvalidCertificateRef'), 'not past its expiry');
  const gone = planOf(documents, { last: third.plan });
  t.strictSame(gone.said['Gateway shop/g web'], unresolved('InvalidCertificateRef'), 'nor when its Secret is removed');
});

t.test('the status has the observed generation', async (t) => {
  const now = Date.parse('2026-01-02T03:04:05.678Z');
  const { list } = planOf(
    documentOf('Gateway', 'g', `{ gatewayClassName: x, listeners: [${http}] }`, ', generation: 7'),
    { now },
  );
  const { conditions } = list.items[0]!.status as { conditions: object[] };
  t.strictSame(conditions[0], {
    type: 'Accepted',
    status: 'True',
    reason: 'Accepted',
    message: '',
    observedGeneration: 7,
    lastTransitionTime: '2026-01-02T03:04:05Z',
  });
});

// The CA's HTTP API as OpenAPI 3.1. test/ca/openapi.test.ts validates the responses of a running CA against it and
// compares its paths with the routes of api.ts, both ways.

const time = { type: 'string', format: 'date-time', description: 'RFC 3339, UTC, milliseconds.' };
const spiffeId = { type: 'string', pattern: '^spiffe://[a-z0-9._-]+/[A-Za-z0-9._/-]+$', maxLength: 2048 };
const serial = { type: 'string', pattern: '^[0-9a-f]+$', description: 'Serial number, lower-case hex.' };
const base64 = { type: 'string', contentEncoding: 'base64', minLength: 1 };
const ttlSeconds = {
  type: 'integer',
  minimum: 60,
  maximum: 86_400,
  description: 'Life of the certificate; default 3600 unless the CA was started with another.',
};

const ifNoneMatch = { name: 'If-None-Match', in: 'header', schema: { type: 'string' } };

const schemas = {
  SvidRequest: {
    oneOf: [
      object(
        {
          csr: csr(),
          token: { type: 'string', minLength: 1, maxLength: 512, description: 'A join token.' },
          ttlSeconds,
        },
        ['csr', 'token'],
      ),
      object({ csr: csr(), kubernetesToken: kubernetesToken(), ttlSeconds }, ['csr', 'kubernetesToken']),
    ],
  },
  RenewRequest: object({ csr: csr(), ttlSeconds }, ['csr']),
  Svid: object({
    id: spiffeId,
    serial,
    notBefore: time,
    notAfter: time,
    chain: {
      type: 'array',
      items: base64,
      minItems: 2,
      description: 'DER certificates, leaf first, without the root.',
    },
    bundle: ref('Bundle'),
  }),
  Bundle: {
    description: 'A SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4) with the deny list.',
    ...object(
      {
        spiffe_sequence: { type: 'integer', minimum: 0 },
        spiffe_refresh_hint: { type: 'integer', minimum: 1, description: 'Seconds.' },
        keys: { type: 'array', items: ref('BundleKey') },
        sallyport_denied: ref('DenyList'),
        sallyport_ledger: ref('LedgerHead'),
      },
      ['spiffe_sequence', 'spiffe_refresh_hint', 'keys', 'sallyport_denied'],
    ),
  },
  BundleKey: {
    type: 'object',
    required: ['use', 'kty', 'x5c'],
    properties: {
      use: { const: 'x509-svid' },
      kty: { type: 'string' },
      x5c: { type: 'array', items: base64, minItems: 1, maxItems: 1 },
    },
  },
  DenyList: object({
    sequence: { type: 'integer', minimum: 0, description: 'Grows with every change of the list.' },
    time: { ...time, description: 'When the list last changed.' },
    serials: { type: 'array', items: serial },
    ids: { type: 'array', items: spiffeId },
  }),
  LedgerHead: {
    description: 'The last signed end of the ledger.',
    ...object({ sequence: { type: 'integer', minimum: 1 }, hash: { type: 'string', pattern: '^[0-9a-f]{64}$' }, time }),
  },
  LedgerRecord: {
    description: 'What the ledger has of one record.',
    ...object(
      {
        sequence: { type: 'integer', minimum: 1 },
        hash: { type: 'string', pattern: '^[0-9a-f]{64}$', description: 'Absent if the ledger does not have it.' },
        first: { type: 'integer', minimum: 1, description: 'The first record that was not pruned.' },
      },
      ['sequence', 'first'],
    ),
  },
  Health: object({ status: { const: 'ok' }, time }),
  Error: object(
    {
      code: { type: 'string', description: 'Stable; for programs to compare.' },
      message: { type: 'string', description: 'For people; may change.' },
      hint: { type: 'string', description: 'What to do next.' },
    },
    ['code', 'message'],
  ),
};

/** The document of `GET /v1/openapi.json`. */
export function openapiDocument(): object {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sallyport CA',
      // The version of the API, not of the package: /v1 stays 1.x.
      version: '1.0.0',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      description:
        'Issues and renews X509-SVIDs. TLS 1.3; the server is spiffe://<trust domain>/sallyport/ca and a client requires ' +
        'exactly this ID. A CSR contributes its public key and nothing else: the evidence decides the identity.',
    },
    paths: {
      '/v1/svid': {
        post: operation('enrol', 'Issue an SVID for a join token, or for a service-account token of Kubernetes.', {
          request: 'SvidRequest',
          answers: { 200: json('Svid', 'The SVID, recorded before this response was sent.') },
          refusals: [400, 401, 403, 413, 429, 500, 503],
        }),
      },
      '/v1/svid/renew': {
        post: operation('renew', 'Issue a new SVID to a client with a current one.', {
          security: [{ currentSvid: [] }],
          request: 'RenewRequest',
          answers: { 200: json('Svid', 'An SVID for the same identity.') },
          refusals: [400, 403, 413, 429, 500, 503],
        }),
      },
      '/v1/bundle': {
        get: operation('bundle', 'The trust bundle and the deny list.', {
          parameters: [ifNoneMatch],
          answers: {
            200: { ...json('Bundle', 'The current bundle.'), headers: { ETag: { schema: { type: 'string' } } } },
            304: { description: 'Not changed.' },
          },
          refusals: [500],
        }),
      },
      '/v1/ledger/{sequence}': {
        get: operation('ledgerRecord', 'The hash of one record of the ledger.', {
          parameters: [{ name: 'sequence', in: 'path', required: true, schema: { type: 'integer', minimum: 1 } }],
          answers: { 200: json('LedgerRecord', 'Whether the ledger has it.') },
          refusals: [400, 500, 503],
        }),
      },
      '/v1/crl': {
        get: operation('crl', 'The certificate revocation list (RFC 5280) of the issuer in use.', {
          parameters: [ifNoneMatch],
          answers: { 200: file('application/pkix-crl', 'DER.'), 304: { description: 'Not changed.' } },
          refusals: [503],
        }),
      },
      '/v1/crl/{keyId}': {
        get: operation('crlOf', 'The list of one issuer, such as one that was replaced.', {
          parameters: [
            ifNoneMatch,
            {
              ...{ name: 'keyId', in: 'path', required: true, schema: { type: 'string', pattern: '^[0-9a-f]+$' } },
              description: 'The authority key identifier of its certificates.',
            },
          ],
          answers: { 200: file('application/pkix-crl', 'DER.'), 304: { description: 'Not changed.' } },
          refusals: [404, 503],
        }),
      },
      '/v1/crl.pem': {
        get: operation('crlPem', 'The lists of all issuers and roots, and certificates to verify them by.', {
          parameters: [ifNoneMatch],
          answers: { 200: file('application/x-pem-file', 'PEM.'), 304: { description: 'Not changed.' } },
          refusals: [503],
        }),
      },
      '/ocsp': {
        post: operation('ocsp', 'Whether certificates are revoked (RFC 6960), 16 at most in one request.', {
          answers: { 200: file('application/ocsp-response', 'DER; also for a malformed request.') },
          refusals: [413],
        }),
      },
      '/ocsp/{request}': {
        get: operation('ocspGet', 'The same, with the request as base64 in the path.', {
          parameters: [{ name: 'request', in: 'path', required: true, schema: { type: 'string', maxLength: 1024 } }],
          answers: { 200: file('application/ocsp-response', 'DER; also for a malformed request.') },
        }),
      },
      '/v1/watch': {
        get: operation('watch', 'A stream of changes: lines of JSON, both ways, after Upgrade: sallyport-watch/1.', {
          security: [{ currentSvid: [] }],
          parameters: [ifNoneMatch],
          answers: {
            101: {
              description:
                'The CA sends { etag, document } at each change (without document if it is large: GET /v1/bundle), and {} every 5 s. The agent sends { bundle, denied, roots, sidecars, clock }: what its sidecars use, and its time in milliseconds since 1970.',
            },
          },
          refusals: [403, 426, 503],
        }),
      },
      '/v1/openapi.json': {
        get: operation('openapi', 'This document.', {
          answers: {
            200: { description: 'OpenAPI 3.1.', content: { 'application/json': { schema: { type: 'object' } } } },
          },
        }),
      },
      '/healthz': {
        get: operation('health', 'Whether the CA can issue.', {
          answers: { 200: json('Health', 'It can.') },
          refusals: [503],
        }),
      },
      '/metrics': {
        get: operation('metrics', 'Metrics in the text format of Prometheus.', {
          answers: { 200: { description: 'Metrics.', content: { 'text/plain': { schema: { type: 'string' } } } } },
        }),
      },
    },
    components: {
      securitySchemes: {
        currentSvid: { type: 'mutualTLS', description: 'The current SVID with its intermediate, in the handshake.' },
      },
      schemas,
    },
  };
}

interface OperationParts {
  readonly request?: keyof typeof schemas;
  readonly parameters?: readonly object[];
  readonly security?: readonly object[];
  readonly answers: Readonly<Record<number, object>>;
  readonly refusals?: readonly number[];
}

const sentences: Readonly<Record<number, string>> = {
  400: 'The request is malformed: `body_invalid`, `csr_invalid`, `ttl_out_of_range`.',
  401: 'The token is not valid: `token_unknown`, `token_expired`, `kubernetes_token_invalid`.',
  403: 'Refused: `token_used`, `id_denied`, `id_reserved`, `id_foreign`, or `svid_...` for the presented SVID.',
  413: 'The body is larger than 16 KiB: `body_too_large`.',
  429: 'Too many valid certificates were renewed from the same one: `renewals_exhausted`.',
  500: 'An error of the CA: `internal`.',
  503: 'Unavailable: `store_failed`, `ca_overloaded`, `issuer_expired`, `kubernetes_unavailable`.',
};

function operation(operationId: string, summary: string, parts: OperationParts): object {
  const refusals = (parts.refusals ?? []).map((status) => [status, json('Error', sentences[status] ?? 'Refused.')]);
  return {
    operationId,
    summary,
    security: parts.security ?? [],
    ...(parts.parameters === undefined ? {} : { parameters: parts.parameters }),
    ...(parts.request === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: ref(parts.request) } } } }),
    responses: { ...parts.answers, ...Object.fromEntries(refusals) },
  };
}

function json(schema: keyof typeof schemas, description: string): object {
  return { description, content: { 'application/json': { schema: ref(schema) } } };
}

function file(type: string, description: string): object {
  return { description, content: { [type]: { schema: { type: 'string', format: 'binary' } } } };
}

function object(properties: Readonly<Record<string, object>>, required = Object.keys(properties)): object {
  return { type: 'object', required, properties, additionalProperties: false };
}

function csr(): object {
  return { ...base64, description: 'PKCS#10, DER. Only its public key counts.' };
}

function kubernetesToken(): object {
  const description = 'A service-account token of a pod, for the audience of the CA.';
  return { type: 'string', minLength: 1, maxLength: 8192, description };
}

function ref(schema: string): object {
  return { $ref: `#/components/schemas/${schema}` };
}

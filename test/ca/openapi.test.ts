// Compares the OpenAPI document with a running CA, both ways: the responses are as described, and everything that is
// described occurs.

import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import t from 'tap';
import { type ApiParts, createRoutes } from '../../cert-agent/ca/api.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { openapiDocument } from '../../cert-agent/ca/openapi.ts';
import { readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import { readIssuer } from '../../cert-agent/identity/issuer.ts';
import { ask, newKey, type Question, startTestCa, svidOf } from '../fixtures/ca.ts';
import { audience, startCluster } from '../fixtures/cluster.ts';

interface Media {
  readonly content?: Record<string, { schema: object }>;
}

interface Operation {
  readonly operationId: string;
  readonly requestBody?: Media;
  readonly responses: Record<string, Media>;
}

interface Document {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { schemas: Record<string, object> };
}

const document = openapiDocument() as Document;
const ajv = new Ajv2020({ strict: true, allErrors: true });
// References point into the document itself; 'components' is not a schema keyword but their location.
ajv.addKeyword('components');
ajv.addFormat('date-time', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
ajv.addSchema({ $id: 'api', components: document.components }, 'api', undefined, false);

/** The schema errors of `value`; '' for none. */
function problemsOf(schema: object, value: unknown): string {
  const placed = JSON.parse(JSON.stringify(schema).replaceAll('"#/components', '"api#/components'));
  const check = ajv.compile(placed);
  return check(value) ? '' : ajv.errorsText(check.errors);
}

t.test('the document describes every route, and nothing else', async (t) => {
  // Creating the table does not use its parts.
  const routes = createRoutes({} as ApiParts).map((one) => `${one.method.toLowerCase()} ${one.path}`);
  const described = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  );
  t.same(routes.sort(), described.sort());
});

t.test('every reference resolves', async (t) => {
  for (const [, name] of JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    t.ok(document.components.schemas[name ?? ''], String(name));
  }
});

t.test('the responses of the CA are as described', async (t) => {
  const { url, issuer: clusterIssuer, caFile, token: podToken } = await startCluster(t);
  const ca = await startTestCa(t, { cluster: { url, issuer: clusterIssuer, caFile, audience } });
  const root = readFileSync(caFilesOf(ca.dir).bundlePem, 'utf8');
  const id = 'spiffe://demo.test/ns/shop/sa/web';
  const key = await newKey();
  const { token } = await ca.operator.createToken(id, 600_000);
  await ca.operator.revoke(`${id}2`, 'so that the list is not empty', { force: true });
  const seen = new Set<string>();

  /** Sends a request, and validates request and response against the document. */
  async function check(status: number, question: Question, name = `${status} ${question.path}`) {
    const answer = await ask(ca.address.port, root, question);
    t.equal(answer.status, status, name);
    const path = question.path
      .replace(/^\/ocsp\/.+/, '/ocsp/{request}')
      .replace(/^\/v1\/crl\/.+/, '/v1/crl/{keyId}')
      .replace(/^\/v1\/ledger\/.+/, '/v1/ledger/{sequence}');
    const operation = document.paths[path]?.[question.body === undefined ? 'get' : 'post'];
    if (status === 200 && question.body !== undefined) {
      const asked = operation?.requestBody?.content?.['application/json']?.schema;
      t.equal(problemsOf(asked ?? {}, question.body), '', `${name}: the request`);
    }
    const described = operation?.responses[String(status)];
    t.ok(described, `${name} is described`);
    const [type, media] = Object.entries(described?.content ?? {})[0] ?? [];
    if (type !== undefined) t.match(answer.headers['content-type'], type, `${name}: the type`);
    if (type === 'application/json') t.equal(problemsOf(media?.schema ?? {}, answer.json), '', name);
    seen.add(`${operation?.operationId} ${status}`);
    return answer;
  }

  const { csr } = key;
  const enrolled = await check(200, { path: '/v1/svid', body: { csr, token, ttlSeconds: 600 } });
  const svid = svidOf(enrolled, key);
  await check(200, { path: '/v1/svid/renew', body: { csr }, svid });
  const thief = await newKey();
  const { token: lost } = await ca.operator.createToken(`${id}3`, 60_000);
  const stolen = svidOf(await check(200, { path: '/v1/svid', body: { csr: thief.csr, token: lost } }), thief);
  const renewals = Array.from({ length: 63 }, () =>
    check(200, { path: '/v1/svid/renew', body: { csr }, svid: stolen }),
  );
  await Promise.all(renewals);
  await check(429, { path: '/v1/svid/renew', body: { csr }, svid: stolen });
  const ofPod = { csr, kubernetesToken: await podToken() };
  await Promise.all(Array.from({ length: 64 }, () => check(200, { path: '/v1/svid', body: ofPod })));
  await check(429, { path: '/v1/svid', body: ofPod });
  const bundle = await check(200, { path: '/v1/bundle' });
  await check(304, { path: '/v1/bundle', headers: { 'if-none-match': String(bundle.headers['etag']) } });
  const issuer = readIssuer(readPemBlocks(readFileSync(caFilesOf(ca.dir).intermediate, 'utf8'), 'x')[0]!);
  await check(404, { path: '/v1/crl/00' });
  for (const path of ['/v1/crl', '/v1/crl.pem', `/v1/crl/${issuer.keyId?.toString('hex')}`]) {
    const crl = await check(200, { path });
    await check(304, { path, headers: { 'if-none-match': String(crl.headers['etag']) } });
  }
  t.match((await check(200, { path: '/v1/ledger/1' })).json, { sequence: 1, hash: /^[0-9a-f]{64}$/, first: 1 });
  const unknown = (await check(200, { path: '/v1/ledger/99999999' })).json;
  t.notOk('hash' in unknown);
  for (const path of ['0', '-1', '1.0', '1e3', '01', '9'.repeat(16), 'x'].map((one) => `/v1/ledger/${one}`))
    await check(400, { path });
  await check(200, { path: '/ocsp', body: 'not a request' });
  await check(413, { path: '/ocsp', body: 'x'.repeat(20_000) });
  await check(200, { path: '/ocsp/AAAA' });
  await check(200, { path: '/healthz' });
  await check(200, { path: '/metrics' });
  t.same((await check(200, { path: '/v1/openapi.json' })).json, document);
  const headers = { connection: 'Upgrade', upgrade: 'sallyport-watch/1' };
  await check(101, { path: '/v1/watch', headers, svid });
  await check(403, { path: '/v1/watch', headers });
  await check(426, { path: '/v1/watch', svid });
  await check(426, { path: '/v1/watch', headers: { ...headers, upgrade: 'websocket' }, svid });

  await check(400, { path: '/v1/svid', body: { csr } });
  await check(401, { path: '/v1/svid', body: { csr, token: 'x' } });
  await check(403, { path: '/v1/svid', body: { csr: (await newKey()).csr, token } });
  await check(413, { path: '/v1/svid', body: { csr: 'A'.repeat(20_000), token } });
  await check(400, { path: '/v1/svid/renew', body: {}, svid });
  await check(403, { path: '/v1/svid/renew', body: { csr } });
  await check(413, { path: '/v1/svid/renew', body: { csr: 'A'.repeat(20_000) }, svid });

  const described = Object.values(document.paths)
    .flatMap((methods) => Object.values(methods))
    .flatMap((one) => Object.keys(one.responses).map((status) => `${one.operationId} ${status}`));
  // An error of the CA cannot be provoked.
  const faults = described.filter((one) => /50[03]$/.test(one));
  t.same([...seen, ...faults].sort(), described.sort(), 'every described response was seen');
});

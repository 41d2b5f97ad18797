// API keys: how Secrets are read, where a request may carry a key, and what the app receives.

import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { hashApiKey, readApiKeys } from '../../../sidecar/edge/api-key/api-key.ts';
import { type Passed, startPolicy } from '../../fixtures/edge.ts';

const key = 'k-3f0c9a7b5d1e4f28';
const other = 'k-aaaaaaaaaaaaaaaa';

t.test('hashApiKey prints a key in the form of a Secret', async (t) => {
  t.equal(hashApiKey('abc'), 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
});

t.test('Secrets are read', async (t) => {
  const read = readApiKeys([
    ['a', { web: hashApiKey(key), cron: `${other}\n` }],
    ['b', { web: hashApiKey('something-else-entirely') }],
  ]);
  t.strictSame([...read.clients.values()], ['web', 'cron']);
  t.strictSame(read.warnings, [
    "the key of client 'cron' is in plaintext in Secret 'a': write its hash, sha256:...",
    "the client 'web' is in more than one Secret: its entry in Secret 'b' is ignored",
  ]);
  const rows: [string, Record<string, string>, string][] = [
    ['one key for two clients', { a: key, b: hashApiKey(key) }, "the clients 'a' and 'b' have the same API key"],
    ['a short key', { a: 'short' }, "the key of client 'a' in Secret 's' has 5 characters: it must have 16 to 1024"],
    ['a bad hash', { a: 'sha256:abc' }, "the hash of client 'a' in Secret 's' is not 64 hexadecimal digits"],
    ['an unprintable client', { 'a\nb': key }, "Secret 's' names a client that is not a valid header value"],
    ['an empty Secret', {}, "there is no API key in Secret 's'"],
  ];
  for (const [name, data, message] of rows)
    t.throws(() => readApiKeys([['s', data]]), new SallyportError('config_invalid', message), name);
});

const spec = `apiKeyAuth:
  credentialRefs: [{ name: keys }]
  extractFrom: [{ headers: [X-Api-Key, X-Old] }, { params: [key] }, { cookies: [key] }]
  forwardClientIDHeader: X-Client
`;
const secrets = { keys: { web: hashApiKey(key), cron: other } };

t.test('a client with a key passes, and the app does not see the key', async (t) => {
  const edge = await startPolicy(t, spec, secrets);
  const rows: [string, string, Record<string, string>, string][] = [
    ['a header', '/a?x=1', { 'x-api-key': key }, 'web'],
    ['the next header', '/', { 'x-old': other }, 'cron'],
    ['a parameter', `/?key=${key}`, {}, 'web'],
    ['a cookie', '/', { cookie: `a=b; key=${key}` }, 'web'],
    ['the same at two places', `/?key=${key}`, { 'x-api-key': key }, 'web'],
  ];
  for (const [name, path, headers, client] of rows) {
    const response = await fetch(edge.url + path, { headers: { 'x-client': 'admin', ...headers } });
    t.equal(response.status, 200, name);
    const app = (await response.json()) as Passed;
    t.match(app, { clientId: client, method: 'apiKey', fields: { 'x-client': client } }, name);
    t.notOk(JSON.stringify(app).includes(client === 'web' ? key : other), name);
  }
});

t.test('in Authorization the key is the whole value, or a bearer token', async (t) => {
  const edge = await startPolicy(
    t,
    'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [Authorization] }] }',
    secrets,
  );
  for (const [authorization, status] of [
    [key, 200],
    [`Bearer ${key}`, 200],
    [`Basic ${key}`, 401],
    ['Bearer ', 401],
  ] as const)
    t.equal((await fetch(edge.url, { headers: { authorization } })).status, status, authorization);
});

t.test('a client without a valid key is refused', async (t) => {
  const edge = await startPolicy(t, spec, secrets);
  const rows: [string, string, Record<string, string>, string, string][] = [
    ['no key', '/', {}, 'api_key_missing', 'missing_api_key'],
    ['an empty one', '/?key=', { 'x-api-key': '' }, 'api_key_missing', 'missing_api_key'],
    ['a wrong one', '/', { 'x-api-key': `${key}x` }, 'api_key_unknown', 'unknown_api_key'],
    ['the hash of one', '/', { 'x-api-key': hashApiKey(key) }, 'api_key_unknown', 'unknown_api_key'],
    ['in capitals', '/', { 'x-api-key': key.toUpperCase() }, 'api_key_unknown', 'unknown_api_key'],
    ['two', '/', { 'x-api-key': `${key}, ${key}` }, 'api_key_unknown', 'unknown_api_key'],
    ['two in the query', `/?key=${key}&key=${other}`, {}, 'api_key_unknown', 'unknown_api_key'],
    ['two places', `/?key=${other}`, { 'x-api-key': key }, 'api_key_unknown', 'unknown_api_key'],
    ['a very long one', '/', { 'x-api-key': 'x'.repeat(5000) }, 'api_key_unknown', 'unknown_api_key'],
    ['a wrong one in the query', '/a?key=wrong&b=c', {}, 'api_key_unknown', 'unknown_api_key'],
    ['a good one behind a wrong one', `/?key=${key}`, { 'x-api-key': 'no' }, 'api_key_unknown', 'unknown_api_key'],
  ];
  for (const [name, path, headers, code, details] of rows) {
    const response = await fetch(edge.url + path, { headers });
    t.equal(response.status, 401, name);
    t.equal(await response.text(), 'Client authentication failed.', name);
    t.match(edge.refused.at(-1), { code, details }, name);
  }
  t.equal(
    edge.paths[rows.findIndex(([name]) => name === 'a wrong one in the query')],
    '/a?b=c',
    'the guessed key is not on record',
  );
});

t.test('sanitize: false leaves the key in the request; authorization rules match clients', async (t) => {
  const rules = `authorization:
  rules: [{ action: Allow, operation: { methods: [GET] }, principal: { clientIDs: [web] } }]
`;
  const edge = await startPolicy(t, `${spec}  sanitize: false\n${rules}`, secrets);
  const response = await fetch(edge.url, { headers: { 'x-api-key': key } });
  t.equal(((await response.json()) as Passed).fields['x-api-key'], key);
  t.equal((await fetch(edge.url, { headers: { 'x-api-key': other } })).status, 403);
  t.equal((await fetch(edge.url, { method: 'POST', headers: { 'x-api-key': key } })).status, 403);
});

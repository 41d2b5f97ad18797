// The hooks of API keys: which clients pass, what is forwarded, and which clients stay accepted after a change.

import t from 'tap';
import { hashApiKey } from '../../../sidecar/edge/api-key/api-key.ts';
import { apiKey } from '../../../sidecar/edge/api-key/capability.ts';
import { headerOf } from '../../../sidecar/exchange/facts.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';

const { apiKeyAuth } = policyOf(
  'apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [x-key] }, { params: [key] }], forwardClientIDHeader: X-Client }',
);
const good = 'a-key-that-is-long-enough';
const secrets = { k: { robot: hashApiKey(good), old: 'a-key-that-is-readable' } };

const rows: [name: string, headers: Record<string, string>, path: string, outcome: string][] = [
  ['the key', { 'x-key': good }, '/a', 'passed'],
  ['in the query', {}, `/a?key=${good}`, 'passed'],
  ['the same at both places', { 'x-key': good }, `/a?key=${good}`, 'passed'],
  ['no key', {}, '/a', 'api_key_missing'],
  ['another key', { 'x-key': 'b-key-that-is-long-enough' }, '/a', 'api_key_unknown'],
  ['two keys', { 'x-key': good }, '/a?key=other', 'api_key_unknown'],
];

for (const [name, headers, path, outcome] of rows)
  t.test(name, async (t) => {
    const warnings: string[] = [];
    const { authenticate } = hooksOf(apiKey, { apiKeyAuth }, { secrets, warnings });
    const { exchange, connection } = createExchange({ path }, headers);
    t.equal(await outcomeOf(() => authenticate!(exchange, connection)), outcome);
    if (outcome === 'passed') {
      t.match(exchange, { clientId: 'robot', authMethod: 'apiKey', path: '/a' });
      t.equal(headerOf(exchange, 'x-client'), 'robot');
    }
    t.equal(headerOf(exchange, 'x-key'), outcome === 'passed' || name !== 'no key' ? undefined : headers['x-key']);
    t.match(warnings, [/^the key of client 'old' is in plaintext/]);
  });

t.test('the headers and parameters apply to every route', async (t) => {
  t.strictSame(apiKey.ownHeaders(apiKeyAuth!, ''), ['x-client']);
  t.strictSame(apiKey.secretParams(apiKeyAuth!, ''), ['key']);
});

t.test('a client stays accepted while its key, or with basicAuth its password, is unchanged', async (t) => {
  const { guard } = hooksOf(apiKey, { apiKeyAuth }, { secrets });
  const changed = hooksOf(apiKey, { apiKeyAuth }, { secrets: { k: { robot: hashApiKey(`${good}-2`) } } });
  const { exchange } = createExchange({ clientId: 'robot' });
  t.equal(guard.stillHolds(exchange, guard.known), true);
  t.equal(guard.stillHolds(exchange, changed.guard.known), false);
  t.equal(guard.stillHolds(exchange, undefined), false);
  t.equal(guard.stillHolds(createExchange().exchange, guard.known), false);
  const beside = hooksOf(apiKey, { apiKeyAuth }, { secrets, beside: { basicAuth: {} } });
  t.equal(beside.guard.stillHolds(exchange, undefined), true, 'the guard of basicAuth decides');
  t.equal(guard.stillHolds(exchange, beside.guard.known), false, 'the client ID was the user name before');
});

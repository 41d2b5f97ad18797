// The hooks of external authorization: what the authorizer does not see, and what a change of the policy means.

import t from 'tap';
import { extAuth } from '../../../sidecar/edge/ext-auth/capability.ts';
import { headerOf } from '../../../sidecar/exchange/facts.ts';
import { policyOf } from '../../fixtures/edge.ts';
import { createExchange, hooksOf } from '../../fixtures/exchange.ts';

const planOf = (form: string, more = '') => policyOf(`extAuth: { ${more} ${form} }`).extAuth!;
const http = (name: string, more = '') =>
  planOf(`http: { backendRef: { name: ${name}, port: 80 }, path: /check }`, more);
const hooks = (plan: unknown) => hooksOf(extAuth, { extAuth: plan });

t.test('which authorizer each form creates', async (t) => {
  t.match(hooks(http('one')).authorizer, { name: 'shop/p', kind: 'http', statusOnError: 403 });
  const grpc = planOf('grpc: { backendRef: { name: one, port: 80 } }');
  t.match(hooks(grpc).authorizer, { name: 'shop/p', kind: 'grpc' });
  t.match(extAuth.backends!(grpc), [{ name: 'one', port: 80, grpc: true }]);
  t.match(extAuth.backends!(http('one')), [{ name: 'one', port: 80, grpc: false }]);
});

t.test('the authorizer does not see session cookies', async (t) => {
  const { exchange, connection } = createExchange({}, { cookie: 'a=b; __Host-sallyport-session-x=1.y' });
  hooks(http('one')).authenticate!(exchange, connection);
  t.equal(headerOf(exchange, 'cookie'), 'a=b');
});

t.test('headers that only the authorizer may set are removed, except those that it reads', async (t) => {
  const plan = planOf(
    'http: { backendRef: { name: a, port: 80 }, headersToBackend: [X-User, Cookie, Authorization, x-both] }',
    'headersToExtAuth: [x-both],',
  );
  t.strictSame(extAuth.ownHeaders(plan, ''), ['x-user']);
});

t.test('a request stays accepted only while the policy asks the same authorizer the same question', async (t) => {
  const { guard } = hooks(http('one'));
  const { exchange } = createExchange();
  const rows: [string, unknown, boolean][] = [
    ['the same', hooks(http('one')).guard.known, true],
    ['with another timeout', hooks(http('one', 'timeout: 1s,')).guard.known, true],
    ['another', hooks(http('two')).guard.known, false],
    ['with more headers', hooks(http('one', 'headersToExtAuth: [x-a],')).guard.known, false],
    ['none', undefined, false],
  ];
  for (const [name, before, expected] of rows) t.equal(guard.stillHolds(exchange, before), expected, name);
});

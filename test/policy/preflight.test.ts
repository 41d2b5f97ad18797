// Which requests are preflights: every step asks the same function.

import t from 'tap';
import { preflightMethod } from '../../sidecar/policy/preflight.ts';

const both = { origin: 'https://a.test', 'access-control-request-method': 'PUT' };

const rows: readonly (readonly [why: string, method: string, headers: object, asked: string | undefined])[] = [
  ['OPTIONS with both fields', 'OPTIONS', both, 'PUT'],
  ['a sandboxed page', 'OPTIONS', { ...both, origin: 'null' }, 'PUT'],
  ['another method', 'GET', both, undefined],
  ['a method in lower case is another one', 'options', both, undefined],
  ['without an origin', 'OPTIONS', { ...both, origin: undefined }, undefined],
  ['with an empty origin', 'OPTIONS', { ...both, origin: '' }, undefined],
  ['without a method', 'OPTIONS', { origin: both.origin }, undefined],
  ['with an empty method', 'OPTIONS', { ...both, 'access-control-request-method': '' }, undefined],
];

for (const [why, method, headers, asked] of rows)
  t.test(why, async (t) => {
    const known = headers as Readonly<Record<string, string | undefined>>;
    t.equal(
      preflightMethod(method, (name) => known[name]),
      asked,
    );
  });

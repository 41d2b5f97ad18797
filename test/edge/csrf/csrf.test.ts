// Requests that change something need a matching Origin, or without one a matching Referer.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { readSecurityPolicy } from '../../../sidecar/documents/envoy-gateway/security-policy.ts';
import { csrf } from '../../../sidecar/edge/csrf/capability.ts';
import type { CsrfPlan } from '../../../sidecar/edge/csrf/schema.ts';
import { policyOf, startPolicy } from '../../fixtures/edge.ts';
import { createExchange, hooksOf, outcomeOf } from '../../fixtures/exchange.ts';

const planOf = (origins: string): CsrfPlan =>
  (policyOf(`csrf: { additionalOrigins: [${origins}] }`) as unknown as { csrf: CsrfPlan }).csrf;
const plain = planOf('');
const others = planOf(
  '{ value: pay.test }, { type: Prefix, value: "dev." }, { type: Suffix, value: .shop.test }, { type: RegularExpression, value: "app[0-9]+[.]test(:8443)?" }',
);

type Row = [name: string, headers: Record<string, string>, passes: boolean, plan?: CsrfPlan, authority?: string];
const from = (origin: string): Record<string, string> => ({ origin });
const rows: Row[] = [
  ['its own origin', from('https://shop.test'), true],
  ['in capitals', from('HTTPS://SHOP.TEST'), true],
  ['with the default port', from('https://shop.test:443'), true],
  ['a host with the default port', from('https://shop.test'), true, plain, 'shop.test:443'],
  ['another port', from('https://shop.test:8443'), false],
  ['the same other port', from('https://shop.test:8443'), true, plain, 'shop.test:8443'],
  ['another scheme', from('http://shop.test'), true],
  ['another site', from('https://evil.test'), false],
  ['a site that begins with the host', from('https://shop.test.evil.test'), false],
  ['a site that ends with the host', from('https://evilshop.test'), false],
  ['the host as the user of another site', from('https://shop.test@evil.test'), false],
  ['a null Origin', from('null'), false],
  ['an app with a scheme of its own', from('app://shop.test'), false],
  ['a script', from('javascript://shop.test/'), false],
  ['a host that is not a URL', from('shop.test'), false],
  ['a user before the host', from('https://evil@shop.test'), false],
  ['backslashes', from('https:\\\\shop.test'), false],
  ['a scheme without a host', from('https://'), false],
  ['a relative Referer', { referer: '/cart?token=secret' }, false],
  ['an exact origin with its default port', from('https://port.test'), true, planOf('{ value: "port.test:443" }')],
  ['an international name', from('https://xn--bcher-kva.test'), true, planOf('{ value: bücher.test }')],
  ['neither header', {}, false],
  ['an empty Origin', from(''), false],
  ['a Referer', { referer: 'https://shop.test/cart?a=b' }, true],
  ['a Referer of another site', { referer: 'https://evil.test/shop.test' }, false],
  ['an empty Origin and a Referer', { origin: '', referer: 'https://shop.test/' }, true],
  ['an Origin takes precedence over a Referer', { origin: 'https://evil.test', referer: 'https://shop.test/' }, false],
  ['a null Origin takes precedence over a Referer', { origin: 'null', referer: 'https://shop.test/' }, false],
  ['an exact match', from('https://pay.test'), true, others],
  ['no exact match', from('https://a.pay.test'), false, others],
  ['a prefix', from('https://dev.other.test'), true, others],
  ['a suffix', from('https://a.shop.test'), true, others],
  ['a suffix without its dot', from('https://evilshop.test'), false, others],
  ['a pattern', from('https://app12.test:8443'), true, others],
  ['a pattern matches the whole origin', from('https://app12.test.evil.test'), false, others],
];

for (const [name, headers, passes, plan = plain, authority = 'shop.test'] of rows)
  t.test(name, async (t) => {
    const { authenticate, guard } = hooksOf(csrf, { csrf: plan });
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH']) {
      const { exchange, connection } = createExchange({ method, authority }, headers);
      const outcome = await outcomeOf(() => authenticate!(exchange, connection));
      t.equal(outcome, passes ? 'passed' : 'csrf_origin_mismatch', method);
      t.equal(guard.stillHolds(exchange, undefined), passes, `${method} in flight`);
      if (!passes) t.match(exchange, { decision: 'deny', details: 'csrf_origin_mismatch', denial: { status: 403 } });
    }
    for (const method of ['GET', 'HEAD', 'OPTIONS']) {
      const { exchange, connection } = createExchange({ method, authority }, headers);
      t.equal(await outcomeOf(() => authenticate!(exchange, connection)), 'passed', method);
    }
  });

t.test('documents with mistakes are refused', async (t) => {
  const problemsOf = (text: string): string[] => {
    const head =
      'apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: p }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }], csrf: ';
    const read = readSecurityPolicy(parseYaml(`${head}${text} }\n`, 'a.yaml').documents[0]!, 'a.yaml');
    return 'problems' in read
      ? read.problems.map(formatProblem).map((one) => one.replace(/^a.yaml:\d+:\d+: /, ''))
      : [];
  };
  const wrong: [string, RegExp][] = [
    [
      '{ additionalOrigins: [{ value: "https://a.test" }] }',
      /'https:\/\/a\.test': an origin is compared as host or host:port/,
    ],
    ['{ additionalOrigins: [{ type: RegularExpression, value: "(" }] }', /'\(' is not a valid RE2 regular expression/],
    ['{ additionalOrigins: [{ type: Contains, value: a }] }', /compared by Exact, Prefix, Suffix, RegularExpression/],
    ['{ additionalOrigins: [{ value: "" }] }', /an origin must not be empty/],
    ['{ shadowFraction: { numerator: 1 } }', /every request is checked/],
    ['{ origins: [] }', /unknown key 'origins'/],
  ];
  for (const [text, message] of wrong) t.match(problemsOf(text).join(), message, text);
  t.strictSame(problemsOf('{}'), []);
});

t.test('on the wire: CSRF is checked before authentication', async (t) => {
  const edge = await startPolicy(
    t,
    'csrf: {}\napiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [x-key] }] }\n',
    { k: { robot: 'a-key-that-is-readable' } },
  );
  const post = (headers: Record<string, string>) => fetch(`${edge.url}/a`, { method: 'POST', headers });
  const forged = await post({ origin: 'https://evil.test' });
  t.equal(forged.status, 403);
  t.equal(await forged.text(), 'Invalid origin');
  t.equal((await post({ origin: edge.url })).status, 401, 'the request is not authenticated');
  t.equal((await post({ origin: edge.url, 'x-key': 'a-key-that-is-readable' })).status, 200);
  t.match(edge.refused[0], {
    code: 'csrf_origin_mismatch',
    details: 'csrf_origin_mismatch',
    message: /^the request comes from 'evil\.test' but is for '127\.0\.0\.1:\d+'$/,
  });
});

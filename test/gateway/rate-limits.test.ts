// How often, through running gateways: by client, header, claim and key, alone and together through Redis, which dies.

import { createServer } from 'node:http';
import t from 'tap';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { noRedis, startRedis } from '../fixtures/redis.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

const frame = (names: readonly string[]): string[] => [
  'apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: edge }\nspec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n',
  ...names.map(
    (name) =>
      `apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: ${name} }\nspec: { parentRefs: [{ name: edge }], rules: [{ matches: [{ path: { value: /${name} } }], backendRefs: [{ name: app, port: 80 }] }] }\n`,
  ),
];

const limit = (name: string, type: 'Local' | 'Global', rules: string): string =>
  `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { name: ${name} }\nspec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }]\n  rateLimit: { type: ${type}, ${type.toLowerCase()}: { rules: [${rules}] } }\n`;

async function startApp(t: Owner): Promise<string> {
  const server = createServer((_request, response) => response.end('ok'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return `upstreams: { app: { endpoints: ["127.0.0.1:${port}"] } }\nbackends: { default/app:80: app }\n`;
}

/** The statuses of so many requests, one after the other. */
async function ask(
  gateway: Gateway,
  path: string,
  count: number,
  headers: Record<string, string> = {},
): Promise<string> {
  const all: number[] = [];
  for (let i = 0; i < count; i++) all.push((await askOnce(gateway, path, headers)).status);
  return all.join(' ');
}

function askOnce(gateway: Gateway, path: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`http://127.0.0.1:${gateway.port('default/edge:80')}${path}`, { headers });
}

t.test('local limits: each client, header, claim and key has its own', async (t) => {
  const key = await createKey('k');
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `${await startApp(t)}gatewayTopology: { numTrustedProxies: 1 }\n`,
    documents: [
      ...frame(['all', 'client', 'header', 'claim', 'key']),
      limit('all', 'Local', '{ limit: { requests: 2, unit: Hour } }'),
      limit(
        'client',
        'Local',
        '{ clientSelectors: [{ sourceCIDR: { type: Distinct, value: 0.0.0.0/0 } }], limit: { requests: 2, unit: Hour } }',
      ),
      limit(
        'header',
        'Local',
        '{ clientSelectors: [{ headers: [{ name: x-tenant, type: Distinct }] }], limit: { requests: 1, unit: Hour } }',
      ),
      limit(
        'claim',
        'Local',
        '{ clientSelectors: [{ jwtClaims: [{ name: sub, type: Distinct }] }], limit: { requests: 1, unit: Hour } }',
      ),
      limit(
        'key',
        'Local',
        '{ clientSelectors: [{ clientId: { type: Distinct } }], limit: { requests: 1, unit: Hour } }',
      ),
      `apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: claim }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: claim }], jwt: { providers: [{ name: p, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' } }] } }\n`,
      'apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: key }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: key }], apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }] } }\n',
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'keys' },
        stringData: { one: 'key-of-the-first-client', two: 'key-of-the-second-client' },
      }),
    ].join('\n---\n'),
  });
  const from = (ip: string): Record<string, string> => ({ 'x-forwarded-for': `6.6.6.6, ${ip}` });
  t.equal(await ask(gateway, '/all', 3), '200 200 429');
  t.equal(await ask(gateway, '/client', 3, from('10.0.0.1')), '200 200 429');
  t.equal(
    await ask(gateway, '/client', 3, from('10.0.0.2')),
    '200 200 429',
    'another client, by the proxy that is trusted',
  );
  t.equal(await ask(gateway, '/header', 2, { 'x-tenant': 'a' }), '200 429');
  t.equal(await ask(gateway, '/header', 2, { 'x-tenant': 'b' }), '200 429');
  const bearer = async (sub: string): Promise<Record<string, string>> => ({
    authorization: `Bearer ${await sign(key, { iss: 'iss.test', sub })}`,
  });
  t.equal(await ask(gateway, '/claim', 2, await bearer('ann')), '200 429');
  t.equal(await ask(gateway, '/claim', 2, await bearer('ann')), '429 429', 'another token of the same user');
  t.equal(await ask(gateway, '/claim', 1, await bearer('bob')), '200');
  t.equal(await ask(gateway, '/key', 2, { 'x-api-key': 'key-of-the-first-client' }), '200 429');
  t.equal(await ask(gateway, '/key', 1, { 'x-api-key': 'key-of-the-second-client' }), '200');

  const refused = await askOnce(gateway, '/all');
  t.equal(refused.status, 429);
  t.match(refused.headers.get('retry-after'), /^\d+$/);
  t.equal(refused.headers.get('x-envoy-ratelimited'), 'true');
  t.equal(refused.headers.get('ratelimit-limit'), '2');
  t.equal(refused.headers.get('ratelimit-remaining'), '0');
  t.match(refused.headers.get('ratelimit-reset'), /^\d+$/);
  const record = (await gateway.records(4)).find(({ response_code: code }) => code === 429);
  t.match(record, {
    response_flags: 'RL',
    response_code_details: 'local_rate_limited',
    route_name: /^httproute\/default\/all\/rule\/0/,
  });

  await gateway.write('more.yaml', 'apiVersion: v1\nkind: Namespace\nmetadata: { name: x }\n');
  t.equal(await ask(gateway, '/all', 1), '429', 'another change refills no bucket');
});

t.test('two gateways share a limit through Redis, across an outage of Redis', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const yaml = `${await startApp(t)}redis: { url: "${redis.url}", timeout: 500ms }\n`;
  const documents = [
    ...frame(['shared']),
    limit(
      'shared',
      'Global',
      '{ clientSelectors: [{ headers: [{ name: x-tenant, type: Distinct }] }], limit: { requests: 10, unit: Hour } }',
    ),
  ].join('\n---\n');
  const start = (): Promise<Gateway> => startTestGateway(t, { listeners: ['default/edge:80'], yaml, documents });
  const gateways = await Promise.all([start(), start()]);
  const burst = async (tenant: string, count: number): Promise<number> => {
    const all = await Promise.all(
      Array.from({ length: count }, (_, i) => askOnce(gateways[i % 2]!, '/shared', { 'x-tenant': tenant })),
    );
    return all.filter(({ status }) => status === 200).length;
  };
  t.equal(await burst('a', 40), 10, 'forty at once to both: ten pass');
  t.equal(await burst('a', 4), 0);
  const details = async (): Promise<unknown[]> =>
    (await gateways[0]!.records(20))
      .map(({ response_code_details: one }) => one)
      .filter((one) => /limited/.test(String(one)));
  t.match(await details(), [/request_rate_limited|local_rate_limited/]);

  await redis.kill();
  const alone = await burst('b', 40);
  t.ok(alone >= 10 && alone <= 20, `without Redis each counts by itself: ${alone} passed`);
  await until(() => gateways[0]!.lines.some(({ code }) => code === 'redis_unavailable'), 'the log to say so');
  const back = await redis.again();
  t.teardown(() => back.kill());
  await until(
    async () =>
      gateways.every(({ lines }) =>
        lines.some(({ code }) => /redis_(?:available|back|recovered)/.test(String(code))),
      ) && (await burst('c', 1)) === 1,
    'Redis to be used again',
    10_000,
  );
});

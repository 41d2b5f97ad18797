// A gateway's refusals: each is listed and explained by its ID, with the client as far as it is known.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { askAs } from '../fixtures/edge-client.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { routeOf, webGateway } from '../fixtures/plan.ts';
import { startSallyport, tempDir } from '../fixtures/process.ts';

const rules = `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: readers, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-key] }] }
  authorization:
    defaultAction: Allow
    rules: [{ name: no-writes, action: Deny, operation: { methods: [POST] }, principal: { clientCIDRs: [127.0.0.0/8] } }]
`;
const keys = `
apiVersion: v1
kind: Secret
metadata: { name: keys, namespace: shop }
stringData: { partner: s3cret-key-of-a-partner }
`;

t.test('refusals of a gateway', async (t) => {
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
    documents: `${webGateway}${routeOf('r', '{ backendRefs: [{ name: a, port: 80 }] }')}---${rules}---${keys}`,
  });
  const admin = ['--admin', `127.0.0.1:${gateway.admin}`];
  const ask = (method: string, headers: Record<string, string>) =>
    askAs('HTTP/1.1', gateway.port('shop/g:80'), { method, path: '/x?a=b', host: 'a', headers });

  t.match(await runCommand(t, ['denials', ...admin]), { code: 0, stdout: 'nothing was refused\n' });
  // Of the file only the admin port counts.
  const config = join(tempDir(t), 'gateway.yaml');
  writeFileSync(config, `admin: ${gateway.admin}\nunknown: 1\n`);
  t.match(await runCommand(t, ['denials', '--config', config]), { code: 0, stdout: 'nothing was refused\n' });
  t.match(await runCommand(t, ['status', '--config', config]), { code: 0, stdout: /^ready\n/ });
  t.match(await runCommand(t, ['why', '--last', ...admin]), { code: 1, stderr: /no refusal that can be explained/ });

  t.equal((await ask('GET', {})).status, 401);
  t.equal((await ask('POST', { 'x-key': 's3cret-key-of-a-partner' })).status, 403);
  const [unknown, denied] = await gateway.records(2);
  const why = await runCommand(t, ['why', '--last', ...admin]);
  t.equal(why.code, 0);
  t.strictSame(await runCommand(t, ['why', '--last', '--config', config]), why);
  t.match(why.stdout, /POST \/x from partner was refused \[policy_denied\]\n/);
  t.match(why.stdout, /The SecurityPolicy shop\/readers decided, by its no-writes rule/);
  const first = await runCommand(t, ['why', String(unknown!['decision_id']), ...admin]);
  t.match(first.stdout, /GET \/x from 127\.0\.0\.1:?\d* was refused \[api_key_missing\]\n/);
  t.match(first.stdout, /sallyport explain api_key_missing/);

  const listed = await runCommand(t, ['denials', '--json', ...admin]);
  t.match(JSON.parse(listed.stdout), [
    { id: unknown!['decision_id'], code: 'api_key_missing', request: 'GET /x' },
    { id: denied!['decision_id'], code: 'policy_denied', from: 'partner', request: 'POST /x' },
  ]);
  t.notMatch(listed.stdout + why.stdout + first.stdout, /s3cret-key-of-a-partner/);

  const following = startSallyport(t, ['denials', '--follow', ...admin]);
  await following.waitFor(/POST \/x/);
  await ask('DELETE', {});
  await following.waitFor(/api_key_missing {2}\S+ {2}DELETE \/x/);
  t.equal(following.stdout().match(/POST \/x/g)?.length, 1, 'each is printed once');
});

// Under an MCPAuthorization no caller uses, or sees in a list, what no rule allows it, nor a session of another caller:
// on gateways and on a sidecar, over real sockets, in every framing, spelling and form of response.

import { connect } from 'node:net';
import t from 'tap';
import { startTestGateway } from '../fixtures/gateway.ts';
import { McpClient, startMcpServer } from '../fixtures/mcp.ts';
import { startMesh } from '../fixtures/mesh.ts';
import { serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const target = '{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }';
const rules =
  'rules: [{ action: Deny, operation: { tools: [delete_order] } }, { name: reading, action: Allow, principal: { clientIDs: [ann, bob] }, operation: { tools: ["*_order"] } }]';
const secret = (name: string, data: string): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: shop }\nstringData: ${data}\n`;
const documents =
  webGateway +
  webRoute +
  serviceOf('a') +
  secret('keys', '{ ann: key-of-ann-0123456789, bob: key-of-bob-0123456789, eve: key-of-eve-0123456789 }') +
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: s, namespace: shop }\nspec: { targetRefs: [${target}], apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }] } }\n` +
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { name: c, namespace: shop }\nspec: { targetRefs: [${target}], compression: [{ type: Gzip }] }\n` +
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: HTTPCache\nmetadata: { name: h, namespace: shop }\nspec: { targetRefs: [${target}] }\n` +
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: MCPAuthorization\nmetadata: { name: m, namespace: shop }\nspec: { targetRefs: [${target}], ${rules} }\n` +
  // A step before it that reads less of a body.
  `---\napiVersion: sallyport.dev/v1alpha1\nkind: RequestScreening\nmetadata: { name: q, namespace: shop }\nspec: { targetRefs: [${target}], bodyLimit: 100 }\n`;

const server = await startMcpServer(t);
const start = () =>
  startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${server.port}"] } }\nbackends: { shop/a:80: a }\nsessionKeys: keys\n`,
    files: { keys: 'one-key-for-several-gateways-0123456789\n' },
    documents,
  });
const [gateway, other] = [await start(), await start()];
const clientOf = (name: string, at = gateway) =>
  new McpClient(at.port('shop/g:80'), { host: 'a.test', 'x-api-key': `key-of-${name}-0123456789` });
const [ann, bob, eve] = [clientOf('ann'), clientOf('bob'), clientOf('eve')];

t.test('which tools a rule allows', async (t) => {
  const session = await ann.begin();
  t.match((await ann.call('tools/call', { name: 'get_order' }, session)).text, /tools\/call get_order/);
  const before = server.done.length;
  for (const name of ['delete_order', 'DELETE_ORDER', 'g\u0435t_order', 'drop', 'delete_order '])
    t.match(await ann.call('tools/call', { name }, session), { status: 200, text: /"error":\{"code":-32008/ }, name);
  for (const [body, status] of [
    ['{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_order","name":"delete_order"}}', 400],
    ['{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"delete_order"}}', 400],
    ['{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete_order"}}', 403],
    [
      '[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"delete_order"}}]',
      200,
    ],
    ['{"jsonrpc":"2.0","id":1,"method":"tools/run","params":{"name":"get_order"}}', 200],
  ] as const)
    t.match(await ann.send('POST', body, session), { status, text: /"error"/ }, body);
  t.match(await eve.call('initialize'), { status: 403, text: /access denied/ });
  t.match(await eve.send('GET'), { status: 403 });
  t.equal(server.done.length, before, 'nothing of it reached the server');
  t.match(
    // The first lines may be written before the last ones are there.
    await until(
      async () => (await gateway.records(1)).find(({ mcp }) => mcp === 'tools/call delete_order'),
      'the record of the refused call',
    ),
    { code: 'policy_denied', policy: 'mcpauthorization/shop/m/rule/0', response_code: 200, client_id: 'ann' },
  );
});

t.test('a server as the SDKs build it works', async (t) => {
  const session = await ann.begin();
  t.match(await ann.send('POST', '{"jsonrpc":"2.0","method":"notifications/initialized"}', session), {
    status: 202,
    text: '',
  });
  t.match(await ann.send('DELETE', undefined, session), { status: 200, text: '' });
});

t.test('a call that arrives byte by byte is evaluated', async (t) => {
  const body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_order"}}';
  const text = await new Promise<string>((resolve, reject) => {
    let said = '';
    const socket = connect(gateway.port('shop/g:80'), '127.0.0.1', () => {
      socket.write(
        'POST /mcp HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nX-Api-Key: key-of-ann-0123456789\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n',
      );
      for (const one of body) socket.write(`1\r\n${one}\r\n`);
      socket.write('0\r\n\r\n');
    });
    socket.setEncoding('latin1').on('data', (piece) => {
      said += piece;
    });
    socket.on('end', () => resolve(said)).on('error', reject);
  });
  t.match(text, /^HTTP\/1\.1 200 .*access denied/s);
});

t.test('a long call is evaluated behind a step that reads less of it', async (t) => {
  for (const headers of [{}, { 'transfer-encoding': 'chunked' }] as Record<string, string>[])
    for (const [name, text] of [
      ['get_order', /tools\/call get_order/],
      ['delete_order', /access denied/],
    ] as const)
      t.match(await ann.call('tools/call', { arguments: { text: 'x'.repeat(300_000) }, name }, headers), {
        status: 200,
        text,
      });
});

t.test('lists contain only allowed tools', async (t) => {
  const session = await ann.begin();
  for (const accept of ['application/json', 'text/event-stream']) {
    const { status, text, headers } = await ann.call(
      'tools/list',
      {},
      { ...session, accept, 'accept-encoding': 'gzip' },
    );
    t.equal(status, 200);
    t.match(text, /"tools":\[\{"name":"get_order","inputSchema":\{"type":"object"\}\}\]/, accept);
    t.equal(headers['content-encoding'], undefined);
  }
  const stream = await ann.send('GET', undefined, { ...session, range: 'bytes=40-' });
  t.match(stream.text, /^: stream/);
  t.notMatch(stream.text, /delete_order/);
});

t.test('sessions belong to their caller', async (t) => {
  const [mine, theirs] = [await ann.begin(), await bob.begin()];
  const before = server.done.length;
  for (const method of ['GET', 'DELETE']) t.match(await bob.send(method, undefined, mine), { status: 404 });
  t.match(await bob.call('tools/call', { name: 'get_order' }, mine), { status: 404, text: /session not found/ });
  const { text } = await ann.send('GET', undefined, mine);
  const [, event] = /^id: (.*)$/m.exec(text) ?? [];
  t.match(await bob.send('GET', undefined, { ...theirs, 'last-event-id': event! }), { status: 404 });
  t.strictSame(server.done.slice(before), [`GET ${server.done[before]!.split(' ')[1]} -`]);
  t.match(await ann.send('GET', undefined, { ...mine, 'last-event-id': event! }), { status: 200 });
  t.notMatch(server.done.at(-1), / -$/, 'the server gets its own event ID');
  t.match(await clientOf('ann', other).send('DELETE', undefined, mine), { status: 200 }, 'at another gateway');
  t.match(await clientOf('bob', other).send('DELETE', undefined, mine), { status: 404 });
});

t.test('a stream is not served to another caller from a cache', async (t) => {
  const [mine, theirs] = [await ann.begin(), await bob.begin()];
  const before = server.done.length;
  for (const [client, session] of [
    [ann, mine],
    [bob, theirs],
    [ann, mine],
  ] as const)
    t.equal((await client.send('GET', undefined, session)).status, 200);
  t.equal(server.done.length, before + 3, 'the server is asked each time');
  t.equal(new Set(server.done.slice(before)).size, 2, 'with the session of each');
});

t.test('a change of the rules ends sessions and streams that it no longer allows', async (t) => {
  t.match(await bob.call('tools/call', { name: 'get_order' }), { status: 200, text: /tools\/call get_order/ });
  await gateway.write('all.yaml', documents.replace('clientIDs: [ann, bob]', 'clientIDs: [ann]'));
  t.match(await bob.call('tools/call', { name: 'get_order' }), { status: 403 });
  const metrics = await (await fetch(`http://127.0.0.1:${gateway.admin}/stats/prometheus`)).text();
  t.match(metrics, /sallyport_mcp_messages_total\{policy="shop\/m",method="tools\/call",outcome="denied"\} \d+/);
});

t.test('a sidecar enforces the rules at its inbound port', async (t) => {
  const mesh = await startMesh(t, {
    app: server.port,
    ordersYaml:
      'mcpAuthorization: { rules: [{ action: Allow, principal: { spiffeIDs: ["spiffe://demo.test/ns/shop/sa/web"] }, operation: { tools: [get_order] } }] }\n',
  });
  const web = new McpClient(mesh.outPort, { host: 'orders' });
  const session = await web.begin();
  t.match((await web.call('tools/call', { name: 'get_order' }, session)).text, /tools\/call get_order/);
  t.match(await web.call('tools/call', { name: 'delete_order' }, session), { status: 200, text: /access denied/ });
  t.notMatch((await web.call('tools/list', {}, session)).text, /delete_order/);
  t.match(await web.send('GET', undefined, { 'mcp-session-id': 'x' }), { status: 404 });
});

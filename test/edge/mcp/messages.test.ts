// What an MCP client may send: each message is judged by method and name, and what can be read in two ways is refused.

import { randomBytes } from 'node:crypto';
import t from 'tap';
import { mcp } from '../../../sidecar/edge/mcp/capability.ts';
import { refuse } from '../../../sidecar/respond.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const counts: string[] = [];
const shared = {
  refuse,
  key: randomBytes(32),
  count: (policy: string, method: string, outcome: string) => void counts.push(`${policy} ${method} ${outcome}`),
};
const hooksFor = async (written: object) =>
  hooksOf(mcp, { MCPAuthorization: await planOf(mcp, 'MCPAuthorization', written) }, { shared });

const hooks = await hooksFor({
  rules: [
    { name: 'never', action: 'Deny', operation: { tools: ['delete*'], resources: ['file:///etc/*'] } },
    {
      name: 'known',
      action: 'Allow',
      principal: { clientIDs: ['ann'] },
      operation: {
        tools: ['get_weather', 'delete_draft', 'say*'],
        prompts: ['Code Review'],
        resources: ['file:///docs/*', 'file:///etc/motd'],
      },
    },
    { name: 'tasks', action: 'Allow', principal: { clientIDs: ['ann'] }, operation: { methods: ['tasks/*'] } },
  ],
});

type Headers = Readonly<Record<string, string>>;

const post = (body: string | Buffer, headers: Headers = {}, clientId = 'ann', using = hooks) => {
  const bytes = Buffer.from(body as string);
  return serve(
    using,
    {
      known: { method: 'POST', path: '/mcp', clientId, authMethod: 'apiKey', framing: bytes.length, wholeBody: bytes },
      headers: { 'content-type': 'application/json', ...headers },
    },
    { headers: { 'content-type': 'application/json' }, body: '{}' },
  );
};
const request = (method: string, params?: object, id: unknown = 1) =>
  JSON.stringify({ jsonrpc: '2.0', id, method, ...(params === undefined ? {} : { params }) });

/** `passed`, or status, code and the error's number. */
const outcome = async (sent: ReturnType<typeof post>): Promise<string> => {
  const { client, backend } = await sent;
  if (backend !== undefined) return client.code ?? 'passed';
  const { error } = JSON.parse(client.body) as { error: { code: number } };
  return `${client.status} ${client.code} ${error.code}`;
};
const denied = '200 policy_denied -32008';

t.test('methods and names are read', async (t) => {
  const rows: [string, string, string][] = [
    ['a tool', request('tools/call', { name: 'get_weather', arguments: {} }), 'passed'],
    ['by a prefix', request('tools/call', { name: 'say_hello' }), 'passed'],
    ['no rule', request('tools/call', { name: 'other' }), denied],
    ['an earlier rule', request('tools/call', { name: 'delete_draft' }), denied],
    ['another kind of the same name', request('prompts/get', { name: 'get_weather' }), denied],
    ['a prompt', request('prompts/get', { name: 'Code Review' }), 'passed'],
    ['a resource', request('resources/read', { uri: 'file:///docs/a.txt' }), 'passed'],
    ['a subscription', request('resources/subscribe', { uri: 'file:///docs/a.txt' }), 'passed'],
    ['another subscription', request('resources/subscribe', { uri: 'file:///home/a.txt' }), denied],
    ['the end of a task', request('resources/unsubscribe', { uri: 'file:///home/a.txt' }), denied],
    ['a completion', request('completion/complete', { ref: { type: 'ref/prompt', name: 'Code Review' } }), 'passed'],
    ['of another prompt', request('completion/complete', { ref: { type: 'ref/prompt', name: 'x' } }), denied],
    [
      'of a template',
      request('completion/complete', { ref: { type: 'ref/resource', uri: 'file:///docs/{p}' } }),
      'passed',
    ],
    ['of another template', request('completion/complete', { ref: { type: 'ref/resource', uri: 'db://{p}' } }), denied],
    ['a stream of changes', request('subscriptions/listen', { notifications: { toolsListChanged: true } }), 'passed'],
    [
      'of resources',
      request('subscriptions/listen', { notifications: { resourceSubscriptions: ['file:///docs/a'] } }),
      'passed',
    ],
    [
      'of one more',
      request('subscriptions/listen', { notifications: { resourceSubscriptions: ['file:///docs/a', 'file:///b'] } }),
      denied,
    ],
    ['with an unknown filter', request('subscriptions/listen', { notifications: { taskIds: ['1'] } }), denied],
    ['the beginning of a session', request('initialize', { protocolVersion: '2025-11-25' }), 'passed'],
    ['a list', request('tools/list', undefined, 'a'), 'passed'],
    ['an extension that is named', request('tasks/get', { taskId: '1' }), 'passed'],
    ['an unknown method', request('tools/run', { name: 'get_weather' }), denied],
    ['a method of an object', request('constructor'), denied],
    ['a method in capitals', request('Tools/Call', { name: 'delete' }), denied],
    [
      'a method in escapes',
      '{"jsonrpc":"2.0","id":1,"method":"tools\\u002fcall","params":{"name":"\\u0064elete"}}',
      denied,
    ],
    ['a notification', '{"jsonrpc":"2.0","method":"notifications/initialized"}', 'passed'],
    [
      'a call without an id',
      '{"jsonrpc":"2.0","method":"tools/call","params":{"name":"other"}}',
      '403 policy_denied -32008',
    ],
    ['a response', '{"jsonrpc":"2.0","id":4,"result":{}}', 'passed'],
    ['an error', '{"jsonrpc":"2.0","id":4,"error":{"code":1,"message":"x"}}', 'passed'],
  ];
  for (const [name, body, want] of rows) t.equal(await outcome(post(body)), want, name);
  t.equal(await outcome(post(request('initialize'), {}, 'bob')), '403 policy_denied -32008', 'no rule for this caller');
  const { client, exchange } = await post(request('tools/call', { name: 'other' }, 'x-1'));
  t.strictSame(JSON.parse(client.body), {
    jsonrpc: '2.0',
    id: 'x-1',
    error: { code: -32008, message: 'access denied' },
  });
  t.match(exchange, {
    policy: 'mcpauthorization/shop/p/default',
    decision: 'deny',
    noted: [{ name: 'mcp', text: 'tools/call other' }],
    details: 'rbac_access_denied_matched_policy[mcpauthorization/shop/p/default]',
  });
  t.ok(counts.includes('shop/p other denied') && counts.includes('shop/p tools/call allowed'));
});

t.test('names that look alike, and other spellings, are refused', async (t) => {
  const open = await hooksFor({
    defaultAction: 'Allow',
    rules: [
      {
        action: 'Deny',
        operation: { tools: ['delete'], resources: ['file:///docs/secret', 'http://x.test/b/*', 'note://a/%C3%A9'] },
      },
      { action: 'Allow', operation: { tools: ['m\u00fcll'] } },
    ],
  });
  const call = (name: string) => outcome(post(request('tools/call', { name }), {}, 'ann', open));
  t.equal(await call('deletes'), 'passed');
  t.equal(await call('m\u00fcll'), 'passed', 'named letter by letter');
  for (const name of [
    'delete',
    'DELETE',
    'd\u0435lete',
    '\uff44elete',
    'delete ',
    ' delete',
    'delete\u200b',
    'de\u00adlete',
    'd\u0131elete',
    'mu\u0308ll',
    '',
    'delete\0',
    'a  b',
  ])
    t.equal(await call(name), denied, JSON.stringify(name));
  const read = (uri: string) => outcome(post(request('resources/read', { uri }), {}, 'ann', open));
  for (const uri of [
    'file:///docs/secrets',
    'note://Ann/1',
    'http://x.test/a?b=c',
    'a:b',
    'file:///docs/a%20b',
    'x://h/%C3%A4',
    'x://h/a..b/...?c=..d',
    'x://h/%20%3F%40%60%7B',
  ])
    t.equal(await read(uri), 'passed', uri);
  for (const uri of [
    ...[
      'file:///docs/secret',
      'FILE:///docs/secret',
      'file:///DOCS/secret',
      'file:///docs/./secret',
      'file:///docs/a/../secret',
    ],
    ...[
      'file:///docs//secret',
      'file:///docs/%73ecret',
      'file:///docs%2Fsecret',
      'file:///docs/a/%2e%2e/secret',
      'file:/docs/secret',
    ],
    ...[
      'file://localhost/docs/secret',
      'file:///docs/secret/',
      'file:///docs/secret?x',
      'file:///docs/secret#x',
      'file:///docs/secret%00',
    ],
    ...[
      'file:///docs\\secret',
      ' file:///docs/secret',
      'file:///docs/secr\u0435t',
      'docs/secret',
      'http://X.test/b/',
      'http://x.test:80/b/c',
    ],
    ...[
      'http://x.test./b/c',
      'http://u@x.test/b/c',
      'http://x.test/b/',
      'http://x.test/%62/c',
      'x:%zz',
      'x:%',
      'file:///docs/..',
      'note://a/%c3%A9',
      'file:///docs/x?/../secret',
      'file:///docs/x#/../secret',
      'file:///docs/x?y=/z/../../secret',
      'file:///docs/x/..;/secret',
      'file:///docs/x/..%20/secret',
      'file:///docs/x/%EF%BC%8E%EF%BC%8E/secret',
      'file:///docs/x/%E2%80%A5/secret',
      'note://../a',
      'note:..',
    ],
  ])
    t.equal(await read(uri), denied, uri);
});

t.test('messages that two parsers read differently are refused', async (t) => {
  const call = '"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_weather"}';
  const rows: [string, string | Buffer, string, Headers?][] = [
    ['a key twice', `{${call},"method":"ping"}`, '400 json_duplicate_key -32700'],
    [
      'a name twice',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_weather","n\\u0061me":"x"}}',
      '400 json_duplicate_key -32700',
    ],
    ['another case', `{${call},"Method":"tools/call"}`, '400 mcp_message_invalid -32600'],
    [
      'another case of a name',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_weather","NAME":"x"}}',
      '400 mcp_message_invalid -32600',
    ],
    [
      'a long s',
      '{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{},"notification\u017f":{}}}',
      '400 mcp_message_invalid -32600',
    ],
    ['a byte order mark', `\ufeff{${call}}`, '400 json_syntax -32700'],
    ['UTF-16', Buffer.from(`{${call}}`, 'utf16le'), '400 json_syntax -32700'],
    ['not UTF-8', Buffer.from(`{${call},"x":"\xff"}`, 'latin1'), '400 json_not_utf8 -32700'],
    ['two texts', `{${call}}{${call}}`, '400 json_syntax -32700'],
    ['nothing', '', '400 json_syntax -32700'],
    [
      'deep',
      `{${call.replace('"get_weather"', `"get_weather","a":${'['.repeat(70)}${']'.repeat(70)}`)}}`,
      '400 json_too_deep -32700',
    ],
    ['no version', '{"id":1,"method":"ping"}', '400 mcp_message_invalid -32600'],
    ['both request and response', `{${call},"result":{}}`, '400 mcp_message_invalid -32600'],
    ['result and error', '{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', '400 mcp_message_invalid -32600'],
    ['a null id', '{"jsonrpc":"2.0","id":null,"method":"ping"}', '400 mcp_message_invalid -32600'],
    ['an id with a fraction', '{"jsonrpc":"2.0","id":1.5,"method":"ping"}', '400 mcp_message_invalid -32600'],
    [
      'params in a list',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["get_weather"]}',
      '400 mcp_message_invalid -32600',
    ],
    ['an invalid name', request('tools/call', { name: ['get_weather'] }), '400 mcp_message_invalid -32600'],
    ['a long name', request('tools/call', { name: 'get_weather'.repeat(400) }), '400 mcp_message_invalid -32600'],
    ['a long method', request('x'.repeat(5000)), '400 mcp_message_invalid -32600'],
    [
      'many subscriptions',
      request('subscriptions/listen', { notifications: { resourceSubscriptions: Array(1001).fill('file:///docs/a') } }),
      '400 mcp_message_invalid -32600',
    ],
    [
      'a long subscription',
      request('subscriptions/listen', {
        notifications: { resourceSubscriptions: [`file:///docs/${'a'.repeat(4096)}`] },
      }),
      '400 mcp_message_invalid -32600',
    ],
    ['no name', request('tools/call', {}), '400 mcp_message_invalid -32600'],
    [
      'a reference to both',
      request('completion/complete', { ref: { type: 'ref/prompt', name: 'Code Review', uri: 'x:y' } }),
      '400 mcp_message_invalid -32600',
    ],
    ['text', `{${call}}`, '415 content_type_unsupported -32600', { 'content-type': 'text/plain' }],
    [
      'two types',
      `{${call}}`,
      '415 content_type_unsupported -32600',
      { 'content-type': 'application/json, text/plain' },
    ],
    [
      'another charset',
      `{${call}}`,
      '415 content_type_unsupported -32600',
      { 'content-type': 'application/json; charset=utf-16' },
    ],
    ['a coding', `{${call}}`, '415 content_encoding_unsupported -32600', { 'content-encoding': 'gzip' }],
    ['a coding for WSGI', `{${call}}`, '415 content_encoding_unsupported -32600', { content_encoding: 'gzip' }],
    ['a valid charset', `{${call}}`, 'passed', { 'content-type': 'application/json;charset=UTF-8' }],
    ['headers that agree', `{${call}}`, 'passed', { 'mcp-method': 'tools/call', 'mcp-name': 'get_weather' }],
    ['a name in base64', `{${call}}`, 'passed', { 'mcp-name': '=?base64?Z2V0X3dlYXRoZXI=?=' }],
    ['another method', `{${call}}`, '400 mcp_header_mismatch -32020', { 'mcp-method': 'ping' }],
    ['another name', `{${call}}`, '400 mcp_header_mismatch -32020', { 'mcp-name': 'ping' }],
    [
      'another name for WSGI',
      `{${call}}`,
      '400 mcp_header_mismatch -32020',
      { 'mcp-name': 'get_weather', mcp_name: 'x' },
    ],
    ['a name for none', request('ping'), '400 mcp_header_mismatch -32020', { 'mcp-name': 'x' }],
    [
      'another version',
      request('ping', { _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } }),
      '400 mcp_header_mismatch -32020',
      { 'mcp-protocol-version': '2025-11-25' },
    ],
  ];
  for (const [name, body, want, headers] of rows) t.equal(await outcome(post(body, headers)), want, name);
});

t.test('methods that are spelled almost like one of the protocol are refused', async (t) => {
  const using = await hooksFor({
    rules: [
      { action: 'Deny', operation: { tools: ['delete'] } },
      { action: 'Allow', operation: { methods: ['*', 'tools/Call'] } },
    ],
  });
  const call = (method: string) => outcome(post(request(method, { name: 'delete' }), {}, 'ann', using));
  for (const method of ['tools/call', 'tools/CALL', 'tools/Call', 'tools/call ', 'ｔools/call', 'Tools/List'])
    t.equal(await call(method), denied, method);
  for (const method of ['tools/calls', 'x/call']) t.equal(await call(method), 'passed', method);
});

t.test('batches are evaluated message by message', async (t) => {
  const [weather, other, ping] = [
    request('tools/call', { name: 'get_weather' }, 1),
    request('tools/call', { name: 'other' }, 'b'),
    '{"jsonrpc":"2.0","method":"notifications/initialized"}',
  ];
  t.equal(await outcome(post(`[${weather},${ping}]`)), 'passed');
  t.equal(await outcome(post(`[${weather}]`, { 'mcp-protocol-version': '2025-03-26' })), 'passed');
  const { client, backend } = await post(`[${weather},${ping},${other}]`);
  t.equal(backend, undefined, 'no message of the batch is executed');
  t.match(
    { ...client, body: JSON.parse(client.body) as object },
    {
      status: 200,
      code: 'policy_denied',
      body: [
        { id: 1, error: { code: -32008, message: 'not executed: another message of the batch is denied' } },
        { id: 'b', error: { code: -32008, message: 'access denied' } },
      ],
    },
  );
  const notice = other.replace('"id":"b",', '');
  t.equal(await outcome(post(`[${notice}]`)), '403 policy_denied -32008');
  for (const [body, version] of [
    ['[]', '2025-03-26'],
    [`[${weather}]`, '2025-06-18'],
    [`[[${weather}]]`, '2025-03-26'],
    [`[${weather},1]`, '2025-03-26'],
    [`[${Array(101).fill(ping).join()}]`, '2025-03-26'],
  ] as const)
    t.equal(
      await outcome(post(body, { 'mcp-protocol-version': version })),
      '400 mcp_message_invalid -32600',
      body.slice(0, 20),
    );
  t.equal(await outcome(post(`[${weather}]`, { 'mcp-method': 'tools/call' })), '400 mcp_header_mismatch -32020');
});

t.test('other requests pass or are refused by their method and path', async (t) => {
  const ask = (known: object, headers: Headers = {}) =>
    outcome(
      serve(
        hooks,
        { known: { clientId: 'ann', authMethod: 'apiKey', path: '/mcp', ...known }, headers },
        { headers: { 'content-type': 'text/event-stream' }, body: '' },
      ),
    );
  t.equal(await ask({ method: 'GET' }), 'passed');
  t.equal(await ask({ method: 'DELETE' }), 'passed');
  t.equal(await ask({ method: 'GET', clientId: 'bob' }), '403 policy_denied -32008');
  t.equal(await ask({ method: 'DELETE', clientId: undefined }), '403 policy_denied -32008');
  t.equal(await ask({ method: 'GET', framing: 3 }), '400 mcp_message_invalid -32600');
  for (const method of ['PUT', 'PATCH', 'HEAD', 'OPTIONS', 'QUERY'])
    t.match(await serve(hooks, { known: { method, clientId: 'ann' } }), {
      backend: undefined,
      client: { status: 405, code: 'method_not_allowed', headers: { allow: 'POST, GET, DELETE' } },
    });
  t.equal(await ask({ method: 'GET', webSocket: true }), '501 upgrade_unsupported -32600');
  t.match(await serve(hooks, { known: { method: 'POST', grpc: true } }), { backend: undefined });
  t.match(await serve(await hooksFor({ bodyLimit: 10 }), { known: { method: 'POST', framing: 11 } }), {
    client: { status: 413, code: 'body_too_large' },
  });
});

t.test('requests in flight under changed rules are evaluated again', async (t) => {
  const { exchange } = await post(request('tools/call', { name: 'get_weather' }));
  const [list, stream] = [
    (await post(request('tools/list'))).exchange,
    (await serve(hooks, { known: { method: 'GET', clientId: 'ann', authMethod: 'apiKey' } })).exchange,
  ];
  const before = hooks.guard.known;
  const of = async (tools: string[]) => (await hooksFor({ rules: [{ action: 'Allow', operation: { tools } }] })).guard;
  t.equal(hooks.guard.stillHolds(stream, before), true, 'the same rules');
  const [kept, gone] = [await of(['get_weather']), await of(['x'])];
  t.equal(kept.stillHolds(exchange, before), true);
  t.equal(gone.stillHolds(exchange, before), false);
  t.equal(kept.stillHolds(list, before), false);
  t.equal(kept.stillHolds(stream, before), false);
});

t.test('rules with contradictions are refused', async (t) => {
  const rows: [string, object, RegExp][] = [
    ['nothing named', { action: 'Allow', operation: {} }, /names nothing/],
    ['a star inside', { action: 'Allow', operation: { tools: ['a*b'] } }, /one star at most/],
    ['an ambiguous URI', { action: 'Allow', operation: { resources: ['file:///a/../b'] } }, /usual spelling/],
    ['an empty principal', { action: 'Allow', principal: {} }, /matches no caller/],
  ];
  for (const [name, rule, message] of rows)
    await t.rejects(planOf(mcp, 'MCPAuthorization', { rules: [rule] }), { message }, name);
  await t.rejects(
    planOf(mcp, 'MCPAuthorization', {
      rules: [
        { name: 'a', action: 'Allow' },
        { name: 'a', action: 'Deny' },
      ],
    }),
    {
      message: /named twice/,
    },
  );
});

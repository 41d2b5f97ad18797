// Requests under a RequestScreening: what is read of each part, what is refused, what is excluded, what is logged.

import { gzipSync } from 'node:zlib';
import { Registry } from 'prom-client';
import t from 'tap';
import { screening } from '../../../sidecar/edge/screening/capability.ts';
import { registerScreeningMetrics } from '../../../sidecar/edge/screening/metrics.ts';
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
  return [client.code ?? 'passed', ...(exchange.noted ?? []).map(([name, text]) => `${name}=${text}`)].join(' ');
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
    ['a JSON that is none', { headers: json, body: `{'a':'${xss}'}` }, 'body'],
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

t.test('what is ordinary passes', async (t) => {
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
        authorization: "Bearer ' or 1=1",
        referer: 'https://localhost/a',
        'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)',
      },
    },
    {},
  ];
  for (const sent of ordinary) t.equal(await said(hooks, sent), 'passed', JSON.stringify(sent).slice(0, 80));
});

t.test('Detect logs, and lets pass', async (t) => {
  const registry = new Registry();
  const hooks = await hooksFor({ mode: 'Detect' }, { registry });
  t.match(await said(hooks, { path: `/a?q=${encodeURIComponent(xss)}` }), /^passed screening=\d+ query q: xss-/);
  t.match(await said(hooks, { body: 'x'.repeat(2 ** 20 + 1) }), 'passed');
  const text = await registry.metrics();
  t.match(text, 'sallyport_screenings_total{mode="Detect",outcome="attack"} 1');
  t.match(text, 'sallyport_screenings_total{mode="Detect",outcome="unscreened"} 1');
  t.match(text, 'sallyport_screening_detections_total{mode="Detect",detector="xss"} 1');
});

t.test('evidence has no payload', async (t) => {
  const hooks = await hooksFor();
  const text = await said(hooks, { path: `/a?${encodeURIComponent(xss)}=${encodeURIComponent(union)}` });
  t.match(text, 'query *: sql-');
  t.notMatch(text, /img|users|union select/);
});

t.test('exclusions', async (t) => {
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
  await hooksFor({ exclusions: [{ ...one, until: '2020-01-01' }] }, { warnings });
  t.strictSame(warnings, ["the exclusion 'analysts write SQL' ended on 2020-01-01: it has no effect"]);
  await t.rejects(hooksFor({ exclusions: [{ detector: 'sql', until: '2099-01-01' }] }), /reason/);
  await t.rejects(hooksFor({ exclusions: [{ detector: 'sql', reason: 'x' }] }), /until|ends on a day/);
});

t.test('threshold, paranoia and detectors', async (t) => {
  const weak = { path: '/a?q=..%2Fa.png' };
  t.match(await said(await hooksFor(), weak), /^passed screening=3 query q: path-step/);
  t.match(await said(await hooksFor({ threshold: 3 }), weak), 'attack_detected');
  const plain = { path: `/a?q=${encodeURIComponent("x')")}` };
  t.match(await said(await hooksFor(), plain), /^passed/);
  t.match(await said(await hooksFor({ threshold: 2, paranoiaLevel: 2 }), plain), 'attack_detected');
  t.match(await said(await hooksFor({ detectors: ['xss'] }), { path: `/a?q=${encodeURIComponent(union)}` }), 'passed');
});

t.test('budgets', async (t) => {
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

t.test('messages of gRPC and tunnels pass with their heads screened', async (t) => {
  const hooks = await hooksFor();
  for (const known of [{ grpc: true }, { webSocket: true }]) {
    t.equal(await said(hooks, { known }), 'passed');
    t.match(await said(hooks, { known, headers: { 'x-a': union } }), 'attack_detected');
  }
});

t.test('rules of CRS are evaluated', async (t) => {
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

// What the app may read in another way than the gateway is refused.

import { brotliCompressSync, gzipSync } from 'node:zlib';
import t from 'tap';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

/** Hooks under an API with these paths. */
async function hooksFor(paths: object, more: object = {}) {
  const openapi = { openapi: '3.1.0', info: {}, paths };
  const plan = await planOf(validation, 'RequestValidation', { openapi, ...more });
  return hooksOf(validation, { RequestValidation: plan }, { name: 'RequestValidation shop/v' });
}
type HooksOf = Awaited<ReturnType<typeof hooksFor>>;
type Headers = Readonly<Record<string, string>>;

/** `passed`, or the code with the places of violations. */
async function post(hooks: HooksOf, headers: Headers, body: string | Buffer): Promise<string> {
  const wholeBody = Buffer.from(body as string);
  return saidOf(
    await serve(hooks, { headers, known: { method: 'POST', path: '/', wholeBody, framing: wholeBody.length } }),
  );
}

async function get(hooks: HooksOf, path: string, headers: Headers = {}): Promise<string> {
  return saidOf(await serve(hooks, { headers, known: { method: 'GET', path } }));
}

function saidOf({ client, exchange }: Awaited<ReturnType<typeof serve>>): string {
  if (client.status === 200) return 'passed';
  if (client.code === 'internal') throw exchange.failure;
  const { errors = [] } = JSON.parse(client.body) as { errors?: { name?: string; pointer: string; code: string }[] };
  return [client.code, ...errors.map(({ name = '', pointer, code }) => `${name}${pointer} ${code}`)].join(' | ');
}

const urlEncoded = 'application/x-www-form-urlencoded';
const multipart = 'multipart/form-data';

/** Admin is not a role to ask for. */
const schema = {
  type: 'object',
  additionalProperties: false,
  properties: { role: { type: 'string', not: { const: 'admin' } }, note: { type: 'string' } },
};
const content = { [multipart]: { schema }, [urlEncoded]: { schema }, 'text/plain': {}, 'application/json': { schema } };
const paths = { '/': { post: { requestBody: { content } } } };
const hooks = await hooksFor(paths);

const part = (name: string, body: string, more = ''): string =>
  `--b\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${body}\r\n`;
const form = (...parts: readonly string[]): Buffer => Buffer.from(`${parts.join('')}--b--\r\n`, 'latin1');
const ofType = (type: string): Headers => ({ 'content-type': type });
const inForm = ofType(`${multipart}; boundary=b`);

t.test('a charset other than the one in which the value is compared', async (t) => {
  const utf16 = Buffer.from('admin', 'utf16le').toString('latin1');
  const said = (charset: string, type = 'text/plain', more = ''): string =>
    `${more}\r\nContent-Type: ${type}; charset=${charset}`;
  const rows: readonly (readonly [body: Buffer, outcome: string])[] = [
    [form(part('role', utf16, said('utf-16le'))), 'request_invalid | #/role encoding'],
    [form(part('role', '+AGEAZABtAGkAbg-', said('utf-7'))), 'request_invalid | #/role encoding'],
    [form(part('role', '"x"', said('utf-16', 'application/json'))), 'request_invalid | #/role encoding'],
    [form(part('role', utf16, said('utf-16le', 'text/csv', '; filename="a"'))), 'request_invalid | #/role encoding'],
    [form(part('role', 'admin', said('utf-8'))), 'request_invalid | #/role not'],
    [form(part('role', 'user', said('"UTF-8"'))), 'passed'],
    [form(part('_charset_', 'utf-7'), part('role', 'x')), 'form_invalid'],
  ];
  for (const [body, outcome] of rows)
    t.equal(await post(hooks, inForm, body), outcome, JSON.stringify(body.toString('latin1')));
  const outer = ofType(`${multipart}; boundary=b; charset=utf-16le`);
  t.equal(await post(hooks, outer, form(part('role', utf16))), 'content_type_unsupported');
  t.equal(await post(hooks, ofType(`${multipart}; boundary=b; charset=utf-8`), form(part('role', 'user'))), 'passed');
  t.equal(await post(hooks, ofType(urlEncoded), '_charset_=utf-7&role=x'), 'form_invalid');
});

t.test('a boundary that another parser takes from elsewhere', async (t) => {
  const body = form(part('note', 'x'));
  for (const [parameters, outcome] of [
    ["boundary=b; boundary*=utf-8''X", 'content_type_unsupported'],
    ['boundary=b; boundary*0=X', 'content_type_unsupported'],
    ["boundary=b; charset*=utf-16''le", 'content_type_unsupported'],
    ['boundary="\\b"', 'content_type_unsupported'],
    ['xboundary=X; boundary=b', 'form_invalid'],
    ['x="boundary=X"; boundary=b', 'form_invalid'],
    ['boundary=b', 'passed'],
    ['boundary="b"', 'passed'],
  ] as const)
    t.equal(await post(hooks, ofType(`${multipart}; ${parameters}`), body), outcome, parameters);
});

t.test('a boundary inside a part, and quotes within quoted names', async (t) => {
  const unknown = form(part('note', 'x', `; a='; b="'; c="`));
  t.equal(await post(hooks, inForm, unknown), 'form_invalid', 'a parameter of a disposition that is unknown');
  const hidden = '--b\nContent-Disposition: form-data; name="role"\n\nadmin\n';
  for (const before of ['x\n', 'x\r', 'x', ''])
    t.equal(await post(hooks, inForm, form(part('note', `${before}${hidden}`))), 'form_invalid', before);
  t.equal(await post(hooks, inForm, form(part('note', '--c'))), 'passed');
  for (const more of ['; filename="a\\"; name=\\"role"', '; filename="a\\"'])
    t.equal(await post(hooks, inForm, form(part('note', 'x', more))), 'form_invalid', more);
  t.equal(await post(hooks, inForm, form(part('ro\\le', 'admin'))), 'form_invalid');
  t.equal(await post(hooks, inForm, form(part('note', 'x', '; filename="C:\\a.txt"'))), 'passed');
});

t.test('encoded forms, which an app that does not decode reads as they are', async (t) => {
  const plain = gzipSync('note=x');
  const comment = Buffer.from('&role=admin&\0');
  // RFC 1952 section 2.3: the flag FCOMMENT, and a comment behind the fixed head of ten bytes.
  const gzip = Buffer.concat([plain.subarray(0, 3), Buffer.from([0x10]), plain.subarray(4, 10), comment]);
  const polyglot = Buffer.concat([gzip, plain.subarray(10)]);
  const coded = (type: string, coding = 'gzip'): Headers => ({ ...ofType(type), 'content-encoding': coding });
  t.equal(await post(hooks, coded(urlEncoded), polyglot), 'content_encoding_unsupported');
  t.equal(
    await post(hooks, coded(urlEncoded, 'br'), brotliCompressSync('note=x')),
    'content_encoding_unsupported',
    'each coding may hold text as it is',
  );
  t.equal(await post(hooks, coded('text/plain'), gzipSync('x')), 'content_encoding_unsupported');
  const boundary = coded(`${multipart}; boundary=b`);
  t.equal(await post(hooks, boundary, gzipSync(form(part('note', 'x')))), 'content_encoding_unsupported');
  t.equal(await post(hooks, coded('application/json'), gzipSync('{"note":"x"}')), 'passed');
  const brotli = brotliCompressSync('{"note":"x"}');
  t.equal(
    await post(hooks, coded('application/json', 'br'), brotli),
    'content_encoding_unsupported',
    'the bytes of brotli can be JSON',
  );
  t.equal(await post(hooks, coded(urlEncoded, 'identity'), 'note=x'), 'passed');
  const accepting = await hooksFor(paths, { codedForms: 'Accept' });
  t.equal(await post(accepting, coded(urlEncoded), plain), 'passed');
  t.equal(await post(accepting, coded(urlEncoded), gzipSync('role=admin')), 'request_invalid | #/role not');
});

t.test('another spelling of Content-Encoding', async (t) => {
  for (const name of ['content_encoding', 'Content.Encoding', 'CONTENT_ENCODING'])
    t.equal(
      await post(hooks, { ...ofType('application/json'), [name]: 'gzip' }, gzipSync('{"note":"x"}')),
      'content_encoding_unsupported',
      name,
    );
  const both = { ...ofType('application/json'), 'content-encoding': 'identity', content_encoding: 'identity' };
  t.equal(await post(hooks, both, '{"note":"x"}'), 'content_encoding_unsupported');
});

t.test('an exploded object consists of its properties only', async (t) => {
  const color = { type: 'object', properties: { R: { type: 'integer' } } };
  const read = (place: string, schema: object, more: object = {}) =>
    hooksFor({ '/': { get: { parameters: [{ in: place, name: 'color', schema, ...more }] } } });
  const query = await read('query', color);
  const rows: Readonly<Record<string, string>> = {
    'R=1': 'passed',
    'R=evil': 'request_invalid | color#/R type',
    'color=R,1&R=evil': 'request_invalid | color# style',
    'color=&R=evil': 'request_invalid | color# style',
    'color=R,1': 'request_invalid | color# style',
    'other=1': 'passed',
  };
  for (const [text, outcome] of Object.entries(rows)) t.equal(await get(query, `/?${text}`), outcome, text);
  const cookies = await read('cookie', color);
  t.equal(await get(cookies, '/', { cookie: 'color=R,1; R=evil' }), 'request_invalid | color# style');
  t.equal(await get(cookies, '/', { cookie: 'R=1' }), 'passed');
  const same = await read('query', { type: 'object', properties: { color: { type: 'integer' } } });
  t.equal(await get(same, '/?color=1'), 'passed');
  t.equal(await get(same, '/?color=x'), 'request_invalid | color#/color type');
});

t.test('a required object without properties has no pairs', async (t) => {
  const page = { type: 'object', properties: { page: { type: 'integer' } } };
  const read = (schema: object) =>
    hooksFor({ '/': { get: { parameters: [{ in: 'query', name: 'pageable', required: true, schema }] } } });
  t.equal(await get(await read(page), '/'), 'passed');
  t.equal(await get(await read(page), '/?page=x'), 'request_invalid | pageable#/page type');
  t.equal(await get(await read({ ...page, required: ['page'] }), '/'), 'request_invalid | pageable# required');
  t.equal(await get(await read({ type: 'object', additionalProperties: { type: 'string' } }), '/?a=b'), 'passed');
});

t.test('a file of JSON, where files of any type are described', async (t) => {
  const json = '; filename="a.json"\r\nContent-Type: application/json';
  const files = {
    old: { type: 'string', format: 'binary' },
    many: { type: 'array', items: { type: 'string', contentMediaType: 'application/octet-stream' } },
    other: { type: 'string' },
  };
  const content = { [multipart]: { schema: { type: 'object', properties: files } } };
  const hooks = await hooksFor({ '/': { post: { requestBody: { content } } } });
  for (const body of ['{"a":1}', '"x"', '[]', 'no JSON'])
    for (const name of ['old', 'many'])
      t.equal(await post(hooks, inForm, form(part(name, body, json))), 'passed', body);
  t.equal(await post(hooks, inForm, form(part('other', '{}', json))), 'request_invalid | #/other type');
});

t.test('an exploded object in a form', async (t) => {
  const at = { type: 'object', properties: { role: { enum: ['user'] } } };
  const own = { type: 'object', properties: { at, note: { type: 'string' } }, additionalProperties: false };
  const content = { [urlEncoded]: { schema: own, encoding: { at: { style: 'form', explode: true } } } };
  const hooks = await hooksFor({ '/': { post: { requestBody: { content } } } });
  for (const [body, outcome] of Object.entries({
    'role=user&note=x': 'passed',
    'role=admin': 'request_invalid | #/at/role enum',
    'at=role,user&role=admin': 'request_invalid | #/at style',
    'rank=1': 'request_invalid | #/rank additionalProperties',
  }))
    t.equal(await post(hooks, ofType(urlEncoded), body), outcome, body);
});

t.test('the style of a parameter is resolved through many references', async (t) => {
  const chain = Object.fromEntries(
    Array.from({ length: 40 }, (_, i) => [`S${i}`, { $ref: `#/components/schemas/S${i + 1}` }]),
  );
  const schemas = { ...chain, S40: { type: 'object', properties: { R: { type: 'integer' } } } };
  const parameters = [{ in: 'query', name: 'color', schema: { $ref: '#/components/schemas/S0' } }];
  const openapi = { openapi: '3.1.0', info: {}, paths: { '/': { get: { parameters } } }, components: { schemas } };
  const plan = await planOf(validation, 'RequestValidation', { openapi });
  const hooks = hooksOf(validation, { RequestValidation: plan }, { name: 'RequestValidation shop/v' });
  t.equal(await get(hooks, '/?R=evil'), 'request_invalid | color#/R type');
  t.equal(await get(hooks, '/?R=7'), 'passed');
});

t.test('a parameter that accepts any name is reported', async (t) => {
  const schema = { type: 'object', additionalProperties: { type: 'integer' } };
  const openapi = { openapi: '3.1.0', paths: { '/': { get: { parameters: [{ in: 'query', name: 'p', schema }] } } } };
  t.match(await planOf(validation, 'RequestValidation', { openapi }), {
    warnings: [{ message: "the parameter 'p' in query is an object with arbitrary names, and is not compared" }],
  });
});

t.test('requests of Java and curl are accepted', async (t) => {
  const of = (type: string, more = ''): string => `${more}\r\nContent-Type: ${type}`;
  const file = '; filename="a.csv"';
  const rows: readonly (readonly [body: Buffer, outcome: string])[] = [
    [form(part('note', 'hello', of('text/plain; charset=ISO-8859-1'))), 'passed'],
    [form(part('note', 'hello', of('text/plain; charset=US-ASCII'))), 'passed'],
    [form(part('role', 'admin', of('text/plain; charset=US-ASCII'))), 'request_invalid | #/role not'],
    [form(part('note', 'h\xe9llo', of('text/plain; charset=ISO-8859-1'))), 'request_invalid | #/note encoding'],
    [form(part('note', 'h\xe9llo', of('text/csv; charset=windows-1252', file))), 'passed'],
    [form(part('note', 'x', of('text/csv; charset=utf-16le', file))), 'request_invalid | #/note encoding'],
    [form(part('note', 'x', of("image/png; name*=utf-8''a.png", file))), 'passed'],
    [form(part('note', 'x', of("image/png; charset*=utf-8''utf-16", file))), 'request_invalid | #/note contentType'],
    [form(part('note', 'x', '; filename="a\\"b.txt"')), 'passed'],
    [form(part('note', 'x', '; filename="a\\"b\\\\c.txt"')), 'passed'],
    [form(part('note', 'x', '; filename="a\\"b.txt"; filename*=x')), 'form_invalid'],
    [form(part('note', 'x', '; filename="a\\"; b.txt"')), 'form_invalid'],
    [form(part('no\\"te', 'x')), 'form_invalid'],
    [form(part('note', 'a\r\n--bc\r\n', file)), 'form_invalid'],
    [form(part('note', 'a\r\n--c\r\n--\r\n-b', file)), 'passed'],
  ];
  for (const [body, outcome] of rows)
    t.equal(await post(hooks, inForm, body), outcome, JSON.stringify(body.toString('latin1')));
});

t.test('quoted cookies, whose quotes some servers remove', async (t) => {
  const schema = { type: 'string', not: { const: 'admin' } };
  const parameters = [
    { in: 'cookie', name: 'c', schema },
    { in: 'cookie', name: 'o', schema: { type: 'object', properties: { R: schema } } },
    { in: 'cookie', name: 'j', content: { 'application/json': { schema: { type: 'object' } } } },
  ];
  const cookies = await hooksFor({ '/': { get: { parameters } } });
  for (const [cookie, outcome] of Object.entries({
    'c=user': 'passed',
    'c="user"': 'passed',
    'c="admin"': 'request_invalid | c# not',
    'c="\\141dmin"': 'request_invalid | c# ambiguous',
    'c=\\141dmin': 'request_invalid | c# ambiguous',
    'c=a"b': 'request_invalid | c# ambiguous',
    'c=x; R="admin"': 'request_invalid | o#/R not',
    'R="\\141dmin"': 'request_invalid | o# ambiguous',
    'j={"a":"\\n"}': 'passed',
    'j="{}"': 'request_invalid | j# type',
    'other="\\141"': 'passed',
  }))
    t.equal(await get(cookies, '/', { cookie }), outcome, cookie);
});

t.test('JSON in a part that is not described as JSON', async (t) => {
  const json = '\r\nContent-Type: application/json';
  t.equal(await post(hooks, inForm, form(part('role', '"x"', json))), 'request_invalid | #/role contentType');
  const described = { [multipart]: { schema, encoding: { role: { contentType: 'application/json' } } } };
  const expecting = await hooksFor({ '/': { post: { requestBody: { content: described } } } });
  t.equal(await post(expecting, inForm, form(part('role', '"x"', json))), 'passed');
  t.equal(await post(expecting, inForm, form(part('role', '"admin"', json))), 'request_invalid | #/role not');
});

t.test('path variables that are decoded more than once', async (t) => {
  const paths = { '/u/{id}': { get: { parameters: [{ in: 'path', name: 'id', schema: { type: 'string' } }] } } };
  const refused = [
    'me%252f',
    'me%255c',
    '%252e%252e',
    'a%252f%252e%252e%252fme',
    'me%253b',
    'me%25252f',
    '%2525252525',
  ];
  const strict = await hooksFor(paths);
  for (const id of refused) t.equal(await get(strict, `/u/${id}`), 'request_invalid | id# ambiguous', id);
  for (const id of ['100%25', '%25', 'a%2520b', 'a..b', '%41', '%2541'])
    t.equal(await get(strict, `/u/${id}`), 'passed', id);
  const slashes = await hooksFor(paths, { escapedSlashes: 'Accept' });
  t.equal(await get(slashes, '/u/me%252f'), 'passed');
  t.equal(await get(slashes, '/u/x%252f%252e%252e%252fme'), 'request_invalid | id# ambiguous');
});

t.test('properties of an exploded object without a name of their own are reported', async (t) => {
  const schema = { type: 'object', properties: { R: {} }, patternProperties: { '^x': { type: 'integer' } } };
  const openapi = { openapi: '3.1.0', paths: { '/': { get: { parameters: [{ in: 'query', name: 'p', schema }] } } } };
  t.match(await planOf(validation, 'RequestValidation', { openapi }), {
    warnings: [{ message: /^the properties of the parameter 'p' in query without a name of their own/ }],
  });
});

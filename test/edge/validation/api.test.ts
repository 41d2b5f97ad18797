// Requests under an OpenAPI document: which operation, parameters in all styles, bodies of all types.

import t from 'tap';
import { validation } from '../../../sidecar/edge/validation/capability.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { hooksOf, planOf, serve } from '../../fixtures/exchange.ts';

const array = { type: 'array', items: { type: 'integer' } };
const rgb = {
  type: 'object',
  properties: { R: { type: 'integer' }, G: { type: 'integer' } },
  required: ['R'],
  additionalProperties: false,
};

async function hooksFor(openapi: object, more: object = {}) {
  const plan = await planOf(validation, 'RequestValidation', {
    openapi: { openapi: '3.1.0', info: {}, ...openapi },
    ...more,
  });
  return hooksOf(validation, { RequestValidation: plan }, { name: 'RequestValidation shop/v' });
}
type HooksOf = Awaited<ReturnType<typeof hooksFor>>;

interface Sent {
  readonly headers?: Record<string, string>;
  readonly body?: string | Buffer;
  readonly known?: Partial<Exchange>;
}

/** `passed`, or the code, and the places of violations. */
async function said(
  hooks: HooksOf,
  method: string,
  path: string,
  { headers = {}, body = '', known = {} }: Sent = {},
): Promise<string> {
  const wholeBody = Buffer.from(body as string);
  const whole = wholeBody.length === 0 ? {} : { wholeBody, framing: wholeBody.length };
  const { client, exchange } = await serve(hooks, { headers, known: { method, path, ...whole, ...known } });
  if (client.status === 200) return 'passed';
  if (client.code === 'internal') throw exchange.failure;
  const { code, errors = [] } = JSON.parse(client.body) as {
    code: string;
    errors?: { in: string; name?: string; pointer: string; code: string }[];
  };
  return [code, ...errors.map((one) => `${one.in} ${one.name ?? ''}${one.pointer} ${one.code}`)].join(' | ');
}

t.test('operations are found', async (t) => {
  const get = { get: {} };
  const hooks = await hooksFor({
    servers: [{ url: 'https://shop.test/v1/' }, { url: '/{v}', variables: { v: { default: 'v2' } } }],
    paths: {
      '/pets': { get: {}, post: {} },
      '/pets/mine': get,
      '/pets/{id}': {
        parameters: [{ in: 'path', name: 'id', required: true, schema: { type: 'integer' } }],
        get: {},
        delete: {},
      },
      '/files/{name}.{ext}': {
        parameters: ['name', 'ext'].map((name) => ({ in: 'path', name, schema: { type: 'string', maxLength: 3 } })),
        get: {},
      },
      '/a b/{x}/c': { parameters: [{ in: 'path', name: 'x', schema: {} }], get: {} },
      '/a b/y/{z}': { parameters: [{ in: 'path', name: 'z', schema: {} }], get: {} },
      '/other': { servers: [{ url: '/' }], get: {} },
    },
  });
  const rows: readonly (readonly [method: string, path: string, outcome: string])[] = [
    ['GET', '/v1/pets', 'passed'],
    ['HEAD', '/v1/pets?x=1', 'passed'],
    ['GET', '/v2/pets', 'passed'],
    ['GET', '/pets', 'operation_unknown'],
    ['GET', '/v1/pets/', 'operation_unknown'],
    ['PUT', '/v1/pets', 'operation_method_unknown'],
    ['GET', '/v1/pets/7x', 'request_invalid | path id# type'],
    ['GET', '/v1/pets/mine', 'passed'],
    ['DELETE', '/v1/pets/mine', 'operation_method_unknown'],
    ['GET', '/v1/pets/7', 'passed'],
    ['GET', '/v1/pets/%37', 'passed'],
    ['GET', '/v1/pets/%ff', 'request_invalid | path id# encoding'],
    ['GET', '/v1/pets/7/x', 'operation_unknown'],
    ['GET', '/v1/files/abc.txt', 'passed'],
    ['GET', '/v1/files/abc.text', 'request_invalid | path ext# maxLength'],
    ['GET', '/v1/files/abc', 'operation_unknown'],
    ['GET', '/v1/files/.a', 'operation_unknown'],
    ['GET', '/v1/a%20b/y/c', 'passed'],
    ['GET', '/v1/a%20b/y/d', 'passed'],
    ['GET', '/v1/a%20b/z/d', 'operation_unknown'],
    ['GET', '/other', 'passed'],
    ['GET', '/v1/other', 'operation_unknown'],
  ];
  for (const [method, path, outcome] of rows) t.equal(await said(hooks, method, path), outcome, `${method} ${path}`);
  const { client } = await serve(hooks, { known: { method: 'PUT', path: '/v1/pets' } });
  t.match(client, { status: 405, headers: { allow: 'GET, HEAD, POST' } });
  const preflight = { headers: { origin: 'https://a.test', 'access-control-request-method': 'POST' } };
  t.equal(await said(hooks, 'OPTIONS', '/v1/pets', preflight), 'passed');
  t.equal(await said(hooks, 'OPTIONS', '/v1/pets', { ...preflight, body: 'x' }), 'operation_method_unknown');
  t.equal(await said(hooks, 'OPTIONS', '/v1/pets'), 'operation_method_unknown');
  const moved = await hooksFor({ paths: { '/pets': get } }, { basePath: '/shop/' });
  t.equal(await said(moved, 'GET', '/shop/pets'), 'passed');
});

t.test('path variables that frameworks read in several ways are refused', async (t) => {
  const string = { schema: { type: 'string' } };
  const document = {
    paths: {
      '/users/me': { get: { parameters: [{ in: 'query', name: 'a', schema: { type: 'integer' } }] } },
      '/users/{id}': { parameters: [{ in: 'path', name: 'id', ...string }], get: {} },
      '/m/{id}': { parameters: [{ in: 'path', name: 'id', style: 'matrix', ...string }], get: {} },
    },
  };
  const hooks = await hooksFor(document);
  const accepting = await hooksFor(document, { escapedSlashes: 'Accept' });
  const no = 'request_invalid | path id# ambiguous';
  for (const [path, strict, lax] of [
    ['/users/me;v=1?a=x', no, no],
    ['/users/me%3Bv=1', no, no],
    ['/users/me%2f?a=x', no, 'passed'],
    ['/users/a%5Cb', no, 'passed'],
    ['/users/x%2f..%2fme', no, no],
    ['/users/%2e%2E', no, no],
    ['/users/a..b', 'passed', 'passed'],
    ['/m/;id=x', 'passed', 'passed'],
  ] as const) {
    t.equal(await said(hooks, 'GET', path), strict, path);
    t.equal(await said(accepting, 'GET', path), lax, path);
  }
});

t.test('the compared request ID is the one that the app gets', async (t) => {
  const schema = { type: 'string', format: 'uuid' };
  const hooks = await hooksFor({
    paths: { '/': { get: { parameters: [{ in: 'header', name: 'X-Request-Id', required: true, schema }] } } },
  });
  t.equal(await said(hooks, 'GET', '/', { known: { requestId: crypto.randomUUID() } }), 'passed');
  t.equal(
    await said(hooks, 'GET', '/', { headers: { 'x-request-id': 'mine' } }),
    'request_invalid | header X-Request-Id# format',
  );
});

type Style = readonly [
  place: 'path' | 'query' | 'header' | 'cookie',
  more: object,
  rows: Readonly<Record<string, string>>,
];
const ok = 'passed';
const bad = (code: string, pointer = '#') => `p${pointer} ${code}`;

const styles: readonly Style[] = [
  ['path', { schema: array }, { '3,4': ok, '3': ok, '3,x': bad('type', '#/1'), '3%2C4': bad('type', '#/0') }],
  [
    'path',
    { schema: rgb },
    { 'R,1,G,2': ok, 'R,1,G': bad('style'), 'G,2': bad('required'), 'R,1,R,2': bad('repeated') },
  ],
  [
    'path',
    { schema: rgb, explode: true },
    { 'R=1,G=2': ok, 'R=1,X=2': bad('additionalProperties', '#/X'), R: bad('style') },
  ],
  ['path', { style: 'label', schema: { type: 'integer' } }, { '.5': ok, '5': bad('style'), '.x': bad('type') }],
  ['path', { style: 'label', schema: array }, { '.3,4': ok, '.3.4': bad('type', '#/0') }],
  ['path', { style: 'label', explode: true, schema: array }, { '.3.4': ok }],
  ['path', { style: 'label', explode: true, schema: rgb }, { '.R=1.G=2': ok }],
  ['path', { style: 'matrix', schema: { type: 'integer' } }, { ';p=5': ok, ';q=5': bad('style'), '5': bad('style') }],
  ['path', { style: 'matrix', schema: array }, { ';p=3,4': ok, ';p=3;p=4': bad('style') }],
  ['path', { style: 'matrix', explode: true, schema: array }, { ';p=3;p=4': ok }],
  ['path', { style: 'matrix', explode: true, schema: rgb }, { ';R=1;G=2': ok }],
  [
    'query',
    { schema: { type: 'integer' } },
    {
      'p=5': ok,
      '': ok,
      'p=5&p=5': bad('repeated'),
      '%70=5&p=6': bad('repeated'),
      'p=': bad('type'),
      p: bad('type'),
      'p=1e400': bad('type'),
      'p=0x5': bad('type'),
      'p=%35': ok,
      'p=%ff': bad('encoding'),
    },
  ],
  [
    'query',
    { required: true, allowEmptyValue: true, schema: { type: 'boolean' } },
    { 'p=true': ok, 'p=': ok, 'p=1': bad('type'), 'q=1': bad('required'), 'p=TRUE': bad('type') },
  ],
  [
    'query',
    { schema: { type: 'string', maxLength: 3 } },
    { 'p=a+b': ok, 'p=a%2Bb': ok, 'p=abcd': bad('maxLength'), 'p=12': ok },
  ],
  ['query', { schema: { type: ['integer', 'null'] } }, { 'p=null': ok, 'p=7': ok, 'p=x': bad('type') }],
  ['query', { schema: { enum: [1, 2] } }, { 'p=1': ok, 'p=3': bad('enum') }],
  ['query', { schema: { $ref: '#/components/schemas/Size' } }, { 'p=9': ok, 'p=x': bad('type') }],
  ['query', { schema: array }, { 'p=3&p=4': ok, 'p=3': ok, 'p=3,4': bad('type', '#/0') }],
  [
    'query',
    { explode: false, schema: array },
    { 'p=3,4': ok, 'p=3&p=4': bad('repeated'), 'p=': ok, 'p=3%2C4': bad('type', '#/0') },
  ],
  [
    'query',
    { schema: rgb },
    { 'R=1&G=2': ok, 'R=x': bad('type', '#/R'), 'G=2': bad('required'), 'x=1': ok, 'R=1&R=2': bad('repeated') },
  ],
  ['query', { explode: false, schema: rgb }, { 'p=R,1,G,2': ok }],
  [
    'query',
    { style: 'spaceDelimited', explode: false, schema: array },
    { 'p=3%204': ok, 'p=3+4': ok, 'p=3,4': bad('type', '#/0') },
  ],
  ['query', { style: 'pipeDelimited', explode: false, schema: array }, { 'p=3|4': ok, 'p=3%7C4': ok }],
  [
    'query',
    { style: 'deepObject', explode: true, schema: rgb },
    {
      'p[R]=1&p[G]=2': ok,
      'p%5BR%5D=1': ok,
      'p[X]=1&p[R]=1': bad('additionalProperties', '#/X'),
      'p[R][a]=1': bad('style'),
      'p=1': bad('style'),
      'p[R]=1&p[R]=2': bad('repeated'),
      '': ok,
    },
  ],
  [
    'query',
    { content: { 'application/json': { schema: rgb } } },
    {
      'p={"R":1}': ok,
      'p=%7B%22R%22:1%7D': ok,
      'p={"R":1,"R":2}': bad('json_duplicate_key'),
      'p=x': bad('json_syntax'),
      'p={}': bad('required'),
    },
  ],
  ['header', { schema: array }, { '3, 4': ok, '3,x': bad('type', '#/1') }],
  ['header', { schema: rgb, explode: true }, { 'R=1, G=2': ok }],
  ['header', { required: true, schema: { type: 'integer' } }, { '5': ok, '5, 5': bad('type') }],
  [
    'cookie',
    { schema: { type: 'integer' } },
    { 'p=5; q=1': ok, 'p=5; p=6': bad('repeated'), 'p=x': bad('type'), 'q=p': ok },
  ],
  ['cookie', { explode: false, schema: array }, { 'p=3,4': ok }],
];
for (const [place, more, rows] of styles)
  t.test(`a parameter in ${place}: ${JSON.stringify(more).slice(0, 90)}`, async (t) => {
    const hooks = await hooksFor({
      paths: { [place === 'path' ? '/x/{p}' : '/x/']: { get: { parameters: [{ in: place, name: 'p', ...more }] } } },
      components: { schemas: { Size: { allOf: [{ type: 'integer' }] } } },
    });
    for (const [text, outcome] of Object.entries(rows)) {
      const headers: Record<string, string> =
        place === 'header' ? { p: text } : place === 'cookie' ? { cookie: text } : {};
      const path = place === 'path' ? `/x/${text}` : place === 'query' ? `/x/?${text}` : '/x/';
      const expected = outcome === ok ? ok : `request_invalid | ${place} ${outcome}`;
      t.equal(await said(hooks, 'GET', path, { headers }), expected, text);
    }
  });

t.test('a repeated header, and one in another spelling', async (t) => {
  const hooks = await hooksFor({
    paths: { '/': { get: { parameters: [{ in: 'header', name: 'X-P', schema: { type: 'string' } }] } } },
  });
  const { exchange } = await serve(hooks, { known: { path: '/' }, headers: { 'x-p': 'a' } });
  const two = { names: [...exchange.fields.names, ...exchange.fields.names], values: ['a', 'b'] };
  t.equal(await said(hooks, 'GET', '/', { known: { fields: two } }), 'request_invalid | header X-P# repeated');
});

const form = {
  type: 'object',
  required: ['name'],
  properties: {
    name: { type: 'string', maxLength: 5 },
    size: { type: 'integer' },
    tags: { type: 'array', items: { type: 'string' } },
    at: rgb,
  },
  additionalProperties: false,
};
const content = (type: string, schema: object, more: object = {}) => ({
  paths: { '/': { post: { requestBody: { required: true, content: { [type]: { schema, ...more } } } } } },
});
const typed = (type: string, body: string | Buffer): Sent => ({ headers: { 'content-type': type }, body });

t.test('bodies are compared by their type', async (t) => {
  const hooks = await hooksFor({
    paths: {
      '/': {
        post: {
          requestBody: {
            content: {
              '*/*': {},
              'text/*': { schema: { type: 'string', maxLength: 3 } },
              'application/json; charset=utf-8': { schema: { type: 'integer' } },
            },
          },
        },
        get: {},
        put: { requestBody: { required: true, content: { 'application/xml': { schema: { type: 'object' } } } } },
      },
    },
  });
  t.equal(await said(hooks, 'POST', '/', typed('application/json', '7')), ok);
  t.equal(await said(hooks, 'POST', '/', typed('APPLICATION/JSON', '"x"')), 'request_invalid | body # type');
  t.equal(await said(hooks, 'POST', '/', typed('text/plain', 'abcd')), 'request_invalid | body # maxLength');
  t.equal(await said(hooks, 'POST', '/', typed('text/plain', Buffer.from([0xff]))), 'form_invalid');
  t.equal(await said(hooks, 'POST', '/', typed('image/png', 'x')), ok);
  t.match(
    await said(hooks, 'POST', '/', { body: 'x' }),
    /^content_type_unsupported \| header content-type# contentType$/,
  );
  t.equal(await said(hooks, 'POST', '/'), ok, 'it is not required');
  t.equal(await said(hooks, 'PUT', '/'), 'request_invalid | body # required');
  t.equal(await said(hooks, 'PUT', '/', typed('application/xml', '<a/>')), ok);
  t.match(
    await said(hooks, 'PUT', '/', typed('application/json', '{}')),
    /^content_type_unsupported \| header content-type/,
  );
  t.equal(await said(hooks, 'GET', '/', typed('application/json', '{}')), 'request_invalid | body # unexpected');
});

t.test('forms are compared', async (t) => {
  const type = 'application/x-www-form-urlencoded';
  const hooks = await hooksFor(content(type, form, { encoding: { at: { style: 'deepObject' } } }));
  const rows: Readonly<Record<string, string>> = {
    'name=a+b&size=7&tags=x&tags=y&at[R]=1': ok,
    'name=abcdef': 'request_invalid | body #/name maxLength',
    'size=x&name=a': 'request_invalid | body #/size type',
    'name=a&name=b': 'request_invalid | body #/name repeated',
    'name=a&more=1': 'request_invalid | body #/more additionalProperties',
    'name=%ff': 'request_invalid | body #/name encoding',
    '%ff=a': 'form_invalid',
    'size=1': 'request_invalid | body # required',
    [`name=a${'&x'.repeat(1000)}`]: 'form_invalid',
  };
  for (const [body, outcome] of Object.entries(rows))
    t.equal(await said(hooks, 'POST', '/', typed(type, body)), outcome, body.slice(0, 50));
  t.equal(await said(hooks, 'POST', '/', typed(`${type}; charset=utf-16`, 'name=a')), 'content_type_unsupported');
});

/** A form with parts of these heads and bodies. */
const partsOf = (parts: readonly (readonly [head: string, body: string])[], end = '--b--\r\n') =>
  `${parts.map(([head, body]) => `--b\r\n${head}\r\n\r\n${body}\r\n`).join('')}${end}`;
const field = (name: string, more = ''): string => `Content-Disposition: form-data; name="${name}"${more}`;

t.test('multipart forms are compared', async (t) => {
  const type = 'multipart/form-data; boundary=b';
  const schema = {
    ...form,
    properties: { ...form.properties, file: { type: 'string', format: 'binary', maxLength: 10 } },
  };
  const hooks = await hooksFor(
    content('multipart/form-data', schema, { encoding: { file: { contentType: 'image/png, image/*' } } }),
  );
  const a = [field('name'), 'abc'] as const;
  const png = field('file', '; filename="a.png"\r\nContent-Type: image/png');
  const rows: readonly (readonly [why: string, body: string, outcome: string])[] = [
    [
      'the complete form',
      partsOf([
        a,
        [field('size'), '7'],
        [field('tags'), 'x'],
        [field('tags'), 'y'],
        [field('at'), '{"R":1}'],
        [png, '\x89PNG'],
      ]),
      ok,
    ],
    ['no last line end', partsOf([a], '--b--'), ok],
    [
      'another type of a file',
      partsOf([a, [png.replace('image/png', 'text/html'), 'x']]),
      'request_invalid | body #/file contentType',
    ],
    ['a file that is too long', partsOf([a, [png, 'x'.repeat(11)]]), 'request_invalid | body #/file maxLength'],
    ['a part twice', partsOf([a, a]), 'request_invalid | body #/name repeated'],
    [
      'JSON with a duplicate key',
      partsOf([a, [field('at'), '{"R":1,"R":2}']]),
      'request_invalid | body #/at json_duplicate_key',
    ],
    ['an unknown part', partsOf([a, [field('more'), '']]), 'request_invalid | body #/more additionalProperties'],
    ['none', '--b--\r\n', 'request_invalid | body # required'],
    ['no end', partsOf([a], ''), 'form_invalid'],
    ['a thousand parts without an end', `--b\r\n${field('name')}\r\n\r\n`.repeat(1000), 'form_invalid'],
    ['too many parts', partsOf(Array(1001).fill([field('tags'), 'x'])), 'form_invalid'],
    ['bytes before the first boundary', `x\r\n${partsOf([a])}`, 'form_invalid'],
    ['something behind', `${partsOf([a])}x`, 'form_invalid'],
    ['a part without a name', partsOf([['Content-Disposition: form-data', 'x']]), 'form_invalid'],
    ['two names', partsOf([[field('name', '; name="size"'), 'x']]), 'form_invalid'],
    ['a name in another form', partsOf([[field('name', "; name*=utf-8''size"), 'x']]), 'form_invalid'],
    ['two dispositions', partsOf([[`${field('name')}\r\n${field('size')}`, 'x']]), 'form_invalid'],
    ['a folded line', partsOf([['Content-Disposition: form-data;\r\n name="name"', 'x']]), 'form_invalid'],
    ['a coding of its own', partsOf([[`${field('name')}\r\nContent-Transfer-Encoding: base64`, 'x']]), 'form_invalid'],
    ['line feeds alone', partsOf([a]).replaceAll('\r\n', '\n'), 'form_invalid'],
  ];
  for (const [why, body, outcome] of rows)
    t.equal(await said(hooks, 'POST', '/', typed(type, Buffer.from(body, 'latin1'))), outcome, why);
  t.equal(await said(hooks, 'POST', '/', typed('multipart/form-data', partsOf([a]))), 'form_invalid', 'no boundary');
  t.equal(
    await said(hooks, 'POST', '/', typed('multipart/form-data; boundary=b; boundary=c', partsOf([a]))),
    'content_type_unsupported',
  );
  t.equal(
    await said(
      hooks,
      'POST',
      '/',
      typed('multipart/form-data; boundary="c d"', partsOf([a]).replaceAll('--b', '--c d')),
    ),
    ok,
  );
});

t.test('recursive schemas, and readOnly and writeOnly properties', async (t) => {
  const node = {
    type: 'object',
    required: ['id', 'secret'],
    properties: {
      id: { type: 'integer', readOnly: true },
      secret: { type: 'string', writeOnly: true },
      next: { $ref: '#/components/schemas/Node' },
    },
    additionalProperties: false,
  };
  const hooks = await hooksFor({
    ...content('application/json', { $ref: '#/components/schemas/Node' }),
    components: { schemas: { Node: node } },
  });
  t.equal(
    await said(
      hooks,
      'POST',
      '/',
      typed('application/json', '{"secret":"x","next":{"secret":"y","next":{"secret":"z"}}}'),
    ),
    ok,
  );
  t.equal(
    await said(hooks, 'POST', '/', typed('application/json', '{"secret":"x","next":{"next":{}}}')),
    'request_invalid | body #/next required | body #/next/next required',
  );
});

t.test('a read-only property that another branch of an allOf requires', async (t) => {
  const base = { properties: { id: { type: 'integer', readOnly: true }, name: { type: 'string' } } };
  const schemas: readonly object[] = [
    { allOf: [base, { required: ['id', 'name'] }] },
    { allOf: [{ $ref: '#/components/schemas/Base' }, { allOf: [{ required: ['id', 'name'] }] }] },
    { allOf: [{ $ref: '#/components/schemas/Base' }], required: ['id', 'name'] },
  ];
  for (const schema of schemas) {
    const hooks = await hooksFor({ ...content('application/json', schema), components: { schemas: { Base: base } } });
    t.equal(await said(hooks, 'POST', '/', typed('application/json', '{"name":"x"}')), ok);
    t.equal(await said(hooks, 'POST', '/', typed('application/json', '{}')), 'request_invalid | body # required');
  }
});

t.test('the schema dialect of OpenAPI 3.0', async (t) => {
  const schema = {
    type: 'object',
    properties: {
      a: { type: 'string', nullable: true, example: 1 },
      n: { type: 'integer', minimum: 3, exclusiveMinimum: true, format: 'int32' },
      r: { $ref: '#/components/schemas/R', description: 'ignored' },
      f: { type: 'string', format: 'phone' },
    },
  };
  const hooks = await hooksFor({
    openapi: '3.0.3',
    ...content('application/json', schema),
    components: { schemas: { R: { type: 'boolean' } } },
  });
  for (const [body, outcome] of Object.entries({
    '{"a":null,"n":4,"r":true,"f":"x"}': ok,
    '{"n":3}': 'request_invalid | body #/n exclusiveMinimum',
    '{"r":1}': 'request_invalid | body #/r type',
    '{"n":2147483648}': 'request_invalid | body #/n format',
  }))
    t.equal(await said(hooks, 'POST', '/', typed('application/json', body)), outcome, body);
});

t.test('nullable beside references, as NSwag and Swashbuckle write it', async (t) => {
  const Level = { type: 'integer', enum: [0, 1] };
  const ref = { $ref: '#/components/schemas/Level' };
  const schema = {
    type: 'object',
    properties: { one: { nullable: true, oneOf: [ref] }, all: { nullable: true, allOf: [ref] }, not: { allOf: [ref] } },
  };
  const document = { openapi: '3.0.3', ...content('application/json', schema), components: { schemas: { Level } } };
  const hooks = await hooksFor(document);
  for (const [body, outcome] of Object.entries({
    '{"one":null,"all":null}': ok,
    '{"one":1,"all":0}': ok,
    '{"not":null}': /#\/not (?:type|enum)/,
    '{"one":2}': /#\/one enum/,
    '{"all":"x"}': /#\/all type/,
  }))
    t.match(await said(hooks, 'POST', '/', typed('application/json', body)), outcome, body);
});

t.test('a range of types with one suffix, as ASP.NET writes it', async (t) => {
  const of = (schema: object) => ({ schema });
  const types = { 'application/*+json': of({ type: 'integer' }), 'application/*': {}, 'application/a+json': of({}) };
  const hooks = await hooksFor({ paths: { '/': { post: { requestBody: { content: types } } } } });
  t.equal(await said(hooks, 'POST', '/', typed('application/b+json', '7')), ok);
  t.equal(await said(hooks, 'POST', '/', typed('application/b+json', '"x"')), 'request_invalid | body # type');
  t.equal(await said(hooks, 'POST', '/', typed('application/a+json', '"x"')), ok, 'the most specific');
  t.equal(await said(hooks, 'POST', '/', typed('application/json', '"x"')), ok, 'it has no suffix');
  t.match(await said(hooks, 'POST', '/', typed('text/b+json', '7')), /^content_type_unsupported/);
});

t.test('five thousand operations compile quickly', async (t) => {
  const paths = Object.fromEntries(
    Array.from({ length: 5000 }, (_, i) => [
      `/r${i}/{id}`,
      {
        parameters: [{ in: 'path', name: 'id', required: true, schema: { type: 'integer' } }],
        post: {
          requestBody: { content: { 'application/json': { schema: { $ref: `#/components/schemas/S${i % 500}` } } } },
        },
      },
    ]),
  );
  const schemas = Object.fromEntries(
    Array.from({ length: 500 }, (_, i) => [
      `S${i}`,
      {
        type: 'object',
        properties: { [`p${i}`]: { type: 'string' }, next: { $ref: `#/components/schemas/S${(i + 1) % 500}` } },
      },
    ]),
  );
  const started = performance.now();
  const hooks = await hooksFor({ paths, components: { schemas } });
  t.comment(`${Math.round(performance.now() - started)} ms to compile`);
  t.ok(performance.now() - started < 30_000);
  t.equal(await said(hooks, 'POST', '/r4999/7', typed('application/json', '{"p499":"x"}')), ok);
  t.equal(
    await said(hooks, 'POST', '/r4999/7', typed('application/json', '{"p499":1}')),
    'request_invalid | body #/p499 type',
  );
});

// The rules of RFC 9111 without a socket: what is stored, how long it is fresh, and which requests it serves.

import t from 'tap';
import { parseDirectives, parseHttpDate, parseTargeted, unreadable } from '../../../sidecar/edge/cache/directives.ts';
import {
  askedBy,
  isNotModified,
  mayReplaceError,
  selectionOf,
  selects,
  spanOf,
  useOf,
} from '../../../sidecar/edge/cache/request.ts';
import { readTerms, storedFields, updatedFields, whyNotStored } from '../../../sidecar/edge/cache/response.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields, type Fields, type Reply } from '../../../sidecar/exchange/message.ts';
import { headersIn } from '../../fixtures/exchange.ts';

const now = Date.parse('2026-03-01T12:00:00Z');
const date = new Date(now).toUTCString();
const fieldsOf = (lines: readonly (readonly [string, string])[]): Fields => addFields(emptyFields, lines);
const replyOf = (headers: Record<string, string>, status = 200): Reply => ({
  ...{ status, reason: '', fields: fieldsOf(Object.entries(headers)), hopFields: undefined },
  ...{ framing: 2, declaredLength: undefined },
});
const termsOf = (headers: Record<string, string>, status = 200, heuristic = false) =>
  readTerms(replyOf({ date, ...headers }, status), now, now, heuristic);
const why = (
  headers: Record<string, string>,
  {
    status = 200,
    identified = false,
    heuristic = false,
    shareIdentities = false,
    isRange = false,
    framing = 2 as Reply['framing'],
  } = {},
) =>
  whyNotStored(
    { ...replyOf({ date, ...headers }, status), framing },
    termsOf(headers, status, heuristic),
    { heuristic, shareIdentities, isRange },
    identified,
  );

t.test('directives are parsed as the standard defines, and unreadable ones are noted', async (t) => {
  const read = (text: string) => Object.fromEntries(parseDirectives(text));
  t.strictSame(read('Max-Age=60, no-cache="a, b", PUBLIC'), { 'max-age': '60', 'no-cache': 'a,b', public: '' });
  t.strictSame(read('max-age=1, max-age=60'), { 'max-age': '1' }, 'the first directive counts');
  t.strictSame(read('a b, ;x, max-age="5"'), { [unreadable]: '', 'max-age': '5' });
  t.strictSame(read('private="\\x", , no-store, '), { private: 'x', 'no-store': '' });
  const started = performance.now();
  parseDirectives(`${'a='.repeat(50_000)}"${'\\'.repeat(50_000)}`);
  t.ok(performance.now() - started < 1000, 'in linear time');
});

t.test('a targeted field is parsed as a dictionary', async (t) => {
  const read = (text: string) => {
    const read = parseTargeted(text);
    return typeof read === 'object' ? Object.fromEntries(read) : read;
  };
  t.strictSame(read('max-age=60, no-store'), { 'max-age': '60', 'no-store': '' });
  t.strictSame(read('max-age=60;a=1, private=?0'), { 'max-age': '60' });
  t.strictSame(read('max-age="60"'), {}, 'a value that is not an integer');
  t.strictSame(read('private="x-a", no-cache=("a" b;c=1 )  '), { private: 'x-a', 'no-cache': '' });
  t.strictSame(read('private="x-a", private="x-b", max-age=1, max-age=2'), { private: 'x-a,x-b', 'max-age': '2' });
  for (const name of ['private', 'no-cache'])
    for (const text of [`${name}, ${name}="x-a"`, `${name}="x-a", ${name}`, `${name}, ${name}=?0`])
      t.strictSame(read(text), { [name]: '' }, text);
  t.equal(parseTargeted(''), undefined);
  const broken = [
    ...['max-age=', 'Max-Age=1', 'max-age=1,', 'a b', 'no-store, ', 'a=(b', 'a=(b"c")', 'a="b', 'a=1.', 'a=1.2345'],
    ...['a=:b', 'a=?2', 'a;B', 'a;b=', 'a=@x', 'a=1234567890123456', "a='b'"],
  ];
  for (const text of broken) t.equal(parseTargeted(text), unreadable, text);
  // Members of every kind, beside the one that counts.
  const others = [
    'x=1.5',
    'x=-12',
    'x=(a b)',
    'x=()',
    'x=:YWJj:',
    'x;y="a,b"',
    'x=@1',
    'x=%"f%c3%bc"',
    'x=tok/en:*',
    'x;y=?0;z',
  ];
  for (const other of others)
    for (const text of [`no-store, ${other}`, `${other}\t,  no-store`])
      t.equal(why({ 'cdn-cache-control': text, 'cache-control': 'public, max-age=60' }), 'no-store', text);
  t.equal(termsOf({ 'cdn-cache-control': 'max-age=10', 'cache-control': 'no-store' }).lifetime, 10);
  t.equal(termsOf({ 'cdn-cache-control': '&', 'cache-control': 'max-age=5' }).lifetime, 5);
  t.equal(why({ 'cdn-cache-control': '&', 'cache-control': 'max-age=5' }), 'unreadable');
  t.equal(
    why({ 'cdn-cache-control': 'max-age=60.0', 'cache-control': 'max-age=5' }),
    'freshness',
    'there is no fallback',
  );
  const expires = new Date(now + 9000).toUTCString();
  t.equal(why({ 'cdn-cache-control': 'private', 'cache-control': 'max-age=5', expires }), 'private');
});

t.test('dates are parsed in their three forms and no other', async (t) => {
  const wanted = Date.UTC(1994, 10, 6, 8, 49, 37);
  for (const text of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994'])
    t.equal(parseHttpDate(text), wanted, text);
  for (const text of ['0', 'Sun, 06 nov 1994 08:49:37 GMT', 'Sun, 6 Nov 1994 08:49:37 GMT', '1994-11-06T08:49:37Z'])
    t.equal(parseHttpDate(text), undefined, text);
});

const selecting = (fields: Fields, forwarded = fields, hopFields?: readonly string[]) => ({
  fields,
  forwarded,
  hopFields,
});

t.test('a field that the gateway adds, changes or removes does not select by Vary', async (t) => {
  const request = fieldsOf([
    ['x-a', '1'],
    ['x-b', '1'],
  ]);
  const forwarded = fieldsOf([
    ['x-a', '1'],
    ['x-b', '2'],
    ['x-c', '3'],
  ]);
  const of = (vary: string, hopFields?: readonly string[]) =>
    selectionOf(vary, selecting(request, forwarded, hopFields));
  t.strictSame(of('X-A, X-Absent'), [
    ['x-a', '1'],
    ['x-absent', undefined],
  ]);
  for (const vary of [
    'x-b',
    'x-a, x-c',
    'X_C',
    'X-Forwarded-Client-Cert',
    'x_request_id',
    ':path',
    'x-a; x-absent',
    'Txn-Token',
    'x-envoy-attempt-count',
  ])
    t.equal(of(vary), undefined, vary);
  t.equal(of('x-a', ['x-a']), undefined, 'a client removes the field by Connection');
});

t.test('a response that is specific to one request is not stored', async (t) => {
  const forAll = { 'cache-control': 'public, max-age=60' };
  for (const status of [407, 408, 412, 416, 417, 421, 426, 428, 429, 431, 511])
    t.equal(why(forAll, { status }), 'status');
  t.equal(why(forAll, { status: 400, isRange: true }), 'range');
  t.equal(why(forAll, { status: 200, isRange: true }), undefined);
});

t.test('how long a response is fresh', async (t) => {
  const expires = new Date(now + 60_000).toUTCString();
  const cases: readonly (readonly [Record<string, string>, number])[] = [
    [{ 'cache-control': 'max-age=10' }, 10],
    [{ 'cache-control': 'max-age=10, s-maxage=20' }, 20],
    [{ expires }, 60],
    [{ expires, 'cache-control': 'max-age=10' }, 10],
    [{ expires: '0' }, 0],
    [{ 'cache-control': 'max-age=-1' }, 0],
    [{ 'cache-control': 'max-age=1.5' }, 0],
    [{ 'cache-control': 'max-age=99999999999999' }, 2 ** 31],
    [{ 'cache-control': 'max-age=soon', expires }, 0],
  ];
  for (const [headers, lifetime] of cases) t.equal(termsOf(headers).lifetime, lifetime, JSON.stringify(headers));
  t.equal(termsOf({ age: '30' }).initialAge, 30);
  t.equal(termsOf({ age: '30, 40' }).initialAge, 30);
  t.equal(termsOf({ age: 'x' }).initialAge, 0);
  t.equal(readTerms(replyOf({ date }), now - 3000, now + 5000, false).initialAge, 8, 'with the time in transit');
  const lastModified = new Date(now - 100_000).toUTCString();
  t.equal(termsOf({ 'last-modified': lastModified }, 200, true).lifetime, 10);
  t.equal(termsOf({ 'last-modified': lastModified }, 201, true).lifetime, 0);
  t.equal(termsOf({ 'last-modified': lastModified }).lifetime, 0, 'only with the setting');
});

t.test('which responses are stored', async (t) => {
  const fresh = { 'cache-control': 'max-age=60' };
  t.equal(why(fresh), undefined);
  t.equal(why(fresh, { status: 599 }), undefined);
  t.equal(why({}), 'freshness');
  t.equal(why({ etag: '"a"' }), undefined, 'stored, and validated before use');
  t.equal(why(fresh, { status: 206 }), 'status');
  t.equal(why({ 'cache-control': 'no-store, max-age=60' }), 'no-store');
  t.equal(why({ 'cache-control': 'no-store, must-understand, max-age=60' }), undefined);
  t.equal(why({ 'cache-control': 'no-store, must-understand, max-age=60' }, { status: 599 }), 'must-understand');
  t.equal(why({ 'cache-control': 'private, max-age=60' }), 'private');
  t.equal(why({ 'cache-control': 'private="x", max-age=60' }), undefined);
  t.equal(why({ ...fresh, vary: 'a, *' }), 'vary');
  t.equal(why({ ...fresh, 'set-cookie': 'a=b' }), 'set-cookie');
  t.equal(why({ 'cache-control': 'max-age=60, no-cache="Set-Cookie"', 'set-cookie': 'a=b' }), undefined);
  t.equal(why(fresh, { framing: 'close' }), 'length');
  t.equal(why({ 'cache-control': 'max-age=60', age: '70' }), 'stale');
});

t.test('unreadable or contradictory directives forbid storing', async (t) => {
  const cases: Record<string, string> = {
    'private="x", private, max-age=60': 'private',
    'private, private="x", max-age=60': 'private',
    'max-age=60, private;': 'unreadable',
    'public, max-age=60, no-store;': 'unreadable',
    'max-age=60, no-store foo': 'unreadable',
    'max-age=60, must-understand, no-store foo': 'unreadable',
    'max-age=60 private': 'unreadable',
    'max-age=60, "private"': 'unreadable',
    'max-age=60, private="x': 'unreadable',
    'private=" ", max-age=60': 'private',
    'private=",", max-age=60': 'private',
    'private="a b", max-age=60': 'private',
    'private=true, max-age=60': 'private',
    'private="x", max-age=60; no-store': 'unreadable',
  };
  for (const [control, expected] of Object.entries(cases))
    t.equal(why({ 'cache-control': control }), expected, control);
  const termsFor = (control: string) => termsOf({ 'cache-control': control });
  t.equal(termsFor('no-cache="x", no-cache, max-age=60').alwaysValidate, true);
  t.equal(termsFor('no-cache="x", max-age=60').alwaysValidate, false);
  const both = 'private="a", private="b, c", max-age=60';
  const kept = storedFields(replyOf({ a: '1', b: '1', c: '1', d: '1' }), termsFor(both).directives);
  t.strictSame(headersIn(kept), { d: '1' });
});

t.test('a response to a caller is stored only as the standard permits', async (t) => {
  const identified = true;
  t.equal(why({ 'cache-control': 'max-age=60' }, { identified }), 'identity');
  for (const permission of ['public', 's-maxage=5', 'must-revalidate'])
    t.equal(why({ 'cache-control': `max-age=60, ${permission}` }, { identified }), undefined);
  t.equal(why({ 'cache-control': 'max-age=60' }, { identified, shareIdentities: true }), undefined);
});

t.test('which requests a stored response serves', async (t) => {
  const use = (control: string, age: number, asked = '') =>
    useOf(termsOf({ 'cache-control': control }), age, parseDirectives(asked));
  t.equal(use('max-age=60', 59), 'fresh');
  t.equal(use('max-age=60', 60), 'validate');
  t.equal(use('max-age=60, no-cache', 1), 'validate');
  t.equal(use('max-age=60, no-cache="a"', 1), 'fresh');
  t.equal(use('max-age=60', 1, 'no-cache'), 'validate');
  t.equal(use('max-age=60', 10, 'max-age=5'), 'validate');
  t.equal(use('max-age=60', 10, 'min-fresh=55'), 'validate');
  t.equal(use('max-age=60', 70, 'max-stale=20'), 'fresh');
  t.equal(use('max-age=60', 90, 'max-stale=20'), 'validate');
  t.equal(use('max-age=60', 90, 'max-stale'), 'fresh');
  for (const strict of ['must-revalidate', 'proxy-revalidate', 's-maxage=60'])
    t.equal(use(`max-age=60, ${strict}`, 70, 'max-stale'), 'validate', strict);
  t.equal(use('max-age=60, stale-while-revalidate=20', 70), 'while-revalidating');
  t.equal(use('max-age=60, stale-while-revalidate=20', 80), 'validate');
  t.equal(use('max-age=60, stale-while-revalidate=20, must-revalidate', 70), 'validate');
  t.equal(askedBy(fieldsOf([['pragma', 'no-cache']])).has('no-cache'), true);
});

t.test('when a stale response replaces an error', async (t) => {
  const may = (control: string, age: number, reached: boolean) =>
    mayReplaceError(termsOf({ 'cache-control': control }), age, reached, 60);
  t.equal(may('max-age=60, stale-if-error=20', 70, true), true);
  t.equal(may('max-age=60, stale-if-error=20', 90, true), false);
  t.equal(may('max-age=60', 90, false), true);
  t.equal(may('max-age=60', 130, false), false);
  t.equal(may('max-age=60, must-revalidate, stale-if-error=20', 70, false), false);
  t.equal(may('max-age=60', 10, true), true, 'it is fresh, and the client wants to have it validated');
  for (const reached of [true, false])
    t.equal(may('max-age=60, no-cache, stale-if-error=20', 10, reached), false, 'each use is validated');
});

t.test('Vary selects by value, not by spelling', async (t) => {
  const request = fieldsOf([
    ['accept-language', 'en, de'],
    ['x-a', '1'],
    ['x-a', '2'],
  ]);
  const selection = selectionOf('Accept-Language,  X-A', selecting(request))!;
  t.equal(selects(selection, request), true);
  t.equal(
    selects(
      selection,
      fieldsOf([
        ['Accept-Language', 'en,de '],
        ['X-A', '1,2'],
      ]),
    ),
    true,
  );
  t.equal(selects(selection, fieldsOf([['accept-language', 'en']])), false);
  t.equal(
    selects(
      selection,
      fieldsOf([
        ['accept-language', 'en, de'],
        ['x-a', '1,2'],
        ['x_a', '3'],
      ]),
    ),
    false,
  );
});

t.test('conditions and ranges of a client', async (t) => {
  const terms = termsOf({ etag: 'W/"a"', 'last-modified': date });
  const modified = (lines: Record<string, string>) => !isNotModified(fieldsOf(Object.entries(lines)), terms, 200);
  t.equal(modified({ 'if-none-match': '"x", "a"' }), false);
  t.equal(modified({ 'if-none-match': '"b"', 'if-modified-since': date }), true);
  t.equal(modified({ 'if-modified-since': date }), false);
  t.equal(modified({ 'if-modified-since': 'Sun, 06 Nov 1994 08:49:37 GMT' }), true);
  const span = (range: string, condition?: string) =>
    spanOf(
      fieldsOf([['range', range], ...(condition === undefined ? [] : [['if-range', condition] as const])]),
      terms,
      10,
    );
  t.strictSame(span('bytes=0-3'), [0, 4]);
  t.strictSame(span('bytes=4-'), [4, 10]);
  t.strictSame(span('bytes=-3'), [7, 10]);
  t.strictSame(span('bytes=0-99'), [0, 10]);
  t.equal(span('bytes=10-'), 'none');
  for (const whole of ['bytes=0-1,3-4', 'lines=1-2', 'bytes=5-2', 'bytes=-']) t.equal(span(whole), undefined, whole);
  t.equal(span('bytes=0-3', 'W/"a"'), undefined, 'a weak tag does not identify a version');
  t.equal(span('bytes=0-3', date), undefined, 'it may have changed within its second');
  const changed = new Date(now - 1000).toUTCString();
  const older = termsOf({ 'last-modified': changed });
  const conditional = (condition: string) =>
    spanOf(fieldsOf(Object.entries({ range: 'bytes=0-3', 'if-range': condition })), older, 10);
  t.strictSame(conditional(changed), [0, 4]);
  t.equal(conditional(date), undefined);
});

t.test('the stored head, and its update by a 304', async (t) => {
  const reply = replyOf({
    ...{ 'cache-control': 'private="x-user", max-age=5', 'x-user': 'ann', connection: 'x-hop', 'x-hop': '1', age: '3' },
    ...{ 'content-type': 'text/plain', 'x-a': 'old' },
  });
  const stored = storedFields({ ...reply, hopFields: ['x-hop'] }, termsOf(headersIn(reply.fields)).directives);
  t.strictSame(Object.keys(headersIn(stored)), ['cache-control', 'content-type', 'x-a']);
  const fresh = fieldsOf([
    ['x-a', 'new'],
    ['content-length', '0'],
    ['content-encoding', 'gzip'],
  ]);
  t.strictSame(headersIn(updatedFields(stored, fresh))['x-a'], 'new');
  t.equal(headersIn(updatedFields(stored, fresh))['content-encoding'], undefined);
  const tag = (own: string, other: string) =>
    headersIn(updatedFields(fieldsOf([['etag', own]]), fieldsOf([['etag', other]])))['etag'];
  t.equal(tag('W/"a"', '"a"'), 'W/"a"', 'the stored bytes are not known to be those');
  t.equal(tag('"a"', 'W/"a"'), 'W/"a"');
});

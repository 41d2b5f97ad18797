// What a 304 changes of a stored response, on real sockets: how it is selected, tagged, dated and shared.

import t from 'tap';
import { readTerms } from '../../../sidecar/edge/cache/response.ts';
import { Entry, Store } from '../../../sidecar/edge/cache/store.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { type Answer, saying, startCached } from '../../fixtures/cached.ts';

const minute = { 'cache-control': 'max-age=60' };
const stale = { 'cache-control': 'max-age=0', etag: '"1"' };

/** A 304, also without a date. */
const unchanged =
  (headers: Record<string, string>, sendDate = true): Answer =>
  (_, answer) => {
    answer.sendDate = sendDate;
    answer.writeHead(304, { ...minute, etag: '"1"', ...headers }).end();
  };

t.test('a new Vary selects from then on', async (t) => {
  const { say, get } = await startCached(t);
  const inGerman = { 'accept-language': 'de' };
  say(saying('de', stale));
  await get('/v', inGerman);
  say(unchanged({ vary: 'accept-language' }));
  t.equal(String((await get('/v', inGerman)).body), 'de');
  say((asked, answer) => saying(`in ${asked.headers['accept-language']}`, minute)(asked, answer));
  t.equal(String((await get('/v', { 'accept-language': 'fr' })).body), 'in fr');
  for (const vary of ['*', 'x-request-id']) {
    say(saying('old', stale));
    await get(`/${vary}`);
    say(unchanged({ vary }));
    t.equal(String((await get(`/${vary}`)).body), 'old', 'for the request that waits');
    say(saying('new', minute));
    t.equal(String((await get(`/${vary}`)).body), 'new');
  }
});

t.test('new tags can be purged', async (t) => {
  const { say, get, purge } = await startCached(t);
  say(saying('x', { ...stale, 'cache-tag': 'one' }));
  await get('/');
  say(unchanged({ 'cache-tag': 'two' }));
  t.equal((await get('/')).headers['cache-tag'], 'two');
  t.strictSame((await purge({ tag: 'one' })).body, { removed: 0 });
  t.strictSame((await purge({ tag: 'two' })).body, { removed: 1 });
});

t.test('a response that becomes private is no longer served', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', { ...stale, 'x-a': 'secret', 'x-b': 'b' }));
  await get('/');
  say(unchanged({ 'cache-control': 'private="x-a", max-age=60' }));
  await get('/');
  const later = await get('/');
  t.equal(asked.length, 2);
  t.equal(later.headers['x-a'], undefined);
  t.equal(later.headers['x-b'], 'b');
});

t.test('a cookie goes to the client that waits, and to no other', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', stale));
  await get('/');
  say(unchanged({ 'set-cookie': 'a=b' }));
  t.strictSame((await get('/')).headers['set-cookie'], ['a=b']);
  t.equal((await get('/')).headers['set-cookie'], undefined);
  t.equal(asked.length, 2);
});

const shared = { 'cache-control': 'public, max-age=0, must-revalidate', etag: '"1"' };
const bob = { cookie: 'sid=bob' };

t.test('a 304 to a caller with an identity applies to that caller, unless the 304 applies to all', async (t) => {
  const { say, get } = await startCached(t);
  const ofBob = { 'x-user': 'bob', 'access-control-allow-origin': 'https://bob.test' };
  const answers =
    (forBob: Record<string, string>): Answer =>
    (asked, answer) => {
      const isKnown = asked.headers['if-none-match'] !== undefined;
      if (!isKnown) return saying('shared', { ...shared, 'x-user': 'all' })(asked, answer);
      answer.writeHead(304, { etag: '"1"', ...(asked.headers.cookie === undefined ? {} : forBob) }).end();
    };
  const forBob: readonly Record<string, string>[] = [
    ofBob,
    { ...ofBob, 'cache-control': 'private' },
    { ...ofBob, 'cache-control': 'max-age=60' },
    { ...ofBob, 'cache-control': 'public, max-age=60', 'set-cookie': 'a=b' },
    { ...ofBob, 'cache-control': 'public, max-age=60', vary: '*' },
  ];
  for (const [i, own] of forBob.entries()) {
    say(answers(own));
    await get(`/${i}`);
    const toBob = await get(`/${i}`, bob);
    t.match(toBob, { status: 200, headers: { 'x-user': 'bob', 'cache-status': /fwd-status=304/ } });
    t.strictSame(toBob.headers['set-cookie'], own['set-cookie'] === undefined ? undefined : ['a=b']);
    const other = await get(`/${i}`);
    t.match(other.headers, { 'x-user': 'all', 'cache-status': /fwd=stale; fwd-status=304/ });
    t.equal(other.headers['access-control-allow-origin'], undefined);
  }
  say(answers({ 'x-user': 'public', 'cache-control': 'public, max-age=60', etag: '"1"' }));
  await get('/for-all');
  await get('/for-all', bob);
  t.match((await get('/for-all')).headers, { 'x-user': 'public', 'cache-status': /; hit/ });
});

t.test('a 304 about another response, or for one client, removes no fresh response', async (t) => {
  const { say, get, asked } = await startCached(t);
  const fresh = { 'cache-control': 'public, max-age=60', etag: '"1"' };
  const anew = { 'cache-control': 'no-cache' };
  for (const [i, headers] of [anew, { ...anew, ...bob }].entries())
    for (const said of [{ etag: '"2"' }, { etag: '"1"', 'cache-control': 'no-store' }]) {
      const path = `/${i}${said.etag}`;
      say(saying('fresh', fresh));
      await get(path);
      say((asked, answer) => {
        if (asked.headers['if-none-match'] === undefined) saying('bad', {}, 400)(asked, answer);
        else answer.writeHead(304, said).end();
      });
      await get(path, headers);
      const before = asked.length;
      say((_, answer) => void answer.writeHead(304, fresh).end());
      t.equal(String((await get(path)).body), 'fresh');
      t.equal(
        asked.length - before,
        i === 0 ? 1 : 0,
        "validated after an anonymous client's request, else as fresh as before",
      );
    }
});

t.test('a HEAD cannot empty the cache: a response that it shows to be outdated is validated', async (t) => {
  const { say, get, asked } = await startCached(t);
  const fresh = { 'cache-control': 'public, max-age=60', etag: '"1"' };
  const anew = { 'cache-control': 'no-cache' };
  const other = { ...fresh, 'content-length': '99' };
  const heads: readonly (readonly [Record<string, string>, Record<string, string>, 'fresh' | 'validated'])[] = [
    [{}, other, 'validated'],
    [{ 'x-bad': '1' }, { ...fresh, 'cache-control': 'no-store' }, 'validated'],
    [{}, { ...other, etag: '"2"' }, 'validated'],
    [{}, fresh, 'fresh'],
    [{ 'accept-encoding': 'gzip' }, { ...other, 'content-encoding': 'gzip' }, 'fresh'],
    [{ 'accept-encoding': 'gzip' }, { ...fresh, 'content-encoding': 'gzip', 'x-a': 'of gzip' }, 'fresh'],
    [bob, other, 'fresh'],
  ];
  for (const [i, [headers, answered, expected]] of heads.entries()) {
    say(saying('stored', fresh));
    await get(`/${i}`);
    say((_, answer) => void answer.writeHead(200, answered).end());
    t.equal((await get(`/${i}`, { ...anew, ...headers }, { method: 'HEAD' })).status, 200);
    const before = asked.length;
    say((_, answer) => void answer.writeHead(304, fresh).end());
    const after = await get(`/${i}`);
    t.equal(String(after.body), 'stored');
    t.equal(after.headers['x-a'], undefined);
    t.equal(asked.length - before, expected === 'fresh' ? 0 : 1, JSON.stringify([headers, answered]));
    t.match((await get(`/${i}`)).headers['cache-status'], /; hit/);
  }
});

t.test('a response without a date gets the date of its arrival', async (t) => {
  const { say, get, asked } = await startCached(t);
  say((_, answer) => {
    answer.sendDate = false;
    answer.writeHead(200, { ...minute, 'content-length': 1 }).end('x');
  });
  const first = String((await get('/none')).headers.date);
  t.ok(Math.abs(Date.parse(first) - Date.now()) < 10_000);
  t.equal((await get('/none')).headers.date, first);
  say(saying('x', { date: 'Mon, 01 Jan 2024 00:00:00 GMT', ...minute, etag: '"1"' }));
  await get('/old');
  say(unchanged({}, false));
  await get('/old');
  const last = await get('/old');
  t.match(last.headers['cache-status'], /; hit/);
  t.ok(Math.abs(Date.parse(String(last.headers.date)) - Date.now()) < 10_000);
  t.equal(asked.length, 3);
});

t.test('a head that grows is counted, and the updated response replaces the one that it now matches', async (t) => {
  const store = new Store(10_000);
  const now = Date.now();
  const terms = readTerms({ status: 200, fields: emptyFields }, now, now, false);
  const entryOf = (value: string): Entry =>
    new Entry({
      ...{ url: 'u', partition: '', status: 200, reason: '', fields: emptyFields },
      ...{ terms, selection: [['x-a', value]], tags: [] },
    });
  const [one, two] = [entryOf('1'), entryOf('2')];
  for (const entry of [one, two]) {
    t.equal(store.reserve(entry, entry.headBytes), true);
    store.add(entry);
  }
  const before = store.bytes;
  const fields = addFields(emptyFields, [['x-b', 'b'.repeat(1000)]]);
  one.freshen({ ...one, fields });
  store.replaceHead(one);
  t.equal(store.bytes, before + 1024);
  one.freshen({ ...one, selection: two.selection });
  store.replaceHead(one);
  t.strictSame([store.size, store.bytes, two.isGone], [1, one.headBytes, true]);
  one.freshen({ ...one, fields: addFields(emptyFields, [['x-b', 'b'.repeat(20_000)]]) });
  store.replaceHead(one);
  t.strictSame([store.size, store.bytes, one.isGone], [0, 0, true], 'more than fits');
});

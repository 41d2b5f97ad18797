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

t.test('a new Vary selects from now on', async (t) => {
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
    t.equal(String((await get(`/${vary}`)).body), 'old', 'for the one that waits');
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

t.test('what becomes private is not served any more', async (t) => {
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

t.test('a cookie is for the client that waits, and for no other', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', stale));
  await get('/');
  say(unchanged({ 'set-cookie': 'a=b' }));
  t.strictSame((await get('/')).headers['set-cookie'], ['a=b']);
  t.equal((await get('/')).headers['set-cookie'], undefined);
  t.equal(asked.length, 2);
});

t.test('responses without a date are dated when they arrive', async (t) => {
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

t.test('a head that grows is counted, and takes the place of what it selects now', async (t) => {
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
  t.strictSame([store.size, store.bytes, one.isGone], [0, 0, true], 'more than there is room for');
});

// Session persistence as hooks: who keeps a session, who gets a new one, in which form, and that equal sessions choose
// equally.

import t from 'tap';
import { sessionPersistence } from '../../../sidecar/edge/session-persistence/capability.ts';
import type { ConnectionFacts } from '../../../sidecar/exchange/connection-facts.ts';
import { sessionOf } from '../../../sidecar/upstream/hash-key.ts';
import { createExchange, type Headers, headersIn, hooksOf, planOf } from '../../fixtures/exchange.ts';

const now = 1_800_000_000_000;
const id = 'abcdefghijklmnop';
const at = (ms: number): string => Math.floor(ms / 1000).toString(36);
const value = (since: number): string => `${at(since)}.${id}`;

/** What a request with these headers is given, and the share of the backends that it chooses. */
async function ask(written: object, headers: Headers = {}, path = '/', connection: Partial<ConnectionFacts> = {}) {
  const plan = await planOf(sessionPersistence, 'sessionPersistence', written);
  const { share } = hooksOf(sessionPersistence, { sessionPersistence: plan }, { path })!;
  const { exchange } = createExchange({ startedAt: now }, headers, { connection });
  const chosen = share!(exchange);
  return {
    session: sessionOf.get(exchange),
    chosen,
    given: headersIn(exchange.replyFields ?? { names: [], values: [] }),
  };
}

const hour = { absoluteTimeout: '1h' };

const rows: [name: string, plan: object, headers: Headers, isKept: boolean][] = [
  ['a cookie that the gateway issued', {}, { cookie: `sallyport-session=${value(0)}` }, true],
  ['among others', {}, { cookie: `a=b; sallyport-session=${value(0)}; c=d` }, true],
  ['no cookie', {}, {}, false],
  ['a cookie of another name', {}, { cookie: `other=${value(0)}` }, false],
  ['a cookie of a name that is configured', { sessionName: 'mine' }, { cookie: `mine=${value(0)}` }, true],
  ['a header where a cookie is expected', {}, { 'sallyport-session': value(0) }, false],
  ['a header', { type: 'Header' }, { 'x-sallyport-session': value(0) }, true],
  [
    'a header of a name that is configured, whatever its case',
    { type: 'Header', sessionName: 'X-Mine' },
    { 'x-mine': value(0) },
    true,
  ],
  ['a cookie where a header is expected', { type: 'Header' }, { cookie: `x-sallyport-session=${value(0)}` }, false],
  ['within its time', hour, { cookie: `sallyport-session=${value(now - 3_599_000)}` }, true],
  ['past its time', hour, { cookie: `sallyport-session=${value(now - 3_600_000)}` }, false],
  ['from the future: the gateway never issued it', hour, { cookie: `sallyport-session=${value(now + 5000)}` }, false],
  ['no session at all', {}, { cookie: 'sallyport-session=x' }, false],
  ['a name of another length', {}, { cookie: `sallyport-session=${value(0)}x` }, false],
];

for (const [name, plan, headers, isKept] of rows)
  t.test(`${isKept ? 'kept' : 'new'}: ${name}`, async (t) => {
    const { session, given } = await ask(plan, headers);
    t.equal(session === id, isKept);
    t.match(session, /^[A-Za-z0-9_-]{16}$/);
    t.equal(Object.keys(given).length, isKept ? 0 : 1);
  });

const forms: [name: string, plan: object, path: string, isSecure: boolean, expected: RegExp][] = [
  [
    'a cookie for the lifetime of the browser session',
    {},
    '/',
    false,
    /^sallyport-session=[0-9a-z]+\.[\w-]{16}; Path=\/; HttpOnly; SameSite=Lax$/,
  ],
  ['on the path of its rule', {}, '/shop', false, /; Path=\/shop; /],
  ['over TLS', {}, '/', true, /; Path=\/; Secure; HttpOnly; /],
  [
    'a lifetime past the browser session',
    { ...hour, cookieConfig: { lifetimeType: 'Permanent' } },
    '/',
    false,
    /; Path=\/; Max-Age=3600; HttpOnly/,
  ],
  ['with a lifetime, but for the browser session only', hour, '/', false, /; Path=\/; HttpOnly/],
];

for (const [name, plan, path, isSecure, expected] of forms)
  t.test(`cookie: ${name}`, async (t) => {
    const tls = isSecure ? { version: 'TLSv1.3', cipher: 'x', group: undefined } : undefined;
    const { given } = await ask(plan, {}, path, { tls });
    t.match(given['set-cookie'], expected);
  });

t.test('a header gets the form in which it is read', async (t) => {
  const { given, session } = await ask({ type: 'Header' });
  t.strictSame(given, { 'x-sallyport-session': `${at(now)}.${session}` });
  const again = await ask({ type: 'Header', ...hour }, given);
  t.strictSame([again.session, again.given], [session, {}]);
});

t.test('a session selects the same backend each time, and sessions spread over all backends', async (t) => {
  const first = await ask({}, { cookie: `sallyport-session=${value(0)}` });
  const renamed = await ask({ sessionName: 'mine', ...hour }, { cookie: `mine=${value(now)}` });
  t.equal(first.chosen, renamed.chosen, 'chosen by the session alone');
  const chosen = await Promise.all(Array.from({ length: 200 }, async () => (await ask({})).chosen));
  const quarters = [0, 1, 2, 3].map((n) => chosen.filter((one) => Math.floor(one * 4) === n).length);
  t.equal(
    quarters.reduce((sum, one) => sum + one),
    200,
    'each is from 0 to 1',
  );
  for (const [n, count] of quarters.entries()) t.ok(count > 20, `${count} of 200 in quarter ${n}`);
});

t.test('pools of such a rule are balanced by session', async (t) => {
  t.equal(sessionPersistence.sticks, true);
  t.equal(hooksOf(sessionPersistence, {}), undefined);
});

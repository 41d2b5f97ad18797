// Sealed cookies: which open, which do not, and how long values are split.

import t from 'tap';
import { hideSessionCookies } from '../../../sidecar/edge/credentials.ts';
import { clearChunks, printChunks, printCookie, readChunks } from '../../../sidecar/edge/oidc/session-cookie.ts';
import { Seal } from '../../../sidecar/edge/seal.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields, type Fields } from '../../../sidecar/exchange/message.ts';
import { pretend } from '../../fixtures/edge.ts';

const a = Buffer.alloc(32, 'a');
const b = Buffer.alloc(32, 'b');
const attributes = { domain: undefined, sameSite: 'Lax' } as const;
const cookies = (...values: string[]): Fields =>
  addFields(
    emptyFields,
    values.map((one) => ['cookie', one] as const),
  );

t.test('a sealed text opens only with one of its keys and for its purpose', async (t) => {
  const seal = new Seal([a], 'x');
  const text = 'äöü {"a":1}';
  const sealed = seal.close(text);
  t.not(seal.close(text), sealed, 'never the same twice');
  t.notOk(Buffer.from(sealed, 'base64url').toString('latin1').includes('{"a"'));
  const rows: [string, Seal, string, string | undefined][] = [
    ['itself', seal, sealed, text],
    ['rotated, the old key second', new Seal([b, a], 'x'), sealed, text],
    ['another key', new Seal([b], 'x'), sealed, undefined],
    ['another purpose', new Seal([a], 'y'), sealed, undefined],
    ['empty', seal, '', undefined],
    ['short', seal, 'AAAA', undefined],
    ['not base64url', seal, `${sealed}=`, undefined],
    ['with bytes after it', seal, `${sealed}AAAA`, undefined],
    ['far too long', seal, 'A'.repeat(20_000), undefined],
  ];
  for (const [name, by, value, opened] of rows) t.equal(by.open(value), opened, name);
  const bytes = Buffer.from(sealed, 'base64url');
  for (let i = 0; i < bytes.length; i++) {
    const changed = Buffer.from(bytes);
    changed[i]! ^= 1;
    if (seal.open(changed.toString('base64url')) !== undefined) t.fail(`byte ${i} can be changed`);
  }
  t.throws(() => new Seal([], 'x'), { code: 'config_invalid', message: 'there is no key for session cookies' });
});

t.test('long values are split into pieces', async (t) => {
  const value = 'v'.repeat(9000);
  const lines = printChunks(cookies('s.3=old; s.4=old; other=1'), 's', value, 60_000, attributes);
  const pairs = lines.map((one) => one.split(';')[0]!);
  t.strictSame(
    lines.map((one) => one.replace(/v+/, 'v')),
    [
      's=3.v; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax',
      's.1=v; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax',
      's.2=v; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax',
      's.3=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax',
      's.4=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax',
    ],
  );
  const sent = pairs.slice(0, 3);
  t.equal(readChunks(cookies(sent.join('; ')), 's'), value);
  t.equal(readChunks(cookies(...sent.toReversed()), 's'), value, 'in any order, in several fields');
  t.equal(readChunks(cookies(`${sent.join('; ')}; s.3=old`), 's'), value, 'a piece of an earlier value is not read');
  t.equal(readChunks(cookies(sent.slice(0, 2).join('; ')), 's'), undefined, 'a piece is missing');
  t.equal(readChunks(cookies(`${sent.join('; ')}; s.1=x`), 's'), undefined, 'a piece is duplicated');
  t.equal(readChunks(cookies('s=9.v'), 's'), undefined);
  t.equal(readChunks(cookies('s=v'), 's'), undefined);
  t.throws(() => printChunks(emptyFields, 's', 'v'.repeat(19_001), 1, attributes), {
    code: 'oidc_provider_failed',
    message: 'the tokens of a session take 19001 bytes: at most 19000 fit into its cookies',
  });
  t.equal(printChunks(emptyFields, 's', 'v'.repeat(19_000), 1, attributes).length, 5);
  t.strictSame(clearChunks(cookies('a=b'), 's', attributes), []);
  t.equal(clearChunks(cookies('s=1; s.1=2; sx=3'), 's', attributes).length, 2);
});

t.test('cookie attributes', async (t) => {
  t.equal(
    printCookie('s', 'v', 1500, { domain: 'shop.test', sameSite: 'None' }),
    's=v; Path=/; Domain=shop.test; Max-Age=1; Secure; HttpOnly; SameSite=None',
  );
  const exchange = pretend({}, { cookie: 'a=1; __Host-sallyport-session-x.1=2; __Secure-sallyport-login-y=3; b=4' });
  hideSessionCookies(exchange);
  t.strictSame(exchange.fields.values, ['a=1; b=4']);
  const only = pretend({}, { cookie: '__Host-sallyport-session-x=2', 'x-kept': '-sallyport-' });
  hideSessionCookies(only);
  t.strictSame(only.fields.values, ['-sallyport-']);
});

// Issuers that are slow, down, redirecting, huge, or change their keys; by URI and by discovery, over real HTTP.

import t from 'tap';
import { compileAuthentication } from '../../sidecar/policy/jwt.ts';
import type { JwtRule } from '../../sidecar/policy/request-authentication.ts';
import { fetchJson, Jwks } from '../../sidecar/tokens/jwks.ts';
import { until } from '../fixtures/process.ts';
import { createKey, jwksOf, plainRule, sign, startIssuer } from '../fixtures/tokens.ts';

const rule = (issuer: string, jwksUri?: string): JwtRule => ({
  ...plainRule,
  issuer,
  ...(jwksUri === undefined ? {} : { jwksUri }),
  timeoutMs: 300,
});

const minute = 60_000;

t.test('by URI: the keys are fetched once for all requests, and again for an unknown key ID', async (t) => {
  const issuer = await startIssuer(t);
  const [one, two] = await Promise.all([createKey('one'), createKey('two')]);
  issuer.pages.set('/keys', jwksOf(one));
  let now = 1_000_000;
  const source = new Jwks(undefined, fetchJson, () => now).sourceOf(rule('iss.test', `${issuer.url}/keys`));
  t.equal(source.current(), undefined);
  const sets = await Promise.all(Array.from({ length: 20 }, () => source.keysFor('one')));
  t.equal(issuer.asked.length, 1, 'one fetch for twenty callers');
  t.equal(new Set(sets).size, 1);

  issuer.pages.set('/keys', jwksOf(one, two));
  t.notOk((await source.keysFor('two')).has('two'), 'not fetched so soon after the last fetch');
  t.equal(issuer.asked.length, 1);
  now += 11_000;
  const after = await Promise.all(Array.from({ length: 20 }, () => source.keysFor('two')));
  t.ok(after.every((set) => set.has('two')));
  t.equal(issuer.asked.length, 2);
  now += 11_000;
  for (let i = 0; i < 50; i++) await source.keysFor(`invented-${i}`);
  t.equal(issuer.asked.length, 3, 'invented key ids do not multiply fetches');
});

t.test('a withdrawn key is dropped even if no new token arrives', async (t) => {
  const issuer = await startIssuer(t);
  const [one, two] = await Promise.all([createKey('one'), createKey('two')]);
  issuer.pages.set('/keys', jwksOf(one));
  let now = Date.now();
  const jwks = new Jwks(undefined, fetchJson, () => now);
  const document = {
    ...{ name: 'jwt', namespace: 'shop', file: 'x.yaml', line: 1 },
    jwtRules: [rule('iss.test', `${issuer.url}/keys`)],
  };
  const authentication = compileAuthentication([document], (one) => jwks.sourceOf(one))!;
  const token = await sign(one, { iss: 'iss.test', sub: 'ann' });
  const ask = async (): Promise<string> =>
    (await authentication.check({ path: `/?access_token=${token}`, header: () => undefined }, now)).kind;
  t.equal(await ask(), 'verified');
  issuer.pages.set('/keys', jwksOf(two));
  now += 4 * minute;
  t.equal(await ask(), 'verified');
  t.equal(issuer.asked.length, 1, 'not before the keys are old');
  now += 2 * minute;
  t.equal(await ask(), 'verified', 'no request waits for it');
  await until(() => jwks.facts()[0]!.fetched === 2, 'the new keys');
  t.equal(await ask(), 'refused');
  t.equal(issuer.asked.length, 2);
});

t.test('the last good keys outlive an outage, but not forever', async (t) => {
  const issuer = await startIssuer(t);
  const key = await createKey('one');
  issuer.pages.set('/keys', jwksOf(key));
  let now = 1_000_000;
  const jwks = new Jwks(undefined, fetchJson, () => now);
  const source = jwks.sourceOf(rule('iss.test', `${issuer.url}/keys`));
  const first = await source.keysFor('one');
  const changes: [string, string | (() => void)][] = [
    ['404', ''],
    ['garbage', '{'],
    ['no JWK Set', '{"keys":{}}'],
    ['a list', '[]'],
  ];
  for (const [name, page] of changes) {
    if (page === '') issuer.pages.delete('/keys');
    else issuer.pages.set('/keys', page as string);
    now += 10 * minute;
    await source.keysFor('another');
    t.equal(await source.keysFor('one'), first, name);
  }
  t.match(jwks.facts(), [{ issuer: 'iss.test', keys: 1, fetched: 1, failed: 4, ageMs: 40 * minute }]);
  t.match(jwks.facts()[0]!.lastProblem, /not a JWK Set/);
  now += 24 * 60 * minute;
  t.equal(source.current(), undefined);
  await t.rejects(source.keysFor('one'), { code: 'jwks_unavailable' });
  issuer.pages.set('/keys', jwksOf(key));
  now += minute;
  t.ok((await source.keysFor('one')).has('one'), 'the keys work again');
});

t.test(
  'unchanged keys stay the same object, so that cached tokens stay verified; an empty set is accepted',
  async (t) => {
    const issuer = await startIssuer(t);
    const key = await createKey('one');
    issuer.pages.set('/keys', jwksOf(key));
    let now = 1_000_000;
    const source = new Jwks(undefined, fetchJson, () => now).sourceOf(rule('iss.test', `${issuer.url}/keys`));
    const first = await source.keysFor('one');
    now += 10 * minute;
    await source.keysFor('x');
    t.equal(source.current(), first);
    issuer.pages.set('/keys', '{"keys":[]}');
    now += 10 * minute;
    t.notOk((await source.keysFor('x')).has('one'), 'the issuer has restored the key');
  },
);

t.test('invalid responses are refused', async (t) => {
  const issuer = await startIssuer(t);
  const key = await createKey('one');
  issuer.pages.set('/keys', jwksOf(key));
  issuer.pages.set('/redirects', (response) => response.writeHead(302, { location: '/keys' }).end());
  issuer.pages.set('/huge', `{"keys":[${`"${'x'.repeat(1000)}",`.repeat(300)}1]}`);
  issuer.pages.set('/many', JSON.stringify({ keys: Array(101).fill(key.jwk) }));
  issuer.pages.set('/slow', () => {});
  issuer.pages.set('/drips', (response) => void response.write('{"keys":'));
  issuer.pages.set('/dies', (response) => response.destroy());
  for (const [path, why] of [
    ['/redirects', /it answered 302/],
    ['/huge', /larger than 262144 bytes/],
    ['/many', /not a JWK Set of at most 100 keys/],
    ['/slow', /timeout/],
    ['/drips', /timeout/],
    ['/dies', /other side closed|terminated|socket/i],
    ['/none', /it answered 404/],
  ] as const) {
    const source = new Jwks(undefined).sourceOf(rule('iss.test', issuer.url + path));
    await t.rejects(source.keysFor('one'), { code: 'jwks_unavailable', message: why }, path);
  }
  await t.rejects(new Jwks(undefined).sourceOf(rule('iss.test', 'http://127.0.0.1:1/keys')).keysFor('one'), {
    code: 'jwks_unavailable',
  });
  t.notOk(issuer.asked.slice(1).includes('/keys'), 'no redirect was followed');
});

t.test('discovery finds the keys', async (t) => {
  const issuer = await startIssuer(t);
  const key = await createKey('one');
  const page = '/.well-known/openid-configuration';
  issuer.pages.set('/keys', jwksOf(key));
  const ask = (): Promise<unknown> => new Jwks(undefined).sourceOf(rule(issuer.url)).keysFor('one');
  issuer.pages.set(page, JSON.stringify({ issuer: issuer.url, jwks_uri: `${issuer.url}/keys` }));
  t.match(await ask(), { has: Function });
  for (const [wrong, why] of [
    [{ issuer: 'http://evil.test', jwks_uri: `${issuer.url}/keys` }, /names another issuer/],
    [{ issuer: issuer.url }, /names no jwks_uri/],
    [{ issuer: issuer.url, jwks_uri: 'file:///etc/passwd' }, /names no jwks_uri/],
    [[], /names another issuer/],
    [null, /names another issuer/],
  ] as const) {
    issuer.pages.set(page, JSON.stringify(wrong));
    await t.rejects(ask(), { code: 'jwks_unavailable', message: why }, JSON.stringify(wrong));
  }
  await t.rejects(new Jwks(undefined).sourceOf(rule('not a url')).keysFor('one'), { code: 'jwks_unavailable' });
});

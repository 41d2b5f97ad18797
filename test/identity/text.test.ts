// Identity as text: SPIFFE IDs, trust bundles, deny lists, keys.

import { createPrivateKey } from 'node:crypto';
import t from 'tap';
import { formatBundle, formatPem, parseBundle } from '../../cert-agent/identity/bundle.ts';
import { formatDenyList, parseDenyList } from '../../cert-agent/identity/denied.ts';
import { formatKey, generateKey, parseKey } from '../../cert-agent/identity/keys.ts';
import {
  isReserved,
  namespaceOf,
  parseSpiffeId,
  parseTrustDomain,
  serviceAccountOf,
} from '../../cert-agent/identity/spiffe-id.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';

const authority = await createAuthority('demo.test');

t.test('SPIFFE IDs are parsed', async (t) => {
  t.match(parseSpiffeId('SPIFFE://demo.test/ns/shop/sa/web'), {
    uri: 'spiffe://demo.test/ns/shop/sa/web',
    trustDomain: 'demo.test',
    path: '/ns/shop/sa/web',
  });
  t.equal(parseSpiffeId('spiffe://demo.test').path, '');
  t.equal(parseTrustDomain('spiffe://demo.test'), 'demo.test');
  const longest = `spiffe://demo.test/${'a'.repeat(2048 - 'spiffe://demo.test/'.length)}`;
  t.equal(parseSpiffeId(longest).uri, longest);
  const refused: readonly (readonly [text: string, why: RegExp])[] = [
    ['', /does not begin with spiffe/],
    ['https://demo.test/a', /does not begin with spiffe/],
    ['spiffe://', /trust domain is empty/],
    ['spiffe:///a', /trust domain is empty/],
    ['spiffe://Demo.test/a', /may contain only a-z/],
    ['spiffe://demo.test:443/a', /may contain only a-z/],
    ['spiffe://user@demo.test/a', /may contain only a-z/],
    ['spiffe://d%65mo.test/a', /may contain only a-z/],
    [`spiffe://${'a'.repeat(256)}/a`, /longer than 255 bytes/],
    ['spiffe://demo.test/', /empty segment or ends in a slash/],
    ['spiffe://demo.test/a/', /empty segment or ends in a slash/],
    ['spiffe://demo.test//a', /empty segment/],
    ['spiffe://demo.test/a/./b', /dot segment/],
    ['spiffe://demo.test/..', /dot segment/],
    ['spiffe://demo.test/a%20b', /may contain only letters/],
    ['spiffe://demo.test/a?b', /may contain only letters/],
    ['spiffe://demo.test/a#b', /may contain only letters/],
    ['spiffe://demo.test/a b', /may contain only letters/],
    ['spiffe://demo.test/\u00e4', /may contain only letters/],
    ['spiffe://demo.test/a\n', /may contain only letters/],
    [`${longest}a`, /longer than 2048 bytes/],
  ];
  for (const [text, why] of refused)
    t.throws(() => parseSpiffeId(text), { code: 'spiffe_id_invalid', message: why }, JSON.stringify(text.slice(0, 40)));
});

t.test('the parts of an ID are checked', async (t) => {
  const web = parseSpiffeId('spiffe://demo.test/ns/shop/sa/web');
  t.equal(namespaceOf(web), 'shop');
  t.equal(serviceAccountOf(web), 'web');
  const free = parseSpiffeId('spiffe://demo.test/billing/ns/x');
  t.equal(namespaceOf(free), undefined);
  t.equal(serviceAccountOf(free), undefined);
  for (const [path, reserved] of [
    ['/sallyport', true],
    ['/sallyport/ca', true],
    ['/sallyports', false],
    ['/ns/sallyport/sa/ca', false],
  ] as const)
    t.equal(isReserved(parseSpiffeId(`spiffe://demo.test${path}`)), reserved, path);
});

t.test('a bundle is read as JSON and as PEM', async (t) => {
  const { bundle } = authority;
  const text = JSON.stringify(formatBundle({ ...bundle, sequence: 7 }));
  t.match(parseBundle(text, 'demo.test', 'x'), { roots: bundle.roots, sequence: 7, refreshHintS: 5 });
  t.match(parseBundle(formatPem(bundle.roots), 'demo.test', 'x'), { roots: bundle.roots, sequence: 0 });
  const [key] = (formatBundle(bundle) as { keys: Record<string, unknown>[] }).keys;
  t.notOk('kid' in key!, 'no kid (section 4.2.2 of the X509-SVID standard)');
  t.match(key, { use: 'x509-svid', kty: 'EC', crv: 'P-256' });
  t.match(
    parseBundle(
      JSON.stringify({
        keys: [
          { use: 'jwt-svid', kid: 'a', kty: 'EC' },
          { use: 'x509-svid', kty: 'unheard of', x5c: [bundle.roots[0]!.toString('base64'), 'ignored'] },
          { use: 'another' },
        ],
      }),
      'demo.test',
      'x',
    ),
    { roots: bundle.roots, sequence: 0, refreshHintS: 300 },
    'keys of other uses, and further values of x5c, are ignored',
  );
  const refused: readonly (readonly [text: string, code: string, why: RegExp])[] = [
    ['', 'bundle_empty', /^b.json contains no certificate, so no peer of demo.test can be verified$/],
    ['{"keys":[]}', 'bundle_empty', /contains no certificate/],
    ['{"keys":[{"use":"jwt-svid"}]}', 'bundle_empty', /contains no certificate/],
    ['{', 'bundle_invalid', /not JSON/],
    ['{}', 'bundle_invalid', /no 'keys' list/],
    ['{"keys":[{"use":"x509-svid"}]}', 'bundle_invalid', /keys\[0\] has no x5c certificate/],
    ['{"keys":[{"use":"x509-svid","x5c":["AAAA"]}]}', 'bundle_invalid', /the certificate of keys\[0\] cannot be read/],
    [
      '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----',
      'certificate_unreadable',
      /^certificate 1 of b.json cannot be read/,
    ],
  ];
  for (const [text, code, message] of refused)
    t.throws(() => parseBundle(text, 'demo.test', 'b.json'), { code, message }, text.slice(0, 40));
});

t.test('a deny list is read', async (t) => {
  const list = {
    sequence: 3,
    time: 1_700_000_000_000,
    serials: new Set(['0a']),
    ids: new Set(['spiffe://demo.test/a']),
  };
  t.same(parseDenyList(JSON.stringify(formatDenyList(list)), 'x'), list);
  const good = formatDenyList(list) as Record<string, unknown>;
  t.ok(parseDenyList({ ...good, serials: ['0A'] }, 'x').serials.has('0a'), 'serials in any case');
  const refused: readonly (readonly [input: unknown, why: RegExp])[] = [
    ['', /d.json is not a deny list/],
    [[], /'sequence' is not a whole number/],
    [null, /expected an object/],
    [{ ...good, sequence: -1 }, /'sequence' is not a whole number/],
    [{ ...good, time: 'soon' }, /'time' is not a time/],
    [{ ...good, serials: [1] }, /must be lists of strings/],
    [{ ...good, ids: undefined }, /must be lists of strings/],
  ];
  for (const [input, message] of refused)
    t.throws(() => parseDenyList(input, 'd.json'), { code: 'bundle_invalid', message }, JSON.stringify(input));
});

t.test('keys are checked', async (t) => {
  const key = generateKey();
  t.ok(parseKey(formatKey(key), 'a.key').equals(key));
  const encrypted = formatKey(key, 'correct horse');
  t.match(encrypted, /BEGIN ENCRYPTED PRIVATE KEY/);
  t.ok(parseKey(encrypted, 'a.key', 'correct horse').equals(key));
  t.throws(() => parseKey(encrypted, 'a.key', 'wrong'), {
    code: 'passphrase_wrong',
    message: 'the key in a.key cannot be decrypted with this passphrase',
  });
  t.throws(() => parseKey(encrypted, 'a.key'), {
    code: 'passphrase_wrong',
    message: 'the key in a.key is encrypted and no passphrase was given',
    hint: 'give the passphrase file with --passphrase-file',
  });
  const secret = formatKey(key).split('\n')[1]!;
  const broken = formatKey(key).replace(secret, secret.slice(4));
  try {
    parseKey(broken, 'a.key');
    t.fail('a broken key was read');
  } catch (error) {
    t.match(error, { code: 'key_unreadable', message: /^a.key contains no readable private key/ });
    t.notMatch(String(error), secret.slice(4, 20), 'no part of the key is in the error');
  }
});

t.test('an SVID: chain and key match', async (t) => {
  const [ours, theirs] = await Promise.all([
    createCredential(authority, 'spiffe://demo.test/a'),
    createCredential(authority, 'spiffe://demo.test/b'),
  ]);
  const source = { chain: 'svid.pem', key: 'svid.key' };
  const svid = parseSvid(ours.chainPem, ours.keyPem, source);
  t.equal(svid.id.uri, 'spiffe://demo.test/a');
  t.equal(svid.chain.length, 2);
  t.ok(createPrivateKey(svid.keyPem).equals(ours.key));
  t.throws(() => parseSvid(ours.chainPem, theirs.keyPem, source), {
    code: 'key_mismatch',
    message: 'the key in svid.key does not belong to the certificate in svid.pem',
  });
  t.throws(() => parseSvid('', ours.keyPem, source), {
    code: 'certificate_unreadable',
    message: 'svid.pem contains no certificate',
    hint: 'expected PEM, leaf first',
  });
  t.throws(() => parseSvid(formatPem([...ours.chain].reverse()), ours.keyPem, source), {
    code: 'svid_invalid',
    message: /^svid.pem is not an X509-SVID: /,
  });
});

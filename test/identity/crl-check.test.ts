// Chains against CRLs: what is revoked, whose list is missing, forged or over, and what that leaves open.

import t from 'tap';
import { type CrlEntry, formatCrlPem, signCrl } from '../../cert-agent/identity/crl.ts';
import { CrlCheck, type CrlSource } from '../../cert-agent/identity/crl-check.ts';
import { readIssuer } from '../../cert-agent/identity/issuer.ts';
import { type Authority, createAuthority, createCredential } from '../fixtures/pki.ts';

const now = Math.floor(Date.now() / 1000) * 1000;
const day = 86_400_000;
const authority = await createAuthority('outside.test');
const other = await createAuthority('outside.test');
const uri = 'spiffe://outside.test/ns/partner/sa/buyer';
const { chain } = await createCredential(authority, uri);
const leaf = chain[0]!;
const serialOf = (der: Buffer): string => readIssuer(der).serial.toString('hex').replace(/^00/, '');

interface Changes {
  readonly number?: number;
  readonly nextUpdate?: number;
  readonly revoked?: readonly Buffer[];
}

async function listOf(
  by: { key: Authority['rootKey']; certificate: Buffer },
  { number = 1, nextUpdate = now + day, revoked = [] }: Changes = {},
): Promise<CrlSource> {
  const entries = revoked.map((one): CrlEntry => ({ serial: serialOf(one), at: now, reason: 'unspecified' }));
  const der = await signCrl({ number, thisUpdate: now - 1000, nextUpdate, entries }, by);
  return { source: `list ${number}`, text: formatCrlPem(der) };
}

const issuer = { key: authority.issuerKey, certificate: authority.issuer };
const root = { key: authority.rootKey, certificate: authority.root };
/** The name of the issuer, with a key that is not its own. */
const forger = { key: other.issuerKey, certificate: authority.issuer };
const [ofIssuer, ofRoot] = [await listOf(issuer), await listOf(root)];

const verdict = (sources: readonly CrlSource[], { onlyLeaf = false, at = now, of = chain } = {}): string =>
  new CrlCheck({ sources, onlyLeaf }, [authority.root]).refusalOf(of, at)?.code ?? 'good';

t.test('each list and chain gets its verdict', async (t) => {
  const ended = await listOf(issuer, { nextUpdate: now - 1000 });
  const revoking = await listOf(issuer, { number: 2, revoked: [leaf] });
  const cases: readonly [string, readonly CrlSource[], string][] = [
    ['nothing is revoked', [ofIssuer, ofRoot], 'good'],
    ['the leaf', [revoking, ofRoot], 'client_certificate_revoked'],
    ['the intermediate', [ofIssuer, await listOf(root, { revoked: [authority.issuer] })], 'client_certificate_revoked'],
    ['no list at all', [], 'crl_missing'],
    ['no list of the issuer', [ofRoot], 'crl_missing'],
    ['no list of the root', [ofIssuer], 'crl_missing'],
    [
      'a list of another CA with the same names',
      [await listOf({ key: other.issuerKey, certificate: other.issuer }), ofRoot],
      'crl_missing',
    ],
    ['a forged list', [await listOf(forger), ofRoot], 'crl_untrusted'],
    ['a forged list beside the good one', [await listOf(forger, { number: 9 }), ofIssuer, ofRoot], 'good'],
    ['an expired list', [ended, ofRoot], 'crl_expired'],
    ['the newest counts: revoked', [ofIssuer, revoking, ofRoot], 'client_certificate_revoked'],
    ['the newest counts: in any order', [revoking, ofIssuer, ofRoot], 'client_certificate_revoked'],
    [
      'a newer forged list does not count',
      [await listOf(forger, { number: 3 }), revoking, ofRoot],
      'client_certificate_revoked',
    ],
    ['two lists in one file', [{ source: 'x', text: ofIssuer.text + ofRoot.text }], 'good'],
  ];
  for (const [name, sources, expected] of cases) t.equal(verdict(sources), expected, name);
  t.equal(verdict([ofIssuer], { onlyLeaf: true }), 'good', 'only the leaf: the root needs no list');
  t.equal(verdict([revoking], { onlyLeaf: true }), 'client_certificate_revoked');
  t.equal(verdict([ofIssuer, ofRoot], { at: now + day + 1 }), 'crl_expired', 'time alone ends it');
  t.equal(verdict([ofIssuer, ofRoot], { of: [leaf] }), 'crl_missing', 'an issuer that is not presented');
});

t.test('an authority that is an intermediate ends the path', async (t) => {
  const check = new CrlCheck({ sources: [ofIssuer], onlyLeaf: false }, [authority.issuer]);
  t.equal(check.refusalOf(chain, now), undefined);
});

t.test('a file that is not a CRL invalidates no other', async (t) => {
  for (const text of [
    '',
    'garbage',
    ofIssuer.text.slice(0, -60),
    `${ofIssuer.text.slice(0, 90)}\n-----END X509 CRL-----\n`,
  ]) {
    const check = new CrlCheck({ sources: [{ source: 'bad.pem', text }, ofRoot], onlyLeaf: false }, [authority.root]);
    t.match(check.problems, [{ code: 'crl_invalid', message: /bad\.pem/ }], JSON.stringify(text.slice(0, 20)));
    t.equal(check.refusalOf(chain, now)?.code, 'crl_missing', 'its CA is refused');
    const beside = new CrlCheck({ sources: [{ source: 'bad.pem', text }, ofIssuer, ofRoot], onlyLeaf: false }, [
      authority.root,
    ]);
    t.equal(beside.refusalOf(chain, now), undefined, 'the others are used');
  }
});

t.test('when verdicts change with time alone', async (t) => {
  const sources = [await listOf(issuer, { nextUpdate: now + 1000 }), ofRoot];
  const check = new CrlCheck({ sources, onlyLeaf: false }, [authority.root]);
  t.equal(check.hasEnded(now, now + 1000), false);
  t.equal(check.hasEnded(now, now + 1001), true);
  t.equal(check.hasEnded(now + 1001, now + 2000), false, 'once');
  t.equal(check.hasEnded(now + 1001, now + day + 1), true, 'and the other one later');
});

t.test('a list of 100,000 entries is searched quickly', async (t) => {
  const entries = Array.from({ length: 100_000 }, (_, index) => ({
    ...{ serial: `41${index.toString(16).padStart(30, '0')}`, at: now, reason: 'keyCompromise' as const },
  }));
  const text = formatCrlPem(await signCrl({ number: 1, thisUpdate: now, nextUpdate: now + day, entries }, issuer));
  const began = performance.now();
  const check = new CrlCheck({ sources: [{ source: 'x', text }, ofRoot], onlyLeaf: false }, [authority.root]);
  check.refusalOf(chain, now);
  t.comment(`parsed and verified in ${Math.round(performance.now() - began)} ms`);
  // CPU time: a busy machine makes the time longer.
  const before = process.cpuUsage();
  for (let i = 0; i < 100; i++) check.refusalOf(chain, now);
  const { user, system } = process.cpuUsage(before);
  const each = (user + system) / 1000 / 100;
  t.ok(each < 5, `${each} ms for a handshake`);
});

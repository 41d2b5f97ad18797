// Three verdicts on some 300 chains: ours, `openssl verify` and pkijs's engine. Each chain is valid except for one or
// two twists, and each twist says which engine refuses it. Ours must never be the only one that accepts; where it alone
// refuses, the row says why. pkijs ignores path lengths, unknown critical extensions, usages, and the strength of keys
// and digests.

import { spawnSync } from 'node:child_process';
import type { KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Certificate, CertificateChainValidationEngine, CryptoEngine, setEngine } from 'pkijs';
import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { verifyChain } from '../../cert-agent/identity/verify.ts';
import {
  alternativeNames,
  authorityKeyId,
  basicConstraints,
  clientAuth,
  dnsName,
  extendedUsage,
  extension,
  type Forgery,
  forge,
  forgeRsaKey,
  ipName,
  keyId,
  keyUsage,
  nameConstraints,
  newKey,
  serverAuth,
  uriName,
} from '../fixtures/forge.ts';
import { tempDir } from '../fixtures/process.ts';
import { createRandom } from '../fixtures/random.ts';

setEngine('node', new CryptoEngine({ name: 'node', crypto: globalThis.crypto }));

const hour = 3_600_000;
const now = Date.now();
const uri = 'spiffe://demo.test/ns/shop/sa/web';

/** A certificate before it is signed. */
interface Draft {
  subject: string;
  key: KeyObject | Buffer;
  /** The name of the extension. */
  extensions: Map<string, Buffer>;
  changes: { -readonly [Field in keyof Forgery]?: Forgery[Field] };
  /** The key that signs it, instead of its issuer's. */
  signedBy?: KeyObject;
}

/** Leaf first, root last. */
interface World {
  drafts: Draft[];
  /** How many certificates at the end of the chain are anchors; 1 is the root. */
  anchors: number;
  arrange: (presented: Buffer[]) => Buffer[];
}

type Verdict = 'yes' | 'no';
interface Twist {
  readonly name: string;
  readonly ours: Verdict;
  readonly openssl: Verdict;
  readonly pkijs: Verdict;
  /** It changes keys or algorithms, and two such twists cannot be combined. */
  readonly alone?: true;
  /** Minimum number of intermediates. */
  readonly cas?: number;
  apply(world: World): void;
}

const keys = {
  ec: Array.from({ length: 12 }, () => newKey('P-256')),
  rsa: [newKey(2048), newKey(2048)],
  wide: [newKey('P-384'), newKey('P-521')],
  short: newKey(1024),
};
const unknown = extension('1.3.6.1.4.1.99999.1', true, Buffer.from([5, 0]));
const leafOf = ({ drafts }: World): Draft => drafts[0]!;
/** The intermediate right above the leaf. */
const caOf = ({ drafts }: World): Draft => drafts[1]!;
const rootOf = ({ drafts }: World): Draft => drafts.at(-1)!;
const all = (verdict: Verdict): Pick<Twist, 'ours' | 'openssl' | 'pkijs'> => ({
  ...{ ours: verdict, openssl: verdict, pkijs: verdict },
});
const blind = { ours: 'no', openssl: 'no', pkijs: 'yes' } as const;
/** A rule of SPIFFE, which the other engines do not have. */
const spiffe = { ours: 'no', openssl: 'yes', pkijs: 'yes' } as const;

const twists: readonly Twist[] = [
  { name: 'nothing', ...all('yes'), apply: () => {} },
  {
    name: 'RSA keys',
    ...all('yes'),
    alone: true,
    apply: ({ drafts }) => {
      for (const [i, one] of drafts.entries()) one.key = keys.rsa[i % 2]!;
    },
  },
  {
    name: 'P-384 and P-521',
    ...all('yes'),
    alone: true,
    apply: (w) => {
      caOf(w).key = keys.wide[1]!;
      leafOf(w).key = keys.wide[0]!;
    },
  },
  {
    name: 'RSASSA-PSS with SHA-256',
    ...all('yes'),
    alone: true,
    apply: (w) => {
      caOf(w).key = keys.rsa[0]!;
      leafOf(w).changes.method = 'rsa-pss-sha256';
    },
  },
  {
    name: 'presented in the wrong order',
    ...all('yes'),
    cas: 2,
    apply: (w) => {
      w.arrange = (list) => [list[0]!, ...list.slice(1).reverse()];
    },
  },
  {
    name: 'with the root beside it',
    ...all('yes'),
    alone: true,
    apply: (w) => {
      w.arrange = (list) => list;
      w.anchors = -1;
    },
  },
  {
    name: 'a CA that has changed its key under its own name',
    ...all('yes'),
    alone: true,
    apply: (w) => {
      addSelfIssued(w);
    },
  },
  {
    name: 'a root without key usage',
    ...all('yes'),
    apply: (w) => {
      rootOf(w).extensions.delete('usage');
    },
  },
  {
    name: 'a root that signed itself with SHA-1',
    ...all('yes'),
    alone: true,
    apply: (w) => {
      rootOf(w).changes.method = 'ecdsa-sha1';
    },
  },
  {
    name: 'an intermediate as the anchor',
    ...all('yes'),
    cas: 2,
    alone: true,
    apply: (w) => {
      w.anchors = 2;
    },
  },
  {
    name: 'constrained to our host',
    ...all('yes'),
    apply: (w) => {
      caOf(w).extensions.set('constraints', nameConstraints([uriName('demo.test')], []));
    },
  },
  {
    name: 'constrained to the names that it has',
    ...all('yes'),
    apply: (w) => {
      withDns(w);
      caOf(w).extensions.set('constraints', nameConstraints([dnsName('shop.test')], [dnsName('bank.test')]));
    },
  },

  {
    name: 'an expired leaf',
    ...all('no'),
    apply: (w) => {
      ended(leafOf(w));
    },
  },
  {
    name: 'a leaf that is not yet valid',
    ...all('no'),
    apply: (w) => {
      toCome(leafOf(w));
    },
  },
  {
    name: 'an expired intermediate',
    ...all('no'),
    apply: (w) => {
      ended(caOf(w));
    },
  },
  {
    name: 'an intermediate that is not yet valid',
    ...all('no'),
    apply: (w) => {
      toCome(caOf(w));
    },
  },
  {
    name: 'an expired root',
    ...all('no'),
    apply: (w) => {
      ended(rootOf(w));
    },
  },
  {
    name: 'a leaf signed by another key',
    ...all('no'),
    alone: true,
    apply: (w) => {
      leafOf(w).signedBy = keys.ec[11]!;
    },
  },
  {
    name: 'an intermediate signed by another key',
    ...all('no'),
    alone: true,
    apply: (w) => {
      caOf(w).signedBy = keys.ec[11]!;
    },
  },
  {
    name: 'a missing intermediate',
    ...all('no'),
    apply: (w) => {
      w.arrange = (list) => list.filter((_, i) => i !== 1);
    },
  },
  {
    name: 'an intermediate that is not a CA',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.set('basic', basicConstraints(false));
    },
  },
  {
    name: 'an intermediate without basic constraints',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.delete('basic');
    },
  },
  {
    name: 'an intermediate without keyCertSign',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.set('usage', keyUsage(0x02));
    },
  },
  {
    name: 'constrained to another host',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.set('constraints', nameConstraints([uriName('bank.test')], []));
    },
  },
  {
    name: 'excluded from our host',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.set('constraints', nameConstraints([], [uriName('demo.test')]));
    },
  },
  {
    name: 'excluded from our host, not critical',
    ...all('no'),
    apply: (w) => {
      caOf(w).extensions.set('constraints', nameConstraints([], [uriName('demo.test')], false));
    },
  },
  {
    name: 'constrained to other DNS names',
    ...all('no'),
    apply: (w) => {
      withDns(w);
      caOf(w).extensions.set('constraints', nameConstraints([dnsName('bank.test')], []));
    },
  },
  {
    name: 'excluded from a network of the leaf',
    ...all('no'),
    apply: (w) => {
      withDns(w, ipName(10, 0, 0, 7));
      caOf(w).extensions.set('constraints', nameConstraints([], [ipName(10, 0, 0, 0, 255, 0, 0, 0)]));
    },
  },
  {
    name: 'MD5',
    ...all('no'),
    alone: true,
    apply: (w) => {
      caOf(w).key = keys.rsa[0]!;
      leafOf(w).changes.method = 'rsa-md5';
    },
  },

  {
    name: 'a path longer than an intermediate allows',
    ...blind,
    cas: 2,
    apply: (w) => {
      w.drafts[2]!.extensions.set('basic', basicConstraints(true, 0));
    },
  },
  {
    name: 'a path longer than the root allows',
    ...blind,
    cas: 2,
    apply: (w) => {
      rootOf(w).extensions.set('basic', basicConstraints(true, 0));
    },
  },
  {
    name: 'an unknown critical extension in the leaf',
    ...blind,
    apply: (w) => {
      leafOf(w).extensions.set('unknown', unknown);
    },
  },
  {
    name: 'an unknown critical extension in an intermediate',
    ...blind,
    apply: (w) => {
      caOf(w).extensions.set('unknown', unknown);
    },
  },
  {
    name: 'an unknown critical extension in the root',
    ...blind,
    apply: (w) => {
      rootOf(w).extensions.set('unknown', unknown);
    },
  },
  {
    name: 'a leaf for servers only',
    ...blind,
    apply: (w) => {
      leafOf(w).extensions.set('uses', extendedUsage(serverAuth));
    },
  },
  {
    name: 'an intermediate for clients only',
    ...blind,
    apply: (w) => {
      caOf(w).extensions.set('uses', extendedUsage(clientAuth));
    },
  },
  {
    name: 'a leaf signed with SHA-1',
    ...blind,
    alone: true,
    apply: (w) => {
      leafOf(w).changes.method = 'ecdsa-sha1';
    },
  },
  {
    name: 'an intermediate signed with SHA-1',
    ...blind,
    alone: true,
    apply: (w) => {
      caOf(w).changes.method = 'ecdsa-sha1';
    },
  },
  {
    name: 'RSASSA-PSS with SHA-1',
    ...blind,
    alone: true,
    apply: (w) => {
      caOf(w).key = keys.rsa[0]!;
      leafOf(w).changes.method = 'rsa-pss-sha1';
    },
  },
  {
    name: 'a leaf of RSA 1024',
    ...blind,
    alone: true,
    apply: (w) => {
      leafOf(w).key = keys.short;
    },
  },
  {
    name: 'an intermediate of RSA 1024',
    ...blind,
    alone: true,
    apply: (w) => {
      caOf(w).key = keys.short;
    },
  },
  {
    name: 'a root of RSA 1024',
    ...blind,
    alone: true,
    apply: (w) => {
      rootOf(w).key = keys.short;
    },
  },

  {
    name: 'a leaf that is a CA',
    ...spiffe,
    apply: (w) => {
      leafOf(w).extensions.set('basic', basicConstraints(true));
    },
  },
  {
    name: 'two URIs',
    ...spiffe,
    apply: (w) => {
      leafOf(w).extensions.set('names', alternativeNames([uriName(uri), uriName(`${uri}2`)], true));
    },
  },
  {
    name: 'key usage that is not critical',
    ...spiffe,
    apply: (w) => {
      leafOf(w).extensions.set('usage', keyUsage(0x80, false));
    },
  },
  {
    name: 'an intermediate without key usage',
    ...spiffe,
    apply: (w) => {
      caOf(w).extensions.delete('usage');
    },
  },
  {
    name: 'an intermediate with the ID of another domain',
    ...spiffe,
    apply: (w) => {
      caOf(w).extensions.set('names', alternativeNames([uriName('spiffe://bank.test')]));
    },
  },
  // OpenSSL spends the time; we refuse early (see strangers-cannot-make-us-work).
  {
    name: 'a leaf with a huge RSA exponent',
    ...spiffe,
    alone: true,
    apply: (w) => {
      leafOf(w).key = forgeRsaKey(2048, 2047);
    },
  },
];

function ended({ changes }: Draft): void {
  Object.assign(changes, { notBefore: now - 3 * hour, notAfter: now - hour });
}
function toCome({ changes }: Draft): void {
  Object.assign(changes, { notBefore: now + hour, notAfter: now + 3 * hour });
}
function withDns(world: World, ...more: Buffer[]): void {
  leafOf(world).extensions.set('names', alternativeNames([uriName(uri), dnsName('web.shop.test'), ...more], true));
}
/** Above the leaf's issuer, which allows no CA below it, a CA of the same name whose key signed the new one. */
function addSelfIssued({ drafts }: World): void {
  const [, issuer] = drafts;
  issuer!.extensions.set('basic', basicConstraints(true, 0));
  drafts.splice(2, 0, { ...issuer!, key: keys.ec[10]!, extensions: new Map(issuer!.extensions), changes: {} });
}

function newWorld(number: number, cas: number): World {
  const ca = (subject: string, key: KeyObject): Draft => ({
    ...{ subject, key, changes: {} },
    extensions: new Map([
      ['basic', basicConstraints(true)],
      ['usage', keyUsage(0x06)],
    ]),
  });
  return {
    drafts: [
      {
        ...{ subject: '', key: keys.ec[0]!, changes: {} },
        extensions: new Map([
          ['basic', basicConstraints(false)],
          ['usage', keyUsage(0x80)],
          ['uses', extendedUsage(serverAuth, clientAuth)],
          ['names', alternativeNames([uriName(uri)], true)],
        ]),
      },
      ...Array.from({ length: cas }, (_, i) => ca(`ca ${i} of ${number}`, keys.ec[i + 1]!)),
      ca(`root of ${number}`, keys.ec[9]!),
    ],
    anchors: 1,
    arrange: (list) => list,
  };
}

/** The extensions that a twist changes; two that change the same one would undo each other. */
function touchedBy(twist: Twist): string[] {
  const [plain, twisted] = [newWorld(0, twist.cas ?? 1), newWorld(0, twist.cas ?? 1)];
  twist.apply(twisted);
  return twisted.drafts.flatMap(({ extensions }, i) => {
    const before = plain.drafts[i]!.extensions;
    const names = new Set([...extensions.keys(), ...before.keys()]);
    return [...names].filter((name) => !isSame(extensions.get(name), before.get(name))).map((name) => `${i} ${name}`);
  });
}

function isSame(a: Buffer | undefined, b: Buffer | undefined): boolean {
  return a === b || (a !== undefined && b?.equals(a) === true);
}

function build(number: number, cas: number, chosen: readonly Twist[]): { presented: Buffer[]; anchors: Buffer[] } {
  const world = newWorld(number, cas);
  for (const twist of chosen) twist.apply(world);
  const { drafts } = world;
  const chain = drafts.map((draft, i) => {
    const issuer = drafts[i + 1] ?? draft;
    const own = Buffer.from(`key ${number} ${i}`);
    const above = Buffer.from(`key ${number} ${Math.min(i + 1, drafts.length - 1)}`);
    return forge({
      ...{ subject: draft.subject, issuer: issuer.subject, key: draft.key },
      by: draft.signedBy ?? (issuer.key as KeyObject),
      extensions: [...draft.extensions.values(), keyId(own), authorityKeyId(above)],
      ...draft.changes,
    });
  });
  const kept = Math.abs(world.anchors);
  const presented = world.anchors < 0 ? chain : chain.slice(0, chain.length - kept);
  return { presented: world.arrange([...presented]), anchors: chain.slice(-kept).slice(0, 1) };
}

/** True if `second` does not undo `first`. */
function goWith(first: Twist, second: Twist): boolean {
  const touched = new Set(touchedBy(first));
  return second.alone === undefined && !touchedBy(second).some((one) => touched.has(one));
}

function byUs({ presented, anchors }: ReturnType<typeof build>): Verdict {
  const bundle = { trustDomain: 'demo.test', roots: anchors, sequence: 1, refreshHintS: 5 };
  try {
    verifyChain(presented, new Map([['demo.test', bundle]]), emptyDenyList, now);
    return 'yes';
  } catch {
    return 'no';
  }
}

/** All chains in one run per purpose: no two share a name, so they can share one pool. */
function byOpenSsl(dir: string, chains: readonly ReturnType<typeof build>[]): Verdict[] {
  const at = (name: string): string => join(dir, name);
  writeFileSync(at('anchors.pem'), formatPem(chains.flatMap(({ anchors }) => anchors)));
  writeFileSync(at('others.pem'), formatPem(chains.flatMap(({ presented }) => presented.slice(1))));
  const leaves = chains.map(({ presented }, i) => {
    writeFileSync(at(`${i}.pem`), formatPem(presented.slice(0, 1)));
    return at(`${i}.pem`);
  });
  const accepted = ['sslclient', 'sslserver'].map((purpose) => {
    const options = ['-no-CApath', '-no-CAstore', '-partial_chain', '-auth_level', '2', '-purpose', purpose];
    const files = ['-CAfile', at('anchors.pem'), '-untrusted', at('others.pem')];
    const { stdout } = spawnSync('openssl', ['verify', ...options, ...files, ...leaves], { encoding: 'utf8' });
    return new Set([...stdout.matchAll(/^(.*\.pem): OK$/gm)].map(([, file]) => file));
  });
  return leaves.map((file) => (accepted.every((set) => set.has(file)) ? 'yes' : 'no'));
}

async function byPkijs({ presented, anchors }: ReturnType<typeof build>): Promise<Verdict> {
  try {
    const read = (der: Buffer): Certificate => Certificate.fromBER(der);
    const engine = new CertificateChainValidationEngine({
      trustedCerts: anchors.map(read),
      // In this list the leaf is last.
      certs: presented.toReversed().map(read),
      checkDate: new Date(now),
    });
    return (await engine.verify()).result ? 'yes' : 'no';
  } catch {
    return 'no';
  }
}

t.test('the verdicts on some 300 chains agree', async (t) => {
  if (spawnSync('openssl', ['version']).status !== 0) return t.comment('skipped: there is no openssl on this machine');
  const random = createRandom(20_261_129);
  const made = Array.from({ length: 300 }, (_, number) => {
    // Each twist alone, then in pairs.
    const first = twists[number % twists.length]!;
    const second =
      first.alone || number < twists.length ? twists[0]! : random.pick(twists.filter((one) => goWith(first, one)));
    const chosen = [first, second];
    const cas = Math.max(1 + random.below(2), ...chosen.map((one) => one.cas ?? 1));
    return { number, chosen, chain: build(number, cas, chosen) };
  });
  const openssl = byOpenSsl(
    tempDir(t),
    made.map(({ chain }) => chain),
  );
  for (const [i, { chosen, chain }] of made.entries()) {
    const names = chosen.map(({ name }) => name).join(' + ');
    const got = { ours: byUs(chain), openssl: openssl[i]!, pkijs: await byPkijs(chain) };
    const expected = (who: 'ours' | 'openssl' | 'pkijs'): Verdict =>
      chosen.every((one) => one[who] === 'yes') ? 'yes' : 'no';
    t.same(got, { ours: expected('ours'), openssl: expected('openssl'), pkijs: expected('pkijs') }, names);
    t.notOk(got.ours === 'yes' && got.openssl === 'no', `${names}: ours is not the most lenient`);
  }
});

// The agent's newest identity: on disk before it is published, and withdrawn when it expires. It is kept even then,
// because the CA is verified against its bundle and the next SVID should have the same ID.

import type { KeyObject } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { formatTime } from '../base/clock.ts';
import { errnoOf, reasonOf, SallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { guardSecret } from '../base/secret-file.ts';
import { onlyBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, emptyDenyList } from '../identity/denied.ts';
import {
  damageIn,
  dropPendingKey,
  pathsIn,
  pendingKey,
  readCrlText,
  setAside,
  stampOf,
  writeGeneration,
} from '../identity/generation.ts';
import type { Identity } from '../identity/identity.ts';
import { generateKey } from '../identity/keys.ts';
import { isMissing, readBundleFile, readIdentityTexts } from '../identity/read.ts';
import type { Svid } from '../identity/svid.ts';
import { parseSvid } from '../identity/svid.ts';
import { verifyChain } from '../identity/verify.ts';
import type { Trust } from './answer.ts';
import { type TakenUp, takeUp } from './take-up.ts';

/** Paths are absolute. Without `trustDomain`: that of the roots in `caBundleFile`. */
export interface KeepOptions {
  readonly outDir: string;
  readonly caBundleFile: string;
  readonly trustDomain?: string;
  readonly log: Log;
  readonly clock: Clock;
}

/** Damage that comes back within this time has a cause that goes on. It is repaired each time, and said sparsely. */
const againMs = 5000;
const overlapSaidMs = 60_000;

/** The agent's identity, in this process and on disk, with one writer. */
export class Keep {
  readonly #options: KeepOptions;
  readonly #cell = new LiveCell<Identity | undefined>(undefined);
  #held: Identity | undefined;
  #unsure: string | undefined;
  /** CRLs for other software, PEM. */
  #crl: string | undefined;
  #stamp: string | undefined;
  #lastSaid: string | undefined;
  /** When damage was repaired, and when another writer was reported: monotonic. */
  #mendedAt = Number.NEGATIVE_INFINITY;
  #overlapSaidAt = Number.NEGATIVE_INFINITY;
  /** True if the disk could not be written: the identity is in this process only. */
  #unwritten = false;
  /** The key of the next request, while the disk cannot be written. */
  #memoryKey: KeyObject | undefined;

  /** Loads what an earlier run left on disk, if it belongs to our trust domain. */
  constructor(options: KeepOptions) {
    this.#options = options;
    try {
      this.#held = this.#load();
      this.#crl = this.#held === undefined ? undefined : readCrlText(options.outDir);
    } catch (error) {
      this.#giveUp(reasonOf(error));
    }
    this.judge();
  }

  /** Sets an unreadable generation aside for the operator before the next one replaces it. */
  #giveUp(reason: string): void {
    const { outDir, log } = this.#options;
    let aside: string | undefined;
    try {
      aside = setAside(outDir);
    } catch (error) {
      log.error({ code: 'generation_unusable' }, `cannot set the files in ${outDir} aside: ${reasonOf(error)}`);
    }
    const kept = aside === undefined ? '' : `; a copy is in ${aside}`;
    log.warn({ code: 'generation_unusable' }, `the files in ${outDir} are not used: ${reason}${kept}`);
  }

  /**
   * Why the bundle or the deny list of `held()` may not be the newest that we had; undefined if they are. Until the CA
   * has sent both, nothing is published, since denied peers would be let in: fails closed.
   */
  unsure(): string | undefined {
    return this.#unsure;
  }

  /** The identity if it is valid now, else undefined. */
  get identity(): Live<Identity | undefined> {
    return this.#cell;
  }

  /** The newest identity, valid or expired. */
  held(): Identity | undefined {
    return this.#held;
  }

  /**
   * The roots to verify the CA with. With a valid SVID, that is the bundle that came with it or later. Without one, the
   * operator's file is trusted too, since the CA may have a new root.
   * @throws SallyportError as readBundleFile does.
   */
  trust(): Trust {
    const held = this.#held;
    if (held !== undefined && this.#cell.current() !== undefined) return trustOf(held);
    const named = this.#named();
    if (held === undefined) {
      if (named instanceof SallyportError) throw named;
      return { bundle: named, denied: emptyDenyList };
    }
    const { bundle, denied } = trustOf(held);
    if (named instanceof SallyportError) return { bundle, denied };
    return { bundle: union(named, bundle), denied };
  }

  /**
   * The key of the next request, on disk. While the disk cannot be written, a renewal (`bridge`) takes one in memory. A
   * token does not: it is bound to its first key, and would be lost with this process.
   */
  nextKey(bridge: boolean): KeyObject {
    const { outDir, log } = this.#options;
    try {
      const key = pendingKey(outDir, this.#held?.svid);
      this.#memoryKey = undefined;
      return key;
    } catch (error) {
      if (!bridge || errnoOf(error) === undefined) throw error;
      log.warn(
        { code: 'generation_unwritten' },
        `cannot write ${outDir} (${errnoOf(error)}): the next key is in memory`,
      );
      this.#memoryKey ??= generateKey();
      return this.#memoryKey;
    }
  }

  /**
   * Writes `identity` as a generation, then publishes it. If the disk cannot be written, it is published all the same,
   * and written once it can be: sidecars in this process go on, and those that read the files keep what they have.
   */
  commit(svid: Svid, trust: Trust): void {
    const identity = Object.freeze({ svid, bundles: onlyBundle(trust.bundle), denied: trust.denied });
    const isNewKey = this.#held?.svid.keyPem !== svid.keyPem;
    if (isNewKey) this.#memoryKey = undefined;
    this.#held = identity;
    this.#unsure = undefined;
    this.#write(isNewKey);
    this.judge();
  }

  /** The CRLs in the directory, PEM. */
  crl(): string | undefined {
    return this.#crl;
  }

  /** Writes CRLs, PEM and verified, as a new generation of the same identity. */
  commitCrl(text: string): void {
    if (this.#held === undefined || this.#unsure !== undefined || text === this.#crl) return;
    this.#crl = text;
    this.#write(false);
  }

  #write(isNewKey: boolean): void {
    const { outDir, log } = this.#options;
    try {
      writeGeneration(outDir, this.#held!, this.#crl);
      if (isNewKey) dropPendingKey(outDir);
      if (this.#unwritten)
        log.info({ code: 'generation_written' }, `${outDir} can be written again, and is up to date`);
      this.#unwritten = false;
      this.#stamp = stampOf(outDir);
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
      if (!this.#unwritten)
        log.error(
          { code: 'generation_unwritten' },
          `cannot write ${outDir} (${errnoOf(error)}): the identity is in memory only, and would be lost at a restart`,
        );
      this.#unwritten = true;
      this.#stamp = undefined;
    }
  }

  /** Rewrites our files if they were damaged on disk. True if there was damage. Costs five stat calls. */
  mend(): boolean {
    const { outDir, log } = this.#options;
    if (this.#held === undefined || this.#unsure !== undefined) return false;
    if (this.#unwritten) this.#write(true);
    if (this.#unwritten || this.#stamp === stampOf(outDir)) return false;
    const damage = this.#exposure() ?? damageIn(outDir, this.#held, this.#crl);
    if (damage !== undefined) {
      this.#tellDamage(damage);
      try {
        writeGeneration(outDir, this.#held, this.#crl);
      } catch (error) {
        log.debug({ code: 'generation_damaged' }, `cannot write ${outDir}: ${reasonOf(error)}`);
        return true;
      }
      this.#mendedAt = this.#options.clock.monotonic();
    }
    this.#lastSaid = undefined;
    this.#stamp = stampOf(outDir);
    return damage !== undefined;
  }

  /** Files that change again as soon as they are written have another writer, which does as we do. */
  #tellDamage(damage: string): void {
    const { outDir, log, clock } = this.#options;
    const now = clock.monotonic();
    const code = 'generation_damaged';
    if (now - this.#mendedAt > againMs) {
      const text = `${outDir} is damaged: ${damage}; writing it again`;
      if (text !== this.#lastSaid) log.error({ code }, text);
      this.#lastSaid = text;
    } else if (now - this.#overlapSaidAt >= overlapSaidMs) {
      this.#overlapSaidAt = now;
      log.error({ code }, `another agent writes to ${outDir}, or something else does: ${damage} since it was repaired`);
    }
  }

  /** Publishes the identity while it is valid and withdraws it when it is not: fails closed. */
  judge(): void {
    const now = this.#options.clock.now();
    const held = this.#held;
    const valid =
      held !== undefined && now >= held.svid.notBefore && now <= held.svid.notAfter && this.#unsure === undefined;
    const shown = this.#cell.current();
    if (shown === (valid ? held : undefined)) return;
    if (!valid && shown !== undefined) {
      const { id, serial, notAfter } = shown.svid;
      this.#options.log.error(
        { code: 'svid_expired', id: id.uri, serial, notAfter: formatTime(notAfter) },
        `the SVID of ${id.uri} expired without a successor and is withdrawn`,
      );
    }
    this.#cell.set(valid ? held : undefined);
  }

  /** Rewrites a key that other users can read and whose mode we cannot change, as a file of our own. */
  #exposure(): string | undefined {
    try {
      this.#guard();
      return undefined;
    } catch (error) {
      return reasonOf(error);
    }
  }

  /** @throws SallyportError `secret_exposed` when other users can read our key and we cannot prevent it. */
  #guard(): void {
    const { outDir, log } = this.#options;
    const warning = guardSecret(pathsIn(outDir, '').key);
    if (warning !== undefined) log.warn({ code: 'secret_exposed' }, warning);
  }

  #load(): Identity | undefined {
    const { outDir } = this.#options;
    this.#guard();
    const trustDomain = this.#trustDomain();
    if (trustDomain === undefined) return undefined;
    const taken = takeUp(outDir, trustDomain);
    if (taken === undefined) return undefined;
    const doubt = this.#doubt(taken);
    const { svid } = taken;
    const bundle = doubt === undefined ? taken.bundle : this.#standIn(taken);
    if (bundle === undefined)
      throw new SallyportError('bundle_invalid', `${doubt}, and no bundle is left to verify the CA with`);
    const denied = taken.denied ?? taken.olderDenied ?? emptyDenyList;
    this.#tell(taken, doubt);
    this.#unsure = doubt;
    if (doubt === undefined && taken.damage.length === 0) this.#stamp = stampOf(outDir);
    return Object.freeze({ svid, bundles: onlyBundle(bundle), denied });
  }

  /** Why the SVID was loaded without a bundle and a deny list to check peers with. */
  #doubt({ svid, bundle, denied, damage }: TakenUp): string | undefined {
    if (bundle === undefined || denied === undefined) return damage.join('; ');
    const now = this.#options.clock.now();
    if (now > svid.notAfter) return undefined;
    try {
      verifyChain(svid.chain, onlyBundle(bundle), emptyDenyList, Math.max(now, svid.notBefore));
      return undefined;
    } catch (error) {
      return `its SVID does not verify against its bundle: ${reasonOf(error)}`;
    }
  }

  /** A bundle to verify the CA with: that of an older generation, and the operator's file. */
  #standIn({ olderBundle }: TakenUp): TrustBundle | undefined {
    const named = this.#named();
    if (named instanceof SallyportError) return olderBundle;
    return olderBundle === undefined ? named : union(named, olderBundle);
  }

  #tell({ svid, damage }: TakenUp, doubt: string | undefined): void {
    const { outDir, clock, log } = this.#options;
    const { id, serial } = svid;
    const about = { id: id.uri, serial, notAfter: formatTime(svid.notAfter) };
    const what = doubt ?? damage.join('; ');
    if (what !== '')
      log.error(
        { code: 'generation_damaged', id: id.uri, serial },
        `${outDir} is damaged: ${what}; the SVID is kept${doubt === undefined ? '' : '; nothing is served until the CA has sent bundle and deny list'}`,
      );
    if (clock.now() <= svid.notAfter)
      log.info({ code: 'svid_loaded', ...about }, `loaded the SVID of ${id.uri} from disk`);
    else
      log.info(
        { code: 'svid_expired', ...about },
        `the SVID of ${id.uri} on disk has expired; asking the CA to renew it`,
      );
  }

  /** From the option, else from the CA's root, else from the last run. */
  #trustDomain(): string | undefined {
    if (this.#options.trustDomain !== undefined) return this.#options.trustDomain;
    const named = this.#named();
    if (!(named instanceof SallyportError)) return named.trustDomain;
    const read = readIdentityTexts(pathsIn(this.#options.outDir, ''));
    if ('missing' in read) return undefined;
    return parseSvid(read.texts.svid, read.texts.key, { chain: 'svid.pem', key: 'svid.key' }).id.trustDomain;
  }

  #named(): TrustBundle | SallyportError {
    try {
      return readBundleFile(this.#options.caBundleFile, this.#options.trustDomain);
    } catch (error) {
      if (error instanceof SallyportError) return error;
      throw error;
    }
  }
}

/** The bundle and the deny list of an identity. */
export function trustOf({ svid, bundles, denied }: Identity): Trust {
  const bundle = bundles.get(svid.id.trustDomain);
  if (bundle === undefined) throw new TypeError(`identity ${svid.id.uri} lacks the bundle of its trust domain`);
  return { bundle, denied };
}

/**
 * `fresh`, with the objects of `held` for the parts that are equal, so that an unchanged part does not look new.
 * @throws SallyportError `ca_answer_invalid` when either part is older: an old response must not undo a revocation.
 */
export function newerTrust(held: Trust, fresh: Trust): Trust {
  refuseOlder('bundle', held.bundle.sequence, fresh.bundle.sequence);
  refuseOlder('deny list', held.denied.sequence, fresh.denied.sequence);
  return {
    bundle: sameBundle(held.bundle, fresh.bundle) ? held.bundle : fresh.bundle,
    denied: sameDenied(held.denied, fresh.denied) ? held.denied : fresh.denied,
  };
}

/** True for the error of a CA bundle file that does not exist yet. */
export function isBundleMissing(error: unknown): boolean {
  return error instanceof SallyportError && error.code === 'config_unreadable' && isMissing(error);
}

function refuseOlder(what: string, held: number, fresh: number): void {
  if (fresh >= held) return;
  throw new SallyportError(
    'ca_answer_invalid',
    `the CA's ${what} has sequence ${fresh}, older than our ${held}; it is ignored`,
    { hint: 'was the CA restored from an old backup? its sequence must not go back' },
  );
}

function sameBundle(a: TrustBundle, b: TrustBundle): boolean {
  if (a.sequence !== b.sequence || a.refreshHintS !== b.refreshHintS || a.roots.length !== b.roots.length) return false;
  return a.roots.every((root, index) => root.equals(b.roots[index] ?? Buffer.alloc(0)));
}

function sameDenied(a: DenyList, b: DenyList): boolean {
  return a.sequence === b.sequence && sameSet(a.serials, b.serials) && sameSet(a.ids, b.ids);
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((one) => b.has(one));
}

/** Merges the roots, the operator's first. Both are of one trust domain, so no trust domains are mixed. */
function union(named: TrustBundle, held: TrustBundle): TrustBundle {
  if (named.trustDomain !== held.trustDomain) return named;
  const more = held.roots.filter((root) => !named.roots.some((one) => one.equals(root)));
  return Object.freeze({ ...held, roots: [...named.roots, ...more] });
}

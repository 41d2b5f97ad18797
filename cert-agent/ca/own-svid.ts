// The CA's own SVID, `spiffe://<trust domain>/sallyport/ca`: created in memory at start, renewed at half its life,
// never on disk. Agents require exactly this ID; its other names are for clients that verify those.

import type { Clock } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import { formatPem } from '../identity/bundle.ts';
import { emptyDenyList } from '../identity/denied.ts';
import { formatKey, generateKey } from '../identity/keys.ts';
import { caIdOf } from '../identity/spiffe-id.ts';
import { parseSvid, type Svid } from '../identity/svid.ts';
import { verifyChain } from '../identity/verify.ts';
import { type IssueParts, issueOwn } from './issue.ts';

/** `live` always has one: the last one stays in use if no new one can be made. */
export interface OwnSvid {
  readonly live: Live<Svid>;
  /**
   * Creates a new one at half the life, if this one is not on record and a new one can be, or if it lacks a name. Call
   * it periodically.
   */
  rotate(): Promise<void>;
}

/** `names` is called at each rotate: a new name means a new certificate. */
export interface OwnSvidParts extends IssueParts {
  /** Names of the CA for ordinary clients, now: DNS names and IP addresses. */
  readonly names: () => readonly string[];
}

/** @throws SallyportError when the directory's certificates do not match: then nothing may be served. */
export async function createOwnSvid(parts: OwnSvidParts): Promise<OwnSvid> {
  let made = await makeSvid(parts, parts.names());
  const cell = new LiveCell(made.svid);
  return {
    live: cell,
    async rotate() {
      const isRecordable = !made.isOnRecord && parts.store.trouble() === undefined;
      // After a rotation, its issuer is another.
      const isOutdated = !parts.authority.above[0]!.equals(made.svid.chain[1] ?? Buffer.alloc(0));
      const names = parts.names();
      // A name that is gone does no harm until then.
      const isUnnamed = names.some((name) => !made.names.includes(name));
      if (!isRecordable && !isOutdated && !isUnnamed && !isDue(made.svid, parts.clock)) return;
      made = await makeSvid(parts, names);
      cell.set(made.svid);
    },
  };
}

interface Made {
  readonly svid: Svid;
  readonly isOnRecord: boolean;
  /** The names that it was made for. */
  readonly names: readonly string[];
}

async function makeSvid(parts: IssueParts, wanted: readonly string[]): Promise<Made> {
  const { authority, clock } = parts;
  const key = generateKey();
  const { issued, isOnRecord } = await issueOwn(parts, caIdOf(authority.trustDomain), key, wanted);
  const chain = issued.chain.map((one) => Buffer.from(one));
  // Every agent will make the same check. It is better to fail here, where the error is the CA's own.
  const { id } = verifyChain(chain, authority.bundles, emptyDenyList, clock.now());
  if (id.uri !== issued.id) throw new SallyportError('svid_invalid', `the CA's own SVID has the ID ${id.uri}`);
  const names = { chain: "the CA's own SVID", key: "the CA's own key" };
  return { svid: parseSvid(formatPem(chain), formatKey(key), names), isOnRecord, names: wanted };
}

/** Compares with the wall clock instead of a timer: a laptop that slept rotates when it wakes up. */
function isDue(svid: Svid, clock: Clock): boolean {
  return clock.now() >= (svid.notBefore + svid.notAfter) / 2;
}

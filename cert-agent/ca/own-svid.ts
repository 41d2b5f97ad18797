// The CA's own SVID, `spiffe://<trust domain>/sallyport/ca`: created in memory at start, renewed at half its life,
// never on disk. Agents require exactly this ID.

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

export interface OwnSvid {
  readonly live: Live<Svid>;
  /** Creates a new one at half the life, or if this one is not on record and a new one can be. Call it periodically. */
  rotate(): Promise<void>;
}

/** @throws SallyportError when the directory's certificates do not match: then nothing may be served. */
export async function createOwnSvid(parts: IssueParts): Promise<OwnSvid> {
  let made = await makeSvid(parts);
  const cell = new LiveCell(made.svid);
  return {
    live: cell,
    async rotate() {
      const isRecordable = !made.isOnRecord && parts.store.trouble() === undefined;
      // After a rotation, its issuer is another.
      const isOutdated = !parts.authority.above[0]!.equals(made.svid.chain[1] ?? Buffer.alloc(0));
      if (!isRecordable && !isOutdated && !isDue(made.svid, parts.clock)) return;
      made = await makeSvid(parts);
      cell.set(made.svid);
    },
  };
}

async function makeSvid(parts: IssueParts): Promise<{ readonly svid: Svid; readonly isOnRecord: boolean }> {
  const { authority, clock } = parts;
  const key = generateKey();
  const { issued, isOnRecord } = await issueOwn(parts, caIdOf(authority.trustDomain), key);
  const chain = issued.chain.map((one) => Buffer.from(one));
  // Every agent will make the same check. It is better to fail here, where the error is the CA's own.
  const { id } = verifyChain(chain, authority.bundles, emptyDenyList, clock.now());
  if (id.uri !== issued.id) throw new SallyportError('svid_invalid', `the CA's own SVID has the ID ${id.uri}`);
  const names = { chain: "the CA's own SVID", key: "the CA's own key" };
  return { svid: parseSvid(formatPem(chain), formatKey(key), names), isOnRecord };
}

/** Compares with the wall clock instead of a timer: a laptop that slept rotates when it wakes up. */
function isDue(svid: Svid, clock: Clock): boolean {
  return clock.now() >= (svid.notBefore + svid.notAfter) / 2;
}

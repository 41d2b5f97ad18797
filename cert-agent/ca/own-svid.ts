// The SVID that the CA itself serves with, `spiffe://<trust domain>/sallyport/ca`: made in memory at start, made anew
// at half its life, never on disk. Agents require exactly this ID.

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
  /** Makes a new one if half of this one's life is over. Call it every now and then. */
  rotate(): Promise<void>;
}

/** @throws SallyportError when the directory's certificates do not fit together: then nothing may be served. */
export async function createOwnSvid(parts: IssueParts): Promise<OwnSvid> {
  const cell = new LiveCell(await makeSvid(parts));
  return {
    live: cell,
    async rotate() {
      if (isDue(cell.current(), parts.clock)) cell.set(await makeSvid(parts));
    },
  };
}

async function makeSvid(parts: IssueParts): Promise<Svid> {
  const { authority, clock } = parts;
  const key = generateKey();
  const issued = await issueOwn(parts, caIdOf(authority.trustDomain), key);
  const chain = issued.chain.map((one) => Buffer.from(one));
  // Every agent will ask the same question; better that it fails here, with the CA's own name in the answer.
  const { id } = verifyChain(chain, authority.bundles, emptyDenyList, clock.now());
  if (id.uri !== issued.id) throw new SallyportError('svid_invalid', `the CA's own SVID says ${id.uri}`);
  return parseSvid(formatPem(chain), formatKey(key), { chain: "the CA's own SVID", key: "the CA's own key" });
}

/** Asked against the wall clock, not a timer: a laptop that slept through the night rotates when it wakes. */
function isDue(svid: Svid, clock: Clock): boolean {
  return clock.now() >= (svid.notBefore + svid.notAfter) / 2;
}

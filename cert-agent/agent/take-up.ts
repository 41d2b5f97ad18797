// What an earlier run left on disk, and what of it can still be used. A part that is damaged takes nothing else with it:
// the SVID is taken up without its bundle or deny-list, or out of the generation before, and what is missing is said.
// An older deny-list never stands in for the newest one: what it does not hold yet would be let in.

import { join } from 'node:path';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { parseBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, parseDenyList } from '../identity/denied.ts';
import { generationsIn, pathsIn } from '../identity/generation.ts';
import { isMissing, parseIdentity, readIdentityTexts, readText } from '../identity/read.ts';
import { parseSvid, type Svid } from '../identity/svid.ts';

export interface TakenUp {
  readonly svid: Svid;
  readonly bundle: TrustBundle | undefined;
  readonly denied: DenyList | undefined;
  /** The newest of older generations: good enough to find the CA with, and not to judge a peer by. */
  readonly olderBundle: TrustBundle | undefined;
  readonly olderDenied: DenyList | undefined;
  /** Sentences, one for each file that cannot be used. */
  readonly damage: readonly string[];
}

/**
 * Reads the agent's directory. Undefined when it holds no SVID, whole or in an older generation.
 * @throws SallyportError what is wrong with the only SVID that there is; `svid_invalid` for another trust domain's.
 */
export function takeUp(outDir: string, trustDomain: string): TakenUp | undefined {
  const places = [outDir, ...generationsIn(outDir)];
  const whole = readWhole(outDir, trustDomain);
  if (whole !== undefined) return whole;
  const damage: string[] = [];
  const svid = newestSvid(places, trustDomain, damage);
  if (svid === undefined) return undefined;
  const failures: unknown[] = [];
  const bundle = firstOf([outDir], (place) => readBundle(place, trustDomain), failures);
  const denied = firstOf([outDir], readDenied, failures);
  return {
    ...{ svid, bundle, denied, damage: [...damage, ...failures.map(reasonOf)] },
    olderBundle: firstOf(places, (place) => readBundle(place, trustDomain)),
    olderDenied: firstOf(places, readDenied),
  };
}

/** All of the current generation, read as one, as nearly always. */
function readWhole(outDir: string, trustDomain: string): TakenUp | undefined {
  try {
    const paths = pathsIn(outDir, trustDomain);
    const read = readIdentityTexts(paths);
    if ('missing' in read) return undefined;
    const { svid, bundles, denied } = parseIdentity(read.texts, paths);
    const bundle = bundles.get(trustDomain);
    return { svid, bundle, denied, olderBundle: bundle, olderDenied: denied, damage: [] };
  } catch {
    // Part by part, below.
    return undefined;
  }
}

/**
 * The SVID of the first place that has one; why others had none is added to `damage`.
 * @throws what is wrong with the newest, when there is one and none can be read.
 */
function newestSvid(places: readonly string[], trustDomain: string, damage: string[]): Svid | undefined {
  const failures: unknown[] = [];
  const svid = firstOf(places, (place) => readSvid(place, trustDomain), failures);
  const [broken] = failures.filter((one) => !isMissing(one));
  // Where nothing was ever written, nothing is damaged.
  if (svid === undefined && broken !== undefined) throw broken;
  if (svid !== undefined && failures.length > 0) damage.push(reasonOf(failures[0]));
  return svid;
}

function firstOf<T>(places: readonly string[], read: (place: string) => T, failures: unknown[] = []): T | undefined {
  for (const place of places) {
    try {
      return read(place);
    } catch (error) {
      failures.push(error);
    }
  }
  return undefined;
}

function readSvid(place: string, trustDomain: string): Svid {
  const { svid: chain, key } = pathsIn(place, trustDomain);
  const svid = parseSvid(readText(chain), readText(key), { chain, key });
  if (svid.id.trustDomain === trustDomain) return svid;
  throw new SallyportError(
    'svid_invalid',
    `the SVID in ${chain} is ${svid.id.uri}, and the trust domain here is ${trustDomain}`,
    { hint: 'correct the trust domain or name the files of this one' },
  );
}

function readBundle(place: string, trustDomain: string): TrustBundle {
  const file = join(place, 'bundle.json');
  return parseBundle(readText(file), trustDomain, file);
}

function readDenied(place: string): DenyList {
  const file = join(place, 'denied.json');
  return parseDenyList(readText(file), file);
}

// Loads what an earlier run left on disk, as far as it can still be used. A damaged part does not spoil the rest: the
// SVID is loaded without its bundle or deny list, or from the previous generation, and the damage is reported. An older
// deny list never replaces the newest one: identities that it does not contain yet would be let in.

import { join } from 'node:path';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { parseBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, parseDenyList } from '../identity/denied.ts';
import { generationsIn, pathsIn } from '../identity/generation.ts';
import { isMissing, parseIdentity, readIdentityTexts, readText } from '../identity/read.ts';
import { parseSvid, type Svid } from '../identity/svid.ts';

/** What is left on disk. The SVID may have expired: the caller decides. */
export interface TakenUp {
  readonly svid: Svid;
  readonly bundle: TrustBundle | undefined;
  readonly denied: DenyList | undefined;
  /** From the newest older generation: good enough to verify the CA with, but not to verify peers. */
  readonly olderBundle: TrustBundle | undefined;
  readonly olderDenied: DenyList | undefined;
  /** One sentence for each unusable file. */
  readonly damage: readonly string[];
}

/**
 * Reads the agent's directory. Undefined if neither the current nor an older generation has an SVID.
 * @throws SallyportError what is wrong with the only SVID; `svid_invalid` if it is of another trust domain.
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

/** Reads the current generation as a whole: the usual case. */
function readWhole(outDir: string, trustDomain: string): TakenUp | undefined {
  try {
    const paths = pathsIn(outDir, trustDomain);
    const read = readIdentityTexts(paths);
    if ('missing' in read) return undefined;
    const { svid, bundles, denied } = parseIdentity(read.texts, paths);
    const bundle = bundles.get(trustDomain);
    return { svid, bundle, denied, olderBundle: bundle, olderDenied: denied, damage: [] };
  } catch {
    // Read part by part below.
    return undefined;
  }
}

/**
 * The SVID of the first directory that has a readable one. The problems of the others are added to `damage`.
 * @throws the problem of the newest SVID, if none can be read.
 */
function newestSvid(places: readonly string[], trustDomain: string, damage: string[]): Svid | undefined {
  const failures: unknown[] = [];
  const svid = firstOf(places, (place) => readSvid(place, trustDomain), failures);
  const [broken] = failures.filter((one) => !isMissing(one));
  // A directory that was never written is not damaged.
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
    `the SVID in ${chain} is ${svid.id.uri}, but the configured trust domain is ${trustDomain}`,
    { hint: 'correct the trust domain, or use identity files of this trust domain' },
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

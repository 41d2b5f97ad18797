// A new issuer for a CA that does not run, such as one whose issuer has expired: the store's lock keeps it from starting
// meanwhile.

import { systemClock } from '../../base/clock.ts';
import { SallyportError } from '../../base/errors.ts';
import { readRootFingerprints } from '../certificates.ts';
import { storeFileOf } from '../directory.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import { activateFiles, finishStep, prepareFiles, type RotationState, readRootSigner, readState } from './files.ts';

/**
 * Makes and activates a new issuer in `dir`.
 * @throws SallyportError `rotation_refused` while a root is rotated, and as readRootSigner and openSqliteStore do.
 */
export async function rotateIssuerOf(
  dir: string,
  { rootKey, passphrase }: { readonly rootKey?: string | undefined; readonly passphrase?: string | undefined },
): Promise<RotationState> {
  const store = await openSqliteStore(storeFileOf(dir), readRootFingerprints(dir));
  try {
    finishStep(dir);
    const before = readState(dir);
    if (before?.kind === 'root')
      throw new SallyportError('rotation_refused', `the root is being rotated (${before.step}): finish that first`, {
        hint: 'sallyport ca rotate status shows what is under way',
      });
    await store.probe();
    const root = readRootSigner(dir, rootKey, passphrase);
    const now = systemClock.now();
    const prepared = await prepareFiles(dir, 'issuer', { by: 'operator', root, passphrase, now });
    const done = activateFiles(dir, prepared, now);
    const details = { kind: 'issuer', newIssuer: done.newIssuer };
    await store.appendLedger({ act: 'rotate', caller: 'operator', answer: 'activate', details }, now);
    return done;
  } finally {
    await store.close();
  }
}

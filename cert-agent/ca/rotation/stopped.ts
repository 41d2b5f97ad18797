// A new issuer for a CA that does not run, such as one whose issuer has expired or that waits for its first one: the
// store's lock keeps it from starting meanwhile.

import { systemClock } from '../../base/clock.ts';
import { readRootFingerprints } from '../certificates.ts';
import { storeFileOf } from '../directory.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import { activateFiles, finishStep } from './files.ts';
import { type IssuerOrder, rotationRefused, takeIssuerStep } from './issuer.ts';
import { readRequest } from './request.ts';
import { type RotationState, readState } from './state.ts';

/** What a step did; `state` is undefined once a request is cancelled. */
export interface StoppedStep {
  readonly state: RotationState | undefined;
  /** The request that waits for its certificate, PEM. */
  readonly request: string | undefined;
}

/**
 * Takes a step of the issuer in `dir`.
 * @throws SallyportError as takeIssuerStep and openSqliteStore do.
 */
export async function rotateStopped(
  dir: string,
  order: IssuerOrder,
  passphrase: string | undefined,
): Promise<StoppedStep> {
  const store = await openSqliteStore(storeFileOf(dir), readRootFingerprints(dir));
  try {
    finishStep(dir);
    await store.probe();
    const before = readState(dir);
    // What comes next needs the agents.
    if (before?.kind === 'root')
      throw rotationRefused(`the root is being rotated (${before.step}): start the CA with sallyport ca serve`);
    const now = systemClock.now();
    const activate = (made: RotationState): RotationState => activateFiles(dir, made, systemClock.now());
    const state = await takeIssuerStep(dir, order, before, { by: 'operator', passphrase, now, activate });
    const { newIssuer } = state ?? before ?? {};
    const details = { kind: 'issuer', ...(newIssuer === undefined ? {} : { newIssuer }) };
    await store.appendLedger({ act: 'rotate', caller: 'operator', answer: order.step, details }, now);
    return { state, request: state?.step === 'requested' ? readRequest(dir) : undefined };
  } finally {
    await store.close();
  }
}

// A new issuer for a CA that does not run, such as one whose issuer has expired or that waits for its first one: the
// store's lock keeps it from starting meanwhile.

import { systemClock } from '../../base/clock.ts';
import { readRootFingerprints } from '../certificates.ts';
import { storeFileOf } from '../directory.ts';
import type { Act } from '../ledger/record.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import { activateFiles, finishStep } from './files.ts';
import { type IssuerOrder, rotationRefused, takeIssuerStep } from './issuer.ts';
import { onRecord } from './on-record.ts';
import { readRequest } from './request.ts';
import { type RotationState, readState } from './state.ts';

/** The outcome of a step; `state` is undefined once a request is cancelled. */
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
    // The following steps need the agents.
    if (before?.kind === 'root')
      throw rotationRefused(`the root is being rotated (${before.step}): start the CA with sallyport ca serve`);
    const now = systemClock.now();
    const activate = (made: RotationState): RotationState => activateFiles(dir, made, systemClock.now());
    const record = async (answer: string, more: Act['details']): Promise<unknown> =>
      store.appendLedger({ act: 'rotate', caller: 'operator', answer, details: { kind: 'issuer', ...more } }, now);
    const state = await onRecord({ step: order.step, by: 'operator' }, record, (begin) =>
      takeIssuerStep(dir, order, before, { by: 'operator', passphrase, now, activate, begin }),
    );
    const { newIssuer } = state ?? before ?? {};
    await record(order.step, newIssuer === undefined ? {} : { newIssuer });
    return { state, request: state?.step === 'requested' ? readRequest(dir) : undefined };
  } finally {
    await store.close();
  }
}

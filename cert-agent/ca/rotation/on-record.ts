// A step of a rotation changes files, and a kill can come between them and the record of the step. So a first record
// says that the step begins: whatever is on disk later, the ledger shows which operator began it.

import { asSallyportError, errnoOf } from '../../base/errors.ts';
import type { Act } from '../ledger/record.ts';
import type { RotationState } from './state.ts';

/** Records that a step begins. Call it before anything is changed, and as late as that allows. */
export type Begin = () => Promise<void>;

/**
 * Takes a step by `take`. `record` gets the answers `begun`, and `refused` if the step fails: an operator's always,
 * the schedule's, which is repeated every few seconds, only if it had begun. The caller records its end.
 */
export async function onRecord<T>(
  { step, by }: { readonly step: string; readonly by: RotationState['by'] },
  record: (answer: string, details: Act['details']) => Promise<unknown>,
  take: (begin: Begin) => Promise<T>,
): Promise<T> {
  let isBegun = false;
  try {
    return await take(async () => {
      await record('begun', { step });
      isBegun = true;
    });
  } catch (error) {
    const { code } = asSallyportError(error, 'internal', 'the step failed');
    const errno = errnoOf(error);
    if (isBegun || by === 'operator')
      await record('refused', { step, code, ...(errno === undefined ? {} : { errno }) });
    throw error;
  }
}

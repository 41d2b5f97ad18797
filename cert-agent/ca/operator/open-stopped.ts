// Operates a stopped CA on its directory. The store's lock keeps a CA from starting meanwhile.

import { systemClock } from '../../base/clock.ts';
import { absolutePath } from '../../base/write.ts';
import { readCaCertificates, readRootFingerprints } from '../certificates.ts';
import { storeFileOf } from '../directory.ts';
import { createRevocations } from '../revocation/revoke.ts';
import { openSqliteStore } from '../store/sqlite.ts';
import type { OpenOperator } from './open.ts';
import { createOperator } from './operator.ts';
import { createRecords } from './records.ts';

/** @throws SallyportError `ca_missing`, `ca_running`, `store_missing`, `store_foreign` or `store_failed`. */
export async function openStopped(dir: string): Promise<OpenOperator> {
  const { trustDomain, bundle } = readCaCertificates(dir);
  const store = await openSqliteStore(storeFileOf(dir), readRootFingerprints(dir));
  try {
    const clock = systemClock;
    const revocations = await createRevocations({ store, clock, trustDomain });
    const records = createRecords({ store, clock, trustDomain, dir: absolutePath(dir), roots: () => bundle.roots });
    return {
      operator: createOperator({ store, revocations, records, trustDomain, clock }),
      close: () => store.close(),
    };
  } catch (error) {
    await store.close();
    throw error;
  }
}

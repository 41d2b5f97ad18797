// What the CA has on record, in pages: the ledger, and identities with their certificates. Operators read it through
// the CA's socket (records-socket.ts) or, while the CA is stopped, from its store.

import { X509Certificate } from 'node:crypto';
import type { Clock } from '../../base/clock.ts';
import { SallyportError } from '../../base/errors.ts';
import { createBackup, type MadeBackup } from '../backup/backup.ts';
import { readRootFingerprints } from '../certificates.ts';
import { type LedgerReader, mostHeads, mostRecords } from '../ledger/copy.ts';
import type { Store } from '../store/store.ts';
import { type ListedIdentity, mostIdentities } from './identities.ts';

/** Reads in pages, so that no answer grows with the CA. @throws SallyportError `store_failed`. */
export interface Records extends LedgerReader {
  /** Writes a backup to the new directory `out`, an absolute path on the CA's machine. @throws as createBackup does. */
  backup(out: string): Promise<MadeBackup>;
  /** At most `count` identities (200 at most), in order, those after `after`. */
  identities(after: string, count: number): Promise<readonly ListedIdentity[]>;
}

/** `roots` is called each time, since a rotation changes them. */
export interface RecordsParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly trustDomain: string;
  /** The CA's directory, absolute. */
  readonly dir: string;
  /** The CA's roots, DER. */
  readonly roots: () => readonly Uint8Array[];
}

/** One backup at a time: a second one is refused with `backup_failed`. */
export function createRecords({ store, clock, trustDomain, dir, roots }: RecordsParts): Records {
  const backupParts = { store, clock, trustDomain, dir, roots: () => readRootFingerprints(dir) };
  let running = false;
  return {
    async backup(out) {
      if (running) throw new SallyportError('backup_failed', 'another backup is being written');
      running = true;
      try {
        return await createBackup(backupParts, out);
      } finally {
        running = false;
      }
    },
    async state() {
      const [first, end] = await Promise.all([store.firstOfLedger(), store.ledgerEnd()]);
      return { trustDomain, first, end, roots: roots().map((root) => Buffer.from(root).toString('base64')) };
    },
    records: (from, count) => store.readLedger(from, Math.min(count, mostRecords)),
    heads: (from, count) => store.ledgerHeads(from, Math.min(count, mostHeads)),
    headUpTo: (sequence) => store.ledgerHeadUpTo(sequence),
    firstSince: (time) => store.firstInLedger(time),
    async identities(after, count) {
      const found = await store.listIdentities(after, Math.min(count, mostIdentities), clock.now());
      return found.map(({ newest, ...rest }) => ({ ...rest, key: kindOfKey(newest) }));
    },
  };
}

const curves: Readonly<Record<string, string>> = {
  prime256v1: 'EC P-256',
  secp384r1: 'EC P-384',
  secp521r1: 'EC P-521',
};

function kindOfKey(certificate: Uint8Array): string {
  try {
    const { publicKey } = new X509Certificate(certificate);
    const { modulusLength, namedCurve = '' } = publicKey.asymmetricKeyDetails ?? {};
    if (publicKey.asymmetricKeyType === 'ed25519') return 'Ed25519';
    return modulusLength === undefined ? (curves[namedCurve] ?? namedCurve) : `RSA ${modulusLength}`;
  } catch {
    return 'unreadable';
  }
}

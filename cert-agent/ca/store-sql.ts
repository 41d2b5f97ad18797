// The store's tables and what each call of its contract does to them. Runs in the worker, inside a transaction that
// the worker opens and commits; nothing here waits.

import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import type { DenyList } from '../identity/denied.ts';
import type {
  CertificateFilter,
  CertificateRecord,
  Denied,
  EvidenceRecord,
  Recorded,
  Redeemed,
  Store,
  StoredCertificate,
  StoredToken,
  TokenRecord,
} from './store.ts';

type Waiting = Omit<Store, 'close'>;

/** The contract without its promises. */
export type Operations = {
  readonly [K in keyof Waiting]: (...args: Parameters<Waiting[K]>) => Awaited<ReturnType<Waiting[K]>>;
};

type Row = Record<string, SQLOutputValue>;

const schemaVersion = 1;

/** How long after its end a token is still known as expired rather than unknown. */
const tokenMemoryMs = 86_400_000;

/** A peer whose clock is late still takes a certificate that has just expired: its serial stays this much longer. */
const clockMarginMs = 60_000;

const schema = `
  CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, id TEXT NOT NULL, key_hash TEXT NOT NULL, issued_at INTEGER NOT NULL,
    not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, evidence TEXT NOT NULL, reference TEXT NOT NULL,
    certificate BLOB NOT NULL, revoked_at INTEGER, reason TEXT
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX certificates_by_end ON certificates (not_after);
  CREATE INDEX certificates_by_id ON certificates (id, not_after);
  CREATE TABLE tokens (
    hash TEXT PRIMARY KEY, id TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    key_hash TEXT, serial TEXT
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX tokens_by_end ON tokens (expires_at);
  CREATE INDEX tokens_by_id ON tokens (id);
  CREATE TABLE denied_serials (serial TEXT PRIMARY KEY, not_after INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE denied_ids (
    id TEXT PRIMARY KEY, denied_at INTEGER NOT NULL, reason TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE deny_list (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), sequence INTEGER NOT NULL,
    time INTEGER NOT NULL) STRICT;
  INSERT INTO deny_list VALUES (1, 0, 0);
  PRAGMA user_version = ${schemaVersion};
`;

/** Makes the tables where there are none. @throws Error when a newer Sallyport wrote the store. */
export function prepareSchema(db: DatabaseSync): void {
  const version = Number(db.prepare('PRAGMA user_version').get()?.['user_version']);
  if (version > schemaVersion) throw new Error(`the store has version ${version}, this build knows ${schemaVersion}`);
  if (version === 0) db.exec(schema);
}

/** Every statement, prepared once. */
export function createOperations(db: DatabaseSync): Operations {
  const tokens = createTokenOperations(db);
  const denials = createDenialOperations(db);
  const insert = db.prepare(
    `INSERT INTO certificates (serial, id, key_hash, issued_at, not_before, not_after, evidence, reference, certificate)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const bySerial = db.prepare('SELECT * FROM certificates WHERE serial = ?');
  const listed = db.prepare(
    'SELECT * FROM certificates WHERE not_after > ? AND not_after <= ? ORDER BY not_after, serial',
  );
  const lastEnds = db.prepare('SELECT max(not_after) AS ends FROM certificates WHERE not_after > ? GROUP BY id');

  function put(one: CertificateRecord): void {
    const { kind, reference } = one.evidence;
    const times = [one.issuedAt, one.notBefore, one.notAfter] as const;
    insert.run(one.serial, one.id, one.keyHash, ...times, kind, reference, one.certificate);
  }

  function findCertificate(serial: string): StoredCertificate | undefined {
    const row = bySerial.get(serial);
    return row === undefined ? undefined : certificateOf(row);
  }

  return {
    ...denials,
    addToken(token: TokenRecord): Recorded {
      if (denials.isDeniedId(token.id)) return { outcome: 'denied' };
      tokens.add(token);
      return { outcome: 'recorded' };
    },
    findToken: tokens.find,
    redeemToken(hash: string, certificate: CertificateRecord): Redeemed {
      const token = tokens.find(hash);
      if (token === undefined || token.id !== certificate.id) return { outcome: 'unknown' };
      if (denials.isDeniedId(token.id)) return { outcome: 'denied' };
      if (token.expiresAt <= certificate.issuedAt) return { outcome: 'expired' };
      if (token.bound !== undefined) {
        const earlier = findCertificate(token.bound.serial);
        if (token.bound.keyHash !== certificate.keyHash || earlier === undefined) return { outcome: 'used' };
        return { outcome: 'again', certificate: earlier };
      }
      tokens.bind(hash, certificate);
      put(certificate);
      return { outcome: 'recorded' };
    },
    recordCertificate(certificate: CertificateRecord): Recorded {
      const { kind, reference } = certificate.evidence;
      if (denials.isDeniedId(certificate.id)) return { outcome: 'denied' };
      if (kind === 'svid' && denials.isDeniedSerial(reference)) return { outcome: 'denied' };
      put(certificate);
      return { outcome: 'recorded' };
    },
    findCertificate,
    listCertificates({ endsAfter = 0, endsBy = Number.MAX_SAFE_INTEGER }: CertificateFilter) {
      return listed.all(endsAfter, endsBy).map(certificateOf);
    },
    countIdentities(now: number, ends: readonly number[]) {
      const last = lastEnds.all(now).map((row) => Number(row['ends']));
      return { total: last.length, ending: ends.map((end) => last.filter((one) => one <= end).length) };
    },
    prune(now: number): boolean {
      tokens.forget(now - tokenMemoryMs);
      return denials.forget(now);
    },
  };
}

function createTokenOperations(db: DatabaseSync) {
  const insert = db.prepare('INSERT INTO tokens (hash, id, created_at, expires_at) VALUES (?, ?, ?, ?)');
  const byHash = db.prepare('SELECT * FROM tokens WHERE hash = ?');
  const bind = db.prepare('UPDATE tokens SET key_hash = ?, serial = ? WHERE hash = ?');
  const forget = db.prepare('DELETE FROM tokens WHERE expires_at < ?');
  return {
    add: (one: TokenRecord): unknown => insert.run(one.hash, one.id, one.createdAt, one.expiresAt),
    find(hash: string): StoredToken | undefined {
      const row = byHash.get(hash);
      return row === undefined ? undefined : tokenOf(row);
    },
    bind: (hash: string, to: CertificateRecord): unknown => bind.run(to.keyHash, to.serial, hash),
    forget: (before: number): unknown => forget.run(before),
  };
}

function createDenialOperations(db: DatabaseSync) {
  const certificate = db.prepare('SELECT not_after, revoked_at FROM certificates WHERE serial = ?');
  const live = db.prepare('SELECT serial FROM certificates WHERE id = ? AND not_after > ?');
  const mark = db.prepare('UPDATE certificates SET revoked_at = ?, reason = ? WHERE serial = ? AND revoked_at IS NULL');
  const listSerial = db.prepare(
    'INSERT OR IGNORE INTO denied_serials SELECT serial, not_after FROM certificates WHERE serial = ?',
  );
  const listId = db.prepare('INSERT OR REPLACE INTO denied_ids VALUES (?, ?, ?)');
  const endTokens = db.prepare('UPDATE tokens SET expires_at = ? WHERE id = ? AND expires_at > ?');
  const deniedId = db.prepare('SELECT 1 FROM denied_ids WHERE id = ?');
  const deniedSerial = db.prepare('SELECT 1 FROM denied_serials WHERE serial = ?');
  const unlistId = db.prepare('DELETE FROM denied_ids WHERE id = ?');
  const unlistSerials = db.prepare('DELETE FROM denied_serials WHERE not_after <= ?');
  const serials = db.prepare('SELECT serial FROM denied_serials ORDER BY serial');
  const ids = db.prepare('SELECT id FROM denied_ids ORDER BY id');
  const state = db.prepare('SELECT sequence, time FROM deny_list');
  // Not below the clock: after a restore from a backup a count alone would fall behind what agents have seen, and they
  // would take every new revocation for an old one.
  const rise = db.prepare('UPDATE deny_list SET sequence = max(sequence + 1, ?), time = ?');

  function denyOne(serial: string, reason: string, now: number): number {
    mark.run(now, reason, serial);
    return Number(listSerial.run(serial).changes);
  }

  return {
    isDeniedId: (id: string): boolean => deniedId.get(id) !== undefined,
    isDeniedSerial: (serial: string): boolean => deniedSerial.get(serial) !== undefined,
    denySerial(serial: string, reason: string, now: number): Denied {
      const row = certificate.get(serial);
      if (row === undefined) return { outcome: 'unknown', certificates: 0 };
      if (Number(row['not_after']) <= now) return { outcome: 'expired', certificates: 0 };
      const certificates = denyOne(serial, reason, now);
      if (certificates > 0) rise.run(now, now);
      return { outcome: 'denied', certificates };
    },
    denyId(id: string, reason: string, now: number): Denied {
      listId.run(id, now, reason);
      endTokens.run(now, id, now);
      let certificates = 0;
      for (const row of live.all(id, now)) certificates += denyOne(String(row['serial']), reason, now);
      rise.run(now, now);
      return { outcome: 'denied', certificates };
    },
    allowId(id: string, now: number): boolean {
      const changed = Number(unlistId.run(id).changes) > 0;
      if (changed) rise.run(now, now);
      return changed;
    },
    denyList(): DenyList {
      const row = state.get();
      return {
        sequence: Number(row?.['sequence']),
        time: Number(row?.['time']),
        serials: new Set(serials.all().map((one) => String(one['serial']))),
        ids: new Set(ids.all().map((one) => String(one['id']))),
      };
    },
    forget(now: number): boolean {
      const changed = Number(unlistSerials.run(now - clockMarginMs).changes) > 0;
      if (changed) rise.run(now, now);
      return changed;
    },
  };
}

function certificateOf(row: Row): StoredCertificate {
  const revokedAt = row['revoked_at'];
  return {
    serial: String(row['serial']),
    id: String(row['id']),
    keyHash: String(row['key_hash']),
    issuedAt: Number(row['issued_at']),
    notBefore: Number(row['not_before']),
    notAfter: Number(row['not_after']),
    evidence: { kind: row['evidence'] as EvidenceRecord['kind'], reference: String(row['reference']) },
    certificate: row['certificate'] as Uint8Array,
    ...(revokedAt === null ? {} : { revoked: { at: Number(revokedAt), reason: String(row['reason'] ?? '') } }),
  };
}

function tokenOf(row: Row): StoredToken {
  const serial = row['serial'];
  return {
    hash: String(row['hash']),
    id: String(row['id']),
    createdAt: Number(row['created_at']),
    expiresAt: Number(row['expires_at']),
    ...(serial === null ? {} : { bound: { keyHash: String(row['key_hash']), serial: String(serial) } }),
  };
}

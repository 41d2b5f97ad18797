// The store's tables and the implementation of its contract. Runs in the worker, inside a transaction that the worker
// opens and commits; nothing here waits.

import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import { formatTime } from '../../base/clock.ts';
import type { DenyList } from '../../identity/denied.ts';
import { type Act, type Caller, nameOfToken } from '../ledger/record.ts';
import { createLedgerTable, type LedgerEnd, ledgerSchema } from '../ledger/table.ts';
import { createDnsTable, dnsSchema, formatNames, namesField } from './dns-table.ts';
import {
  type CertificateFilter,
  type CertificateRecord,
  type Denial,
  type Denied,
  type Disallowed,
  type EvidenceRecord,
  type LiveFamily,
  longestGraceMs,
  type RecordedCertificate,
  type RecordedToken,
  type Redeemed,
  type Renamed,
  type RevokedCertificate,
  type Store,
  type StoredCertificate,
  type StoredIdentity,
  type StoredToken,
  type TokenRecord,
} from './store.ts';

type Waiting = Omit<Store, 'close' | 'trouble'>;

/** The contract, synchronous. */
export type Operations = {
  readonly [K in keyof Waiting]: (...args: Parameters<Waiting[K]>) => Awaited<ReturnType<Waiting[K]>>;
};

type Row = Record<string, SQLOutputValue>;

const schemaVersion = 4;

/** How long after its expiry a token is reported as expired rather than unknown. */
const tokenMemoryMs = 86_400_000;

/** A peer with a slow clock still accepts a certificate that has just expired, so its serial stays this much longer. */
const clockMarginMs = 60_000;

/** The limit of candidates for 'did you mean'. */
const maxIds = 10_000;
const maxSerials = 1000;

/**
 * How many certificates of one family may be valid at once. Otherwise a thief of one key could renew it until the deny
 * list that revokes them all is larger than agents accept. An agent has one to three.
 */
const maxFamily = 64;

const schema = `
  CREATE TABLE certificates (
    serial TEXT PRIMARY KEY, id TEXT NOT NULL, key_hash TEXT NOT NULL, issued_at INTEGER NOT NULL,
    not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, evidence TEXT NOT NULL, reference TEXT NOT NULL,
    certificate BLOB NOT NULL, revoked_at INTEGER, reason TEXT, family TEXT NOT NULL DEFAULT '',
    names TEXT NOT NULL DEFAULT ''
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX certificates_by_end ON certificates (not_after);
  CREATE INDEX certificates_by_id ON certificates (id, not_after);
  CREATE INDEX certificates_by_parent ON certificates (reference) WHERE evidence = 'svid';
  CREATE INDEX certificates_by_family ON certificates (family, not_after) WHERE revoked_at IS NULL;
  CREATE TABLE tokens (
    hash TEXT PRIMARY KEY, id TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    key_hash TEXT, serial TEXT, names TEXT NOT NULL DEFAULT ''
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
  CREATE TABLE owner (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), root TEXT NOT NULL) STRICT;
  ${ledgerSchema}
  ${dnsSchema}
  PRAGMA user_version = ${schemaVersion};
`;

/** For the CRL. An index only: older versions can use a store that has it. */
const revokedIndex =
  'CREATE INDEX IF NOT EXISTS certificates_revoked ON certificates (not_after) WHERE revoked_at IS NOT NULL';

/** A certificate and all that were renewed from it, directly or indirectly. UNION ends the recursion at a cycle. */
const lineOf = (start: string): string => `
  WITH RECURSIVE line (serial) AS (
    ${start} UNION
    SELECT one.serial FROM certificates AS one JOIN line ON one.evidence = 'svid' AND one.reference = line.serial
  )`;

/**
 * Version 1 denied a certificate without those that were renewed from it. They are denied now, like today. The sequence
 * grows by one, since a store has no clock.
 */
const fromVersion1 = `
  CREATE INDEX certificates_by_parent ON certificates (reference) WHERE evidence = 'svid';
  CREATE TABLE owner (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), root TEXT NOT NULL) STRICT;
  CREATE TEMP TABLE reached AS ${lineOf('SELECT serial FROM certificates WHERE revoked_at IS NOT NULL')}
    SELECT serial FROM certificates WHERE revoked_at IS NULL AND serial IN (SELECT serial FROM line);
  UPDATE deny_list SET sequence = sequence + 1 WHERE EXISTS (SELECT 1 FROM reached);
  UPDATE certificates SET revoked_at = (SELECT time FROM deny_list), reason = 'renewed from a revoked certificate'
    WHERE serial IN (SELECT serial FROM reached);
  INSERT OR IGNORE INTO denied_serials
    SELECT serial, not_after FROM certificates WHERE serial IN (SELECT serial FROM reached);
  DROP TABLE reached;
  PRAGMA user_version = 2;
`;

/**
 * Version 2 had no families. A family is named by its first certificate or, if that one is not on record, by its
 * parent. A cycle has no first certificate; each certificate in it is a family of its own.
 */
const fromVersion2 = `
  ALTER TABLE certificates ADD COLUMN family TEXT NOT NULL DEFAULT '';
  CREATE TEMP TABLE families (serial TEXT PRIMARY KEY, family TEXT NOT NULL) STRICT, WITHOUT ROWID;
  INSERT OR IGNORE INTO families WITH RECURSIVE line (serial, family) AS (
    SELECT serial, iif(evidence = 'svid', reference, serial) FROM certificates AS one
      WHERE evidence <> 'svid' OR NOT EXISTS (SELECT 1 FROM certificates AS parent WHERE parent.serial = one.reference)
    UNION
    SELECT one.serial, line.family FROM line JOIN certificates AS one
      ON one.evidence = 'svid' AND one.reference = line.serial
  ) SELECT serial, family FROM line;
  UPDATE certificates SET family = coalesce(
    (SELECT family FROM families WHERE families.serial = certificates.serial), serial);
  DROP TABLE families;
  CREATE INDEX certificates_by_family ON certificates (family, not_after) WHERE revoked_at IS NULL;
  PRAGMA user_version = 3;
`;

/**
 * Version 3 had no ledger and no names. What it had issued and revoked is not in the new ledger, which begins with the
 * next start.
 */
const fromVersion3 = `
  ${ledgerSchema}
  ${dnsSchema}
  ALTER TABLE certificates ADD COLUMN names TEXT NOT NULL DEFAULT '';
  ALTER TABLE tokens ADD COLUMN names TEXT NOT NULL DEFAULT '';
  PRAGMA user_version = 4;
`;

/** Creates the tables of a new store, which belongs to the CA of `root`. */
export function createSchema(db: DatabaseSync, root: string): void {
  db.exec(schema);
  db.exec(revokedIndex);
  db.prepare('INSERT INTO owner VALUES (1, ?)').run(root);
}

/** Whose store a file is: `empty` has no tables of ours, `foreign` belongs to another CA. */
export type SchemaState = 'ours' | 'empty' | 'foreign';

/**
 * Migrates an existing store to this version, if it belongs to a CA with one of `roots` (SHA-256, hex). From then on it
 * belongs to the first. So roots change in steps: while both are in the bundle, the store adopts the new one.
 * @throws Error when a newer Sallyport wrote it, or a table is missing.
 */
export function prepareSchema(db: DatabaseSync, roots: readonly string[]): SchemaState {
  const version = Number(db.prepare('PRAGMA user_version').get()?.['user_version']);
  if (version === 0) return 'empty';
  if (version > schemaVersion)
    throw new Error(`the store has version ${version}, but this build supports up to ${schemaVersion}`);
  if (version === 1) db.exec(fromVersion1);
  if (version <= 2) db.exec(fromVersion2);
  if (version <= 3) db.exec(fromVersion3);
  db.exec(revokedIndex);
  const owner = db.prepare('SELECT root FROM owner').get()?.['root'];
  if (owner !== undefined && !roots.includes(String(owner))) return 'foreign';
  const [root] = roots;
  if (root !== undefined && root !== owner) db.prepare('INSERT OR REPLACE INTO owner VALUES (1, ?)').run(root);
  return 'ours';
}

/** All statements, prepared once. */
export function createOperations(db: DatabaseSync): Operations {
  const tokens = createTokenOperations(db);
  const ledger = createLedgerTable(db);
  const dns = createDnsTable(db);
  const adopt = db.prepare('INSERT OR REPLACE INTO owner VALUES (1, ?)');
  const { isDeniedId, isRevoked, forget, riseTo, ...denials } = createDenialOperations(db);
  const insert = db.prepare(
    `INSERT INTO certificates (serial, id, key_hash, issued_at, not_before, not_after, evidence, reference, certificate,
       family, names)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const bySerial = db.prepare('SELECT * FROM certificates WHERE serial = ?');
  const familyOf = db.prepare('SELECT family FROM certificates WHERE serial = ?');
  // A revoked certificate cannot renew, so it does not count towards its family's limit.
  const validOf = db.prepare(
    `SELECT count(*) AS valid FROM (
       SELECT 1 FROM certificates WHERE family = ? AND not_after > ? AND revoked_at IS NULL LIMIT ${maxFamily}
     )`,
  );
  const listed = db.prepare(
    `SELECT * FROM certificates WHERE not_after > ? AND not_after <= ? AND (not_after, serial) > (?, ?)
     ORDER BY not_after, serial LIMIT ?`,
  );
  const lastEndBefore = db.prepare('SELECT max(not_after) AS ends FROM certificates WHERE issued_at < ?');
  const lastEnds = db.prepare('SELECT max(not_after) AS ends FROM certificates WHERE not_after > ? GROUP BY id');

  const renewalsOf = db.prepare(
    "SELECT count(*) AS renewals FROM certificates WHERE evidence = 'svid' AND reference = ?",
  );

  function put(one: CertificateRecord, family = one.serial): void {
    const { kind, reference } = one.evidence;
    const times = [one.issuedAt, one.notBefore, one.notAfter] as const;
    insert.run(
      one.serial,
      one.id,
      one.keyHash,
      ...times,
      kind,
      reference,
      one.certificate,
      family,
      formatNames(one.names),
    );
  }

  // Inserts and deletes a row: an UPDATE to the same value would not be written.
  const come = db.prepare("INSERT INTO denied_serials VALUES ('', 0)");
  const go = db.prepare("DELETE FROM denied_serials WHERE serial = ''");

  function findCertificate(serial: string): StoredCertificate | undefined {
    const row = bySerial.get(serial);
    return row === undefined ? undefined : certificateOf(row);
  }

  function noteIssued(one: CertificateRecord, caller: Caller): void {
    const { kind, reference } = one.evidence;
    const proof = kind === 'self' ? kind : `${kind} ${kind === 'token' ? nameOfToken(reference) : reference}`;
    const details = {
      ...{ serial: one.serial, notAfter: formatTime(one.notAfter), keyHash: one.keyHash },
      ...(one.evidence.expired === true ? { expired: true } : {}),
      ...(one.names === undefined ? {} : { names: formatNames(one.names) }),
      ...(one.leftOut === undefined ? {} : { leftOut: formatNames(one.leftOut) }),
      // Renewed before: its agent lost the answer or its disk, or two have its key.
      ...(kind === 'svid' && Number(renewalsOf.get(reference)?.['renewals']) > 1 ? { forked: true } : {}),
    };
    const act = kind === 'svid' ? 'renew' : 'issue';
    ledger.append({ act, caller, id: one.id, evidence: proof, answer: 'recorded', details }, one.issuedAt);
  }

  /** Undefined if a certificate has the names that it should have: those of `wanted` that are allowed. */
  function misnamed(one: CertificateRecord, wanted: readonly string[]): Renamed | undefined {
    const names = wanted.filter(dns.isAllowed);
    const has = new Set([...(one.names ?? []), ...(one.forbidden ?? [])]);
    const fits = has.size === names.length && names.every((name) => has.has(name));
    return fits ? undefined : { outcome: 'renamed', names };
  }

  function redeem(hash: string, certificate: CertificateRecord): Redeemed {
    const token = tokens.find(hash);
    if (token === undefined || token.id !== certificate.id) return { outcome: 'unknown' };
    if (isDeniedId(token.id)) return { outcome: 'denied' };
    if (token.expiresAt <= certificate.issuedAt) return { outcome: 'expired' };
    if (token.bound !== undefined) {
      const earlier = findCertificate(token.bound.serial);
      if (token.bound.keyHash !== certificate.keyHash || earlier === undefined) return { outcome: 'used' };
      if (earlier.revoked !== undefined) return { outcome: 'revoked' };
      if (earlier.notAfter > certificate.issuedAt) return { outcome: 'again', certificate: earlier };
      // The agent was cut off for longer than its first certificate lived.
    }
    const { names = [] } = token;
    const renamed = misnamed(certificate, names);
    if (renamed !== undefined) return renamed;
    tokens.bind(hash, certificate);
    put(certificate);
    dns.setNames(certificate.serial, names);
    return { outcome: 'recorded' };
  }

  /** A token of a pod serves until it expires, so that all certificates of a pod are one family. */
  function recordOfPod(certificate: CertificateRecord): RecordedCertificate {
    const family = `kubernetes ${certificate.evidence.reference}`;
    if (Number(validOf.get(family, certificate.issuedAt)?.['valid']) >= maxFamily) return { outcome: 'exhausted' };
    const { names = [] } = certificate.evidence;
    const renamed = misnamed(certificate, names);
    if (renamed !== undefined) return renamed;
    put(certificate, family);
    dns.setNames(family, names);
    return { outcome: 'recorded' };
  }

  function record(certificate: CertificateRecord): RecordedCertificate {
    const { kind, reference } = certificate.evidence;
    if (isDeniedId(certificate.id)) return { outcome: 'denied' };
    // Checked by the record, not by the list: the list drops expired serials, and a renewal may still be in flight.
    // One record is enough: a denial marks the whole line of renewals, and no renewal extends a marked one.
    if (kind === 'svid' && isRevoked(reference)) return { outcome: 'revoked' };
    if (kind === 'kubernetes') return recordOfPod(certificate);
    if (kind !== 'svid') {
      put(certificate);
      return { outcome: 'recorded' };
    }
    const family = String(familyOf.get(reference)?.['family'] ?? reference);
    if (Number(validOf.get(family, certificate.issuedAt)?.['valid']) >= maxFamily) return { outcome: 'exhausted' };
    const renamed = misnamed(certificate, dns.namesOf(family));
    if (renamed !== undefined) return renamed;
    put(certificate, family);
    return { outcome: 'recorded' };
  }

  return {
    ...denials,
    ...createNameOperations(db),
    denySerial(serial: string, reason: string, now: number, caller: Caller): Denied {
      const done = denials.denySerial(serial, reason, now);
      if (done.outcome === 'denied' || done.outcome === 'marked') {
        const { certificates, renewals } = done;
        const id = findCertificate(serial)!.id;
        const details = {
          ...{ serial, reason, certificates, renewals },
          ...(done.outcome === 'marked' ? { expired: true } : {}),
        };
        ledger.append({ act: 'revoke', caller, id, answer: 'denied', details }, now);
      }
      return done;
    },
    denyId(id: string, reason: string, now: number, caller: Caller): Denied {
      const done = denials.denyId(id, reason, now);
      const details = { reason, certificates: done.certificates };
      ledger.append({ act: 'revoke', caller, id, answer: 'denied', details }, now);
      return done;
    },
    allowId(id: string, now: number, caller: Caller): boolean {
      const changed = denials.allowId(id, now);
      if (changed) ledger.append({ act: 'allow', caller, id, answer: 'allowed' }, now);
      return changed;
    },
    listTokens: tokens.list,
    removeToken(hash: string, now: number, caller: Caller): boolean {
      const token = tokens.find(hash);
      if (token === undefined || !tokens.remove(hash)) return false;
      const evidence = `token ${nameOfToken(hash)}`;
      ledger.append({ act: 'token_remove', caller, id: token.id, evidence, answer: 'removed' }, now);
      return true;
    },
    addToken(token: TokenRecord, caller: Caller): RecordedToken {
      if (isDeniedId(token.id)) return { outcome: 'denied' };
      const wrong = (token.names ?? []).filter((name) => !dns.isAllowed(name));
      if (wrong.length > 0) return { outcome: 'not_allowed', names: wrong };
      tokens.add(token);
      const evidence = `token ${nameOfToken(token.hash)}`;
      const { names } = token;
      const details = {
        expiresAt: formatTime(token.expiresAt),
        ...(names === undefined ? {} : { names: formatNames(names) }),
      };
      ledger.append({ act: 'token', caller, id: token.id, evidence, answer: 'recorded', details }, token.createdAt);
      return { outcome: 'recorded' };
    },
    findToken: tokens.find,
    redeemToken(hash: string, certificate: CertificateRecord, caller: Caller): Redeemed {
      const done = redeem(hash, certificate);
      if (done.outcome === 'recorded') noteIssued(certificate, caller);
      return done;
    },
    recordCertificate(certificate: CertificateRecord, caller: Caller): RecordedCertificate {
      const done = record(certificate);
      if (done.outcome === 'recorded') noteIssued(certificate, caller);
      return done;
    },
    allowDns(pattern: string, now: number, caller: Caller): boolean {
      const changed = dns.allow(pattern, now);
      if (changed) ledger.append({ act: 'dns', caller, answer: 'allowed', details: { pattern } }, now);
      return changed;
    },
    disallowDns(pattern: string, now: number, caller: Caller): Disallowed {
      const done = dns.disallow(pattern, now);
      if (done.changed) ledger.append({ act: 'dns', caller, answer: 'disallowed', details: { pattern } }, now);
      return done;
    },
    listDns: dns.list,
    adoptRoot(root: string): void {
      adopt.run(root);
    },
    appendLedger: (act: Act, now: number) => ledger.append(act, now),
    ledgerEnd: ledger.end,
    firstOfLedger: ledger.first,
    readLedger: ledger.read,
    // The worker calls it outside of a transaction.
    copyTo(file: string): LedgerEnd {
      db.prepare('VACUUM INTO ?').run(file);
      return ledger.end();
    },
    recordRestore(act: Act, now: number): LedgerEnd {
      riseTo(now);
      return ledger.append(act, now);
    },
    firstInLedger: ledger.firstSince,
    addLedgerHead: ledger.addHead,
    ledgerHeads: ledger.heads,
    ledgerHeadUpTo: ledger.headUpTo,
    pruneLedger: ledger.prune,
    findCertificate,
    listCertificates({ endsAfter = 0, endsBy = Number.MAX_SAFE_INTEGER, after, count = -1 }: CertificateFilter) {
      const { notAfter, serial } = after ?? { notAfter: 0, serial: '' };
      return listed.all(endsAfter, endsBy, notAfter, serial, count).map(certificateOf);
    },
    lastEnd(time: number): number | undefined {
      const end = lastEndBefore.get(time)?.['ends'];
      return end === null || end === undefined ? undefined : Number(end);
    },
    countIdentities(now: number, ends: readonly number[]) {
      const last = lastEnds.all(now).map((row) => Number(row['ends']));
      return { total: last.length, ending: ends.map((end) => last.filter((one) => one <= end).length) };
    },
    probe(): void {
      come.run();
      go.run();
    },
    prune(now: number): boolean {
      tokens.forget(now - tokenMemoryMs);
      return forget(now);
    },
  };
}

function createTokenOperations(db: DatabaseSync) {
  const insert = db.prepare('INSERT INTO tokens (hash, id, created_at, expires_at, names) VALUES (?, ?, ?, ?, ?)');
  const byHash = db.prepare('SELECT * FROM tokens WHERE hash = ?');
  const bind = db.prepare('UPDATE tokens SET key_hash = ?, serial = ? WHERE hash = ?');
  const forget = db.prepare('DELETE FROM tokens WHERE expires_at < ?');
  const all = db.prepare('SELECT * FROM tokens ORDER BY expires_at, hash');
  const remove = db.prepare('DELETE FROM tokens WHERE hash = ?');
  return {
    list: (): StoredToken[] => all.all().map(tokenOf),
    remove: (hash: string): boolean => Number(remove.run(hash).changes) > 0,
    add: (one: TokenRecord): unknown =>
      insert.run(one.hash, one.id, one.createdAt, one.expiresAt, formatNames(one.names)),
    find(hash: string): StoredToken | undefined {
      const row = byHash.get(hash);
      return row === undefined ? undefined : tokenOf(row);
    },
    bind: (hash: string, to: CertificateRecord): unknown => bind.run(to.keyHash, to.serial, hash),
    forget: (before: number): unknown => forget.run(before),
  };
}

function createDenialOperations(db: DatabaseSync) {
  const named = db.prepare('SELECT 1 FROM certificates WHERE serial = ?');
  const recent = db.prepare('SELECT serial FROM certificates WHERE id = ? AND not_after > ?');
  const line = db.prepare(`${lineOf('SELECT ?')} SELECT serial FROM line`);
  const mark = db.prepare('UPDATE certificates SET revoked_at = ?, reason = ? WHERE serial = ? AND revoked_at IS NULL');
  const listSerial = db.prepare(
    'INSERT OR IGNORE INTO denied_serials SELECT serial, not_after FROM certificates WHERE serial = ? AND not_after > ?',
  );
  const listId = db.prepare('INSERT OR REPLACE INTO denied_ids VALUES (?, ?, ?)');
  const endTokens = db.prepare('UPDATE tokens SET expires_at = ? WHERE id = ? AND expires_at > ?');
  const deniedId = db.prepare('SELECT 1 FROM denied_ids WHERE id = ?');
  const isListed = db.prepare('SELECT 1 FROM denied_serials WHERE serial = ? AND not_after > ?');
  const revoked = db.prepare('SELECT 1 FROM certificates WHERE serial = ? AND revoked_at IS NOT NULL');
  const unlistId = db.prepare('DELETE FROM denied_ids WHERE id = ?');
  const unlistSerials = db.prepare('DELETE FROM denied_serials WHERE not_after <= ?');
  const serials = db.prepare('SELECT serial FROM denied_serials ORDER BY serial');
  const ids = db.prepare('SELECT id FROM denied_ids ORDER BY id');
  const idEntries = db.prepare('SELECT * FROM denied_ids ORDER BY denied_at, id');
  const serialEntries = db.prepare(
    `SELECT serial, id, revoked_at, reason, not_after FROM denied_serials
     JOIN certificates USING (serial, not_after) ORDER BY revoked_at, serial`,
  );
  const allRevoked = db.prepare(
    `SELECT serial, revoked_at, reason FROM certificates WHERE revoked_at IS NOT NULL AND not_after > ?
     ORDER BY not_after, serial`,
  );
  // The identifier is a hash of 20 octets: where its bytes are, they are the authority key identifier.
  const revokedBy = db.prepare(
    `SELECT serial, revoked_at, reason FROM certificates WHERE revoked_at IS NOT NULL AND not_after > ?
     AND instr(certificate, ?) > 0 ORDER BY not_after, serial`,
  );
  const state = db.prepare('SELECT sequence, time FROM deny_list');
  // Never below the clock: after a restore from a backup, a mere counter would fall behind what agents have seen, and
  // they would ignore every new revocation as old.
  const rise = db.prepare('UPDATE deny_list SET sequence = max(sequence + 1, ?), time = ?');

  /** Expired certificates are marked too: a renewal may be in flight, or come within the time that the CA allows. */
  function denyOne(serial: string, reason: string, now: number): { readonly marked: boolean; readonly listed: number } {
    const marked = Number(mark.run(now, reason, serial).changes) > 0;
    return { marked, listed: Number(listSerial.run(serial, now).changes) };
  }

  return {
    isDeniedId: (id: string): boolean => deniedId.get(id) !== undefined,
    isRevoked: (serial: string): boolean => revoked.get(serial) !== undefined,
    denySerial(serial: string, reason: string, now: number): Denied {
      if (named.get(serial) === undefined) return { outcome: 'unknown', certificates: 0, renewals: 0 };
      let certificates = 0;
      let own = 0;
      let alive = false;
      let marked = false;
      for (const row of line.all(serial)) {
        const one = String(row['serial']);
        const done = denyOne(one, reason, now);
        certificates += done.listed;
        marked ||= done.marked;
        if (one === serial) own = done.listed;
        alive ||= isListed.get(one, now) !== undefined;
      }
      if (certificates > 0) rise.run(now, now);
      return { outcome: alive ? 'denied' : marked ? 'marked' : 'expired', certificates, renewals: certificates - own };
    },
    denyId(id: string, reason: string, now: number): Denied {
      listId.run(id, now, reason);
      endTokens.run(now, id, now);
      let certificates = 0;
      for (const row of recent.all(id, now - longestGraceMs))
        certificates += denyOne(String(row['serial']), reason, now).listed;
      rise.run(now, now);
      return { outcome: 'denied', certificates, renewals: 0 };
    },
    allowId(id: string, now: number): boolean {
      const changed = Number(unlistId.run(id).changes) > 0;
      if (changed) rise.run(now, now);
      return changed;
    },
    listDenials: (): Denial[] => [...idEntries.all().map(deniedIdOf), ...serialEntries.all().map(deniedSerialOf)],
    listRevoked(endsAfter: number, issuerKeyId?: string): RevokedCertificate[] {
      const rows =
        issuerKeyId === undefined
          ? allRevoked.all(endsAfter)
          : revokedBy.all(endsAfter, Buffer.from(issuerKeyId, 'hex'));
      return rows.map((row) => ({
        serial: String(row['serial']),
        at: Number(row['revoked_at']),
        reason: String(row['reason'] ?? ''),
      }));
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
    riseTo: (now: number): unknown => rise.run(now, now),
    forget(now: number): boolean {
      const changed = Number(unlistSerials.run(now - clockMarginMs).changes) > 0;
      if (changed) rise.run(now, now);
      return changed;
    },
  };
}

function createNameOperations(db: DatabaseSync) {
  const known = db.prepare(
    `SELECT 1 FROM certificates WHERE id = ?1 UNION SELECT 1 FROM tokens WHERE id = ?1
     UNION SELECT 1 FROM denied_ids WHERE id = ?1`,
  );
  const ids = db.prepare(
    `SELECT id FROM certificates UNION SELECT id FROM tokens UNION SELECT id FROM denied_ids LIMIT ${maxIds}`,
  );
  const similar = db.prepare(
    `SELECT serial FROM certificates WHERE substr(serial, 1, 4) = substr(?1, 1, 4) OR substr(serial, -4) = substr(?1, -4)
     ORDER BY not_after DESC LIMIT ${maxSerials}`,
  );
  const summed = db.prepare(
    `SELECT id, count(good) AS valid, min(good) AS next_end, max(good) AS last_end, max(issued_at) AS last_issued,
       max(iif(evidence = 'svid', issued_at, NULL)) AS last_renewed,
       max(iif(good IS NULL, NULL, not_after - not_before)) AS longest
     FROM (SELECT *, iif(not_after > ?1 AND revoked_at IS NULL, not_after, NULL) AS good FROM certificates)
     WHERE id > ?2 GROUP BY id ORDER BY id LIMIT ?3`,
  );
  const newestOf = db.prepare(
    'SELECT certificate, names FROM certificates WHERE id = ? ORDER BY not_after DESC LIMIT 1',
  );
  const live = db.prepare(
    `SELECT id, max(not_after) AS until, max(issued_at) AS newest,
       max(serial IN (SELECT value FROM json_each(?))) AS named
     FROM certificates WHERE not_after > ? AND revoked_at IS NULL GROUP BY family ORDER BY id, newest, until`,
  );
  return {
    listLiveFamilies: (now: number, serials: readonly string[]): LiveFamily[] =>
      live.all(JSON.stringify(serials), now).map((row) => ({
        id: String(row['id']),
        until: Number(row['until']),
        issuedAt: Number(row['newest']),
        named: row['named'] === 1,
      })),
    listIdentities(after: string, count: number, now: number): StoredIdentity[] {
      return summed.all(now, after, count).map((row) => identityOf(row, newestOf.get(String(row['id']))!));
    },
    isKnownId: (id: string): boolean => known.get(id) !== undefined,
    listIds: (): string[] => ids.all().map((row) => String(row['id'])),
    similarSerials: (serial: string): string[] => similar.all(serial).map((row) => String(row['serial'])),
  };
}

function identityOf(row: Row, newest: Row): StoredIdentity {
  const optional = (column: string, name: string): object =>
    row[column] === null ? {} : { [name]: Number(row[column]) };
  return {
    id: String(row['id']),
    valid: Number(row['valid']),
    ...optional('next_end', 'nextEnd'),
    ...optional('last_end', 'lastEnd'),
    lastIssued: Number(row['last_issued']),
    ...optional('last_renewed', 'lastRenewed'),
    ...optional('longest', 'longestLifeMs'),
    newest: newest['certificate'] as Uint8Array,
    ...namesField(newest['names']),
  };
}

function deniedIdOf(row: Row): Denial {
  return { kind: 'id', target: String(row['id']), since: Number(row['denied_at']), reason: String(row['reason']) };
}

function deniedSerialOf(row: Row): Denial {
  return {
    kind: 'serial',
    target: String(row['serial']),
    id: String(row['id']),
    since: Number(row['revoked_at']),
    reason: String(row['reason'] ?? ''),
    until: Number(row['not_after']),
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
    ...namesField(row['names']),
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
    ...namesField(row['names']),
    ...(serial === null ? {} : { bound: { keyHash: String(row['key_hash']), serial: String(serial) } }),
  };
}

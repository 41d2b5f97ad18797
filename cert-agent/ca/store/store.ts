// What the CA must never forget: certificates, join tokens and denials. One suite (test/ca/store/contract.ts) checks
// this contract for every implementation:
//
// - A promise resolves when its effect is on disk and survives a power cut. Reads see every write that resolved before.
// - Each call is one transaction, whatever runs concurrently: of two redemptions of one token, one comes first.
// - One process writes. A second one that opens the same store is refused with `ca_running`.
// - 'Not found' is a value (undefined, or a named outcome), never an error. A promise rejects only with `store_failed`,
//   and then nothing of that call is on record.
// - Denials are checked inside the transaction that records, so that no certificate escapes a revocation. Denying a
//   certificate also denies all that were renewed from it, directly or indirectly.
// - A store belongs to one CA and is never created implicitly: a missing one is an error (`store_missing`), since an
//   empty one denies nothing.
// - Every change is in the ledger, in the same transaction: neither exists without the other. `caller` is whose request
//   it was. Refusals change nothing here; who refuses records them with `appendLedger`.
// - Times are milliseconds since 1970 and come from the caller: a store has no clock.

import type { DenyList } from '../../identity/denied.ts';
import type { Act, Caller, LedgerRecord } from '../ledger/record.ts';
import type { LedgerEnd, LedgerHead, Pruned } from '../ledger/table.ts';

/** An SVID that expired longer ago than this is never renewed, milliseconds. */
export const longestGraceMs = 30 * 86_400_000;

/**
 * The proof of an identity: a join token (its hash), a service-account token (its pod's name and UID), an earlier SVID
 * (its serial), or the CA itself.
 */
export interface EvidenceRecord {
  readonly kind: 'token' | 'kubernetes' | 'svid' | 'self';
  /** Empty for `self`. */
  readonly reference: string;
  /** Of a pod: the DNS names of its account. */
  readonly names?: readonly string[];
  /** The SVID had expired. In the ledger only. */
  readonly expired?: boolean;
}

/** A certificate on record. */
export interface CertificateRecord {
  /** Lower-case hex. */
  readonly serial: string;
  readonly id: string;
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex. */
  readonly keyHash: string;
  readonly issuedAt: number;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly evidence: EvidenceRecord;
  /** DNS names in it, and IP addresses of the CA's own. Absent without one. */
  readonly names?: readonly string[];
  /** Names that its issuer may not sign. Not stored. */
  readonly forbidden?: readonly string[];
  /** Names of its evidence that it does not have any more. In the ledger only. */
  readonly leftOut?: readonly string[];
  /** The leaf, DER. */
  readonly certificate: Uint8Array;
}

/** Revocations are found by the time of reading. */
export interface StoredCertificate extends CertificateRecord {
  /** Absent unless it was revoked, by its serial or by its ID. */
  readonly revoked?: { readonly at: number; readonly reason: string };
}

/** A new token. */
export interface TokenRecord {
  /** SHA-256 of the token, lower-case hex. The token itself is never on record. */
  readonly hash: string;
  readonly id: string;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** DNS names for certificates of this token, and for their renewals. Absent without one. */
  readonly names?: readonly string[];
}

/** `bound` is absent until its first use; later uses must be by the same key. */
export interface StoredToken extends TokenRecord {
  /** The first key that used it, and the certificate that this key received. */
  readonly bound?: { readonly keyHash: string; readonly serial: string };
}

/** The result of a write. With any other outcome than `recorded`, nothing is on record. */
export type Recorded = { readonly outcome: 'recorded' } | { readonly outcome: 'denied' };

/** The same for a token. `not_allowed`: these of its names are not. */
export type RecordedToken = Recorded | { readonly outcome: 'not_allowed'; readonly names: readonly string[] };

/**
 * A certificate must have exactly `names`, or be unable to: those of its token or family that are allowed now. Sign it
 * again with these.
 */
export interface Renamed {
  readonly outcome: 'renamed';
  readonly names: readonly string[];
}

/**
 * The same for a certificate. `revoked`: the one that it renews was, and its ID is not on the deny list. `exhausted`: 64
 * of its family are valid, all renewed from one first certificate.
 */
export type RecordedCertificate = Recorded | Renamed | { readonly outcome: 'revoked' | 'exhausted' };

/** `again`: this key used the token before and received `certificate`, which is still valid; `revoked`: which was. */
export type Redeemed =
  | { readonly outcome: 'recorded' | 'denied' | 'revoked' | 'unknown' | 'expired' | 'used' }
  | Renamed
  | { readonly outcome: 'again'; readonly certificate: StoredCertificate };

/** Join tokens. The first key that uses one is the only one that can. */
export interface TokenStore {
  /** `denied` while the ID is on the deny list; the token is then not on record. */
  addToken(token: TokenRecord, caller: Caller): Promise<RecordedToken>;
  /** Also one that has expired, for a day. */
  findToken(hash: string): Promise<StoredToken | undefined>;
  /** Binds the token to the certificate's key and records the certificate, both or neither. */
  redeemToken(hash: string, certificate: CertificateRecord, caller: Caller): Promise<Redeemed>;
  /** Ordered by expiry; those that expired a day ago are forgotten. */
  listTokens(): Promise<readonly StoredToken[]>;
  /** True if it existed. Its certificates stay valid. */
  removeToken(hash: string, now: number, caller: Caller): Promise<boolean>;
}

/** All that are given must hold. Without any: every certificate. */
export interface CertificateFilter {
  /** Only certificates that expire after this. */
  readonly endsAfter?: number;
  /** Only certificates that expire at this time or before. */
  readonly endsBy?: number;
  /** Only certificates after this one, in the order of expiry and serial. */
  readonly after?: { readonly notAfter: number; readonly serial: string };
  /** At most this many. */
  readonly count?: number;
}

/** An identity with a summary of its certificates. Times are milliseconds since 1970. */
export interface StoredIdentity {
  readonly id: string;
  /** Certificates that are valid and not revoked. */
  readonly valid: number;
  /** When the first and the last of those expire; undefined if there is none. */
  readonly nextEnd?: number;
  readonly lastEnd?: number;
  readonly lastIssued: number;
  /** The last certificate that renewed another one. */
  readonly lastRenewed?: number;
  /** The longest life of the valid ones, milliseconds. */
  readonly longestLifeMs?: number;
  /** The certificate that expires last, DER, and its names. */
  readonly newest: Uint8Array;
  readonly names?: readonly string[];
}

/** The certificates that stem from one first certificate: those of one agent, until it needs a new join token. */
export interface LiveFamily {
  readonly id: string;
  /** When the last of its valid certificates expires, milliseconds since 1970. */
  readonly until: number;
  /** When the newest of them was issued. An agent does not use the older ones any more. */
  readonly issuedAt: number;
  /** One of the given serials is in it. */
  readonly named: boolean;
}

/** Every certificate that was ever handed out; none is forgotten. */
export interface CertificateStore {
  /**
   * `denied` if its ID is on the deny list; `revoked` if the SVID that it renews was ever denied, even if no longer
   * listed.
   * `exhausted` if 64 certificates of its family are valid at its `issuedAt` and not revoked.
   */
  recordCertificate(certificate: CertificateRecord, caller: Caller): Promise<RecordedCertificate>;
  /** By serial, lower-case hex; expired and revoked ones too. */
  findCertificate(serial: string): Promise<StoredCertificate | undefined>;
  /** Ordered by expiry. */
  listCertificates(filter: CertificateFilter): Promise<readonly StoredCertificate[]>;
  /** The families with a certificate that is valid at `now` and not revoked, ordered by ID. */
  listLiveFamilies(now: number, serials: readonly string[]): Promise<readonly LiveFamily[]>;
  /** When the last certificate issued before `time` expires, revoked ones included; undefined without one. */
  lastEnd(time: number): Promise<number | undefined>;
  /** At most `count` identities that ever had a certificate, in order, those after `after`. */
  listIdentities(after: string, count: number, now: number): Promise<readonly StoredIdentity[]>;
  /**
   * How many IDs have a certificate that is valid at `now`, and for how many the last one expires by each of `ends`.
   */
  countIdentities(now: number, ends: readonly number[]): Promise<{ total: number; ending: readonly number[] }>;
}

/**
 * `denied`: now on the list, with the number of certificates added; `renewals` of them were renewed from the given one,
 * directly or indirectly. `marked`: all of them had expired, and cannot renew any more. `expired`: nothing left to deny.
 */
export interface Denied {
  readonly outcome: 'denied' | 'marked' | 'unknown' | 'expired';
  readonly certificates: number;
  readonly renewals: number;
}

/** An entry of the deny list. An ID stays until it is allowed, a serial until its certificate has expired (`until`). */
export type Denial =
  | { readonly kind: 'id'; readonly target: string; readonly since: number; readonly reason: string }
  | {
      readonly kind: 'serial';
      readonly target: string;
      /** The ID of the certificate. */
      readonly id: string;
      readonly since: number;
      readonly reason: string;
      readonly until: number;
    };

/** A certificate that was revoked, by its serial or by its ID. */
export interface RevokedCertificate {
  readonly serial: string;
  readonly at: number;
  readonly reason: string;
}

/** The deny list, and what is denied for good behind it. */
export interface DenialStore {
  /** Denies the certificate and all that were renewed from it, even if it has expired and they have not. */
  denySerial(serial: string, reason: string, now: number, caller: Caller): Promise<Denied>;
  /**
   * Denies the ID until allowId, each of its certificates until it expires, and its tokens for good: a thief of the
   * identity keeps nothing when the ID is allowed again. Certificates that expired in the last 30 days can never renew.
   */
  denyId(id: string, reason: string, now: number, caller: Caller): Promise<Denied>;
  /** True if the ID was on the list. */
  allowId(id: string, now: number, caller: Caller): Promise<boolean>;
  /** IDs first, each kind in the order of denial. */
  listDenials(): Promise<readonly Denial[]>;
  /**
   * Certificates that were revoked and expire after `endsAfter`, ordered by expiry: those of the issuer with this key
   * identifier (lower-case hex), or of all.
   */
  listRevoked(endsAfter: number, issuerKeyId?: string): Promise<readonly RevokedCertificate[]>;
  /** The list. Its sequence grows with every change and is never below the time of that change. */
  denyList(): Promise<DenyList>;
  /** Drops serials that expired before `now`, and tokens that expired a day before. True if the list changed. */
  prune(now: number): Promise<boolean>;
}

/** Whether the store can be written. */
export interface StoreHealth {
  /** Writes without changing anything. */
  probe(): Promise<void>;
  /** Why a call failed; undefined if none failed since the last successful probe. */
  trouble(): string | undefined;
}

/** Look-ups for 'did you mean' hints. */
export interface NameStore {
  /** True for an ID that had a certificate, has a token, or is denied. */
  isKnownId(id: string): Promise<boolean>;
  /** Such IDs, at most 10,000. */
  listIds(): Promise<readonly string[]>;
  /** Serials that begin or end like `serial`, at most 1000. */
  similarSerials(serial: string): Promise<readonly string[]>;
}

/** The record of what the CA did. Each record's hash covers all before it; heads are signed by the CA. */
export interface LedgerStore {
  /** Records an act that changes nothing else in the store. */
  appendLedger(act: Act, now: number): Promise<LedgerEnd>;
  /** The last record. */
  ledgerEnd(): Promise<LedgerEnd>;
  /** The first record that was not pruned; the next one if there is none. */
  firstOfLedger(): Promise<number>;
  /** At most `count` records, from `sequence` on. */
  readLedger(sequence: number, count: number): Promise<readonly LedgerRecord[]>;
  /** The first record at or after `time`. */
  firstInLedger(time: number): Promise<number | undefined>;
  /** Replaces a head of the same `sequence`. */
  addLedgerHead(head: LedgerHead): Promise<void>;
  /** At most `count` heads, from `sequence` on. */
  ledgerHeads(sequence: number, count: number): Promise<readonly LedgerHead[]>;
  /** The newest head up to `sequence`. */
  ledgerHeadUpTo(sequence: number): Promise<LedgerHead | undefined>;
  /**
   * Drops records from before `time`, up to a signed head, which stays as their checkpoint; a record says so. Drops a
   * part if there are many: call it again until it returns undefined.
   */
  pruneLedger(time: number, now: number): Promise<Pruned | undefined>;
}

/** A pattern of DNS names that certificates may have, and since when. */
export interface DnsPattern {
  readonly pattern: string;
  readonly since: number;
}

/** `certificates`: how many are valid with a name that is not allowed any more; the last of them ends at `until`. */
export interface Disallowed {
  readonly changed: boolean;
  readonly certificates: number;
  readonly until?: number;
}

/** Which DNS names certificates may have. It is asked again each time that one is recorded. */
export interface DnsStore {
  /** False if it was on record. */
  allowDns(pattern: string, now: number, caller: Caller): Promise<boolean>;
  /** `changed` is false if it was not on record. */
  disallowDns(pattern: string, now: number, caller: Caller): Promise<Disallowed>;
  /** In order. */
  listDns(): Promise<readonly DnsPattern[]>;
}

/** Whose store it is. */
export interface OwnerStore {
  /** The store belongs to the CA of this root from now on (SHA-256, hex). */
  adoptRoot(root: string): Promise<void>;
}

/** For `ca backup` and `ca restore` alone. */
export interface BackupStore {
  /**
   * Writes a consistent copy to `file`, which is empty. Nothing else is done meanwhile. Returns the copy's last record.
   */
  copyTo(file: string): Promise<LedgerEnd>;
  /** Records a restore, and raises the sequence of the deny list above all that agents may have seen. */
  recordRestore(act: Act, now: number): Promise<LedgerEnd>;
}

/** The whole contract: see the beginning of this file. The parts are for callers that need less. */
export interface Store
  extends OwnerStore,
    TokenStore,
    CertificateStore,
    DenialStore,
    DnsStore,
    NameStore,
    LedgerStore,
    BackupStore,
    StoreHealth {
  /** Waits for pending calls, then closes the store. */
  close(): Promise<void>;
}

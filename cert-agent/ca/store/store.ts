// What the CA must never forget: certificates, join tokens, and whom it denies. The contract, which one suite
// (test/ca/store/contract.ts) holds against every implementation:
//
// - A promise resolves when its effect is on disk; what was answered survives a power cut. Reads see every write that
//   was answered before them.
// - Each call is one transaction, whatever runs beside it: of two redemptions of one token, one comes first.
// - One process writes. A second one that opens the same store is refused with `ca_running`.
// - 'Not there' is a value (undefined, or an outcome by name), never an error. A promise rejects with `store_failed`
//   only, and then nothing of that call is on record.
// - Denials are judged here, inside the transaction that records, so that no certificate slips past a revocation. A
//   certificate that was renewed from a denied one is denied with it, and so are all that were renewed from that.
// - A store is one CA's, and it is never made in passing: a missing one is an error (`store_missing`), since an empty
//   one denies no one.
// - Times are milliseconds since 1970 and come from the caller: a store has no clock.

import type { DenyList } from '../../identity/denied.ts';

/** What an identity was proven by: a join token (its hash), an earlier SVID (its serial), or being the CA itself. */
export interface EvidenceRecord {
  readonly kind: 'token' | 'svid' | 'self';
  /** Empty for `self`. */
  readonly reference: string;
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
  /** The leaf, DER. */
  readonly certificate: Uint8Array;
}

export interface StoredCertificate extends CertificateRecord {
  /** Absent unless it was revoked, by itself or with its ID. */
  readonly revoked?: { readonly at: number; readonly reason: string };
}

export interface TokenRecord {
  /** SHA-256 of the token, lower-case hex. The token itself is never on record. */
  readonly hash: string;
  readonly id: string;
  readonly createdAt: number;
  readonly expiresAt: number;
}

export interface StoredToken extends TokenRecord {
  /** The first key that used it, and the certificate that it got. */
  readonly bound?: { readonly keyHash: string; readonly serial: string };
}

/** What became of recording a token. Anything but `recorded` leaves it off the record. */
export type Recorded = { readonly outcome: 'recorded' } | { readonly outcome: 'denied' };

/** The same of a certificate. `exhausted`: 64 of its family are valid, all renewed from one first certificate. */
export type RecordedCertificate = Recorded | { readonly outcome: 'exhausted' };

/** `again`: this key used the token before, and `certificate` is what it got then. */
export type Redeemed =
  | { readonly outcome: 'recorded' | 'denied' | 'unknown' | 'expired' | 'used' }
  | { readonly outcome: 'again'; readonly certificate: StoredCertificate };

export interface TokenStore {
  /** `denied` while the ID is on the deny-list; the token is then not on record. */
  addToken(token: TokenRecord): Promise<Recorded>;
  findToken(hash: string): Promise<StoredToken | undefined>;
  /** Binds the token to the certificate's key and records the certificate, both or neither. */
  redeemToken(hash: string, certificate: CertificateRecord): Promise<Redeemed>;
  /** In the order in which they end; those that ended a day ago are forgotten. */
  listTokens(): Promise<readonly StoredToken[]>;
  /** True when it was there. What it has given stays. */
  removeToken(hash: string): Promise<boolean>;
}

export interface CertificateFilter {
  /** Only certificates that end after this. */
  readonly endsAfter?: number;
  /** Only certificates that end at this or before. */
  readonly endsBy?: number;
}

export interface CertificateStore {
  /**
   * `denied` when its ID is on the deny-list, or when the SVID that it renews was ever denied, listed still or not.
   * `exhausted` when 64 certificates of its family are valid at its `issuedAt` and not revoked.
   */
  recordCertificate(certificate: CertificateRecord): Promise<RecordedCertificate>;
  findCertificate(serial: string): Promise<StoredCertificate | undefined>;
  /** In the order in which they end. */
  listCertificates(filter: CertificateFilter): Promise<readonly StoredCertificate[]>;
  /** How many IDs hold a certificate that is valid at `now`, and of how many the last one ends by each of `ends`. */
  countIdentities(now: number, ends: readonly number[]): Promise<{ total: number; ending: readonly number[] }>;
}

/**
 * `denied`: on the list now, with the number of certificates that joined it; `renewals` of them were renewed from the
 * one that was named, directly or not. `expired`: nothing left to deny.
 */
export interface Denied {
  readonly outcome: 'denied' | 'unknown' | 'expired';
  readonly certificates: number;
  readonly renewals: number;
}

/** An entry of the deny-list. An ID stays until it is allowed, a serial until its certificate has ended (`until`). */
export type Denial =
  | { readonly kind: 'id'; readonly target: string; readonly since: number; readonly reason: string }
  | {
      readonly kind: 'serial';
      readonly target: string;
      /** Whose certificate it is. */
      readonly id: string;
      readonly since: number;
      readonly reason: string;
      readonly until: number;
    };

export interface DenialStore {
  /** Denies the certificate and all that were renewed from it, also when it has ended itself and they have not. */
  denySerial(serial: string, reason: string, now: number): Promise<Denied>;
  /**
   * Denies the ID until allowId, each of its certificates until it expires, and its tokens for good: whoever took the
   * identity over keeps nothing of it when the ID is allowed again.
   */
  denyId(id: string, reason: string, now: number): Promise<Denied>;
  /** True when the ID was on the list. */
  allowId(id: string, now: number): Promise<boolean>;
  /** IDs first, each kind in the order in which it was denied. */
  listDenials(): Promise<readonly Denial[]>;
  /** The list. Its sequence rises with every change and is never below the time of that change. */
  denyList(): Promise<DenyList>;
  /** Drops from the list what expired before `now`, and tokens that ended a day before. True when the list changed. */
  prune(now: number): Promise<boolean>;
}

/** Whether something can be written. */
export interface StoreHealth {
  /** Writes, and changes nothing. */
  probe(): Promise<void>;
  /** Why a call has failed; undefined while none has since a probe succeeded. */
  trouble(): string | undefined;
}

/** What is on record under which name, so that an operator is told what they may have meant. */
export interface NameStore {
  /** True for an ID that has had a certificate, has a token, or is denied. */
  isKnownId(id: string): Promise<boolean>;
  /** Such IDs, 10,000 at most. */
  listIds(): Promise<readonly string[]>;
  /** Serials that begin or end as `serial` does, 1000 at most. */
  similarSerials(serial: string): Promise<readonly string[]>;
}

export interface Store extends TokenStore, CertificateStore, DenialStore, NameStore, StoreHealth {
  /** Waits for what was asked, then lets the store go. */
  close(): Promise<void>;
}

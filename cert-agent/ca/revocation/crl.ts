// The CA's CRLs, RFC 5280 section 5: one of each issuer whose certificates may still be valid. They are made at the
// first request after the deny list changed, or after half of its life, and then served as they are. Requests during
// that time wait for them, and cause no others.

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { asSallyportError } from '../../base/errors.ts';
import type { Live } from '../../base/live.ts';
import { formatPem } from '../../identity/bundle.ts';
import { type Crl, formatCrlPem, parseCrls, reasonNamed } from '../../identity/crl.ts';
import type { DenyList } from '../../identity/denied.ts';
import { readIssuer } from '../../identity/issuer.ts';
import type { Authority, IssuerKey } from '../authority.ts';
import { caFilesOf, rotationFilesOf } from '../directory.ts';
import type { DenialStore } from '../store/store.ts';

/** From thisUpdate to nextUpdate. A verifier that gets no newer list refuses everyone then. */
export const crlLifeMs = 24 * 3_600_000;

const backdateMs = 60_000;

/** A body to serve, with its strong validator. */
export interface CrlFile {
  readonly body: Buffer;
  readonly etag: string;
}

/**
 * The lists of one moment. `number` is RFC 5280 section 5.2.3 and never decreases; `nextUpdate` is milliseconds since
 * 1970, and no later than an issuer's expiry.
 */
export interface MadeCrls {
  /** The list of the issuer of now, DER. */
  readonly der: CrlFile;
  /** The lists of all issuers, DER, by the issuer's key identifier: lower-case hex. */
  readonly byKeyId: ReadonlyMap<string, CrlFile>;
  /** All of them, those of the roots, and the issuers' certificates to verify them by, as PEM. */
  readonly pem: CrlFile;
  readonly number: number;
  readonly nextUpdate: number;
}

/** `denied` says when the lists are stale; their entries come from the store. */
export interface CrlParts {
  readonly authority: Pick<Authority, 'issuerKeys' | 'issuers'>;
  readonly store: Pick<DenialStore, 'listRevoked'>;
  readonly denied: Live<DenyList>;
  readonly clock: Clock;
  /** The lists of the roots, PEM. */
  readonly rootCrls?: () => readonly string[];
}

interface Kept extends MadeCrls {
  readonly issuers: readonly Buffer[];
  /** Of the deny list. */
  readonly sequence: number;
  readonly madeAt: number;
}

/** One for a CA. A list is made for the first request that needs it. */
export class CrlMaker {
  readonly #parts: CrlParts;
  #kept: Kept | undefined;
  #making: Promise<void> | undefined;

  constructor(parts: CrlParts) {
    this.#parts = parts;
  }

  /**
   * The lists, with every change of the deny list until now. While the store fails, the last ones are served until
   * they end. @throws SallyportError `store_failed`.
   */
  current(): MadeCrls | Promise<MadeCrls> {
    const kept = this.#kept;
    return kept !== undefined && this.#isFresh(kept) ? kept : this.#next();
  }

  async #next(): Promise<MadeCrls> {
    // The list that is being made may lack what was revoked since it was begun: the one after it does not.
    for (let round = 0; round < 2 && !(this.#kept !== undefined && this.#isFresh(this.#kept)); round++) {
      this.#making ??= this.#make().finally(() => {
        this.#making = undefined;
      });
      try {
        await this.#making;
      } catch (error) {
        if (this.#kept === undefined || this.#parts.clock.now() > this.#kept.nextUpdate) throw error;
        break;
      }
    }
    return this.#kept!;
  }

  #isFresh({ sequence, madeAt, issuers }: Kept): boolean {
    const now = this.#parts.authority.issuers;
    if (now.length !== issuers.length || !now.every((one, at) => one.equals(issuers[at]!))) return false;
    const age = this.#parts.clock.now() - madeAt;
    return sequence === this.#parts.denied.current().sequence && age >= 0 && age < crlLifeMs / 2;
  }

  async #make(): Promise<void> {
    const { authority, denied, clock, rootCrls = () => [] } = this.#parts;
    const { issuerKeys, issuers } = authority;
    const { sequence } = denied.current();
    const now = clock.now();
    // Never below an earlier one, also if the lists are made again without a change. The sequence is never below the
    // time of its change.
    const number = Math.max(sequence, now, (this.#kept?.number ?? 0) + 1);
    const byKeyId = new Map<string, CrlFile>();
    let nextUpdate = now + crlLifeMs;
    for (const issuer of issuerKeys) {
      nextUpdate = Math.min(nextUpdate, issuer.notAfter);
      const keyId = readIssuer(issuer.certificate).keyId?.toString('hex') ?? '';
      const all = issuerKeys.length === 1;
      byKeyId.set(keyId, fileOf(await this.#listOf(issuer, all ? undefined : keyId, { number, now })));
    }
    const lists = [...byKeyId.values()].map(({ body }) => formatCrlPem(body));
    const pem = fileOf(Buffer.from([...lists, ...rootCrls(), formatPem(issuers)].join('')));
    const [der] = byKeyId.values();
    if (der === undefined) throw new TypeError('no issuer');
    this.#kept = Object.freeze({ der, byKeyId, pem, number, nextUpdate, sequence, issuers, madeAt: now });
  }

  async #listOf(
    issuer: IssuerKey,
    keyId: string | undefined,
    { number, now }: { readonly number: number; readonly now: number },
  ): Promise<Buffer> {
    // Section 3.3: an entry stays until it was on one list that was made after the certificate had expired.
    const revoked = await this.#parts.store.listRevoked(now - crlLifeMs, keyId);
    return issuer.signCrl({
      ...{ number, thisUpdate: now - backdateMs, nextUpdate: Math.min(now + crlLifeMs, issuer.notAfter) },
      entries: revoked.map(({ serial, at, reason }) => ({ serial, at, reason: reasonNamed(reason) })),
    });
  }
}

function fileOf(body: Buffer): CrlFile {
  return Object.freeze({ body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` });
}

/**
 * The lists of the roots in a CA's directory, PEM: that of now, and that of a root which is being replaced. None where
 * an older version has made the directory. @throws SallyportError `crl_invalid` or `config_unreadable`.
 */
export function readRootCrls(dir: string): readonly string[] {
  const { previous } = rotationFilesOf(dir);
  const replaced = existsSync(previous) ? readdirSync(previous).map((name) => join(previous, name)) : [];
  const newest = new Map<string, Crl>();
  for (const crl of [dir, ...replaced].flatMap((one) => readCrlsIn(caFilesOf(one).rootCrl))) {
    // All roots have the same name.
    const name = (crl.issuerKeyId ?? crl.issuer).toString('hex');
    const other = newest.get(name);
    if (other === undefined || (crl.number ?? 0n) > (other.number ?? 0n)) newest.set(name, crl);
  }
  return [...newest.values()].map(({ der }) => formatCrlPem(der));
}

function readCrlsIn(file: string): readonly Crl[] {
  if (!existsSync(file)) return [];
  try {
    return parseCrls(readFileSync(file), file);
  } catch (error) {
    throw asSallyportError(error, 'config_unreadable', `cannot read ${file}`);
  }
}

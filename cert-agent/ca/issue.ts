// From evidence and a CSR to a recorded certificate. The order is the guarantee: rules, signature, record, response. A
// certificate that is not on record is never handed out.

import { createHash, createPublicKey, type KeyObject } from 'node:crypto';
import type { Evidence } from '../attestation/contract.ts';
import type { Clock } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { readCsr } from '../identity/csr.ts';
import { isReserved, type SpiffeId } from '../identity/spiffe-id.ts';
import type { Authority } from './authority.ts';
import type { NoteMissing } from './dns/name-log.ts';
import { deniedError, expiredTokenError, revokedError } from './evidence.ts';
import type { Caller } from './ledger/record.ts';
import type { CertificateRecord, EvidenceRecord, RecordedCertificate, Redeemed, Store } from './store/store.ts';

/** What issuing uses. Lives are milliseconds. */
export interface IssueParts {
  readonly authority: Authority;
  readonly store: Store;
  readonly clock: Clock;
  /** Life of a leaf whose request does not set one. */
  readonly defaultLifeMs: number;
  /** Called for names that a certificate should have had. */
  readonly onMissingNames?: NoteMissing;
}

/** A request for a certificate, after its evidence. */
export interface Order {
  /** PKCS#10, DER. */
  readonly csr: Uint8Array;
  /** Undefined: the default. */
  readonly lifeMs: number | undefined;
  /** For the record. */
  readonly caller: Caller;
}

/** The result: a new certificate or, with `again`, the one that the same token and key received before. */
export interface Issued {
  readonly id: string;
  readonly serial: string;
  readonly notBefore: number;
  readonly notAfter: number;
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly again: boolean;
}

/** The bounds of a workload certificate's life; a longer or shorter one asked for is refused. */
export const shortestLeafLifeMs = 60_000;
export const longestLeafLifeMs = 24 * 3_600_000;

/**
 * Issues a certificate for the identity that `evidence` proves.
 * @throws SallyportError `csr_invalid`, `ttl_out_of_range`, `id_reserved`, `id_foreign`, `id_denied`, `token_used`,
 * `token_expired`, `renewals_exhausted`, `issuer_expired` or `store_failed`.
 */
export async function issueSvid(
  parts: IssueParts,
  evidence: Evidence,
  { csr, lifeMs = parts.defaultLifeMs, caller }: Order,
): Promise<Issued> {
  checkLeafLife(lifeMs);
  checkIssuable(evidence.id, parts.authority.trustDomain);
  const publicKey = readCsr(csr);
  const keyHash = hashKey(publicKey);
  // Checked before signing, so that a used token costs no signature. The store makes the final check.
  if (evidence.kind === 'token' && evidence.bound !== undefined && evidence.bound.keyHash !== keyHash) {
    throw usedTokenError();
  }
  const order = { id: evidence.id, publicKey, lifeMs, evidence: recordOf(evidence) };
  let record = signRecord(parts, { ...order, names: evidence.names }, evidence.names);
  let recorded = await put(parts, record, caller);
  // The store decides on the names. Again, if an operator changed meanwhile what is allowed.
  for (let attempts = 0; recorded.outcome === 'renamed' && attempts < mostRenames; attempts++) {
    record = signRecord(parts, { ...order, names: recorded.names }, evidence.names);
    recorded = await put(parts, record, caller);
  }
  const issued = answerOf(parts, recorded, record);
  const { leftOut = [], forbidden = [] } = record;
  if (!issued.again && leftOut.length + forbidden.length > 0)
    parts.onMissingNames?.({ id: issued.id, leftOut, forbidden });
  return issued;
}

const mostRenames = 5;

function put(
  { store }: IssueParts,
  record: CertificateRecord,
  caller: Caller,
): Promise<RecordedCertificate | Redeemed> {
  const { kind, reference } = record.evidence;
  return kind === 'token' ? store.redeemToken(reference, record, caller) : store.recordCertificate(record, caller);
}

/**
 * Issues the CA's own SVID and records it like every other. If the store cannot be written, it is used without a
 * record: the CA then still serves the bundle and the deny list, and needs a certificate for that.
 */
export async function issueOwn(
  parts: IssueParts,
  id: SpiffeId,
  key: KeyObject,
  names: readonly string[],
): Promise<{ readonly issued: Issued; readonly isOnRecord: boolean }> {
  const publicKey = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const evidence = { kind: 'self', reference: '' } as const;
  const record = signRecord(parts, { id, publicKey, lifeMs: parts.defaultLifeMs, evidence, names });
  const { forbidden = [] } = record;
  if (forbidden.length > 0) parts.onMissingNames?.({ id: id.uri, leftOut: [], forbidden });
  try {
    return { issued: answerOf(parts, await parts.store.recordCertificate(record, 'self'), record), isOnRecord: true };
  } catch (error) {
    if (!(error instanceof SallyportError) || error.code !== 'store_failed') throw error;
    return { issued: issuedOf(record, parts.authority, false), isOnRecord: false };
  }
}

/** Checks that certificates and tokens may be issued for `id`. @throws SallyportError `id_foreign` or `id_reserved`. */
export function checkIssuable(id: SpiffeId, trustDomain: string): void {
  if (id.trustDomain !== trustDomain) {
    throw new SallyportError('id_foreign', `${id.uri} does not belong to trust domain ${trustDomain}`, {
      hint: `this CA issues spiffe://${trustDomain}/...`,
    });
  }
  if (id.path === '') {
    throw new SallyportError('id_reserved', `${id.uri} is the trust domain itself, not a workload`, {
      hint: `add a path, such as spiffe://${trustDomain}/ns/shop/sa/web`,
    });
  }
  if (isReserved(id)) {
    throw new SallyportError('id_reserved', `${id.uri} is reserved for the CA's own parts`, {
      hint: 'choose a path that does not begin with /sallyport/',
    });
  }
}

function checkLeafLife(lifeMs: number): void {
  if (lifeMs >= shortestLeafLifeMs && lifeMs <= longestLeafLifeMs) return;
  throw new SallyportError('ttl_out_of_range', `a certificate cannot live for ${lifeMs / 1000} seconds`, {
    hint: 'request 60 to 86400 seconds',
  });
}

interface Unsigned {
  readonly id: SpiffeId;
  readonly publicKey: Buffer;
  readonly lifeMs: number;
  readonly evidence: EvidenceRecord;
  readonly names: readonly string[];
}

/** `expected` are the names of the evidence; the record says which of them the certificate does not have. */
function signRecord(
  { authority, clock }: IssueParts,
  { id, publicKey, lifeMs, evidence, names }: Unsigned,
  expected: readonly string[] = [],
): CertificateRecord {
  const issuedAt = clock.now();
  const leaf = authority.signLeaf(id, publicKey, lifeMs, names);
  const leftOut = expected.filter((name) => leaf.names?.includes(name) !== true);
  return {
    ...{ ...leaf, id: id.uri, keyHash: hashKey(publicKey), issuedAt, evidence },
    ...(leftOut.length === 0 ? {} : { leftOut }),
  };
}

function answerOf(
  { authority }: IssueParts,
  recorded: RecordedCertificate | Redeemed,
  made: CertificateRecord,
): Issued {
  switch (recorded.outcome) {
    case 'recorded':
      return issuedOf(made, authority, false);
    case 'again':
      return issuedOf(recorded.certificate, authority, true);
    case 'denied':
      throw deniedError(made.id);
    case 'revoked':
      throw revokedError(
        made.evidence.kind === 'svid' ? `certificate ${made.evidence.reference}` : 'the certificate of this join token',
        made.id,
      );
    case 'expired':
    case 'unknown':
      // It was valid a moment ago, so it expired in between.
      throw expiredTokenError();
    case 'used':
      throw usedTokenError();
    case 'renamed':
      throw new SallyportError('store_failed', 'the DNS names that are allowed keep changing', { hint: 'try again' });
    case 'exhausted':
      throw new SallyportError(
        'renewals_exhausted',
        made.evidence.kind === 'kubernetes'
          ? `too many valid certificates of ${made.id} were issued to one pod`
          : `too many valid certificates of ${made.id} were renewed from one another`,
        {
          hint: 'wait until older ones expire, or use a new join token; if the workload does not renew so often, its key may be stolen: revoke the ID',
        },
      );
  }
}

function issuedOf(record: CertificateRecord, authority: Authority, again: boolean): Issued {
  const { id, serial, notBefore, notAfter, certificate } = record;
  return { id, serial, notBefore, notAfter, chain: authority.chainOf(certificate), again };
}

function recordOf(evidence: Evidence): EvidenceRecord {
  if (evidence.kind === 'token') return { kind: 'token', reference: evidence.hash };
  return evidence.kind === 'kubernetes'
    ? { kind: 'kubernetes', reference: evidence.pod, names: evidence.names }
    : { kind: 'svid', reference: evidence.serial, ...(evidence.expired ? { expired: true } : {}) };
}

function hashKey(publicKey: Uint8Array): string {
  return createHash('sha256').update(publicKey).digest('hex');
}

function usedTokenError(): SallyportError {
  return new SallyportError('token_used', 'the join token was already used with another key', {
    hint: 'a token is for one key: create a new one; sallyport ca token ls shows the certificate of the first key',
  });
}

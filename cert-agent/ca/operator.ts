// What an operator does to a CA: tokens, listing, revocation. The running CA does it for those who reach its unix
// socket (operator-socket.ts); with the CA stopped, the command does it on the store itself.

import { randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { formatDuration, formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import { deniedError, hashToken } from './evidence.ts';
import { checkIssuable } from './issue.ts';
import { certificateNotFound, parseSerial, type Revocation, type Revocations } from './revoke.ts';
import type { Store, StoredCertificate } from './store.ts';

export interface NewToken {
  /** Shown once; the CA keeps its hash only. */
  readonly token: string;
  readonly id: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** A certificate as it is listed; times are milliseconds since 1970. */
export interface ListedCertificate {
  readonly serial: string;
  readonly id: string;
  readonly issuedAt: number;
  readonly notBefore: number;
  readonly notAfter: number;
  /** `token`, `svid` (a renewal) or `self` (the CA's own). */
  readonly evidence: string;
  /** With `svid`: the serial of the certificate that was renewed. */
  readonly renews?: string;
  readonly revoked?: { readonly at: number; readonly reason: string };
}

export interface ShownCertificate extends ListedCertificate {
  /** The leaf, base64 DER. */
  readonly certificate: string;
}

export interface ListFilter {
  /** Those that have expired too. */
  readonly all?: boolean;
  /** Only those that expire within this time. */
  readonly expiringMs?: number;
}

export interface Operator {
  /** @throws SallyportError `ttl_out_of_range`, `spiffe_id_invalid`, `id_foreign`, `id_reserved` or `id_denied`. */
  createToken(id: string, ttlMs: number): Promise<NewToken>;
  list(filter: ListFilter): Promise<readonly ListedCertificate[]>;
  /** @throws SallyportError `not_found` or `usage`. */
  show(serial: string): Promise<ShownCertificate>;
  /** `target` is a serial or a SPIFFE ID. */
  revoke(target: string, reason: string): Promise<Revocation>;
  /** False when the ID was not denied. */
  allow(id: string): Promise<boolean>;
}

export interface OperatorParts {
  readonly store: Store;
  readonly revocations: Revocations;
  readonly trustDomain: string;
  readonly clock: Clock;
  /** Told of what was done, for log and metrics. Never of the token. */
  readonly onEvent?: (event: OperatorEvent) => void;
}

export type OperatorEvent =
  | { readonly code: 'token_created'; readonly id: string; readonly expiresAt: string }
  | { readonly code: 'revoked'; readonly target: string; readonly reason: string; readonly certificates: number }
  | { readonly code: 'allowed'; readonly id: string };

const shortestTokenLifeMs = 10_000;
const longestTokenLifeMs = 7 * 86_400_000;

export function createOperator(parts: OperatorParts): Operator {
  const { store, revocations, clock } = parts;
  return {
    createToken: (id, ttlMs) => createToken(parts, id, ttlMs),
    async list({ all, expiringMs }) {
      const now = clock.now();
      const found = await store.listCertificates({
        ...(all === true ? {} : { endsAfter: now }),
        ...(expiringMs === undefined ? {} : { endsBy: now + expiringMs }),
      });
      return found.map(listedOf);
    },
    async show(text) {
      const serial = parseSerial(text);
      const found = await store.findCertificate(serial);
      if (found === undefined) throw certificateNotFound(text, 'unknown');
      return { ...listedOf(found), certificate: Buffer.from(found.certificate).toString('base64') };
    },
    async revoke(target, reason) {
      const done = await revocations.revoke(target, reason);
      parts.onEvent?.({ code: 'revoked', target: done.target, reason, certificates: done.certificates });
      return done;
    },
    async allow(id) {
      const changed = await revocations.allow(id);
      if (changed) parts.onEvent?.({ code: 'allowed', id });
      return changed;
    },
  };
}

async function createToken(parts: OperatorParts, text: string, ttlMs: number): Promise<NewToken> {
  const id = parseSpiffeId(text);
  checkIssuable(id, parts.trustDomain);
  if (ttlMs < shortestTokenLifeMs || ttlMs > longestTokenLifeMs) {
    throw new SallyportError('ttl_out_of_range', `a join token of ${formatDuration(ttlMs)} is not made`, {
      hint: `choose between ${formatDuration(shortestTokenLifeMs)} and ${formatDuration(longestTokenLifeMs)}`,
    });
  }
  // Hex: a token that began with a dash would be an option to the next command.
  const token = randomBytes(32).toString('hex');
  const createdAt = parts.clock.now();
  const expiresAt = createdAt + ttlMs;
  const added = await parts.store.addToken({ hash: hashToken(token), id: id.uri, createdAt, expiresAt });
  if (added.outcome === 'denied') throw deniedError(id.uri);
  parts.onEvent?.({ code: 'token_created', id: id.uri, expiresAt: formatTime(expiresAt) });
  return { token, id: id.uri, expiresAt };
}

function listedOf(one: StoredCertificate): ListedCertificate {
  const { serial, id, issuedAt, notBefore, notAfter, evidence, revoked } = one;
  return {
    serial,
    id,
    issuedAt,
    notBefore,
    notAfter,
    evidence: evidence.kind,
    ...(evidence.kind === 'svid' ? { renews: evidence.reference } : {}),
    ...(revoked === undefined ? {} : { revoked }),
  };
}

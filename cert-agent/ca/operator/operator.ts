// The operator's actions: tokens, listing, revocation. A running CA performs them for clients of its unix socket
// (socket.ts). While the CA is stopped, the command performs them on the store itself.

import { randomBytes } from 'node:crypto';
import { hashToken } from '../../attestation/join-token.ts';
import type { Clock } from '../../base/clock.ts';
import { formatDuration, formatTime } from '../../base/clock.ts';
import { didYouMean } from '../../base/did-you-mean.ts';
import { SallyportError } from '../../base/errors.ts';
import { parseSpiffeId } from '../../identity/spiffe-id.ts';
import { type Acknowledged, shown, whenAcknowledged } from '../acknowledged.ts';
import type { Agents, ConnectedAgent } from '../agents.ts';
import { parseDnsNames } from '../dns/name.ts';
import { deniedError } from '../evidence.ts';
import { checkIssuable } from '../issue.ts';
import { nameOfToken } from '../ledger/record.ts';
import {
  type Allowance,
  nearestId,
  parseSerial,
  type Revocation,
  type Revocations,
  type RevokeOptions,
  serialNotFound,
} from '../revocation/revoke.ts';
import type { RotationRequest, RotationStatus, Rotations } from '../rotation/rotation.ts';
import type { Denial, Store, StoredCertificate, StoredToken } from '../store/store.ts';
import { createDnsOperator, type DnsOperator, notAllowedError } from './dns.ts';
import { mostCertificates } from './identities.ts';
import type { Records } from './records.ts';

/** The only time that the token itself is seen. */
export interface NewToken {
  /** Shown once; the CA keeps only its hash. */
  readonly token: string;
  readonly id: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** DNS names for its certificates; absent without one. */
  readonly names?: readonly string[];
}

/** A certificate in a list; times are milliseconds since 1970. */
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
  /** Its DNS names and, of the CA's own, IP addresses; absent without one. */
  readonly names?: readonly string[];
  readonly revoked?: { readonly at: number; readonly reason: string };
}

/** A certificate with its leaf, for `ca show`. */
export interface ShownCertificate extends ListedCertificate {
  /** The leaf, base64 DER. */
  readonly certificate: string;
}

/** Without any: all certificates that have not expired. */
export interface ListFilter {
  /** Include expired ones. */
  readonly all?: boolean;
  /** Only those that expire within this time, in milliseconds. */
  readonly expiringMs?: number;
  /** The last one of the page before. */
  readonly after?: { readonly notAfter: number; readonly serial: string };
}

/** A join token in a list, without the token itself; times are milliseconds since 1970. */
export interface ListedToken {
  /** The first 12 digits of its SHA-256: enough to identify it, and useless to an attacker. */
  readonly token: string;
  readonly id: string;
  readonly createdAt: number;
  readonly expiresAt: number;
  readonly names?: readonly string[];
  /** The serial of its certificate, once it was used. */
  readonly serial?: string;
}

/** Which tokens to remove: one, by the first digits of its listed name, or all of an ID. */
export type TokenChoice = { readonly token: string } | { readonly id: string };

/** What an operator can do. The socket's client implements it too: every value must survive JSON. */
export interface Operator {
  /**
   * `dns` are names for its certificates. @throws SallyportError `ttl_out_of_range`, `spiffe_id_invalid`, `id_foreign`,
   * `id_reserved`, `id_denied`, `dns_name_invalid` or `dns_name_not_allowed`.
   */
  createToken(id: string, ttlMs: number, dns?: readonly string[]): Promise<NewToken>;
  /** The recorded tokens, ordered by expiry. */
  listTokens(): Promise<readonly ListedToken[]>;
  /**
   * Removes tokens, so that they can no longer be used; their certificates stay valid. Returns the removed tokens.
   * @throws SallyportError `not_found`, or `usage` when the digits match none or several.
   */
  removeTokens(choice: TokenChoice): Promise<readonly ListedToken[]>;
  /** A page in the order of expiry, `mostCertificates` at most; identities.ts has all pages. */
  list(filter: ListFilter): Promise<readonly ListedCertificate[]>;
  /** @throws SallyportError `not_found` or `usage`. */
  show(serial: string): Promise<ShownCertificate>;
  /**
   * `target` is a serial or a SPIFFE ID. With `waitMs`, waits up to this time until the connected agents have
   * acknowledged it.
   */
  revoke(
    target: string,
    reason: string,
    options?: RevokeOptions & { readonly waitMs?: number },
  ): Promise<Revocation & { readonly acknowledged?: Acknowledged }>;
  /** Takes an ID off the deny list; certificates from before stay denied. @throws SallyportError as `revoke` does. */
  allow(id: string): Promise<Allowance>;
  /** The current deny list. */
  listDenials(): Promise<readonly Denial[]>;
  /** The agents that hold a stream. @throws SallyportError `ca_unreachable` for a stopped CA: it knows of none. */
  agents(): Promise<readonly ConnectedAgent[]>;
  /** @throws SallyportError `ca_unreachable` for a stopped CA: it knows of no agent. */
  rotationStatus(): Promise<RotationStatus>;
  /** @throws SallyportError `rotation_refused`, `root_key_missing`, and `ca_unreachable` for a stopped CA. */
  rotate(request: RotationRequest): Promise<RotationStatus>;
  /** Which DNS names certificates may have. */
  readonly dns: DnsOperator;
  /** The ledger and the identities, in pages. */
  readonly records: Records;
}

/** What the actions use. The caller owns and closes all of it. */
export interface OperatorParts {
  readonly store: Store;
  readonly revocations: Revocations;
  readonly records: Records;
  readonly trustDomain: string;
  readonly clock: Clock;
  /** The agents of a running CA; undefined for a stopped one. */
  readonly agents?: Agents;
  /** Undefined for a stopped CA. */
  readonly rotations?: Rotations;
  /**
   * Signs the end of the ledger, so that agents remember it: a restore that would forget a denial is then refused.
   * Undefined for a stopped CA, which signs when it starts.
   */
  readonly seal?: () => Promise<void>;
  /** Called for each action, for log and metrics. Never receives a token. */
  readonly onEvent?: (event: OperatorEvent) => void;
}

/** A change that was made; `code` is the log's. `token` is the first digits of its hash. */
export type OperatorEvent =
  | {
      readonly code: 'token_created';
      readonly id: string;
      readonly expiresAt: string;
      readonly names?: readonly string[];
    }
  | { readonly code: 'token_removed'; readonly id: string; readonly token: string }
  | {
      readonly code: 'revoked';
      readonly target: string;
      readonly reason: string;
      readonly certificates: number;
      readonly renewals: number;
    }
  | { readonly code: 'allowed'; readonly id: string }
  | { readonly code: 'dns_allowed' | 'dns_disallowed'; readonly pattern: string };

const shortestTokenLifeMs = 10_000;
const longestTokenLifeMs = 7 * 86_400_000;

/** Of a running CA, or of a stopped one on its store. */
export function createOperator(parts: OperatorParts): Operator {
  const { store, revocations, clock } = parts;
  return {
    createToken: (id, ttlMs, dns = []) => createToken(parts, id, ttlMs, dns),
    listTokens: async () => (await store.listTokens()).map(listedTokenOf),
    removeTokens: (choice) => removeTokens(parts, choice),
    async list({ all, expiringMs, after }) {
      const now = clock.now();
      const found = await store.listCertificates({
        ...(all === true ? {} : { endsAfter: now }),
        ...(expiringMs === undefined ? {} : { endsBy: now + expiringMs }),
        ...(after === undefined ? {} : { after }),
        count: mostCertificates,
      });
      return found.map(listedOf);
    },
    async show(text) {
      const serial = parseSerial(text);
      const found = await store.findCertificate(serial);
      if (found === undefined) throw await serialNotFound(store, text, serial);
      return { ...listedOf(found), certificate: Buffer.from(found.certificate).toString('base64') };
    },
    async revoke(target, reason, { waitMs = 0, ...options } = {}) {
      const began = clock.monotonic();
      const done = await revocations.revoke(target, reason, options);
      const { certificates, renewals } = done;
      parts.onEvent?.({ code: 'revoked', target: done.target, reason, certificates, renewals });
      await parts.seal?.();
      if (parts.agents === undefined || waitMs === 0) return done;
      const denied = revocations.denied.current();
      const acknowledged = await whenAcknowledged(
        { agents: parts.agents, store, denied, clock },
        (use) => use.denied >= denied.sequence,
        waitMs,
        began,
      );
      return { ...done, acknowledged: shown(acknowledged) };
    },
    async allow(text) {
      const done = await revocations.allow(text);
      if (done.changed) {
        parts.onEvent?.({ code: 'allowed', id: done.id });
        await parts.seal?.();
      }
      return done;
    },
    listDenials: () => store.listDenials(),
    agents: async () => running(parts.agents).connected(),
    rotationStatus: async () => running(parts.rotations).status(),
    rotate: async (request) => running(parts.rotations).step(request),
    dns: createDnsOperator(store, clock, ({ pattern, allowed }) =>
      parts.onEvent?.({ code: allowed ? 'dns_allowed' : 'dns_disallowed', pattern }),
    ),
    records: parts.records,
  };
}

function running<T>(part: T | undefined): T {
  if (part !== undefined) return part;
  throw new SallyportError('ca_unreachable', 'no CA runs on this directory, so that no agent is connected', {
    hint: 'start it with sallyport ca serve',
  });
}

async function createToken(
  parts: OperatorParts,
  text: string,
  ttlMs: number,
  dns: readonly string[],
): Promise<NewToken> {
  const id = parseSpiffeId(text);
  const names = parseDnsNames(dns);
  checkIssuable(id, parts.trustDomain);
  if (ttlMs < shortestTokenLifeMs || ttlMs > longestTokenLifeMs) {
    throw new SallyportError('ttl_out_of_range', `a join token cannot live for ${formatDuration(ttlMs)}`, {
      hint: `choose between ${formatDuration(shortestTokenLifeMs)} and ${formatDuration(longestTokenLifeMs)}`,
    });
  }
  // Hex: a token with a leading dash would look like an option to the next command.
  const token = randomBytes(32).toString('hex');
  const createdAt = parts.clock.now();
  const expiresAt = createdAt + ttlMs;
  const named = names.length === 0 ? {} : { names };
  const record = { hash: hashToken(token), id: id.uri, createdAt, expiresAt, ...named };
  const added = await parts.store.addToken(record, 'operator');
  if (added.outcome === 'denied') throw deniedError(id.uri);
  if (added.outcome === 'not_allowed') throw notAllowedError(added.names);
  parts.onEvent?.({ code: 'token_created', id: id.uri, expiresAt: formatTime(expiresAt), ...named });
  return { token, id: id.uri, expiresAt, ...named };
}

async function removeTokens(parts: OperatorParts, choice: TokenChoice): Promise<readonly ListedToken[]> {
  const all = await parts.store.listTokens();
  const chosen = 'id' in choice ? tokensOfId(all, choice.id) : [tokenNamed(all, choice.token)];
  const removed: ListedToken[] = [];
  for (const one of chosen) {
    // Another operator removed it meanwhile.
    if (!(await parts.store.removeToken(one.hash, parts.clock.now(), 'operator'))) continue;
    const listed = listedTokenOf(one);
    parts.onEvent?.({ code: 'token_removed', id: listed.id, token: listed.token });
    removed.push(listed);
  }
  return removed;
}

function tokensOfId(all: readonly StoredToken[], text: string): readonly StoredToken[] {
  const id = parseSpiffeId(text).uri;
  const found = all.filter((one) => one.id === id);
  if (found.length > 0) return found;
  const ids = new Set(all.map((one) => one.id));
  throw tokenNotFound(`no join token of ${id} is on record`, nearestId(id, ids));
}

function tokenNamed(all: readonly StoredToken[], text: string): StoredToken {
  const name = text.toLowerCase();
  if (!/^[0-9a-f]{4,64}$/.test(name)) {
    throw new SallyportError('usage', `'${text.slice(0, 80)}' is not the name of a join token`, {
      hint: 'give at least four of the digits that sallyport ca token ls shows, or --spiffe-id',
    });
  }
  // Operators may also give the token itself. Its hash is on record.
  const found = all.filter((one) => one.hash.startsWith(name) || one.hash === hashToken(name));
  const [first] = found;
  if (first === undefined) {
    const names = all.map((one) => nameOfToken(one.hash));
    const nearest = didYouMean(nameOfToken(name), names);
    // The text may be a token of another CA, so it is not repeated in full.
    throw new SallyportError('not_found', `no join token ${nameOfToken(name)} is on record`, {
      hint: nearest === undefined ? tokenHint : `${nearest} ${tokenHint}`,
    });
  }
  if (found.length === 1) return first;
  throw new SallyportError('usage', `${found.length} join tokens begin with ${name}`, { hint: 'give more digits' });
}

const tokenHint = 'sallyport ca token ls lists them';

function tokenNotFound(message: string, nearest: string | undefined): SallyportError {
  const hint = nearest === undefined ? tokenHint : `did you mean '${nearest}'? ${tokenHint}`;
  return new SallyportError('not_found', message, { hint });
}

function listedTokenOf({ hash, id, createdAt, expiresAt, names, bound }: StoredToken): ListedToken {
  const used = bound === undefined ? {} : { serial: bound.serial };
  return { token: nameOfToken(hash), id, createdAt, expiresAt, ...(names === undefined ? {} : { names }), ...used };
}

function listedOf(one: StoredCertificate): ListedCertificate {
  const { serial, id, issuedAt, notBefore, notAfter, evidence, names, revoked } = one;
  return {
    serial,
    id,
    issuedAt,
    notBefore,
    notAfter,
    evidence: evidence.kind,
    ...(evidence.kind === 'svid' ? { renews: evidence.reference } : {}),
    ...(names === undefined ? {} : { names }),
    ...(revoked === undefined ? {} : { revoked }),
  };
}

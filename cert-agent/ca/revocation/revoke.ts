// Revocation: the deny list as a Live value, and the only functions that change it. The store is authoritative; the
// list is read from it again after every change.

import type { Clock } from '../../base/clock.ts';
import { didYouMean, nearestTo } from '../../base/did-you-mean.ts';
import { SallyportError } from '../../base/errors.ts';
import { type Live, LiveCell } from '../../base/live.ts';
import { type DenyList, normalizeSerial } from '../../identity/denied.ts';
import { parseSpiffeId } from '../../identity/spiffe-id.ts';
import { checkIssuable } from '../issue.ts';
import type { NameStore, Store } from '../store/store.ts';

/** What an operator revoked, and how many certificates that added to the deny list. */
export interface Revocation {
  readonly kind: 'serial' | 'id';
  readonly target: string;
  readonly certificates: number;
  /** With a serial: how many of them were renewed from that certificate, directly or indirectly. */
  readonly renewals: number;
  /** True if all of them had expired: they cannot renew any more. */
  readonly expired?: boolean;
}

/** The result of allowing an ID. */
export interface Allowance {
  readonly id: string;
  /** False if it was not on the list. */
  readonly changed: boolean;
  /** In that case, the most similar ID on the list, if there is one. */
  readonly nearest?: string;
}

/** By default an ID that the CA has never seen is refused, since it is probably misspelt. */
export interface RevokeOptions {
  /** Also denies an ID that has no certificate or token yet. */
  readonly force?: boolean;
}

/** The deny list and its changes. `denied` has a change before its promise resolves. */
export interface Revocations {
  readonly denied: Live<DenyList>;
  /**
   * Revokes a SPIFFE ID, or a certificate by its serial with all that were renewed from it.
   * @throws SallyportError `not_found` for an unknown target, `id_foreign`, `id_reserved`, `usage`.
   */
  revoke(target: string, reason: string, options?: RevokeOptions): Promise<Revocation>;
  /** Removes an ID from the list. Its earlier certificates stay denied. @throws SallyportError as revoke does. */
  allow(id: string): Promise<Allowance>;
  /** Removes expired entries. Call it periodically. */
  prune(): Promise<void>;
}

/** `trustDomain` is the CA's own: IDs of others are refused. */
export interface RevocationParts {
  readonly store: Store;
  readonly trustDomain: string;
  readonly clock: Clock;
}

const longestReason = 200;

/** Reads the list from the store. */
export async function createRevocations(parts: RevocationParts): Promise<Revocations> {
  const { store, clock, trustDomain } = parts;
  const live = new LiveCell<DenyList>(await store.denyList());

  async function refresh(): Promise<void> {
    const list = await store.denyList();
    // After two concurrent changes, the newer reading may arrive first; the sequence decides.
    if (list.sequence > live.current().sequence) live.set(list);
  }

  return {
    denied: live,
    async revoke(target, reason, { force = false } = {}) {
      checkReason(reason);
      const now = clock.now();
      const revocation = /^spiffe:/i.test(target)
        ? await revokeId(parts, target, reason, { now, force })
        : await revokeSerial(parts, target, reason, now);
      await refresh();
      return revocation;
    },
    async allow(text) {
      const id = parseSpiffeId(text);
      checkIssuable(id, trustDomain);
      const changed = await store.allowId(id.uri, clock.now(), 'operator');
      await refresh();
      if (changed) return { id: id.uri, changed };
      const nearest = nearestId(id.uri, live.current().ids);
      if (!(await store.isKnownId(id.uri)))
        throw idNotFound(id.uri, nearest, 'has never had a certificate and is not denied');
      return { id: id.uri, changed, ...(nearest === undefined ? {} : { nearest }) };
    },
    async prune() {
      if (await store.prune(clock.now())) await refresh();
    },
  };
}

async function revokeId(
  { store, trustDomain }: RevocationParts,
  text: string,
  reason: string,
  { now, force }: { now: number; force: boolean },
): Promise<Revocation> {
  const id = parseSpiffeId(text);
  // The CA's own ID on the list would make every agent refuse the CA, so that it could not be undone.
  checkIssuable(id, trustDomain);
  // A typing error would deny an identity that does not exist, and not the intended one.
  if (!force && !(await store.isKnownId(id.uri))) {
    const nearest = nearestId(id.uri, await store.listIds());
    throw idNotFound(id.uri, nearest, 'has never had a certificate or a token', '--force denies it anyway');
  }
  const { certificates, renewals } = await store.denyId(id.uri, reason, now, 'operator');
  return { kind: 'id', target: id.uri, certificates, renewals };
}

async function revokeSerial(parts: RevocationParts, text: string, reason: string, now: number): Promise<Revocation> {
  const serial = parseSerial(text);
  const found = await parts.store.findCertificate(serial);
  if (found !== undefined) checkIssuable(parseSpiffeId(found.id), parts.trustDomain);
  const { outcome, certificates, renewals } = await parts.store.denySerial(serial, reason, now, 'operator');
  const done = { kind: 'serial', target: serial, certificates, renewals } as const;
  if (outcome === 'denied') return done;
  if (outcome === 'marked') return { ...done, expired: true };
  if (outcome === 'unknown') throw await serialNotFound(parts.store, text, serial);
  throw new SallyportError('not_found', `certificate ${text} has already expired, like all that were renewed from it`, {
    hint: listHint,
  });
}

/** The recorded form of a serial in any spelling (`4A:3F:...`, upper case). @throws SallyportError `usage`. */
export function parseSerial(text: string): string {
  const serial = normalizeSerial(text);
  if (serial !== undefined && serial.length <= 40) return serial;
  throw new SallyportError('usage', `'${text}' is neither a serial number (hex) nor a SPIFFE ID`, {
    hint: 'sallyport ca ls lists both',
  });
}

const listHint = 'sallyport ca ls --all lists all certificates';

/** The error for an unknown serial; `text` is the operator's spelling. */
export async function serialNotFound(names: NameStore, text: string, serial: string): Promise<SallyportError> {
  const similar = await names.similarSerials(serial);
  // Usually it was copied in part. If only one serial begins with it, that one was meant.
  const begun = serial.length >= 6 ? similar.filter((one) => one.startsWith(serial)) : [];
  const guess = begun.length === 1 ? `did you mean '${begun[0]}'?` : didYouMean(serial, similar);
  return new SallyportError('not_found', `no certificate ${text} is on record`, { hint: withHint(guess, listHint) });
}

function idNotFound(id: string, nearest: string | undefined, why: string, hint = listHint): SallyportError {
  const guess = nearest === undefined ? undefined : `did you mean '${nearest}'?`;
  return new SallyportError('not_found', `${id} ${why}`, { hint: withHint(guess, hint) });
}

/** The nearest by its path: the common prefix of all IDs of a trust domain must not count as similarity. */
export function nearestId(id: string, known: Iterable<string>): string | undefined {
  const start = id.slice(0, id.indexOf('/', 'spiffe://'.length));
  const others = [...known]
    .filter((one) => one !== id && one.startsWith(`${start}/`))
    .map((one) => one.slice(start.length));
  const nearest = nearestTo(id.slice(start.length), others);
  return nearest === undefined ? undefined : `${start}${nearest}`;
}

function withHint(guess: string | undefined, hint: string): string {
  return guess === undefined ? hint : `${guess} ${hint}`;
}

function checkReason(reason: string): void {
  if (reason.length <= longestReason) return;
  throw new SallyportError('usage', `the reason is longer than ${longestReason} characters`);
}

// Taking back what was issued: the deny-list as a Live value, and the only ways to change it. What the list says is
// what the store says; it is read again after every change.

import type { Clock } from '../../base/clock.ts';
import { didYouMean, nearestTo } from '../../base/did-you-mean.ts';
import { SallyportError } from '../../base/errors.ts';
import { type Live, LiveCell } from '../../base/live.ts';
import { type DenyList, normalizeSerial } from '../../identity/denied.ts';
import { parseSpiffeId } from '../../identity/spiffe-id.ts';
import { checkIssuable } from '../issue.ts';
import type { NameStore, Store } from '../store/store.ts';

/** What an operator asked to be denied, and how many certificates that put on the list. */
export interface Revocation {
  readonly kind: 'serial' | 'id';
  readonly target: string;
  readonly certificates: number;
  /** With a serial: how many of them were renewed from that certificate, directly or not. */
  readonly renewals: number;
}

/** What became of allowing an ID. */
export interface Allowance {
  readonly id: string;
  /** False when it was not on the list. */
  readonly changed: boolean;
  /** Then: the ID on the list that comes nearest, if one does. */
  readonly nearest?: string;
}

export interface RevokeOptions {
  /** Denies an ID that was never issued and has no token, too: it is yet to come. */
  readonly force?: boolean;
}

export interface Revocations {
  readonly denied: Live<DenyList>;
  /**
   * Denies a SPIFFE ID, or a certificate by its serial and all that were renewed from it.
   * @throws SallyportError `not_found` for what was never issued, `id_foreign`, `id_reserved`, `usage`.
   */
  revoke(target: string, reason: string, options?: RevokeOptions): Promise<Revocation>;
  /** Takes an ID off the list. Its earlier certificates stay denied. @throws SallyportError as revoke does. */
  allow(id: string): Promise<Allowance>;
  /** Drops what has expired. Call it every now and then. */
  prune(): Promise<void>;
}

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
    // Of two changes at once the later reading may come first; the sequence tells.
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
      const changed = await store.allowId(id.uri, clock.now());
      await refresh();
      if (changed) return { id: id.uri, changed };
      const nearest = nearestId(id.uri, live.current().ids);
      if (!(await store.isKnownId(id.uri))) throw idNotFound(id.uri, nearest, 'was never issued and is not denied');
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
  // The CA's own ID on the list would make every agent refuse the CA, and with it the way to take it back.
  checkIssuable(id, trustDomain);
  // A typing error would deny an identity that does not exist, and leave the one that was meant as it is.
  if (!force && !(await store.isKnownId(id.uri))) {
    const nearest = nearestId(id.uri, await store.listIds());
    throw idNotFound(id.uri, nearest, 'was never issued a certificate or a token', '--force denies it all the same');
  }
  const { certificates, renewals } = await store.denyId(id.uri, reason, now);
  return { kind: 'id', target: id.uri, certificates, renewals };
}

async function revokeSerial(parts: RevocationParts, text: string, reason: string, now: number): Promise<Revocation> {
  const serial = parseSerial(text);
  const found = await parts.store.findCertificate(serial);
  if (found !== undefined) checkIssuable(parseSpiffeId(found.id), parts.trustDomain);
  const { outcome, certificates, renewals } = await parts.store.denySerial(serial, reason, now);
  if (outcome === 'denied') return { kind: 'serial', target: serial, certificates, renewals };
  if (outcome === 'unknown') throw await serialNotFound(parts.store, text, serial);
  throw new SallyportError(
    'not_found',
    `certificate ${text} has expired already, and so has all that was renewed from it`,
    {
      hint: listHint,
    },
  );
}

/** A serial as people paste it (`4A:3F:...`, upper case) in the form that is on record. @throws SallyportError `usage`. */
export function parseSerial(text: string): string {
  const serial = normalizeSerial(text);
  if (serial !== undefined && serial.length <= 40) return serial;
  throw new SallyportError('usage', `'${text}' is neither a serial number (hex) nor a SPIFFE ID`, {
    hint: 'sallyport ca ls lists both',
  });
}

const listHint = 'sallyport ca ls --all lists what was issued';

/** The error of a serial that is not on record, `text` as it was asked for. */
export async function serialNotFound(names: NameStore, text: string, serial: string): Promise<SallyportError> {
  const similar = await names.similarSerials(serial);
  // Copied in part, most often: its beginning says which one was meant, if there is one only.
  const begun = serial.length >= 6 ? similar.filter((one) => one.startsWith(serial)) : [];
  const guess = begun.length === 1 ? `did you mean '${begun[0]}'?` : didYouMean(serial, similar);
  return new SallyportError('not_found', `no certificate ${text} is on record`, { hint: withHint(guess, listHint) });
}

function idNotFound(id: string, nearest: string | undefined, why: string, hint = listHint): SallyportError {
  const guess = nearest === undefined ? undefined : `did you mean '${nearest}'?`;
  return new SallyportError('not_found', `${id} ${why}`, { hint: withHint(guess, hint) });
}

/** The nearest by its path: what all IDs of a trust domain begin with makes none of them alike. */
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

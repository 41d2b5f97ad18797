// Taking back what was issued: the deny-list as a Live value, and the only ways to change it. What the list says is
// what the store says; it is read again after every change.

import type { Clock } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import { type DenyList, normalizeSerial } from '../identity/denied.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import { checkIssuable } from './issue.ts';
import type { Denied, Store } from './store.ts';

/** What an operator asked to be denied, and how many certificates that put on the list. */
export interface Revocation {
  readonly kind: 'serial' | 'id';
  readonly target: string;
  readonly certificates: number;
}

export interface Revocations {
  readonly denied: Live<DenyList>;
  /** Denies a serial or a SPIFFE ID. @throws SallyportError `not_found`, `id_foreign`, `id_reserved`, `usage`. */
  revoke(target: string, reason: string): Promise<Revocation>;
  /** Takes an ID off the list; false when it was not on it. Its earlier certificates stay denied. */
  allow(id: string): Promise<boolean>;
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
    async revoke(target, reason) {
      checkReason(reason);
      const now = clock.now();
      const revocation = /^spiffe:/i.test(target)
        ? await revokeId(parts, target, reason, now)
        : await revokeSerial(parts, target, reason, now);
      await refresh();
      return revocation;
    },
    async allow(text) {
      const id = parseSpiffeId(text);
      checkIssuable(id, trustDomain);
      const changed = await store.allowId(id.uri, clock.now());
      await refresh();
      return changed;
    },
    async prune() {
      if (await store.prune(clock.now())) await refresh();
    },
  };
}

async function revokeId(parts: RevocationParts, text: string, reason: string, now: number): Promise<Revocation> {
  const id = parseSpiffeId(text);
  // The CA's own ID on the list would make every agent refuse the CA, and with it the way to take it back.
  checkIssuable(id, parts.trustDomain);
  const { certificates } = await parts.store.denyId(id.uri, reason, now);
  return { kind: 'id', target: id.uri, certificates };
}

async function revokeSerial(parts: RevocationParts, text: string, reason: string, now: number): Promise<Revocation> {
  const serial = parseSerial(text);
  const found = await parts.store.findCertificate(serial);
  if (found !== undefined) checkIssuable(parseSpiffeId(found.id), parts.trustDomain);
  const { outcome, certificates } = await parts.store.denySerial(serial, reason, now);
  if (outcome === 'denied') return { kind: 'serial', target: serial, certificates };
  throw certificateNotFound(text, outcome);
}

/** A serial as people paste it (`4A:3F:...`, upper case) in the form that is on record. @throws SallyportError `usage`. */
export function parseSerial(text: string): string {
  const serial = normalizeSerial(text);
  if (serial !== undefined && serial.length <= 40) return serial;
  throw new SallyportError('usage', `'${text}' is neither a serial number (hex) nor a SPIFFE ID`, {
    hint: 'sallyport ca ls lists both',
  });
}

export function certificateNotFound(serial: string, why: Exclude<Denied['outcome'], 'denied'>): SallyportError {
  const message =
    why === 'expired' ? `certificate ${serial} has expired already` : `no certificate ${serial} is on record`;
  return new SallyportError('not_found', message, { hint: 'sallyport ca ls --all lists what was issued' });
}

function checkReason(reason: string): void {
  if (reason.length <= longestReason) return;
  throw new SallyportError('usage', `the reason is longer than ${longestReason} characters`);
}

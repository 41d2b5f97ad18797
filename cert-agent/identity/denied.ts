// The deny list: serials and SPIFFE IDs that are refused although their certificates are still valid. The CA sends it
// with the bundle, agents write it as denied.json, and sidecars check it on every request.

import { formatTime } from '../base/clock.ts';
import { reasonOf, SallyportError } from '../base/errors.ts';

/** Complete: what is not in it is not denied. A reader replaces the whole list. */
export interface DenyList {
  /** Grows with every change of the list, so that an older response never undoes a newer one. */
  readonly sequence: number;
  /** When the CA created it, milliseconds since 1970. */
  readonly time: number;
  /** Serials in the form of `normalizeSerial`. */
  readonly serials: ReadonlySet<string>;
  readonly ids: ReadonlySet<string>;
}

export const emptyDenyList: DenyList = Object.freeze({
  sequence: 0,
  time: 0,
  serials: new Set<string>(),
  ids: new Set<string>(),
});

/** True if this serial number, in any spelling, is on the list. */
export function isSerialDenied({ serials }: DenyList, serial: string): boolean {
  if (serials.size === 0) return false;
  const normal = normalizeSerial(serial);
  // Fails closed: a serial that cannot be parsed counts as denied.
  return normal === undefined || serials.has(normal);
}

/** Which entry denies an SVID, its serial or its ID; undefined if none does. */
export function deniedBy(
  list: DenyList,
  { serial, id }: { readonly serial: string; readonly id: { readonly uri: string } },
): 'serial' | 'id' | undefined {
  if (list.ids.has(id.uri)) return 'id';
  return isSerialDenied(list, serial) ? 'serial' : undefined;
}

/** The list as JSON: `{ sequence, time, serials, ids }`. */
export function formatDenyList(list: DenyList): object {
  return { sequence: list.sequence, time: formatTime(list.time), serials: [...list.serials], ids: [...list.ids] };
}

/** Parses the JSON form, as text or as a value. Fails closed. @throws SallyportError `bundle_invalid`. */
export function parseDenyList(input: unknown, source: string): DenyList {
  let value = input;
  try {
    if (typeof input === 'string') value = JSON.parse(input);
  } catch (error) {
    throw invalid(source, reasonOf(error));
  }
  if (typeof value !== 'object' || value === null) throw invalid(source, 'expected an object');
  const { sequence, time, serials, ids } = value as Record<string, unknown>;
  const at = typeof time === 'string' ? Date.parse(time) : Number.NaN;
  if (typeof sequence !== 'number' || !Number.isSafeInteger(sequence) || sequence < 0)
    throw invalid(source, "'sequence' is not a whole number");
  if (Number.isNaN(at)) throw invalid(source, "'time' is not a time");
  if (!isStrings(serials) || !isStrings(ids)) throw invalid(source, "'serials' and 'ids' must be lists of strings");
  return Object.freeze({
    sequence,
    time: at,
    serials: new Set(serials.map((one) => readSerial(one, source))),
    ids: new Set(ids.map(normalizeId)),
  });
}

/**
 * The canonical spelling of a serial number: lower-case hex of whole bytes, without leading zero bytes, colons or `0x`.
 * Accepts the spellings of OpenSSL, browsers and the CA. Undefined for anything else.
 */
export function normalizeSerial(text: string): string | undefined {
  const digits = text.trim().replace(/^0x/i, '').replaceAll(/[:\s]/g, '').toLowerCase();
  if (!/^[0-9a-f]{1,64}$/.test(digits)) return undefined;
  const bare = digits.replace(/^0+(?=.)/, '');
  return bare.length % 2 === 0 ? bare : `0${bare}`;
}

function readSerial(text: string, source: string): string {
  const serial = normalizeSerial(text);
  if (serial === undefined) throw invalid(source, `'${text.slice(0, 80)}' is not a serial number`);
  return serial;
}

/** Scheme and trust domain are case-insensitive (SPIFFE-ID section 2), so an ID is denied in every spelling. */
function normalizeId(text: string): string {
  return text.trim().replace(/^spiffe:\/\/[^/]*/i, (start) => start.toLowerCase());
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string');
}

function invalid(source: string, why: string): SallyportError {
  return new SallyportError('bundle_invalid', `${source} is not a deny list: ${why}`);
}

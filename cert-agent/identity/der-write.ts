// Writes DER (X.690), the counterpart of der.ts: for CRLs and OCSP responses, which are signed over their own bytes.

import { derTag } from './der.ts';

/** Tags beside those of `derTag`. */
export const writeTag = Object.freeze({ null: 0x05, enumerated: 0x0a, utcTime: 0x17, generalizedTime: 0x18 });

/** One element with `tag`; the content is the concatenation of `parts`. */
export function element(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([headOf(tag, length), ...parts]);
}

/** Tag and length of an element, X.690 section 8.1. */
export function headOf(tag: number, length: number): Buffer {
  if (length < 0x80) return Buffer.from([tag, length]);
  const bytes: number[] = [];
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256);
  return Buffer.from([tag, 0x80 | bytes.length, ...bytes]);
}

/** A SEQUENCE of encoded elements. */
export function sequence(...parts: readonly Uint8Array[]): Buffer {
  return element(derTag.sequence, ...parts);
}

/** An object identifier in dotted form. */
export function oid(text: string): Buffer {
  const [first = 0, second = 0, ...rest] = text.split('.').map(Number);
  const bytes = [first * 40 + second, ...rest].flatMap((arc) => {
    const groups = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift((left % 128) | 0x80);
    return groups;
  });
  return element(derTag.oid, Buffer.from(bytes));
}

/** A positive INTEGER of these bytes, most significant first: no zeros in front, except where the top bit is set. */
export function integer(bytes: Uint8Array): Buffer {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from++;
  const bare = bytes.subarray(from);
  const isHigh = ((bare[0] ?? 0) & 0x80) !== 0;
  return element(
    derTag.integer,
    isHigh ? Buffer.from([0]) : Buffer.alloc(0),
    bare.length === 0 ? Buffer.from([0]) : bare,
  );
}

/** A non-negative safe integer. */
export function wholeNumber(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return integer(bytes);
}

/** RFC 5280 section 4.1.2.5: UTCTime through 2049, then GeneralizedTime. `ms` is in milliseconds since 1970. */
export function time(ms: number): Buffer {
  const text = digitsOf(ms);
  return new Date(ms).getUTCFullYear() < 2050
    ? element(writeTag.utcTime, Buffer.from(text.slice(2)))
    : element(writeTag.generalizedTime, Buffer.from(text));
}

/** A GeneralizedTime of whole seconds (RFC 5280 section 4.1.2.5.2). `ms` is milliseconds since 1970. */
export function generalizedTime(ms: number): Buffer {
  return element(writeTag.generalizedTime, Buffer.from(digitsOf(ms)));
}

/** A BIT STRING of whole bytes. */
export function bitString(bytes: Uint8Array): Buffer {
  return element(derTag.bitString, Buffer.from([0]), bytes);
}

/** An OCTET STRING of the parts in a row. */
export function octets(...parts: readonly Uint8Array[]): Buffer {
  return element(derTag.octetString, ...parts);
}

/** A context-specific, constructed tag. */
export function tagged(number: number, ...parts: readonly Uint8Array[]): Buffer {
  return element(0xa0 | number, ...parts);
}

/** An extension that is not critical. */
export function extension(id: string, value: Uint8Array): Buffer {
  return sequence(oid(id), octets(value));
}

/** `YYYYMMDDHHMMSSZ`. */
function digitsOf(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19).replaceAll(/[-:T]/g, '')}Z`;
}

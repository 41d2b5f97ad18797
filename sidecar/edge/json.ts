// A strict reader of JSON from strangers. It refuses texts that two readers could understand differently: the app must
// not read another value than the one that is validated here.

import { isUtf8 } from 'node:buffer';
import type { Code } from '../../cert-agent/base/errors.ts';

/** Why a text is refused. Each is a code of the error table. */
export type JsonFault = Extract<Code, `json_${string}`>;

/** A value, or why the text is refused. Never thrown. */
export type JsonRead =
  | {
      readonly value: unknown;
      /** Numbers with more digits than a double holds, as they are written: `9007199254740993`. */
      readonly inexact?: readonly string[];
    }
  | { readonly fault: JsonFault };

/** Deeper than any document in use; recursion over the value is bounded by it. */
export const maxDepth = 64;

/**
 * A number with more characters than this is not exact as a double in any notation, and takes parsers of exact decimals
 * quadratic time.
 */
const maxNumberLength = 64;

/** Up to so many keys a list is faster than a set. */
const fewKeys = 8;

/**
 * Reads one JSON text (RFC 8259). Refuses what RFC 7493 forbids: bytes that are not UTF-8, lone surrogates, duplicate
 * keys, numbers that no double holds. Also a depth of more than 64. Linear in the length.
 */
export function readJson(bytes: Buffer): JsonRead {
  if (!isUtf8(bytes)) return { fault: 'json_not_utf8' };
  return readJsonText(bytes.toString('utf8'));
}

/** The same for text, which may be a part of a form or a parameter. */
export function readJsonText(text: string): JsonRead {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { fault: 'json_syntax' };
  }
  const inexact: string[] = [];
  const fault = faultIn(text, inexact);
  if (fault !== undefined) return { fault };
  return inexact.length === 0 ? { value } : { value, inexact };
}

/** What is wrong with a text that is valid JSON. Adds to `inexact`. */
function faultIn(text: string, inexact: string[]): JsonFault | undefined {
  /** For each open object its keys so far; undefined for an array. */
  const open: (Keys | undefined)[] = [];
  let keys: Keys | undefined;
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
      case 0x5b: // [
        keys = text.charCodeAt(at) === 0x7b ? new Keys() : undefined;
        if (open.push(keys) > maxDepth) return 'json_too_deep';
        isKey = keys !== undefined;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        keys = open.at(-1);
        isKey = false;
        break;
      case 0x2c: // ,
        isKey = keys !== undefined;
        break;
      case 0x3a: // :
        isKey = false;
        break;
      case 0x22: {
        // "
        const end = endOfString(text, at);
        const isEscaped = end < 0;
        const next = isEscaped ? -end : end;
        if (isEscaped || isKey) {
          const said = isEscaped ? (JSON.parse(text.slice(at, next + 1)) as string) : text.slice(at + 1, next);
          // UTF-8 holds none; an escape may.
          if (isEscaped && !said.isWellFormed()) return 'json_lone_surrogate';
          if (isKey && keys!.isTwice(said)) return 'json_duplicate_key';
        }
        at = next;
        break;
      }
      case 0x2d: // -
      case 0x30:
      case 0x31:
      case 0x32:
      case 0x33:
      case 0x34:
      case 0x35:
      case 0x36:
      case 0x37:
      case 0x38:
      case 0x39: {
        let end = at + 1;
        while (inNumber(text.charCodeAt(end))) end++;
        // Up to 15 digits, no number is out of range without an exponent.
        if (end - at > 15 || /[eE]/.test(text.slice(at, end))) {
          const number = text.slice(at, end);
          if (!isDouble(number)) return 'json_number_out_of_range';
          if (!isHeld(number)) inexact.push(number);
        }
        at = end - 1;
        break;
      }
    }
  }
  return undefined;
}

/** The index of the closing quote; negative if the string has an escape. */
function endOfString(text: string, from: number): number {
  const quote = text.indexOf('"', from + 1);
  for (let at = from + 1; at < quote; at++) if (text.charCodeAt(at) === 0x5c) return -endOfEscaped(text, at);
  return quote;
}

function endOfEscaped(text: string, from: number): number {
  let at = from;
  for (; text.charCodeAt(at) !== 0x22; at++) if (text.charCodeAt(at) === 0x5c) at++;
  return at;
}

/** Digits, sign, point, exponent. */
function inNumber(code: number): boolean {
  return (
    (code >= 0x30 && code <= 0x39) || code === 0x2e || code === 0x65 || code === 0x45 || code === 0x2b || code === 0x2d
  );
}

/** False for an overflow, and for a number that would become zero: `1e-400`. */
function isDouble(text: string): boolean {
  if (text.length > maxNumberLength) return false;
  const value = Number(text);
  return Number.isFinite(value) && (value !== 0 || !/[1-9]/.test(text.split(/[eE]/, 1)[0]!));
}

/**
 * True if a double holds a number, so that its shortest text is the same decimal. 17 digits with a fraction are how C and
 * PHP print a double.
 */
export function isHeld(text: string): boolean {
  if (/^-?\d+$/.test(text) && BigInt(Number(text)) === BigInt(text)) return true;
  const [digits, exponent] = decimalOf(text);
  if (exponent < 0 && digits.length <= 17) return true;
  const [held, heldExponent] = decimalOf(String(Number(text)));
  return digits === held && exponent === heldExponent;
}

/** Digits without zeros around them, and a power of ten. */
function decimalOf(text: string): [digits: string, exponent: number] {
  const [mantissa = '', exponent = '0'] = text.toLowerCase().split('e');
  const [whole = '', fraction = ''] = mantissa.replace(/^[-+]/, '').split('.');
  const digits = (whole + fraction).replace(/^0+/, '');
  const short = digits.replace(/0+$/, '');
  return short === '' ? ['', 0] : [short, Number(exponent) - fraction.length + digits.length - short.length];
}

/** The keys of one object. */
class Keys {
  readonly #few: string[] = [];
  #many: Set<string> | undefined = undefined;

  /** Adds a key; true if it is there already. */
  isTwice(key: string): boolean {
    if (this.#many !== undefined) {
      if (this.#many.has(key)) return true;
      this.#many.add(key);
      return false;
    }
    if (this.#few.includes(key)) return true;
    if (this.#few.push(key) > fewKeys) this.#many = new Set(this.#few);
    return false;
  }
}

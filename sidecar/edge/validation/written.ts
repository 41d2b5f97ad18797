// Values that are written as text, in the styles of OpenAPI (3.1.0 section 4.8.12.2, after RFC 6570). A text is split
// before it is decoded, so that an encoded comma is part of its value.

import { isHeld, readJsonText } from '../json.ts';
import type { Shape, Written } from './api-plan.ts';
import { remembered } from './exact.ts';

/** A name with its raw text: of a query, a form or cookies. */
export type Pair = readonly [name: string, raw: string];

/** A value that was read, the reason why it cannot be read, or undefined if it is absent. */
export type ReadValue = { readonly value: unknown } | { readonly code: string; readonly detail: string } | undefined;

const repeated = { code: 'repeated', detail: 'must occur exactly once' } as const;
const undecodable = { code: 'encoding', detail: 'must be percent-encoded UTF-8' } as const;
const unreadable = { code: 'style', detail: 'is not written in the style of the parameter' } as const;

const jsonNumber = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

/** A text as the type that its schema requires; a string if none matches: the schema then reports the error. */
export function typed(text: string, { types }: Shape): unknown {
  if ((types.includes('integer') || types.includes('number')) && text.length <= 64 && jsonNumber.test(text)) {
    const value = Number(text);
    if (text.length > 15 && !isHeld(text)) remembered({ value, inexact: [text] });
    if (Number.isFinite(value)) return value;
  }
  if (types.includes('boolean') && (text === 'true' || text === 'false')) return text === 'true';
  if (types.includes('null') && text === 'null') return null;
  return text;
}

export function isList({ types, items }: Shape): boolean {
  return types.includes('array') || (types.length === 0 && items !== undefined);
}

function isObject({ types, properties }: Shape): boolean {
  return types.includes('object') || (types.length === 0 && properties !== undefined);
}

/** True if each property of the value is a pair of its own. */
export function isExploded({ style, explode, shape }: Omit<Written, 'json'>): boolean {
  return explode && style !== 'deepObject' && isObject(shape);
}

/** Percent-decoded; undefined if that is not UTF-8. */
export function decode(raw: string): string | undefined {
  if (!raw.includes('%')) return raw;
  try {
    return decodeURIComponent(raw);
  } catch {
    return undefined;
  }
}

/** Of a query or a form, where a plus is a space. */
export function decodeForm(raw: string): string | undefined {
  return decode(raw.includes('+') ? raw.replaceAll('+', ' ') : raw);
}

/** The pairs of a query or a form; undefined if a name cannot be decoded. */
export function readPairs(text: string): Pair[] | undefined {
  const pairs: Pair[] = [];
  for (const part of text.split('&')) {
    if (part === '') continue;
    const at = part.indexOf('=');
    const name = decodeForm(at === -1 ? part : part.slice(0, at));
    if (name === undefined) return undefined;
    pairs.push([name, at === -1 ? '' : part.slice(at + 1)]);
  }
  return pairs;
}

/** The separators of lists in one pair, by style. A space or a bar may be encoded: no URL holds them as they are. */
const separators: Readonly<Record<string, RegExp | string>> = {
  form: ',',
  spaceDelimited: /%20|\+| /,
  pipeDelimited: /%7[cC]|\|/,
};

/**
 * A value from pairs.
 * @param pairs those of a query, a form or cookies, by name
 */
export function readFromPairs(
  name: string,
  { style, explode, json, shape }: Written,
  pairs: ReadonlyMap<string, readonly string[]>,
  decodeOne: (raw: string) => string | undefined,
): ReadValue {
  const raws = pairs.get(name);
  if (!json && style === 'deepObject') return readDeep(name, shape, pairs, decodeOne);
  if (!json && isExploded({ style, explode, shape })) {
    // Its properties are read under their own names. A pair with its name would be a second notation.
    if (raws !== undefined && !Object.hasOwn(shape.properties ?? {}, name)) return unreadable;
    return readProperties(shape, pairs, decodeOne);
  }
  if (raws === undefined) return undefined;
  if (!json && explode && isList(shape)) return listOf(raws, shape, decodeOne);
  const [raw = '', second] = raws;
  if (second !== undefined) return repeated;
  if (json) {
    const text = decodeOne(raw);
    return text === undefined ? undecodable : asJson(text);
  }
  if (isList(shape)) return raw === '' ? { value: [] } : listOf(raw.split(separators[style] ?? ','), shape, decodeOne);
  if (isObject(shape)) return objectOf(raw.split(separators[style] ?? ','), shape, false, decodeOne);
  return scalarOf(raw, shape, decodeOne);
}

/** A value from one text: a segment of a path, or a header. */
export function readFromText(
  name: string,
  { style, explode, json, shape }: Written,
  raw: string,
  decodeOne = decode,
): ReadValue {
  if (json) {
    const text = decodeOne(raw);
    return text === undefined ? undecodable : asJson(text);
  }
  const items = itemsOf(name, style, explode, raw, shape);
  if (items === undefined) return unreadable;
  if (isList(shape)) return listOf(items, shape, decodeOne);
  if (isObject(shape)) return objectOf(items, shape, explode, decodeOne);
  return scalarOf(items.join(','), shape, decodeOne);
}

/** The parts of a text without the prefix of its style. */
function itemsOf(name: string, style: string, explode: boolean, raw: string, shape: Shape): string[] | undefined {
  if (style === 'simple') return raw.split(',');
  if (style === 'label') return raw.startsWith('.') ? raw.slice(1).split(explode ? '.' : ',') : undefined;
  // `;color=blue,black`, exploded `;color=blue;color=black`, or `;R=100;G=200`.
  if (!raw.startsWith(';')) return undefined;
  const parts = raw.slice(1).split(';');
  if (explode && isObject(shape)) return parts;
  const values = parts.map((part) =>
    part === name ? '' : part.startsWith(`${name}=`) ? part.slice(name.length + 1) : undefined,
  );
  if (values.includes(undefined) || (!explode && values.length !== 1)) return undefined;
  return explode ? (values as string[]) : values[0]!.split(',');
}

function asJson(text: string): ReadValue {
  const read = remembered(readJsonText(text));
  return 'fault' in read ? { code: read.fault, detail: 'must be JSON' } : read;
}

function scalarOf(raw: string, shape: Shape, decodeOne: (raw: string) => string | undefined): ReadValue {
  const text = decodeOne(raw);
  return text === undefined ? undecodable : { value: typed(text, shape) };
}

function listOf(
  raws: readonly string[],
  { items = plain }: Shape,
  decodeOne: (raw: string) => string | undefined,
): ReadValue {
  const value: unknown[] = [];
  for (const raw of raws) {
    const text = decodeOne(raw);
    if (text === undefined) return undecodable;
    value.push(typed(text, items));
  }
  return { value };
}

const plain: Shape = Object.freeze({ types: [] });

/** `R,100,G,200`, or exploded `R=100,G=200`. */
function objectOf(
  items: readonly string[],
  shape: Shape,
  explode: boolean,
  decodeOne: (raw: string) => string | undefined,
): ReadValue {
  const flat = explode
    ? items.flatMap((one) =>
        one.includes('=') ? [one.slice(0, one.indexOf('=')), one.slice(one.indexOf('=') + 1)] : [one],
      )
    : items;
  if (flat.length % 2 !== 0) return unreadable;
  const found = new Map<string, unknown>();
  for (let i = 0; i < flat.length; i += 2) {
    const [key, text] = [decodeOne(flat[i]!), decodeOne(flat[i + 1]!)];
    if (key === undefined || text === undefined) return undecodable;
    if (found.has(key)) return repeated;
    found.set(key, typed(text, shapeIn(shape, key)));
  }
  return { value: Object.fromEntries(found) };
}

function shapeIn({ properties = {} }: Shape, key: string): Shape {
  return Object.hasOwn(properties, key) ? properties[key]! : plain;
}

/** Each property is a pair of its own. Only those that the schema names differ from other parameters. */
function readProperties(
  shape: Shape,
  pairs: ReadonlyMap<string, readonly string[]>,
  decodeOne: (raw: string) => string | undefined,
): ReadValue {
  const found = new Map<string, unknown>();
  for (const [key, own] of Object.entries(shape.properties ?? {})) {
    const read = readFromPairs(key, { style: 'form', explode: isList(own), json: false, shape: own }, pairs, decodeOne);
    if (read === undefined) continue;
    if (!('value' in read)) return read;
    found.set(key, read.value);
  }
  return found.size === 0 ? undefined : { value: Object.fromEntries(found) };
}

/** `color[R]=100&color[G]=200`. Deeper brackets have no meaning in OpenAPI. */
function readDeep(
  name: string,
  shape: Shape,
  pairs: ReadonlyMap<string, readonly string[]>,
  decodeOne: (raw: string) => string | undefined,
): ReadValue {
  const found = new Map<string, unknown>();
  for (const [key, raws] of pairs) {
    if (key === name) return unreadable;
    if (!key.startsWith(`${name}[`)) continue;
    const inside = /^\[([^[\]]+)\]$/.exec(key.slice(name.length))?.[1];
    if (inside === undefined) return unreadable;
    const own = shapeIn(shape, inside);
    if (raws.length > 1 && !isList(own)) return repeated;
    const read = isList(own) ? listOf(raws, own, decodeOne) : scalarOf(raws[0]!, own, decodeOne);
    if (read === undefined || !('value' in read)) return read;
    found.set(inside, read.value);
  }
  return found.size === 0 ? undefined : { value: Object.fromEntries(found) };
}

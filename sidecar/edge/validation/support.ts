// Loads generated programs, and provides their imports. Runs where requests are served, without any schema.

import { compileFunction } from 'node:vm';
import { countCall, spend } from './budget.ts';
import { isExact } from './exact.ts';
import { formats, numberFormats } from './formats.ts';
import { isMultiple } from './multiple.ts';
import { compilePattern } from './pattern.ts';

/** A violation as ajv's programs describe it. */
export interface RawViolation {
  readonly instancePath: string;
  readonly keyword: string;
  readonly message?: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** A generated function: true if the value is valid; otherwise its `errors` are set until the next call. */
export interface Validate {
  (value: unknown): boolean;
  readonly errors?: readonly RawViolation[] | null;
}

const provided: Readonly<Record<string, unknown>> = Object.freeze({
  'sallyport/pattern': compilePattern,
  'sallyport/formats': Object.fromEntries(
    Object.entries({ ...formats, ...numberFormats }).map(([name, validate]) => [
      name,
      { validate: counted(validate as (value: string | number) => boolean) },
    ]),
  ),
  'sallyport/unique': isUnique,
  'sallyport/multiple': isMultiple,
  'sallyport/enum': isOneOf,
  'sallyport/exact': isExact,
  'sallyport/count': countCall,
  'sallyport/spend': spend,
  'sallyport/keys': countedKeys,
  'sallyport/assign': assign,
  'sallyport/joined': joined,
  'sallyport/escape': (name: string) => {
    spend(name.length * stepsToEscape + stepsForPart);
    return escapePart(name);
  },
  'sallyport/own': withoutPrototype,
  'sallyport/copy': (props: unknown) => (typeof props === 'object' ? assign({}, props) : props),
  'ajv/dist/runtime/ucs2length': { default: lengthOf },
  'ajv/dist/runtime/equal': { default: isEqual },
});

/** The names that a program has evaluated, which then inherits none; `true` and undefined as they are. */
export function withoutPrototype(props: unknown): unknown {
  return typeof props === 'object' ? assign(Object.create(null) as object, props) : props;
}

/** A format, which looks at each character. */
function counted(validate: (value: string | number) => boolean): (value: string | number) => boolean {
  return (value) => {
    spend(typeof value === 'string' ? (value.length + 8) * stepsForFormat : 1);
    return validate(value);
  };
}

const stepsForFormat = 8;
/** For a name that is listed: up to 50 ns in large objects. */
const stepsForKey = 32;
/** For a character of a name, which may become two. */
const stepsToEscape = 20;

function countedKeys(object: object): string[] {
  const keys = Object.keys(object);
  spend((keys.length + 1) * stepsForKey);
  return keys;
}

function assign(to: object, from: unknown): object {
  const more = Object(from) as object;
  spend((Object.keys(more).length + 1) * stepsForPart);
  return Object.assign(to, more);
}

/** Appends violations to those found before, in time by the appended ones. */
function joined(before: RawViolation[], more: readonly RawViolation[]): RawViolation[] {
  spend((more.length + 1) * stepsForPart);
  for (const one of more) before.push(one);
  return before;
}

/** A test whether a value is in a list: one step for values that are not objects. */
export function isOneOf(values: readonly unknown[]): (value: unknown) => boolean {
  const isObject = (one: unknown): boolean => typeof one === 'object' && one !== null;
  const objects = values.filter(isObject);
  const others = new Set(values.filter((one) => !isObject(one)));
  return (value) => {
    if (!isObject(value)) {
      spend(typeof value === 'string' ? stepsForPart + (value.length >> 2) : stepsForPart);
      return others.has(value);
    }
    spend(objects.length);
    return objects.some((one) => isEqual(one, value));
  };
}

/** Evaluates a program of `generate`: its functions by name. They are compiled when they are first called. */
export function loadValidators(program: string): Readonly<Record<string, Validate>> {
  const exported: Record<string, Validate> = {};
  const require = (name: string): unknown => {
    if (!Object.hasOwn(provided, name)) throw new TypeError(`a validator requires '${name}'`);
    return provided[name];
  };
  compileFunction(program, ['exports', 'require'], { filename: 'request-validation' })(exported, require);
  return exported;
}

/** The length in code points, as JSON Schema counts (`maxLength`). */
function lengthOf(text: string): number {
  let length = text.length;
  spend(length);
  for (let at = 0; at < text.length - 1; at++)
    if (isHigh(text.charCodeAt(at)) && isLow(text.charCodeAt(at + 1))) length--;
  return length;
}

const isHigh = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff;

/** Equality of JSON values. Ends at the first difference, and counts what it compares. */
function isEqual(a: unknown, b: unknown): boolean {
  spend(stepsForPart);
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((one, index) => isEqual(one, b[index]));
  }
  const keys = keysOf(a);
  if (keys.length !== keysOf(b).length) return false;
  spend(keys.length * stepsForPart);
  return keys.every((key) => Object.hasOwn(b, key) && isEqual(valueAt(a, key), valueAt(b, key)));
}

/** Kept, since an `enum` compares one value with many. */
const knownKeys = new WeakMap<object, readonly string[]>();

function keysOf(object: object): readonly string[] {
  let keys = knownKeys.get(object);
  if (keys !== undefined) return keys;
  keys = Object.keys(object);
  spend(keys.length * stepsForPart);
  knownKeys.set(object, keys);
  return keys;
}

const valueAt = (object: object, key: string): unknown => (object as Readonly<Record<string, unknown>>)[key];

/** For a property or an item that is compared: 20 to 100 ns. */
const stepsForPart = 16;

/** For an item that is looked up and kept: 100 ns. */
const stepsToRemember = 50;

/** True if no two items are equal. Linear in the size of the list. @throws SallyportError `validation_too_costly`. */
export function isUnique(items: readonly unknown[]): boolean {
  const seen = new Set<unknown>();
  spend(items.length * stepsToRemember);
  for (const item of items) {
    // No string is equal to the text of an object.
    const key =
      typeof item === 'object' && item !== null ? canonical(item) : typeof item === 'string' ? `"${item}` : item;
    if (seen.has(key)) return false;
    seen.add(key);
  }
  return true;
}

/** JSON with the keys of each object in order: equal for equal values. Each level writes the text of those below again. */
function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const text = Array.isArray(value) ? `[${value.map(canonical).join()}]` : canonicalObject(value);
  spend(text.length * stepsToWrite + stepsToRemember);
  return text;
}

/** For a character: up to 10 ns. */
const stepsToWrite = 5;

function canonicalObject(value: object): string {
  const parts = Object.keys(value)
    .toSorted()
    .map((key) => `${JSON.stringify(key)}:${canonical(valueAt(value, key))}`);
  return `{${parts.join()}}`;
}

/** A part of a JSON pointer (RFC 6901). */
export function escapePart(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1');
}

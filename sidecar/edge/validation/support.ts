// Loads generated programs, and gives them what they require. Runs where requests are served; it knows no schema.

import { compileFunction } from 'node:vm';
import { formats, numberFormats } from './formats.ts';
import { isMultiple } from './multiple.ts';
import { compilePattern, countCall, spend } from './pattern.ts';

/** A violation as ajv's programs describe it. */
export interface RawViolation {
  readonly instancePath: string;
  readonly keyword: string;
  readonly message?: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** A generated function: true if the value is valid, else its `errors` say why until the next call. */
export interface Validate {
  (value: unknown): boolean;
  readonly errors?: readonly RawViolation[] | null;
}

const provided: Readonly<Record<string, unknown>> = Object.freeze({
  'sallyport/pattern': compilePattern,
  'sallyport/formats': Object.fromEntries(
    Object.entries({ ...formats, ...numberFormats }).map(([name, validate]) => [name, { validate }]),
  ),
  'sallyport/unique': isUnique,
  'sallyport/multiple': isMultiple,
  'sallyport/count': countCall,
  'sallyport/own': withoutPrototype,
  'sallyport/copy': (props: unknown) => (typeof props === 'object' ? { ...props } : props),
  'ajv/dist/runtime/ucs2length': { default: lengthOf },
  'ajv/dist/runtime/equal': { default: isEqual },
});

/** The names that a program has evaluated, which then inherits none; `true` and undefined as they are. */
export function withoutPrototype(props: unknown): unknown {
  return typeof props === 'object' ? Object.assign(Object.create(null) as object, props) : props;
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
  for (let at = 0; at < text.length - 1; at++)
    if (isHigh(text.charCodeAt(at)) && isLow(text.charCodeAt(at + 1))) length--;
  return length;
}

const isHigh = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff;

/** Equality of JSON values. Ends at the first difference, and counts what it compares. */
function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    spend(a.length * stepsForPart);
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

/** For a property or an item that is compared: 40 to 100 ns. */
const stepsForPart = 8;

/** True if no two items are equal. Linear in the size of the list. @throws SallyportError `validation_too_costly`. */
export function isUnique(items: readonly unknown[]): boolean {
  const seen = new Set<unknown>();
  spend(items.length);
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
  spend(text.length * stepsToWrite);
  return text;
}

/** For a character: up to 10 ns. */
const stepsToWrite = 2;

function canonicalObject(value: object): string {
  const parts = Object.keys(value)
    .toSorted()
    .map((key) => `${JSON.stringify(key)}:${canonical(valueAt(value, key))}`);
  return `{${parts.join()}}`;
}

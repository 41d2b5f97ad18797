// Numbers that a double cannot hold: an app that reads decimals or big integers would compare another number with its
// limits than we do. Where a schema restricts a number, such a number is refused.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { JsonRead } from '../json.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

/** The doubles of such numbers in the current message: integers of 64 bits, and all others. */
const wide = new Set<number>();
const inexact = new Set<number>();

/** Resets the state for the next message. */
export function forgetInexact(): void {
  wide.clear();
  inexact.clear();
}

/** Remembers the numbers of a text that was read. */
export function remembered<T extends JsonRead>(read: T): T {
  if ('inexact' in read && read.inexact !== undefined)
    for (const text of read.inexact) (isInteger64(text) ? wide : inexact).add(Number(text));
  return read;
}

function isInteger64(text: string): boolean {
  return /^-?\d+$/.test(text) && BigInt.asIntN(64, BigInt(text)) === BigInt(text);
}

/**
 * The keywords about a number: that it is an integer; the numbers that it compares with; or that its last digit
 * matters (`multipleOf`).
 */
export type Says = 'integer' | 'all' | readonly number[];

/**
 * The keyword in generated programs. Rounding keeps the order: an integer of 64 bits whose double is none of the
 * numbers that it is compared with is on the same side of each as its double.
 * @throws SallyportError `json_number_out_of_range`.
 */
export function isExact(value: number, says: Says): boolean {
  const matters = says === 'all' || (typeof says !== 'string' && says.includes(value));
  if (inexact.has(value) || (matters && wide.has(value)))
    throw new SallyportError('json_number_out_of_range', 'a number has more digits than a double can hold');
  return true;
}

/** An extension by its name, so that it is not one of JSON Schema's. */
export const exactKeyword = 'x-sallyport-exact';

const limits = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'];

/** The schema with the keyword in each part that restricts a number. */
export function withExact<T>(schema: T): T {
  if (!isNode(schema)) return schema;
  // One that the document has is not ours.
  const { [exactKeyword]: _, ...plain } = mapSubschemas(schema, withExact) as Node;
  const says = saysOfNumbers(schema);
  return (says === undefined ? plain : { ...plain, [exactKeyword]: says }) as T;
}

function saysOfNumbers({ type, enum: values, const: value, format, multipleOf, ...others }: Node): Says | undefined {
  if (multipleOf !== undefined) return 'all';
  const compared = [...limits.map((one) => others[one]), value, ...(Array.isArray(values) ? values : [])];
  const numbers = compared.filter((one) => typeof one === 'number');
  if (numbers.length > 0) return numbers;
  const isInteger = [type].flat().includes('integer') || format === 'int32' || format === 'int64';
  return isInteger ? 'integer' : undefined;
}

// Numbers that a double does not hold: an app that reads decimals or big integers would compare another number with its
// limits than we do. Where a schema says something about a number, such a number is refused.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { JsonRead } from '../json.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

/** The doubles of such numbers in the current message: integers of 64 bits, and all others. */
const wide = new Set<number>();
const inexact = new Set<number>();

/** For the next message. */
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

/** What a schema says about a number: that it is an integer, or more, which depends on its last digit. */
export type Says = 'integer' | 'more';

/** The keyword in generated programs. @throws SallyportError `json_number_out_of_range`. */
export function isExact(value: number, says: Says): boolean {
  if (inexact.has(value) || (says === 'more' && wide.has(value)))
    throw new SallyportError('json_number_out_of_range', 'a number has more digits than a double holds');
  return true;
}

/** An extension by its name, so that it is none of JSON Schema's. */
export const exactKeyword = 'x-sallyport-exact';

const limits = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'];

/** The schema with the keyword in each part that says something about a number. */
export function withExact<T>(schema: T): T {
  if (!isNode(schema)) return schema;
  // One that a document has is no keyword of ours.
  const { [exactKeyword]: _, ...plain } = mapSubschemas(schema, withExact) as Node;
  const says = saysOfNumbers(schema);
  return (says === undefined ? plain : { ...plain, [exactKeyword]: says }) as T;
}

function saysOfNumbers({ type, enum: values, const: value, format, ...others }: Node): Says | undefined {
  if (typeof value === 'number' || limits.some((one) => others[one] !== undefined)) return 'more';
  if (Array.isArray(values) && values.some((one) => typeof one === 'number')) return 'more';
  const isInteger = [type].flat().includes('integer') || format === 'int32' || format === 'int64';
  return isInteger ? 'integer' : undefined;
}

// Numbers that a double does not hold: an app that reads decimals or big integers would compare another number with its
// limits than we do. Where a schema says something about a number, such a number is refused.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { JsonRead } from '../json.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

/** The doubles of such numbers in the current message. */
const inexact = new Set<number>();

/** For the next message. */
export function forgetInexact(): void {
  inexact.clear();
}

/** Remembers the numbers of a text that was read. */
export function remembered<T extends JsonRead>(read: T): T {
  if ('inexact' in read && read.inexact !== undefined) for (const one of read.inexact) inexact.add(one);
  return read;
}

/** The keyword in generated programs. @throws SallyportError `json_number_out_of_range`. */
export function isExact(value: number): boolean {
  if (inexact.size > 0 && inexact.has(value))
    throw new SallyportError('json_number_out_of_range', 'a number has more digits than a double holds');
  return true;
}

/** An extension by its name, so that it is none of JSON Schema's. */
export const exactKeyword = 'x-sallyport-exact';

const limits = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'];

/** The schema with the keyword in each part that says something about a number. */
export function withExact<T>(schema: T): T {
  if (!isNode(schema)) return schema;
  const plain = mapSubschemas(schema, withExact);
  return (saysNumber(schema) ? { ...plain, [exactKeyword]: true } : plain) as T;
}

function saysNumber({ type, enum: values, const: value, format, ...others }: Node): boolean {
  if ([type].flat().includes('integer') || typeof value === 'number') return true;
  if (Array.isArray(values) && values.some((one) => typeof one === 'number')) return true;
  return format === 'int32' || format === 'int64' || limits.some((one) => others[one] !== undefined);
}

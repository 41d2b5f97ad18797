// RequestHeaderModifier and ResponseHeaderModifier: set, then add, then remove (Gateway API, HTTPHeaderFilter).

import { addFields, filterFields } from '../../exchange/fields.ts';
import type { Fields } from '../../exchange/message.ts';
import type { HeadersPlan } from './schema.ts';

/** Set, then add, then remove. Names are in lower case where they are compared. */
export interface HeaderChange {
  readonly set: readonly (readonly [string, string])[];
  readonly add: readonly (readonly [string, string])[];
  /** All names that `set` and `remove` remove. */
  readonly taken: ReadonlySet<string>;
}

/** Combines several modifiers into one change, in their order: those of a rule, then those of its backend. */
export function compileHeaderChange(modifiers: readonly HeadersPlan[]): HeaderChange | undefined {
  let change: HeaderChange | undefined;
  for (const { set = [], add = [], remove = [] } of modifiers) {
    const taken = new Set([...set.map(({ name }) => name), ...remove].map((name) => name.toLowerCase()));
    const own = (list: readonly { name: string; value: string }[]): (readonly [string, string])[] =>
      // Blanks around a value are not part of it (RFC 9110 section 5.5), and HTTP/2 refuses fields with them.
      list.map(({ name, value }) => [name, value.trim()] as const);
    // This modifier applies to what earlier ones have added.
    const kept = (list: HeaderChange['add']): HeaderChange['add'] =>
      list.filter(([name]) => !taken.has(name.toLowerCase()));
    const removed = new Set(remove.map((name) => name.toLowerCase()));
    change = {
      set: [...kept(change?.set ?? []), ...own(set).filter(([name]) => !removed.has(name.toLowerCase()))],
      add: [...kept(change?.add ?? []), ...own(add).filter(([name]) => !removed.has(name.toLowerCase()))],
      taken: new Set([...(change?.taken ?? []), ...taken]),
    };
  }
  return change;
}

/** A response's fields after the change; requests have more to consider (exchange/fields.ts). */
export function changeFields(fields: Fields, { set, add, taken }: HeaderChange): Fields {
  const kept = taken.size === 0 ? fields : filterFields(fields, ({ lower }) => !taken.has(lower));
  return set.length + add.length === 0 ? kept : addFields(kept, [...set, ...add]);
}

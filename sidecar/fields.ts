// Fields of a message changed on its way: taken out, added, and put where only we may put them.

import type { Exchange, FieldName, Fields } from './exchange.ts';
import { fieldName } from './protocol/http1-head.ts';

/** The fields that `keep` takes; the same object where it takes all. */
export function filterFields(fields: Fields, keep: (name: FieldName) => boolean): Fields {
  if (fields.names.every(keep)) return fields;
  const names: FieldName[] = [];
  const values: string[] = [];
  for (const [i, name] of fields.names.entries()) {
    if (!keep(name)) continue;
    names.push(name);
    values.push(fields.values[i]!);
  }
  return { names, values };
}

/** More fields behind those that there are. */
export function addFields(fields: Fields, added: readonly (readonly [string, string])[]): Fields {
  return {
    names: [...fields.names, ...added.map(([name]) => fieldName(name))],
    values: [...fields.values, ...added.map(([, value]) => value)],
  };
}

/**
 * Takes fields out of a request (names in lower case) and adds some. What `Connection` names goes first, so that nobody can
 * have a field of ours taken for one of his hop; and a name that CGI and WSGI read as the same, `x_user` for `x-user`, is
 * taken for it here, too.
 */
export function changeRequest(
  exchange: Exchange,
  drop: ReadonlySet<string>,
  add: readonly (readonly [string, string])[],
): void {
  const { hopFields, taken } = exchange;
  exchange.hopFields = undefined;
  if (drop.size > 0) exchange.taken = taken === undefined ? drop : new Set([...taken, ...drop]);
  const kept = filterFields(exchange.fields, ({ lower }) => !isIn(drop, lower) && hopFields?.includes(lower) !== true);
  exchange.fields = add.length === 0 ? kept : addFields(kept, add);
}

/** The request's trailers: what was taken out of its head must not come behind its body, where some apps read it as well. */
export function withoutTaken({ taken }: Exchange, trailers: Fields): Fields {
  return taken === undefined ? trailers : filterFields(trailers, ({ lower }) => !isIn(taken, lower));
}

function isIn(names: ReadonlySet<string>, lower: string): boolean {
  return names.has(lower) || names.has(lower.replaceAll('_', '-'));
}

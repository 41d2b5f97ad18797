// Changes the fields of a message: removes some, adds some, and sets those that only we may set.

import { foldName } from '../policy/header-name.ts';
import type { Exchange } from './exchange.ts';
import { type FieldName, type Fields, fieldName } from './message.ts';

/** The fields for which `keep` is true; the same object if all are kept. */
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

/** Appends fields. */
export function addFields(fields: Fields, added: readonly (readonly [string, string])[]): Fields {
  return {
    names: [...fields.names, ...added.map(([name]) => fieldName(name))],
    values: [...fields.values, ...added.map(([, value]) => value)],
  };
}

/**
 * Removes fields from a request (names in lower case, and those for which `alsoDrop` is true) and adds some. Fields
 * that `Connection` names are removed first, so that no client can have a field of ours treated as hop-by-hop. A name
 * that servers fold into the same one, `x_user` for `x-user`, counts as the same.
 */
export function changeRequest(
  exchange: Exchange,
  drop: ReadonlySet<string>,
  add: readonly (readonly [string, string])[],
  alsoDrop?: (name: FieldName) => boolean,
): void {
  const { hopFields, taken, fields } = exchange;
  exchange.hopFields = undefined;
  if (drop.size > 0) exchange.taken = taken === undefined ? drop : bothOf(taken, drop);
  const dropped = foldedOf(drop);
  // One pass and two lists: this runs for every request that comes through a gateway.
  const names: FieldName[] = [];
  const values: string[] = [];
  for (let i = 0; i < fields.names.length; i++) {
    const name = fields.names[i]!;
    if (dropped.has(name.folded) || alsoDrop?.(name) === true || hopFields?.includes(name.lower) === true) continue;
    names.push(name);
    values.push(fields.values[i]!);
  }
  for (const [name, value] of add) {
    names.push(fieldName(name));
    values.push(value);
  }
  exchange.fields = { names, values };
}

/** Unions of the sets that steps remove: there are few, and each lives as long as its step or its configuration. */
const unions = new WeakMap<ReadonlySet<string>, WeakMap<ReadonlySet<string>, ReadonlySet<string>>>();

function bothOf(a: ReadonlySet<string>, b: ReadonlySet<string>): ReadonlySet<string> {
  if (a === b || (b.size < 3 && isWithin(b, a))) return a;
  let ofA = unions.get(a);
  if (ofA === undefined) {
    ofA = new WeakMap();
    unions.set(a, ofA);
  }
  let both = ofA.get(b);
  if (both === undefined) {
    both = isWithin(b, a) ? a : new Set([...a, ...b]);
    ofA.set(b, both);
  }
  return both;
}

function isWithin(part: ReadonlySet<string>, whole: ReadonlySet<string>): boolean {
  for (const name of part) if (!whole.has(name)) return false;
  return true;
}

const ones = new Map<string, ReadonlySet<string>>();

/** The set of this one name, in lower case: the same object each time, for names in the configuration. */
export function onlyField(name: string): ReadonlySet<string> {
  let one = ones.get(name);
  if (one === undefined) {
    one = new Set([name]);
    ones.set(name, one);
  }
  return one;
}

/** The request's trailers, without what was removed from its head: some apps read trailers as fields, too. */
export function withoutTaken({ taken }: Exchange, trailers: Fields): Fields {
  return taken === undefined ? trailers : withoutNames(trailers, taken);
}

/**
 * Removes from trailers what policies, token rules and authorizers read in heads: they evaluate before trailers come.
 */
export function withoutJudged({ rules, judges }: Exchange, trailers: Fields): Fields {
  if (trailers.names.length === 0) return trailers;
  const { policies, authentication, edge, traits } = rules;
  const unheard =
    judges === undefined ? trailers : filterFields(trailers, ({ folded }) => !judges.some((one) => one.judges(folded)));
  return [policies?.headers, authentication?.tokenHeaders, (edge ?? traits)?.namedHeaders].reduce(
    (kept, names) => (names === undefined ? kept : withoutNames(kept, names)),
    unheard,
  );
}

function withoutNames(fields: Fields, names: ReadonlySet<string>): Fields {
  if (fields.names.length === 0 || names.size === 0) return fields;
  const dropped = foldedOf(names);
  return filterFields(fields, ({ folded }) => !dropped.has(folded));
}

/** Sets of folded names by their source: there are few, and each lives as long as its step or its configuration. */
const foldedSets = new WeakMap<ReadonlySet<string>, ReadonlySet<string>>();

/** The names as servers fold them: a configuration that names `x_user` means `X-User`, too. */
function foldedOf(names: ReadonlySet<string>): ReadonlySet<string> {
  let folded = foldedSets.get(names);
  if (folded === undefined) {
    folded = new Set([...names].map(foldName));
    foldedSets.set(names, folded);
  }
  return folded;
}

// Fields of a message changed on its way: taken out, added, and put where only we may put them.

import { foldName } from '../policy/header-name.ts';
import type { Exchange } from './exchange.ts';
import { type FieldName, type Fields, fieldName } from './message.ts';

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
 * Takes fields out of a request (names in lower case, and those that `alsoDrop` takes) and adds some. What `Connection` names goes first, so that no client can
 * have a field of ours taken for one of their hop; and a name that servers fold into the same one, `x_user` for `x-user`, is
 * the same here, too.
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

/** Unions of the sets that steps take out: there are few, and each lives as long as its step or its configuration. */
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

/** The set of this one name, in lower case: the same each time, for names that a configuration has. */
export function onlyField(name: string): ReadonlySet<string> {
  let one = ones.get(name);
  if (one === undefined) {
    one = new Set([name]);
    ones.set(name, one);
  }
  return one;
}

/** The request's trailers: what was taken out of its head must not come behind its body, where some apps read it as well. */
export function withoutTaken({ taken }: Exchange, trailers: Fields): Fields {
  return taken === undefined ? trailers : withoutNames(trailers, taken);
}

/** Trailers without what policies, token rules and authorizers read in a head: they judge before the trailers come. */
export function withoutJudged({ rules, judges }: Exchange, trailers: Fields): Fields {
  if (trailers.names.length === 0) return trailers;
  const { policies, authentication, edge } = rules;
  const unheard =
    judges === undefined ? trailers : filterFields(trailers, ({ folded }) => !judges.some((one) => one.judges(folded)));
  return [policies?.headers, authentication?.tokenHeaders, edge?.namedHeaders].reduce(
    (kept, names) => (names === undefined ? kept : withoutNames(kept, names)),
    unheard,
  );
}

function withoutNames(fields: Fields, names: ReadonlySet<string>): Fields {
  if (fields.names.length === 0 || names.size === 0) return fields;
  const dropped = foldedOf(names);
  return filterFields(fields, ({ folded }) => !dropped.has(folded));
}

/** Sets of names by the set that they were made of: there are few, and each lives as long as its step or its configuration. */
const foldedSets = new WeakMap<ReadonlySet<string>, ReadonlySet<string>>();

/** The names as servers fold them: a configuration that names `x_user` means `X-User` too. */
function foldedOf(names: ReadonlySet<string>): ReadonlySet<string> {
  let folded = foldedSets.get(names);
  if (folded === undefined) {
    folded = new Set([...names].map(foldName));
    foldedSets.set(names, folded);
  }
  return folded;
}

// The keys that a schema knows, by place: for hints about a key that is unknown where it is. Most often a line is indented
// wrongly, and the key is known one level above or below.

import type { z } from 'zod';

/**
 * The keys that `schema` knows at `path`, for the hint. Wrappers are unwrapped; a union gives the keys of all members.
 */
export function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): Set<string> {
  let level: unknown[] = [schema];
  for (const step of path) level = level.flatMap((one) => innerSchemas(one, step));
  return new Set(level.flatMap((one) => alternatives(one).flatMap((inner) => Object.keys(shapeOf(inner) ?? {}))));
}

interface SchemaDef {
  readonly innerType?: unknown;
  readonly in?: unknown;
  readonly options?: readonly unknown[];
  readonly element?: unknown;
  readonly valueType?: unknown;
  readonly shape?: Readonly<Record<string, unknown>>;
}

function defOf(schema: unknown): SchemaDef {
  return typeof schema === 'object' && schema !== null && 'def' in schema ? (schema.def as SchemaDef) : {};
}

function shapeOf(schema: unknown): Readonly<Record<string, unknown>> | undefined {
  return defOf(schema).shape;
}

function alternatives(schema: unknown): unknown[] {
  const def = defOf(schema);
  const inner = def.innerType ?? def.in;
  if (inner !== undefined) return alternatives(inner);
  if (def.options !== undefined) return def.options.flatMap(alternatives);
  return [schema];
}

function innerSchemas(schema: unknown, step: PropertyKey): unknown[] {
  return alternatives(schema).flatMap((one) => {
    const def = defOf(one);
    const inner = def.shape?.[String(step)] ?? def.element ?? def.valueType;
    return inner === undefined ? [] : [inner];
  });
}

/** A list is marked at the step that leads to its elements. */
type Steps = readonly string[];

/** Steps up and down to a place further away than this: the same word, with another meaning. */
const mostSteps = 3;
/** A schema that contains itself ends here. */
const mostLevels = 10;

/**
 * `'rules' belongs under 'spec'`: the nearest place of `schema` that knows `key`, which `path` does not; the places, if two
 * are equally near. Undefined if none is near, or too many are.
 */
export function whereItBelongs(schema: z.ZodType, path: readonly PropertyKey[], key: string): string | undefined {
  const here = path.filter((step) => typeof step !== 'number').map(String);
  const near = placesOf(schema, key)
    .map((steps) => ({ steps, distance: distanceOf(here, steps) }))
    .filter(({ distance }) => distance <= mostSteps);
  const least = Math.min(...near.map(({ distance }) => distance));
  const best = new Set(near.flatMap(({ steps, distance }) => (distance === least ? [nameOfPlace(steps)] : [])));
  return best.size === 0 || best.size > 2 ? undefined : `'${key}' belongs ${[...best].join(' or ')}`;
}

function nameOfPlace(steps: Steps): string {
  return steps.length === 0 ? 'at the top level' : `under '${steps.join('.')}'`;
}

function distanceOf(here: Steps, there: Steps): number {
  const names = there.map((step) => step.replace(/(?:\[\])+$/, ''));
  let common = 0;
  while (common < here.length && common < names.length && here[common] === names[common]) common++;
  return here.length + names.length - 2 * common;
}

/** Every object in `schema` that has `key`, as the steps to it. */
function placesOf(schema: unknown, key: string, steps: Steps = []): Steps[] {
  if (steps.length > mostLevels) return [];
  return alternatives(schema).flatMap((one) => {
    const { shape = {}, element, valueType } = defOf(one);
    const below = Object.entries(shape).flatMap(([name, inner]) => placesOf(inner, key, [...steps, name]));
    const elements = element === undefined ? [] : placesOf(element, key, [...steps.slice(0, -1), `${steps.at(-1)}[]`]);
    const entries = valueType === undefined ? [] : placesOf(valueType, key, [...steps, '*']);
    return [...(Object.hasOwn(shape, key) ? [steps] : []), ...below, ...elements, ...entries];
  });
}

// A tree of fields, as people read it, from a JSON Schema. Lists and maps do not count as levels: `inbound.port` is the
// port of each entry of `inbound`.

import type { JsonSchema } from './json-schema.ts';

/** When a change applies: at the next reload, or after a restart. */
export type Applies = 'reload' | 'restart';

/** One field. Texts are ready to print. */
export interface Field {
  readonly name: string;
  /** From the kind down, joined by dots. */
  readonly path: string;
  /** `string`, `list of objects`, `integer | string`. */
  readonly type: string;
  readonly description: string | undefined;
  readonly required: boolean;
  /** True if it is a map, or a list of maps, whose keys are names. */
  readonly isMap: boolean;
  /** True for a field that has a name only to be refused. */
  readonly refused: boolean;
  readonly unit: string | undefined;
  /** As JSON; undefined where there is none. */
  readonly default: unknown;
  /** `1 to 65535`, `one of 1.2, 1.3`. */
  readonly bounds: readonly string[];
  readonly applies: Applies | undefined;
  readonly example: unknown;
  readonly fields: readonly Field[];
}

/** The tree of a kind. */
export function fieldOf(schema: JsonSchema, name: string): Field {
  return read(schema, name, name, true, undefined);
}

function read(schema: JsonSchema, name: string, path: string, required: boolean, above: Applies | undefined): Field {
  const applies = (schema['x-applies'] as Applies | undefined) ?? above;
  const parts = partsOf(schema);
  const fields = parts.flatMap(({ properties = {}, required: needed = [] }) =>
    Object.entries(properties).map(([key, one]) => read(one, key, `${path}.${key}`, needed.includes(key), applies)),
  );
  return {
    ...{ name, path, applies, required },
    type: typeOf(schema),
    isMap: /\bmap of\b/.test(typeOf(schema)),
    description: first(schema, 'description') as string | undefined,
    refused: schema.not !== undefined,
    unit: first(schema, 'x-unit') as string | undefined,
    default: schema.default,
    bounds: boundsOf(schema),
    example: exampleOf(schema),
    fields: mergeNamed(fields),
  };
}

/** Alternatives with a field of the same name are one field, which is required only if it is in each of them. */
function mergeNamed(fields: readonly Field[]): Field[] {
  const byName = new Map<string, Field>();
  for (const one of fields) {
    const known = byName.get(one.name);
    if (known === undefined) byName.set(one.name, one);
    else
      byName.set(one.name, {
        ...known,
        required: known.required && one.required,
        description: known.description ?? one.description,
        type: known.type === one.type ? known.type : `${known.type} | ${one.type}`,
        bounds: [...new Set([...known.bounds, ...one.bounds])],
        fields: mergeNamed([...known.fields, ...one.fields]),
      });
  }
  return [...byName.values()];
}

const choices = (schema: JsonSchema): readonly JsonSchema[] => [
  ...(schema.anyOf ?? []),
  ...(schema.oneOf ?? []),
  ...(schema.allOf ?? []),
];

/** The objects that a schema may mean: through lists, maps and alternatives. */
function partsOf(schema: JsonSchema): JsonSchema[] {
  const values = typeof schema.additionalProperties === 'object' ? [schema.additionalProperties] : [];
  const inner = [...choices(schema), ...(schema.items === undefined ? [] : [schema.items]), ...values];
  return [...(schema.properties === undefined ? [] : [schema]), ...inner.flatMap(partsOf)];
}

/** An annotation of the schema, or of what it is a list of. */
function first(schema: JsonSchema, keyword: string): unknown {
  return schema[keyword] ?? (schema.items === undefined ? undefined : first(schema.items, keyword));
}

function typeOf(schema: JsonSchema): string {
  if (schema.not !== undefined) return 'refused';
  const alternatives = choices(schema);
  if (alternatives.length > 0) return [...new Set(alternatives.map(typeOf))].join(' | ');
  if (schema.items !== undefined) return `list of ${plural(typeOf(schema.items))}`;
  const values = schema.additionalProperties;
  if (typeof values === 'object' && schema.properties === undefined) {
    const of = typeOf(values);
    return of === 'any' ? 'object' : `map of ${plural(of)}`;
  }
  if (schema.type !== undefined) return [schema.type].flat().join(' | ');
  if (schema.enum !== undefined || schema.const !== undefined) return typeof (schema.enum?.[0] ?? schema.const);
  return 'any';
}

function plural(type: string): string {
  return /^(?:list|map|any)/.test(type) ? type : type.replaceAll(/\w+/g, '$&s');
}

function boundsOf(schema: JsonSchema): string[] {
  const said = schema['x-bounds'];
  if (typeof said === 'string') return [said];
  const words = wordsOf(schema);
  const inner = [...choices(schema), ...(schema.items === undefined ? [] : [schema.items])];
  const all = [
    ...(words.length === 0 || schema.type === 'boolean' ? [] : [`one of ${words.join(', ')}`]),
    ...range(schema['minimum'] ?? above(schema['exclusiveMinimum']), maximum(schema), ''),
    ...range(schema['minLength'], schema['maxLength'], ' characters'),
    ...range(schema['minItems'], schema['maxItems'], ' entries'),
    ...inner.filter((one) => one.const === undefined).flatMap(boundsOf),
  ];
  return [...new Set(all)];
}

/** The values of an enumeration, if there are no others. */
function wordsOf(schema: JsonSchema): readonly unknown[] {
  if (schema.enum !== undefined) return schema.enum;
  if (schema.const !== undefined) return [schema.const];
  const alternatives = choices(schema);
  return alternatives.every((one) => one.const !== undefined) ? alternatives.map((one) => one.const) : [];
}

const above = (value: unknown): unknown => (value === 0 ? 1 : value);

/** Not zod's bound of safe integers, which every number has. */
function maximum(schema: JsonSchema): unknown {
  return schema['maximum'] === Number.MAX_SAFE_INTEGER ? undefined : schema['maximum'];
}

function range(least: unknown, most: unknown, what: string): string[] {
  const low = least === Number.MIN_SAFE_INTEGER ? undefined : least;
  if (low === undefined && most === undefined) return [];
  // Most texts have this bound.
  if (most === undefined && low === 1 && what !== '') return ['not empty'];
  if (most === undefined) return [`${String(low)}${what} or more`];
  if (low === undefined) return [`up to ${String(most)}${what}`];
  return [low === most ? `${String(low)}${what}` : `${String(low)} to ${String(most)}${what}`];
}

/** The first example, or what a reader would write: another value than the default where the choices are known. */
function exampleOf(schema: JsonSchema): unknown {
  if (schema.not !== undefined) return undefined;
  if (schema.examples !== undefined) return schema.examples[0];
  if (schema.type === 'boolean') return schema.default !== true;
  const words = wordsOf(schema);
  if (words.length > 0) return words.find((one) => one !== schema.default) ?? words[0];
  if (partsOf(schema).length > 0) return undefined;
  return schema.default;
}

/** Every field below, depth first, without the top. */
export function allFields(top: Field): Field[] {
  return top.fields.flatMap((one) => [one, ...allFields(one)]);
}

// The JSON Schema (draft 2020-12) of what people write, from the zod schemas that read it. Three keywords are our
// own: `x-unit`, `x-bounds`, and `x-applies` (`reload` or `restart`). JSON Schema lets tools ignore them.

import { z } from 'zod';

/** A JSON Schema, or a part of one. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly allOf?: readonly JsonSchema[];
  readonly not?: object;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly examples?: readonly unknown[];
  readonly [keyword: string]: unknown;
}

/**
 * What `.meta()` of a field may say besides its `description`. zod's own `examples` and `default` are lost where a schema
 * transforms its input.
 */
interface Said {
  /** What a number counts, or `duration`. */
  unit?: unknown;
  /** Bounds in words, where they are not in the schema itself. */
  bounds?: unknown;
  example?: unknown;
  /** True for a field that has a name only to be refused, with the reason as its description. */
  refused?: unknown;
}

/** The schema of the input. What zod computes from it (`transform`, `superRefine`) cannot be said in JSON Schema. */
export function toJsonSchema(schema: z.ZodType): JsonSchema {
  return z.toJSONSchema(schema, {
    target: 'draft-2020-12',
    io: 'input',
    unrepresentable: 'any',
    override({ zodSchema, jsonSchema }) {
      const { unit, bounds, example, refused, default: _, ...plain } = jsonSchema as Said & Record<string, unknown>;
      const { value: preset } = defaultOf(zodSchema as unknown as z.ZodType) ?? {};
      const written: Record<string, unknown> =
        refused === true
          ? // No value of it is valid.
            { description: plain['description'], not: {} }
          : {
              ...plain,
              ...(preset === undefined ? {} : { default: preset }),
              ...(unit === undefined ? {} : { 'x-unit': unit }),
              ...(bounds === undefined ? {} : { 'x-bounds': bounds }),
              ...(example === undefined ? {} : { examples: [example] }),
            };
      for (const key of Object.keys(jsonSchema)) delete (jsonSchema as Record<string, unknown>)[key];
      Object.assign(jsonSchema, written);
    },
  }) as JsonSchema;
}

interface Def {
  readonly type: string;
  readonly defaultValue?: unknown;
  readonly innerType?: z.ZodType;
  readonly in?: z.ZodType;
}

/** The default of a schema, of what it wraps or of what it transforms. */
function defaultOf(schema: z.ZodType): { readonly value: unknown } | undefined {
  const { type, defaultValue, innerType, in: input } = schema.def as unknown as Def;
  // A default may be what cannot be written: an empty list where a written one must not be empty.
  if (type === 'default' && !innerType!.safeParse(defaultValue).success) return undefined;
  if (type === 'default' || type === 'prefault') return { value: defaultValue };
  const inner = innerType ?? (type === 'pipe' ? input : undefined);
  return inner === undefined ? undefined : defaultOf(inner);
}

/** The same schema, in which each field of the first level says when a change of it applies. */
export function withApplies(schema: JsonSchema, fixed: ReadonlySet<string>): JsonSchema {
  const properties = Object.entries(schema.properties ?? {}).map(([name, one]) => [
    name,
    { ...one, 'x-applies': fixed.has(name) ? 'restart' : 'reload' },
  ]);
  return { ...schema, properties: Object.fromEntries(properties) };
}

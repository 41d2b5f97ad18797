// The values that a text can stand for, by the schema of its parameter or of its property of a form.

import { isJson } from '../content.ts';
import type { Shape } from './api-plan.ts';
import type { Discriminating } from './discriminator.ts';
import { isNode, type Node } from './subschemas.ts';

type Path = readonly (string | number)[];

/** Text has no deeper values: the properties of a form's property, and the items of those. */
const maxShape = 3;
/** Nested references and alternatives, until a schema states the type of its value. */
const maxHops = 500;
export const anything: Shape = Object.freeze({ types: [] });

/** The shapes of a document's schemas. */
export class Shapes {
  readonly #reader: Discriminating;
  /** By schema and by depth. */
  readonly #shapes = Array.from({ length: maxShape + 1 }, () => new Map<unknown, Shape>());

  constructor(reader: Discriminating) {
    this.#reader = reader;
  }

  /** The values that a text can stand for under this schema. */
  shapeOf(schema: unknown, path: Path, depth = 0, hops = 0): Shape {
    if (!isNode(schema) || depth > maxShape) return anything;
    const known = this.#shapes[depth]!.get(schema);
    if (known !== undefined) return known;
    if (hops > maxHops) return this.#reader.fail(path, 'too many references to determine its style') ?? anything;
    // For a reference back to it, which adds nothing.
    this.#shapes[depth]!.set(schema, anything);
    const shape = this.#shapeOf(schema, path, depth, hops);
    this.#shapes[depth]!.set(schema, shape);
    return shape;
  }

  #shapeOf(schema: Node, path: Path, depth: number, hops: number): Shape {
    const { $ref } = schema;
    const found = typeof $ref === 'string' ? this.#reader.find($ref, [], true) : undefined;
    const beside = found === undefined ? [] : [found.value];
    for (const key of ['allOf', 'anyOf', 'oneOf'])
      if (Array.isArray(schema[key])) beside.push(...(schema[key] as unknown[]));
    const own = typesOf(schema);
    const others = beside.map((one) => this.shapeOf(one, path, depth, hops + 1));
    const types = own.length > 0 ? own : [...new Set(others.flatMap((one) => one.types))];
    const items =
      schema['items'] === undefined
        ? others.find((one) => one.items !== undefined)?.items
        : this.shapeOf(schema['items'], path, depth + 1);
    const properties: Record<string, Shape> = Object.assign({}, ...others.map((one) => one.properties));
    if (isNode(schema['properties']))
      for (const [name, one] of Object.entries(schema['properties']))
        properties[name] = this.shapeOf(one, path, depth + 1);
    const isOpen =
      others.some((one) => one.isOpen === true) ||
      ['patternProperties', 'additionalProperties', 'unevaluatedProperties'].some((key) => isNode(schema[key]));
    const isBinary = isFile(schema) || others.some((one) => one.isBinary === true);
    return {
      types,
      ...(isOpen ? { isOpen } : {}),
      ...(isBinary ? { isBinary } : {}),
      ...(items === undefined ? {} : { items }),
      ...(Object.keys(properties).length === 0 ? {} : { properties }),
    };
  }
}

/** A string of bytes: `format: binary` of OpenAPI 3.0, a media type in 3.1. */
function isFile({ format, contentMediaType, contentEncoding }: Node): boolean {
  if (format === 'binary') return true;
  return typeof contentMediaType === 'string' && contentEncoding === undefined && !isJson(contentMediaType);
}

/** The types that a schema states, or that its values have. */
function typesOf(schema: Node): string[] {
  const { type, nullable, properties, items } = schema;
  const said = type === undefined ? [] : [type].flat().map(String);
  const nulls = nullable === true ? ['null'] : [];
  if (said.length > 0) return [...said, ...nulls];
  const values = Array.isArray(schema['enum'])
    ? schema['enum']
    : Object.hasOwn(schema, 'const')
      ? [schema['const']]
      : [];
  if (values.length > 0) return [...new Set(values.map(typeOf))];
  return properties !== undefined ? ['object'] : items !== undefined ? ['array'] : [];
}

function typeOf(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
}

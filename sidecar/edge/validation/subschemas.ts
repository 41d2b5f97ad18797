// The places of a JSON Schema that contain another schema.

type Path = readonly (string | number)[];

/** Plain data of an object. */
export type Node = Readonly<Record<string, unknown>>;

/** Keywords whose value is a schema, or a list of schemas. */
const direct: ReadonlySet<string> = new Set([
  ...['allOf', 'anyOf', 'oneOf', 'not', 'if', 'then', 'else', 'prefixItems', 'items', 'additionalItems', 'contains'],
  ...['additionalProperties', 'propertyNames', 'unevaluatedItems', 'unevaluatedProperties', 'contentSchema'],
]);

/** Keywords whose value has schemas by name. */
const named: ReadonlySet<string> = new Set([
  ...['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas', 'dependencies'],
]);

export function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The schema with each schema directly in it replaced by `change`. Other keywords stay as they are. */
export function mapSubschemas(schema: Node, change: (sub: unknown, path: Path) => unknown): Record<string, unknown> {
  const inside = (value: unknown, path: Path): unknown => {
    if (Array.isArray(value)) return value.map((one, index) => change(one, [...path, index]));
    return change(value, path);
  };
  return Object.fromEntries(
    Object.entries(schema).map(([keyword, value]) => {
      if (direct.has(keyword)) return [keyword, inside(value, [keyword])];
      if (!named.has(keyword) || !isNode(value)) return [keyword, value];
      const parts = Object.entries(value).map(([name, sub]) => [
        name,
        // `dependencies` of draft 7 may list names.
        Array.isArray(sub) ? sub : change(sub, [keyword, name]),
      ]);
      return [keyword, Object.fromEntries(parts)];
    }),
  );
}

/** Calls `visit` for a schema and each one in it, with its path. Does not follow references. */
export function walkSchema(schema: unknown, path: Path, visit: (schema: Node, path: Path) => void): void {
  if (!isNode(schema)) return;
  visit(schema, path);
  mapSubschemas(schema, (sub, at) => walkSchema(sub, [...path, ...at], visit));
}

/** The names of all properties that these schemas describe. */
export function namesIn(schemas: readonly unknown[]): readonly string[] {
  const names = new Set<string>();
  for (const schema of schemas)
    walkSchema(schema, [], ({ properties }) => {
      if (isNode(properties)) for (const name of Object.keys(properties)) names.add(name);
    });
  return [...names].toSorted();
}

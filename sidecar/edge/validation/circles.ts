// References that lead back to their own schema without a step into the value: `{ $ref: '#' }`. To validate under one
// would never end.

import { values } from './keywords.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

type Path = readonly (string | number)[];

/**
 * The paths of references in a circle, one for each. References by a JSON pointer into `root` are followed. Others
 * (anchors, identifiers) end in the budget of a message.
 */
export function circlesIn(root: unknown): Path[] {
  const circles: Path[] = [];
  const done = new Set<Node>();
  const open = new Set<Node>();
  const walk = (schema: unknown, path: Path, from = path): void => {
    if (!isNode(schema) || done.has(schema)) return;
    if (open.has(schema)) return void circles.push(from);
    open.add(schema);
    const later: [unknown, Path][] = [];
    mapSubschemas(schema, (sub, at) => {
      if (values.has(String(at[0]))) later.push([sub, [...path, ...at]]);
      else walk(sub, [...path, ...at]);
    });
    const { $ref } = schema;
    const target = typeof $ref === 'string' ? targetOf(root, $ref) : undefined;
    if (target !== undefined) walk(target.schema, target.path, [...path, '$ref']);
    open.delete(schema);
    done.add(schema);
    // Deeper in the value: a circle over it ends with the value.
    pending.push(...later);
  };
  const pending: [unknown, Path][] = [[root, []]];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) walk(...next);
  return circles;
}

function targetOf(root: unknown, reference: string): { readonly schema: unknown; readonly path: Path } | undefined {
  if (reference !== '#' && !reference.startsWith('#/')) return undefined;
  const keys = reference
    .split('/')
    .slice(1)
    .map((part) => decoded(part).replaceAll('~1', '/').replaceAll('~0', '~'));
  let schema = root;
  for (const key of keys) {
    if (typeof schema !== 'object' || schema === null || !Object.hasOwn(schema, key)) return undefined;
    schema = (schema as Node)[key];
  }
  return { schema, path: keys };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

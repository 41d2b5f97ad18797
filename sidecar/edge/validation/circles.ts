// References that lead back to their own schema without a step into the value: `{ $ref: '#' }`. Validation
// would never end.

import { values } from './keywords.ts';
import { isNode, mapSubschemas, type Node, walkSchema } from './subschemas.ts';

type Path = readonly (string | number)[];

interface Place {
  readonly schema: unknown;
  readonly path: Path;
}

/** The paths of references in a cycle, one for each cycle. */
export function circlesIn(root: unknown): Path[] {
  const circles: Path[] = [];
  const done = new Set<Node>();
  const open = new Set<Node>();
  const targets = new Targets(root);
  const walk = (schema: unknown, path: Path, from = path): void => {
    if (!isNode(schema) || done.has(schema)) return;
    if (open.has(schema)) return void circles.push(from);
    open.add(schema);
    const later: [unknown, Path][] = [];
    mapSubschemas(schema, (sub, at) => {
      if (values.has(String(at[0]))) later.push([sub, [...path, ...at]]);
      else walk(sub, [...path, ...at]);
    });
    for (const keyword of ['$ref', '$dynamicRef', '$recursiveRef'])
      for (const target of targets.of(schema, keyword)) walk(target.schema, target.path, [...path, keyword]);
    open.delete(schema);
    done.add(schema);
    // Deeper in the value: a cycle through it ends with the value.
    pending.push(...later);
  };
  const pending: [unknown, Path][] = [[root, []]];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) walk(...next);
  return circles;
}

const unnamed = 'schema:/';

/** Resolves references by JSON pointers, anchors and identifiers (2020-12 sections 8.2 and 9.2). */
class Targets {
  /** Of each schema, the absolute URI that its references are relative to. */
  readonly #bases = new Map<Node, string>();
  /** By URI, with the fragment of an anchor. */
  readonly #places = new Map<string, Place>();
  /** By their names: the target is chosen at run time. */
  readonly #dynamic = new Map<string, Place[]>();

  constructor(root: unknown) {
    const byPath = new Map<string, string>();
    walkSchema(root, [], (schema, path) => {
      const base = this.#baseOf(schema, path, byPath);
      this.#bases.set(schema, base);
      byPath.set(JSON.stringify(path), base);
      const place = { schema, path };
      if (path.length === 0 || typeof schema['$id'] === 'string') this.#places.set(base, place);
      const { $anchor, $dynamicAnchor, $id } = schema;
      // Draft 7 has its anchors in `$id`.
      for (const anchor of [$anchor, $dynamicAnchor, String($id).startsWith('#') ? String($id).slice(1) : undefined])
        if (typeof anchor === 'string') this.#places.set(`${base}#${anchor}`, place);
      if (typeof $dynamicAnchor === 'string')
        this.#dynamic.set($dynamicAnchor, [...(this.#dynamic.get($dynamicAnchor) ?? []), place]);
    });
  }

  #baseOf({ $id }: Node, path: Path, byPath: ReadonlyMap<string, string>): string {
    let base = unnamed;
    for (let length = path.length - 1; length >= 0; length--) {
      const outer = byPath.get(JSON.stringify(path.slice(0, length)));
      if (outer === undefined) continue;
      base = outer;
      break;
    }
    return typeof $id === 'string' && !$id.startsWith('#') ? resolved($id, base).replace(/#.*$/s, '') : base;
  }

  of(schema: Node, keyword: string): readonly Place[] {
    const reference = schema[keyword];
    if (typeof reference !== 'string') return [];
    const uri = resolved(reference, this.#bases.get(schema) ?? unnamed);
    const at = uri.indexOf('#');
    const [base, fragment] = at === -1 ? [uri, ''] : [uri.slice(0, at), decoded(uri.slice(at + 1))];
    const found =
      fragment.startsWith('/') || fragment === ''
        ? this.#inside(base, fragment)
        : this.#places.get(`${base}#${fragment}`);
    const dynamic = keyword === '$dynamicRef' ? (this.#dynamic.get(fragment) ?? []) : [];
    return [...(found === undefined ? [] : [found]), ...dynamic];
  }

  #inside(base: string, pointer: string): Place | undefined {
    const resource = this.#places.get(base);
    if (resource === undefined) return undefined;
    const keys = pointer.split('/').slice(1);
    let { schema } = resource;
    const path = [...resource.path];
    for (const key of keys.map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))) {
      if (typeof schema !== 'object' || schema === null || !Object.hasOwn(schema, key)) return undefined;
      schema = (schema as Node)[key];
      path.push(key);
    }
    return { schema, path };
  }
}

/** Resolves against a base that may be a name without a hierarchy: a fragment is then appended unchanged. */
function resolved(reference: string, base: string): string {
  if (reference === '' || reference.startsWith('#')) return base + reference;
  return URL.parse(reference, base)?.href ?? reference;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

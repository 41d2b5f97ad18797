// The `discriminator` of OpenAPI as conditions of JSON Schema: the property's value names the schema that must hold.
// `oneOf` and `anyOf` stay in force beside it.

import { isNode, type Node } from './subschemas.ts';

type Path = readonly (string | number)[];

/** The document that a discriminator is in. */
export interface Discriminating {
  fail(path: Path, message: string): undefined;
  warn(path: Path, message: string): void;
  find(reference: string, at: Path, isQuiet?: boolean): { readonly value: unknown; readonly path: Path } | undefined;
}

/** The schemas that a value of the property can name. */
interface Choice {
  readonly property: string;
  /** A reference by value; undefined for the schema itself. */
  readonly references: ReadonlyMap<string, string | undefined>;
  /** No other value is accepted. */
  readonly isClosed: boolean;
}

/** The discriminators of one document. */
export class Discriminators {
  readonly #document: Node;
  readonly #reader: Discriminating;
  #children: ReadonlyMap<string, readonly string[]> | undefined;

  constructor(document: Node, reader: Discriminating) {
    this.#document = document;
    this.#reader = reader;
  }

  /**
   * What the discriminator of a schema adds to its `allOf`.
   * @param refer gives the converted reference for one in the document; undefined if it leads nowhere.
   */
  conditions(schema: Node, path: Path, refer: (reference: string, at: Path) => string | undefined): readonly Node[] {
    const choice = this.#read(schema, path);
    if (choice === undefined) return [];
    const { property, references, isClosed } = choice;
    const values = new Map<string, string[]>();
    for (const [value, reference] of references)
      if (reference !== undefined) values.set(reference, [...(values.get(reference) ?? []), value]);
    const selected = [...values].flatMap(([reference, names]): Node[] => {
      const $ref = refer(reference, [...path, 'discriminator']);
      const named = { type: 'object', required: [property], properties: { [property]: { enum: names } } };
      return $ref === undefined ? [] : [{ if: named, ['then' as string]: { $ref } }];
    });
    const known = isClosed ? { properties: { [property]: { enum: [...references.keys()] } } } : {};
    return [{ required: [property], ...known }, ...selected];
  }

  /**
   * True for the reference of a schema to the one that it extends with `allOf`: the discriminator there has selected
   * the extending schema, and would select it again without end.
   */
  isExtension(schema: Node, reference: string, at: Path): boolean {
    const [first, second, , ...inside] = at;
    if (first !== 'components' || second !== 'schemas') return false;
    if (inside.some((part) => part !== 'allOf' && typeof part !== 'number')) return false;
    if (inside.length === 0 && Object.keys(schema).length === 1) return false;
    const value = this.#reader.find(reference, [], true)?.value;
    return isNode(value) && isNode(value['discriminator']) && alternativesOf(value) === undefined;
  }

  #read(schema: Node, path: Path): Choice | undefined {
    const { discriminator } = schema;
    if (discriminator === undefined) return undefined;
    const at = [...path, 'discriminator'];
    const property = isNode(discriminator) ? discriminator['propertyName'] : undefined;
    if (!isNode(discriminator) || typeof property !== 'string')
      return this.#reader.fail(at, 'a discriminator needs propertyName');
    const alternatives = alternativesOf(schema);
    const own = alternatives ?? this.#childrenOf(path);
    const implied = own.flatMap((one) => (typeof one === 'string' ? [[nameOf(one), one] as const] : []));
    const references = new Map<string, string | undefined>(implied);
    if (alternatives === undefined && path.length === 3) references.set(String(path[2]), undefined);
    const { mapping } = discriminator;
    for (const [value, target] of Object.entries(isNode(mapping) ? mapping : {})) {
      const reference = this.#targetOf(String(target), [...at, 'mapping', value]);
      if (reference !== undefined) references.set(value, reference);
    }
    if ([...references.values()].some((one) => one !== undefined))
      return { property, references, isClosed: own.every((one) => typeof one === 'string') };
    this.#reader.warn(at, `the discriminator '${property}' selects no schema, and is not compared`);
    return undefined;
  }

  /** A mapping leads to a name or a reference. */
  #targetOf(target: string, at: Path): string | undefined {
    const named = `#/components/schemas/${escaped(target)}`;
    if (this.#reader.find(named, at, true) !== undefined) return named;
    if (target.startsWith('#')) return this.#reader.find(target, at) === undefined ? undefined : target;
    return this.#reader.fail(at, `'${target}' is no schema of this document`);
  }

  /** References to the schemas that extend the one at a place, also through others. */
  #childrenOf(path: Path): readonly string[] {
    this.#children ??= this.#readChildren();
    const found = new Set<string>();
    const pending = [path.join('/')];
    for (let next = pending.pop(); next !== undefined; next = pending.pop())
      for (const name of this.#children.get(next) ?? []) {
        const reference = `#/components/schemas/${escaped(name)}`;
        if (found.has(reference)) continue;
        found.add(reference);
        pending.push(`components/schemas/${name}`);
      }
    return [...found];
  }

  #readChildren(): ReadonlyMap<string, readonly string[]> {
    const { components } = this.#document;
    const schemas = isNode(components) && isNode(components['schemas']) ? components['schemas'] : {};
    const children = new Map<string, string[]>();
    for (const [name, schema] of Object.entries(schemas))
      for (const reference of extendedBy(schema)) {
        const parent = this.#reader.find(reference, [], true)?.path.join('/');
        if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), name]);
      }
    return children;
  }
}

/** The alternatives of a schema: references, and undefined for one without a name. `null` needs none. */
function alternativesOf(schema: Node): readonly (string | undefined)[] | undefined {
  const lists = ['oneOf', 'anyOf'].flatMap((key) => (Array.isArray(schema[key]) ? [schema[key] as unknown[]] : []));
  if (lists.length === 0) return undefined;
  return lists.flat().flatMap((one) => {
    if (!isNode(one)) return [undefined];
    if (one['type'] === 'null') return [];
    return [typeof one['$ref'] === 'string' ? one['$ref'] : undefined];
  });
}

function extendedBy(schema: unknown): readonly string[] {
  if (!isNode(schema)) return [];
  const { $ref, allOf } = schema;
  const own = typeof $ref === 'string' && Object.keys(schema).length > 1 ? [$ref] : [];
  const inside = Array.isArray(allOf) ? allOf.flatMap((one: unknown) => referenceOf(one) ?? extendedBy(one)) : [];
  return [...own, ...inside];
}

function referenceOf(schema: unknown): string | undefined {
  return isNode(schema) && typeof schema['$ref'] === 'string' ? schema['$ref'] : undefined;
}

function escaped(name: string): string {
  return encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'));
}

/** The implied value for a reference: its last part. */
function nameOf(reference: string): string {
  const last = reference
    .slice(reference.lastIndexOf('/') + 1)
    .replaceAll('~1', '/')
    .replaceAll('~0', '~');
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

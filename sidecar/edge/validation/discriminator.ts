// The `discriminator` of OpenAPI as conditions of JSON Schema: the property's value names the schema that must hold.
//
// A selected schema usually extends the one with the discriminator, which would select it again endlessly. So a
// discriminator is left out of the schema that it selects, for the same value: it is already in force there.

import { isAnnotation, values } from './keywords.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

type Path = readonly (string | number)[];

/** The document that a discriminator is in. */
export interface Discriminating {
  fail(path: Path, message: string): undefined;
  warn(path: Path, message: string): void;
  find(reference: string, at: Path, isQuiet?: boolean): { readonly value: unknown; readonly path: Path } | undefined;
}

/** The schemas that a value of the property can name. */
export interface Choice {
  /** Its own place. */
  readonly path: Path;
  readonly property: string;
  /** A reference by value; undefined for the schema itself. */
  readonly references: ReadonlyMap<string, string | undefined>;
  /** No other value is accepted. */
  readonly isClosed: boolean;
  /**
   * Its `oneOf` or `anyOf` has no other meaning than the selection: it leads back to the schema itself, or to objects
   * alone. Then these are the types of its values; else undefined.
   */
  readonly types: readonly string[] | undefined;
}

/** Discriminators by their places, which are left out for a value. */
export type LeftOut = ReadonlySet<string>;

const none: LeftOut = new Set();

/** Deeper nesting would make too many variants of a schema. */
const maxLeftOut = 8;

/** References in each other, until a schema says its type. */
const maxHops = 20;

/** The discriminators of one document. */
export class Discriminators {
  readonly #document: Node;
  readonly #reader: Discriminating;
  readonly #choices = new Map<string, Choice | undefined>();
  readonly #within = new Map<string, LeftOut>();
  #children: ReadonlyMap<string, readonly string[]> | undefined;

  constructor(document: Node, reader: Discriminating) {
    this.#document = document;
    this.#reader = reader;
  }

  /** What the discriminator of a schema, or that of what all its alternatives extend, selects; undefined without one. */
  choiceOf(schema: Node, path: Path): Choice | undefined {
    const isOwn = schema['discriminator'] !== undefined;
    if (!isOwn && schema['oneOf'] === undefined) return undefined;
    const key = path.join('/');
    if (!this.#choices.has(key))
      this.#choices.set(key, isOwn ? this.#read(schema, path) : this.#readInherited(schema, path));
    return this.#choices.get(key);
  }

  /**
   * The conditions that a discriminator adds to the `allOf` of its schema.
   * @param refer gives the converted reference for one in the document; undefined if it has no target.
   */
  conditions(
    { property, references, isClosed, types }: Choice,
    refer: (reference: string) => string | undefined,
  ): Node[] {
    const values = new Map<string, string[]>();
    for (const [value, reference] of references)
      if (reference !== undefined) values.set(reference, [...(values.get(reference) ?? []), value]);
    const selected = [...values].flatMap(([reference, names]): Node[] => {
      const $ref = refer(reference);
      const named = { type: 'object', required: [property], properties: { [property]: { enum: names } } };
      return $ref === undefined ? [] : [{ if: named, ['then' as string]: { $ref } }];
    });
    const known = isClosed ? { properties: { [property]: { enum: [...references.keys()] } } } : {};
    return [{ ...(types === undefined ? {} : { type: types }), required: [property], ...known }, ...selected];
  }

  /** The discriminators to leave out of the schemas that a discriminator selects. */
  leavingOut(leftOut: LeftOut, { path }: Choice): LeftOut {
    if (leftOut.size < maxLeftOut) return new Set([...leftOut, path.join('/')]);
    this.#reader.fail([...path, 'discriminator'], 'more than 8 discriminators are nested');
    return leftOut;
  }

  /** Those of `leftOut` that the schema at a place has, in itself or behind references, for the same value. */
  leftOutAt(leftOut: LeftOut, schema: unknown, path: Path): LeftOut {
    if (leftOut.size === 0) return none;
    const key = path.join('/');
    let within = this.#within.get(key);
    if (within === undefined) {
      const found = new Set<string>();
      const selected = (one: Node, at: Path) => this.choiceOf(one, at)?.references.values() ?? [];
      this.#walk(schema, path, selected, (one, at) => {
        if (one['discriminator'] !== undefined) found.add(at.join('/'));
      });
      within = found;
      this.#within.set(key, within);
    }
    return new Set([...leftOut].filter((one) => within.has(one)));
  }

  /** Visits a schema and all schemas for the same value: in it, behind its references, and `more` references. */
  #walk(
    schema: unknown,
    path: Path,
    more: (schema: Node, path: Path) => Iterable<string | undefined>,
    visit: (schema: Node, path: Path) => void,
  ): void {
    const seen = new Set<string>();
    const pending: [unknown, Path][] = [[schema, path]];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const [one, at] = next;
      if (!isNode(one) || seen.has(at.join('/'))) continue;
      seen.add(at.join('/'));
      visit(one, at);
      mapSubschemas(one, (sub, inside) => {
        if (!values.has(String(inside[0]))) pending.push([sub, [...at, ...inside]]);
      });
      for (const reference of [referenceOf(one), ...more(one, at)]) {
        const found = reference === undefined ? undefined : this.#reader.find(reference, [], true);
        if (found !== undefined) pending.push([found.value, found.path]);
      }
    }
  }

  #read(schema: Node, path: Path): Choice | undefined {
    const { discriminator } = schema;
    const at = [...path, 'discriminator'];
    const property = isNode(discriminator) ? discriminator['propertyName'] : undefined;
    if (!isNode(discriminator) || typeof property !== 'string')
      return this.#reader.fail(at, 'a discriminator needs propertyName');
    const alternatives = alternativesOf(schema);
    const component = componentOf(path);
    const own = alternatives ?? (component === undefined ? [] : this.#childrenOf(path, component));
    const implied = own.flatMap((one) => (typeof one === 'string' ? [[nameOf(one), one] as const] : []));
    const references = new Map<string, string | undefined>(implied);
    if (alternatives === undefined && component !== undefined) references.set(component, undefined);
    const { mapping } = discriminator;
    for (const [value, target] of Object.entries(isNode(mapping) ? mapping : {})) {
      const reference = this.#targetOf(String(target), [...at, 'mapping', value]);
      if (reference !== undefined) references.set(value, reference);
    }
    const hint = 'name them in its mapping, or give each a place in components.schemas that extends this one';
    if ([...references.values()].every((one) => one === undefined))
      return this.#reader.fail(at, `the discriminator '${property}' selects no schema: ${hint}`);
    const isClosed = own.every((one) => typeof one === 'string');
    const isCircular = alternatives?.some((one) => one !== undefined && this.#leadsBack(one, path)) ?? false;
    if (isCircular && !isClosed)
      return this.#reader.fail(at, 'each alternative must be a reference, since some of them extend this schema');
    const isSelection = isCircular || (isClosed && this.#areObjects(schema));
    return { path, property, references, isClosed, types: isSelection ? typesOf(schema) : undefined };
  }

  /** Of alternatives that extend one schema, which has the discriminator, as springdoc describes subtypes. */
  #readInherited(schema: Node, path: Path): Choice | undefined {
    const alternatives = alternativesOf(schema) ?? [];
    const places = new Set<string>();
    let parents: ReadonlyMap<string, Choice> | undefined;
    for (const reference of alternatives) {
      const found = reference === undefined ? undefined : this.#reader.find(reference, [], true);
      const component = found === undefined ? undefined : componentOf(found.path);
      if (found === undefined || component === undefined || this.#leadsBack(reference!, path)) return undefined;
      for (const one of [reference!, ...this.#childrenOf(found.path, component)]) places.add(this.#placeBehind(one));
      const own = this.#parentsOf(found.value);
      parents = parents === undefined ? own : new Map([...parents].filter(([place]) => own.has(place)));
    }
    const [parent] = parents?.values() ?? [];
    if (parent === undefined) return undefined;
    const isMeant = (reference: string | undefined): boolean =>
      reference !== undefined && places.has(this.#placeBehind(reference));
    const references = new Map([...parent.references].filter(([, reference]) => isMeant(reference)));
    return references.size === 0
      ? undefined
      : {
          ...{ path, property: parent.property, references, isClosed: true },
          types: this.#areObjects(schema) ? typesOf(schema) : undefined,
        };
  }

  /** True if the selected alternative alone decides. Each one would take its share of a message's budget. */
  #areObjects(schema: Node): boolean {
    if (schema['oneOf'] !== undefined && schema['anyOf'] !== undefined) return false;
    const alternatives = alternativesOf(schema) ?? [];
    return (
      alternatives.length > 0 && alternatives.every((one) => one !== undefined && this.#isObject({ $ref: one }, 0))
    );
  }

  #isObject(schema: unknown, hops: number): boolean {
    if (!isNode(schema) || hops > maxHops || schema['nullable'] === true) return false;
    const reference = referenceOf(schema);
    if (reference !== undefined) return this.#isObject(this.#reader.find(reference, [], true)?.value, hops + 1);
    const { type, allOf } = schema;
    return type === 'object' || (Array.isArray(allOf) && allOf.some((one) => this.#isObject(one, hops + 1)));
  }

  #placeBehind(reference: string): string {
    return this.#reader.find(reference, [], true)?.path.join('/') ?? '';
  }

  /** The schemas with a discriminator that one extends, by their places. */
  #parentsOf(schema: unknown): ReadonlyMap<string, Choice> {
    const found = new Map<string, Choice>();
    const seen = new Set<string>();
    const pending = [...extendedBy(schema)];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const parent = this.#reader.find(next, [], true);
      const place = parent?.path.join('/') ?? '';
      if (parent === undefined || !isNode(parent.value) || seen.has(place)) continue;
      seen.add(place);
      const choice = parent.value['discriminator'] === undefined ? undefined : this.choiceOf(parent.value, parent.path);
      if (choice !== undefined) found.set(place, choice);
      pending.push(...extendedBy(parent.value));
    }
    return found;
  }

  /** True if the schema behind a reference has the one at a place in it, for the same value. */
  #leadsBack(reference: string, path: Path): boolean {
    const found = this.#reader.find(reference, [], true);
    let isBack = false;
    if (found !== undefined)
      this.#walk(
        found.value,
        found.path,
        () => [],
        (_schema, at) => {
          isBack ||= at.join('/') === path.join('/');
        },
      );
    return isBack;
  }

  /** A mapping contains a name or a reference. */
  #targetOf(target: string, at: Path): string | undefined {
    const named = `#/components/schemas/${escaped(target)}`;
    if (this.#reader.find(named, at, true) !== undefined) return named;
    if (target.startsWith('#')) return this.#reader.find(target, at) === undefined ? undefined : target;
    return this.#reader.fail(at, `'${target}' is not a schema of this document`);
  }

  /** References to the schemas that extend the one at a place or the component around it, also through others. */
  #childrenOf(path: Path, component: string): readonly string[] {
    this.#children ??= this.#readChildren();
    const found = new Set<string>();
    const pending = [path.join('/'), placeOf(component)];
    for (let next = pending.pop(); next !== undefined; next = pending.pop())
      for (const name of this.#children.get(next) ?? []) {
        const reference = `#/components/schemas/${escaped(name)}`;
        if (found.has(reference) || name === component) continue;
        found.add(reference);
        pending.push(placeOf(name));
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

const placeOf = (component: string): string => `components/schemas/${component}`;

/** The component whose schema is at a place, or in the `allOf` of which it is. */
function componentOf([first, second, name, ...inside]: Path): string | undefined {
  if (first !== 'components' || second !== 'schemas' || name === undefined) return undefined;
  return inside.every((part) => part === 'allOf' || typeof part === 'number') ? String(name) : undefined;
}

/** The alternatives of a schema: references, and undefined for one without a name. `null` needs none. */
function alternativesOf(schema: Node): readonly (string | undefined)[] | undefined {
  const lists = ['oneOf', 'anyOf'].flatMap((key) => (Array.isArray(schema[key]) ? [schema[key] as unknown[]] : []));
  if (lists.length === 0) return undefined;
  return lists.flat().flatMap((one) => {
    if (!isNode(one)) return [undefined];
    if (one['type'] === 'null') return [];
    const reference = wrappedBy(one);
    return reference === undefined ? (alternativesOf(one) ?? [undefined]) : [reference];
  });
}

/** The reference that a schema consists of, also as the only one in its `allOf`, as OpenAPI 3.0 describes one. */
function wrappedBy(schema: Node): string | undefined {
  const { allOf, ...beside } = schema;
  const reference = referenceOf(schema);
  if (reference !== undefined) return reference;
  if (!Array.isArray(allOf) || allOf.length !== 1 || !isNode(allOf[0]) || !Object.keys(beside).every(isAnnotation))
    return undefined;
  return wrappedBy(allOf[0]);
}

/** Of a schema with alternatives that are objects. */
function typesOf({ nullable, type, oneOf, anyOf }: Node): readonly string[] {
  const others = [oneOf, anyOf].flatMap((one) => (Array.isArray(one) ? (one as unknown[]) : []));
  const isNullable =
    nullable === true || [type].flat().includes('null') || others.some((one) => isNode(one) && one['type'] === 'null');
  return isNullable ? ['object', 'null'] : ['object'];
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

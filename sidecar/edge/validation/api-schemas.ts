// The schemas of an OpenAPI document in JSON Schema 2020-12. Runs in the process that reads documents.
//
// Schemas refer to each other by their place in the document. Each place in use becomes an entry of `$defs`, so
// that cycles need no special case, and a schema that many operations use is compiled once.

import type { Choice, Discriminating, Discriminators, LeftOut } from './discriminator.ts';
import { isKnownFormat, type SchemaProblem } from './generate.ts';
import { isAnnotation, values } from './keywords.ts';
import { isNode, mapSubschemas, type Node } from './subschemas.ts';

type Path = SchemaProblem['path'];

/** The document that schemas are in. */
interface Api extends Discriminating {
  /** 3.0 has a dialect of its own. */
  readonly is30: boolean;
  readonly discriminators: Discriminators;
}

/** Keywords that change what references mean. */
const moving = ['$id', '$anchor', '$dynamicRef', '$dynamicAnchor', '$schema'] as const;

/** Keywords whose schemas describe what an app may disclose. */
const closed: ReadonlySet<string> = new Set([
  ...['properties', 'patternProperties', 'additionalProperties', 'items', 'prefixItems', 'unevaluatedItems'],
]);

const none: LeftOut = new Set();

/** The schemas of messages in one direction, as entries of `$defs`. */
export class Schemas {
  readonly defs: Record<string, unknown> = {};
  /** The document path of each. */
  readonly origins = new Map<string, Path>();
  readonly #of: 'request' | 'response';
  readonly #reader: Api;
  /** Names by the reference, and by the text of schemas without a name. */
  readonly #names = new Map<string, string>();
  readonly #pending: (() => void)[] = [];

  constructor(of: 'request' | 'response', reader: Api) {
    this.#of = of;
    this.#reader = reader;
  }

  /** The name of the entry for a schema. Equal schemas share it. */
  add(schema: unknown, path: Path): string {
    const converted = this.#close(this.#convert(schema, path), schema);
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) next();
    // Only a reference: the function of its target is used.
    if (isNode(converted) && typeof converted['$ref'] === 'string' && Object.keys(converted).length === 1)
      return converted['$ref'].slice('#/$defs/'.length);
    const text = JSON.stringify(converted);
    const known = this.#names.get(text);
    if (known !== undefined) return known;
    const name = this.#newName(text, path);
    this.defs[name] = converted;
    return name;
  }

  #newName(key: string, path: Path): string {
    const name = `${this.#of}${this.origins.size}`;
    this.#names.set(key, name);
    this.origins.set(name, path);
    return name;
  }

  #refer(reference: string, at: Path, leftOut: LeftOut): string | undefined {
    const found = this.#reader.find(reference, at);
    if (found === undefined) return undefined;
    const inside = this.#reader.discriminators.leftOutAt(leftOut, found.value, found.path);
    const key = [reference, ...[...inside].toSorted()].join(' ');
    const known = this.#names.get(key);
    if (known !== undefined) return known;
    // Converted later: it may contain itself, and chains of references are long.
    const name = this.#newName(key, found.path);
    this.#pending.push(() => {
      this.defs[name] = this.#convert(found.value, found.path, inside);
    });
    return name;
  }

  /**
   * In JSON Schema 2020-12, without keywords that have no effect. Paths inside stay the same.
   * @param around schemas that hold this one in an `allOf`
   */
  #convert(schema: unknown, path: Path, leftOut: LeftOut = none, around: readonly Node[] = []): unknown {
    if (!isNode(schema)) return schema;
    for (const keyword of moving)
      if (schema[keyword] !== undefined)
        this.#reader.fail([...path, keyword], `'${keyword}' is not followed in an OpenAPI document`);
    if (this.#reader.is30 && Array.isArray(schema['type']))
      this.#reader.fail([...path, 'type'], "OpenAPI 3.0 has one type, and 'nullable: true' for null");
    const { $ref } = schema;
    const name = typeof $ref === 'string' ? this.#refer($ref, [...path, '$ref'], leftOut) : undefined;
    const reference = name === undefined ? {} : { $ref: `#/$defs/${name}` };
    // OpenAPI 3.0: keywords beside a reference are ignored.
    if ($ref !== undefined && this.#reader.is30) return reference;
    const choice = this.#reader.discriminators.choiceOf(schema, path);
    const isKept = (key: string): boolean =>
      !isAnnotation(key) &&
      !['$ref', ...moving].includes(key) &&
      (choice?.types === undefined || !['oneOf', 'anyOf'].includes(key));
    const kept = Object.entries(schema).filter(([key]) => isKept(key));
    const plain = mapSubschemas(Object.fromEntries(kept), (sub, at) => {
      const isOfValue = !values.has(String(at[0]));
      const outer = at[0] === 'allOf' ? [schema, ...around] : [];
      const inside = this.#convert(sub, [...path, ...at], isOfValue ? leftOut : none, outer);
      return closed.has(String(at[0])) ? this.#close(inside, sub) : inside;
    });
    if (this.#reader.is30) asDraft2020(plain);
    this.#dropFormat(plain, path);
    this.#dropRequired(plain, schema, around);
    if (choice?.isClosed === true) asAnyOf(plain);
    if (choice !== undefined && !leftOut.has(path.join('/'))) this.#discriminate(plain, choice, leftOut);
    const converted = { ...reference, ...plain };
    return this.#reader.is30 && isNullable(schema) ? { if: { type: 'null' }, else: converted } : converted;
  }

  #discriminate(plain: Record<string, unknown>, choice: Choice, leftOut: LeftOut): void {
    const { discriminators } = this.#reader;
    const inside = discriminators.leavingOut(leftOut, choice);
    const conditions = discriminators.conditions(choice, (reference) => {
      const name = this.#refer(reference, [...choice.path, 'discriminator'], inside);
      return name === undefined ? undefined : `#/$defs/${name}`;
    });
    plain['allOf'] = [...((plain['allOf'] ?? []) as unknown[]), ...conditions];
  }

  /**
   * In responses, a field that a schema does not know is a violation: an app must not disclose more than its API
   * describes. A schema that describes no fields, or states which others are allowed, is left unchanged.
   */
  #close(converted: unknown, schema: unknown): unknown {
    if (this.#of === 'request' || !isNode(converted) || !this.#describes(schema, new Set())) return converted;
    return { ...converted, unevaluatedProperties: converted['unevaluatedProperties'] ?? false };
  }

  #describes(schema: unknown, seen: Set<unknown>): boolean {
    if (!isNode(schema) || seen.has(schema)) return false;
    seen.add(schema);
    if (isNode(schema['properties'])) return true;
    const { $ref } = schema;
    const found = typeof $ref === 'string' ? this.#reader.find($ref, [], true)?.value : undefined;
    const inPlace = ['allOf', 'anyOf', 'oneOf'].flatMap((key) =>
      Array.isArray(schema[key]) ? (schema[key] as unknown[]) : [],
    );
    return [found, ...inPlace].some((one) => this.#describes(one, seen));
  }

  /** OpenAPI: an unknown format has no effect beside its type. */
  #dropFormat(plain: Record<string, unknown>, path: Path): void {
    const { format } = plain;
    if (format === undefined || isKnownFormat(String(format))) return;
    this.#reader.warn([...path, 'format'], `the format '${String(format)}' is unknown, and not compared`);
    delete plain['format'];
  }

  /**
   * OpenAPI: a read-only property is required in responses only, and one that is write-only in requests.
   * @param around schemas that hold this one in an `allOf`: the property may be in another branch
   */
  #dropRequired(plain: Record<string, unknown>, schema: Node, around: readonly Node[]): void {
    const { required } = schema;
    if (!Array.isArray(required)) return;
    const seen = new Set<unknown>();
    const unwanted = new Set([schema, ...around].flatMap((one) => this.#unwantedIn(one, seen)));
    plain['required'] = required.filter((name: string) => !unwanted.has(name));
  }

  /** The properties that messages in this direction do not have, also in branches of `allOf` and behind references. */
  #unwantedIn(schema: unknown, seen: Set<unknown>): string[] {
    if (!isNode(schema) || seen.has(schema)) return [];
    seen.add(schema);
    const { properties, allOf, $ref } = schema;
    const keyword = this.#of === 'request' ? 'readOnly' : 'writeOnly';
    const own = Object.entries(isNode(properties) ? properties : {});
    const names = own.flatMap(([name, one]) => (isNode(one) && one[keyword] === true ? [name] : []));
    const found = typeof $ref === 'string' ? this.#reader.find($ref, [], true)?.value : undefined;
    const others = [found, ...(Array.isArray(allOf) ? (allOf as unknown[]) : [])];
    return [...names, ...others.flatMap((one) => this.#unwantedIn(one, seen))];
  }
}

/**
 * Where a discriminator selects, alternatives need not exclude each other: what extends one schema with optional fields
 * alone never does.
 */
function asAnyOf(plain: Record<string, unknown>): void {
  const { oneOf, allOf = [] } = plain;
  if (oneOf === undefined) return;
  delete plain['oneOf'];
  plain['allOf'] = [...(allOf as unknown[]), { anyOf: oneOf }];
}

/**
 * `nullable` beside references and without a type. By OpenAPI 3.0.3 it has no effect; NSwag and Swashbuckle describe
 * nullable properties so.
 */
function isNullable({ nullable, type, allOf, anyOf, oneOf }: Node): boolean {
  return nullable === true && type === undefined && (allOf ?? anyOf ?? oneOf) !== undefined;
}

/** OpenAPI 3.0's keywords as those of 2020-12. */
function asDraft2020(schema: Record<string, unknown>): void {
  const { type, nullable } = schema;
  if (nullable === true && typeof type === 'string') schema['type'] = [type, 'null'];
  delete schema['nullable'];
  for (const [limit, exclusive] of [
    ['minimum', 'exclusiveMinimum'],
    ['maximum', 'exclusiveMaximum'],
  ] as const) {
    if (typeof schema[exclusive] !== 'boolean') continue;
    if (schema[exclusive] === true && schema[limit] !== undefined) {
      schema[exclusive] = schema[limit];
      delete schema[limit];
    } else delete schema[exclusive];
  }
}

// Fields that a path or a query sets: text becomes JSON of the field's type, and the mapping of protobuf reads it.

import { type DescField, type DescMessage, type JsonValue, ScalarType } from '@bufbuild/protobuf';

/** A place in a message, from its outermost field. */
export type FieldPath = readonly DescField[];

/** The field with this path (`order.id`), by names or JSON names; undefined if there is none. */
export function fieldAt(message: DescMessage, path: string): FieldPath | undefined {
  const found: DescField[] = [];
  let within: DescMessage | undefined = message;
  for (const name of path.split('.')) {
    const field: DescField | undefined = within?.fields.find((one) => one.name === name || one.jsonName === name);
    if (field === undefined) return undefined;
    found.push(field);
    // These have their own JSON form, without fields.
    within = field.fieldKind === 'message' && !ownJson.test(field.message.typeName) ? field.message : undefined;
  }
  return found;
}

/** Well-known types whose JSON is a string. */
const strings: ReadonlySet<string> = new Set([
  ...['google.protobuf.Timestamp', 'google.protobuf.Duration', 'google.protobuf.FieldMask'],
]);

const ownJson = /^google\.protobuf\.(?:Any|Timestamp|Duration|FieldMask|Struct|\w*Value)$/;

const wrapper = /^google\.protobuf\.(?:Double|Float|U?Int64|U?Int32|Bool|String|Bytes)Value$/;

type ToJson = (text: string) => JsonValue;

/** Makes JSON of one text for a field; undefined if no single text can stand for it. */
export function textReader(field: DescField): ToJson | undefined {
  const { fieldKind } = field;
  if (fieldKind === 'scalar' || (fieldKind === 'list' && field.listKind === 'scalar'))
    return scalarReader(field.scalar);
  if (fieldKind === 'enum' || (fieldKind === 'list' && field.listKind === 'enum'))
    return (text) => (text.length < 12 && decimal.test(text) ? Number(text) : text);
  const message = fieldKind === 'map' ? undefined : field.message;
  if (message === undefined) return undefined;
  if (strings.has(message.typeName)) return (text) => text;
  const [value] = message.fields;
  return wrapper.test(message.typeName) && value?.fieldKind === 'scalar' ? scalarReader(value.scalar) : undefined;
}

const integers: ReadonlySet<ScalarType> = new Set([
  ...[ScalarType.INT32, ScalarType.INT64, ScalarType.UINT32, ScalarType.UINT64, ScalarType.FIXED32],
  ...[ScalarType.FIXED64, ScalarType.SFIXED32, ScalarType.SFIXED64, ScalarType.SINT32, ScalarType.SINT64],
]);

const decimal = /^(?:0|-?[1-9]\d*)$/;

/**
 * Numbers stay text: the JSON mapping reads it, and 64 bits keep all their digits. An integer has one spelling: a policy
 * for `/orders/16` must not be passed as `/orders/0x10`, which readers of 64 bits take.
 */
function scalarReader(type: ScalarType): ToJson {
  if (type === ScalarType.BOOL) return (text) => (text === 'true' ? true : text === 'false' ? false : text);
  if (!integers.has(type)) return (text) => text;
  // The mapping refuses `false`, and names the field.
  return (text) => decimal.test(text) && text;
}

/** A message as JSON, with only the fields that a path or a query sets. */
export interface Tree {
  [name: string]: JsonValue;
}

/** Sets one text at a place. False if a field that is not repeated has a value already. */
export function setText(into: Tree, path: FieldPath, value: JsonValue): boolean {
  let at = into;
  for (const { jsonName } of path.slice(0, -1)) {
    at[jsonName] ??= Object.create(null) as Tree;
    at = at[jsonName] as Tree;
  }
  const { jsonName, fieldKind } = path.at(-1)!;
  if (fieldKind === 'list') {
    at[jsonName] = [...((at[jsonName] as JsonValue[] | undefined) ?? []), value];
    return true;
  }
  if (Object.hasOwn(at, jsonName)) return false;
  at[jsonName] = value;
  return true;
}

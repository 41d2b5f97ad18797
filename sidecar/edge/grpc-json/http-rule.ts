// `google.api.http` of a method, read from the bytes of its options. The descriptor set's own definition of the option
// is ignored: it could be false.

import type { DescMethod } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';

/** The number of the extension in google/api/annotations.proto. */
const extensionNumber = 72_295_728;

/** One binding as written. */
export interface HttpRule {
  /** In capitals; `*` is any. */
  readonly method: string;
  /** The path template. */
  readonly path: string;
  readonly body: string;
  readonly responseBody: string;
  readonly more: readonly HttpRule[];
}

const verbs: Readonly<Record<number, string>> = { 2: 'GET', 3: 'PUT', 4: 'POST', 5: 'DELETE', 6: 'PATCH' };

/** The rule of a method; undefined without one. @throws Error if its bytes cannot be read. */
export function httpRuleOf({ proto }: DescMethod): HttpRule | undefined {
  const option = proto.options?.$unknown?.findLast(({ no }) => no === extensionNumber);
  return option === undefined ? undefined : readRule(new BinaryReader(option.data).bytes());
}

function readRule(bytes: Uint8Array): HttpRule {
  const reader = new BinaryReader(bytes);
  let [method, path, body, responseBody] = ['', '', '', ''];
  const more: HttpRule[] = [];
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (type !== WireType.LengthDelimited) reader.skip(type, field);
    else if (Object.hasOwn(verbs, field)) [method, path] = [verbs[field]!, reader.string()];
    else if (field === 7) body = reader.string();
    else if (field === 8) [method, path] = readCustom(reader.bytes());
    else if (field === 11) more.push(readRule(reader.bytes()));
    else if (field === 12) responseBody = reader.string();
    else reader.skip(type, field);
  }
  return { method, path, body, responseBody, more };
}

function readCustom(bytes: Uint8Array): [kind: string, path: string] {
  const reader = new BinaryReader(bytes);
  let [kind, path] = ['', ''];
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1 && type === WireType.LengthDelimited) kind = reader.string();
    else if (field === 2 && type === WireType.LengthDelimited) path = reader.string();
    else reader.skip(type, field);
  }
  return [kind.toUpperCase(), path];
}

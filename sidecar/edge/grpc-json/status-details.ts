// The details of a gRPC status. Apart from the status itself, since only this needs the library.

import { create, type FileRegistry, fromBinary, type JsonValue, toJson } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { AnySchema } from '@bufbuild/protobuf/wkt';

/** `details` of a `grpc-status-details-bin`, without those whose types the registry does not have. */
export function detailsIn(base64: string | undefined, registry: FileRegistry): JsonValue[] {
  if (base64 === undefined) return [];
  const found: JsonValue[] = [];
  try {
    const reader = new BinaryReader(Buffer.from(base64, 'base64'));
    while (reader.pos < reader.len) {
      const [field, type] = reader.tag();
      if (field !== 3 || type !== WireType.LengthDelimited) reader.skip(type, field);
      else found.push(...detailOf(reader.bytes(), registry));
    }
  } catch {
    // Details are optional: the status is sent without them.
  }
  return found;
}

function detailOf(bytes: Uint8Array, registry: FileRegistry): JsonValue[] {
  try {
    const any = fromBinary(AnySchema, bytes);
    return [toJson(AnySchema, create(AnySchema, any), { registry }) as JsonValue];
  } catch {
    return [];
  }
}

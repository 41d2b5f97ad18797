// google.rpc.Status, the HTTP status for a gRPC status (google/rpc/code.proto), and the reverse (gRPC's
// http-grpc-status-mapping).

import { create, type FileRegistry, fromBinary, type JsonValue, toJson } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { AnySchema } from '@bufbuild/protobuf/wkt';

const httpByCode: readonly number[] = [
  200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
];

/** The HTTP status for a gRPC status. */
export function httpStatusOf(code: number): number {
  return httpByCode[code] ?? 500;
}

const codeByHttp: Readonly<Record<number, number>> = {
  ...{ 400: 13, 401: 16, 403: 7, 404: 12 },
  ...{ 429: 14, 502: 14, 503: 14, 504: 14 },
};

/** The gRPC status for the HTTP status of a response that is not gRPC. */
export function codeOfHttp(status: number): number {
  return codeByHttp[status] ?? 2;
}

/** As JSON. */
export interface StatusJson {
  readonly code: number;
  readonly message: string;
  readonly details: readonly JsonValue[];
}

/** `grpc-message` without its escapes. Bytes that are not UTF-8 stay unchanged. */
export function unescapeMessage(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

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

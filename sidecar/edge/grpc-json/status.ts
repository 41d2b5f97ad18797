// google.rpc.Status, the HTTP status for a gRPC status (google/rpc/code.proto), and the reverse (gRPC's
// http-grpc-status-mapping).

import type { JsonValue } from '@bufbuild/protobuf';

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

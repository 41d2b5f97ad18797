// The media types of gRPC-Web (PROTOCOL-WEB of the gRPC project): the binary form, and base64 for clients that read text
// only.

/** How one call is written on the client's side. */
export interface Form {
  /** The request's body is base64. */
  readonly textRequest: boolean;
  /** The response's body is base64: as `Accept` asks, else as the request. */
  readonly textReply: boolean;
  /** The Content-Type for the backend. */
  readonly contentType: string;
}

const typePattern = /^application\/grpc-web(-text)?(\+[a-z0-9.-]+)?[ \t]*(?:;|$)/i;
const grpcPattern = /^application\/grpc(\+[a-z0-9.-]+)?[ \t]*(?:;|$)/i;

/** The form of a call with these fields; undefined if it is not gRPC-Web. */
export function formOf(contentType: string | undefined, accept: string | undefined): Form | undefined {
  const found = typePattern.exec(contentType ?? '');
  if (found === null) return undefined;
  const [, text, codec = ''] = found;
  const textRequest = text !== undefined;
  const asked = /application\/grpc-web(-text)?/i.exec(accept ?? '');
  return {
    textRequest,
    textReply: asked === null ? textRequest : asked[1] !== undefined,
    contentType: `application/grpc${codec.toLowerCase()}`,
  };
}

/** The Content-Type of the response for the backend's; undefined if the backend's is not gRPC. */
export function replyTypeOf(contentType: string | undefined, isText: boolean): string | undefined {
  const found = grpcPattern.exec(contentType ?? '');
  return found === null ? undefined : `application/grpc-web${isText ? '-text' : ''}${found[1] ?? '+proto'}`;
}

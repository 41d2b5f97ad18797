// Envoy's external authorization in both forms: the request's own head sent to an HTTP server, and the gRPC service
// `envoy.service.auth.v3.Authorization`. It encodes the check and decodes
// the result; who is asked, and when, is elsewhere.

import protobuf from 'protobufjs/light.js';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Asked, Party, Ruling } from '../exchange/authorizer.ts';
import { type Fields, fieldName, isEndToEnd } from '../exchange/message.ts';
import { compileStrings } from '../policy/match.ts';
import { framed, unframed } from './grpc.ts';
import { fieldsFor, type HttpAuthorizer } from './http-authorizer.ts';

/** The head for an HTTP authorizer: the caller's method and path, and the fields that it is configured to receive. */
export function httpQuestion(
  { method, path, authority, fields }: Asked,
  authorizer: HttpAuthorizer,
): { method: string; path: string; authority: string; fields: Fields } {
  const sent = [...fieldsFor(fields, authorizer), ...Object.entries(authorizer.includeAdditionalHeadersInCheck)];
  return {
    method,
    path: authorizer.pathPrefix + path,
    authority,
    fields: { names: sent.map(([name]) => fieldName(name)), values: sent.map(([, value]) => value) },
  };
}

/** 200 allows, 5xx is an error, anything else refuses with that response. @throws SallyportError `ext_authz_failed`. */
export function readHttpAnswer(
  { status, fields, body }: { readonly status: number; readonly fields: Fields; readonly body: Buffer },
  authorizer: HttpAuthorizer,
): Ruling {
  if (status >= 500) throw new SallyportError('ext_authz_failed', `the authorizer answered ${status}`);
  const allowed = status === 200;
  const pick = (names: readonly string[]): [string, string][] => {
    const wanted = matchNames(names);
    // A pattern selects only fields that can be passed on; a named field that cannot be is an error later.
    return fields.names.flatMap(({ lower, role }, i): [string, string][] =>
      wanted(lower) && (isEndToEnd(role) || names.includes(lower)) ? [[lower, fields.values[i]!]] : [],
    );
  };
  return {
    allowed,
    status,
    body: allowed ? Buffer.alloc(0) : body,
    replyFields: pick(
      // Envoy passes these on with every refusal.
      allowed
        ? authorizer.headersToDownstreamOnAllow
        : ['www-authenticate', 'location', 'set-cookie', 'content-type', ...authorizer.headersToDownstreamOnDeny],
    ),
    requestFields: allowed ? pick(authorizer.headersToUpstreamOnAllow) : [],
    removed: [],
  };
}

function matchNames(names: readonly string[]): (name: string) => boolean {
  return compileStrings(names, true);
}

// -- gRPC ------------------------------------------------------------------------------------------------------------

/** The path of the RPC that asks a gRPC authorizer. */
export const checkPath = '/envoy.service.auth.v3.Authorization/Check';

type Field = [type: string, id: number, rule?: 'repeated'];

const message = (fields: Record<string, Field>): object => ({
  fields: Object.fromEntries(
    Object.entries(fields).map(([name, [type, id, rule]]) => {
      const map = /^map<string,(\w+)>$/.exec(type)?.[1];
      return [name, map === undefined ? { type, id, ...(rule && { rule }) } : { keyType: 'string', type: map, id }];
    }),
  ),
});

// The parts of envoy/service/auth/v3 that are sent and understood; field numbers are the standard's.
const root = protobuf.Root.fromJSON({
  nested: {
    CheckRequest: message({ attributes: ['AttributeContext', 1] }),
    AttributeContext: message({
      source: ['Peer', 1],
      destination: ['Peer', 2],
      request: ['Request', 4],
      contextExtensions: ['map<string,string>', 10],
      tlsSession: ['TLSSession', 12],
    }),
    Peer: message({ address: ['Address', 1], principal: ['string', 4] }),
    Address: message({ socketAddress: ['SocketAddress', 1] }),
    SocketAddress: message({ address: ['string', 2], portValue: ['uint32', 3] }),
    Request: message({ time: ['Timestamp', 1], http: ['HttpRequest', 2] }),
    Timestamp: message({ seconds: ['int64', 1], nanos: ['int32', 2] }),
    HttpRequest: message({
      id: ['string', 1],
      method: ['string', 2],
      headers: ['map<string,string>', 3],
      path: ['string', 4],
      host: ['string', 5],
      scheme: ['string', 6],
      size: ['int64', 9],
      protocol: ['string', 10],
    }),
    TLSSession: message({ sni: ['string', 1] }),
    CheckResponse: message({ status: ['Status', 1], deniedResponse: ['Denied', 2], okResponse: ['Ok', 3] }),
    Status: message({ code: ['int32', 1], message: ['string', 2] }),
    Denied: message({ status: ['HttpStatus', 1], headers: ['HeaderOption', 2, 'repeated'], body: ['string', 3] }),
    HttpStatus: message({ code: ['int32', 1] }),
    Ok: message({
      headers: ['HeaderOption', 2, 'repeated'],
      headersToRemove: ['string', 5, 'repeated'],
      responseHeadersToAdd: ['HeaderOption', 6, 'repeated'],
      queryParametersToSet: ['QueryParameter', 7, 'repeated'],
      queryParametersToRemove: ['string', 8, 'repeated'],
    }),
    HeaderOption: message({ header: ['Header', 1] }),
    Header: message({ key: ['string', 1], value: ['string', 2], rawValue: ['bytes', 3] }),
    QueryParameter: message({ key: ['string', 1], value: ['string', 2] }),
  } as never,
});
const checkRequest = root.lookupType('CheckRequest');
const checkResponse = root.lookupType('CheckResponse');

/** The check request as a gRPC message, with its prefix. */
export function encodeCheck(asked: Asked): Buffer {
  const party = ({ address, port, principal }: Party): object => ({
    address: { socketAddress: { address, portValue: port } },
    principal,
  });
  const http = {
    id: asked.id,
    method: asked.method,
    headers: joinFields(asked),
    path: asked.path,
    host: asked.authority,
    scheme: 'http',
    size: -1,
    protocol: asked.protocol,
  };
  const bytes = checkRequest
    .encode(
      checkRequest.fromObject({
        attributes: {
          source: party(asked.source),
          destination: party(asked.destination),
          request: {
            time: { seconds: Math.floor(asked.time / 1000), nanos: (asked.time % 1000) * 1_000_000 },
            ...(asked.protocol === '' ? {} : { http }),
          },
          tlsSession: { sni: asked.sni },
        },
      }),
    )
    .finish();
  return framed(bytes);
}

/** Envoy's own form: pseudo fields included, several of one name joined by commas. */
function joinFields({ method, path, authority, fields }: Asked): Record<string, string> {
  const joined: Record<string, string> = { ':method': method, ':path': path, ':authority': authority };
  for (const [i, { lower }] of fields.names.entries()) {
    if (lower === 'host') continue;
    const known = joined[lower];
    joined[lower] = known === undefined ? fields.values[i]! : `${known},${fields.values[i]!}`;
  }
  return joined;
}

interface HeaderOption {
  readonly header?: { readonly key?: string; readonly value?: string; readonly rawValue?: Uint8Array };
}

interface CheckAnswer {
  readonly status?: { readonly code?: number };
  readonly deniedResponse?: {
    readonly status?: { readonly code?: number };
    readonly headers?: readonly HeaderOption[];
    readonly body?: string;
  };
  readonly okResponse?: {
    readonly headers?: readonly HeaderOption[];
    readonly headersToRemove?: readonly string[];
    readonly responseHeadersToAdd?: readonly HeaderOption[];
    readonly queryParametersToSet?: readonly unknown[];
    readonly queryParametersToRemove?: readonly string[];
  };
}

/**
 * Decodes a gRPC check response.
 * @throws SallyportError `ext_authz_failed` if it is none, or needs something unsupported.
 */
export function decodeCheck(body: Buffer): Ruling {
  const bytes = unframed(body);
  if (bytes === undefined)
    throw new SallyportError('ext_authz_failed', 'the authorizer did not answer with a single uncompressed message');
  let answer: CheckAnswer;
  try {
    answer = checkResponse.decode(bytes) as unknown as CheckAnswer;
  } catch {
    throw new SallyportError('ext_authz_failed', 'the authorizer did not answer with a CheckResponse');
  }
  const { status, deniedResponse: denied, okResponse: ok } = answer;
  const none = { replyFields: [], requestFields: [], removed: [] };
  if ((status?.code ?? 0) !== 0 || denied) {
    const code = denied?.status?.code ?? 0;
    return {
      ...none,
      allowed: false,
      status: code >= 100 && code <= 599 ? code : 403,
      body: Buffer.from(denied?.body ?? ''),
      replyFields: readOptions(denied?.headers),
    };
  }
  // The request was allowed on condition of a change that we would not make.
  if ((ok?.queryParametersToSet?.length ?? 0) + (ok?.queryParametersToRemove?.length ?? 0) > 0)
    throw new SallyportError(
      'ext_authz_failed',
      'the authorizer requires a change of the query, which is not supported',
    );
  return {
    ...none,
    allowed: true,
    status: 200,
    body: Buffer.alloc(0),
    replyFields: readOptions(ok?.responseHeadersToAdd),
    requestFields: readOptions(ok?.headers),
    removed: (ok?.headersToRemove ?? []).map((one) => one.toLowerCase()),
  };
}

function readOptions(options: readonly HeaderOption[] = []): [string, string][] {
  return options.map(({ header }) => {
    const raw = header?.rawValue;
    return [
      header?.key?.toLowerCase() ?? '',
      raw?.length ? Buffer.from(raw).toString('latin1') : (header?.value ?? ''),
    ];
  });
}

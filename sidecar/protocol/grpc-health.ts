// grpc.health.v1, the health service of gRPC servers (grpc/proto/health/v1): the request for one service, and the
// response.

import protobuf from 'protobufjs/light.js';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { framed, unframed } from './grpc.ts';

/** The path of the RPC. */
export const checkPath = '/grpc.health.v1.Health/Check';

const root = protobuf.Root.fromJSON({
  nested: {
    HealthCheckRequest: { fields: { service: { type: 'string', id: 1 } } },
    HealthCheckResponse: { fields: { status: { type: 'ServingStatus', id: 1 } } },
    ServingStatus: { values: { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } },
  },
});
const request = root.lookupType('HealthCheckRequest');
const response = root.lookupType('HealthCheckResponse');
const { valuesById } = root.lookupEnum('ServingStatus');

/** The request about `service`, '' being the server as a whole, as a gRPC message with its prefix. */
export function encodeHealth(service: string): Buffer {
  return framed(request.encode(request.fromObject({ service })).finish());
}

/** The name of the response's ServingStatus. @throws SallyportError `upstream_protocol` if it is no such response. */
export function decodeHealth(body: Buffer): string {
  const bytes = unframed(body);
  if (bytes === undefined)
    throw new SallyportError('upstream_protocol', 'grpc.health.v1 did not answer with a single message');
  try {
    const { status } = response.decode(bytes) as unknown as { readonly status: number };
    return valuesById[status] ?? `status ${status}`;
  } catch {
    throw new SallyportError('upstream_protocol', 'grpc.health.v1 did not answer with a HealthCheckResponse');
  }
}

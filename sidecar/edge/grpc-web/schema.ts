// `GRPCWeb`, a kind of our own. Envoy's filter of this name has no options either.

import { z } from 'zod';

export const grpcWebSchema = z.strictObject({});

/** Present where gRPC-Web is served. */
export type GrpcWebPlan = z.output<typeof grpcWebSchema>;

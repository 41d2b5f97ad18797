// Compresses responses with gzip or brotli, for clients that accept it. A rule's policy chooses the codings;
// gateway.yaml enables both.

import type { Service } from '../capability.ts';
import { Compression } from './compress.ts';
import type { CompressionPlan } from './schema.ts';

export const compression: Service<CompressionPlan, Compression> = {
  name: 'compression',
  guards: false,
  fields: [
    {
      kind: 'BackendTrafficPolicy',
      name: 'compression',
      schema: async () => (await import('./schema.ts')).policyCompression,
    },
    { kind: 'gateway.yaml', name: 'compression', schema: async () => (await import('./schema.ts')).gatewayCompression },
  ],
  share: () => new Compression(),
  shareDry: () => new Compression(),
  compile([planned], { shared }) {
    if (planned === undefined) return undefined;
    return { body: (exchange, reply, whole, fail) => shared.respond(exchange, reply, whole, planned.plan, fail) };
  },
};

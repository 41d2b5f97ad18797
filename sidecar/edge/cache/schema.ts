// HTTPCache (`sallyport.dev`), a document of our own: Gateway API defines no cache. Defaults are as cautious as the
// standard; anything that shares more must be configured.

import { z } from 'zod';
import { duration, millisecondsOf } from '../../schema/gateway-patterns.ts';
import { filled, lowerHeader } from '../../schema/policy-fields.ts';
import { quantity } from '../../schema/quantity.ts';

/** Not part of any key, except `x-forwarded-client-cert`, which is known from the connection. */
const laterHeaders: ReadonlySet<string> = new Set(['x-request-id', 'x-envoy-attempt-count', 'txn-token']);

export const httpCache = z.strictObject({
  /** The memory for the policy's responses, in all workers together. */
  memory: quantity.default(64 * 1024 * 1024),
  /** `Redis`: the Redis of gateway.yaml holds responses as well, for all gateways that use it. */
  store: z.enum(['Memory', 'Redis']).default('Memory'),
  /** The largest body that is stored. */
  maxEntry: quantity.default(1024 * 1024),
  /** Guesses the freshness of responses that state none (RFC 9111 section 4.2.2). */
  heuristicFreshness: z.boolean().default(false),
  /**
   * Shares responses to callers with an identity without the standard's permission (`public`, `s-maxage`,
   * `must-revalidate`): only for rules whose responses are the same for all callers.
   */
  unsafeShareIdentities: z.boolean().default(false),
  /** Headers that identify callers, beside the well-known ones (key.ts) and the gateway's own authentication. */
  identityHeaders: z.array(lowerHeader).max(16, 'at most 16 headers are allowed').default([]),
  /** Headers that are part of the key: apps that depend on one and do not name it in Vary. */
  keyHeaders: z
    .array(
      lowerHeader.refine((name) => !laterHeaders.has(name), 'the gateway sets this header later, for each request'),
    )
    .max(16, 'at most 16 headers are allowed')
    .default([]),
  /** `Ignore`: clients cannot force a new fetch with Cache-Control. */
  clientDirectives: z.enum(['Honor', 'Ignore']).default('Honor'),
  /** How long a stale response may replace an unreachable backend (RFC 9111 section 4.2.4). */
  staleWhenDisconnected: duration.default('1m').transform(millisecondsOf),
  /** The response header that lists tags, for purging. */
  tagHeader: lowerHeader.default('cache-tag'),
  /** Our name in Cache-Status (RFC 9211). */
  name: filled('a name')
    .regex(/^[A-Za-z][A-Za-z0-9_.-]{0,62}$/, 'letters, digits, dots and dashes')
    .default('sallyport'),
});

/** One cache. Times are milliseconds, sizes bytes; names of headers are in lower case. */
export type CachePlan = Readonly<z.output<typeof httpCache>>;

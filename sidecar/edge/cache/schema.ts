// HTTPCache (`sallyport.dev`), a document of our own: Gateway API defines no cache. Defaults are as cautious as the
// standard; anything that shares more must be configured.

import { z } from 'zod';
import { duration, millisecondsOf } from '../../schema/gateway-patterns.ts';
import { filled, lowerHeader } from '../../schema/policy-fields.ts';
import { quantity } from '../../schema/quantity.ts';

/** Not part of any key, except `x-forwarded-client-cert`, which is known from the connection. */
const laterHeaders: ReadonlySet<string> = new Set(['x-request-id', 'x-envoy-attempt-count', 'txn-token']);

export const httpCache = z
  .strictObject({
    memory: quantity
      .default(64 * 1024 * 1024)
      .describe("The memory for the policy's responses, in all workers together."),
    store: z
      .enum(['Memory', 'Redis'])
      .default('Memory')
      .describe('With `Redis`, the Redis of gateway.yaml holds responses as well, for all gateways that use it.'),
    maxEntry: quantity.default(1024 * 1024).describe('The largest body that is stored.'),
    heuristicFreshness: z
      .boolean()
      .default(false)
      .describe('Guesses the freshness of responses that state none (RFC 9111 section 4.2.2).'),
    unsafeShareIdentities: z
      .boolean()
      .default(false)
      .describe(
        "Shares responses to callers with an identity without the standard's permission (`public`, `s-maxage`, `must-revalidate`): only for rules whose responses are the same for all callers.",
      ),
    // Beside the well-known ones (key.ts).
    identityHeaders: z
      .array(lowerHeader)
      .max(16, 'at most 16 headers are allowed')
      .default([])
      .meta({
        description: "Headers that identify callers, beside the well-known ones and the gateway's own authentication.",
        example: ['x-tenant'],
      }),
    keyHeaders: z
      .array(
        lowerHeader.refine((name) => !laterHeaders.has(name), 'the gateway sets this header later, for each request'),
      )
      .max(16, 'at most 16 headers are allowed')
      .default([])
      .meta({
        description: 'Headers that are part of the key, for apps that depend on one and do not name it in Vary.',
        example: ['accept-language'],
      }),
    clientDirectives: z
      .enum(['Honor', 'Ignore'])
      .default('Honor')
      .describe('With `Ignore`, clients cannot force a new fetch with Cache-Control.'),
    staleWhenDisconnected: duration
      .default('1m')
      .transform(millisecondsOf)
      .describe('How long a stale response may replace an unreachable backend (RFC 9111 section 4.2.4).'),
    tagHeader: lowerHeader.default('cache-tag').describe('The response header that lists tags, for purging.'),
    name: filled('a name')
      .regex(/^[A-Za-z][A-Za-z0-9_.-]{0,62}$/, 'letters, digits, dots and dashes')
      .default('sallyport')
      .describe('Our name in Cache-Status (RFC 9211).'),
  })
  .describe('Stores responses by RFC 9111, and serves them again.');

/** One cache. Times are milliseconds, sizes bytes; names of headers are in lower case. */
export type CachePlan = Readonly<z.output<typeof httpCache>>;

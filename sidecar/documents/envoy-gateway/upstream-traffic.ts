// The parts of a BackendTrafficPolicy except its limits: how each is written, and its plain data for the process that
// serves. Times are milliseconds, sizes bytes. A missing field has Envoy Gateway's default if there is one, else it is
// absent.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import { headerName, notEvaluated } from '../../schema/gateway-patterns.ts';

/** Envoy's names of what can be retried. */
const retryTriggers = [
  ...(['5xx', 'gateway-error', 'reset', 'reset-before-request', 'connect-failure', 'retriable-4xx'] as const),
  ...(['refused-stream', 'retriable-status-codes'] as const),
  ...(['cancelled', 'deadline-exceeded', 'internal', 'resource-exhausted', 'unavailable'] as const),
] as const;

const status = z.number().int().min(100).max(599);
const uint32 = z.number().int().min(0).max(4_294_967_295);
const atLeastOne = uint32.min(1);

/** `retry` as written. */
const retry = z
  .strictObject({
    // The default is Envoy Gateway's. The maximum is ours.
    numRetries: z.number().int().min(0).max(100).default(2).describe('The most retries.'),
    retryOn: z
      .strictObject({
        triggers: z
          .array(z.enum(retryTriggers))
          .min(1)
          .optional()
          .describe(
            "Envoy's names of failures. Default, without `retryOn`: `connect-failure`, `refused-stream`, `unavailable`, `cancelled` and status 503.",
          ),
        httpStatusCodes: z
          .array(status)
          .min(1)
          .optional()
          .describe('Statuses that `retriable-status-codes` retries, for any method; 503 by default.'),
      })
      .optional()
      .describe('What is retried.'),
    perRetry: z
      .strictObject({
        timeout: durationSchema.optional().describe('How long a try may wait for the head of the response.'),
        backOff: z
          .strictObject({
            baseInterval: durationSchema
              .optional()
              .describe(
                'The wait before the first retry; 25ms by default. It doubles with each, and a random part of it is waited.',
              ),
            maxInterval: durationSchema.optional().describe('The longest wait; ten times `baseInterval` by default.'),
          })
          .superRefine(({ baseInterval, maxInterval }, context) => {
            if (maxInterval !== undefined && maxInterval < (baseInterval ?? defaultBackOffMs))
              context.addIssue({
                code: 'custom',
                path: ['maxInterval'],
                message: 'maxInterval is shorter than baseInterval',
              });
          })
          .optional()
          .describe('The wait before a retry.'),
      })
      .optional()
      .describe('About each try.'),
    numAttemptsPerPriority: notEvaluated('numAttemptsPerPriority'),
  })
  .superRefine(({ retryOn }, context) => {
    if (retryOn?.httpStatusCodes !== undefined && !retryOn.triggers?.includes('retriable-status-codes'))
      context.addIssue({
        code: 'custom',
        path: ['retryOn', 'httpStatusCodes'],
        message: "status codes need the trigger 'retriable-status-codes'",
      });
  });

/** `timeout` as written. */
const timeout = z.strictObject({
  // Without it `limits.connect` of gateway.yaml counts, 5 s by default. Envoy Gateway waits 10 s.
  tcp: z
    .strictObject({
      connectTimeout: durationSchema
        .optional()
        .describe('How long connecting may take, with TLS. Default: `limits.connect` of gateway.yaml.'),
    })
    .optional()
    .describe('About connections.'),
  http: z
    .strictObject({
      requestTimeout: durationSchema
        .optional()
        .describe('How long a request may take with all its tries, to the end of the response. 0s: no limit.'),
      connectionIdleTimeout: durationSchema.optional().describe('Idle time after which a connection is closed.'),
      maxConnectionDuration: notEvaluated('maxConnectionDuration'),
      maxStreamDuration: notEvaluated('maxStreamDuration'),
      streamIdleTimeout: notEvaluated('streamIdleTimeout'),
    })
    .optional()
    .describe('About requests.'),
});

const hashFields = { SourceIP: undefined, Header: 'header', Headers: 'headers', Cookie: 'cookie' } as const;

const consistentHash = z
  .strictObject({
    type: z
      .enum(Object.keys(hashFields) as [keyof typeof hashFields, ...(keyof typeof hashFields)[]])
      .describe('What is hashed.'),
    header: z
      .strictObject({ name: headerName.describe('The name of the header.') })
      .optional()
      .describe('The header, with type Header.'),
    headers: z
      .array(z.strictObject({ name: headerName.describe('The name of the header.') }))
      .min(1)
      .optional()
      .describe('The headers, with type Headers. Their values count together.'),
    cookie: z
      .strictObject({
        name: headerName.describe('The name of the cookie.'),
        ttl: durationSchema
          .optional()
          .describe('Makes the cookie for clients without one. It lasts this long; with 0s, until the browser ends.'),
        attributes: notEvaluated('attributes'),
      })
      .optional()
      .describe('The cookie, with type Cookie.'),
    // The size is fixed, at Envoy Gateway's default of 65537 (compile/gateway-pools.ts).
    tableSize: notEvaluated('tableSize'),
    queryParams: notEvaluated('queryParams'),
  })
  .superRefine((value, context) => {
    for (const [type, field] of Object.entries(hashFields)) {
      if (field === undefined) continue;
      if (value.type === type && value[field] === undefined)
        context.addIssue({ code: 'custom', message: `type ${type} needs '${field}'` });
      if (value.type !== type && value[field] !== undefined)
        context.addIssue({ code: 'custom', path: [field], message: `'${field}' is not for type ${value.type}` });
    }
  });

/** `loadBalancer` as written. */
const loadBalancer = z
  .strictObject({
    type: z.enum(['RoundRobin', 'LeastRequest', 'Random', 'ConsistentHash']).describe('How an endpoint is chosen.'),
    consistentHash: consistentHash
      .optional()
      .describe('Requests with the same value go to the same endpoint, with type ConsistentHash.'),
    slowStart: notEvaluated('slowStart'),
    zoneAware: notEvaluated('zoneAware'),
    endpointOverride: notEvaluated('endpointOverride'),
  })
  .superRefine(({ type, consistentHash: hash }, context) => {
    if (type === 'ConsistentHash' && hash === undefined)
      context.addIssue({ code: 'custom', message: "type ConsistentHash needs 'consistentHash'" });
    if (type !== 'ConsistentHash' && hash !== undefined)
      context.addIssue({
        code: 'custom',
        path: ['consistentHash'],
        message: `'consistentHash' is not for type ${type}`,
      });
  });

// Envoy Gateway's defaults: a policy with any of these fields has all four limits.
/** `circuitBreaker` as written. */
const circuitBreaker = z.strictObject({
  maxConnections: uint32.default(1024).describe('The most connections to the backend.'),
  maxPendingRequests: uint32.default(1024).describe('The most requests that wait for a connection.'),
  maxParallelRequests: uint32.default(1024).describe('The most requests in flight.'),
  maxParallelRetries: uint32.default(1024).describe('The most retries in flight.'),
  maxRequestsPerConnection: uint32.optional().describe('Requests after which a connection is replaced.'),
  perEndpoint: notEvaluated('perEndpoint'),
});

const active = z
  .strictObject({
    type: z
      .enum(['HTTP', 'TCP'], { error: () => 'this build makes HTTP and TCP checks only' })
      .describe('Whether a check is a request or a connection.'),
    http: z
      .strictObject({
        path: z
          .string()
          .min(1)
          .max(1024)
          .regex(/^\/[\x21-\x7e]*$/, 'a path begins with / and holds no spaces')
          .describe('The path of the request.'),
        // This default and the next are Envoy Gateway's.
        method: z
          .string()
          .regex(/^[A-Z]+$/, 'a method is written GET')
          .default('GET')
          .describe('The method of the request.'),
        expectedStatuses: z.array(status).min(1).default([200]).describe('Statuses that count as healthy.'),
        hostname: z
          .string()
          .min(1)
          .max(253)
          .optional()
          .describe('The host of the request. Default: the address of the endpoint.'),
        expectedResponse: notEvaluated('expectedResponse'),
        retriableStatuses: notEvaluated('retriableStatuses'),
      })
      .optional()
      .describe('The request, with type HTTP.'),
    tcp: z
      .strictObject({ send: notEvaluated('send'), receive: notEvaluated('receive') })
      .optional()
      .describe('Must be empty, with type TCP: connecting is the check.'),
    grpc: notEvaluated('grpc'),
    // The four defaults are Envoy Gateway's.
    interval: durationSchema.prefault('3s').describe('The time between two checks of an endpoint.'),
    timeout: durationSchema.prefault('1s').describe('How long a check may take.'),
    initialJitter: notEvaluated('initialJitter'),
    unhealthyThreshold: atLeastOne.default(3).describe('Failed checks in a row after which an endpoint is not used.'),
    healthyThreshold: atLeastOne.default(1).describe('Good checks in a row after which it is used again.'),
    overrides: notEvaluated('overrides'),
  })
  .superRefine(({ type, http, tcp, interval, timeout: wait }, context) => {
    if (type === 'HTTP' && http === undefined) context.addIssue({ code: 'custom', message: "type HTTP needs 'http'" });
    if (type === 'TCP' && http !== undefined)
      context.addIssue({ code: 'custom', path: ['http'], message: "'http' is not for type TCP" });
    if (type === 'HTTP' && tcp !== undefined)
      context.addIssue({ code: 'custom', path: ['tcp'], message: "'tcp' is not for type HTTP" });
    for (const [field, ms] of [
      ['interval', interval],
      ['timeout', wait],
    ] as const)
      if (ms === 0) context.addIssue({ code: 'custom', path: [field], message: `'${field}' must be longer than 0` });
  });

// Envoy Gateway's defaults. Istio's differ in the interval, which is 10 s.
const passive = z.strictObject({
  consecutive5XxErrors: uint32
    .default(5)
    .describe('Ejects an endpoint after that many responses 5xx in a row. 0: never.'),
  consecutiveGatewayErrors: uint32
    .default(0)
    .describe('Ejects an endpoint after that many responses 502, 503 or 504 in a row. 0: never.'),
  interval: durationSchema
    .refine((ms) => ms > 0, "'interval' must be longer than 0")
    .prefault('3s')
    .describe('How often endpoints whose ejection is over are put back.'),
  baseEjectionTime: durationSchema
    .refine((ms) => ms > 0, "'baseEjectionTime' must be longer than 0")
    .prefault('30s')
    .describe('How long an ejection lasts, times the number of ejections so far, up to five minutes.'),
  maxEjectionPercent: z
    .number()
    .int()
    .min(0)
    .max(100)
    .default(10)
    .describe('The largest share of endpoints that may be ejected. One may always be.'),
  splitExternalLocalOriginErrors: z
    .literal(false, 'this build counts errors together')
    .optional()
    .describe('Only `false` is served: failures to connect count as responses 503.'),
  consecutiveLocalOriginFailures: notEvaluated('consecutiveLocalOriginFailures'),
  failurePercentageThreshold: notEvaluated('failurePercentageThreshold'),
  alwaysEjectOneEndpoint: notEvaluated('alwaysEjectOneEndpoint'),
});

/** `healthCheck` as written. */
const healthCheck = z
  .strictObject({
    active: active.optional().describe('Checks that the gateway makes by itself.'),
    passive: passive.optional().describe('Ejects endpoints for their responses.'),
    // Envoy uses all endpoints once half of them are unhealthy. Here unusable ones get no requests, unless a
    // DestinationRule has `minHealthPercent`.
    panicThreshold: notEvaluated('panicThreshold'),
  })
  .refine((value) => value.active !== undefined || value.passive !== undefined, "needs 'active' or 'passive'");

type RetryTrigger = (typeof retryTriggers)[number];

/** Envoy Gateway's defaults, for a policy with an empty `retry`. */
const defaultTriggers = [
  'connect-failure',
  'refused-stream',
  'unavailable',
  'cancelled',
  'retriable-status-codes',
] as const;
/** Envoy's default. */
const defaultBackOffMs = 25;

function retryOf({ numRetries, retryOn, perRetry }: z.output<typeof retry>) {
  const { triggers = retryOn === undefined ? defaultTriggers : [], httpStatusCodes = [503] } = retryOn ?? {};
  const baseMs = perRetry?.backOff?.baseInterval ?? defaultBackOffMs;
  return {
    numRetries,
    triggers: triggers as readonly RetryTrigger[],
    // Of `retriable-status-codes`.
    statusCodes: triggers.includes('retriable-status-codes') ? httpStatusCodes : [],
    ...(perRetry?.timeout === undefined ? {} : { perTryTimeoutMs: perRetry.timeout }),
    ...(perRetry?.backOff === undefined
      ? {}
      : // Ten times is Envoy's default, too.
        { backOff: { baseMs, maxMs: perRetry.backOff.maxInterval ?? baseMs * 10 } }),
  };
}

function timeoutOf({ tcp, http }: z.output<typeof timeout>) {
  return withoutUndefined({
    connectMs: tcp?.connectTimeout,
    // For the whole response; 0: none.
    requestMs: http?.requestTimeout,
    connectionIdleMs: http?.connectionIdleTimeout,
  });
}

function loadBalancerOf({ type, consistentHash }: z.output<typeof loadBalancer>) {
  return withoutUndefined({ type, consistentHash: consistentHash && hashOf(consistentHash) });
}

/** One header and several are the same thing; names are in lower case. */
function hashOf({ type, header, headers, cookie }: z.output<typeof consistentHash>) {
  if (type === 'SourceIP') return { type } as const;
  if (type === 'Cookie') {
    const { name, ttl } = cookie!;
    return { type, name, ...(ttl === undefined ? {} : { ttlMs: ttl }) } as const;
  }
  return { type: 'Header', names: (headers ?? [header!]).map(({ name }) => name.toLowerCase()) } as const;
}

function healthCheckOf({ active: asked, passive: seen }: z.output<typeof healthCheck>) {
  return {
    ...(asked === undefined
      ? {}
      : {
          active: {
            type: asked.type,
            ...(asked.http === undefined ? {} : { http: withoutUndefined(asked.http) }),
            intervalMs: asked.interval,
            timeoutMs: asked.timeout,
            unhealthyThreshold: asked.unhealthyThreshold,
            healthyThreshold: asked.healthyThreshold,
          },
        }),
    ...(seen === undefined
      ? {}
      : {
          passive: {
            consecutive5xxErrors: seen.consecutive5XxErrors,
            // 0: they are not counted separately.
            consecutiveGatewayErrors: seen.consecutiveGatewayErrors,
            intervalMs: seen.interval,
            baseEjectionMs: seen.baseEjectionTime,
            maxEjectionPercent: seen.maxEjectionPercent,
          },
        }),
  };
}

type Defined<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined>;
};

/** Drops the keys of undefined values. */
function withoutUndefined<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as Defined<T>;
}

/** The fields about upstreams, as written. */
export const upstreamFields = {
  retry: retry.optional().describe('Which failed requests are sent again. `retry` of an HTTPRoute takes its place.'),
  timeout: timeout.optional().describe('How long connecting and requests may take.'),
  loadBalancer: loadBalancer
    .optional()
    .describe('How an endpoint is chosen. Default: of two at random, the one with fewer requests in flight.'),
  circuitBreaker: circuitBreaker
    .optional()
    .describe('Limits beyond which requests are refused. With any of them, all four with a default count.'),
  healthCheck: healthCheck.optional().describe('When an endpoint is left out.'),
};

/** The same fields as plain data. */
export function upstreamSettingsOf(said: z.output<z.ZodObject<typeof upstreamFields>>) {
  return withoutUndefined({
    retry: said.retry && retryOf(said.retry),
    timeout: said.timeout && timeoutOf(said.timeout),
    loadBalancer: said.loadBalancer && loadBalancerOf(said.loadBalancer),
    circuitBreaker: said.circuitBreaker && withoutUndefined(said.circuitBreaker),
    healthCheck: said.healthCheck && healthCheckOf(said.healthCheck),
  });
}

/** The fields about upstreams that a policy has. */
export type UpstreamSettings = ReturnType<typeof upstreamSettingsOf>;

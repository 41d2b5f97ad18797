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
    numRetries: z.number().int().min(0).max(100).default(2),
    retryOn: z
      .strictObject({
        triggers: z.array(z.enum(retryTriggers)).min(1).optional(),
        httpStatusCodes: z.array(status).min(1).optional(),
      })
      .optional(),
    perRetry: z
      .strictObject({
        timeout: durationSchema.optional(),
        backOff: z
          .strictObject({ baseInterval: durationSchema.optional(), maxInterval: durationSchema.optional() })
          .superRefine(({ baseInterval, maxInterval }, context) => {
            if (maxInterval !== undefined && maxInterval < (baseInterval ?? defaultBackOffMs))
              context.addIssue({
                code: 'custom',
                path: ['maxInterval'],
                message: 'maxInterval is shorter than baseInterval',
              });
          })
          .optional(),
      })
      .optional(),
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
  tcp: z.strictObject({ connectTimeout: durationSchema.optional() }).optional(),
  http: z
    .strictObject({
      requestTimeout: durationSchema.optional(),
      connectionIdleTimeout: durationSchema.optional(),
      maxConnectionDuration: notEvaluated('maxConnectionDuration'),
      maxStreamDuration: notEvaluated('maxStreamDuration'),
      streamIdleTimeout: notEvaluated('streamIdleTimeout'),
    })
    .optional(),
});

const hashFields = { SourceIP: undefined, Header: 'header', Headers: 'headers', Cookie: 'cookie' } as const;

const consistentHash = z
  .strictObject({
    type: z.enum(Object.keys(hashFields) as [keyof typeof hashFields, ...(keyof typeof hashFields)[]]),
    header: z.strictObject({ name: headerName }).optional(),
    headers: z
      .array(z.strictObject({ name: headerName }))
      .min(1)
      .optional(),
    cookie: z
      .strictObject({
        name: headerName,
        ttl: durationSchema.optional(),
        attributes: notEvaluated('attributes'),
      })
      .optional(),
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
    type: z.enum(['RoundRobin', 'LeastRequest', 'Random', 'ConsistentHash']),
    consistentHash: consistentHash.optional(),
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
  maxConnections: uint32.default(1024),
  maxPendingRequests: uint32.default(1024),
  maxParallelRequests: uint32.default(1024),
  maxParallelRetries: uint32.default(1024),
  maxRequestsPerConnection: uint32.optional(),
  perEndpoint: notEvaluated('perEndpoint'),
});

const active = z
  .strictObject({
    type: z.enum(['HTTP', 'TCP'], { error: () => 'this build makes HTTP and TCP checks only' }),
    http: z
      .strictObject({
        path: z
          .string()
          .min(1)
          .max(1024)
          .regex(/^\/[\x21-\x7e]*$/, 'a path begins with / and holds no spaces'),
        // This default and the next are Envoy Gateway's.
        method: z
          .string()
          .regex(/^[A-Z]+$/, 'a method is written GET')
          .default('GET'),
        expectedStatuses: z.array(status).min(1).default([200]),
        hostname: z.string().min(1).max(253).optional(),
        expectedResponse: notEvaluated('expectedResponse'),
        retriableStatuses: notEvaluated('retriableStatuses'),
      })
      .optional(),
    tcp: z.strictObject({ send: notEvaluated('send'), receive: notEvaluated('receive') }).optional(),
    grpc: notEvaluated('grpc'),
    // The four defaults are Envoy Gateway's.
    interval: durationSchema.default(3000),
    timeout: durationSchema.default(1000),
    initialJitter: notEvaluated('initialJitter'),
    unhealthyThreshold: atLeastOne.default(3),
    healthyThreshold: atLeastOne.default(1),
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
  consecutive5XxErrors: uint32.default(5),
  consecutiveGatewayErrors: uint32.default(0),
  interval: durationSchema.refine((ms) => ms > 0, "'interval' must be longer than 0").default(3000),
  baseEjectionTime: durationSchema.refine((ms) => ms > 0, "'baseEjectionTime' must be longer than 0").default(30_000),
  maxEjectionPercent: z.number().int().min(0).max(100).default(10),
  splitExternalLocalOriginErrors: z.literal(false, 'this build counts errors together').optional(),
  consecutiveLocalOriginFailures: notEvaluated('consecutiveLocalOriginFailures'),
  failurePercentageThreshold: notEvaluated('failurePercentageThreshold'),
  alwaysEjectOneEndpoint: notEvaluated('alwaysEjectOneEndpoint'),
});

/** `healthCheck` as written. */
const healthCheck = z
  .strictObject({
    active: active.optional(),
    passive: passive.optional(),
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
  retry: retry.optional(),
  timeout: timeout.optional(),
  loadBalancer: loadBalancer.optional(),
  circuitBreaker: circuitBreaker.optional(),
  healthCheck: healthCheck.optional(),
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

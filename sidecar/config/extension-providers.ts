// `extensionProviders` of sidecar.yaml: external authorizers, with the field names of Istio's `meshConfig`.

import { z } from 'zod';
import { isLoopback } from '../../cert-agent/base/address.ts';
import { durationSchema } from '../../cert-agent/base/yaml.ts';
import { isSafeField } from '../exchange/message.ts';
import type { AuthorizerPlan } from '../upstream/authorizer.ts';

/** One provider, checked. Its `service` need not exist: the compiler resolves it. */
export interface ProviderSettings extends AuthorizerPlan {
  /** The name of an upstream, or a loopback address. */
  readonly service: string;
  readonly port: number;
}

/** Istio's `meshConfig.extensionProviders`, the two forms of external authorization. */
const authorizerFields = {
  service: z
    .string()
    .min(1)
    .meta({ description: 'The name of an upstream, or a loopback address.', example: '127.0.0.1' }),
  port: z
    .number()
    .int()
    .min(1)
    .max(65_535)
    .meta({ description: 'The port of a loopback address, and of `Host`.', example: 9000 }),
  // Ours: the request waits for it. Istio waits 600s.
  timeout: durationSchema.prefault('5s').describe('How long a request waits for the authorizer.'),
  failOpen: z.boolean().default(false).meta({
    description: 'Must be false: without a response from the authorizer, requests are refused.',
    example: false,
  }),
  // Istio's default.
  statusOnError: z
    .string()
    .regex(/^[45]\d\d$/, 'a status is written as a string: "403"')
    .default('403')
    .describe('The status where the authorizer gives no valid response.'),
};
const names = z.array(z.string().min(1)).default([]);
/** One entry of `extensionProviders`: exactly one of the two forms. */
export const extensionProvider = z
  .strictObject({
    name: z.string().min(1).meta({ description: 'The name, for `provider` of a policy.', example: 'my-authorizer' }),
    envoyExtAuthzHttp: z
      .strictObject({
        ...authorizerFields,
        pathPrefix: z.string().startsWith('/').or(z.literal('')).default('').meta({
          description: "What precedes the request's path when the authorizer is asked.",
          example: '/check',
        }),
        includeRequestHeadersInCheck: names.meta({
          description: 'Headers of the request that the authorizer gets, besides Host, method, path and Authorization.',
          example: ['cookie'],
        }),
        includeAdditionalHeadersInCheck: z
          .record(z.string(), z.string())
          .default({})
          .superRefine((fields, context) => {
            for (const [field, value] of Object.entries(fields))
              if (!isSafeField(field, value))
                context.addIssue({
                  code: 'custom',
                  path: [field],
                  message: `'${field}' with this value cannot be sent`,
                });
          })
          .meta({
            description: 'Headers with fixed values for the authorizer.',
            example: { 'x-asked-by': 'orders' },
          }),
        headersToUpstreamOnAllow: names.meta({
          description: "Headers of the authorizer's response that the app gets. They replace those of the request.",
          example: ['x-user'],
        }),
        headersToDownstreamOnAllow: names.meta({
          description: "Headers of the authorizer's response that an allowed caller gets.",
          example: ['set-cookie'],
        }),
        headersToDownstreamOnDeny: names.meta({
          description:
            "Headers of the authorizer's response that a refused caller gets, besides WWW-Authenticate, Location, Set-Cookie and Content-Type.",
          example: ['x-reason'],
        }),
      })
      .describe('Asked with an HTTP request. 200 allows, 5xx is an error, and any other status refuses.')
      .optional(),
    envoyExtAuthzGrpc: z
      .strictObject(authorizerFields)
      .optional()
      .describe("Asked by Envoy's gRPC service `envoy.service.auth.v3.Authorization`."),
  })
  .superRefine((value, context) => {
    if ((value.envoyExtAuthzHttp === undefined) === (value.envoyExtAuthzGrpc === undefined))
      context.addIssue({ code: 'custom', message: "needs exactly one of 'envoyExtAuthzHttp' and 'envoyExtAuthzGrpc'" });
    for (const form of ['envoyExtAuthzHttp', 'envoyExtAuthzGrpc'] as const)
      if (value[form]?.failOpen)
        context.addIssue({
          code: 'custom',
          path: [form, 'failOpen'],
          message: 'without a response from the authorizer, requests are refused: it cannot fail open',
        });
  });

type Provider = z.output<typeof extensionProvider>;

/** Refuses duplicate names, and services that would receive requests in the clear. */
export function checkProviders(
  list: readonly Provider[],
  upstreams: Readonly<Record<string, unknown>>,
  at: (path: (string | number)[], message: string) => void,
): void {
  const providers = new Set<string>();
  for (const [index, one] of list.entries()) {
    const form = one.envoyExtAuthzHttp === undefined ? 'envoyExtAuthzGrpc' : 'envoyExtAuthzHttp';
    if (providers.has(one.name))
      at(['extensionProviders', index, 'name'], `two extension providers are named '${one.name}'`);
    providers.add(one.name);
    const service = one[form]?.service;
    if (service !== undefined && !Object.hasOwn(upstreams, service) && !isLoopback(service))
      at(
        ['extensionProviders', index, form, 'service'],
        `'${service}' is neither an upstream nor loopback: it would receive requests in the clear`,
      );
  }
}

/** How to ask a provider. */
export function readProvider({ name, envoyExtAuthzHttp, envoyExtAuthzGrpc }: Provider): ProviderSettings {
  const { service, port: of, timeout, statusOnError } = (envoyExtAuthzHttp ?? envoyExtAuthzGrpc)!;
  return Object.freeze({
    name,
    service,
    port: of,
    authority: `${service}:${of}`,
    timeoutMs: timeout,
    statusOnError: Number(statusOnError),
    http: envoyExtAuthzHttp,
  });
}

// The forms of limits: the rules of Envoy Gateway's BackendTrafficPolicy, and the filter RequestRateLimit that people
// write into an HTTPRoute. Both become the same plain rules.
//
// Our own fields beside Envoy Gateway's: `burst`, which the bucket holds on top of `requests`; in a clientSelector
// `jwtClaims`, `clientId` and `principal`; and Distinct for every attribute in a Local rule too.

import { z } from 'zod';
import type { Frozen } from '../../../cert-agent/base/live.ts';
import { isIpBlock } from '../../policy/ip.ts';
import { compileRegex } from '../../routing/regex.ts';
import { duration, headerName, millisecondsOf, notEvaluated } from '../../schema/gateway-patterns.ts';
import { optional } from '../../schema/policy-fields.ts';

type Ctx = z.RefinementCtx;

// Compared with a value, with an expression, or not at all: then each value has its own bucket.
const matchTypes = ['Exact', 'RegularExpression', 'Distinct'] as const;

function checkMatch(
  { type, value, invert = false }: { type: string; value?: string | undefined; invert?: boolean | undefined },
  context: Ctx,
): void {
  if (type === 'Distinct') {
    if (value !== undefined)
      context.addIssue({ code: 'custom', path: ['value'], message: 'Distinct means any value: leave it out' });
    if (invert) context.addIssue({ code: 'custom', path: ['invert'], message: 'Distinct cannot be inverted' });
  } else if (value === undefined) context.addIssue({ code: 'custom', message: `type ${type} needs a 'value'` });
  else if (type === 'RegularExpression') checkRegex(value, context);
}

function checkRegex(value: string, context: Ctx): void {
  try {
    compileRegex(value);
  } catch {
    context.addIssue({ code: 'custom', path: ['value'], message: `'${value}' is not a valid RE2 regular expression` });
  }
}

const namedTest = (name: z.ZodType<string>) =>
  z
    .strictObject({
      name: name.describe('The name.'),
      type: z
        .enum(matchTypes)
        .default('Exact')
        .describe('How the value is compared. With Distinct, each value has a count of its own.'),
      value: z.string().max(1024).optional().describe('The value, or the expression (RE2).'),
      invert: z.boolean().default(false).describe('Matches if the value does not.'),
    })
    .superRefine(checkMatch);

const claimTest = z
  .strictObject({
    name: z.string().min(1).max(256).describe('The name of the claim; dots lead into objects.'),
    type: z
      .enum(['Exact', 'Distinct'])
      .default('Exact')
      .describe('How the value is compared. With Distinct, each value has a count of its own.'),
    value: z.string().max(1024).optional().describe('The value. A list matches by any member.'),
  })
  .superRefine(checkMatch);

const valueTest = z
  .strictObject({
    type: z
      .enum(['Exact', 'Distinct'])
      .default('Exact')
      .describe('How the value is compared. With Distinct, each value has a count of its own.'),
    value: z.string().min(1).max(2048).optional().describe('The value.'),
  })
  .superRefine(checkMatch);

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'] as const;
const hasConditions = (value: object): boolean =>
  Object.values(value).some((one) => one !== undefined && (!Array.isArray(one) || one.length > 0));

const selector = z
  .strictObject({
    // Envoy Gateway's maximum, and for queryParams and jwtClaims the same.
    headers: z.array(namedTest(headerName)).max(16).optional().describe('Headers that must all match.'),
    methods: z
      .array(
        z.strictObject({
          value: z.enum(methods).describe('The method.'),
          invert: z.boolean().default(false).describe('Matches any other method.'),
        }),
      )
      .optional()
      .describe('Methods, of which one must match.'),
    path: z
      .strictObject({
        type: z
          .enum(['Exact', 'PathPrefix', 'RegularExpression'])
          .default('PathPrefix')
          .describe('How the path is compared. PathPrefix compares whole segments; RegularExpression is RE2.'),
        value: z.string().max(1024).default('/').describe('The path, or the expression.'),
        invert: z.boolean().default(false).describe('Matches any other path.'),
      })
      .superRefine(({ type, value }, context) => {
        if (type === 'RegularExpression') checkRegex(value, context);
        else if (!value.startsWith('/'))
          context.addIssue({ code: 'custom', path: ['value'], message: 'a path begins with /' });
      })
      .optional()
      .describe('The path.'),
    queryParams: z
      .array(namedTest(z.string().min(1).max(256)))
      .max(16)
      .optional()
      .describe('Query parameters that must all match.'),
    sourceCIDR: z
      .strictObject({
        type: z
          .enum(['Exact', 'Distinct'])
          .default('Exact')
          .describe('With Distinct, each address has a count of its own; for IPv6, each /64 network.'),
        value: z
          .string()
          .max(256)
          .refine(isIpBlock, { error: ({ input }) => `'${input}' is not an address or a block of addresses` })
          .describe('An address or a CIDR block.'),
      })
      .optional()
      .describe('The address of the client. An unknown address counts as in every block.'),
    jwtClaims: z.array(claimTest).max(16).optional().describe("Claims of the user's token that must all match."),
    clientId: valueTest.optional().describe("The client's name, from its API key, its password or its certificate."),
    principal: valueTest.optional().describe("The SPIFFE ID of the client's certificate."),
  })
  .refine(hasConditions, 'a selector without conditions selects everything: leave it out');

// Envoy Gateway's Month and Year are not served.
const units = { Second: 1000, Minute: 60_000, Hour: 3_600_000, Day: 86_400_000 } as const;
type Unit = keyof typeof units;
// Ours: Envoy Gateway sets no maximum.
const most = 1_000_000_000;
const count = (least: number) => z.number().int().min(least).max(most);

const rule = z
  .strictObject({
    /** Distinguishes the rules of two policies when they are merged. */
    name: z.string().min(1).max(253).optional().describe('The name of the rule, for merging with `mergeType`.'),
    // Envoy Gateway's maximum.
    clientSelectors: z
      .array(selector)
      .max(8, 'a rule has at most 8 selectors')
      .optional()
      .describe('Conditions that must all hold. Without any: all requests.'),
    limit: z
      .strictObject({
        requests: count(0).describe('Requests in each unit of time. 0: none pass.'),
        unit: z.enum(Object.keys(units) as [Unit, ...Unit[]]).describe('The unit of time.'),
        fromMetadata: notEvaluated('fromMetadata'),
      })
      .describe('How many requests pass.'),
    burst: count(0).default(0).describe('Requests that may pass at once on top of the limit, after a pause.'),
    cost: z
      .strictObject({
        request: z
          .strictObject({
            from: z
              .literal('Number', "only 'Number' is evaluated here")
              .describe('Where the number is from: it is written here.'),
            // 0, by which Envoy Gateway asks without counting, is not served.
            number: count(1).default(1).describe('How much one request counts.'),
            metadata: notEvaluated('metadata'),
          })
          .optional()
          .describe('What a request counts when it arrives.'),
        response: notEvaluated('cost.response'),
      })
      .optional()
      .describe('What a request counts.'),
    // Envoy Gateway's default: each route has its own count.
    shared: z
      .boolean()
      .default(false)
      .describe('Counts all routes of the policy together. Otherwise each route has a count of its own.'),
    shadowMode: notEvaluated('shadowMode'),
    xRateLimitHeaders: notEvaluated('xRateLimitHeaders'),
  })
  .superRefine(({ limit: { requests }, burst, cost }, context) => {
    checkBurst(requests, burst, context);
    const number = cost?.request?.number ?? 1;
    if (requests > 0 && number > requests + burst)
      context.addIssue({
        code: 'custom',
        path: ['cost', 'request', 'number'],
        message: `a request costs ${number}, but the bucket holds ${requests + burst}: none would ever pass`,
      });
  });

function checkBurst(requests: number, burst: number, context: Ctx): void {
  if (requests === 0 && burst > 0)
    context.addIssue({ code: 'custom', path: ['burst'], message: "'burst' needs requests > 0" });
}

const part = (rules: number) =>
  z.strictObject({
    rules: z
      .array(rule)
      .min(1)
      .max(rules, `there are at most ${rules} rules`)
      .describe('Limits. A request must be within each that applies to it.'),
  });

/** `spec.rateLimit`. Without `type`, which Envoy Gateway has deprecated, both parts may be present. */
export const rateLimit = z
  .strictObject({
    type: z.enum(['Local', 'Global']).optional().describe('The part that counts. Without it both may.'),
    // Both maxima are Envoy Gateway's.
    local: part(16).optional().describe('Limits that each gateway counts by itself.'),
    global: part(128).optional().describe('Limits that all gateways count together, in Redis.'),
  })
  .superRefine(({ type, local, global }, context) => {
    if (type === undefined && local === undefined && global === undefined)
      context.addIssue({ code: 'custom', message: "needs 'local' or 'global'" });
    for (const [wanted, field, value] of [
      ['Local', 'local', local],
      ['Global', 'global', global],
    ] as const) {
      if (type === wanted && value === undefined)
        context.addIssue({ code: 'custom', message: `type ${type} needs '${field}'` });
      if (type !== undefined && type !== wanted && value !== undefined)
        context.addIssue({ code: 'custom', path: [field], message: `'${field}' is not for type ${type}` });
    }
  })
  .transform(({ local, global }) => ({
    rules: [
      ...(local?.rules ?? []).map((one, index) => ruleOf(one, `local rule ${index + 1}`, 'local')),
      ...(global?.rules ?? []).map((one, index) => ruleOf(one, `global rule ${index + 1}`, 'shared')),
    ],
  }))
  .describe('Limits of requests in time; those beyond are refused with 429.');

/** The filter `RequestRateLimit`, as people write it: requests per period, in the form of GEP-2257. */
export const requestRateLimit = z
  .strictObject({
    rules: z
      .array(
        z.strictObject({
          limit: z.number().int().min(1).describe('Requests in each period.'),
          period: duration
            .refine((text) => millisecondsOf(text) > 0, 'a period must be longer than 0')
            .describe('The length of the period.'),
          burst: z
            .number()
            .int()
            .min(0)
            .optional()
            .describe('Requests that may pass at once on top of the limit, after a pause.'),
        }),
      )
      .min(1)
      .max(16)
      .describe('Limits. A request must be within each.'),
  })
  .describe('A limit of the rule, counted by this gateway.');

/** A limit from a route's own filter. */
export type FilterPlan = Readonly<z.output<typeof requestRateLimit>>;

/**
 * A token bucket: `requests` refill in each `periodMs`, one at a time, and it holds `requests + burst`. So in any span
 * of time t at most `requests + burst + requests * t / periodMs` pass. `of` is the `namespace/name` of the policy that
 * the rule was inherited from; absent for a policy's own.
 */
export type LimitRule = Frozen<ReturnType<typeof ruleOf>> & { readonly of?: string };
/** The rules of one policy: plain data from the process that reads documents. */
export type RateLimitPlan = { readonly rules: readonly LimitRule[] };
/** Conditions on a request; all that are present must match. */
export type LimitSelector = LimitRule['selectors'][number];
/** A condition on a named value: a header's name is in lower case, a claim's has dots. With Distinct, `value` is ''. */
export type NamedTest = Frozen<z.output<ReturnType<typeof namedTest>>> & { readonly value: string };
/** A condition on a value; the client's name is from an API key, a password or a certificate. */
export type ValueTest = NonNullable<LimitSelector['clientId']>;

function ruleOf(
  { limit, burst, cost, shared, clientSelectors = [] }: z.output<typeof rule>,
  id: string,
  scope: 'local' | 'shared',
) {
  return {
    /** Its name in logs, and its identity: the same in all gateways that share it. */
    id,
    /** Shared: counted in Redis, by all gateways together. */
    scope,
    selectors: clientSelectors.map(selectorOf),
    requests: limit.requests,
    periodMs: units[limit.unit] as number,
    burst,
    /** Tokens that one request takes. */
    cost: cost?.request?.number ?? 1,
    /** One bucket for all routes of the policy, instead of one for each. */
    acrossRoutes: shared,
  };
}

function selectorOf(one: z.output<typeof selector>) {
  const { headers = [], queryParams = [], jwtClaims = [], methods: verbs = [], path, sourceCIDR } = one;
  return {
    headers: headers.map((test) => ({ ...withValue(test), name: test.name.toLowerCase() })),
    queryParams: queryParams.map(withValue),
    jwtClaims: jwtClaims.map((test): NamedTest => ({ ...withValue(test), invert: false })),
    /** One of them must match. */
    methods: verbs,
    ...optional('path', path),
    ...optional('sourceCIDR', sourceCIDR),
    ...optional('clientId', one.clientId && withValue(one.clientId)),
    // The SPIFFE ID of the client's certificate.
    ...optional('principal', one.principal && withValue(one.principal)),
  };
}

const withValue = <T extends { readonly value?: string | undefined }>(test: T): T & { readonly value: string } => ({
  ...test,
  value: test.value ?? '',
});

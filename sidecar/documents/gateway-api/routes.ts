// HTTPRoute, GRPCRoute, TLSRoute and TCPRoute as written.

import { z } from 'zod';
import { schemasOf } from '../../edge/schemas.ts';
import {
  backendRefs,
  duration,
  headerName,
  hostname,
  millisecondsOf,
  named,
  parentRefs,
  sectionName,
} from '../../schema/gateway-patterns.ts';
import { grpcFilters, httpFilters, routeMethods } from './route-filters.ts';

const matchType = z.enum(['Exact', 'RegularExpression']).default('Exact');

// The standard's validation of exact paths and prefixes, with its default: every path. Regular expressions are checked
// by routing/unsupported.ts, which refuses the rule and not the document.
const path = z
  .strictObject({
    type: z.enum(['Exact', 'PathPrefix', 'RegularExpression']).default('PathPrefix'),
    value: z.string().max(1024).default('/'),
  })
  .superRefine(({ type, value }, context) => {
    if (type === 'RegularExpression') return;
    const wrong = !value.startsWith('/')
      ? "must begin with '/'"
      : /\/\/|\/\.\/|\/\.\.\/|%2f|#|\/\.\.?$/i.test(value)
        ? "must not contain '//', '/./', '/../', '%2f' or '#', nor end in '/.' or '/..'"
        : /^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$/.test(value)
          ? undefined
          : 'contains characters that no path may contain';
    if (wrong !== undefined)
      context.addIssue({ code: 'custom', path: ['value'], message: `'${value}': a path ${wrong}` });
  });

const headerMatches = z
  .array(z.strictObject({ type: matchType, name: headerName, value: z.string().min(1).max(4096) }))
  .max(16)
  .superRefine(named)
  .optional();

/** A match of an HTTPRoute. */
export const httpMatch = z.strictObject({
  path: path.optional(),
  headers: headerMatches,
  queryParams: z
    .array(z.strictObject({ type: matchType, name: headerName, value: z.string().min(1).max(1024) }))
    .max(16)
    .optional(),
  method: z.enum(routeMethods).optional(),
});

// GEP-1742. `request: 0s` is no limit, so any `backendRequest` is within it.
const timeouts = z
  .strictObject({ request: duration.optional(), backendRequest: duration.optional() })
  .refine(
    ({ request, backendRequest }) =>
      request === undefined ||
      backendRequest === undefined ||
      millisecondsOf(request) === 0 ||
      millisecondsOf(backendRequest) <= millisecondsOf(request),
    "'backendRequest' is longer than 'request'",
  );

/** The fields of a rule that capabilities of the edge serve. */
const capabilityFields = (await schemasOf('rule')) as Record<never, never>;

// GEP-1731, experimental. v1.6 requires codes that differ and at least one attempt; documents of earlier versions are
// read as they are.
const retry = z.strictObject({
  codes: z.array(z.number().int().min(400).max(599)).optional(),
  attempts: z.number().int().optional(),
  backoff: duration.optional(),
});

const httpRule = z
  .strictObject({
    name: sectionName.optional(),
    matches: z.array(httpMatch).max(64, 'a rule has at most 64 matches').optional(),
    filters: httpFilters,
    backendRefs: backendRefs({ filters: httpFilters }).optional(),
    timeouts: timeouts.optional(),
    retry: retry.optional(),
    ...capabilityFields,
  })
  .superRefine((rule, context) => {
    interface Filter {
      readonly type: string;
      readonly requestRedirect?: { readonly path?: { readonly type: string } };
      readonly urlRewrite?: { readonly path?: { readonly type: string } };
    }
    const filters = (rule.filters ?? []) as unknown as readonly Filter[];
    // Both rules are the standard's.
    if (filters.some(({ type }) => type === 'RequestRedirect') && (rule.backendRefs?.length ?? 0) > 0)
      context.addIssue({ code: 'custom', path: ['backendRefs'], message: 'a rule that redirects has no backends' });
    const replaces = filters.some(
      (one) => (one.requestRedirect ?? one.urlRewrite)?.path?.type === 'ReplacePrefixMatch',
    );
    const [only, second] = rule.matches ?? [{}];
    const onePrefix = second === undefined && (only?.path === undefined || only.path.type === 'PathPrefix');
    if (replaces && !onePrefix)
      context.addIssue({
        code: 'custom',
        path: ['filters'],
        message: 'ReplacePrefixMatch needs exactly one PathPrefix match',
      });
  });

const hostnames = z.array(hostname(true)).max(16, 'a route has at most 16 host names').optional();

/** Rule names must differ, and the matches of all rules together are limited. */
function checkRules(
  rules: readonly { readonly name?: string | undefined; readonly matches?: readonly unknown[] | undefined }[] = [],
  context: z.RefinementCtx,
): void {
  const names = rules.flatMap(({ name }) => name ?? []);
  if (new Set(names).size < names.length)
    context.addIssue({ code: 'custom', path: ['rules'], message: 'two rules have the same name' });
  // The standard's maximum, as the numbers of rules and of matches in one.
  if (rules.reduce((sum, { matches = [] }) => sum + matches.length, 0) > 128)
    context.addIssue({ code: 'custom', path: ['rules'], message: 'a route has at most 128 matches in all' });
}

/** The `spec` of an HTTPRoute. */
export const httpRoute = z
  .strictObject({
    parentRefs,
    hostnames,
    // v1.5 requires a rule. Before, the default was one for every path, and that is what a route without rules still
    // means here.
    rules: z.array(httpRule).max(16, 'a route has at most 16 rules').optional(),
  })
  .superRefine(({ rules }, context) => checkRules(rules, context));

const grpcMethod = z
  .strictObject({ type: matchType, service: z.string().max(1024).optional(), method: z.string().max(1024).optional() })
  .superRefine(({ type, service, method }, context) => {
    if (service === undefined && method === undefined)
      context.addIssue({ code: 'custom', message: "a method match names a 'service' or a 'method'" });
    if (type !== 'Exact') return;
    if (service !== undefined && !/^[A-Za-z0-9_.-]+$/.test(service))
      context.addIssue({ code: 'custom', path: ['service'], message: `'${service}' is not a service` });
    if (method !== undefined && !/^[A-Za-z0-9_]+$/.test(method))
      context.addIssue({ code: 'custom', path: ['method'], message: `'${method}' is not a method` });
  });

/** A match of a GRPCRoute. */
export const grpcMatch = z.strictObject({ method: grpcMethod.optional(), headers: headerMatches });

const grpcRule = z.strictObject({
  name: sectionName.optional(),
  matches: z.array(grpcMatch).max(64, 'a rule has at most 64 matches').optional(),
  filters: grpcFilters,
  backendRefs: backendRefs({ filters: grpcFilters }).optional(),
  ...capabilityFields,
});

/** The `spec` of a GRPCRoute. */
export const grpcRoute = z
  .strictObject({ parentRefs, hostnames, rules: z.array(grpcRule).max(16, 'a route has at most 16 rules').optional() })
  .superRefine(({ rules }, context) => checkRules(rules, context));

const streamRule = z.strictObject({ name: sectionName.optional(), backendRefs: backendRefs({}).min(1) });

// v1alpha3 and v1 require host names; v1alpha2 did not, and a route without any is for every host of its listener. More
// than one rule is read and refused with a condition (routing/unsupported.ts).
/** The `spec` of a TLSRoute. */
export const tlsRoute = z.strictObject({ parentRefs, hostnames, rules: z.array(streamRule).min(1).max(16) });
/** The `spec` of a TCPRoute. */
export const tcpRoute = z.strictObject({ parentRefs, rules: z.array(streamRule).min(1).max(16) });

// HTTPRoute, GRPCRoute, TLSRoute and TCPRoute as written.

import { z } from 'zod';
import { schemasOf } from '../../edge/schemas.ts';
import { grpcMatch, httpMatch, retry, timeouts } from '../../routing/schema.ts';
import { backendRefs, hostname, parentRefs, sectionName } from '../../schema/gateway-patterns.ts';
import { grpcFilters, httpFilters } from './route-filters.ts';

/** The fields of a rule that capabilities of the edge serve. */
const capabilityFields = (await schemasOf('rule')) as Record<never, never>;

const httpRule = z
  .strictObject({
    name: sectionName.optional().describe('The name of the rule, by which policies refer to it.'),
    matches: z
      .array(httpMatch)
      .max(64, 'a rule has at most 64 matches')
      .optional()
      .describe('Matches, of which one must hold. Without any: every request.'),
    filters: httpFilters,
    backendRefs: backendRefs({ filters: httpFilters })
      .optional()
      .describe('The backends, of which one is chosen by weight. Without any the response is 500.'),
    timeouts: timeouts.optional().describe('How long a request and each of its tries may take.'),
    retry: retry.optional().describe('Which failed requests are sent again.'),
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

const hostnames = z
  .array(hostname(true))
  .max(16, 'a route has at most 16 host names')
  .optional()
  .describe('The hosts of the route; the first label may be a star. Without any: those of the listener.');

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
    rules: z
      .array(httpRule)
      .max(16, 'a route has at most 16 rules')
      .optional()
      .describe('Rules. The most specific match counts, of any rule. Without rules: one for every path.'),
  })
  .superRefine(({ rules }, context) => checkRules(rules, context));

const grpcRule = z.strictObject({
  name: sectionName.optional().describe('The name of the rule, by which policies refer to it.'),
  matches: z
    .array(grpcMatch)
    .max(64, 'a rule has at most 64 matches')
    .optional()
    .describe('Matches, of which one must hold. Without any: every call.'),
  filters: grpcFilters,
  backendRefs: backendRefs({ filters: grpcFilters })
    .optional()
    .describe('The backends, of which one is chosen by weight. Without any the call fails.'),
  ...capabilityFields,
});

/** The `spec` of a GRPCRoute. */
export const grpcRoute = z
  .strictObject({
    parentRefs,
    hostnames,
    rules: z
      .array(grpcRule)
      .max(16, 'a route has at most 16 rules')
      .optional()
      .describe('Rules. The most specific match counts, of any rule.'),
  })
  .superRefine(({ rules }, context) => checkRules(rules, context));

const streamRule = z.strictObject({
  name: sectionName.optional().describe('The name of the rule, by which policies refer to it.'),
  backendRefs: backendRefs({}).min(1).describe('The backends, of which one is chosen by weight for each stream.'),
});

// v1alpha3 and v1 require host names; v1alpha2 did not, and a route without any is for every host of its listener. More
// than one rule is read and refused with a condition (routing/unsupported.ts).
/** The `spec` of a TLSRoute. */
export const tlsRoute = z.strictObject({
  parentRefs,
  // 16 before v1.5.
  hostnames: z
    .array(hostname(true))
    .max(1024, 'a TLSRoute has at most 1024 host names')
    .optional()
    .describe('Server names; the first label may be a star. Without any: those of the listener.'),
  rules: z
    .array(streamRule)
    .min(1)
    .max(16)
    .describe('The rule. More than one is not served: nothing in a stream selects one of several.'),
});
/** The `spec` of a TCPRoute. */
export const tcpRoute = z.strictObject({
  parentRefs,
  rules: z
    .array(streamRule)
    .min(1)
    .max(16)
    .describe('The rule. More than one is not served: nothing in a stream selects one of several.'),
});

// `csrf` of a SecurityPolicy, as in Envoy Gateway's current API. Its other field, the fraction of requests for a dry
// run, is refused.

import { z } from 'zod';
import { compileRegex } from '../../routing/regex.ts';
import { filled, refused } from '../../schema/policy-fields.ts';

const types = ['Exact', 'Prefix', 'Suffix', 'RegularExpression'] as const;

const origin = z
  .strictObject({
    type: z
      .enum(types, `an origin is compared by ${types.join(', ')}`)
      .default('Exact')
      .describe('How the origin is compared. A RegularExpression is RE2.'),
    value: filled('an origin').max(1024).describe('The origin as host or host:port, without a scheme.'),
  })
  .superRefine(({ type, value }, context) => {
    const issue = (message: string): void => context.addIssue({ code: 'custom', path: ['value'], message });
    // It would match no origin, and the page's requests would be refused.
    if (type !== 'RegularExpression' && /[/@]|[^:]:[^:]*:/.test(value))
      return issue(`'${value}': an origin is compared as host or host:port, without scheme and path`);
    if (type !== 'RegularExpression') return;
    try {
      compileRegex(value);
    } catch {
      issue(`'${value}' is not a valid RE2 regular expression`);
    }
  });

/** `csrf` of a SecurityPolicy. Without `additionalOrigins` only the request's own host is an origin. */
export const csrf = z
  .strictObject({
    /** In addition to the host of the request itself. */
    additionalOrigins: z
      .array(origin)
      .max(16, 'at most 16 origins are allowed')
      .default([])
      .describe('Origins that are allowed beside the host of the request itself.'),
    shadowFraction: refused('every request is checked: leave it out'),
  })
  .describe('Refuses requests that pages of other websites make a browser send: POST, PUT, PATCH and DELETE.');

/** Origins that may change something, beside the request's own. */
export type CsrfPlan = Readonly<z.output<typeof csrf>>;

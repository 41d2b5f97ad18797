// `apiKeyAuth` of a SecurityPolicy.

import { z } from 'zod';
import { cookieName, filled, lowerHeader, optional, ownHeader, secretRef } from '../../schema/policy-fields.ts';

const places = z
  .strictObject({
    headers: z.array(lowerHeader).min(1).optional(),
    params: z.array(filled('a parameter')).min(1).optional(),
    cookies: z.array(cookieName).min(1).optional(),
  })
  .superRefine((value, context) => {
    if (Object.values(value).filter((one) => one !== undefined).length !== 1)
      context.addIssue({ code: 'custom', message: "needs exactly one of 'headers', 'params' and 'cookies'" });
  })
  .transform(({ headers = [], params = [], cookies = [] }) => ({ headers, params, cookies }));

/** `apiKeyAuth` of a SecurityPolicy, read to its plan. */
export const apiKeyAuth = z
  .strictObject({
    // The maxima of both lists are ours: a request is compared with all of them.
    credentialRefs: z.array(secretRef).min(1, 'at least one Secret is needed').max(64),
    extractFrom: z.array(places).min(1, 'name at least one place of the key in a request').max(16),
    forwardClientIDHeader: ownHeader.optional(),
    // Envoy Gateway's default is false, and the app then reads and perhaps logs every caller's key.
    sanitize: z.boolean().default(true),
  })
  .transform(({ credentialRefs, forwardClientIDHeader, ...rest }) => ({
    ...rest,
    credentials: credentialRefs,
    ...optional('forwardClientIdHeader', forwardClientIDHeader),
  }));

/** Where keys are looked for. The keys themselves are in Secrets, read when the policy is compiled. */
export type ApiKeyPlan = Readonly<z.output<typeof apiKeyAuth>>;

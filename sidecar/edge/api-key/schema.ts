// `apiKeyAuth` of a SecurityPolicy.

import { z } from 'zod';
import { cookieName, filled, lowerHeader, optional, ownHeader, secretRef } from '../../schema/policy-fields.ts';

const places = z
  .strictObject({
    headers: z
      .array(lowerHeader)
      .min(1)
      .optional()
      .describe('Headers that hold the key. In `Authorization`, `Bearer` before it is cut off.'),
    params: z.array(filled('a parameter')).min(1).optional().describe('Query parameters that hold the key.'),
    cookies: z.array(cookieName).min(1).optional().describe('Cookies that hold the key.'),
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
    credentialRefs: z
      .array(secretRef)
      .min(1, 'at least one Secret is needed')
      .max(64)
      .describe('Secrets with one entry for each client: its ID, and its key or `sha256:` with the hash of it.'),
    extractFrom: z
      .array(places)
      .min(1, 'name at least one place of the key in a request')
      .max(16)
      .describe('Places of the key. A request with two different keys is refused.'),
    forwardClientIDHeader: ownHeader.optional().describe("A header for the app with the client's ID."),
    // Envoy Gateway's default is false, and the app then reads and perhaps logs every caller's key.
    sanitize: z
      .boolean()
      .default(true)
      .describe('Removes the key from the request to the app. Envoy Gateway leaves it by default.'),
  })
  .transform(({ credentialRefs, forwardClientIDHeader, ...rest }) => ({
    ...rest,
    credentials: credentialRefs,
    ...optional('forwardClientIdHeader', forwardClientIDHeader),
  }))
  .describe('Authenticates clients by API keys.');

/** Where keys are looked for. The keys themselves are in Secrets, read when the policy is compiled. */
export type ApiKeyPlan = Readonly<z.output<typeof apiKeyAuth>>;

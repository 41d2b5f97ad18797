// `basicAuth` of a SecurityPolicy.

import { z } from 'zod';
import { optional, ownHeader, secretRef } from '../../schema/policy-fields.ts';

/** `basicAuth` of a SecurityPolicy, read to its plan. */
export const basicAuth = z
  .strictObject({
    users: secretRef.describe('A Secret with an htpasswd file in its entry `.htpasswd`.'),
    forwardUsernameHeader: ownHeader.optional().describe("A header for the app with the user's name."),
    /** Ours, as with API keys. */
    sanitize: z.boolean().default(true).describe('Removes the password from the request to the app.'),
  })
  .transform(({ forwardUsernameHeader, ...rest }) => ({
    ...rest,
    ...optional('forwardUsernameHeader', forwardUsernameHeader),
  }))
  .describe('Authenticates users by passwords (RFC 7617).');

/** Which Secret has the htpasswd file; it is read when the policy is compiled. */
export type BasicPlan = Readonly<z.output<typeof basicAuth>>;

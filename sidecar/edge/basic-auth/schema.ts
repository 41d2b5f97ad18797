// `basicAuth` of a SecurityPolicy.

import { z } from 'zod';
import { optional, ownHeader, secretRef } from '../../schema/policy-fields.ts';

/** `basicAuth` of a SecurityPolicy, read to its plan. */
export const basicAuth = z
  .strictObject({
    users: secretRef,
    forwardUsernameHeader: ownHeader.optional(),
    /** Ours, as with API keys. */
    sanitize: z.boolean().default(true),
  })
  .transform(({ forwardUsernameHeader, ...rest }) => ({
    ...rest,
    ...optional('forwardUsernameHeader', forwardUsernameHeader),
  }));

/** Which Secret has the htpasswd file; it is read when the policy is compiled. */
export type BasicPlan = Readonly<z.output<typeof basicAuth>>;

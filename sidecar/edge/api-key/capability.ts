// Authenticates clients by API keys. Together with `basicAuth`, both must succeed, and the client ID is the user name.

import type { Guarding } from '../capability.ts';
import { type Credentials, hasSameCredential } from '../still-known.ts';
import { compileApiKeys, readApiKeys } from './api-key.ts';
import type { ApiKeyPlan } from './schema.ts';

export const apiKey: Guarding<ApiKeyPlan, undefined> = {
  name: 'api-key',
  guards: 'callers',
  perPolicy: true,
  fields: [
    { kind: 'SecurityPolicy', name: 'apiKeyAuth', schema: async () => (await import('./schema.ts')).apiKeyAuth },
  ],
  ownHeaders: ({ forwardClientIdHeader }) => (forwardClientIdHeader === undefined ? [] : [forwardClientIdHeader]),
  secretParams: ({ extractFrom }) => extractFrom.flatMap(({ params }) => params),
  compile([planned], { beside, secret, warn }) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    const keys = readApiKeys(plan.credentials.map(({ name }) => [name, secret(name, 'apiKeyAuth')] as const));
    for (const warning of keys.warnings) warn(warning);
    const goesByUser = beside('basicAuth').length > 0;
    const known: Credentials = new Map(
      goesByUser ? [] : [...keys.clients].map(([hash, client]) => [client, hash] as const),
    );
    return {
      authenticate: compileApiKeys(plan, keys),
      guard: {
        known,
        stillHolds: (exchange, before) =>
          goesByUser || hasSameCredential(exchange, known, before as Credentials | undefined),
      },
    };
  },
};
